"""Fixtures of the tests that ask the kernel."""

from __future__ import annotations

import pytest

from tests.kernel import requirements


@pytest.fixture
def kernel() -> None:
    """The kernel can be asked; otherwise the test is skipped, or fails with DATAPLANE_REQUIRE_REFEREE=1."""
    requirements.require()

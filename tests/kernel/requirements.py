"""What a test does where this machine's kernel cannot be asked: skip, or fail if somebody insists."""

from __future__ import annotations

import os
from typing import Final

import pytest

from dataplane.adapters.lab.requirements import missing

INSIST: Final = "DATAPLANE_REQUIRE_REFEREE"


def require() -> None:
    """Skip the test that asks for the kernel, with the reason; fail it where the environment insists."""
    reason = missing()
    if reason and os.environ.get(INSIST) == "1":
        pytest.fail(f"{INSIST}=1, but {reason}")
    if reason:
        pytest.skip(reason)

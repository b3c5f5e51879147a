"""``in_uml`` for tests: skipped where it cannot be had; with DATAPLANE_REQUIRE_REFEREE=1 it fails instead."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest

from dataplane.adapters.lab import uml
from dataplane.errors import LabError


def in_uml(script: str, *tools: str, **options: Any) -> str:
    """What a shell script prints in a user-mode-linux (``uml.in_uml``)."""
    needs_uml(*tools)
    try:
        return uml.in_uml(script, *tools, **options)
    except LabError as error:
        pytest.fail(str(error))


def needs_uml(*tools: str) -> None:
    """Ends the test where this machine cannot boot one."""
    reason = uml.boot_reason(*tools)
    if reason is not None:
        without_referee(reason)


def without_referee(reason: str) -> NoReturn:
    """Ends the test: skipped, or failed where every referee is required."""
    if os.environ.get("DATAPLANE_REQUIRE_REFEREE") == "1":
        pytest.fail(f"no referee: {reason}")
    pytest.skip(f"no referee: {reason}")

"""Runs the real commands in a network namespace of their own, for tests that hold the readers and printers to them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


def in_netns(script: str, *tools: str, stdin: str = "") -> str:
    """What a shell script prints in a fresh network namespace; the test is skipped where that cannot be had.

    With DATAPLANE_REQUIRE_REFEREE=1 it fails instead.
    """
    missing = [tool for tool in ("unshare", *tools) if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        _without(f"needs {', '.join(missing)}" if missing else "needs root")
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-ec", f"mount -t tmpfs none /run 2>/dev/null || true\n{script}"],
        input=stdin, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        _without(f"the commands failed here: {done.stderr.strip()[-500:]}")
    return done.stdout


def _without(reason: str) -> None:
    if os.environ.get("DATAPLANE_REQUIRE_REFEREE") == "1":
        pytest.fail(f"no referee: {reason}")
    pytest.skip(f"no referee: {reason}")


def sample(name: str) -> str:
    """A frozen text of a real command."""
    return (DATA / name).read_text(encoding="utf-8")

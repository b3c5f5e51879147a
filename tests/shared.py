"""The real-world material beside the project: goldens, dumps, manifests. Tests that need it skip, and say so, where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs {SHARED.name}/ beside the project (goldens and corpus)")


def cases(pattern: str) -> list[Path]:
    """Paths below shared/, sorted; empty where there is none."""
    return sorted(SHARED.glob(pattern))

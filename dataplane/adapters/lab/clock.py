"""Real time: the one clock that both the lab and whoever measures it read."""

from __future__ import annotations

import time


def now() -> float:
    """Seconds of a clock that only goes forward."""
    return time.monotonic()

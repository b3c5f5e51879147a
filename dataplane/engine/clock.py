"""Jiffies: the tick in which the kernel keeps the time of recent, limit and hashlimit.

A node's CONFIG_HZ is not part of a snapshot; 250 is that of Debian and of Ubuntu up to 24.04. It decides nothing but which
moments, less than 4 ms apart, count as one.
"""

from __future__ import annotations

from typing import Final

HZ: Final = 250


def jiffies(now: float) -> int:
    """The tick of a moment on the virtual clock (a moment meant to be on a tick is on it, whatever its binary fraction)."""
    return int(now * HZ + 1e-6)

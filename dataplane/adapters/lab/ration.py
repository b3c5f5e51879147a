"""The one parameter that lies outside a namespace: how many routing errors (IPv4) a source is told of.

ip_error() (net/ipv4/route.c) answers a packet to an unreachable or prohibited destination at most five times, then once a
second, whatever icmp_ratelimit says. The cost of an answer, net.ipv4.route.error_cost, is one number for the whole machine and
only visible in its first namespace. While a node stands it is 0; the last of several processes puts back what it was.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_COST: Final = Path("/proc/sys/net/ipv4/route/error_cost")
_KEPT: Final = Path(tempfile.gettempdir(), "referee-route-error-cost")


@contextmanager
def every_error_told() -> Iterator[bool]:
    """The body runs without the limit; yields False if it could not be lifted (then only the first few answers are seen)."""
    with _KEPT.open("a+") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        lifted = _lift()
        fcntl.flock(kept, fcntl.LOCK_SH)
        try:
            yield lifted
        finally:
            _restore_if_last(kept.fileno())


def _lift() -> bool:
    try:
        before = _COST.read_text().strip()
        if before != "0":
            _KEPT.write_text(before)
            _COST.write_text("0")
    except OSError:
        return False
    return True


def _restore_if_last(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else's node is still standing
        return
    before = _KEPT.read_text().strip()
    if before:
        _COST.write_text(before)

"""What every protocol tracker gives back, and what all of them ask first: is the packet whole, and what do the sysctls say?

A tracker decides three things about a packet of a connection: whether it is valid, how long the entry lives from now on, and
whether it becomes ASSURED. It changes its own tracking state only; the rest is for the table (engine/conntrack) to do.
Source: nf_conntrack_handle_packet and nf_ct_refresh_acct in net/netfilter/nf_conntrack_core.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from dataplane.engine.hooks import Hook

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

ACCEPT: Final = 0  # the packet belongs to the connection
INVALID: Final = 1  # it does not: no entry is attached to it
REPEAT: Final = 2  # remove the entry and track the packet anew, as if unseen
KILL: Final = 3  # the packet belongs to the connection, whose entry ends with it


class Result(NamedTuple):
    """What should happen to the packet and its entry.

    ``timeout`` is what the entry has left from now on, in seconds; None leaves it as it is. (A packet that is INVALID can
    shorten it, too.) ``reason`` is for people, "" when all is plain.
    """

    verdict: int
    timeout: float | None = None
    assured: bool = False
    reason: str = ""

    @property
    def counted(self) -> bool:
        """Whether the packet adds to the entry's counters; one that is let through without being believed does not."""
        return self.verdict == KILL or (self.verdict == ACCEPT and self.timeout is not None)


T = TypeVar("T")


def read_once(read: Callable[[Sysctls], T]) -> Callable[[Sysctls], T]:
    """Makes ``read``, which turns parameters into a tracker's settings, work once per Sysctls object (they are frozen)."""
    known: dict[int, tuple[Sysctls, T]] = {}  # holding the object keeps its id its own

    def settings(sysctls: Sysctls) -> T:
        found = known.get(id(sysctls))
        if found is None:
            if len(known) >= 64:
                known.clear()
            found = known[id(sysctls)] = (sysctls, read(sysctls))
        return found[1]

    return settings


verifies_checksums: Final = read_once(lambda sysctls: sysctls.int("net.netfilter.nf_conntrack_checksum") != 0)


def damage(skb: Skb, header: int, sysctls: Sysctls, hook: Hook) -> str | None:
    """What makes a packet unreadable: it ends inside its ``header`` bytes, or its checksum is wrong on the way in.

    A ``length`` of 0 is a packet whose length nobody has said.
    """
    if 0 < skb.length < header + (20 if skb.family == 4 else 40):
        return "truncated packet"
    if skb.bad_checksum and hook is Hook.PREROUTING and verifies_checksums(sysctls):
        return "bad checksum"
    return None

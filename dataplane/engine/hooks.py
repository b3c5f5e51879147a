"""Netfilter's vocabulary: hooks, priorities, verdicts, and the function that a table registers at a hook.

Everything that looks at a packet (defragmentation, conntrack, NAT, tables, IPVS) is a hook function in one
list ordered by priority, as in the kernel; nothing is "called from" anything else.
Source: include/uapi/linux/netfilter.h, netfilter_ipv4.h, netfilter_ipv6.h (priorities).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dataplane.trace import RuleRef

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.packet import Packet


class Hook(enum.IntEnum):
    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class Priority(enum.IntEnum):
    DEFRAG = -400
    RAW = -300
    CONNTRACK = -200
    MANGLE = -150
    NAT_DST = -100
    FILTER = 0
    SECURITY = 50
    NAT_SRC = 100
    CONNTRACK_CONFIRM = 2147483647


class HookState(NamedTuple):
    """Where a hook function is called: the hook, and the devices known there ("" where there is none)."""

    hook: Hook
    indev: str
    outdev: str


class Accept:
    """Go on with the next hook function."""


class Drop(NamedTuple):
    """The packet ends here. ``replies`` are what the node sends back (REJECT); ``by`` is the rule, where it was one."""

    reason: str
    by: RuleRef | None = None
    replies: tuple[Packet, ...] = ()


class Stolen(NamedTuple):
    """Taken over by something that is not modelled further (QUEUE, NFQUEUE, a helper): the packet's fate is unknown."""

    reason: str
    by: RuleRef | None = None


class Reinject(NamedTuple):
    """Taken over and sent on by the node itself: the packet, with the route it has by now, begins anew at ``hook`` (IPVS: OUTPUT)."""

    hook: Hook


Verdict = Accept | Drop | Stolen | Reinject
ACCEPT = Accept()

HookFunction = Callable[["Skb", HookState], Verdict]


class Unknown(Exception):
    """Raised by a match or target that is not modelled: the answer is *unknown, because of this rule*."""

    def __init__(self, reason: str, by: RuleRef | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.by = by

"""The trackers of protocols without states: UDP, UDP-Lite, ICMP, ICMPv6, GRE, and every other one ("generic").

A flow of these is a pair of tuples and a timeout; only GRE and the two UDPs can become ASSURED.
UDP: ``udp_timeout`` until there is an answer and two seconds have passed, then ``udp_timeout_stream`` and ASSURED (kernels of
the 5.x series made it ASSURED by the first packet after an answer). UDP-Lite does not wait; but 6.18 verifies its checksum as
if it were UDP's, so that a right one is INVALID on the way in, unless nf_conntrack_checksum is 0.
GRE: ``gre_timeout``, after an answer ``gre_timeout_stream`` and ASSURED.
ICMP: only requests begin a flow; an answer without one is INVALID, and so is every type that is no request, answer or error.
ICMPv6 messages by which neighbours, routers and listeners find each other are not tracked at all.
Generic: ``generic_timeout``. DCCP is generic (its tracker went with 6.17, and took the ports out of its tuples).
Source: nf_conntrack_proto_{udp,icmp,icmpv6,gre,generic}.c in net/netfilter of Linux 6.18, the referee in tests/kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.engine.conntrack_tracker import ACCEPT, INVALID, Result, damage, read_once, verifies_checksums
from dataplane.engine.hooks import Hook
from dataplane.inet import GRE, ICMP, ICMPV6, UDP, UDPLITE

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

#: Echo, timestamp, information, address mask; echo and node information.
ICMP_REQUESTS: Final = frozenset((8, 13, 15, 17))
ICMPV6_REQUESTS: Final = frozenset((128, 139))
#: Multicast listeners 130-132 and 143, router and neighbour discovery 133-136, multicast router discovery 151 and 152.
ICMPV6_UNTRACKED: Final = frozenset((130, 131, 132, 133, 134, 135, 136, 143, 151, 152))

_HIGHEST_ICMP: Final = 18
_STREAM_AFTER: Final = 2.0
_HEADERS: Final = {UDP: 8, UDPLITE: 8, ICMP: 8, ICMPV6: 8}


class OtherTracking:
    """``stream_at``: when a UDP flow with answers becomes a stream; one of unknown age is old enough."""

    __slots__ = ("stream_at",)

    def __init__(self, stream_at: float = float("-inf")) -> None:
        self.stream_at = stream_at

    def copy(self) -> OtherTracking:
        """An independent copy."""
        return OtherTracking(self.stream_at)


class OtherSettings(NamedTuple):
    """Timeouts in seconds."""

    udp: float
    udp_stream: float
    gre: float
    gre_stream: float
    icmp: float
    icmpv6: float
    generic: float


@read_once
def settings_of(sysctls: Sysctls) -> OtherSettings:
    """The parameters nf_conntrack_{udp,gre,icmp,icmpv6,generic}_timeout*."""

    def value(name: str) -> float:
        return float(sysctls.int(f"net.netfilter.nf_conntrack_{name}"))

    return OtherSettings(
        udp=value("udp_timeout"),
        udp_stream=value("udp_timeout_stream"),
        gre=value("gre_timeout"),
        gre_stream=value("gre_timeout_stream"),
        icmp=value("icmp_timeout"),
        icmpv6=value("icmpv6_timeout"),
        generic=value("generic_timeout"),
    )


def untracked_icmp(skb: Skb) -> bool:
    """Whether it is one of the ICMPv6 messages that are not tracked. A damaged one (``icmp_problem``) is INVALID instead."""
    return skb.protocol == ICMPV6 and skb.family == 6 and skb.icmp_type in ICMPV6_UNTRACKED


def icmp_problem(skb: Skb, sysctls: Sysctls, hook: Hook) -> str | None:
    """Why an ICMP packet of any type, errors too, is INVALID before anything else is asked of it."""
    if skb.family == 4 and skb.icmp_type > _HIGHEST_ICMP:
        return f"ICMP type {skb.icmp_type} is unknown"
    return damage(skb, _HEADERS[ICMP], sysctls, hook)


def start(skb: Skb, now: float) -> OtherTracking | str:
    """The tracking of a flow's first packet, or why it begins none. ``advance`` follows for the same packet."""
    if skb.protocol in (ICMP, ICMPV6):
        if not skb.is_icmp:
            return "ICMP of the other IP version"
        if skb.icmp_type not in (ICMP_REQUESTS if skb.family == 4 else ICMPV6_REQUESTS):
            return f"ICMP type {skb.icmp_type} does not begin a flow"
    return OtherTracking(now + _STREAM_AFTER)


def restore() -> OtherTracking:
    """The tracking of a flow known from ``conntrack -L``."""
    return OtherTracking()


def advance(
    tracking: OtherTracking, skb: Skb, seen_reply: bool, assured: bool, sysctls: Sysctls, now: float,
    hook: Hook = Hook.PREROUTING,
) -> Result:  # fmt: skip
    """What a packet does to its flow. ``seen_reply`` and ``assured`` are the flow's as of before the packet."""
    protocol = skb.protocol
    header = _HEADERS.get(protocol)
    if header is not None:
        problem = damage(skb, header, sysctls, hook)
        if problem is None and protocol == UDPLITE and hook is Hook.PREROUTING and verifies_checksums(sysctls):
            problem = "the kernel verifies UDP-Lite's checksum as if it were UDP's"
        if problem is not None:
            return Result(INVALID, reason=problem)
    settings = settings_of(sysctls)
    if protocol == UDP:
        stream = seen_reply and now > tracking.stream_at
        return Result(ACCEPT, settings.udp_stream if stream else settings.udp, stream and not assured)
    if protocol == UDPLITE:
        return Result(ACCEPT, settings.udp_stream if seen_reply else settings.udp, seen_reply and not assured)
    if protocol == GRE:
        return Result(ACCEPT, settings.gre_stream if seen_reply else settings.gre, seen_reply and not assured)
    return Result(ACCEPT, settings.icmp if protocol == ICMP else settings.icmpv6 if protocol == ICMPV6 else settings.generic)

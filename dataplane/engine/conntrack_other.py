"""The protocols without a state of their own: UDP, ICMP and everything else. Only timeouts, and which packets may begin a flow.

Source: nf_conntrack_proto_udp.c, nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c, nf_conntrack_proto_generic.c.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dataplane.engine.conntrack_tcp import ACCEPT, INVALID, Result
from dataplane.inet import DCCP, GRE, ICMP, ICMPV6, UDP, UDPLITE

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

_FIRST4: Final = frozenset((8, 13, 15, 17))
_FIRST6: Final = frozenset((128, 139))
#: Neighbour discovery and multicast listener messages: never tracked.
_UNTRACKED6: Final = frozenset((130, 131, 132, 133, 134, 135, 136, 143))
_STREAM_AFTER: Final = 2.0  # seconds of two-way traffic until a UDP flow counts as a stream


@dataclass(slots=True)
class OtherTracking:
    """``stream_at``: when a UDP flow with answers becomes a stream (long timeout, assured)."""

    stream_at: float = 0.0

    def copy(self) -> OtherTracking:
        """An independent copy."""
        return replace(self)


def untracked_icmp(skb: Skb) -> bool:
    """ICMPv6 messages that connection tracking leaves alone."""
    return skb.protocol == ICMPV6 and skb.family == 6 and skb.icmp_type in _UNTRACKED6


def start(skb: Skb, now: float) -> OtherTracking | str:
    """The tracking of a first packet, or why it begins nothing."""
    if skb.bad_checksum:
        return "bad checksum"
    if skb.is_icmp:
        first = _FIRST4 if skb.family == 4 else _FIRST6
        if skb.icmp_type not in first:
            return f"ICMP type {skb.icmp_type} does not begin a flow"
    if skb.protocol == DCCP:
        return OtherTracking()
    return OtherTracking(now + _STREAM_AFTER)


def advance(tracking: OtherTracking, skb: Skb, seen_reply: bool, assured: bool, sysctls: Sysctls, now: float) -> Result:
    """Refreshes the flow."""
    if skb.bad_checksum:
        return Result(INVALID, reason="bad checksum")
    protocol = skb.protocol
    prefix = "net.netfilter.nf_conntrack_"
    if protocol in (UDP, UDPLITE):
        if seen_reply and now > tracking.stream_at:
            return Result(ACCEPT, float(sysctls.int(prefix + "udp_timeout_stream")), not assured)
        return Result(ACCEPT, float(sysctls.int(prefix + "udp_timeout")))
    if protocol == GRE:
        name = "gre_timeout_stream" if seen_reply else "gre_timeout"
        return Result(ACCEPT, float(sysctls.int(prefix + name)), seen_reply and not assured)
    name = "icmp_timeout" if protocol == ICMP else "icmpv6_timeout" if protocol == ICMPV6 else "generic_timeout"
    return Result(ACCEPT, float(sysctls.int(prefix + name)))

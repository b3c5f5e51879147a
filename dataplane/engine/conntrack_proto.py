"""Which protocol tracker a packet belongs to: the one place where conntrack asks TCP, SCTP, or one of the simple ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataplane.engine import conntrack_other as other
from dataplane.engine import conntrack_sctp as sctp
from dataplane.engine import conntrack_tcp as tcp
from dataplane.engine.conntrack_other import icmp_problem, untracked_icmp
from dataplane.engine.conntrack_tracker import ACCEPT, KILL, REPEAT, Result
from dataplane.inet import SCTP, TCP

if TYPE_CHECKING:
    from dataplane.engine.hooks import Hook
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

Tracking = tcp.TcpTracking | sctp.SctpTracking | other.OtherTracking


def start(skb: Skb, sysctls: Sysctls, now: float) -> Tracking | str:
    """The tracking of a flow's first packet, or why it is INVALID."""
    if skb.protocol == TCP:
        return tcp.start(skb, sysctls)
    if skb.protocol == SCTP:
        return sctp.start(skb)
    return other.start(skb, now)


def advance(
    tracking: Tracking | None, skb: Skb, reply: bool, seen_reply: bool, assured: bool, sysctls: Sysctls, now: float, left: float, hook: Hook
) -> Result:
    """What a packet does to its flow, whose entry has ``left`` seconds."""
    if isinstance(tracking, tcp.TcpTracking):
        return tcp.advance(tracking, skb, reply, seen_reply, assured, sysctls, left, hook)
    if isinstance(tracking, sctp.SctpTracking):
        return sctp.advance(tracking, skb, reply, assured, sysctls, hook=hook)
    assert tracking is not None
    return other.advance(tracking, skb, seen_reply, assured, sysctls, now, hook=hook)


def close(tracking: Tracking | None, sysctls: Sysctls) -> float | None:
    """The flow ends by a RST of the node's own; its timeout from now on, None where nothing changes (nf_conntrack_set_closing)."""
    return tcp.close(tracking, sysctls) if isinstance(tracking, tcp.TcpTracking) else None


def restore(protocol: int, state: str | None) -> Tracking:
    """The tracking of a flow known from a listing."""
    if protocol == TCP:
        return tcp.restore(state)
    if protocol == SCTP:
        return sctp.restore(state)
    return other.OtherTracking()


__all__ = ["ACCEPT", "KILL", "REPEAT", "Result", "Tracking", "advance", "close", "icmp_problem", "restore", "start", "untracked_icmp"]

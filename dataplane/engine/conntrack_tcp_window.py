"""TCP windows as the middle of the road sees them: which segments fit, and what each side shows by sending one.

A side (TcpSide) is known by what it has sent (``end``), what it may send (``max_end``: the other side's acknowledgement plus
window), and the largest window it has offered. A segment fits if ("Real Stateful TCP Packet Filtering in IP Filter", van
Rooij):

    I    seq       <= sender.max_end                       it is not beyond what the receiver offered
    II   seq + len >= sender.end - receiver.max_window     it is not older than a window
    III  (s)ack    <= receiver.end                         it acknowledges only what was sent
    IV   (s)ack    >= receiver.end - max(66000, window)    its acknowledgement is not older than a window

Against I or III it is INVALID. Against II or IV it is ignored: let through, but nothing is learned. So is one that overshoots
I by no more than a window; then ``end`` moves along, so that the acknowledgement of these data will pass III.
Scale and SACK permission are learned from a side's SYN; scales count only if both SYNs have the option. For a side that is
LIBERAL no breach counts: both sides of a connection that is picked up in the middle, since their scales are unknown.
No states here: that is conntrack_tcp. Source: tcp_in_window, tcp_options, tcp_sack in net/netfilter/nf_conntrack_proto_tcp.c.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from dataplane.packet import ACK, RST, SYN

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.packet import TcpOptions

# What is known of a side (IP_CT_TCP_FLAG_*, with the values that ctnetlink shows).
SCALES: Final = 0x01  # sent the window scale option
SACKS: Final = 0x02  # understands SACK
BEGAN_CLOSING: Final = 0x04
LIBERAL: Final = 0x08
UNACKNOWLEDGED: Final = 0x10  # sent data that are not acknowledged yet
HAS_MAX_ACK: Final = 0x20

_MAX_SCALE: Final = 14
_MIN_ACK_WINDOW: Final = 66000
_M: Final = 0xFFFFFFFF


class Fit(enum.Enum):
    """How a segment lies in the window."""

    INSIDE = enum.auto()
    TOLERATED = enum.auto()  # let through and believed, but nothing was learned from it
    IGNORED = enum.auto()  # let through, not believed
    OUTSIDE = enum.auto()


class TcpSide:
    """What one end has shown: the kernel's td_end, td_maxend, td_maxwin (0: nothing seen yet), td_maxack, td_scale, flags."""

    __slots__ = ("end", "flags", "max_ack", "max_end", "max_window", "scale")

    def __init__(self, flags: int = 0) -> None:
        self.end = self.max_end = self.max_window = self.max_ack = self.scale = 0
        self.flags = flags

    def copy(self) -> TcpSide:
        """An independent copy."""
        other = TcpSide(self.flags)
        other.end, other.max_end, other.max_window = self.end, self.max_end, self.max_window
        other.max_ack, other.scale = self.max_ack, self.scale
        return other

    def begin(self, skb: Skb, end: int) -> None:
        """Learns from the side's SYN."""
        self.end = self.max_end = end
        self.max_window = skb.window or 1
        if skb.tcp_options is not None:
            self.learn_options(skb.tcp_options)

    def pick_up(self, skb: Skb, end: int) -> None:
        """Learns from a segment in the middle."""
        self.end = end
        self.max_window = (skb.window << self.scale) or 1
        self.max_end = (end + self.max_window) & _M

    def learn_options(self, options: TcpOptions) -> None:
        """The options of a SYN. One without any options leaves what was known."""
        self.scale = min(options.wscale or 0, _MAX_SCALE)
        self.flags &= LIBERAL
        if options.wscale is not None:
            self.flags |= SCALES
        if options.sack_permitted:
            self.flags |= SACKS

    def forget(self) -> None:
        """Starts over, but stays liberal."""
        self.end = self.max_end = self.max_window = self.max_ack = self.scale = 0
        self.flags &= LIBERAL


def before(one: int, other: int) -> bool:
    """Sequence numbers wrap around: half of them are before any other."""
    return (one - other) & _M > 0x7FFFFFFF


def end_of(skb: Skb) -> int:
    """The sequence number after the segment; SYN and FIN count as a byte each."""
    flags = skb.tcp_flags
    return (skb.seq + skb.payload + (flags >> 1 & 1) + (flags & 1)) & _M


def check(sides: tuple[TcpSide, TcpSide], skb: Skb, reply: bool, state: str, liberal: bool) -> tuple[Fit, str]:
    """How the segment fits in connection state ``state``, and why it does not; both sides learn from one that does."""
    sender, receiver = (sides[1], sides[0]) if reply else sides
    flags, seq, ack, end = skb.tcp_flags, skb.seq, skb.ack, end_of(skb)
    sack = _highest_sack(ack, skb.tcp_options.sack) if receiver.flags & SACKS and skb.tcp_options is not None else ack
    if (sender.max_window == 0 or flags & SYN) and _meet(sender, receiver, skb, reply, state, sack):
        return Fit.TOLERATED, ""
    if not flags & ACK or (flags & RST and ack == 0):
        ack = sack = receiver.end
    if flags & RST and seq == 0 and state == "SYN_SENT":
        seq = end = sender.end  # the answer to a SYN
    breach = _breach(sender, receiver, seq, end, sack)
    if breach is None:
        _learn(sender, receiver, skb, ack, sack, end)
        return Fit.INSIDE, ""
    return (Fit.TOLERATED, "") if sender.flags & LIBERAL or liberal else breach


def _meet(sender: TcpSide, receiver: TcpSide, skb: Skb, reply: bool, state: str, sack: int) -> bool:
    """A side's first segment, or a SYN that starts over. True when both sides open at the same time: nothing else to check."""
    syn, end = skb.tcp_flags & SYN, end_of(skb)
    if sender.max_window == 0 and not syn:
        sender.pick_up(skb, end)
        if receiver.max_window == 0:
            receiver.end = receiver.max_end = sack
        elif sack == (receiver.end + 1) & _M:
            receiver.end = sack  # most likely the answer to a keepalive
        return False
    starts_over = sender.max_window != 0
    if starts_over and not (before(sender.end, end) and state in ("SYN_SENT", "SYN_RECV")):
        return False
    sender.begin(skb, end)
    if reply and not sender.flags & receiver.flags & SCALES:
        sender.scale = receiver.scale = 0  # RFC 7323: both must offer it
    return not skb.tcp_flags & ACK and (reply or not starts_over)


def _breach(sender: TcpSide, receiver: TcpSide, seq: int, end: int, sack: int) -> tuple[Fit, str] | None:
    """The rule that the segment breaks, if any."""
    floor = receiver.end - max(sender.max_window, _MIN_ACK_WINDOW)
    recent = not before(end, sender.end - receiver.max_window)
    if before(sender.max_end, seq):
        over = (end - sender.max_end + 1) & _M
        if recent and not before(sack, floor) and not before(receiver.end, sack) and over <= receiver.max_window:
            sender.end = end
            sender.flags |= UNACKNOWLEDGED
            return Fit.IGNORED, f"out of window: {over} bytes more than the receiver offered, ignored"
        return Fit.OUTSIDE, f"out of window: seq {seq} is above {sender.max_end}, which the receiver offered"
    if before(receiver.end, sack):
        return Fit.OUTSIDE, f"out of window: ack {sack} is above {receiver.end}, which was sent"
    if receiver.max_window and not recent:
        return Fit.IGNORED, f"out of window: data up to {end} have been acknowledged before, ignored"
    if before(sack, floor):
        return Fit.IGNORED, f"out of window: ack {sack} is overly delayed, ignored"
    return None


def _learn(sender: TcpSide, receiver: TcpSide, skb: Skb, ack: int, sack: int, end: int) -> None:
    flags = skb.tcp_flags
    window = skb.window if flags & SYN else skb.window << sender.scale
    sender.max_window = max(sender.max_window, window + sack - ack & _M)
    if before(sender.end, end):
        sender.end = end
        sender.flags |= UNACKNOWLEDGED
    if flags & ACK and (not sender.flags & HAS_MAX_ACK or before(sender.max_ack, ack)):
        sender.max_ack = ack
        sender.flags |= HAS_MAX_ACK
    if receiver.max_window and before(sender.max_end, end):
        receiver.max_window = (receiver.max_window + end - sender.max_end) & _M
    offered = sack + window & _M
    if not before(offered, receiver.max_end):
        receiver.max_end = offered if window else offered + 1 & _M
    if ack == receiver.end:
        receiver.flags &= ~UNACKNOWLEDGED


def _highest_sack(ack: int, blocks: tuple[tuple[int, int], ...]) -> int:
    """The right edge of the highest block, or the acknowledgement where that is higher."""
    for _, right in blocks:
        if before(ack, right):
            ack = right
    return ack

"""TCP's connection tracker: a state machine that watches both sides from the middle.

The machine (STATES, TRANSITIONS) is driven by the strongest flag of a segment: RST, then SYN, FIN, ACK. It sees segments on
their way, not what becomes of them, so it moves on what was *sent*. Where a segment may be valid or not (a SYN in an old
connection, say), it is ignored: let through without being believed, and remembered. What comes back then tells who was right.
A SYN-ACK that acknowledges the ignored SYN: both ends have a new connection, and the tracker joins them. A RST: the old
connection is dead. An ACK in LAST_ACK: only a challenge ACK (RFC 5961), not the last one.

What the machine allows must also lie in the window (conntrack_tcp_window). A SYN finds a connection that was closed in good
order, or by a RST from its own side: then the table forgets the old one (REPEAT). A first segment that is an ACK, not a SYN,
is picked up as a connection whose beginning was not seen (nf_conntrack_tcp_loose).

A RST is INVALID below the highest acknowledgement of its receiver. It closes an assured connection only with exactly that
number, or at the end of a train of segments; otherwise the state stays, so that a challenge ACK may follow, but for CLOSE's
time only.

Timeouts go by state, but long ones give way: after nf_conntrack_tcp_max_retrans copies of one ACK, while sent data are not
acknowledged, while the window is 0, and as long as a connection that was picked up has no answer. A SYN that is repeated
before there was an answer renews nothing. A RST before any answer takes the entry away at once.

Not modelled: sequence numbers that helpers and SYNPROXY change, timeout policies (-j CT --timeout).
Older kernels: up to 6.0 the segments that are ignored for II, IV or overshooting (see conntrack_tcp_window) were INVALID; up
to 5.0 a RST needed no exact number; the table of 4.20 refused a reply's SYN in TIME_WAIT and ignored an original SYN-ACK.
Source: nf_conntrack_tcp_packet in net/netfilter/nf_conntrack_proto_tcp.c, Linux 6.18, the referee in tests/kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.engine import conntrack_tcp_window as window
from dataplane.engine.conntrack_tcp_window import (
    BEGAN_CLOSING,
    HAS_MAX_ACK,
    LIBERAL,
    SACKS,
    UNACKNOWLEDGED,
    Fit,
    TcpSide,
    before,
    end_of,
)
from dataplane.engine.conntrack_tracker import ACCEPT, INVALID, KILL, REPEAT, Result, damage, read_once
from dataplane.engine.hooks import Hook
from dataplane.packet import ACK, FIN, RST, SYN, URG, flag_letters

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

STATES: Final = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
)  # fmt: skip

IGNORE: Final = "ignore"
REFUSE: Final = "refuse"

#: What a segment does to a connection, by direction and deciding flag: "old states > new state". The first row that names a
#: state counts; a star names them all.
TRANSITIONS: Final[tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]] = (
    {
        "SYN": ("NONE SYN_SENT TIME_WAIT CLOSE > SYN_SENT", "SYN_SENT2 > SYN_SENT2", "* > ignore"),
        "SYN+ACK": ("SYN_RECV SYN_SENT2 > SYN_RECV", "* > refuse"),
        "FIN": (
            "NONE SYN_SENT SYN_SENT2 > refuse", "SYN_RECV ESTABLISHED > FIN_WAIT", "FIN_WAIT CLOSE_WAIT LAST_ACK > LAST_ACK",
            "TIME_WAIT > TIME_WAIT", "CLOSE > CLOSE",
        ),
        "ACK": (
            "SYN_SENT SYN_SENT2 > refuse", "NONE SYN_RECV ESTABLISHED > ESTABLISHED", "FIN_WAIT CLOSE_WAIT > CLOSE_WAIT",
            "LAST_ACK TIME_WAIT > TIME_WAIT", "CLOSE > CLOSE",
        ),
        "RST": ("NONE > refuse", "* > CLOSE"),
        "none": ("* > refuse",),
    },
    {
        "SYN": ("SYN_SENT SYN_SENT2 > SYN_SENT2", "TIME_WAIT > SYN_SENT", "* > refuse"),
        "SYN+ACK": ("NONE > refuse", "SYN_SENT SYN_SENT2 > SYN_RECV", "* > ignore"),
        "FIN": (
            "NONE SYN_SENT SYN_SENT2 > refuse", "SYN_RECV ESTABLISHED > FIN_WAIT", "FIN_WAIT CLOSE_WAIT LAST_ACK > LAST_ACK",
            "TIME_WAIT > TIME_WAIT", "CLOSE > CLOSE",
        ),
        "ACK": (
            "NONE > refuse", "SYN_SENT SYN_SENT2 > ignore", "SYN_RECV > SYN_RECV", "ESTABLISHED > ESTABLISHED",
            "FIN_WAIT CLOSE_WAIT > CLOSE_WAIT", "LAST_ACK TIME_WAIT > TIME_WAIT", "CLOSE > CLOSE",
        ),
        "RST": ("NONE > refuse", "* > CLOSE"),
        "none": ("* > refuse",),
    },
)  # fmt: skip

#: Every other combination of these flags (with PSH, ECE, CWR at will) is refused.
VALID_FLAGS: Final = frozenset((SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG))

# What is known of the last SYN that was ignored, beside a side's flags.
_CHALLENGE_EXPECTED: Final = 0x40
_SIMULTANEOUS_OPEN: Final = 0x80

_CLOSING: Final = frozenset(("FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"))
_SYN_SENT2_TIMEOUT: Final = 120.0  # has no sysctl
_SHORT: Final = 120.0  # less than this is not shortened further
_HEADER: Final = 20


class TcpTracking:
    """One connection's state, its sides (original, reply), and the last segment that mattered (kernel: struct ip_ct_tcp)."""

    __slots__ = (
        "last_ack", "last_end", "last_flags", "last_kind", "last_reply", "last_scale", "last_seq", "last_window", "repeats",
        "sides", "state",
    )  # fmt: skip

    def __init__(self, state: str, original: TcpSide, reply: TcpSide) -> None:
        self.state = state
        self.sides = (original, reply)
        self.last_kind = "none"
        self.last_reply = False
        self.last_seq = self.last_ack = self.last_end = self.last_window = self.last_flags = self.last_scale = 0
        self.repeats = 0  # how often the last ACK came again

    def copy(self) -> TcpTracking:
        """An independent copy."""
        other = TcpTracking(self.state, self.sides[0].copy(), self.sides[1].copy())
        for name in TcpTracking.__slots__:
            if name != "sides":
                setattr(other, name, getattr(self, name))
        return other


class TcpSettings(NamedTuple):
    """The parameters of one namespace (kernel: struct nf_tcp_net). Timeouts in seconds."""

    timeouts: Mapping[str, float]
    loose: bool
    liberal: bool
    ignore_invalid_rst: bool
    max_retrans: int
    max_retrans_timeout: float
    unacknowledged_timeout: float


@read_once
def settings_of(sysctls: Sysctls) -> TcpSettings:
    """The parameters nf_conntrack_tcp_*."""

    def value(name: str) -> int:
        return sysctls.int(f"net.netfilter.nf_conntrack_tcp_{name}")

    timed = [state for state in STATES if state not in ("NONE", "SYN_SENT2")]
    timeouts = {state: float(value(f"timeout_{state.lower()}")) for state in timed}
    return TcpSettings(
        timeouts=timeouts | {"SYN_SENT2": _SYN_SENT2_TIMEOUT},
        loose=value("loose") != 0,
        liberal=value("be_liberal") != 0,
        ignore_invalid_rst=value("ignore_invalid_rst") != 0,
        max_retrans=value("max_retrans"),
        max_retrans_timeout=float(value("timeout_max_retrans")),
        unacknowledged_timeout=float(value("timeout_unacknowledged")),
    )


def start(skb: Skb, sysctls: Sysctls) -> TcpTracking | str:
    """The tracking of a connection's first segment, or why it cannot be one. ``advance`` follows for the same segment."""
    first = _NEXT[0][_KINDS[skb.tcp_flags & 0x3F]]["NONE"]
    if first == REFUSE:
        return f"no connection begins with {_letters(skb)}"
    if first == "SYN_SENT":
        tracking = TcpTracking("NONE", TcpSide(), TcpSide())
        tracking.sides[0].begin(skb, end_of(skb))
        return tracking
    if not settings_of(sysctls).loose:
        return "an ACK of a connection whose beginning was not seen (nf_conntrack_tcp_loose is 0)"
    tracking = TcpTracking("NONE", TcpSide(SACKS | LIBERAL), TcpSide(SACKS | LIBERAL))
    tracking.sides[0].pick_up(skb, end_of(skb))
    return tracking


def close(tracking: TcpTracking, sysctls: Sysctls) -> float | None:
    """The connection is reset by the node; its timeout in seconds, None if it was closed before (nf_conntrack_tcp_set_closing)."""
    old, tracking.state = tracking.state, "CLOSE"
    return None if old == "CLOSE" else settings_of(sysctls).timeouts["CLOSE"]


def restore(state: str | None) -> TcpTracking:
    """The tracking of a connection known from ``conntrack -L``, which shows neither windows nor options.

    It is what ``conntrack -I`` and conntrackd make of one: both sides liberal, learning their windows from the next segments.
    A SYN may open one anew that has begun to close (they say so in TIME_WAIT and CLOSE only, but every state after a FIN has).
    """
    flags = SACKS | LIBERAL | (BEGAN_CLOSING if state in _CLOSING else 0)
    tracking = TcpTracking(state if state in STATES else "NONE", TcpSide(flags), TcpSide(flags))
    tracking.last_kind = "SYN"  # what 0 means to the kernel
    return tracking


def advance(
    tracking: TcpTracking, skb: Skb, reply: bool, seen_reply: bool, assured: bool, sysctls: Sysctls,
    left: float = 0.0, hook: Hook = Hook.PREROUTING,
) -> Result:  # fmt: skip
    """What a segment does to its connection.

    ``seen_reply``, ``assured`` and ``left`` (seconds until the entry times out) are the connection's as of before the segment.
    """
    problem = damage(skb, _HEADER, sysctls, hook)
    if problem is None and skb.tcp_flags & 0x37 not in VALID_FLAGS:
        problem = f"invalid {_letters(skb)}"
    if problem is not None:
        return Result(INVALID, reason=problem)
    settings = settings_of(sysctls)
    segment = _Segment(skb, _KINDS[skb.tcp_flags & 0x3F], reply, seen_reply, assured)
    step = _step(tracking, segment, settings)
    if isinstance(step, Result):
        return step
    old, new, trusted = step
    if not trusted:
        fit, reason = window.check(tracking.sides, skb, reply, tracking.state, settings.liberal)
        if fit is Fit.IGNORED:
            return Result(ACCEPT, reason=reason)
        if fit is Fit.OUTSIDE:
            return Result(INVALID, _shortened(tracking, segment, left, settings), reason=reason)
        if fit is Fit.INSIDE and segment.kind == "ACK":
            _count_repeats(tracking, skb, reply)
    return _enter(tracking, segment, old, new, settings)


# ---------------------------------------------------------------------- from state to state


class _Segment(NamedTuple):
    """A segment, the flag that decides, its direction, and the connection's flags."""

    skb: Skb
    kind: str
    reply: bool
    seen_reply: bool
    assured: bool


#: From a state to another one, and whether the segment is trusted without a look at the window.
_Step = tuple[str, str, bool]


def _step(tracking: TcpTracking, segment: _Segment, settings: TcpSettings) -> _Step | Result:
    skb, kind, reply, _, _ = segment
    old = tracking.state
    new = _NEXT[reply][kind][old]
    if new == REFUSE:
        return Result(INVALID, reason=f"{_letters(skb)} {_WAYS[reply]} in state {old}")
    if kind == "RST":
        return _step_of_rst(tracking, segment, settings)
    if new == "SYN_SENT" and old in ("TIME_WAIT", "CLOSE"):
        if _reopens(tracking, reply):
            return Result(REPEAT, reason=f"a SYN opens a new connection in place of the one in {old}")
        new = IGNORE
    if new == IGNORE:
        if not _answers_ignored_syn(tracking, segment):
            return _ignore(tracking, segment)
        _join(tracking, reply)
        return "SYN_SENT", "SYN_RECV", False
    if new == "TIME_WAIT" and _is_challenge_ack(tracking, segment):
        tracking.last_flags &= ~_CHALLENGE_EXPECTED
        return Result(ACCEPT, reason="a challenge ACK, not the last one")
    if new == "SYN_SENT2":
        tracking.last_flags |= _SIMULTANEOUS_OPEN
    elif new == "SYN_RECV" and reply and kind == "ACK" and tracking.last_flags & _SIMULTANEOUS_OPEN:
        new = "ESTABLISHED"
    return old, new, False


def _reopens(tracking: TcpTracking, reply: bool) -> bool:
    """Whether the connection was closed in good order, or by a RST from the side that sends a SYN now."""
    if (tracking.sides[0].flags | tracking.sides[1].flags) & BEGAN_CLOSING:
        return True
    return tracking.last_reply == reply and tracking.last_kind == "RST"


def _answers_ignored_syn(tracking: TcpTracking, segment: _Segment) -> bool:
    answers = segment.kind == "SYN+ACK" and tracking.last_kind == "SYN" and tracking.last_reply != segment.reply
    return answers and segment.skb.ack == tracking.last_end


def _join(tracking: TcpTracking, reply: bool) -> None:
    """Both ends have a new connection, whose SYN was ignored: goes by what was noted of it."""
    side = tracking.sides[tracking.last_reply]
    side.end = side.max_end = tracking.last_end
    side.max_window = tracking.last_window or 1
    side.scale = tracking.last_scale
    tracking.last_flags &= ~_CHALLENGE_EXPECTED
    side.flags = tracking.last_flags
    tracking.sides[reply].forget()


def _ignore(tracking: TcpTracking, segment: _Segment) -> Result:
    """Lets a segment through that may belong to a connection which we do not know, and notes it."""
    skb, kind, reply, _, _ = segment
    tracking.last_kind, tracking.last_reply = kind, reply
    tracking.last_seq, tracking.last_end, tracking.last_window = skb.seq, end_of(skb), skb.window
    if kind == "SYN" and not reply:
        seen = TcpSide()
        seen.begin(skb, 0)
        tracking.last_flags, tracking.last_scale = seen.flags, seen.scale
        if tracking.state == "LAST_ACK":
            tracking.last_flags |= _CHALLENGE_EXPECTED
    if tracking.state == "SYN_SENT" and kind == "ACK" and reply:
        tracking.last_ack = skb.ack
    return Result(ACCEPT, reason=f"{_letters(skb)} {_WAYS[reply]} in state {tracking.state}: ignored")


def _is_challenge_ack(tracking: TcpTracking, segment: _Segment) -> bool:
    if tracking.state != "LAST_ACK" or segment.kind != "ACK" or not tracking.last_flags & _CHALLENGE_EXPECTED:
        return False
    return tracking.last_kind == "SYN" and tracking.last_reply != segment.reply


def _step_of_rst(tracking: TcpTracking, segment: _Segment, settings: TcpSettings) -> _Step | Result:
    skb, _, reply, seen_reply, assured = segment
    old, new = tracking.state, "CLOSE"
    if old in _CLOSING:
        return old, new, True  # the ports may be in use again: what we know is outdated
    receiver = tracking.sides[not reply]
    if receiver.flags & HAS_MAX_ACK and tracking.last_kind != "SYN":
        established = old == "ESTABLISHED" and assured
        if skb.seq == 0 and not established:
            return old, new, False  # most likely the answer to a SYN that was ignored
        if before(skb.seq, receiver.max_ack) and not settings.ignore_invalid_rst:
            return Result(INVALID, reason=f"RST with seq {skb.seq}, below {receiver.max_ack}, which is acknowledged")
        train = tracking.last_kind == "ACK" and tracking.last_reply == reply and skb.seq == tracking.last_end
        if not established or skb.seq == receiver.max_ack or train:
            return old, new, False
        new = old
    ignored_syn = seen_reply and tracking.last_kind == "SYN" and tracking.last_reply != reply
    ignored_ack = not assured and tracking.last_kind == "ACK"
    if (ignored_syn or ignored_ack) and skb.ack == tracking.last_end:
        return old, new, True
    challenged = tracking.last_kind == "ACK" and tracking.last_reply and skb.seq == tracking.last_ack
    return old, new, old == "SYN_SENT" and challenged


def _enter(tracking: TcpTracking, segment: _Segment, old: str, new: str, settings: TcpSettings) -> Result:
    """The segment is believed."""
    _, kind, reply, seen_reply, assured = segment
    tracking.last_kind, tracking.last_reply, tracking.state = kind, reply, new
    if new == "FIN_WAIT":
        tracking.sides[reply].flags |= BEGAN_CLOSING
    timeout = _timeout(tracking, kind, settings)
    if seen_reply:
        return Result(ACCEPT, timeout, not assured and new == "ESTABLISHED")
    if kind == "RST":
        return Result(KILL, reason="a RST before any answer takes the entry away")
    if kind == "SYN" and old == "SYN_SENT":
        return Result(ACCEPT, reason="a repeated SYN renews nothing")
    if new == "ESTABLISHED":
        timeout = min(timeout, settings.unacknowledged_timeout)
    return Result(ACCEPT, timeout)


# ---------------------------------------------------------------------- time


def _timeout(tracking: TcpTracking, kind: str, settings: TcpSettings) -> float:
    timeout = settings.timeouts[tracking.state]
    if tracking.repeats >= settings.max_retrans and timeout > settings.max_retrans_timeout:
        return settings.max_retrans_timeout
    if kind == "RST":
        return settings.timeouts["CLOSE"]
    original, reply = tracking.sides
    if (original.flags | reply.flags) & UNACKNOWLEDGED and timeout > settings.unacknowledged_timeout:
        return settings.unacknowledged_timeout
    if tracking.last_window == 0 and timeout > settings.max_retrans_timeout:
        return settings.max_retrans_timeout
    return timeout


def _count_repeats(tracking: TcpTracking, skb: Skb, reply: bool) -> None:
    end = end_of(skb)
    last = (tracking.last_reply, tracking.last_seq, tracking.last_ack, tracking.last_end, tracking.last_window)
    if last == (reply, skb.seq, skb.ack, end, skb.window):
        tracking.repeats = tracking.repeats + 1 & 0xFF
        return
    tracking.last_reply, tracking.last_seq, tracking.last_ack = reply, skb.seq, skb.ack
    tracking.last_end, tracking.last_window = end, skb.window
    tracking.repeats = 0


def _shortened(tracking: TcpTracking, segment: _Segment, left: float, settings: TcpSettings) -> float | None:
    """FINs or RSTs outside the window from both sides: the connection is over, though we cannot follow; it must not stay long.

    None where the entry keeps its time (nf_tcp_handle_invalid).
    """
    if not segment.assured or segment.kind not in ("RST", "FIN"):
        return None
    if tracking.last_reply == segment.reply or tracking.last_kind not in ("RST", "FIN"):
        tracking.last_kind, tracking.last_reply = segment.kind, segment.reply
        return None
    return settings.unacknowledged_timeout if left >= _SHORT and left > settings.unacknowledged_timeout else None


# ---------------------------------------------------------------------- tables made from the tables above


def _letters(skb: Skb) -> str:
    return f"flags {flag_letters(skb.tcp_flags)}"


def _kind(flags: int) -> str:
    """The flag that decides."""
    if flags & RST:
        return "RST"
    if flags & SYN:
        return "SYN+ACK" if flags & ACK else "SYN"
    return "FIN" if flags & FIN else "ACK" if flags & ACK else "none"


def _expand(rows: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {kind: {} for kind in rows}
    for kind, sentences in rows.items():
        for sentence in sentences:
            olds, _, new = sentence.partition(" > ")
            for old in STATES if olds == "*" else olds.split():
                table[kind].setdefault(old, new)
    return table


_NEXT: Final = tuple(_expand(rows) for rows in TRANSITIONS)
_KINDS: Final = tuple(_kind(flags) for flags in range(64))
_WAYS: Final = ("in the original direction", "in the reply direction")

"""SCTP's connection tracker: the chunks of a packet, one after the other, drive a state machine of the association.

The states stand between those of the two ends: COOKIE_WAIT is after the INIT ACK, SHUTDOWN_SENT after a SHUTDOWN from the side
that began, SHUTDOWN_RECD after one from the other side, HEARTBEAT_SENT where a further path of a multi-homed association shows
up. Chunks that no row names (DATA, SACK …) change nothing, and so cannot begin an association.

Every packet carries the verification tag that its receiver chose in INIT or INIT ACK (RFC 9260, 8.5). A wrong one makes it
INVALID; but INIT has tag 0, and ABORT and SHUTDOWN COMPLETE carry the sender's own tag if their T flag is set. A wrong tag in
a HEARTBEAT is let through without renewing the entry: if the other side acknowledges it, both have moved on to new tags.
A tag of None is not known, and fits whatever comes: in an association that was restored from a listing, and after an INIT
whose initiate tag the packet does not tell (``init_tag`` None). ``sctp_flags``, if there, are the flags of each chunk.
Source: net/netfilter/nf_conntrack_proto_sctp.c of Linux 6.18, the referee in tests/kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from dataplane.engine.conntrack_tracker import ACCEPT, INVALID, Result, damage, read_once
from dataplane.engine.hooks import Hook

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

STATES: Final = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)  # fmt: skip

# Chunk types.
DATA: Final = 0
INIT: Final = 1
INIT_ACK: Final = 2
HEARTBEAT: Final = 4
HEARTBEAT_ACK: Final = 5
ABORT: Final = 6
SHUTDOWN: Final = 7
SHUTDOWN_ACK: Final = 8
ERROR: Final = 9
COOKIE_ECHO: Final = 10
COOKIE_ACK: Final = 11
SHUTDOWN_COMPLETE: Final = 14

REFUSE: Final = "refuse"

#: What a chunk does, by direction: "old states > new state". The first row that names a state counts, then those of "others";
#: a state that none names stays as it is. A star names all states.
TRANSITIONS: Final[tuple[Mapping[int | str, tuple[str, ...]], Mapping[int | str, tuple[str, ...]]]] = (
    {
        INIT: ("SHUTDOWN_SENT SHUTDOWN_RECD > CLOSED", "HEARTBEAT_SENT > COOKIE_WAIT"),
        INIT_ACK: (),
        ABORT: ("* > CLOSED",),
        SHUTDOWN: ("ESTABLISHED > SHUTDOWN_SENT",),
        SHUTDOWN_ACK: ("NONE SHUTDOWN_SENT SHUTDOWN_RECD HEARTBEAT_SENT > SHUTDOWN_ACK_SENT",),
        ERROR: (),
        COOKIE_ECHO: ("COOKIE_WAIT > COOKIE_ECHOED",),
        COOKIE_ACK: ("COOKIE_ECHOED > ESTABLISHED",),
        SHUTDOWN_COMPLETE: ("SHUTDOWN_ACK_SENT > CLOSED",),
        HEARTBEAT: ("NONE HEARTBEAT_SENT > HEARTBEAT_SENT",),
        HEARTBEAT_ACK: ("HEARTBEAT_SENT > HEARTBEAT_SENT",),
        "others": ("NONE HEARTBEAT_SENT > CLOSED",),
    },
    {
        INIT: (),
        INIT_ACK: ("CLOSED > COOKIE_WAIT",),
        ABORT: ("NONE HEARTBEAT_SENT > refuse", "* > CLOSED"),
        SHUTDOWN: ("ESTABLISHED > SHUTDOWN_RECD",),
        SHUTDOWN_ACK: ("SHUTDOWN_SENT SHUTDOWN_RECD > SHUTDOWN_ACK_SENT",),
        ERROR: ("COOKIE_ECHOED > CLOSED",),
        COOKIE_ECHO: ("COOKIE_WAIT > COOKIE_ECHOED",),
        COOKIE_ACK: ("COOKIE_ECHOED > ESTABLISHED",),
        SHUTDOWN_COMPLETE: ("SHUTDOWN_ACK_SENT > CLOSED",),
        HEARTBEAT: ("HEARTBEAT_SENT > HEARTBEAT_SENT",),
        HEARTBEAT_ACK: ("HEARTBEAT_SENT > ESTABLISHED",),
        "others": ("NONE HEARTBEAT_SENT > refuse",),
    },
)

_ALONE: Final = frozenset((INIT, INIT_ACK, SHUTDOWN_COMPLETE))
_FIRST: Final = frozenset((COOKIE_ECHO, COOKIE_ACK))
_NEVER_BEGIN: Final = frozenset((ABORT, SHUTDOWN_COMPLETE, COOKIE_ACK))
#: A packet with one of these is not held to its tag as a whole; each chunk has a rule of its own.
_OWN_TAG_RULE: Final = frozenset((INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK))
_T_FLAG: Final = 1
_HEADER: Final = 12


class SctpTracking:
    """An association's state; the tags that packets of each direction carry (0: none seen); whether an INIT of each is open."""

    __slots__ = ("heartbeat_failed", "heartbeat_reply", "inits", "state", "tags")

    def __init__(self, state: str = "NONE", tag: int | None = 0) -> None:
        self.state = state
        self.tags: list[int | None] = [tag, tag]
        self.inits = [False, False]
        self.heartbeat_failed = False
        self.heartbeat_reply = False  # the direction of the heartbeat with the wrong tag

    def copy(self) -> SctpTracking:
        """An independent copy."""
        other = SctpTracking(self.state)
        other.tags, other.inits = list(self.tags), list(self.inits)
        other.heartbeat_failed, other.heartbeat_reply = self.heartbeat_failed, self.heartbeat_reply
        return other

    def fits(self, reply: bool, vtag: int) -> bool:
        """Whether packets of this direction may carry the tag."""
        return self.tags[reply] in (vtag, None)


@read_once
def timeouts_of(sysctls: Sysctls) -> Mapping[str, float]:
    """Seconds by state."""
    prefix = "net.netfilter.nf_conntrack_sctp_timeout_"
    return {state: float(sysctls.int(prefix + state.lower())) for state in STATES if state != "NONE"}


def start(skb: Skb) -> SctpTracking | str:
    """The tracking of an association's first packet, or why it cannot be one. ``advance`` follows for the same packet."""
    chunks = skb.sctp_chunks
    problem = _misbundled(chunks)
    if problem is not None:
        return problem
    if not _NEVER_BEGIN.isdisjoint(chunks):
        return "an association does not begin with ABORT, SHUTDOWN COMPLETE or COOKIE ACK"
    tracking = SctpTracking()
    for chunk in chunks:
        if chunk not in _NEXT[0]:
            return f"an association does not begin with chunk {chunk}"
        if chunk == INIT:
            if skb.vtag:
                return "INIT with a verification tag"
            tracking.tags[1] = _initiate_tag(skb)
            tracking.inits[0] = True
        elif chunk == HEARTBEAT:
            tracking.tags[0] = skb.vtag
        elif chunk == SHUTDOWN_ACK:
            tracking.tags[1] = skb.vtag
    return tracking


def restore(state: str | None) -> SctpTracking:
    """The tracking of an association known from ``conntrack -L``, which does not show the tags."""
    return SctpTracking(state if state in STATES else "NONE", None)


def advance(
    tracking: SctpTracking, skb: Skb, reply: bool, assured: bool, sysctls: Sysctls, hook: Hook = Hook.PREROUTING
) -> Result:
    """What the chunks of a packet do to the association.

    The chunks before one that is refused have had their effect, so even an INVALID packet can make the entry ASSURED.
    """
    chunks = skb.sctp_chunks
    problem = damage(skb, _HEADER, sysctls, hook) or _misbundled(chunks)
    if problem is not None:
        return Result(INVALID, reason=problem)
    if _OWN_TAG_RULE.isdisjoint(chunks) and not tracking.fits(reply, skb.vtag):
        return Result(INVALID, reason=f"verification tag {skb.vtag:#x} is not {tracking.tags[reply]:#x}")
    renews, established = True, False
    for chunk, flags in zip(chunks, _chunk_flags(skb), strict=True):
        if not _tag_is_right(tracking, skb, reply, chunk, flags, renews):
            if chunk != HEARTBEAT or DATA in chunks or not renews:
                return Result(INVALID, assured=established, reason=f"verification tag {skb.vtag:#x} in chunk {chunk}")
            tracking.heartbeat_failed, tracking.heartbeat_reply = True, reply
            renews = False
            continue
        old = tracking.state
        new = _NEXT[reply].get(chunk, _STAY)[old]
        if new == REFUSE:
            return Result(INVALID, assured=established, reason=f"chunk {chunk} {_WAYS[reply]} in state {old}")
        if chunk in (INIT, INIT_ACK) and not _note_initiate_tag(tracking, skb, reply, chunk):
            return Result(INVALID, assured=established, reason="INIT ACK with another initiate tag")
        if chunk == INIT and old == new == "CLOSED":
            renews = False  # repeated before any answer
        tracking.state = new
        established = established or (not assured and old != new == "ESTABLISHED")
    if not renews:
        return Result(ACCEPT, None, established, "let through, renews nothing")
    return Result(ACCEPT, timeouts_of(sysctls)[tracking.state], established)


def _misbundled(chunks: tuple[int, ...]) -> str | None:
    if not chunks:
        return "an SCTP packet without chunks"
    if len(chunks) > 1:
        if not _FIRST.isdisjoint(chunks[1:]):
            return "a COOKIE ECHO or COOKIE ACK chunk that is not the first"
        if not _ALONE.isdisjoint(chunks):
            return "an INIT, INIT ACK or SHUTDOWN COMPLETE chunk that is not alone"
    return None


def _tag_is_right(tracking: SctpTracking, skb: Skb, reply: bool, chunk: int, flags: int, renews: bool) -> bool:
    """The chunk's own rule for the packet's tag; heartbeats also teach tags."""
    vtag = skb.vtag
    if chunk == INIT:
        return vtag == 0
    if chunk in (ABORT, SHUTDOWN_COMPLETE):
        return tracking.fits(reply is not bool(flags & _T_FLAG), vtag)
    if chunk == COOKIE_ECHO:
        return tracking.fits(reply, vtag)
    if chunk == COOKIE_ACK:
        tracking.inits = [False, False]
    if chunk not in (HEARTBEAT, HEARTBEAT_ACK):
        return True
    if tracking.tags[reply] == 0:
        tracking.tags[reply] = vtag
        return True
    if tracking.fits(reply, vtag):
        tracking.heartbeat_failed = False
        return True
    if chunk == HEARTBEAT or DATA in skb.sctp_chunks or not renews:
        return False
    if not tracking.heartbeat_failed or tracking.heartbeat_reply == reply:
        return False
    tracking.heartbeat_failed = False
    tracking.tags[reply], tracking.tags[not reply] = vtag, 0
    return True


def _note_initiate_tag(tracking: SctpTracking, skb: Skb, reply: bool, chunk: int) -> bool:
    """The tag that packets to the sender will carry. False where an INIT ACK contradicts what was seen."""
    tag, other = _initiate_tag(skb), not reply
    if chunk == INIT:
        if tag is None or tag != tracking.tags[other]:  # not merely sent again
            if tracking.inits[reply]:
                tracking.inits[other] = False
            tracking.inits[reply] = True
    elif tag is not None and tracking.tags[other] is not None and tag != tracking.tags[other]:
        if not tracking.inits[other] and tracking.tags[other]:
            return False
        if tracking.inits[reply] and tracking.inits[other]:
            return False  # both sides began at the same time
    tracking.tags[other] = tag
    return True


def _initiate_tag(skb: Skb) -> int | None:
    return skb.init_tag


def _chunk_flags(skb: Skb) -> tuple[int, ...]:
    flags: tuple[int, ...] = getattr(skb, "sctp_flags", ())
    return flags or (0,) * len(skb.sctp_chunks)


def _expand(rows: Mapping[int | str, tuple[str, ...]]) -> dict[int, dict[str, str]]:
    table: dict[int, dict[str, str]] = {}
    for chunk, sentences in rows.items():
        if isinstance(chunk, str):
            continue
        table[chunk] = {}
        for sentence in sentences + rows["others"]:
            olds, _, new = sentence.partition(" > ")
            for old in STATES if olds == "*" else olds.split():
                table[chunk].setdefault(old, new)
        for old in STATES:
            table[chunk].setdefault(old, old)
    return table


_NEXT: Final = tuple(_expand(rows) for rows in TRANSITIONS)
_STAY: Final = {state: state for state in STATES}
_WAYS: Final = ("in the original direction", "in the reply direction")

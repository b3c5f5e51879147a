"""SCTP as connection tracking sees it: the chunks of a packet move an automaton one after the other.

Source: net/netfilter/nf_conntrack_proto_sctp.c. Verification tags are not compared: packets written by hand carry none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dataplane.engine.conntrack_tcp import ACCEPT, INVALID, Result

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.sysctls import Sysctls

STATES: Final = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
)  # fmt: skip
_NO, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS = range(9)
_IV: Final = 9
_INIT, _INIT_ACK, _HEARTBEAT, _HEARTBEAT_ACK, _ABORT, _SHUTDOWN, _SHUTDOWN_ACK = 1, 2, 4, 5, 6, 7, 8
_ERROR, _COOKIE_ECHO, _COOKIE_ACK, _SHUTDOWN_COMPLETE, _DATA = 9, 10, 11, 14, 0

# Columns: NONE CLOSED COOKIE_WAIT COOKIE_ECHOED ESTABLISHED SHUTDOWN_SENT SHUTDOWN_RECD SHUTDOWN_ACK_SENT HEARTBEAT_SENT
_TABLE: Final = (
    {
        _INIT: (_CW, _CW, _CW, _CE, _ES, _CL, _CL, _SA, _CW),
        _INIT_ACK: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _CL),
        _ABORT: (_CL,) * 9,
        _SHUTDOWN: (_CL, _CL, _CW, _CE, _SS, _SS, _SR, _SA, _CL),
        _SHUTDOWN_ACK: (_SA, _CL, _CW, _CE, _ES, _SA, _SA, _SA, _SA),
        _ERROR: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _CL),
        _COOKIE_ECHO: (_CL, _CL, _CE, _CE, _ES, _SS, _SR, _SA, _CL),
        _COOKIE_ACK: (_CL, _CL, _CW, _ES, _ES, _SS, _SR, _SA, _CL),
        _SHUTDOWN_COMPLETE: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _CL, _CL),
        _HEARTBEAT: (_HS, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),
        _HEARTBEAT_ACK: (_CL, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),
        _DATA: (_ES, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _ES),
    },
    {
        _INIT: (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _IV),
        _INIT_ACK: (_IV, _CW, _CW, _CE, _ES, _SS, _SR, _SA, _IV),
        _ABORT: (_IV, _CL, _CL, _CL, _CL, _CL, _CL, _CL, _IV),
        _SHUTDOWN: (_IV, _CL, _CW, _CE, _SR, _SS, _SR, _SA, _IV),
        _SHUTDOWN_ACK: (_IV, _CL, _CW, _CE, _ES, _SA, _SA, _SA, _IV),
        _ERROR: (_IV, _CL, _CW, _CL, _ES, _SS, _SR, _SA, _IV),
        _COOKIE_ECHO: (_IV, _CL, _CE, _CE, _ES, _SS, _SR, _SA, _IV),
        _COOKIE_ACK: (_IV, _CL, _CW, _ES, _ES, _SS, _SR, _SA, _IV),
        _SHUTDOWN_COMPLETE: (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _CL, _IV),
        _HEARTBEAT: (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _HS),
        _HEARTBEAT_ACK: (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _ES),
        _DATA: (_IV, _CL, _CW, _CE, _ES, _SS, _SR, _SA, _ES),
    },
)
_ALONE: Final = frozenset((_INIT, _INIT_ACK, _SHUTDOWN_COMPLETE))


@dataclass(slots=True)
class SctpTracking:
    """One association's state."""

    number: int = _NO

    @property
    def state(self) -> str:
        """The state's name, as ``conntrack -L`` prints it."""
        return STATES[self.number]

    def copy(self) -> SctpTracking:
        """An independent copy."""
        return replace(self)


def restore(state: str | None) -> SctpTracking:
    """An association known from a listing."""
    return SctpTracking(STATES.index(state) if state in STATES else _NO)


def start(skb: Skb) -> SctpTracking | str:
    """The tracking of a first packet, or why it begins nothing."""
    if not skb.sctp_chunks:
        return "an SCTP packet without chunks"
    if any(chunk in _ALONE for chunk in skb.sctp_chunks) and len(skb.sctp_chunks) > 1:
        return "a chunk that must stand alone is bundled"
    if skb.sctp_chunks[0] in (_INIT_ACK, _ABORT, _ERROR, _COOKIE_ACK, _SHUTDOWN_COMPLETE, _HEARTBEAT_ACK):
        return f"chunk {skb.sctp_chunks[0]} does not begin an association"
    return SctpTracking()


def advance(tracking: SctpTracking, skb: Skb, reply: bool, assured: bool, sysctls: Sysctls) -> Result:
    """What the chunks of a packet do to the association."""
    if not skb.sctp_chunks:
        return Result(INVALID, reason="an SCTP packet without chunks")
    state = old = tracking.number
    for chunk in skb.sctp_chunks:
        row = _TABLE[reply].get(chunk if chunk != 3 else _DATA)
        new = row[state] if row is not None else state
        if new == _IV:
            return Result(INVALID, reason=f"chunk {chunk} does not fit state {STATES[state]}")
        state = new
    tracking.number = state
    name = STATES[state].lower() if state != _NO else "closed"
    timeout = float(sysctls.int(f"net.netfilter.nf_conntrack_sctp_timeout_{name}"))
    return Result(ACCEPT, timeout, not assured and old == _CE and reply and state == _ES)

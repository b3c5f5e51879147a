"""What state an IPVS connection is in: one automaton a protocol, each state with its timeout in seconds.

IPVS follows less than conntrack does: no windows, only flags or chunk types, and in three directions: what clients send, what real servers
send, and what clients send where replies go another way (direct routing, tunnels). Left out are the states of the SYN-flood defence
(``secure_tcp``) and LISTEN, which nothing leads to. Source: net/netfilter/ipvs/ip_vs_proto_tcp.c, ip_vs_proto_sctp.c, ip_vs_proto_udp.c.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from dataplane.inet import SCTP, TCP, UDP
from dataplane.packet import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb
    from dataplane.rules.ipvs import Timeouts


class Direction(IntEnum):
    """Which way a packet goes; REQUEST_ONLY is a request of which no reply was seen and none is expected."""

    REQUEST = 0
    REPLY = 1
    REQUEST_ONLY = 2


#: By state: what it is called, the seconds that it lasts without a packet.
TCP_STATES: Final = {
    "NONE": 2, "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120, "CLOSE": 10, "CLOSE_WAIT": 60, "LAST_ACK": 30,
}  # fmt: skip
SCTP_STATES: Final = {
    "NONE": 2, "INIT1": 4, "INIT": 61, "C-SENT": 61, "C-REPLIED": 61, "C-WAIT": 61, "COOKIE": 61, "C-ECHOED": 61, "ESTABLISHED": 900,
    "S-SENT": 61, "S-RECEIVED": 61, "S-ACK-SENT": 61, "REJECTED": 4, "CLOSED": 61,
}  # fmt: skip
#: Connections in these states count as active ones of their real server.
ACTIVE: Final = {TCP: frozenset(("ESTABLISHED", "SYN_SENT", "SYN_RECV")), SCTP: frozenset(("ESTABLISHED",))}

# Of each direction the next states after SYN, FIN, ACK, RST (or after an SCTP event), in the order of the states above.
_TCP_TABLE: Final = (
    ("SR ES ES SR SR SR SR SR SR", "CL CW SS TW TW TW CL CW LA", "ES ES SS ES FW TW CL CW CL", "CL CL CL SR CL CL CL CL LA"),
    ("SS ES SS SR SS SS SS SS SS", "TW FW SS TW FW TW CL TW LA", "ES ES SS ES FW TW CL CW LA", "CL CL SS CL CL TW CL CL CL"),
    ("SR ES ES SR SR SR SR SR SR", "CL FW SS TW FW TW CL CW LA", "ES ES SS ES FW TW CL CW CL", "CL CL CL SR CL CL CL CL LA"),
)  # fmt: skip
_TCP_SHORT: Final = dict(zip(("NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA"), TCP_STATES, strict=True))

_SCTP_SHORT: Final = dict(
    zip(("NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL"), SCTP_STATES, strict=True)
)  # fmt: skip
_SCTP_TABLE: Final = (
    (
        "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL", "I1 IN IN CS CR CW CO CE ES SS SR SA IN IN", "CW CW CW CS CR CO CO CE ES SS SR SA RJ CL",
        "CR IN IN CR CR CW CO CE ES SS SR SA RJ CL", "ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL", "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
        "CL IN IN CS CR CW CO CE ES CL SR CL RJ CL", "CL CL CL CS CR CW CO CE ES SS SR CL RJ CL", "CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL",
        "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
    ),
    (
        "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL", "CW CW CW CW CW CW CW CW ES CW CW CW CW CW", "CS CS CS CS CR CW CO CE ES SS SR SA RJ CL",
        "CE CE CE CE CE CE CE CE ES SS SR SA RJ CL", "ES ES ES ES ES ES ES ES ES SS SR SA RJ CL", "SS SS SS SS SS SS SS SS SS SS SR SA RJ CL",
        "SA SA SA SA SA CW CO CE ES SA SA SA RJ CL", "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL", "CL CL CL CL CL CW CO CE ES SS SR SA RJ CL",
        "CL RJ CL CL CL CL CL CL CL CL CL CL CL CL",
    ),
    (
        "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL", "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN", "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL",
        "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL", "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL", "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
        "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL", "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL", "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
        "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
    ),
)  # fmt: skip
# The event that a chunk type is: 0 data and the like, 1 INIT, 2 INIT ACK, 3 COOKIE ECHO, 4 COOKIE ACK, 5 SHUTDOWN, 6 SHUTDOWN ACK,
# 7 SHUTDOWN COMPLETE, 8 ERROR, 9 ABORT.
_SCTP_EVENTS: Final = {1: 1, 2: 2, 10: 3, 11: 4, 7: 5, 8: 6, 14: 7, 9: 8, 6: 9}
_ABORT: Final = 6
_COOKIES: Final = frozenset((10, 11))


def first_state(protocol: int) -> str:
    """The state of a connection that has just been made."""
    return "UDP" if protocol == UDP else "NONE"


def next_state(protocol: int, state: str, direction: Direction, skb: Skb) -> str:
    """The state after a packet; UDP has one only, and protocols without one keep theirs."""
    if protocol == TCP:
        event = _tcp_event(skb.tcp_flags)
        return "CLOSE" if event is None else _NEXT_TCP[direction][event][state]
    if protocol == SCTP:
        event = _sctp_event(skb.sctp_chunks)
        return state if event is None else _NEXT_SCTP[direction][event][state]
    return state


def timeout_of(protocol: int, state: str, timeouts: Timeouts) -> float:
    """Seconds that a connection stays in a state without a packet; ``timeouts`` are those of ``ipvsadm --set``."""
    if protocol == TCP:
        return {"ESTABLISHED": timeouts.tcp, "FIN_WAIT": timeouts.tcpfin}.get(state, TCP_STATES[state])
    if protocol == SCTP:
        return SCTP_STATES[state]
    return timeouts.udp


def _tcp_event(flags: int) -> int | None:
    """SYN, FIN, ACK, RST; RST counts before the others. None for none of them."""
    for event, flag in ((3, RST), (0, SYN), (1, FIN), (2, ACK)):
        if flags & flag:
            return event
    return None


def _sctp_event(chunks: tuple[int, ...]) -> int | None:
    """By the first chunk alone, but for an ABORT behind a cookie."""
    if not chunks:
        return None
    kind = chunks[0]
    if kind in _COOKIES and chunks[1:2] == (_ABORT,):
        kind = _ABORT
    return _SCTP_EVENTS.get(kind, 0)


def _table(rows: tuple[tuple[str, ...], ...], short: dict[str, str]) -> tuple[tuple[dict[str, str], ...], ...]:
    names = tuple(short.values())
    return tuple([tuple([dict(zip(names, [short[word] for word in row.split()], strict=True)) for row in events]) for events in rows])


_NEXT_TCP: Final = _table(_TCP_TABLE, _TCP_SHORT)
_NEXT_SCTP: Final = _table(_SCTP_TABLE, _SCTP_SHORT)

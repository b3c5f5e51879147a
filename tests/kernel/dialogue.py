"""What two ends say to each other, so that connection tracking finds it plausible: sequence numbers, acknowledgements, chunks.

One Dialogue is one connection; side 0 is the end that spoke first. Nothing carries payload, so TCP's numbers advance by SYN and
FIN alone, and a packet in the middle of a connection that was never opened has the numbers it would have after a handshake.
"""

from __future__ import annotations

import struct
from typing import Final

from tests.kernel.wire import Segment

_FIRST_SEQ: Final = (1000, 5000)
_TAGS: Final = (0x1111, 0x2222)
_INIT, _INIT_ACK, _SACK, _COOKIE_ECHO, _COOKIE_ACK = 1, 2, 3, 10, 11
#: SCTP chunks by side and turn; what comes after them are SACKs.
_CHUNKS: Final = ((_INIT, _COOKIE_ECHO), (_INIT_ACK, _COOKIE_ACK))
_ANSWERS: Final = {"S": "SA"}


class Dialogue:
    """The state of one connection as its two ends see it."""

    __slots__ = ("_next", "_turns", "proto")

    def __init__(self, proto: str) -> None:
        self.proto = proto
        self._next = [_FIRST_SEQ[0] + 1, _FIRST_SEQ[1] + 1]
        self._turns = [0, 0]

    def segment(self, side: int, sport: int, dport: int, flags: str) -> Segment:
        """What this side says next."""
        turn = self._turns[side]
        self._turns[side] += 1
        if self.proto == "tcp":
            return self._tcp(side, sport, dport, flags)
        if self.proto == "sctp":
            kind = _CHUNKS[side][turn] if turn < 2 else _SACK
            return Segment("sctp", sport, dport, chunk=_chunk(kind, _TAGS[side]), vtag=0 if kind == _INIT else _TAGS[1 - side])
        if self.proto == "icmp":
            return Segment("icmp", sport, answer=side == 1)
        return Segment(self.proto, sport, dport)

    def _tcp(self, side: int, sport: int, dport: int, flags: str) -> Segment:
        seq = _FIRST_SEQ[side] if "S" in flags else self._next[side]
        ack = self._next[1 - side] if "A" in flags else 0
        if "F" in flags:
            self._next[side] += 1
        return Segment("tcp", sport, dport, flags, seq, ack)


def answer_flags(flags: str) -> str:
    """The TCP flags of an answer where nobody says which: SA to a SYN, otherwise A."""
    return _ANSWERS.get(flags, "A")


def _chunk(kind: int, tag: int) -> bytes:
    if kind in (_INIT, _INIT_ACK):
        return struct.pack(">BBHIIHHI", kind, 0, 20, tag, 65535, 1, 1, 1)
    if kind == _SACK:
        return struct.pack(">BBHIIHH", kind, 0, 16, 1, 65535, 0, 0)
    return struct.pack(">BBHI", kind, 0, 8, 0) if kind == _COOKIE_ECHO else struct.pack(">BBH", kind, 0, 4)

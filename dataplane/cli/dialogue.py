"""What the two ends of a connection say, so that connection tracking finds it plausible where a user gave flags only.

A dialogue is followed over a whole file of packets: TCP's sequence and acknowledgement numbers, SCTP's chunks and tags. A packet in
the middle of a connection that was never opened has the numbers that it would have after a handshake.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dataplane.packet import ACK, FIN, SYN
from dataplane.packet_text import FIRST_SEQ

#: SCTP's verification tags; the first is that of the side that spoke first.
TAGS: Final = (0x1111, 0x2222)
INIT, INIT_ACK, SACK, COOKIE_ECHO, COOKIE_ACK = 1, 2, 3, 10, 11
#: SCTP chunks by side and turn; what comes after them are SACKs.
_CHUNKS: Final = ((INIT, COOKIE_ECHO), (INIT_ACK, COOKIE_ACK))
_MODULUS: Final = 1 << 32


class Chunk(NamedTuple):
    """An SCTP chunk and the verification tag of its packet."""

    kind: int
    vtag: int


class Dialogue:
    """One connection as its two ends see it; side 0 is the end that spoke first."""

    __slots__ = ("_next", "_turns")

    def __init__(self) -> None:
        self._next = [FIRST_SEQ[0] + 1, FIRST_SEQ[1] + 1]
        self._turns = [0, 0]

    def numbers(self, side: int, flags: int, payload: int, seq: int | None, ack: int | None) -> tuple[int, int]:
        """Sequence and acknowledgement number of this side's next segment; what is given is kept and gone on from."""
        following = self._next[side]
        opening = bool(flags & SYN)
        number = seq if seq is not None else FIRST_SEQ[side] if opening else following
        after = (number + opening + bool(flags & FIN) + payload) % _MODULUS
        if seq is not None or after > following:
            self._next[side] = after
        acknowledged = ack if ack is not None else self._next[1 - side] if flags & ACK else 0
        return number, acknowledged

    def chunk(self, side: int) -> Chunk:
        """The SCTP chunk that this side sends next."""
        turn = self._turns[side]
        self._turns[side] += 1
        kind = _CHUNKS[side][turn] if turn < 2 else SACK
        return Chunk(kind, 0 if kind == INIT else TAGS[1 - side])

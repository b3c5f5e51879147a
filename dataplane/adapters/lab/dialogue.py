"""What ends say to each other, so that connection tracking finds it plausible: sequence numbers, acknowledgements, chunks.

A Script turns packets as they are asked for into packets as they are sent. It derives a reply from what its cause became,
and keeps a Dialogue for each connection. Nothing carries payload, so TCP's numbers advance by SYN and FIN alone, and a packet
in the middle of a connection that was never opened has the numbers it would have after a handshake.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dataplane.adapters.lab.lines import Outcome, Packet, Seen

#: The verification tags that SCTP's two sides choose; the first is that of the side that spoke first.
TAGS: Final = (0x1111, 0x2222)
INIT, INIT_ACK, SACK, COOKIE_ECHO, COOKIE_ACK = 1, 2, 3, 10, 11
_FIRST_SEQ: Final = (1000, 5000)
#: SCTP chunks by side and turn; what comes after them are SACKs.
_CHUNKS: Final = ((INIT, COOKIE_ECHO), (INIT_ACK, COOKIE_ACK))
_CHUNK_LENGTHS: Final = {INIT: 20, INIT_ACK: 20, SACK: 16, COOKIE_ECHO: 8, COOKIE_ACK: 4}
_ANSWERS: Final = {"S": "SA"}


class Quoted(NamedTuple):
    """The packet that an ICMP error is about, as its sender's side of the network saw it."""

    src: str
    dst: str
    ttl: int
    tos: int
    segment: Segment


class Segment(NamedTuple):
    """What stands after the IP header: ports (ICMP: the echo id is ``sport``), TCP's numbers, SCTP's tag and chunk."""

    proto: str
    sport: int = 0
    dport: int = 0
    flags: str = ""
    seq: int = 0
    ack: int = 0
    answer: bool = False  # ICMP: an echo reply
    chunk: int = INIT
    vtag: int = 0
    init_tag: int = 0
    length: int = 0  # bytes of payload
    error: tuple[int, int] = (0, 0)  # ICMP: type and code of an error, about what is quoted
    quoted: Quoted | None = None

    @property
    def chunk_length(self) -> int:
        """Bytes of the SCTP chunk."""
        return _CHUNK_LENGTHS[self.chunk]


class Dialogue:
    """The state of one connection as its two ends see it; side 0 is the end that spoke first."""

    __slots__ = ("_next", "_turns", "proto")

    def __init__(self, proto: str) -> None:
        self.proto = proto
        self._next = [_FIRST_SEQ[0] + 1, _FIRST_SEQ[1] + 1]
        self._turns = [0, 0]

    def segment(self, side: int, sport: int, dport: int, packet: Packet, flags: str) -> Segment:
        """What this side says next."""
        turn = self._turns[side]
        self._turns[side] += 1
        if self.proto == "tcp":
            return self._tcp(side, sport, dport, flags, packet)
        if self.proto == "sctp":
            kind = _CHUNKS[side][turn] if turn < 2 else SACK
            vtag = 0 if kind == INIT else TAGS[1 - side]
            return Segment("sctp", sport, dport, chunk=kind, vtag=vtag, init_tag=TAGS[side])
        if self.proto == "icmp":
            return Segment("icmp", sport, answer=side == 1, length=packet.length)
        return Segment(self.proto, sport, dport, length=packet.length)

    def _tcp(self, side: int, sport: int, dport: int, flags: str, packet: Packet) -> Segment:
        seq = _FIRST_SEQ[side] if "S" in flags else self._next[side]
        ack = self._next[1 - side] if "A" in flags else 0
        if not packet.shift:
            self._next[side] += ("F" in flags) + packet.length
        return Segment("tcp", sport, dport, flags, (seq + packet.shift) & 0xFFFFFFFF, ack, length=packet.length)


class Sent(NamedTuple):
    """A packet with everything derived. ``indev`` None: the node sends it itself."""

    packet: Packet
    indev: str | None
    src: str
    dst: str
    ttl: int
    segment: Segment
    dialogue: Dialogue
    side: int
    tos: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.dst else 4


class Script:
    """Derives packets one after the other."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, int, int], tuple[Dialogue, int]] = {}

    def opening(self, packet: Packet) -> Sent:
        """A packet that says everything itself. A side of a connection that was heard before goes on speaking."""
        assert packet.src is not None and packet.dst is not None and packet.proto is not None
        sport, dport, flags = packet.sport or 0, packet.dport or 0, packet.flags or "S"
        ends = (packet.src, packet.dst, packet.proto, sport, dport)
        side = int(packet.proto == "tcp" and flags == "SA")
        dialogue, side = self._known.setdefault(ends, (Dialogue(packet.proto), side))
        segment = dialogue.segment(side, sport, dport, packet, flags)
        return Sent(packet, packet.indev, packet.src, packet.dst, packet.ttl, segment, dialogue, side, packet.tos)

    def reply(self, packet: Packet, cause: Sent, outcome: Outcome) -> Sent | None:
        """The answer to what ``cause`` became; None if it became nothing that could be answered."""
        if packet.again:
            return cause._replace(packet=packet)
        became = outcome["packet"]
        if became is None:
            return None
        if packet.type is not None:
            return _error(packet, cause, outcome, became)
        indev = packet.indev or (outcome["oif"] if outcome["verdict"] == "forward" else None)
        src, dst, proto = packet.src or became["dst"], packet.dst or became["src"], packet.proto or became["proto"]
        sport, dport = _turned(became)
        sport = packet.sport if packet.sport is not None else sport
        dport = packet.dport if packet.dport is not None else dport
        dialogue, side = (cause.dialogue, 1 - cause.side) if proto == cause.dialogue.proto else (Dialogue(proto), 0)
        self._known[src, dst, proto, sport, dport] = dialogue, side
        segment = dialogue.segment(side, sport, dport, packet, packet.flags or _ANSWERS.get(cause.segment.flags, "A"))
        return Sent(packet, indev, src, dst, packet.ttl, segment, dialogue, side, packet.tos)


def _error(packet: Packet, cause: Sent, outcome: Outcome, became: Seen) -> Sent | None:
    """An ICMP error from where ``cause`` went, or from what ``packet`` says is its source; about nothing that is one itself."""
    if cause.segment.quoted is not None:
        return None
    sport, dport = became["sport"] or 0, became["dport"] or 0
    about = cause.segment._replace(sport=sport, dport=dport)
    quoted = Quoted(became["src"], became["dst"], became["ttl"], became["tos"], about)
    indev = packet.indev or (outcome["oif"] if outcome["verdict"] == "forward" else None)
    segment = Segment("icmp", error=(packet.type or 0, packet.code), quoted=quoted)
    src, dst = packet.src or became["dst"], packet.dst or became["src"]
    return Sent(packet, indev, src, dst, packet.ttl, segment, Dialogue("icmp"), 0, packet.tos)


def _turned(became: Seen) -> tuple[int, int]:
    """The ports of an answer; an echo's id stays where it is."""
    sport, dport = became["sport"] or 0, became["dport"] or 0
    return (sport, 0) if became["proto"] == "icmp" else (dport, sport)

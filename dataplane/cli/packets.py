"""The machines' interface of ``trace``: packets as JSON lines in, outcomes as JSON lines out, line by line as they come.

What is kept of earlier packets is what their answers need: nothing of a packet that no later line of the file replies to.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NamedTuple

from dataplane.cli.dialogue import Dialogue
from dataplane.cli.packet_json import Record, read_line
from dataplane.engine.choices import Choices, Seeded
from dataplane.errors import InputError, ParseError, Problem
from dataplane.inet import ICMP, ICMPV6, SCTP, TCP
from dataplane.node import Node
from dataplane.packet import ACK, SYN, Packet
from dataplane.packet_text import Described, make_packet
from dataplane.render.json import merged, outcome
from dataplane.trace import Trace

Ends = tuple[int, int, int, int, int]  # source, destination, protocol, source port, destination port
_CONNECTED: Final = frozenset((TCP, SCTP))
_ECHO: Final = {4: (8, 0), 6: (128, 129)}


class _Cause(NamedTuple):
    """What an answer has to know of the packet that it answers: what it became, where it left, and their dialogue."""

    packet: Packet | None
    oif: str | None
    dialogue: Dialogue
    side: int


class _Ends(NamedTuple):
    """Who speaks to whom in a packet that is to be made; ``sport`` of an echo is its identifier."""

    family: int
    source: int
    target: int
    protocol: int
    sport: int
    dport: int


class _Sent(NamedTuple):
    described: Described
    indev: str | None
    dialogue: Dialogue
    side: int


def run(node: Node, file: str, *, everything: bool, seed: int) -> None:
    """Reads packets, walks them, prints a line each (at once where they come by a pipe: somebody may wait for it).

    Raises ParseError for a line that is none, naming it.
    """
    walker = _Walker(node, Seeded(seed), everything=everything, wanted=_replied(file))
    gc.freeze()  # the state that was read stays: never go over it again, and seldom over the connections
    gc.set_threshold(100_000, 20, 100)
    out, piped = sys.stdout, file == "-"
    for record in _records(file):
        out.write(json.dumps({"id": record.id, "outcomes": walker.outcomes(record)}) + "\n")
        if piped:
            out.flush()


class _Walker:
    """Follows a file of packets on one node."""

    def __init__(self, node: Node, choices: Choices, *, everything: bool, wanted: frozenset[int | str] | None) -> None:
        self._node = node
        self._choices = choices
        self._everything = everything
        self._wanted = wanted
        self._causes: dict[int | str, _Cause] = {}
        self._dialogues: dict[Ends, tuple[Dialogue, int]] = {}

    def outcomes(self, record: Record) -> list[dict[str, Any]]:
        """What becomes of a line's packet; nothing where it answers a packet that came to nothing."""
        sent = self._reply(record) if record.reply_to is not None else self._opening(record)
        if sent is None:
            if record.id is not None:
                self._causes[record.id] = _Cause(None, None, Dialogue(), 0)
            return []
        self._node.now = record.values.get("at", self._node.now)
        found, trace = self._walked(sent, record)
        if record.id is not None and (self._wanted is None or record.id in self._wanted):
            gone = trace.verdict in ("forward", "local")
            oif = trace.oif if trace.verdict == "forward" else None
            self._causes[record.id] = _Cause(trace.packet if gone else None, oif, sent.dialogue, sent.side)
        return found

    def _walked(self, sent: _Sent, record: Record) -> tuple[list[dict[str, Any]], Trace]:
        try:
            if not self._everything:
                trace = self._node.walk(sent.described, sent.indev, self._choices)
                return [outcome(trace, None)], trace
            found = self._node.walks(sent.described, sent.indev)
        except InputError as error:
            raise ParseError([problem.within(file=record.file, line=record.line) for problem in error.problems]) from None
        return merged(found), found[0][1]

    def _opening(self, record: Record) -> _Sent:
        """A packet that says everything itself; a side of a connection that was heard before goes on speaking."""
        values = record.values
        for name in ("src", "dst", "proto"):
            if name not in values:
                record.refuse(f"{name} is needed where there is no reply_to")
        (family, source), (other, target), protocol = values["src"], values["dst"], values["proto"]
        if family != other:
            record.refuse(f"src is IPv{family}, dst IPv{other}")
        ends = _Ends(family, source, target, protocol, values.get("sport", 0), values.get("dport", 0))
        flags = values.get("flags", SYN)
        dialogue, side = self._dialogue(ends, answering=flags & (SYN | ACK) == SYN | ACK)
        return _Sent(_described(record, _packet(record, ends, flags, dialogue, side)), values.get("in"), dialogue, side)

    def _reply(self, record: Record) -> _Sent | None:
        """The answer to what another packet became; None where it became nothing that could be answered."""
        cause = self._causes.get(record.reply_to) if record.reply_to is not None else None
        if cause is None:
            record.refuse(f"reply_to: no packet with id {json.dumps(record.reply_to)} before this line")
        became, values = cause.packet, record.values
        if became is None:
            return None
        family, source = values.get("src", (became.family, became.daddr))
        other, target = values.get("dst", (became.family, became.saddr))
        if family != other:
            record.refuse(f"the answer would go from IPv{family} to IPv{other}")
        own = ICMP if became.is_icmp else became.protocol
        protocol = values.get("proto", own)
        sport = values.get("sport", became.icmp_id if became.is_icmp else became.dport)
        ends = _Ends(family, source, target, protocol, sport, values.get("dport", became.sport))
        dialogue, side = (cause.dialogue, 1 - cause.side) if protocol == own else (Dialogue(), 0)
        if protocol in _CONNECTED:
            self._dialogues[ends[1:]] = dialogue, side
        answer = SYN | ACK if became.tcp_flags & (SYN | ACK) == SYN else ACK
        packet = _packet(record, ends, values.get("flags", answer), dialogue, side)
        return _Sent(_described(record, packet), values.get("in", cause.oif), dialogue, side)

    def _dialogue(self, ends: _Ends, *, answering: bool) -> tuple[Dialogue, int]:
        if ends.protocol not in _CONNECTED or self._everything:
            return Dialogue(), int(answering and ends.protocol == TCP)
        known = self._dialogues.get(ends[1:])
        if known is None:
            known = self._dialogues[ends[1:]] = Dialogue(), int(answering and ends.protocol == TCP)
        return known


def _packet(record: Record, ends: _Ends, flags: int, dialogue: Dialogue, side: int) -> Packet:
    values = record.values
    family, source, target, protocol, sport, dport = ends
    ttl, tos, payload = values.get("ttl", 64), values.get("tos", 0), values.get("length", 0)
    if protocol == TCP:
        seq, ack = dialogue.numbers(side, flags, payload, values.get("seq"), values.get("ack"))
        return make_packet(
            TCP, family, source, target, sport, dport, flags=flags, ttl=ttl, tos=tos, seq=seq, ack=ack, payload=payload,
            window=values.get("window", 65535),
        )  # fmt: skip
    if protocol in (ICMP, ICMPV6):
        kind = values.get("type", _ECHO[family][side])
        return make_packet(
            ICMP if family == 4 else ICMPV6, family, source, target, ttl=ttl, tos=tos, payload=payload, icmp_type=kind,
            icmp_code=values.get("code", 0), icmp_id=sport,
        )  # fmt: skip
    if protocol == SCTP:
        said = dialogue.chunk(side)
        return make_packet(
            SCTP, family, source, target, sport, dport, ttl=ttl, tos=tos, payload=payload, chunk=values.get("chunk", said.kind),
            vtag=said.vtag,
        )  # fmt: skip
    return make_packet(protocol, family, source, target, sport, dport, ttl=ttl, tos=tos, payload=payload)


def _described(record: Record, packet: Packet) -> Described:
    values = record.values
    return Described(
        packet, values.get("mark", 0), values.get("uid", 0), values.get("gid", 0), values.get("mac"), values.get("physin", "")
    )  # fmt: skip


def _records(file: str) -> Iterator[Record]:
    for number, text in enumerate(_lines(file), 1):
        record = read_line(text, file, number)
        if record is not None:
            yield record


def _lines(file: str) -> Iterator[str]:
    if file == "-":
        yield from _decoded(TextIOWrapper(sys.stdin.buffer, encoding="utf-8"), file)
        return
    with Path(file).open(encoding="utf-8") as stream:
        yield from _decoded(stream, file)


def _decoded(stream: Iterable[str], file: str) -> Iterator[str]:
    number = 0
    try:
        for text in stream:
            number += 1
            yield text
    except UnicodeDecodeError as error:
        raise ParseError(Problem(f"not UTF-8: {error.reason}", file, number + 1)) from None


def _replied(file: str) -> frozenset[int | str] | None:
    """The ids that lines reply to; None (any) where the file can be read only once."""
    if file == "-" or not Path(file).is_file():
        return None
    wanted = set()
    for number, text in enumerate(_lines(file), 1):
        if '"reply_to"' in text:
            record = read_line(text, file, number)
            if record is not None and record.reply_to is not None:
                wanted.add(record.reply_to)
    return frozenset(wanted)

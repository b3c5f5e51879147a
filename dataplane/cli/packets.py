"""The machines' interface of ``trace``: packets as JSON lines in, outcomes as JSON lines out, a line each.

Sequence and acknowledgement numbers that nobody gives are derived from the packets before, so that a handshake written with flags only is
inside the windows. ``reply_to`` turns round what that packet became.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from dataplane.cli.render_json import merged, outcome
from dataplane.engine.choices import Seeded
from dataplane.errors import ParseError, Problem
from dataplane.inet import ICMP, ICMPV6, PROTOCOL_NUMBERS, SCTP, TCP, UDP, parse_address
from dataplane.node import Node
from dataplane.packet import ACK, FIN, FLAG_LETTERS, SYN, Packet
from dataplane.packet_text import make_packet
from dataplane.trace import Trace

_PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
_KEYS = frozenset((
    "id", "in", "src", "dst", "proto", "sport", "dport", "flags", "ttl", "reply_to", "mark", "seq", "ack", "window", "length", "tos", "type",
    "code", "uid", "gid", "mac", "chunks",
))  # fmt: skip


@dataclass(slots=True)
class _Sent:
    """What a packet was and became, for its replies."""

    packet: Packet
    indev: str | None
    trace: Trace


def run(node: Node, file: str, *, everything: bool, seed: int) -> None:
    """Reads packets, walks them, prints a line each."""
    choices = Seeded(seed)
    sent: dict[Any, _Sent] = {}
    numbers: dict[tuple[int, int, int, int], int] = {}
    out = sys.stdout
    for line, record in _records(file):
        packet, indev = _packet(record, sent, numbers, file, line)
        if indev is not None and indev not in node.netns.kernel.links:
            _refuse(file, line, f"no interface {indev!r} on this node: it has {', '.join(node.netns.kernel.links)}")
        mark = _number(record, "mark", 0, file, line)
        if everything:
            found = list(node.netns.outcomes(packet, indev, mark=mark))
            outcomes, trace = merged(found), found[0][1]
        else:
            trace = node.netns.send(packet, mark=mark, choices=choices) if indev is None else node.netns.receive(packet, indev, mark=mark, choices=choices)
            outcomes = [outcome(trace, None)]
        if record.get("id") is not None:
            sent[record["id"]] = _Sent(packet, indev, trace)
        out.write(json.dumps({"id": record.get("id"), "outcomes": outcomes}) + "\n")


def _records(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    stream = click.get_text_stream("stdin") if file == "-" else Path(file).open(encoding="utf-8")
    with stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise ParseError(Problem(f"invalid JSON: {error.msg}", file, number, error.colno)) from None
            if not isinstance(record, dict):
                _refuse(file, number, "expected an object, such as {\"id\": 1, \"in\": \"eth0\", \"src\": …}")
            strange = sorted(set(record) - _KEYS)
            if strange:
                _refuse(file, number, f"unknown field {strange[0]!r}: expected some of {', '.join(sorted(_KEYS))}")
            yield number, record


def _refuse(file: str, line: int, message: str) -> NoReturn:
    raise ParseError(Problem(message, file, line))


def _number(record: dict[str, Any], name: str, default: int, file: str, line: int, high: int = 0xFFFFFFFF) -> int:
    value = record.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        _refuse(file, line, f"{name}: expected a number from 0 to {high}, got {value!r}")
    return value


def _packet(
    record: dict[str, Any], sent: dict[Any, _Sent], numbers: dict[tuple[int, int, int, int], int], file: str, line: int
) -> tuple[Packet, str | None]:
    """The packet of a record and where it enters (None: the node sends it)."""
    base, indev = None, record.get("in")
    if record.get("reply_to") is not None:
        if record["reply_to"] not in sent:
            _refuse(file, line, f"reply_to: no packet with id {record['reply_to']!r} before this line")
        before = sent[record["reply_to"]]
        base = before.trace.packet
        if "in" not in record:
            indev = before.trace.oif if before.trace.verdict == "forward" else None
    if indev is not None and not isinstance(indev, str):
        _refuse(file, line, f"in: expected an interface name or null, got {indev!r}")
    source, target = _address(record, "src", base.daddr if base else None, file, line), _address(record, "dst", base.saddr if base else None, file, line)
    family = _family(record, base, file, line)
    protocol = _protocol(record, base, family, file, line)
    sport = _number(record, "sport", base.dport if base else 0, file, line, 65535)
    dport = _number(record, "dport", base.sport if base else 0, file, line, 65535)
    ttl = _number(record, "ttl", 64, file, line, 255)
    if protocol in (ICMP, ICMPV6):
        answering = base is not None and base.icmp_type in (8, 128)
        kind = (0 if family == 4 else 129) if answering else (8 if family == 4 else 128)
        return make_packet(
            protocol, family, source, target, ttl=ttl, icmp_type=_number(record, "type", kind, file, line, 255),
            icmp_code=_number(record, "code", 0, file, line, 255),
            icmp_id=_number(record, "sport", base.icmp_id if base else 0, file, line, 65535),
        ), indev  # fmt: skip
    payload = _number(record, "length", 0, file, line, 65000)
    if protocol == TCP:
        default = _reply_flags(base) if base is not None else "S"
        flags = _flags(record.get("flags", default), file, line)
        there, back = (source, sport, target, dport), (target, dport, source, sport)
        seq, ack = _windows(numbers, there, back, base, flags)
        seq, ack = _number(record, "seq", seq, file, line), _number(record, "ack", ack, file, line)
        numbers[there] = (seq + payload + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        return make_packet(
            TCP, family, source, target, sport, dport, flags=flags, ttl=ttl, seq=seq, ack=ack, payload=payload,
            window=_number(record, "window", 65535, file, line, 65535),
        ), indev  # fmt: skip
    chunks = tuple(record.get("chunks") or ((2,) if base is not None else (1,)))
    return make_packet(protocol, family, source, target, sport, dport, ttl=ttl, payload=payload, chunks=chunks), indev


def _windows(numbers: dict[tuple[int, int, int, int], int], there: Any, back: Any, base: Packet | None, flags: int) -> tuple[int, int]:
    """Sequence and acknowledgement numbers that fit what was sent before."""
    opening = 1000 if base is None else 5000
    seq = opening if flags & SYN else numbers.get(there, opening + 1)
    known = numbers.get(back)
    if base is not None:
        known = (base.seq + base.payload + bool(base.tcp_flags & SYN) + bool(base.tcp_flags & FIN)) & 0xFFFFFFFF
        if not flags & SYN and base.tcp_flags & ACK:
            seq = base.ack
    return seq, (known if known is not None else 5001 if base is None else 1001) if flags & ACK else 0


def _reply_flags(base: Packet) -> str:
    return "SA" if base.tcp_flags & SYN and not base.tcp_flags & ACK else "A"


def _flags(text: Any, file: str, line: int) -> int:
    if not isinstance(text, str) or any(letter not in FLAG_LETTERS for letter in text.upper().replace(".", "")):
        _refuse(file, line, f"flags: expected letters of {FLAG_LETTERS}, got {text!r}")
    return sum({1 << FLAG_LETTERS.index(letter) for letter in text.upper() if letter != "."})


def _address(record: dict[str, Any], name: str, default: int | None, file: str, line: int) -> int:
    value = record.get(name)
    if value is None:
        if default is None:
            _refuse(file, line, f"{name}: an address is needed")
        return default
    try:
        return parse_address(value)[1]
    except (ValueError, TypeError):
        _refuse(file, line, f"{name}: expected an IP address, got {value!r}")


def _family(record: dict[str, Any], base: Packet | None, file: str, line: int) -> int:
    families = {6 if ":" in record[name] else 4 for name in ("src", "dst") if isinstance(record.get(name), str)}
    if base is not None:
        families.add(base.family)
    if len(families) != 1:
        _refuse(file, line, "src and dst: addresses of one family are needed")
    return families.pop()


def _protocol(record: dict[str, Any], base: Packet | None, family: int, file: str, line: int) -> int:
    name = record.get("proto")
    if name is None:
        if base is None:
            _refuse(file, line, "proto: expected tcp, udp, sctp or icmp")
        return base.protocol
    number = _PROTOCOLS.get(name, PROTOCOL_NUMBERS.get(name) if isinstance(name, str) else name if isinstance(name, int) else None)
    if number is None:
        _refuse(file, line, f"proto: expected tcp, udp, sctp or icmp, got {name!r}")
    return ICMPV6 if number == ICMP and family == 6 else number

"""The packet expression: ``tcp 203.0.113.7:40000 > 198.51.100.10:80 [flags SA] [ttl 3] [mark 0x1]``, with a caret under errors.

IPv6 addresses stand in brackets where a port follows. What is not said has a sensible default: a SYN, TTL 64, an echo request,
sequence numbers as after a handshake. Reads text and makes Packets; knows nothing of interfaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from dataplane.errors import ParseError, Problem
from dataplane.inet import DCCP, ICMP, ICMPV6, PROTOCOL_NUMBERS, SCTP, TCP, UDP, UDPLITE, parse_address
from dataplane.packet import ACK, FLAG_LETTERS, SYN, Packet, TcpOptions

SYNTAX: Final = "PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] [flags SA] [ttl 64] [mark 0x1] …"
#: Initial sequence numbers of who opens a connection and of who answers, where nobody says others.
FIRST_SEQ: Final = (1000, 5000)

_PORTED: Final = frozenset((TCP, UDP, SCTP, UDPLITE, DCCP))
_HEADERS: Final = {TCP: 20, UDP: 8, SCTP: 12, ICMP: 8, ICMPV6: 8, UDPLITE: 8, DCCP: 16}
_SCTP_CHUNK_LENGTHS: Final = {0: 16, 1: 20, 2: 20, 3: 16, 10: 8, 11: 4}
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
#: Options with a number: the largest value, and the protocols that they belong to (none: any).
_NUMBERS: Final[Mapping[str, tuple[int, frozenset[int]]]] = {
    "ttl": (255, frozenset()), "tos": (255, frozenset()), "mark": (0xFFFFFFFF, frozenset()), "len": (65000, frozenset()),
    "uid": (0xFFFFFFFF, frozenset()), "gid": (0xFFFFFFFF, frozenset()), "seq": (0xFFFFFFFF, frozenset((TCP,))),
    "ack": (0xFFFFFFFF, frozenset((TCP,))), "win": (65535, frozenset((TCP,))), "code": (255, frozenset((ICMP, ICMPV6))),
    "id": (65535, frozenset((ICMP, ICMPV6))), "chunk": (255, frozenset((SCTP,))), "vtag": (0xFFFFFFFF, frozenset((SCTP,))),
}  # fmt: skip
_OPTIONS: Final = ("flags", "type", "mac", "physin", *_NUMBERS)


class Described(NamedTuple):
    """A packet and what comes with it: mark, sending user, source MAC, bridge port."""

    packet: Packet
    mark: int = 0
    uid: int = 0
    gid: int = 0
    mac: int | None = None
    physin: str = ""


class _Option(NamedTuple):
    """An option as written, and where its name and its value stand."""

    value: str
    name_at: int
    value_at: int


class _End(NamedTuple):
    family: int
    address: int
    port: int


def make_packet(
    protocol: int, family: int, saddr: int, daddr: int, sport: int = 0, dport: int = 0, *, flags: int = SYN, ttl: int = 64,
    seq: int | None = None, ack: int | None = None, window: int = 65535, payload: int = 0, tos: int = 0,
    icmp_type: int | None = None, icmp_code: int = 0, icmp_id: int = 1, chunk: int = 1, vtag: int = 0,
) -> Packet:  # fmt: skip
    """A whole packet out of what was said; TCP defaults to a SYN, ICMP to an echo request, SCTP to INIT. Lengths in bytes."""
    size = (20 if family == 4 else 40) + _HEADERS.get(protocol, 0) + payload
    if protocol == TCP:
        answering = bool(flags & SYN and flags & ACK)
        number = seq if seq is not None else FIRST_SEQ[answering] + (not flags & SYN)
        acknowledged = ack if ack is not None else FIRST_SEQ[not answering] + 1 if flags & ACK else 0
        return Packet(
            family, saddr, daddr, TCP, sport, dport, ttl=ttl, tos=tos, length=size, payload=payload, tcp_flags=flags, seq=number,
            ack=acknowledged, window=window, tcp_options=TcpOptions() if flags & SYN else None,
        )  # fmt: skip
    if protocol == (ICMP if family == 4 else ICMPV6):
        kind = icmp_type if icmp_type is not None else 8 if family == 4 else 128
        return Packet(
            family, saddr, daddr, protocol, ttl=ttl, tos=tos, length=size, payload=payload, icmp_type=kind, icmp_code=icmp_code,
            icmp_id=icmp_id,
        )  # fmt: skip
    if protocol == SCTP:
        size += _SCTP_CHUNK_LENGTHS.get(chunk, 4)
        return Packet(
            family, saddr, daddr, SCTP, sport, dport, ttl=ttl, tos=tos, length=size, payload=payload, sctp_chunks=(chunk,), vtag=vtag
        )  # fmt: skip
    return Packet(family, saddr, daddr, protocol, sport, dport, ttl=ttl, tos=tos, length=size, payload=payload)


def parse_packet(text: str) -> Described:
    """Reads an expression. Raises ParseError with a caret under what is wrong."""
    found = re.match(r"\s*(?P<protocol>[^\s>]+)?\s*(?P<source>[^\s>]+)?\s*(?P<arrow>>)?\s*(?P<target>[^\s>]+)?", text)
    assert found is not None  # every part may be missing
    for part, what in (
        ("protocol", f"expected {SYNTAX}"), ("source", "expected a source address"),
        ("arrow", "expected '>' between source and destination"), ("target", "expected a destination address"),
    ):  # fmt: skip
        if found.group(part) is None:
            before = {"protocol": 0, "source": found.end("protocol"), "arrow": found.end("source"), "target": found.end("arrow")}[part]
            raise _error(text, _next_word(text, before), what)
    protocol = _protocol(text, found.group("protocol"), found.start("protocol"))
    source = _end(text, found.group("source"), found.start("source"), protocol)
    target = _end(text, found.group("target"), found.start("target"), protocol)
    if source.family != target.family:
        raise _error(text, found.start("target"), f"the source is IPv{source.family}, but this is IPv{target.family}")
    if protocol == ICMP and source.family == 6:
        protocol = ICMPV6
    elif protocol == ICMPV6 and source.family == 4:
        raise _error(text, found.start("protocol"), "ICMPv6 between IPv4 addresses: expected icmp")
    return _described(text, protocol, source, target, _options(text, found.end(), protocol))


def flag_bits(letters: str) -> int:
    """``SA`` as bits; ``.`` is no flag. Raises ValueError with the letter that is none."""
    bits = 0
    for letter in letters.upper().replace(".", ""):
        if letter not in FLAG_LETTERS:
            raise ValueError(letter)
        bits |= 1 << FLAG_LETTERS.index(letter)
    return bits


def _described(text: str, protocol: int, source: _End, target: _End, given: Mapping[str, _Option]) -> Described:
    numbers = {name: _number(text, name, given[name]) for name in _NUMBERS if name in given}
    kind, code = _icmp_type(text, given)
    packet = make_packet(
        protocol, source.family, source.address, target.address, source.port, target.port,
        flags=_flags(text, given["flags"]) if "flags" in given else SYN, ttl=numbers.get("ttl", 64), seq=numbers.get("seq"),
        ack=numbers.get("ack"), window=numbers.get("win", 65535), payload=numbers.get("len", 0), tos=numbers.get("tos", 0),
        icmp_type=kind, icmp_code=numbers.get("code", code), icmp_id=numbers.get("id", 1), chunk=numbers.get("chunk", 1),
        vtag=numbers.get("vtag", 0),
    )  # fmt: skip
    mac = None
    if "mac" in given:
        if not _MAC.fullmatch(given["mac"].value):
            raise _error(text, given["mac"].value_at, f"expected a MAC address such as 02:00:00:00:00:01, got {given['mac'].value!r}")
        mac = int(given["mac"].value.replace(":", ""), 16)
    physin = given["physin"].value if "physin" in given else ""
    return Described(packet, numbers.get("mark", 0), numbers.get("uid", 0), numbers.get("gid", 0), mac, physin)


def _error(text: str, position: int, message: str) -> ParseError:
    return ParseError(Problem(message, "packet", None, position + 1, source=text))


def _next_word(text: str, position: int) -> int:
    """Where the word after a position begins, or the end of the text."""
    found = re.compile(r"\S").search(text, position)
    return found.start() if found else len(text)


def _protocol(text: str, name: str, position: int) -> int:
    low = name.lower()
    if low in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[low]
    if re.fullmatch(r"[0-9]{1,3}", low) and int(low) < 256:
        return int(low)
    raise _error(text, position, f"unknown protocol {name!r}: expected tcp, udp, sctp, icmp, another's name, or a number to 255")


def _end(text: str, word: str, position: int, protocol: int) -> _End:
    """``ADDRESS[:PORT]``; IPv6 with a port stands in brackets."""
    bracketed = re.fullmatch(r"\[(?P<host>[^\]]*)\](?::(?P<port>.*))?", word)
    plain = re.fullmatch(r"(?P<host>[^:]*)(?::(?P<port>[^:]*))?", word)
    found = bracketed or plain
    host, port = (found.group("host"), found.group("port")) if found else (word, None)
    try:
        family, address = parse_address(host)
    except ValueError:
        raise _error(text, position, f"expected an IP address, got {host!r}") from None
    if protocol not in _PORTED:
        if port is not None:
            raise _error(text, position + len(word) - len(port) - 1, "this protocol has no ports")
        return _End(family, address, 0)
    if port is None:
        hint = f"[{host}]:PORT" if family == 6 else f"{host}:PORT"
        raise _error(text, position + len(word), f"expected a port: {hint}")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise _error(text, position + len(word) - len(port), f"expected a port from 0 to 65535, got {port!r}")
    return _End(family, address, int(port))


def _options(text: str, start: int, protocol: int) -> dict[str, _Option]:
    given: dict[str, _Option] = {}
    position = _next_word(text, start)
    pattern = re.compile(r"\[\s*(?P<name>[A-Za-z]*)\s*(?P<value>[^\]\s]*)\s*(?P<end>\]?)")
    while position < len(text):
        found = pattern.match(text, position)
        if found is None:
            raise _error(text, position, "expected an option in brackets such as [flags SA] or [ttl 3]")
        name = found.group("name").lower()
        if name not in _OPTIONS:
            raise _error(text, found.start("name"), f"unknown option {name!r}: expected one of {', '.join(_OPTIONS)}")
        if not found.group("value"):
            raise _error(text, found.start("value"), f"expected a value: [{name} …]")
        if not found.group("end"):
            raise _error(text, _next_word(text, found.end("value")), "expected ']'")
        if name in given:
            raise _error(text, found.start("name"), f"{name} is given twice")
        _check_place(text, name, found.start("name"), protocol)
        given[name] = _Option(found.group("value"), found.start("name"), found.start("value"))
        position = _next_word(text, found.end())
    return given


def _check_place(text: str, name: str, position: int, protocol: int) -> None:
    owners = {"flags": frozenset((TCP,)), "type": frozenset((ICMP, ICMPV6))}.get(name) or _NUMBERS.get(name, (0, frozenset()))[1]
    if owners and protocol not in owners:
        kind = "tcp" if TCP in owners else "icmp" if ICMP in owners else "sctp"
        raise _error(text, position, f"{name} belongs to {kind} packets")


def _flags(text: str, option: _Option) -> int:
    try:
        return flag_bits(option.value)
    except ValueError as error:
        letter = str(error)
        position = option.value_at + option.value.upper().index(letter)
        raise _error(text, position, f"unknown TCP flag {letter!r}: expected letters of {FLAG_LETTERS}, or . for none") from None


def _icmp_type(text: str, given: Mapping[str, _Option]) -> tuple[int | None, int]:
    """``[type 3]`` or ``[type 3/1]``: the type and the code."""
    if "type" not in given:
        return None, 0
    option = given["type"]
    kind, slash, code = option.value.partition("/")
    position = option.value_at
    if "code" in given and slash:
        raise _error(text, given["code"].name_at, "code is given twice")
    first = _in_range(text, "type", kind, position, 255)
    return first, _in_range(text, "code", code, position + len(kind) + 1, 255) if slash else 0


def _number(text: str, name: str, option: _Option) -> int:
    return _in_range(text, name, option.value, option.value_at, _NUMBERS[name][0])


def _in_range(text: str, name: str, word: str, position: int, high: int) -> int:
    if re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", word):
        value = int(word, 16 if word[:2].lower() == "0x" else 10)
        if value <= high:
            return value
    raise _error(text, position, f"{name}: expected a number from 0 to {high}, got {word!r}")

"""The packet expression: ``tcp 203.0.113.7:40000 > 198.51.100.10:80 [flags SA] [ttl 3] [mark 0x1]``, read with a caret under errors.

IPv6 addresses stand in brackets where a port follows. What is not said has a sensible default (a SYN, TTL 64, an echo request).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dataplane.errors import ParseError, Problem
from dataplane.inet import ICMP, ICMPV6, PROTOCOL_NUMBERS, SCTP, TCP, UDP, UDPLITE, parse_address
from dataplane.packet import ACK, FLAG_LETTERS, SYN, Packet, TcpOptions

_PORTS = frozenset((TCP, UDP, SCTP, UDPLITE, 33))
_HEADERS = {TCP: 20, UDP: 8, SCTP: 12, ICMP: 8, ICMPV6: 8, UDPLITE: 8}
_OPTIONS = ("flags", "ttl", "mark", "seq", "ack", "win", "len", "tos", "type", "code", "id", "uid", "gid", "mac", "physin", "chunks")
_SYNTAX = "PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] [flags SA] [ttl 64] [mark 0x1] …"


@dataclass(frozen=True, slots=True)
class Described:
    """A packet and what comes with it: mark, sending user, source MAC, bridge port."""

    packet: Packet
    mark: int = 0
    uid: int = 0
    gid: int = 0
    mac: int | None = None
    physin: str = ""


def make_packet(
    protocol: int, family: int, saddr: int, daddr: int, sport: int = 0, dport: int = 0, *, flags: int | None = None, ttl: int = 64,
    seq: int | None = None, ack: int = 0, window: int = 65535, payload: int = 0, tos: int = 0, icmp_type: int | None = None,
    icmp_code: int = 0, icmp_id: int = 1, chunks: tuple[int, ...] = (1,),
) -> Packet:  # fmt: skip
    """A whole packet out of what was said; TCP defaults to a SYN, ICMP to an echo request, SCTP to INIT."""
    size = (20 if family == 4 else 40) + _HEADERS.get(protocol, 0) + payload
    common: dict[str, Any] = {"ttl": ttl, "tos": tos, "length": size, "payload": payload}
    if protocol == TCP:
        bits = SYN if flags is None else flags
        number = seq if seq is not None else (1000 if bits & SYN and not bits & ACK else 5000 if bits & SYN else 1001)
        options = TcpOptions() if bits & SYN else None
        answer = ack or (1001 if bits & SYN else 5001) if bits & ACK else 0
        return Packet(family, saddr, daddr, TCP, sport, dport, tcp_flags=bits, seq=number, ack=answer, window=window, tcp_options=options, **common)
    if protocol == (ICMP if family == 4 else ICMPV6):
        kind = icmp_type if icmp_type is not None else (8 if family == 4 else 128)
        return Packet(family, saddr, daddr, protocol, icmp_type=kind, icmp_code=icmp_code, icmp_id=icmp_id, **common)
    if protocol == SCTP:
        return Packet(family, saddr, daddr, SCTP, sport, dport, sctp_chunks=chunks, **common)
    return Packet(family, saddr, daddr, protocol, sport, dport, **common)


def parse_packet(text: str) -> Described:
    """Reads an expression. Raises ParseError with a caret under what is wrong."""
    found = re.match(r"\s*(\S+)\s+(\S+)\s*>\s*(\S+)", text)
    if not found:
        raise _error(text, len(text) if ">" in text else 0, f"expected {_SYNTAX}")
    name, source, target = found.groups()
    protocol = _protocol(text, name, found.start(1))
    ports = protocol in _PORTS
    (sfamily, saddr, sport), (dfamily, daddr, dport) = _end(text, source, found.start(2), ports), _end(text, target, found.start(3), ports)
    if sfamily != dfamily:
        raise _error(text, found.start(3), f"the source is IPv{sfamily}, the destination IPv{dfamily}")
    if protocol == ICMP and sfamily == 6:
        protocol = ICMPV6
    given = _options(text, found.end())
    flags = _flags(text, *given["flags"]) if "flags" in given else None
    numbers = {name: _number(text, *given[name]) for name in ("ttl", "mark", "seq", "ack", "win", "len", "tos", "type", "code", "id", "uid", "gid") if name in given}
    packet = make_packet(
        protocol, sfamily, saddr, daddr, sport, dport, flags=flags, ttl=numbers.get("ttl", 64), seq=numbers.get("seq"),
        ack=numbers.get("ack", 0), window=numbers.get("win", 65535), payload=numbers.get("len", 0), tos=numbers.get("tos", 0),
        icmp_type=numbers.get("type"), icmp_code=numbers.get("code", 0), icmp_id=numbers.get("id", 1),
    )  # fmt: skip
    mac = None
    if "mac" in given:
        if not re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", given["mac"][0]):
            raise _error(text, given["mac"][1], "expected a MAC address")
        mac = int(given["mac"][0].replace(":", ""), 16)
    physin = given["physin"][0] if "physin" in given else ""
    return Described(packet, numbers.get("mark", 0), numbers.get("uid", 0), numbers.get("gid", 0), mac, physin)


def _error(text: str, position: int, message: str) -> ParseError:
    return ParseError(Problem(message, "packet", None, position + 1, source=text))


def _protocol(text: str, name: str, position: int) -> int:
    low = name.lower()
    if low in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[low]
    if low.isdigit() and int(low) < 256:
        return int(low)
    raise _error(text, position, f"unknown protocol {name!r}: expected tcp, udp, sctp, icmp or a number")


def _end(text: str, word: str, position: int, ports: bool) -> tuple[int, int, int]:
    found = re.fullmatch(r"\[([^\]]*)\](?::(.*))?|([^:]*)(?::([^:]*))?|(.*)", word)
    assert found is not None
    host = found.group(1) or found.group(3) or found.group(5) or ""
    port = found.group(2) if found.group(1) is not None else found.group(4)
    try:
        family, address = parse_address(host)
    except ValueError:
        raise _error(text, position, f"{host!r} is not an IP address") from None
    if not ports:
        if port is not None:
            raise _error(text, position, "this protocol has no ports")
        return family, address, 0
    if port is None:
        hint = " (an IPv6 address with a port stands in brackets)" if family == 6 else ""
        raise _error(text, position, f"expected ADDRESS:PORT{hint}")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise _error(text, position + word.rindex(":") + 1, f"expected a port from 0 to 65535, got {port!r}")
    return family, address, int(port)


def _options(text: str, start: int) -> dict[str, tuple[str, int]]:
    given: dict[str, tuple[str, int]] = {}
    position = start
    for found in re.finditer(r"\s*(?:\[\s*([a-z]+)\s+([^\]\s]+)\s*\]|(\S+))", text[start:]):
        position = start + found.start(0) + len(found.group(0)) - len(found.group(0).lstrip())
        name = found.group(1)
        if name is None:
            raise _error(text, position, "expected an option in brackets such as [flags SA] or [ttl 3]")
        if name not in _OPTIONS:
            raise _error(text, start + found.start(1), f"unknown option {name!r}: expected one of {', '.join(_OPTIONS)}")
        given[name] = (found.group(2), start + found.start(2))
    return given


def _flags(text: str, word: str, position: int) -> int:
    bits = 0
    for offset, letter in enumerate("" if word == "." else word.upper()):
        if letter not in FLAG_LETTERS:
            raise _error(text, position + offset, f"unknown TCP flag {letter!r}: expected letters of {FLAG_LETTERS}")
        bits |= 1 << FLAG_LETTERS.index(letter)
    return bits


def _number(text: str, word: str, position: int) -> int:
    try:
        return int(word, 0)
    except ValueError:
        raise _error(text, position, f"expected a number, got {word!r}") from None

"""Bytes of packets: made with right checksums, and read back as far as verdicts need them.

Every packet carries a *tag* where neither NAT nor forwarding looks: the identification of IPv4, the flow label of IPv6. It
comes back in the packet itself and in what an ICMP error quotes of it, and leaves the length as it would be without one.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from tests.kernel.dialogue import COOKIE_ECHO, INIT, INIT_ACK, SACK, Segment

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
NUMBERS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
NAMES: Final = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmp"}
FLAG_LETTERS: Final = "FSRPAUEC"  # bit 0 upward
MAX_TAG: Final = 0xFFFF
SENTINEL: Final = 253  # an IP protocol for experiments (RFC 3692): packets that only mark a place in the queue

_ECHO: Final = {4: (8, 0), 6: (128, 129)}
_ERRORS: Final = {4: frozenset((3, 4, 5, 11, 12)), 6: frozenset((1, 2, 3, 4))}


@dataclass(frozen=True, slots=True)
class Header:
    """What is read of a packet. ``error`` is an ICMP error's (type, code); its ``tag`` is that of the packet it is about."""

    family: int
    src: str
    dst: str
    proto: str
    sport: int
    dport: int
    ttl: int
    tag: int
    flags: str = ""
    error: tuple[int, int] | None = None


def build(src: str, dst: str, segment: Segment, *, ttl: int = 64, tag: int = 0) -> bytes:
    """An IP packet without payload, and no options; its length is what a rule that asks for it sees."""
    family = 6 if ":" in dst else 4
    source, target = (socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, a) for a in (src, dst))
    protocol = NUMBERS.get(segment.proto, ICMP if family == 4 else ICMPV6)
    body = _transport(family, source + target, protocol, segment)
    if family == 6:
        return struct.pack(">IHBB", 6 << 28 | tag, len(body), protocol, ttl) + source + target + body
    return _ipv4(source, target, protocol, ttl, tag, body)


def sentinel(tag: int) -> bytes:
    """A packet that the observer reports and throws away before anything else sees it."""
    here = socket.inet_aton("127.0.0.1")
    return _ipv4(here, here, SENTINEL, 1, tag, b"")


def parse(data: bytes) -> Header | None:
    """The headers of an IP packet of which the first 160 bytes or so are there; None for what is not IP or is too short."""
    try:
        return _parse6(data) if data[0] >> 4 == 6 else _parse4(data)
    except (struct.error, IndexError):
        return None


def flag_bits(letters: str) -> int:
    """``SA`` as the TCP flags byte. ValueError for a letter that is none of FSRPAUEC."""
    return sum(1 << FLAG_LETTERS.index(letter) for letter in letters if letter != ".")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# ---------------------------------------------------------------------- making


def _ipv4(source: bytes, target: bytes, protocol: int, ttl: int, tag: int, body: bytes) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), tag, 0, ttl, protocol, 0) + source + target
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + body


def _transport(family: int, addresses: bytes, protocol: int, segment: Segment) -> bytes:
    pseudo = addresses + struct.pack(">IHBB", 0, 0, 0, protocol)
    if protocol == TCP:
        bits = flag_bits(segment.flags)
        body = struct.pack(">HHIIBBHHH", segment.sport, segment.dport, segment.seq, segment.ack, 5 << 4, bits, 65535, 0, 0)
        return _checked(pseudo, body, 16)
    if protocol == UDP:
        return _checked(pseudo, struct.pack(">HHHH", segment.sport, segment.dport, 8, 0), 6)
    if protocol == SCTP:
        body = struct.pack(">HHII", segment.sport, segment.dport, segment.vtag, 0) + _chunk(segment)
        return body[:8] + struct.pack("<I", crc32c(body)) + body[12:]
    body = struct.pack(">BBHHH", _ECHO[family][segment.answer], 0, 0, segment.sport, 1)
    return _checked(pseudo if family == 6 else b"", body, 2)


def _chunk(segment: Segment) -> bytes:
    kind = segment.chunk
    if kind in (INIT, INIT_ACK):
        return struct.pack(">BBHIIHHI", kind, 0, 20, segment.init_tag, 65535, 1, 1, 1)
    if kind == SACK:
        return struct.pack(">BBHIIHH", kind, 0, 16, 1, 65535, 0, 0)
    return struct.pack(">BBHI", kind, 0, 8, 0) if kind == COOKIE_ECHO else struct.pack(">BBH", kind, 0, 4)


def _checked(pseudo: bytes, body: bytes, offset: int) -> bytes:
    """The segment with its checksum, of which the length in the pseudo header (RFC 793, 8200) is part."""
    length = struct.pack(">I", len(body)) if pseudo else b""
    value = checksum(pseudo + length + body) or 0xFFFF
    return body[:offset] + struct.pack(">H", value) + body[offset + 2 :]


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


# ---------------------------------------------------------------------- reading


def _parse4(data: bytes) -> Header:
    tag = struct.unpack_from(">H", data, 4)[0]
    src, dst = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    body = data[(data[0] & 15) * 4 :]
    first = struct.unpack_from(">H", data, 6)[0] & 0x1FFF == 0
    return _header(4, src, dst, data[9], data[8], tag, body if first else b"")


def _parse6(data: bytes) -> Header:
    tag = struct.unpack_from(">I", data)[0] & 0xFFFFF
    src, dst = (socket.inet_ntop(socket.AF_INET6, part) for part in (data[8:24], data[24:40]))
    return _header(6, src, dst, data[6], data[7], tag, data[40:])


def _header(family: int, src: str, dst: str, protocol: int, ttl: int, tag: int, body: bytes) -> Header:
    name = NAMES.get(protocol, str(protocol))
    if not body or name.isdigit():
        return Header(family, src, dst, name, 0, 0, ttl, tag)
    if name == "icmp":
        if body[0] in _ERRORS[family]:
            about = parse(body[8:])
            return Header(family, src, dst, name, 0, 0, ttl, about.tag if about else 0, error=(body[0], body[1]))
        return Header(family, src, dst, name, struct.unpack_from(">H", body, 4)[0], 0, ttl, tag)
    sport, dport = struct.unpack_from(">HH", body)
    flags = ""
    if name == "tcp":
        flags = "".join(letter for bit, letter in enumerate(FLAG_LETTERS) if body[13] >> bit & 1) or "."
    return Header(family, src, dst, name, sport, dport, ttl, tag, flags)

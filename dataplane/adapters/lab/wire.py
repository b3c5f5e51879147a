"""Bytes of packets: made with right checksums, and read back as far as verdicts need them.

Every packet carries a *tag* where neither NAT nor forwarding looks: the identification of IPv4, the flow label of IPv6. It
comes back in the packet itself and in what an ICMP error quotes of it, and leaves the length as it would be without one.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Final, NamedTuple

from dataplane.adapters.lab.dialogue import COOKIE_ECHO, INIT, INIT_ACK, SACK, Segment

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
NUMBERS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
NAMES: Final = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmp"}
FLAG_LETTERS: Final = "FSRPAUEC"  # bit 0 upward
MAX_TAG: Final = 0xFFFF
SENTINEL: Final = 253  # an IP protocol for experiments (RFC 3692): packets that only mark a place in the queue

ECHO: Final = {4: (8, 0), 6: (128, 129)}
_ERRORS: Final = {4: frozenset((3, 4, 5, 11, 12)), 6: frozenset((1, 2, 3, 4))}


class Header(NamedTuple):
    """What is read of a packet. ``error`` is an ICMP error's (type, code); its ``tag`` is its own, ``about`` that of the quoted packet."""

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
    about: int = 0
    tos: int = 0
    length: int = 0


def build(src: str, dst: str, segment: Segment, *, ttl: int = 64, tag: int = 0, tos: int = 0) -> bytes:
    """An IP packet without options; its payload is zeros."""
    family = 6 if ":" in dst else 4
    source, target = packed(src), packed(dst)
    protocol = NUMBERS.get(segment.proto, ICMP if family == 4 else ICMPV6)
    body = _transport(family, source + target, protocol, segment)
    if family == 6:
        return struct.pack(">IHBB", 6 << 28 | tos << 20 | tag, len(body), protocol, ttl) + source + target + body
    return _ipv4(source, target, protocol, ttl, tag, body, tos)


def fragments(data: bytes, first: int) -> tuple[bytes, bytes]:
    """An IPv4 packet in two pieces; ``first`` is the bytes of its body in the first one (a multiple of 8)."""
    source, target, tag = data[12:16], data[16:20], struct.unpack_from(">H", data, 4)[0]
    pieces = []
    for offset, body in ((0, data[20 : 20 + first]), (first, data[20 + first :])):
        where = offset // 8 | (0x2000 if offset == 0 else 0)
        pieces.append(_ipv4(source, target, data[9], data[8], tag, body, data[1], where))
    return pieces[0], pieces[1]


@lru_cache(4096)
def packed(text: str) -> bytes:
    """An address as bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


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


def _ipv4(
    source: bytes, target: bytes, protocol: int, ttl: int, tag: int, body: bytes, tos: int = 0, where: int = 0
) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(body), tag, where, ttl, protocol, 0) + source + target
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + body


def _transport(family: int, addresses: bytes, protocol: int, segment: Segment) -> bytes:
    pseudo = addresses + struct.pack(">IHBB", 0, 0, 0, protocol)
    if protocol == TCP:
        bits = flag_bits(segment.flags)
        body = struct.pack(">HHIIBBHHH", segment.sport, segment.dport, segment.seq, segment.ack, 5 << 4, bits, 65535, 0, 0)
        body += bytes(segment.length)
        return _checked(pseudo, body, 16)
    if protocol == UDP:
        return _checked(pseudo, struct.pack(">HHHH", segment.sport, segment.dport, 8 + segment.length, 0) + bytes(segment.length), 6)
    if protocol == SCTP:
        body = struct.pack(">HHII", segment.sport, segment.dport, segment.vtag, 0) + _chunk(segment)
        return body[:8] + struct.pack("<I", crc32c(body)) + body[12:]
    if segment.quoted is not None:
        quoted = segment.quoted
        about = build(quoted.src, quoted.dst, quoted.segment, ttl=quoted.ttl, tos=quoted.tos)
        body = struct.pack(">BBHI", *segment.error, 0, 0) + about
    else:
        body = struct.pack(">BBHHH", ECHO[family][segment.answer], 0, 0, segment.sport, 1) + bytes(segment.length)
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


_START4: Final = struct.Struct(">BBHHHBBH4s4s")
_START6: Final = struct.Struct(">IHBB16s16s")
_PORTS: Final = struct.Struct(">HH")


@lru_cache(65536)
def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


@lru_cache(256)
def _letters(bits: int) -> str:
    return "".join(letter for bit, letter in enumerate(FLAG_LETTERS) if bits >> bit & 1) or "."


def _parse4(data: bytes) -> Header:
    first, tos, length, tag, where, ttl, protocol, _, source, target = _START4.unpack_from(data)
    start = (first & 15) * 4
    return _header(4, _text(source), _text(target), protocol, ttl, tag, tos, length, data, start if where & 0x1FFF == 0 else len(data))


def _parse6(data: bytes) -> Header:
    first, length, protocol, ttl, source, target = _START6.unpack_from(data)
    return _header(6, _text(source), _text(target), protocol, ttl, first & 0xFFFFF, first >> 20 & 0xFF, length + 40, data, 40)


def _header(
    family: int, src: str, dst: str, protocol: int, ttl: int, tag: int, tos: int, length: int, data: bytes, start: int
) -> Header:
    name = NAMES.get(protocol)
    if start >= len(data) or name is None:
        return Header(family, src, dst, name or str(protocol), 0, 0, ttl, tag, tos=tos, length=length)
    if name == "icmp":
        kind = data[start]
        if kind in _ERRORS[family]:
            quoted = parse(data[start + 8 :])
            about = quoted.tag if quoted else 0
            return Header(family, src, dst, name, 0, 0, ttl, tag, "", (kind, data[start + 1]), about, tos, length)
        return Header(family, src, dst, name, _PORTS.unpack_from(data, start + 4)[0], 0, ttl, tag, tos=tos, length=length)
    sport, dport = _PORTS.unpack_from(data, start)
    flags = _letters(data[start + 13]) if protocol == TCP else ""
    return Header(family, src, dst, name, sport, dport, ttl, tag, flags, tos=tos, length=length)


# ---------------------------------------------------------------------- checking


def valid(data: bytes) -> bool:
    """Whether the checksums of a whole packet are right (a UDP checksum of 0 over IPv4 is none)."""
    if data[0] >> 4 == 4:
        start, protocol, length = (data[0] & 15) * 4, data[9], struct.unpack_from(">H", data, 2)[0]
        addresses = data[12:20]
        if checksum(data[:start]):
            return False
        if struct.unpack_from(">H", data, 6)[0] & 0x3FFF:
            return True  # a fragment: the other checksum is the whole packet's
    else:
        start, protocol, length = 40, data[6], 40 + struct.unpack_from(">H", data, 4)[0]
        addresses = data[8:40]
    body = data[start:]
    if len(data) != length:
        return True  # more than was logged
    if protocol == SCTP:
        return bool(struct.unpack_from("<I", body, 8)[0] == crc32c(body[:8] + bytes(4) + body[12:]))
    if protocol == UDP and body[6:8] == b"\0\0":
        return len(addresses) == 8
    if protocol not in (TCP, UDP, ICMPV6):
        return protocol != ICMP or not checksum(body)
    return not checksum(addresses + struct.pack(">II", len(body), protocol) + body)


def finished(data: bytes) -> bytes:
    """A packet with the transport checksum that its device would have filled in."""
    start, protocol = ((data[0] & 15) * 4, data[9]) if data[0] >> 4 == 4 else (40, data[6])
    offset = {TCP: 16, UDP: 6, ICMPV6: 2}.get(protocol)
    if offset is None:
        return data
    addresses = data[12:20] if data[0] >> 4 == 4 else data[8:40]
    pseudo = addresses + struct.pack(">IHBB", 0, 0, 0, protocol)
    body = data[start:]
    return data[:start] + _checked(pseudo, body[:offset] + bytes(2) + body[offset + 2 :], offset)

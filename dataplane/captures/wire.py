"""The bytes of an IP packet: read into a Packet, and rewritten where a Packet has changed.

A rewritten checksum is adjusted by what changed (RFC 1624), so one that was wrong stays wrong. Source: RFC 791, 8200, 9293, 768, 9260, 792, 4443.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from dataplane.inet import AH, ESP, ICMP, ICMPV6, SCTP, TCP, UDP
from dataplane.packet import Packet, TcpOptions

_EXTENSIONS: Final = frozenset((0, 43, 60, 135, 139, 140))  # each with its own length; 44 and AH are told apart
_FRAGMENT: Final = 44
_ERRORS: Final = {4: frozenset((3, 4, 5, 11, 12)), 6: frozenset((1, 2, 3, 4, 137))}
_IDENTIFIED: Final = {4: frozenset((0, 8, 13, 14, 15, 16, 17, 18)), 6: frozenset((128, 129))}
_KNOWN_OPTIONS: Final = frozenset((0, 1, 2, 3, 4, 5, 8))


class Malformed(ValueError):
    """Bytes that are no whole IP packet; says what is wrong."""


def read(data: bytes) -> Packet:
    """The packet whose IP header begins the bytes; what lies behind its length (padding) does not count. Malformed for no IP packet."""
    return _packet(data, quoted=False)


def _packet(data: bytes, *, quoted: bool) -> Packet:
    if not data:
        raise Malformed("no bytes")
    version = data[0] >> 4
    if version == 4:
        return _read4(data, quoted=quoted)
    if version == 6:
        return _read6(data, quoted=quoted)
    raise Malformed(f"IP version {version}")


def _read4(data: bytes, *, quoted: bool) -> Packet:
    if len(data) < 20:
        raise Malformed(f"an IPv4 header of {len(data)} bytes")
    head, tos, length, ident, flags, ttl, protocol, _, saddr, daddr = struct.unpack_from(">BBHHHBBHII", data)
    size = (head & 15) * 4
    if size < 20 or len(data) < size:
        raise Malformed(f"an IPv4 header of {size} bytes in {len(data)}")
    if length == 0 and not quoted:
        length = len(data)  # segmentation offload leaves it to the card
    if length < size:
        raise Malformed(f"an IPv4 packet of {length} bytes with a header of {size}")
    offset = (flags & 0x1FFF) * 8
    fields = _transport(data, size, protocol, 4, length - size, first=offset == 0, quoted=quoted)
    return Packet(
        4, saddr, daddr, protocol, ttl=ttl, tos=tos, length=length, ip_id=ident, dont_fragment=bool(flags & 0x4000), more_fragments=bool(flags & 0x2000),
        fragment_offset=offset, ip_options=_options4(data[20:size]), **fields,
    )  # fmt: skip


def _options4(data: bytes) -> tuple[int, ...]:
    found, place = [], 0
    while place < len(data) and data[place]:
        if data[place] == 1:
            place += 1
            continue
        found.append(data[place])
        length = data[place + 1] if place + 1 < len(data) else 0
        if length < 2:
            break
        place += length
    return tuple(found)


def _read6(data: bytes, *, quoted: bool) -> Packet:
    if len(data) < 40:
        raise Malformed(f"an IPv6 header of {len(data)} bytes")
    first, plen, protocol, ttl = struct.unpack_from(">IHBB", data)
    if plen == 0 and protocol != 59 and not quoted:
        plen = len(data) - 40
    saddr, daddr = int.from_bytes(data[8:24], "big"), int.from_bytes(data[24:40], "big")
    more: dict[str, Any] = {"more_fragments": False, "fragment_offset": 0, "ip_id": 0}  # fields of Packet
    place, extensions, protocol = _extensions(data, protocol, more, quoted=quoted)
    fields = _transport(data, place, protocol, 6, 40 + plen - place, first=not more["fragment_offset"], quoted=quoted)
    return Packet(
        6, saddr, daddr, protocol, ttl=ttl, tos=first >> 20 & 0xFF, length=40 + plen, dont_fragment=True, ip_options=extensions, **more, **fields,
    )  # fmt: skip


def _extensions(data: bytes, protocol: int, more: dict[str, Any], *, quoted: bool) -> tuple[int, tuple[int, ...], int]:
    """Where the transport header begins, the extension headers before it, and its protocol; a fragment header is noted in ``more``."""
    place, found = 40, []
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        if len(data) < place + 8:
            if quoted:
                break
            raise Malformed("cut within the IPv6 extension headers")
        if protocol == _FRAGMENT:
            where, ident = struct.unpack_from(">HI", data, place + 2)
            more.update(more_fragments=bool(where & 1), fragment_offset=where & 0xFFF8, ip_id=ident)
            size = 8
        else:
            found.append(protocol)
            size = 8 + data[place + 1] * 8
        protocol, place = data[place], place + size
        if more["fragment_offset"]:
            break
    return place, tuple(found), protocol


def _transport(data: bytes, place: int, protocol: int, family: int, size: int, *, first: bool, quoted: bool) -> dict[str, Any]:  # Any: fields of Packet
    """The transport header's fields; ``size`` is that of the IP payload, of which a later fragment shows no header."""
    body = data[place:]
    if not first:
        return {"payload": size}
    if protocol == TCP:
        return _tcp(body, size, quoted=quoted)
    if protocol in (UDP, SCTP):
        _needs(body, 4 if quoted else 8 if protocol == UDP else 12, protocol)
        fields = {"sport": body[0] << 8 | body[1], "dport": body[2] << 8 | body[3], "payload": max(0, size - (8 if protocol == UDP else 12))}
        if protocol == SCTP and len(body) >= 8:
            fields["vtag"] = int.from_bytes(body[4:8], "big")
            fields |= _chunks(body[12:])
        return fields
    if protocol == (ICMP if family == 4 else ICMPV6):
        return _icmp(body, family, size)
    if protocol in (ESP, AH) and len(body) >= 8:
        return {"payload": size, "spi": int.from_bytes(body[:4] if protocol == ESP else body[4:8], "big")}
    return {"payload": size}


def _needs(body: bytes, size: int, protocol: int) -> None:
    if len(body) < size:
        raise Malformed(f"{len(body)} of {size} bytes of a transport header (protocol {protocol})")


def _tcp(body: bytes, size: int, *, quoted: bool) -> dict[str, Any]:
    _needs(body, 4 if quoted else 20, TCP)
    fields: dict[str, Any] = {"sport": body[0] << 8 | body[1], "dport": body[2] << 8 | body[3]}
    if len(body) < 20:
        return fields
    seq, ack, offset, flags, window = struct.unpack_from(">IIBBH", body, 4)
    header = (offset >> 4) * 4
    if header < 20 and not quoted:
        raise Malformed(f"a TCP header of {header} bytes")
    return fields | {
        "seq": seq, "ack": ack, "tcp_flags": flags, "window": window, "payload": max(0, size - header), "tcp_options": _tcp_options(body[20:header]),
    }  # fmt: skip


def _tcp_options(data: bytes) -> TcpOptions | None:
    if not data:
        return TcpOptions()
    found: dict[str, Any] = {}
    other: list[int] = []
    place = 0
    while place < len(data) and data[place]:
        kind = data[place]
        if kind == 1:
            place += 1
            continue
        length = data[place + 1] if place + 1 < len(data) else 0
        if length < 2:
            break
        value = data[place + 2 : place + length]
        if kind == 2 and len(value) == 2:
            found["mss"] = value[0] << 8 | value[1]
        elif kind == 3 and value:
            found["wscale"] = value[0]
        elif kind == 4:
            found["sack_permitted"] = True
        elif kind == 5:
            edges = [int.from_bytes(value[at : at + 4], "big") for at in range(0, len(value) - 3, 4)]
            found["sack"] = tuple(zip(edges[::2], edges[1::2], strict=False))
        elif kind == 8:
            found["timestamp"] = True
        if kind not in _KNOWN_OPTIONS:
            other.append(kind)
        place += length
    return TcpOptions(other=tuple(other), **found)


def _chunks(data: bytes) -> dict[str, Any]:
    kinds: list[int] = []
    place, tag = 0, None
    while place + 4 <= len(data):
        length = data[place + 2] << 8 | data[place + 3]
        if not kinds and data[place] in (1, 2) and len(data) >= place + 8:
            tag = int.from_bytes(data[place + 4 : place + 8], "big")
        kinds.append(data[place])
        if length < 4:
            break
        place += length + (-length) % 4
    return {"sctp_chunks": tuple(kinds), "init_tag": tag}


def _icmp(body: bytes, family: int, size: int) -> dict[str, Any]:
    _needs(body, 8, ICMP)
    kind = body[0]
    fields: dict[str, Any] = {"icmp_type": kind, "icmp_code": body[1], "payload": max(0, size - 8)}
    if kind in _ERRORS[family]:
        start, end = _info_place(family, kind)
        fields["icmp_info"] = int.from_bytes(body[start:end], "big")
        try:
            fields["inner"] = _packet(body[8:], quoted=True) if len(body) > 8 else None
        except Malformed:
            fields["inner"] = None
    elif kind in _IDENTIFIED[family]:
        fields["icmp_id"] = body[4] << 8 | body[5]
    return fields


def _info_place(family: int, kind: int) -> tuple[int, int]:
    """Where an ICMP error keeps its MTU, pointer or gateway."""
    if family == 6 or kind == 5:
        return 4, 8
    return (4, 5) if kind == 12 else (6, 8)


# ---------------------------------------------------------------------- rewriting


def rewritten(data: bytes, before: Packet, after: Packet) -> bytes:
    """The bytes of ``before`` with the addresses, ports, TTL, TOS and quoted packet of ``after``."""
    if before == after:
        return data
    found = bytearray(data)
    _rewrite(found, 0, before, after, quoted=False)
    return bytes(found)


def _rewrite(data: bytearray, start: int, before: Packet, after: Packet, *, quoted: bool) -> None:
    old = bytes(data[start:])
    place = _header_end(old, before)
    _rewrite_header(data, start, before, after)
    moved = _folded(_addresses(before)) - _folded(_addresses(after))
    if before.fragment_offset or place + 4 > len(old):
        return
    body = start + place
    if before.protocol in (TCP, UDP, SCTP):
        ports = struct.pack(">HH", after.sport, after.dport)
        delta = moved + _folded(bytes(data[body : body + 4])) - _folded(ports)
        data[body : body + 4] = ports
        if before.protocol == SCTP:
            if len(data) >= body + 12 and ports != old[place : place + 4] and not quoted:
                _sctp_checksum(data, body, old, place)
        else:
            _adjust(data, body + (16 if before.protocol == TCP else 6), delta, udp=before.protocol == UDP)
    elif before.is_icmp:
        _rewrite_icmp(data, body, before, after, moved)


def _header_end(data: bytes, packet: Packet) -> int:
    if packet.family == 4:
        return (data[0] & 15) * 4
    more: dict[str, Any] = {"fragment_offset": 0}  # as above
    return _extensions(data, data[6], more, quoted=True)[0]


def _addresses(packet: Packet) -> bytes:
    size = 4 if packet.family == 4 else 16
    return packet.saddr.to_bytes(size, "big") + packet.daddr.to_bytes(size, "big")


def _rewrite_header(data: bytearray, start: int, before: Packet, after: Packet) -> None:
    if before.family == 6:
        data[start + 8 : start + 40] = _addresses(after)
        data[start + 7] = after.ttl
        if before.tos != after.tos:
            word = struct.unpack_from(">I", data, start)[0] & ~(0xFF << 20) | after.tos << 20
            struct.pack_into(">I", data, start, word)
        return
    size = (data[start] & 15) * 4
    old = bytes(data[start : start + size])
    data[start + 1], data[start + 8] = after.tos, after.ttl
    data[start + 12 : start + 20] = _addresses(after)
    _adjust(data, start + 10, _folded(old) - _folded(bytes(data[start : start + size])), udp=False)


def _rewrite_icmp(data: bytearray, body: int, before: Packet, after: Packet, moved: int) -> None:
    old = bytes(data[body:])
    if before.inner is not None and after.inner is not None and before.inner != after.inner:
        _rewrite(data, body + 8, before.inner, after.inner, quoted=True)
    elif before.icmp_id != after.icmp_id:
        struct.pack_into(">H", data, body + 4, after.icmp_id)
    delta = _folded(old) - _folded(bytes(data[body:])) + (moved if before.family == 6 else 0)
    _adjust(data, body + 2, delta, udp=False)


def _folded(data: bytes) -> int:
    """The sum of 16-bit words, not yet folded."""
    if len(data) % 2:
        data += b"\0"
    return sum(struct.unpack(f">{len(data) // 2}H", data))


def _adjust(data: bytearray, place: int, delta: int, *, udp: bool) -> None:
    """RFC 1624: HC' = ~(~HC + ~m + m'); ``delta`` is m - m'. A UDP checksum of 0 says that there is none."""
    if len(data) < place + 2:
        return
    known = data[place] << 8 | data[place + 1]
    if (udp and known == 0) or delta == 0:
        return
    total = (known + delta) % 0xFFFF
    value = total or (0xFFFF if udp or known == 0xFFFF else 0)
    data[place : place + 2] = value.to_bytes(2, "big")


def _sctp_checksum(data: bytearray, body: int, old: bytes, place: int) -> None:
    """A CRC cannot be adjusted by parts: made anew if it was right before."""
    before = bytearray(old[place:])
    told, before[8:12] = bytes(before[8:12]), bytes(4)
    if crc32c(bytes(before)) != int.from_bytes(told, "little"):
        return
    data[body + 8 : body + 12] = bytes(4)
    data[body + 8 : body + 12] = crc32c(bytes(data[body:])).to_bytes(4, "little")


def crc32c(data: bytes) -> int:
    """The CRC of SCTP (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _crc_row(number: int) -> int:
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    return number


_CRC: Final = tuple(_crc_row(number) for number in range(256))


# ---------------------------------------------------------------------- making


def made(packet: Packet, quoted: bytes = b"") -> bytes:
    """The bytes of what a node sends by itself: a TCP segment without data or an ICMP error about ``quoted``."""
    if packet.protocol == TCP:
        body = struct.pack(">HHIIBBHHH", packet.sport, packet.dport, packet.seq, packet.ack, 5 << 4, packet.tcp_flags, packet.window, 0, 0)
        place = 16
    else:
        start, end = _info_place(packet.family, packet.icmp_type)
        info = packet.icmp_info.to_bytes(end - start, "big")
        rest = bytes(start - 4) + info + bytes(8 - end)
        room = max(0, packet.length - (28 if packet.family == 4 else 48)) or len(quoted)
        body, place = bytes((packet.icmp_type, packet.icmp_code, 0, 0)) + rest + quoted[:room], 2
    pseudo = _addresses(packet) + struct.pack(">IHBB", len(body), 0, 0, packet.protocol) if packet.protocol == TCP or packet.family == 6 else b""
    total = (0xFFFF - _folded(pseudo + body) % 0xFFFF) or 0xFFFF
    body = body[:place] + total.to_bytes(2, "big") + body[place + 2 :]
    if packet.family == 6:
        return struct.pack(">IHBB", 6 << 28 | packet.tos << 20, len(body), packet.protocol, packet.ttl) + _addresses(packet) + body
    head = struct.pack(
        ">BBHHHBBH", 0x45, packet.tos, 20 + len(body), packet.ip_id, 0x4000 if packet.dont_fragment else 0, packet.ttl, packet.protocol, 0
    ) + _addresses(packet)
    total = 0xFFFF - _folded(head) % 0xFFFF
    return head[:10] + total.to_bytes(2, "big") + head[12:] + body


def checksum_is_wrong(data: bytes, packet: Packet) -> bool:
    """Whether the transport checksum of a whole, unfragmented packet does not fit; False where that cannot be told."""
    place = _header_end(data, packet)
    body = data[place : packet.length]
    if packet.more_fragments or packet.fragment_offset or len(data) < packet.length or packet.ip_options:
        return False
    if packet.protocol not in (TCP, UDP) and not packet.is_icmp:
        return False
    if packet.protocol == UDP and body[6:8] == b"\0\0":
        return packet.family == 6
    pseudo = b"" if packet.protocol == ICMP else _addresses(packet) + struct.pack(">IHBB", len(body), 0, 0, packet.protocol)
    return _folded(pseudo + body) % 0xFFFF != 0

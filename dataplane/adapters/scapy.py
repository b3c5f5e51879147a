"""Scapy packets in and out: headers are read into a Packet, and written back after a walk with lengths and checksums made anew.

Works on the IP layer and what is in it; an Ethernet header is read for its source address and left behind, because
what leaves a node has other addresses there. Scapy is GPL-2.0-only and slow to import: this module is loaded only when a
user hands over one of its packets.
"""

from __future__ import annotations

import logging
from typing import Any, Final

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # before it is imported: it warns of missing routes

from scapy.layers.inet import IP, TCP, UDP, IPerror  # noqa: E402
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402
from scapy.layers.sctp import SCTP  # noqa: E402
from scapy.packet import NoPayload, Raw  # noqa: E402

from dataplane import inet  # noqa: E402
from dataplane.errors import InputError, Problem  # noqa: E402
from dataplane.inet import format_address, parse_address  # noqa: E402
from dataplane.packet import Packet, TcpOptions  # noqa: E402

# Scapy has no types of its own: its packets are Any throughout this file.
Layer = Any

_EXTENSION_HEADERS: Final = frozenset((0, 43, 60, 135))
_ECHO6: Final = frozenset((128, 129))
_IDENTIFIED4: Final = frozenset((0, 8, 13, 14, 15, 16, 17, 18))
_ERRORS: Final = {4: frozenset((3, 4, 5, 11, 12)), 6: frozenset((1, 2, 3, 4))}
_REDIRECT: Final = 5
_PARAMETER_PROBLEM: Final = 12
_TCP_OPTIONS: Final = {"EOL": 0, "NOP": 1, "MSS": 2, "WScale": 3, "SAckOK": 4, "SAck": 5, "Timestamp": 8}


def from_scapy(packet: Layer) -> Packet:
    """The header fields of a scapy packet. Raises InputError for one without an IP layer."""
    if not hasattr(packet, "haslayer"):
        raise InputError(Problem(f"expected a packet expression, a Packet or a scapy packet, got {type(packet).__name__}"))
    layer = _ip_layer(packet)
    built = layer.__class__(bytes(layer))  # lengths, header sizes and checksums are filled in
    return _read4(built) if built.version == 4 else _read6(built)


def source_mac(packet: Layer) -> int | None:
    """The source address of the Ethernet frame around the packet, if there is one."""
    if not packet.haslayer(Ether):
        return None
    return int(str(packet[Ether].src).replace(":", ""), 16)


def to_scapy(packet: Packet, given: Layer | None) -> Layer:
    """A scapy packet with these header fields; payload and options are those of ``given``, where there is one."""
    layer = _ip_layer(given).copy() if given is not None else _made(packet)
    _write_ip(layer, packet)
    _write_transport(layer.payload, packet)
    return layer.__class__(bytes(layer))


def _ip_layer(packet: Layer) -> Layer:
    for kind in (IP, IPv6):
        if packet.haslayer(kind):
            return packet[kind]
    raise InputError(Problem(f"a packet without an IP or IPv6 layer: {packet.summary()}"))


# ---------------------------------------------------------------------- reading


def _read4(layer: Layer) -> Packet:
    header = 4 * int(layer.ihl or 5)
    fields: dict[str, Any] = {
        "family": 4, "saddr": parse_address(layer.src)[1], "daddr": parse_address(layer.dst)[1], "protocol": int(layer.proto),
        "ttl": int(layer.ttl), "tos": int(layer.tos), "length": int(layer.len), "ip_id": int(layer.id),
        "dont_fragment": bool(layer.flags & 2), "more_fragments": bool(layer.flags & 1), "fragment_offset": 8 * int(layer.frag),
        "ip_options": tuple(int(option.option) for option in layer.options if option.option > 1),
    }  # fmt: skip
    return Packet(**fields, **_transport(layer.payload, int(layer.proto), 4, int(layer.len) - header, first=not layer.frag))


def _read6(layer: Layer) -> Packet:
    fields: dict[str, Any] = {
        "family": 6, "saddr": parse_address(layer.src)[1], "daddr": parse_address(layer.dst)[1], "ttl": int(layer.hlim),
        "tos": int(layer.tc), "length": 40 + int(layer.plen), "dont_fragment": True,
    }  # fmt: skip
    extensions: list[int] = []
    protocol, inner, left, first = int(layer.nh), layer.payload, int(layer.plen), True
    while protocol in _EXTENSION_HEADERS or isinstance(inner, IPv6ExtHdrFragment):
        if isinstance(inner, IPv6ExtHdrFragment):
            first = not inner.offset
            fields |= {"fragment_offset": 8 * int(inner.offset), "more_fragments": bool(inner.m), "ip_id": int(inner.id)}
        else:
            extensions.append(protocol)
        left -= len(inner) - len(inner.payload)
        protocol, inner = int(inner.nh), inner.payload
    return Packet(protocol=protocol, ip_options=tuple(extensions), **fields, **_transport(inner, protocol, 6, left, first=first))


def _transport(layer: Layer, protocol: int, family: int, size: int, *, first: bool) -> dict[str, Any]:
    """The transport header's fields; ``size`` is that of the IP payload, of which a later fragment shows no header."""
    if not first:
        return {"payload": size}
    if protocol == inet.TCP and isinstance(layer, TCP):
        return {
            "sport": int(layer.sport), "dport": int(layer.dport), "tcp_flags": int(layer.flags) & 0xFF, "seq": int(layer.seq),
            "ack": int(layer.ack), "window": int(layer.window), "payload": size - 4 * int(layer.dataofs or 5),
            "tcp_options": _read_options(layer.options),
        }  # fmt: skip
    if protocol == inet.UDP and isinstance(layer, UDP):
        return {"sport": int(layer.sport), "dport": int(layer.dport), "payload": size - 8}
    if protocol == inet.SCTP and isinstance(layer, SCTP):
        return {
            "sport": int(layer.sport), "dport": int(layer.dport), "vtag": int(layer.tag or 0), "payload": size - 12,
            "sctp_chunks": _chunks(layer.payload),
        }  # fmt: skip
    if protocol == (inet.ICMP if family == 4 else inet.ICMPV6) and not isinstance(layer, NoPayload | Raw):
        return _read_icmp(layer, family, size)
    return {"payload": size}


def _read_icmp(layer: Layer, family: int, size: int) -> dict[str, Any]:
    kind = int(layer.type)
    fields: dict[str, Any] = {"icmp_type": kind, "icmp_code": int(getattr(layer, "code", 0)), "payload": size - 8}
    if kind in _ERRORS[family]:
        raw = bytes(layer)
        start, end = _info_place(family, kind)
        fields["icmp_info"] = int.from_bytes(raw[start:end], "big")
        if len(raw) > 8 + (20 if family == 4 else 40):
            about = raw[8:]
            fields["inner"] = _read4(_padded(IP(about))) if family == 4 else _read6(IPv6(about))
    elif kind in (_IDENTIFIED4 if family == 4 else _ECHO6):
        fields["icmp_id"] = int(layer.id or 0)
    return fields


def _padded(layer: Layer) -> Layer:
    """A quoted packet is cut short: ports are readable, the rest need not be."""
    if isinstance(layer.payload, Raw) and layer.proto == inet.TCP and len(layer.payload) >= 8:
        layer.payload = TCP(bytes(layer.payload).ljust(20, b"\0"))
    return layer


def _read_options(options: Layer) -> TcpOptions:
    named = {name: value for name, value in options if isinstance(name, str)}
    edges = named.get("SAck") or ()
    return TcpOptions(
        mss=named.get("MSS"), wscale=named.get("WScale"), sack_permitted="SAckOK" in named, timestamp="Timestamp" in named,
        sack=tuple(zip(edges[::2], edges[1::2], strict=False)),
        other=tuple(name for name, _ in options if isinstance(name, int) and name not in _TCP_OPTIONS.values()),
    )  # fmt: skip


def _chunks(layer: Layer) -> tuple[int, ...]:
    found = []
    while hasattr(layer, "type") and not isinstance(layer, NoPayload | Raw):
        found.append(int(layer.type))
        layer = layer.payload
    return tuple(found)


# ---------------------------------------------------------------------- writing


def _write_ip(layer: Layer, packet: Packet) -> None:
    layer.src, layer.dst = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    if packet.family == 6:
        layer.hlim, layer.tc, layer.plen = packet.ttl, packet.tos, None
        return
    layer.ttl, layer.tos, layer.id = packet.ttl, packet.tos, packet.ip_id
    layer.len = layer.chksum = None


def _write_transport(layer: Layer, packet: Packet) -> None:
    while layer.__class__.__name__.startswith("IPv6ExtHdr"):
        layer = layer.payload
    if isinstance(layer, TCP):
        layer.sport, layer.dport, layer.chksum = packet.sport, packet.dport, None
        layer.seq, layer.ack, layer.window, layer.flags = packet.seq, packet.ack, packet.window, packet.tcp_flags
    elif isinstance(layer, UDP | SCTP):
        layer.sport, layer.dport, layer.chksum = packet.sport, packet.dport, None
    elif packet.is_icmp and not isinstance(layer, NoPayload | Raw):
        _write_icmp(layer, packet)


def _write_icmp(layer: Layer, packet: Packet) -> None:
    if packet.inner is not None:
        about = layer.payload
        if isinstance(about, IP | IPerror | IPv6):
            _write_quoted(about, packet.inner)
    elif hasattr(layer, "id"):
        layer.id = packet.icmp_id
    layer.chksum = None
    if hasattr(layer, "cksum"):
        layer.cksum = None


def _write_quoted(layer: Layer, packet: Packet) -> None:
    """Addresses and ports of the packet that an ICMP error quotes; NAT rewrites them too."""
    layer.src, layer.dst = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    if packet.family == 4:
        layer.chksum = None
    inner = layer.payload
    if hasattr(inner, "sport"):
        inner.sport, inner.dport = packet.sport, packet.dport
    elif packet.is_icmp and hasattr(inner, "id"):
        inner.id = packet.icmp_id


def _made(packet: Packet) -> Layer:
    """A scapy packet from nothing but the fields, for what the node itself sends."""
    layer = IP(proto=packet.protocol) if packet.family == 4 else IPv6(nh=packet.protocol)
    if packet.protocol == inet.TCP:
        return layer / TCP()
    if packet.protocol == inet.UDP:
        return layer / UDP() / Raw(bytes(packet.payload))
    if packet.protocol == inet.SCTP:
        return layer / SCTP()
    if packet.is_icmp:
        return layer / _made_icmp(packet)
    return layer / Raw(bytes(packet.payload))


def _made_icmp(packet: Packet) -> Layer:
    """From bytes, so that scapy picks the class of the message."""
    quoted = bytes(to_scapy(packet.inner, None)) if packet.inner is not None else b""
    if not quoted:
        rest = packet.icmp_id.to_bytes(2, "big") + bytes(2)
    else:
        rest = _info_bytes(packet)
    message = bytes((packet.icmp_type, packet.icmp_code, 0, 0)) + rest + quoted
    whole = IP(proto=inet.ICMP) / Raw(message) if packet.family == 4 else IPv6(nh=inet.ICMPV6) / Raw(message)
    return whole.__class__(bytes(whole)).payload


def _info_bytes(packet: Packet) -> bytes:
    start, end = _info_place(packet.family, packet.icmp_type)
    return bytes(start - 4) + packet.icmp_info.to_bytes(end - start, "big") + bytes(8 - end)


def _info_place(family: int, kind: int) -> tuple[int, int]:
    """Where an ICMP error keeps its MTU, pointer or gateway."""
    if family == 6 or kind == _REDIRECT:
        return 4, 8
    return (4, 5) if kind == _PARAMETER_PROBLEM else (6, 8)

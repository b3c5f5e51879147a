"""Scapy packets in and out. Scapy is GPL-2.0-only and slow to import: it is loaded here only, when a user hands over such a packet.

Source addresses and ports, flags and TTL are taken over; a packet that comes back has its headers rewritten and checksums left to
scapy to compute anew.
"""

from __future__ import annotations

import logging
from typing import Any

from dataplane.errors import InputError, Problem
from dataplane.inet import ICMP, ICMPV6, SCTP, TCP, UDP, format_address, parse_address
from dataplane.packet import Packet, TcpOptions

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)


def from_scapy(packet: Any) -> Packet:
    """The engine's packet of a scapy one (its first IP layer). Raises InputError where there is none."""
    from scapy.layers.inet import ICMP as ScapyICMP
    from scapy.layers.inet import IP
    from scapy.layers.inet import TCP as ScapyTCP
    from scapy.layers.inet import UDP as ScapyUDP
    from scapy.layers.inet6 import IPv6

    haslayer = getattr(packet, "haslayer", None)
    if haslayer is None or not (haslayer(IP) or haslayer(IPv6)):
        raise InputError(Problem(f"expected an expression, a dataplane Packet or a scapy packet with an IP layer, got {type(packet).__name__}"))
    layer = packet[IP] if haslayer(IP) else packet[IPv6]
    whole = layer.__class__(bytes(layer))  # what scapy fills in only when it builds
    family = 4 if isinstance(whole, IP) else 6
    fields: dict[str, Any] = {
        "family": family, "saddr": parse_address(whole.src)[1], "daddr": parse_address(whole.dst)[1],
        "ttl": whole.ttl if family == 4 else whole.hlim, "tos": whole.tos if family == 4 else whole.tc, "length": len(bytes(whole)),
    }  # fmt: skip
    if family == 4:
        fields |= {
            "ip_id": whole.id, "dont_fragment": "DF" in str(whole.flags), "more_fragments": "MF" in str(whole.flags), "fragment_offset": whole.frag * 8,
        }
    if whole.haslayer(ScapyTCP):
        tcp = whole[ScapyTCP]
        options = dict(one for one in tcp.options if len(one) == 2)
        fields |= {
            "protocol": TCP, "sport": tcp.sport, "dport": tcp.dport, "tcp_flags": int(tcp.flags), "seq": tcp.seq, "ack": tcp.ack,
            "window": tcp.window, "payload": len(bytes(tcp.payload)),
            "tcp_options": TcpOptions(options.get("MSS"), options.get("WScale"), "SAckOK" in options, "Timestamp" in options),
        }  # fmt: skip
    elif whole.haslayer(ScapyUDP):
        udp = whole[ScapyUDP]
        fields |= {"protocol": UDP, "sport": udp.sport, "dport": udp.dport, "payload": len(bytes(udp.payload))}
    elif family == 4 and whole.haslayer(ScapyICMP):
        icmp = whole[ScapyICMP]
        fields |= {"protocol": ICMP, "icmp_type": icmp.type, "icmp_code": icmp.code, "icmp_id": getattr(icmp, "id", 0) or 0}
    else:
        fields |= _other(whole, family)
    return Packet(**fields)


def _other(whole: Any, family: int) -> dict[str, Any]:
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
    from scapy.layers.sctp import SCTP as ScapySCTP

    if whole.haslayer(ScapySCTP):
        sctp = whole[ScapySCTP]
        chunk = getattr(sctp.payload, "type", None)
        return {"protocol": SCTP, "sport": sctp.sport, "dport": sctp.dport, "sctp_chunks": (chunk,) if chunk is not None else (1,)}
    for kind in (ICMPv6EchoRequest, ICMPv6EchoReply):
        if whole.haslayer(kind):
            return {"protocol": ICMPV6, "icmp_type": whole[kind].type, "icmp_code": whole[kind].code, "icmp_id": whole[kind].id}
    return {"protocol": whole.proto if family == 4 else whole.nh}


def to_scapy(packet: Packet, given: Any | None) -> Any:
    """A scapy packet with the headers of ``packet``; the payload and everything else is that of ``given``."""
    from scapy.layers.inet import IP
    from scapy.layers.inet import TCP as ScapyTCP
    from scapy.layers.inet import UDP as ScapyUDP
    from scapy.layers.inet6 import IPv6

    if given is None:
        return _answer(packet)
    made = given.copy()
    layer = made[IP] if packet.family == 4 else made[IPv6]
    layer.src, layer.dst = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    if packet.family == 4:
        layer.ttl, layer.tos = packet.ttl, packet.tos
        del layer.chksum
    else:
        layer.hlim, layer.tc = packet.ttl, packet.tos
    for kind in (ScapyTCP, ScapyUDP):
        if layer.haslayer(kind):
            layer[kind].sport, layer[kind].dport = packet.sport, packet.dport
            del layer[kind].chksum
    return made


def _answer(packet: Packet) -> Any:
    from scapy.layers.inet import ICMP as ScapyICMP
    from scapy.layers.inet import IP
    from scapy.layers.inet import TCP as ScapyTCP
    from scapy.layers.inet6 import ICMPv6Unknown, IPv6

    source, target = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    layer = IP(src=source, dst=target, ttl=packet.ttl) if packet.family == 4 else IPv6(src=source, dst=target, hlim=packet.ttl)
    if packet.protocol == TCP:
        return layer / ScapyTCP(sport=packet.sport, dport=packet.dport, flags=packet.tcp_flags, seq=packet.seq, ack=packet.ack)
    if packet.family == 4:
        return layer / ScapyICMP(type=packet.icmp_type, code=packet.icmp_code)
    return layer / ICMPv6Unknown(type=packet.icmp_type, code=packet.icmp_code)

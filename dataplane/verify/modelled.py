"""A packet of the lab in the engine's own form."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from dataplane.adapters.lab.dialogue import Segment, Sent
from dataplane.adapters.lab.wire import ECHO, ICMP, ICMPV6, NUMBERS, flag_bits
from dataplane.packet import Packet, TcpOptions

_HEADERS: Final = {"tcp": 20, "udp": 8, "icmp": 8, "sctp": 12}
_NO_OPTIONS: Final = TcpOptions()


def modelled(sent: Sent) -> Packet:
    """What was sent, as the engine reads it."""
    whole = _packet(sent.src, sent.dst, sent.ttl, sent.tos, sent.segment)
    first = sent.packet.fragment
    if not first:
        return whole
    # Both pieces have one identification: that of the packet whose id comes first.
    number = (sent.packet.reply_to or 0) if sent.packet.again else sent.packet.id
    if not sent.packet.again:
        header = whole.length - 20 - whole.payload
        return whole._replace(more_fragments=True, length=20 + first, payload=first - header, ip_id=number & 0xFFFF)
    rest = whole.length - 20 - first
    return Packet(4, whole.saddr, whole.daddr, whole.protocol, ttl=whole.ttl, tos=whole.tos, length=20 + rest, ip_id=number & 0xFFFF, fragment_offset=first)


def _packet(src: str, dst: str, ttl: int, tos: int, segment: Segment) -> Packet:
    family = 6 if ":" in dst else 4
    length = (20 if family == 4 else 40) + _HEADERS[segment.proto] + segment.length + (segment.proto == "sctp") * segment.chunk_length
    source, target = int(ip_address(src)), int(ip_address(dst))
    protocol = NUMBERS.get(segment.proto, ICMP if family == 4 else ICMPV6)
    if segment.proto == "tcp":
        options = _NO_OPTIONS if "S" in segment.flags else None
        return Packet(
            family, source, target, protocol, segment.sport, segment.dport, ttl, tos, length, tcp_flags=flag_bits(segment.flags),
            seq=segment.seq, ack=segment.ack, window=65535, tcp_options=options, payload=segment.length,
        )  # fmt: skip
    if segment.proto == "icmp":
        plain = Packet(family, source, target, protocol, ttl=ttl, tos=tos, length=length, payload=segment.length)
        return _icmp(plain, segment)
    plain = Packet(family, source, target, protocol, segment.sport, segment.dport, ttl, tos, length, payload=segment.length)
    return plain._replace(sctp_chunks=(segment.chunk,), vtag=segment.vtag, init_tag=segment.init_tag) if segment.proto == "sctp" else plain


def _icmp(plain: Packet, segment: Segment) -> Packet:
    quoted = segment.quoted
    if quoted is None:
        return plain._replace(icmp_type=ECHO[plain.family][segment.answer], icmp_id=segment.sport)
    inner = _packet(quoted.src, quoted.dst, quoted.ttl, quoted.tos, quoted.segment)
    kind, code = segment.error
    return plain._replace(icmp_type=kind, icmp_code=code, inner=inner, length=plain.length + inner.length, payload=inner.length)

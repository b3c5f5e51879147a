"""The packet that goes in and comes out: header fields that a router or a firewall may look at or change.

A Packet is frozen and knows neither devices nor connections (that is engine/skb). Bytes exist only at the edges: scapy
packets are turned into Packets by adapters, captures by replay. Units: lengths in bytes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dataplane.inet import ICMP, ICMPV6, PROTOCOL_NAMES, SCTP, TCP, format_address

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80
FLAG_LETTERS: Final = "FSRPAUEC"  # bit 0 upward


class TcpOptions(NamedTuple):
    """The options of a SYN that connection tracking remembers; ``sack`` is the list of (left, right) edges."""

    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    timestamp: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    other: tuple[int, ...] = ()  # kinds of further options


class Packet(NamedTuple):
    """An IPv4 or IPv6 packet. Addresses are ints; ports are 0 where the protocol has none.

    ICMP: ``icmp_type``, ``icmp_code``, ``icmp_id`` (echo and the like) or ``inner`` (the packet that an error is about).
    ``length`` is the whole packet with its IP header. ``sctp_chunks`` are chunk types in order, ``vtag`` SCTP's tag.
    """

    family: int
    saddr: int
    daddr: int
    protocol: int
    sport: int = 0
    dport: int = 0
    ttl: int = 64
    tos: int = 0
    length: int = 0
    ip_id: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    fragment_offset: int = 0  # bytes
    ip_options: tuple[int, ...] = ()  # IPv4 option types, IPv6 extension header numbers
    tcp_flags: int = 0
    seq: int = 0
    ack: int = 0
    window: int = 65535
    tcp_options: TcpOptions | None = None
    payload: int = 0  # bytes after the transport header
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0
    icmp_info: int = 0  # MTU of "fragmentation needed" and "packet too big", pointer, gateway
    inner: Packet | None = None
    sctp_chunks: tuple[int, ...] = ()
    vtag: int = 0
    spi: int = 0  # AH and ESP
    bad_checksum: bool = False
    init_tag: int | None = None  # SCTP: the tag that an INIT or INIT ACK asks for, None where the packet does not tell

    @property
    def is_icmp(self) -> bool:
        """ICMP of the packet's own family."""
        return self.protocol == (ICMP if self.family == 4 else ICMPV6)

    def __str__(self) -> str:
        return describe(self)


def answer_to(packet: Packet) -> Packet:
    """What whoever gets a packet says to it: a SYN-ACK (an ACK to what is no SYN), an INIT ACK, an echo reply, a datagram back."""
    turned = packet._replace(saddr=packet.daddr, daddr=packet.saddr, sport=packet.dport, dport=packet.sport, ttl=64)
    if packet.is_icmp:
        return turned._replace(icmp_type=0 if packet.family == 4 else 129)
    if packet.protocol == TCP:
        return turned._replace(tcp_flags=SYN | ACK if packet.tcp_flags & SYN else ACK, seq=5000, ack=packet.seq + 1)
    return turned._replace(sctp_chunks=(2,), vtag=packet.init_tag or packet.vtag) if packet.protocol == SCTP else turned


def flag_letters(flags: int) -> str:
    """``SA`` of a SYN-ACK; ``.`` where no flag is set."""
    return "".join(letter for bit, letter in enumerate(FLAG_LETTERS) if flags >> bit & 1) or "."


def describe(packet: Packet) -> str:
    """The packet in the form in which a user writes one: ``tcp 203.0.113.7:40000 > 198.51.100.10:80 [flags S]``."""
    name = "icmp" if packet.is_icmp else PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol))
    source, destination = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    if packet.is_icmp:
        text = f"icmp {source} > {destination} [type {packet.icmp_type}/{packet.icmp_code}]"
        return text + (f" [id {packet.icmp_id}]" if packet.inner is None else f" about ({describe(packet.inner)})")
    if packet.fragment_offset or not (packet.sport or packet.dport):
        return f"{name} {source} > {destination}"
    if packet.family == 6:
        source, destination = f"[{source}]", f"[{destination}]"
    text = f"{name} {source}:{packet.sport} > {destination}:{packet.dport}"
    return f"{text} [flags {flag_letters(packet.tcp_flags)}]" if name == "tcp" else text

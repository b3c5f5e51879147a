"""Skb: the packet on its way, the one mutable thing in the engine; only hook functions and the path write to it.

It carries the header fields of Packet (same names) and what the kernel keeps beside a packet: mark, devices, route,
connection. Knows nothing about rules. Source: include/linux/skbuff.h.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from dataplane.inet import ICMP, ICMPV6
from dataplane.packet import Packet, TcpOptions

if TYPE_CHECKING:
    from dataplane.engine.conntrack import Conn
    from dataplane.engine.fib import Destination

# enum ip_conntrack_info
CT_ESTABLISHED = 0
CT_RELATED = 1
CT_NEW = 2
CT_ESTABLISHED_REPLY = 3
CT_RELATED_REPLY = 4
CT_UNTRACKED = 7
CT_ATTACHED = -1  # an answer to a packet without a connection: INVALID, but -j CT leaves it alone (nf_conntrack_attach)

_fields_of = attrgetter(*Packet._fields)


class Skb:
    """``conn`` None with ``ctinfo`` None (or CT_ATTACHED) is what rules call INVALID; ``ctinfo == CT_UNTRACKED`` is UNTRACKED.

    ``local`` is True for packets that the node itself sent; ``uid``/``gid`` are those of the sending socket, None without one.
    ``physin``/``physout`` are bridge ports (br_netfilter), ``pkttype`` is host, broadcast, multicast, otherhost or loopback,
    ``scope`` is the device that the sender named with a link-local destination, ``secmark``, ``nfct_zone`` and ``helper`` are what -j CT and the like left behind,
    ``ipvs_property`` says that IPVS is done with it, ``checksum_known`` that its checksum was verified, ``gathered`` that it came in fragments.
    """

    __slots__ = (
        "family", "saddr", "daddr", "protocol", "sport", "dport", "ttl", "tos", "length", "ip_id", "dont_fragment",
        "more_fragments", "fragment_offset", "ip_options", "tcp_flags", "seq", "ack", "window", "tcp_options", "payload",
        "icmp_type", "icmp_code", "icmp_id", "icmp_info", "inner", "sctp_chunks", "vtag", "spi", "bad_checksum", "init_tag",
        "mark", "priority", "indev", "local", "uid", "gid", "has_socket", "physin", "physout", "pkttype", "mac_source",
        "conn", "ctinfo", "template_zone", "dst", "traced", "tproxy", "secmark", "scope", "ipvs_property", "checksum_known", "gathered", "helper",
    )  # fmt: skip

    family: int
    saddr: int
    daddr: int
    protocol: int
    sport: int
    dport: int
    ttl: int
    tos: int
    length: int
    ip_id: int
    dont_fragment: bool
    more_fragments: bool
    fragment_offset: int
    ip_options: tuple[int, ...]
    tcp_flags: int
    seq: int
    ack: int
    window: int
    tcp_options: TcpOptions | None
    payload: int
    icmp_type: int
    icmp_code: int
    icmp_id: int
    icmp_info: int
    inner: Packet | None
    sctp_chunks: tuple[int, ...]
    vtag: int
    spi: int
    bad_checksum: bool
    init_tag: int | None

    def __init__(self, packet: Packet, *, indev: str = "", mark: int = 0) -> None:
        (
            self.family, self.saddr, self.daddr, self.protocol, self.sport, self.dport, self.ttl,
            self.tos, self.length, self.ip_id, self.dont_fragment, self.more_fragments, self.fragment_offset,
            self.ip_options, self.tcp_flags, self.seq, self.ack, self.window, self.tcp_options, self.payload,
            self.icmp_type, self.icmp_code, self.icmp_id, self.icmp_info, self.inner, self.sctp_chunks, self.vtag, self.spi, self.bad_checksum, self.init_tag,
        ) = packet  # fmt: skip
        self.mark = mark
        self.priority = 0
        self.indev = indev
        self.local = False
        self.uid: int | None = None
        self.gid: int | None = None
        self.has_socket = False
        self.physin = ""
        self.physout = ""
        self.pkttype = "host"
        self.mac_source: int | None = None
        self.conn: Conn | None = None
        self.ctinfo: int | None = None
        self.template_zone = 0
        self.dst: Destination | None = None
        self.traced = False
        self.tproxy: tuple[int, int] | None = None
        self.secmark = 0
        self.scope = ""
        self.ipvs_property = False
        self.checksum_known = False
        self.gathered = False
        self.helper: str | None = None

    @property
    def is_icmp(self) -> bool:
        """ICMP of the packet's own family."""
        return self.protocol == (ICMP if self.family == 4 else ICMPV6)

    def packet(self) -> Packet:
        """The header fields as they are now."""
        return Packet._make(_fields_of(self))

"""The packets that a node answers with by itself: ICMP errors and TCP resets, and when it keeps silent.

Source: net/ipv4/icmp.c (icmp_send), net/ipv6/icmp.c (icmp6_send), net/ipv4/netfilter/nf_reject_ipv4.c, nf_reject_ipv6.c; RFC 1122, 4443.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dataplane.engine.fib import Flow
from dataplane.inet import ICMP, ICMPV6, TCP
from dataplane.packet import ACK, FIN, RST, SYN, Packet

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel
    from dataplane.engine.skb import Skb

DEST_UNREACH4: Final = 3
TIME_EXCEEDED4: Final = 11
DEST_UNREACH6: Final = 1
PACKET_TOO_BIG6: Final = 2
TIME_EXCEEDED6: Final = 3
_ERRORS4: Final = frozenset((3, 4, 5, 11, 12))

#: --reject-with names and the (type, code) sent; tcp-reset stands apart.
REJECT_CODES: Final[dict[int, dict[str, tuple[int, int]]]] = {
    4: {
        "icmp-net-unreachable": (3, 0), "icmp-host-unreachable": (3, 1), "icmp-proto-unreachable": (3, 2),
        "icmp-port-unreachable": (3, 3), "icmp-net-prohibited": (3, 9), "icmp-host-prohibited": (3, 10), "icmp-admin-prohibited": (3, 13),
    },
    6: {
        "icmp6-no-route": (1, 0), "icmp6-adm-prohibited": (1, 1), "icmp6-addr-unreachable": (1, 3), "icmp6-port-unreachable": (1, 4),
        "icmp6-policy-fail": (1, 5), "icmp6-reject-route": (1, 6),
    },
}  # fmt: skip


def icmp_error(kernel: Kernel, skb: Skb, kind: int, code: int, info: int = 0) -> Packet | None:
    """The ICMP error about a packet, or None where the kernel sends none (errors about errors, fragments, multicast …)."""
    return _error4(kernel, skb, kind, code, info) if skb.family == 4 else _error6(kernel, skb, kind, code, info)


def _error4(kernel: Kernel, skb: Skb, kind: int, code: int, info: int) -> Packet | None:
    if skb.fragment_offset or skb.pkttype not in ("host", "loopback"):
        return None
    if skb.protocol == ICMP and skb.icmp_type in _ERRORS4:
        return None
    if skb.dst is not None and skb.dst.type in ("BROADCAST", "MULTICAST"):
        return None
    if skb.saddr in (0, 0xFFFFFFFF) or skb.saddr & 0xF0000000 == 0xE0000000:
        return None
    source = skb.daddr if skb.dst is not None and skb.dst.local else None
    if source is None:
        flow = Flow(4, skb.saddr)
        source = kernel.fib.source_address(flow, kernel.fib.lookup(flow))
    if source is None:
        return None
    length = 28 + min(skb.length, 576 - 28)
    return Packet(
        4, source, skb.saddr, ICMP, icmp_type=kind, icmp_code=code, icmp_info=info, inner=skb.packet(), length=length,
        ttl=kernel.sysctls.int("net.ipv4.ip_default_ttl"), tos=skb.tos & 0x1E | 0xC0,
    )  # fmt: skip


def _error6(kernel: Kernel, skb: Skb, kind: int, code: int, info: int) -> Packet | None:
    if skb.fragment_offset or skb.pkttype not in ("host", "loopback"):
        return None
    if skb.protocol == ICMPV6 and (skb.icmp_type < 128 or skb.icmp_type == 137):
        return None
    multicast = skb.daddr >> 120 == 0xFF
    if multicast and not (kind == PACKET_TOO_BIG6 or (kind == 4 and code == 2)):
        return None
    if skb.saddr == 0 or skb.saddr >> 120 == 0xFF:
        return None
    link_local = skb.saddr >> 118 == 0xFE80 >> 6
    flow = Flow(6, skb.saddr, oif=skb.indev if link_local else "")
    found = kernel.fib.lookup(flow)
    if found.type == "ANYCAST" or (found.error is not None and link_local):
        return None  # no single node to tell (icmpv6_route_lookup)
    source = skb.daddr if _answers_for(kernel, skb.daddr, skb.indev) else None
    if source is None:
        # icmp6_send: unless the route names a source, an address of the device the packet came in by says more.
        by_indev = skb.indev and found.prefsrc is None
        source = kernel.fib.select_address6(skb.indev, skb.saddr) if by_indev else kernel.fib.source_address(flow, found)
    if source is None:
        return None
    length = min(48 + skb.length, 1280)
    hops = kernel.sysctls.int("net.ipv6.conf.all.hop_limit") or 64
    return Packet(6, source, skb.saddr, ICMPV6, icmp_type=kind, icmp_code=code, icmp_info=info, inner=skb.packet(), length=length, ttl=hops)


def _answers_for(kernel: Kernel, address: int, dev: str) -> bool:
    """Whether an error has the address as its source: one of the node's, though of its loopback and its links' only by that device.

    What the node itself sent counts as the loopback device's (nf_send_unreach6).
    """
    if address == 1 or address >> 118 == 0xFE80 >> 6:
        link = kernel.links.get(dev or "lo")
        return link is not None and any(one.local == address for one in link.addresses)
    return kernel.fib.owner(6, address) is not None or kernel.fib.address_type(6, address) == "ANYCAST"


def tcp_reset(kernel: Kernel, skb: Skb) -> Packet | None:
    """The RST that answers a TCP segment, or None (for fragments, other protocols, and another RST)."""
    if skb.protocol != TCP or skb.fragment_offset or skb.tcp_flags & RST:
        return None
    if skb.family == 4:
        if skb.dst is not None and skb.dst.type in ("BROADCAST", "MULTICAST"):
            return None
        ttl = kernel.sysctls.int("net.ipv4.ip_default_ttl")
    else:
        if skb.saddr >> 120 == 0xFF or skb.daddr >> 120 == 0xFF:
            return None
        ttl = kernel.sysctls.int("net.ipv6.conf.all.hop_limit") or 64
    if skb.tcp_flags & ACK:
        flags, seq, ack = RST, skb.ack, 0
    else:
        flags, seq = RST | ACK, 0
        ack = (skb.seq + bool(skb.tcp_flags & SYN) + bool(skb.tcp_flags & FIN) + skb.payload) & 0xFFFFFFFF
    return Packet(
        skb.family, skb.daddr, skb.saddr, TCP, skb.dport, skb.sport, ttl=ttl, tcp_flags=flags, seq=seq, ack=ack, window=0,
        length=40 if skb.family == 4 else 60,
    )  # fmt: skip

"""How IPVS sends a request on: masqueraded, routed to the real server's MAC as it is, or in a tunnel.

Each asks for the route to the real server by its address alone (no mark, no source) and keeps the packet's own route where the real
server is this node itself; else the hop count falls by one, as if it were forwarded, and the packet goes out through LOCAL_OUT.
With ``vs.conntrack`` the packet keeps its conntrack entry, whose reply tuple then expects the real server; without, it is untracked.
Source: net/netfilter/ipvs/ip_vs_xmit.c, ip_vs_nfct.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dataplane.engine import reject
from dataplane.engine.conntrack import confirm, is_reply
from dataplane.engine.fib import Destination, Flow
from dataplane.engine.hooks import ACCEPT, Drop, Hook, HookState, Reinject, Verdict
from dataplane.engine.ipvs_conn import IPVSConn
from dataplane.engine.skb import CT_UNTRACKED, Skb
from dataplane.inet import GRE, ICMP, ICMPV6, SCTP, TCP, UDP
from dataplane.packet import Packet
from dataplane.rules.ipvs import Tunnel
from dataplane.trace import ChangeEvent, NatEvent, RouteEvent

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

PORTS: Final = frozenset((TCP, UDP, SCTP))
_IPIP: Final = {4: 4, 6: 41}
_MIN_MTU: Final = {4: 68, 6: 1280}
_SENT: Final = Reinject(Hook.OUTPUT)


def send(kernel: Kernel, skb: Skb, conn: IPVSConn, state: HookState, tunnel: Tunnel | None, *, error: bool = False) -> Verdict:
    """Sends a packet to the connection's real server: ACCEPT where that is this node and the packet goes on as it went.

    ``error``: the packet is an ICMP error about a reply, the quoted packet is rewritten with it.
    """
    if conn.method == "masq":
        return _masquerade(kernel, skb, conn, state, error=error)
    if conn.method == "ipip":
        return _tunnel(kernel, skb, conn, tunnel or Tunnel(), error=error)
    address = skb.daddr if conn.method == "bypass" else conn.real[0]
    local = _route(kernel, skb, conn.real_family, address, local=conn.method == "gate", redirect=False, error=error)
    if isinstance(local, Drop):
        return local
    skb.ipvs_property = True
    if not conn.nfct:
        untrack(skb)
    return ACCEPT if local else _SENT


def untrack(skb: Skb) -> None:
    """``ip_vs_notrack``: conntrack has nothing to do with this packet any more."""
    skb.conn, skb.ctinfo = None, CT_UNTRACKED


def expect_reply(skb: Skb, conn: IPVSConn, *, request: bool) -> None:
    """``ip_vs_update_conntrack``: the entry of a connection's first packet expects its answer from the real server.

    A reply seen before its request (``request`` false) makes the entry expect an answer to the virtual server.
    """
    entry = skb.conn
    if entry is None or entry.confirmed or conn.method != "masq" or conn.one_packet or is_reply(skb.ctinfo):
        return
    icmp = entry.original.protocol in (ICMP, ICMPV6)
    if request:
        entry.reply = entry.reply._replace(src=conn.real[0], **({} if icmp else {"sport": conn.real[1]}))
    else:
        entry.reply = entry.reply._replace(dst=conn.virtual[0], **({} if icmp else {"dport": conn.virtual[1]}))


# ---------------------------------------------------------------------- the three methods


def _masquerade(kernel: Kernel, skb: Skb, conn: IPVSConn, state: HookState, *, error: bool) -> Verdict:
    remote_only = error and state.hook == Hook.FORWARD
    received = skb.indev != "" and not _is_loopback(kernel, skb.indev)
    local = _route(kernel, skb, conn.family, conn.real[0], local=not remote_only, redirect=True, error=error)
    if isinstance(local, Drop):
        return local
    if local and received and _loopback_address(conn.family, conn.real[0]):
        return Drop("IPVS does not send what came from outside to a loopback address")
    old = skb.daddr, skb.dport
    skb.daddr = conn.real[0]
    if error:
        assert skb.inner is not None
        port = conn.real[1] if skb.inner.protocol in PORTS else skb.inner.sport
        skb.inner = skb.inner._replace(saddr=conn.real[0], sport=port)
    elif skb.protocol in PORTS:
        skb.dport = conn.real[1]
    kernel.events.append(NatEvent("DNAT", skb.family, old, (skb.daddr, skb.dport), "ICMP error and the packet quoted in it" if error else ""))
    skb.ipvs_property = True
    if conn.nfct:
        expect_reply(skb, conn, request=True)
    else:
        untrack(skb)
    return ACCEPT if local else _SENT


def _tunnel(kernel: Kernel, skb: Skb, conn: IPVSConn, tunnel: Tunnel, *, error: bool) -> Verdict:
    """The whole packet becomes the payload of another one. Of GUE the source port is a hash with a secret."""
    overhead = {"ipip": 0, "gue": 12, "gre": 8 if tunnel.checksum == "csum" else 4}[tunnel.type]
    header = 20 if conn.real_family == 4 else 40
    local = _route(
        kernel, skb, conn.real_family, conn.real[0], local=True, redirect=False, error=error, tunnel=header + overhead
    )  # fmt: skip
    if isinstance(local, Drop):
        return local
    skb.ipvs_property = True
    if local:
        if not conn.nfct:
            untrack(skb)
        return ACCEPT
    if conn.nfct:
        refused = confirm(kernel, skb, HookState(Hook.POSTROUTING, "", ""))
        if refused is not ACCEPT:
            return refused
    _encapsulate(kernel, skb, conn, tunnel, header + overhead)
    return _SENT


def _encapsulate(kernel: Kernel, skb: Skb, conn: IPVSConn, tunnel: Tunnel, added: int) -> None:
    inner = skb.packet()
    assert skb.dst is not None
    source = kernel.fib.source_address(Flow(conn.real_family, conn.real[0]), skb.dst) or 0
    kept_df = skb.family == 4 and skb.dont_fragment and bool(kernel.sysctls.int("net.ipv4.vs.pmtu_disc"))
    outer = Packet(
        conn.real_family, source, conn.real[0], {"ipip": _IPIP[skb.family], "gue": UDP, "gre": GRE}[tunnel.type],
        sport=kernel.choices.number(65536, "source port of the tunnel") if tunnel.type == "gue" else 0,
        dport=tunnel.port if tunnel.type == "gue" else 0, ttl=skb.ttl, tos=skb.tos if skb.tos & 3 != 3 else skb.tos & ~3 | 2,
        length=skb.length + added, dont_fragment=kept_df and conn.real_family == 4, inner=inner,
    )  # fmt: skip
    before = skb.mark, skb.dst, skb.indev, skb.pkttype, skb.local
    Skb.__init__(skb, outer)
    skb.mark, skb.dst, skb.indev, skb.pkttype, skb.local = before
    skb.ipvs_property = True


# ---------------------------------------------------------------------- the route


def _route(
    kernel: Kernel, skb: Skb, family: int, address: int, *, local: bool, redirect: bool, error: bool, tunnel: int | None = None
) -> bool | Drop:  # fmt: skip
    """``__ip_vs_get_out_rt``: whether the real server is this node; if not, the packet has its route and one hop less.

    ``local``: it may be. ``redirect``: it may be even for a packet that was not for this node. ``tunnel``: bytes that are added.
    """
    found = kernel.fib.lookup(Flow(family, address), lambda hops: hops[kernel.choice([hop.weight for hop in hops], "next hop")])
    kernel.events.append(RouteEvent("IPVS route", _told(found), found.dev))
    if found.error is not None:
        return _replied(kernel, skb, *((3, 1) if skb.family == 4 else (1, 3)), 0, "no route to the real server")
    here = found.local or found.type == "BROADCAST"
    was_here = skb.dst is not None and skb.dst.local
    if here:
        if not local or (not redirect and not was_here):
            return Drop("IPVS does not send what is not for this node to this node itself")
        return True
    if _loopback_address(skb.family, skb.saddr):
        return Drop("IPVS does not send packets from a loopback address to another node")
    refused = _one_hop_less(kernel, skb) or _too_big(kernel, skb, found, tunnel, error=error)
    if refused is not None:
        return refused
    skb.dst = found
    return False


def _told(found: Destination) -> str:
    return f"{found.type.lower()}" + (f" dev {found.dev}" if found.dev else "") + (f" ({found.error})" if found.error else "")


def _one_hop_less(kernel: Kernel, skb: Skb) -> Drop | None:
    if skb.ttl <= 1:
        what = "TTL exceeded in transit" if skb.family == 4 else "hop limit exceeded in transit"
        return _replied(kernel, skb, *((reject.TIME_EXCEEDED4, 0) if skb.family == 4 else (reject.TIME_EXCEEDED6, 0)), 0, what)
    kernel.events.append(ChangeEvent("ttl", skb.ttl, skb.ttl - 1))
    skb.ttl -= 1
    return None


def _too_big(kernel: Kernel, skb: Skb, found: Destination, tunnel: int | None, *, error: bool) -> Drop | None:
    if not found.mtu:
        return None
    mtu = found.mtu - (tunnel or 0)
    if tunnel is not None and mtu < _MIN_MTU[4 if skb.family == 4 else 6]:
        return Drop(f"the MTU {found.mtu} is too small for a tunnel")
    if skb.family == 6:
        if skb.length <= mtu:
            return None
        return Drop(f"too big (MTU {mtu})") if error else _replied(kernel, skb, reject.PACKET_TOO_BIG6, 0, mtu, f"too big (MTU {mtu})")
    if tunnel is not None and not kernel.sysctls.int("net.ipv4.vs.pmtu_disc"):
        return None
    if skb.dont_fragment and skb.length > mtu and not error:
        return _replied(kernel, skb, reject.DEST_UNREACH4, 4, mtu, f"needs fragmentation (MTU {mtu})")
    return None


def _replied(kernel: Kernel, skb: Skb, kind: int, code: int, info: int, reason: str) -> Drop:
    """A drop of which the sender is told."""
    reply = reject.icmp_error(kernel, skb, kind, code, info)
    return Drop(reason, replies=(reply,) if reply is not None else ())


def _loopback_address(family: int, address: int) -> bool:
    return address >> 24 == 127 if family == 4 else address == 1


def _is_loopback(kernel: Kernel, dev: str) -> bool:
    link = kernel.links.get(dev)
    return link is not None and "LOOPBACK" in link.flags

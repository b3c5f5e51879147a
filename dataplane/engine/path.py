"""The packet path: which hooks, route lookups and checks a packet meets from where it enters until it ends.

A table a family: the stages of receiving, forwarding, delivering and sending, in the kernel's order. The path follows verdicts; it
decides nothing about rules. Replies that the node makes and packets that come back over the loopback device are put on a
work list that netns empties. Source: ip_input.c, route.c, ip_forward.c, ip_output.c; ip6_input.c, ip6_output.c; netfilter's reroute hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final, NamedTuple

from dataplane.engine import conntrack, defrag, reject
from dataplane.engine.fib import Destination, Flow, describe
from dataplane.engine.hooks import ACCEPT, Drop, Hook, HookFunction, HookState, Reinject, Stolen, Unknown
from dataplane.engine.hooks import Verdict as HookVerdict
from dataplane.engine.kernel import Kernel
from dataplane.engine.skb import Skb
from dataplane.packet import Packet
from dataplane.rules.network import NextHop
from dataplane.trace import COPY_BEGINS, COPY_ENDS, ChangeEvent, HookEvent, RouteEvent, RuleRef, Verdict

#: Hook functions of each family and hook by priority; those of equal priority in order of registration.
Hooks = dict[tuple[int, Hook], list[tuple[int, str, HookFunction]]]


class End(NamedTuple):
    """Where a packet's walk ended. ``replies`` are packets that the node sends because of it."""

    verdict: Verdict
    reason: str
    by: RuleRef | None = None
    oif: str | None = None
    gateway: int | None = None
    replies: tuple[Packet, ...] = ()


class _Input4(NamedTuple):
    """A device's IPv4 settings for what comes in by it; ``rp_filter`` is the stricter one of "all" and the device."""

    forwarding: bool
    rp_filter: int
    accept_local: bool
    send_redirects: bool
    src_valid_mark: bool
    route_localnet: bool


_ALL_HOSTS4: Final = 0xE0000001
_CODES4: Final = {"EHOSTUNREACH": (3, 1, "no route to host"), "ENETUNREACH": (3, 0, "network unreachable"), "EACCES": (3, 13, "prohibited")}
_CODES6: Final = {"EHOSTUNREACH": (1, 0, "no route"), "ENETUNREACH": (1, 0, "no route"), "EACCES": (1, 1, "prohibited")}


class Path:
    """One namespace's packet path over its hooks and its kernel."""

    def __init__(self, kernel: Kernel, hooks: Hooks) -> None:
        self.kernel = kernel
        self.hooks = hooks
        self._states: dict[tuple[Hook, str, str], tuple[HookState, HookEvent]] = {}
        self._routes: dict[int, tuple[Destination, RouteEvent]] = {}  # holding the object keeps its id its own
        self._inputs: dict[str, _Input4] = {}

    # ------------------------------------------------------------------ entering

    def receive(self, skb: Skb) -> End:
        """A packet comes in by a device."""
        refused = _malformed(skb)
        if refused:
            return End("drop", refused)
        end = self._run(Hook.PREROUTING, skb, skb.indev, "")
        if end is not None:
            return end
        return self._route_input4(skb) if skb.family == 4 else self._route_input6(skb)

    def send(self, skb: Skb) -> End:
        """The node itself sends a packet: a route first, then OUTPUT."""
        skb.dst = found = self._route_output(skb)
        self._tell_route("route", found, skb.family)
        if found.error is not None:
            return End("drop", f"cannot be sent: {found.type.lower()} ({found.error})")
        return self.output(skb)

    def output(self, skb: Skb) -> End:
        """LOCAL_OUT, with the new route lookup that mangle and nat cause there, then POSTROUTING.

        The state of a hook is made once: after a new route the later tables of OUTPUT still see the device of the first one.
        """
        family = skb.family
        assert skb.dst is not None
        state = self._state(Hook.OUTPUT, "", skb.dst.dev)
        for _, name, function in self.hooks.get((family, Hook.OUTPUT), ()):
            before = (skb.saddr, skb.daddr, skb.mark, skb.tos)
            try:
                verdict = function(skb, state)
            except Unknown as unknown:
                return End("unknown", unknown.reason, unknown.by)
            if verdict is not ACCEPT:
                return self._follow(verdict, skb)
            rerouted = (name == "mangle" and before != (skb.saddr, skb.daddr, skb.mark, skb.tos)) or (
                name == "nat" and self._nat_changed_destination(skb)
            )
            if rerouted:
                found = self.reroute(skb)
                if found.error is not None:
                    return End("drop", f"no route after the packet was changed at OUTPUT: {found.type.lower()} ({found.error})")
                skb.dst = found
        self._heard_by_itself(skb)
        return self.postrouting(skb, skb.indev)

    # ------------------------------------------------------------------ stages

    def _deliver(self, skb: Skb) -> End:
        """ip_local_deliver, ip6_input. Fragments over IPv4 are put together first; over IPv6 only behind INPUT."""
        if skb.family == 4 and (skb.more_fragments or skb.fragment_offset):
            held = defrag.gather(self.kernel, skb, HookState(Hook.INPUT, skb.indev, ""))
            if isinstance(held, Drop):
                return End("drop", held.reason)
        end = self._run(Hook.INPUT, skb, skb.indev, "")
        return end if end is not None else End("local", "delivered to this node")

    def _forward4(self, skb: Skb) -> End:
        assert skb.dst is not None
        if skb.pkttype != "host":
            return End("drop", "only packets addressed to this node's MAC are forwarded")
        if skb.ttl <= 1:
            return self._error(skb, reject.TIME_EXCEEDED4, 0, "TTL exceeded in transit")
        if skb.dont_fragment and skb.dst.mtu and skb.length > skb.dst.mtu:
            return self._error(skb, reject.DEST_UNREACH4, 4, f"needs fragmentation (MTU {skb.dst.mtu})", skb.dst.mtu)
        return self._forward(skb)

    def _forward6(self, skb: Skb) -> End:
        assert skb.dst is not None
        sysctls = self.kernel.sysctls
        if not sysctls.int("net.ipv6.conf.all.forwarding"):
            return End("drop", "IPv6 forwarding is off")
        if skb.pkttype != "host":
            return End("drop", "only packets addressed to this node's MAC are forwarded")
        if skb.ttl <= 1:
            return self._error(skb, reject.TIME_EXCEEDED6, 0, "hop limit exceeded in transit")
        turned = skb.indev == skb.dst.dev  # out again by the same device: the checks of the source are not made
        if not turned and (skb.saddr in (0, 1) or skb.saddr >> 120 == 0xFF):
            return End("drop", "a source address that must not be forwarded")
        if not turned and skb.saddr >> 118 == 0xFE80 >> 6:
            return self._error(skb, reject.DEST_UNREACH6, 2, "link-local source beyond its link")
        if skb.dst.mtu and skb.length > max(skb.dst.mtu, 1280):
            return self._error(skb, reject.PACKET_TOO_BIG6, 0, f"too big (MTU {skb.dst.mtu})", skb.dst.mtu)
        return self._forward(skb)

    def _forward(self, skb: Skb) -> End:
        assert skb.dst is not None
        self.kernel.events.append(ChangeEvent("ttl", skb.ttl, skb.ttl - 1))
        skb.ttl -= 1
        end = self._run(Hook.FORWARD, skb, skb.indev, skb.dst.dev)
        return end if end is not None else self.postrouting(skb, skb.indev)

    def postrouting(self, skb: Skb, indev: str) -> End:
        """POSTROUTING, then out by the route's device (or back in, over lo)."""
        assert skb.dst is not None
        end = self._run(Hook.POSTROUTING, skb, indev, skb.dst.dev)
        if end is not None:
            return end
        found = skb.dst
        if found.dev == "lo" or self._is_loopback(found.dev):
            return self._loop(skb, found.dev)
        return End("forward", f"sent out by {found.dev}", oif=found.dev, gateway=found.gateway)

    def _heard_by_itself(self, skb: Skb) -> None:
        """ip_mc_output: of what it sends to all on a link, or to a group that it has joined, the node gets a copy over that link."""
        found = skb.dst
        assert found is not None
        joined = found.type == "BROADCAST" or (found.type == "MULTICAST" and skb.daddr == _ALL_HOSTS4)
        if skb.family == 4 and joined and not self._is_loopback(found.dev):
            self.kernel.events.append(COPY_BEGINS)
            twin = copy(skb)
            if self._run(Hook.POSTROUTING, twin, "", found.dev) is None and self.kernel.hears_itself:
                self._loop(twin, found.dev, "loopback")
            self.kernel.events.append(COPY_ENDS)

    def _loop(self, skb: Skb, dev: str, pkttype: str = "host") -> End:
        """The loopback device: the packet comes back with its route, mark and connection; only the device is new."""
        if skb.gathered:
            return End("unknown", "it came in fragments, and goes through PREROUTING in pieces again (ip_fragment): not modelled")
        skb.indev, skb.pkttype = dev, pkttype
        end = self._run(Hook.PREROUTING, skb, dev, "")
        if end is not None:
            return end
        assert skb.dst is not None
        if skb.dst.type == "MULTICAST":
            return self._deliver_multicast(skb)
        if skb.dst.local or skb.dst.type == "BROADCAST":
            return self._deliver(skb)
        skb.dst = None
        return self._route_input4(skb) if skb.family == 4 else self._route_input6(skb)

    def _is_loopback(self, dev: str) -> bool:
        link = self.kernel.links.get(dev)
        return link is not None and "LOOPBACK" in link.flags

    # ------------------------------------------------------------------ hooks

    def _run(self, hook: Hook, skb: Skb, indev: str, outdev: str) -> End | None:
        state = self._state(hook, indev, outdev)
        for _, _, function in self.hooks.get((skb.family, hook), ()):
            try:
                verdict = function(skb, state)
            except Unknown as unknown:
                return End("unknown", unknown.reason, unknown.by)
            if verdict is not ACCEPT:
                return self._follow(verdict, skb)
        return None

    def _follow(self, verdict: HookVerdict, skb: Skb) -> End:
        """Where a verdict other than ACCEPT leads: to the end, or once more to LOCAL_OUT."""
        if isinstance(verdict, Reinject):
            assert verdict.hook == Hook.OUTPUT
            return self.output(skb)
        return _ended(verdict)

    def _state(self, hook: Hook, indev: str, outdev: str) -> HookState:
        key = hook, indev, outdev
        known = self._states.get(key)
        if known is None:
            known = self._states[key] = HookState(hook, indev, outdev), HookEvent(hook.name, indev, outdev)
        self.kernel.events.append(known[1])
        return known[0]

    # ------------------------------------------------------------------ routing

    def _route_input4(self, skb: Skb) -> End:
        kernel, dev = self.kernel, skb.indev
        martian = self._martian4(skb)
        if martian:
            return End("drop", martian)
        if skb.daddr == 0xFFFFFFFF or (skb.saddr == 0 and skb.daddr == 0):
            return self._deliver_broadcast(skb)
        if skb.daddr & 0xF0000000 == 0xE0000000:
            return self._deliver_multicast(skb)
        flow = self._flow(skb, iif=dev)
        found = kernel.fib.lookup(flow, self._pick_next_hop)
        forwarding = self._input4(dev).forwarding
        if found.error is None and found.type not in ("LOCAL", "BROADCAST", "ANYCAST") and not forwarding:
            self._tell_route("route", found, 4)
            return End("drop", f"forwarding is off on {dev} (net.ipv4.ip_forward)")
        self._tell_route("route", found, 4)
        if found.error is not None:
            return self._unreachable(skb, found, _CODES4, silent=not forwarding)
        skb.dst = found
        if found.type == "BROADCAST":
            return self._deliver_broadcast(skb)
        invalid = self._invalid_source(skb, "" if found.local else found.dev)
        if invalid:
            return End("drop", invalid)
        return self._deliver(skb) if found.local else self._forward4(skb)

    def _martian4(self, skb: Skb) -> str | None:
        if skb.saddr & 0xF0000000 == 0xE0000000 or skb.saddr == 0xFFFFFFFF:
            return "martian source: multicast or broadcast"
        if skb.saddr == 0 and skb.daddr not in (0, 0xFFFFFFFF):
            return "martian source: 0.0.0.0"
        if skb.daddr == 0 and skb.saddr != 0:
            return "martian destination: 0.0.0.0"
        loopback = skb.daddr >> 24 == 127, skb.saddr >> 24 == 127
        if (loopback[0] or loopback[1]) and not self._input4(skb.indev).route_localnet:
            side = "destination" if loopback[0] else "source"
            return f"martian {side}: a loopback address on {skb.indev} (route_localnet is off)"
        return None

    def _either4(self, dev: str, key: str) -> bool:
        """A per-device setting that "all" or the device may switch on."""
        sysctls = self.kernel.sysctls
        return bool(sysctls.conf(4, "all", key) or sysctls.conf(4, dev, key))

    def _input4(self, dev: str) -> _Input4:
        """What the sysctls say of packets that come in by a device; asked once, since they never change."""
        known = self._inputs.get(dev)
        if known is None:
            conf = self.kernel.sysctls.conf
            known = self._inputs[dev] = _Input4(
                bool(conf(4, dev, "forwarding")), max(conf(4, "all", "rp_filter"), conf(4, dev, "rp_filter")),
                *(self._either4(dev, key) for key in ("accept_local", "send_redirects", "src_valid_mark", "route_localnet")),
            )  # fmt: skip
        return known

    def _invalid_source(self, skb: Skb, outdev: str) -> str | None:
        """fib_validate_source: would an answer to this source be sent, and by this device (rp_filter)?"""
        kernel, dev = self.kernel, skb.indev
        _, strictness, accept_local, send_redirects, src_valid_mark, _ = self._input4(dev)
        fib = kernel.fib
        if not strictness and (dev != outdev or not send_redirects):
            if accept_local:
                return None
            if not (fib.custom_local_routes or fib.custom_rules[4]):
                return "martian source: this node's own address" if fib.owner(4, skb.saddr) is not None else None
        mark = skb.mark if src_valid_mark else 0
        back = fib.lookup(Flow(4, skb.saddr, skb.daddr, outdev or "lo", "", mark, skb.tos))
        if back.error is not None:
            return f"no route back to the source (rp_filter={strictness})" if strictness else None
        if back.type != "UNICAST" and not (back.type == "LOCAL" and accept_local):
            return f"martian source: {back.type.lower()}"
        for hop in back.route.nexthops if back.route is not None else ():
            if hop.dev == dev:
                return None
        link = kernel.links.get(dev)
        if link is None or not any(address.family == 4 for address in link.addresses):
            return f"no route back to the source (rp_filter={strictness})" if strictness else None
        if strictness == 1:
            return f"the way back to the source is not by {dev} (rp_filter=1)"
        return None

    def _deliver_broadcast(self, skb: Skb) -> End:
        if skb.dst is None:
            skb.dst = Destination("BROADCAST", skb.indev)
        if skb.saddr:
            invalid = self._invalid_source(skb, "")
            if invalid:
                return End("drop", invalid)
        return self._deliver(skb)

    def _deliver_multicast(self, skb: Skb) -> End:
        groups = {0xE0000001} if skb.family == 4 else {0xFF02 << 112 | 1, 0xFF01 << 112 | 1}
        solicited = skb.family == 6 and skb.daddr >> 24 == (0xFF02 << 112 | 0x1FF << 24) >> 24
        if skb.daddr not in groups and not solicited:
            return End("drop", "a multicast group that this node has not joined")
        if skb.family == 4 and skb.dst is None and skb.saddr:
            invalid = self._invalid_source(skb, "")
            if invalid:
                return End("drop", invalid)
        skb.dst = Destination("MULTICAST", skb.indev)
        return self._deliver(skb)

    def _route_input6(self, skb: Skb) -> End:
        if skb.daddr >> 120 == 0xFF:
            return self._deliver_multicast(skb)
        strict = skb.daddr >> 118 == 0xFE80 >> 6 or skb.daddr == 1  # rt6_need_strict: by the device it came in by, or not at all
        found = self.kernel.fib.lookup(self._flow(skb, iif=skb.indev, oif=skb.indev if strict else ""), self._pick_next_hop)
        self._tell_route("route", found, 6)
        if found.error is not None:
            return self._unreachable(skb, found, _CODES6, silent=False)
        skb.dst = found
        return self._deliver(skb) if found.local else self._forward6(skb)

    def _unreachable(self, skb: Skb, found: Destination, codes: dict[str, tuple[int, int, str]], *, silent: bool) -> End:
        code = codes.get(found.error or "")
        if silent or code is None:
            return End("drop", f"{found.type.lower()} route" if found.route is not None else f"no route, and forwarding is off on {skb.indev}")
        return self._error(skb, code[0], code[1], code[2])

    def _error(self, skb: Skb, kind: int, code: int, reason: str, info: int = 0) -> End:
        reply = reject.icmp_error(self.kernel, skb, kind, code, info)
        return End("drop", reason, replies=(reply,) if reply is not None else ())

    def _flow(self, skb: Skb, *, iif: str, oif: str = "") -> Flow:
        if not self.kernel.fib.custom_rules[skb.family]:
            return Flow(skb.family, skb.daddr, 0, iif, oif, 0, skb.tos)
        return Flow(
            skb.family, skb.daddr, skb.saddr, iif, oif, skb.mark, skb.tos, skb.protocol, skb.sport, skb.dport, skb.uid or 0
        )  # fmt: skip

    def _pick_next_hop(self, hops: Sequence[NextHop]) -> NextHop:
        """ECMP: the kernel hashes the flow with a secret, so to the outside the choice is random by weight."""
        weights = [hop.weight for hop in hops]
        index = self.kernel.choice(weights, "next hop")
        return hops[index]

    def _route_output(self, skb: Skb) -> Destination:
        kernel = self.kernel
        group = skb.daddr == 0xFFFFFFFF or skb.daddr & 0xF0000000 == 0xE0000000
        if skb.family == 4 and group:
            return self._route_group(skb)
        oif = ""
        if skb.family == 6 and skb.daddr >> 118 == 0xFE80 >> 6:  # rt6_need_strict: by the device that is meant, or not at all
            oif = skb.scope if skb.dst is None else skb.dst.dev
            if not oif and skb.saddr >> 118 == 0xFE80 >> 6:
                owner = kernel.fib.owner(6, skb.saddr)
                if owner is None:
                    return Destination("UNREACHABLE", error="EINVAL")
                oif = owner.name
        found = kernel.fib.lookup(self._flow(skb, iif="lo", oif=oif), self._pick_next_hop)
        if found.error is not None or skb.family == 6:
            return found
        bad_source = skb.saddr & 0xF0000000 == 0xE0000000 or skb.saddr == 0xFFFFFFFF
        loopback = skb.saddr >> 24 == 127 and not self._is_loopback(found.dev) and not self._either4(found.dev, "route_localnet")
        if bad_source or loopback or skb.daddr == 0:
            return Destination("UNREACHABLE", error="EINVAL")
        return found

    def _route_group(self, skb: Skb) -> Destination:
        """Multicast and limited broadcast leave by the device of their source address (ip_route_output_key)."""
        owner = self.kernel.fib.owner(4, skb.saddr)
        if owner is None:
            return Destination("UNREACHABLE", error="EINVAL")
        return Destination("BROADCAST" if skb.daddr == 0xFFFFFFFF else "MULTICAST", owner.name, mtu=owner.mtu)

    def reroute(self, skb: Skb) -> Destination:
        """ip_route_me_harder: a changed packet of the node's own gets the route that fits it now."""
        found = self._route_output(skb)
        self._tell_route("reroute", found, skb.family)
        return found

    def _nat_changed_destination(self, skb: Skb) -> bool:
        conn = skb.conn
        if conn is None:
            return False
        one, other = (conn.reply, conn.original) if conntrack.is_reply(skb.ctinfo) else (conn.original, conn.reply)
        return one.dst != other.src

    def _tell_route(self, what: str, found: Destination, family: int) -> None:
        known = self._routes.get(id(found))
        if known is None or known[0] is not found or known[1].what != what:
            if len(self._routes) > 65536:
                self._routes.clear()
            known = self._routes[id(found)] = found, RouteEvent(what, describe(found, family), found.dev)
        self.kernel.events.append(known[1])


def _ended(verdict: HookVerdict) -> End:
    """Where a verdict other than ACCEPT ends the walk."""
    if isinstance(verdict, Stolen):
        return End("unknown", verdict.reason, verdict.by)
    assert isinstance(verdict, Drop)
    return End("drop", verdict.reason, verdict.by, replies=verdict.replies)


def _malformed(skb: Skb) -> str | None:
    """What the IP layer refuses before any hook."""
    if skb.pkttype == "otherhost":
        return "addressed to another MAC"
    if skb.family == 6:
        if skb.saddr >> 120 == 0xFF:
            return "a multicast source address"
        if (skb.saddr == 1 or skb.daddr == 1) and skb.indev != "lo":
            return "a loopback address from outside"
        if skb.daddr >> 120 == 0xFF:
            scope = skb.daddr >> 112 & 0xF  # RFC 4291, 2.7
            if scope == 0:
                return "a multicast address of the reserved scope 0"
            if scope == 1 and skb.indev != "lo" and skb.pkttype != "loopback":
                return "a multicast address of interface-local scope from outside"
    return None



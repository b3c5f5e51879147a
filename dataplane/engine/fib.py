"""Routing: rules, tables, longest prefixes, next hops; address types; source address selection.

The forwarding information base never changes while packets walk, so lookups are cached. What a lookup depends on is a Flow.
Source: net/ipv4/fib_frontend.c, fib_rules.c, fib_trie.c, fib_semantics.c, devinet.c; net/ipv6/route.c, ip6_fib.c, addrconf.c.
Not modelled: VRFs, source-specific IPv6 subtrees, neighbour reachability, route exceptions (PMTU, redirects).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.engine.fib_defaults import kernel_routes4, kernel_routes6, kernel_rules
from dataplane.inet import FULL_MASK, format_address, mask_of
from dataplane.rules.network import TABLES, Address, Link, NextHop, Route, RoutingRule
from dataplane.rules.nodestate import NodeState

if TYPE_CHECKING:
    from dataplane.engine.skb import Skb

_MULTICAST4: Final = 0xE0000000
_LOOPBACK4: Final = 0x7F000000


class Flow(NamedTuple):
    """What a route lookup looks at. ``iif`` is "lo" for packets that the node sends itself; ``oif`` "" for any."""

    family: int
    daddr: int
    saddr: int = 0
    iif: str = "lo"
    oif: str = ""
    mark: int = 0
    tos: int = 0
    protocol: int = 0
    sport: int = 0
    dport: int = 0
    uid: int = 0


class Destination(NamedTuple):
    """A route decision: ``type`` as in rtnetlink, upper case; ``dev`` is "lo" for what the node keeps for itself.

    ``error`` is the errno name of a lookup that failed (ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL), None for a usable route.
    """

    type: str
    dev: str = ""
    gateway: int | None = None
    route: Route | None = None
    prefsrc: int | None = None
    error: str | None = None
    mtu: int = 0
    gateway_family: int | None = None

    @property
    def local(self) -> bool:
        """Delivered to the node itself (unicast, broadcast and multicast alike)."""
        return self.error is None and self.type in ("LOCAL", "ANYCAST")


_ERRORS: Final[Mapping[str, str]] = {
    "unreachable": "EHOSTUNREACH", "prohibit": "EACCES", "blackhole": "EINVAL", "throw": "EAGAIN", "nat": "EINVAL", "xresolve": "EINVAL",
}  # fmt: skip

PickNextHop = Callable[[Sequence[NextHop]], NextHop]


def first_next_hop(hops: Sequence[NextHop]) -> NextHop:
    """The next hop of a lookup where the choice does not matter."""
    return hops[0]


class Fib:
    """All routing knowledge of one node, for both families."""

    def __init__(self, state: NodeState) -> None:
        self.links: dict[str, Link] = {link.name: link for link in state.links}
        self._owners: dict[int, dict[int, list[Link]]] = {4: {}, 6: {}}
        for link in state.links:
            for address in link.addresses:
                self._owners[address.family].setdefault(address.local, []).append(link)
        forwarding6 = state.sysctls.get("net.ipv6.conf.all.forwarding", "0") != "0"
        routes4 = _completed(state.routes4, kernel_routes4(state.links))
        routes6 = _completed(state.routes6, kernel_routes6(state.links, forwarding=forwarding6))
        self.routes: dict[int, tuple[Route, ...]] = {4: routes4, 6: routes6}
        self._tables = {4: _tables(routes4, 4), 6: _tables(routes6, 6)}
        given = {4: state.rules4, 6: state.rules6}
        self._rules: dict[int, tuple[RoutingRule, ...]] = {}
        self.custom_rules: dict[int, bool] = {}
        for family in (4, 6):
            rules = given[family]
            self._rules[family] = tuple(sorted(rules, key=lambda r: r.priority)) if rules is not None else kernel_rules(family)
            self.custom_rules[family] = _has_custom_rules(family, self._rules[family])
        self.custom_local_routes = _has_custom_local_routes(routes4, state.links)
        self._cache: dict[Flow, Destination] = {}
        self._type_cache: dict[tuple[int, int, str | None], str] = {}

    # ------------------------------------------------------------------ lookups

    def lookup(self, flow: Flow, pick: PickNextHop | None = None) -> Destination:
        """The route of a flow by the policy rules; ``pick`` chooses among several next hops (the first one without it)."""
        found = self._cache.get(flow)
        if found is None or (pick is not None and found.route is not None and len(found.route.nexthops) > 1):
            found = self._lookup(flow, pick or first_next_hop)
            if len(self._cache) > 65536:
                self._cache.clear()
            self._cache[flow] = found
        return found

    def _lookup(self, flow: Flow, pick: PickNextHop) -> Destination:
        rules = self._rules[flow.family]
        position = 0
        while position < len(rules):
            rule = rules[position]
            position += 1
            if not _rule_matches(rule, flow):
                continue
            if rule.action == "goto":
                position = next((i for i, later in enumerate(rules) if rule.goto is not None and later.priority >= rule.goto), len(rules))
                continue
            if rule.action in _ERRORS:
                error = "ENETUNREACH" if rule.action == "unreachable" else _ERRORS[rule.action]
                return Destination(rule.action.upper(), error=error)
            if rule.action != "lookup":
                continue
            found = self._table_lookup(rule.table if rule.table is not None else 254, flow, pick)
            if found is None or found.error == "EAGAIN":
                continue
            limit = rule.suppress_prefixlength
            if limit is not None and found.route is not None and (found.route.destination.length or 0) <= limit:
                continue
            return found
        return Destination("UNREACHABLE", error="ENETUNREACH")

    def _table_lookup(self, table: int, flow: Flow, pick: PickNextHop) -> Destination | None:
        for mask, networks in self._tables[flow.family].get(table, ()):
            for route in networks.get(flow.daddr & mask, ()):
                if route.tos and route.tos != flow.tos & 0xFC:
                    continue
                if route.type in _ERRORS:
                    return Destination(route.type.upper(), route=route, error=_ERRORS[route.type])
                hops = self._usable(route, flow)
                if hops:
                    return self._destination(route, pick(hops) if len(hops) > 1 else hops[0], flow.family)
        return None

    def _usable(self, route: Route, flow: Flow) -> list[NextHop]:
        """Next hops on links that are up. The node's own addresses are its own on any link (fib_sync_down_dev spares them)."""
        hops = []
        for hop in route.nexthops:
            dev = hop.dev or ""
            link = self.links.get(dev)
            if "dead" in hop.flags or (link is not None and not link.up and route.type != "local"):
                continue
            if flow.oif and flow.oif != dev:
                continue
            hops.append(hop)
        return hops

    def _destination(self, route: Route, hop: NextHop, family: int) -> Destination:
        dev = hop.dev or ""
        link = self.links.get(dev)
        mtu = route.mtu or (link.mtu if link is not None else 1500)
        out = "lo" if route.type in ("local", "anycast") else dev
        return Destination(
            route.type.upper(), out, hop.gateway, route, self._preferred_source(route, hop, family), None, mtu, hop.gateway_family
        )

    def _preferred_source(self, route: Route, hop: NextHop, family: int) -> int | None:
        if route.prefsrc is not None:
            return route.prefsrc
        if family == 6:
            return None  # chosen by the destination, see source_address
        if route.type == "local":
            return None  # the destination itself
        gateway = hop.gateway if hop.gateway_family in (None, 4) else None
        return self.select_address4(hop.dev or "", gateway, route.scope)

    def reverse_path(self, skb: Skb, *, loose: bool, validmark: bool, accept_local: bool) -> bool:
        """Whether an answer to the packet's source would leave by the device it came in by (-m rpfilter).

        Source: net/ipv4/netfilter/ipt_rpfilter.c, net/ipv6/netfilter/ip6t_rpfilter.c.
        """
        link = self.links.get(skb.indev)
        if skb.pkttype == "loopback" or (link is not None and "LOOPBACK" in link.flags):
            return True
        if skb.family == 4 and skb.saddr == 0 and (skb.daddr == 0xFFFFFFFF or skb.daddr >> 8 == 0xE00000):
            return True
        if skb.family == 6 and skb.saddr == 0:
            return True
        unusable = skb.family == 4 and (skb.daddr in (0, 0xFFFFFFFF) or skb.daddr & 0xF0000000 == _MULTICAST4)
        oif = skb.indev if skb.family == 6 and skb.saddr >> 118 == 0xFE80 >> 6 else ""
        back = self.lookup(Flow(skb.family, skb.saddr, 0 if unusable else skb.daddr, "lo", oif, skb.mark if validmark else 0, skb.tos))
        if back.error is not None or (back.type != "UNICAST" and not (back.type == "LOCAL" and accept_local)):
            return False
        hops = back.route.nexthops if back.route is not None else ()
        return loose or any(hop.dev == skb.indev for hop in hops)

    # ------------------------------------------------------------------ addresses

    def owner(self, family: int, address: int) -> Link | None:
        """The first link that carries this very address."""
        links = self._owners[family].get(address)
        return links[0] if links else None

    def address_type(self, family: int, address: int, dev: str | None = None) -> str:
        """rtnetlink's type of an address, upper case.

        IPv4: by the local table alone (inet_dev_addr_type); with ``dev`` the type counts only on that device.
        IPv6: by the whole routing (LOCAL, ANYCAST, UNREACHABLE, UNICAST), MULTICAST and UNSPEC by form.
        """
        key = (family, address, dev)
        found = self._type_cache.get(key)
        if found is None:
            found = self._address_type4(address, dev) if family == 4 else self._address_type6(address, dev)
            if len(self._type_cache) > 65536:
                self._type_cache.clear()
            self._type_cache[key] = found
        return found

    def _address_type4(self, address: int, dev: str | None) -> str:
        if address in (0, 0xFFFFFFFF):
            return "BROADCAST"
        if address & 0xF0000000 == _MULTICAST4:
            return "MULTICAST"
        for mask, networks in self._tables[4].get(TABLES["local"], ()):
            for route in networks.get(address & mask, ()):
                if dev is not None and not any(hop.dev == dev for hop in route.nexthops):
                    return "UNICAST"
                return route.type.upper()
        return "UNICAST"

    def _address_type6(self, address: int, dev: str | None) -> str:
        if address == 0:
            return "UNSPEC"
        if address >> 120 == 0xFF:
            return "MULTICAST"
        found = self.lookup(Flow(6, address, oif=dev or ""))
        if found.error is not None:
            return "UNREACHABLE"
        return found.type if found.type in ("LOCAL", "ANYCAST") else "UNICAST"

    def select_address4(self, dev: str, destination: int | None, scope: int) -> int | None:
        """inet_select_addr: an address of ``dev`` in the destination's subnet, else its first; then any other device's."""
        link = self.links.get(dev)
        best = _select_on(link.addresses, destination, scope) if link is not None and link.up else None
        if best is not None:
            return best
        for other in self.links.values():
            for address in other.addresses:
                usable = address.family == 4 and not address.secondary and address.scope != 253 and min(address.scope, 254) <= scope
                if usable and other.up:
                    return address.local
        return None

    def source_address(self, flow: Flow, destination: Destination) -> int | None:
        """The source that the kernel gives a packet of its own on this route, None where there is none."""
        if destination.prefsrc is not None:
            return destination.prefsrc
        if destination.type in ("LOCAL", "ANYCAST") and flow.family == 4:
            return flow.daddr
        if flow.family == 4:
            return self.select_address4(destination.dev, destination.gateway, 0)
        return self.select_address6(destination.dev, flow.daddr)

    def select_address6(self, dev: str, destination: int) -> int | None:
        """RFC 6724 source selection, as far as addresses alone decide it: same address, scope, deprecation, device, prefix.

        Source: ipv6_dev_get_saddr, __ipv6_dev_get_saddr. Labels follow the default policy table.
        """
        wanted = _scope6(destination)
        best: tuple[tuple[int, ...], int] | None = None
        for link in self.links.values():
            if not link.up and "NOARP" not in link.flags:  # dummies have theirs at once
                continue
            if wanted <= 2 and link.name != dev and destination >> 112 & 0xFFC0 == 0xFE80:
                continue
            for address in link.addresses:
                if address.family != 6 or address.tentative:
                    continue
                score = _score6(address, link, dev, destination, wanted)
                if best is None or score > best[0]:
                    best = (score, address.local)
        return best[1] if best else None


def _select_on(addresses: Iterable[Address], destination: int | None, scope: int) -> int | None:
    first: int | None = None
    for address in addresses:
        if address.family != 4 or address.secondary or min(address.scope, 254) > scope:
            continue
        if destination is None:
            return address.local
        mask = mask_of(4, address.prefixlen)
        subnet = address.peer if address.peer is not None else address.local
        if destination & mask == subnet & mask:
            return address.local
        if first is None:
            first = address.local
    return first


def _scope6(address: int) -> int:
    if address == 1 or address >> 118 == 0xFE80 >> 6:
        return 2
    if address >> 120 == 0xFF:
        return address >> 112 & 15
    if address >> 118 == 0xFEC0 >> 6:
        return 5
    return 14


def _label6(address: int) -> int:
    for prefix, length, label in (
        (1, 128, 0), (0xFFFF << 32, 96, 4), (0, 96, 3), (0x20010000 << 96, 32, 6), (0x20010010 << 96, 28, 7), (0x3FFE << 112, 16, 12),
        (0x2002 << 112, 16, 2), (0xFEC0 << 112, 10, 11), (0xFC00 << 112, 7, 5),
    ):  # fmt: skip
        if address & mask_of(6, length) == prefix:
            return label
    return 1


def _score6(address: Address, link: Link, dev: str, destination: int, wanted: int) -> tuple[int, ...]:
    own = _scope6(address.local)
    scope = own - 128 if own < wanted else -own  # smallest that is large enough, else the largest
    if own >= wanted:
        scope = 128 - own
    common = FULL_MASK[6].bit_length() - (address.local ^ destination).bit_length()
    return (
        int(address.local == destination), scope, int(not address.deprecated), int(link.name == dev),
        int(_label6(address.local) == _label6(destination)), min(common, address.prefixlen),
    )  # fmt: skip


def _completed(given: tuple[Route, ...] | None, made: tuple[Route, ...]) -> tuple[Route, ...]:
    """Routes as given; where the local table is missing (plain ``ip route``) the kernel's own entries of it are added."""
    if given is None:
        return made
    if any(route.table == TABLES["local"] for route in given):
        return given
    return given + tuple(route for route in made if route.table == TABLES["local"])


_Table = list[tuple[int, dict[int, list[Route]]]]


def _tables(routes: Iterable[Route], family: int) -> dict[int, _Table]:
    built: dict[int, dict[int, dict[int, list[Route]]]] = {}
    for route in routes:
        if route.type == "multicast" and family == 4:
            continue
        by_mask = built.setdefault(route.table, {})
        networks = by_mask.setdefault(route.destination.mask, {})
        networks.setdefault(route.destination.address, []).append(route)
    tables: dict[int, _Table] = {}
    for table, by_mask in built.items():
        for networks in by_mask.values():
            for alternatives in networks.values():
                alternatives.sort(key=lambda route: (-route.tos, route.metric))
        tables[table] = [(mask, by_mask[mask]) for mask in sorted(by_mask, reverse=True)]
    return tables


def _rule_matches(rule: RoutingRule, flow: Flow) -> bool:
    matched = (
        (not rule.iif or rule.iif == flow.iif)
        and (not rule.oif or rule.oif == flow.oif)
        and (flow.mark ^ rule.fwmark) & rule.fwmask == 0
        and (rule.source is None or flow.saddr in rule.source)
        and (rule.destination is None or flow.daddr in rule.destination)
        and (not rule.tos or rule.tos == flow.tos & 0xFC)
        and (rule.ip_protocol is None or rule.ip_protocol == flow.protocol)
        and (rule.sport is None or rule.sport[0] <= flow.sport <= rule.sport[1])
        and (rule.dport is None or rule.dport[0] <= flow.dport <= rule.dport[1])
        and (rule.uid_range is None or rule.uid_range[0] <= flow.uid <= rule.uid_range[1])
    )
    return matched != rule.negated


def _has_custom_rules(family: int, rules: tuple[RoutingRule, ...]) -> bool:
    return {(rule.priority, rule.table) for rule in rules} != {(rule.priority, rule.table) for rule in kernel_rules(family)}


def _has_custom_local_routes(routes: tuple[Route, ...], links: Sequence[Link]) -> bool:
    own = {address.local for link in links for address in link.addresses if address.family == 4}
    for route in routes:
        if route.type != "local" or route.table != TABLES["local"]:
            continue
        kernel_made = route.destination.mask == FULL_MASK[4] and route.destination.address in own
        if not kernel_made and route.destination.address & 0xFF000000 != _LOOPBACK4:
            return True
    return False


def describe(destination: Destination, family: int) -> str:
    """A route decision in the words of ``ip route get``."""
    if destination.error is not None:
        return f"{destination.type.lower()} ({destination.error})"
    if destination.type == "LOCAL":
        return "local (this node)"
    via = f" via {format_address(destination.gateway_family or family, destination.gateway)}" if destination.gateway is not None else ""
    route = f"{destination.route.destination}" if destination.route is not None else "?"
    route = "default" if route in ("0.0.0.0/0", "::/0") else route
    kind = "" if destination.type == "UNICAST" else destination.type.lower() + " "
    return f"{kind}{route}{via} dev {destination.dev}"

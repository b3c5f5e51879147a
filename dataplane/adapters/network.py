"""A node's network in a namespace of its own: what must be done so that links, addresses, neighbours, routes and rules become those of a state.

Whatever a link is in the state (bridge, tunnel, VLAN), here it is one end of a veth pair, whose other end stands in the namespace that plays
the outside; kube-ipvs0 is a dummy where the kernel has that. Steps are made by comparing what is there with what is wanted, and each says
what it does in the words of ip(8); pyroute2 carries it out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from dataplane.errors import ApplyError
from dataplane.inet import format_address
from dataplane.rules.network import Address, Link, Route, RoutingRule
from dataplane.rules.nodestate import NodeState
from dataplane.text.ipwords import address_words, route_words, rule_words

_AF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NODAD: Final = 0x02
_DEPRECATED: Final = 0x20
_ONLINK: Final = 4
_GATEWAY_MAC: Final = "02:00:5e:00:53:01"
_PROTOCOLS: Final = {"redirect": 1, "kernel": 2, "boot": 3, "static": 4, "ra": 9, "zebra": 11, "bird": 12, "dhcp": 16, "keepalived": 18, "bgp": 186}
_ERRORS: Final = ("unreachable", "blackhole", "prohibit", "throw")
_UNKNOWN_TABLE: Final = 1 << 32
#: A node that nobody asks is to send nothing by itself.
QUIET: Final = ("addr_gen_mode=1", "accept_ra=0", "accept_dad=0", "dad_transmits=0", "router_solicitations=0", "autoconf=0")

class Step(NamedTuple):
    """One thing to do: ``text`` says what, ``run`` does it; ``given`` is what a batch tool is fed."""

    text: str
    run: Callable[[], object]
    given: str = ""


class Ends:
    """Open netlink sockets to a namespace and to its outside. ``close`` when done."""

    def __init__(self, name: str, outside: str | None) -> None:
        from pyroute2 import IPRoute

        self.node = IPRoute(netns=name)
        self.outside_name = outside
        self.outside = IPRoute(netns=outside) if outside is not None else None

    def index(self, name: str) -> int:
        """A link's index. ApplyError where there is none of that name."""
        found = self.node.link_lookup(ifname=name)
        if not found:
            raise ApplyError(f"no link {name} in the namespace")
        return int(found[0])

    def close(self) -> None:
        """Closes the sockets."""
        self.node.close()
        if self.outside is not None:
            self.outside.close()


def told(call: Callable[[], object], text: str) -> Callable[[], object]:
    """The call, with the kernel's refusal as an ApplyError that says what was asked."""

    def run() -> object:
        try:
            return call()
        except Exception as error:
            if type(error).__name__ != "NetlinkError":
                raise
            raise ApplyError(f"ip {text}: {error.args[1] if len(error.args) > 1 else error}") from None

    return run


def steps(have: NodeState, want: NodeState, ends: Callable[[], Ends]) -> Iterator[Step]:
    """What leads from one network to another, in an order that works. ``ends`` is called by the steps only."""
    yield from _links(have, want, ends)
    yield from _addresses(have, want, ends)
    for family in (4, 6):
        routes = want.routes4 if family == 4 else want.routes6
        if routes is not None:
            yield from _routes(have.routes4 if family == 4 else have.routes6, routes, family, ends)
        rules = want.rules4 if family == 4 else want.rules6
        if rules is not None:
            yield from _rules(have.rules4 if family == 4 else have.rules6, rules, ends)


def _step(text: str, call: Callable[..., object], *given: object) -> Step:
    return Step(f"ip {text}", told(partial(call, *given), text))


# ---------------------------------------------------------------------- links


def _links(have: NodeState, want: NodeState, ends: Callable[[], Ends]) -> Iterator[Step]:
    there = {link.name: link for link in have.links}
    wanted = {link.name: link for link in want.links}
    for name in there:
        if name not in wanted and name != "lo":
            yield _step(f"link del {name}", lambda one: ends().node.link("del", index=ends().index(one)), name)
    for link in sorted(want.links, key=lambda one: one.index):
        old = there.get(link.name)
        if link.name == "lo":
            if old is None or not old.up:
                yield _step("link set lo up", lambda: _set(ends(), "lo", state="up"))
            continue
        if old is None:
            yield _step(_link_words(link), lambda one: _make(ends(), one), link)
        elif link.mac is not None and link.mac != old.mac and link.link_type == "ether":
            yield _step(f"link set {link.name} address {link.mac}", lambda one: _set(ends(), one.name, address=one.mac), link)
        if old is not None and link.mtu != old.mtu:
            yield _step(f"link set {link.name} mtu {link.mtu}", lambda one: _set(ends(), one.name, mtu=one.mtu), link)
        if link.up != (old is not None and old.up):
            state = "up" if link.up else "down"
            yield _step(f"link set {link.name} {state}", lambda one, way: _up(ends(), one, way), link, state)


def _link_words(link: Link) -> str:
    kind = "dummy" if link.kind == "dummy" else f"veth peer name p{link.index}"
    mac = f" address {link.mac}" if link.mac and link.link_type == "ether" else ""
    return f"link add {link.name} index {link.index} mtu {link.mtu}{mac} type {kind}"


def _make(ends: Ends, link: Link) -> None:
    given: dict[str, Any] = {"ifname": link.name, "index": link.index, "mtu": link.mtu}  # Any: pyroute2's keywords
    if link.mac and link.link_type == "ether":
        given["address"] = link.mac
    if link.kind == "dummy":
        try:
            ends.node.link("add", kind="dummy", **given)
        except Exception as error:
            if type(error).__name__ != "NetlinkError" or error.args[0] != 95:
                raise
            ends.node.link("add", kind="bridge", **given)  # a kernel without dummy: a bridge without ports holds addresses as well
        return
    descriptor = os.open(f"/run/netns/{ends.outside_name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        ends.node.link("add", kind="veth", peer={"ifname": f"p{link.index}", "mtu": link.mtu, "net_ns_fd": descriptor}, **given)
    finally:
        os.close(descriptor)


def _set(ends: Ends, name: str, **what: Any) -> None:  # Any: pyroute2's keywords
    ends.node.link("set", index=ends.index(name), **what)


def _up(ends: Ends, link: Link, state: str) -> None:
    if ends.outside is not None and (link.carrier or not link.up):
        for peer in ends.outside.link_lookup(ifname=f"p{link.index}"):
            ends.outside.link("set", index=peer, state=state)
    _set(ends, link.name, state=state)


# ---------------------------------------------------------------------- addresses


def _addresses(have: NodeState, want: NodeState, ends: Callable[[], Ends]) -> Iterator[Step]:
    there = {link.name: link for link in have.links}
    for link in want.links:
        old = there.get(link.name)
        known = {_key(one): one for one in old.addresses} if old is not None else {}
        wanted = {_key(one): one for one in link.addresses}
        for key, one in known.items():
            if key not in wanted:
                yield _address_step("del", link.name, one, ends)
        # The latest IPv6 address comes first in the kernel's list, and the list's order decides among equals.
        order = [one for one in link.addresses if one.family == 4] + [one for one in link.addresses if one.family == 6][::-1]
        for one in order:
            own = link.name == "lo" and (one.local, one.prefixlen) in ((0x7F000001, 8), (1, 128)) and (old is None or not old.up)
            if _key(one) not in known and not own:
                yield _address_step("add", link.name, one, ends)


def _key(one: Address) -> tuple[int, int, int, int | None]:
    return one.family, one.local, one.prefixlen, one.peer


def _address_step(verb: str, name: str, one: Address, ends: Callable[[], Ends]) -> Step:
    local = format_address(one.family, one.local)
    far = format_address(one.family, one.peer) if one.peer is not None else None
    text = f"addr {verb} {address_words(one, name)}"
    given: dict[str, Any] = {"family": _AF[one.family], "address": far or local, "prefixlen": one.prefixlen, "local": local}  # Any: pyroute2's keywords
    if verb == "add":
        given["scope"] = one.scope
        if one.family == 4 and one.broadcast is not None:
            given["broadcast"] = format_address(4, one.broadcast)
        if one.family == 4:
            given["label"] = one.label or name
        if one.family == 6:
            given["flags"] = _NODAD
        if one.deprecated:
            given["preferred_lft"], given["valid_lft"] = 0, 0xFFFFFFFF
    return _step(text, lambda: ends().node.addr(verb, index=ends().index(name), **given))


# ---------------------------------------------------------------------- routes


def _plain(route: Route) -> Route:
    """Without what the kernel says of the moment (dead, linkdown)."""
    hops = tuple(hop._replace(flags=(), rest=()) for hop in route.nexthops)
    return route._replace(nexthops=hops, rest=())


def _routes(have: Iterable[Route] | None, want: Iterable[Route], family: int, ends: Callable[[], Ends]) -> Iterator[Step]:
    there = [_plain(route) for route in have or ()]
    wanted = [_plain(route) for route in want if route.table < _UNKNOWN_TABLE and route.family == family]
    ours = [route for route in wanted if route.protocol != "kernel"]
    for route in there:
        listed = any((route.destination, route.table) == (one.destination, one.table) for one in wanted)
        if route not in wanted and (route.protocol != "kernel" or (route.table == 254 and not listed)) and route.type != "multicast":
            yield _step(f"route del {route_words(route)}", lambda one: _route(ends(), "del", one), route)
    missing = [route for route in ours if route not in there]
    for gateway, dev in sorted({(hop.gateway, hop.dev) for route in missing for hop in route.nexthops if hop.gateway is not None and hop.dev}):
        yield _neighbour(gateway, dev, missing, ends)
    for route in sorted(missing, key=lambda one: any(hop.gateway is not None for hop in one.nexthops)):
        yield _step(f"route add {route_words(route)}", lambda one: _route(ends(), "add", one), route)


def _neighbour(gateway: int, dev: str, routes: Iterable[Route], ends: Callable[[], Ends]) -> Step:
    """Gateways are known neighbours: nobody stands outside who would answer for them."""
    hop = next((hop, route) for route in routes for hop in route.nexthops if (hop.gateway, hop.dev) == (gateway, dev))
    family = hop[0].gateway_family or hop[1].family
    address = format_address(family, gateway)
    return _step(
        f"neigh replace {address} lladdr {_GATEWAY_MAC} nud permanent dev {dev}",
        lambda: ends().node.neigh("replace", family=_AF[family], dst=address, lladdr=_GATEWAY_MAC, ifindex=ends().index(dev), state=0x80),
    )  # fmt: skip


def _route(ends: Ends, verb: str, route: Route) -> None:
    number = _PROTOCOLS.get(route.protocol or "boot") or int(route.protocol or 3)
    given: dict[str, Any] = {  # Any: pyroute2's keywords
        "family": _AF[route.family], "dst": str(route.destination), "table": route.table, "type": route.type, "proto": number,
    }  # fmt: skip
    if route.metric:
        given["priority"] = route.metric
    if route.family == 4:
        given["scope"] = route.scope
    if route.tos:
        given["tos"] = route.tos
    if route.prefsrc is not None:
        given["prefsrc"] = format_address(route.family, route.prefsrc)
    if route.mtu:
        given["metrics"] = {"mtu": route.mtu}
    hops = [_hop(ends, route, hop) for hop in route.nexthops] if route.type not in _ERRORS else []
    if len(hops) == 1:
        hops[0].pop("hops")
        given |= hops[0]
    elif hops:
        given["multipath"] = hops
    ends.node.route(verb, **given)


def _hop(ends: Ends, route: Route, hop: Any) -> dict[str, Any]:  # Any: NextHop; pyroute2's keywords
    made: dict[str, Any] = {"hops": hop.weight - 1}
    if hop.dev:
        made["oif"] = ends.index(hop.dev)
    if hop.gateway is not None:
        address = format_address(hop.gateway_family or route.family, hop.gateway)
        if hop.gateway_family not in (None, route.family):
            made["via"] = {"family": _AF[hop.gateway_family], "addr": address}
        else:
            made["gateway"] = address
    if hop.onlink:
        made["flags"] = _ONLINK
    return made


# ---------------------------------------------------------------------- rules


def _rules(have: Iterable[RoutingRule] | None, want: Iterable[RoutingRule], ends: Callable[[], Ends]) -> Iterator[Step]:
    """The new ones first: without a rule for the table "local" nothing would be reached in between."""
    there = [rule._replace(rest=()) for rule in have or ()]
    wanted = [rule._replace(rest=()) for rule in want]
    for verb, rules, others in (("add", wanted, there), ("del", there, wanted)):
        for rule in rules:
            if rule not in others:
                yield _step(f"rule {verb} {rule_words(rule)}", lambda what, one: ends().node.rule(what, **_rule(one)), verb, rule)


def _rule(rule: RoutingRule) -> dict[str, Any]:  # Any: pyroute2's keywords
    actions = {"lookup": "to_tbl", "goto": "goto", "nop": "nop", "unreachable": "unreachable", "prohibit": "prohibit", "blackhole": "blackhole"}
    if rule.action not in actions:
        raise ApplyError(f"ip rule {rule_words(rule)}: the action {rule.action} cannot be applied")
    given: dict[str, Any] = {"family": _AF[rule.family], "priority": rule.priority, "action": actions[rule.action]}
    given["table"] = rule.table if rule.table is not None and rule.table < _UNKNOWN_TABLE else 0
    for name, prefix in (("src", rule.source), ("dst", rule.destination)):
        if prefix is not None:
            given[name], given[f"{name}_len"] = format_address(rule.family, prefix.address), prefix.length
    if rule.fwmask:
        given["fwmark"], given["fwmask"] = rule.fwmark, rule.fwmask
    options = {
        "iifname": rule.iif, "oifname": rule.oif, "tos": rule.tos or None, "ip_proto": rule.ip_protocol, "goto": rule.goto,
        "FRA_SUPPRESS_PREFIXLEN": rule.suppress_prefixlength, "sport_range": _range(rule.sport), "dport_range": _range(rule.dport),
        "FRA_UID_RANGE": f"{rule.uid_range[0]}:{rule.uid_range[1]}" if rule.uid_range else None, "flags": 2 if rule.negated else None,
    }  # fmt: skip
    return given | {name: value for name, value in options.items() if value is not None}


def _range(ports: tuple[int, int] | None) -> dict[str, int] | None:
    return None if ports is None else {"start": ports[0], "end": ports[1]}

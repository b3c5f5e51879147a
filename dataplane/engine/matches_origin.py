"""Matches on where a packet comes from and goes to: kinds of address, bridge ports, sockets, MACs, marks, routes.

What is not known of a packet (its MAC, supplementary groups, realms) is said to be unknown, not taken to be absent.
Source: xt_addrtype.c, xt_physdev.c, xt_owner.c, xt_mac.c, xt_pkttype.c, ipt_rpfilter.c, ip6t_rpfilter.c, xt_mark.c,
xt_devgroup.c, xt_realm.c, xt_policy.c.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.fib import Destination, Flow
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import MatchRow, all_of, always, guess, never, not_modelled, tested
from dataplane.engine.skb import Skb
from dataplane.rules.iptables import Match, Option
from dataplane.rules.network import Link

# ---------------------------------------------------------------------- kinds of address


def _addrtype(match: Match, bind: Bind) -> Matcher:
    source, destination = match.option("src-type"), match.option("dst-type")
    limit_in, limit_out = match.option("limit-iface-in") is not None, match.option("limit-iface-out") is not None
    holds = _holds4 if bind.family == 4 else _holds6
    source_names = frozenset(source.value) if source is not None else None
    destination_names = frozenset(destination.value) if destination is not None else None
    source_negated = source is not None and source.negated
    destination_negated = destination is not None and destination.negated

    def matcher(skb: Skb, state: HookState) -> bool:
        dev = state.indev if limit_in else state.outdev if limit_out else None
        if source_names is not None and holds(bind, skb.saddr, dev, source_names) == source_negated:
            return False
        return destination_names is None or holds(bind, skb.daddr, dev, destination_names) != destination_negated

    return matcher


def _holds4(bind: Bind, address: int, dev: str | None, names: Collection[str]) -> bool:
    return bind.kernel.fib.address_type(4, address, dev) in names


def _holds6(bind: Bind, address: int, dev: str | None, names: Collection[str]) -> bool:
    """match_type6: the forms that are named must all hold; then one of the kinds that routing knows, if any is named."""
    multicast, unspecified = address >> 120 == 0xFF, address == 0
    if "MULTICAST" in names and not multicast:
        return False
    if "UNICAST" in names and (multicast or unspecified or address >> 32 == 0xFFFF):
        return False
    if "UNSPEC" in names and not unspecified:
        return False
    if not ("LOCAL" in names or "ANYCAST" in names or "UNREACHABLE" in names):
        return True
    return any(kind in names for kind in _routed_kinds6(bind, address, dev))


def _routed_kinds6(bind: Bind, address: int, dev: str | None) -> set[str]:
    """match_lookup_rt6: with a device, LOCAL is an address of that device; an unroutable address is only UNREACHABLE."""
    found = bind.kernel.fib.lookup(Flow(6, address, oif=dev or ""))
    if found.error is not None:
        return {"UNREACHABLE"}
    kinds = set()
    if dev is None:
        if found.type == "LOCAL":
            kinds.add("LOCAL")
    elif _owns(bind.kernel.links.get(dev), address):
        kinds.add("LOCAL")
    if found.type == "ANYCAST" or _is_subnet_router(found, address):
        kinds.add("ANYCAST")
    return kinds


def _is_subnet_router(found: Destination, address: int) -> bool:
    """ipv6_anycast_destination: the first address of a net that is reached without a gateway stands for its routers."""
    if found.route is None or found.gateway is not None:
        return False
    length = found.route.destination.length
    return length is not None and length < 127 and found.route.destination.address == address


def _owns(link: Link | None, address: int) -> bool:
    return link is not None and any(a.family == 6 and a.local == address and not a.tentative for a in link.addresses)


# ---------------------------------------------------------------------- devices


def _name_test(pattern: str) -> Callable[[str], bool]:
    if pattern.endswith("+"):
        return lambda name: name.startswith(pattern[:-1])
    return lambda name: name == pattern


def _physdev(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """Bridge ports. A packet that never was on a bridge matches where every option is inverted."""
    options = {option.name.removeprefix("physdev-"): option for option in match.options}
    elsewhere = all(option.negated for option in match.options)
    named = {key: (_name_test(options[key].value), options[key].negated) for key in ("in", "out") if key in options}
    flags = {key: options[key].negated for key in ("is-in", "is-out", "is-bridged") if key in options}

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        port_in, port_out = skb.physin, skb.physout
        if not port_in and not port_out:
            return elsewhere
        facts = {"is-in": bool(port_in), "is-out": bool(port_out), "is-bridged": bool(port_out)}
        if any(facts[key] == negated for key, negated in flags.items()):
            return False
        if "in" in named and port_in and named["in"][0](port_in) == named["in"][1]:
            return False
        return "out" not in named or (bool(port_out) and named["out"][0](port_out) != named["out"][1])

    return matcher


def _mac(match: Match, bind: Bind) -> Matcher:
    option = match.options[0]
    wanted: int = option.value
    negated = option.negated

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        link = bind.kernel.links.get(skb.indev)
        if skb.local or link is None or link.link_type != "ether":
            return False
        if skb.mac_source is None:
            return guess(bind, "-m mac: the packet's source MAC address is not known")
        return (skb.mac_source == wanted) != negated

    return matcher


def _pkttype(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """As the link layer says; what the node loops back to itself is multicast or broadcast by its address."""
    option = match.options[0]
    wanted: str = option.value
    negated = option.negated

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kind = skb.pkttype
        if kind == "host":
            kind = "unicast"
        elif kind == "loopback":
            kind = "multicast" if skb.family == 6 or skb.daddr >> 28 == 0xE else "broadcast"
        return (kind == wanted) != negated

    return matcher


def _devgroup(match: Match, bind: Bind) -> Matcher:
    """Group 0 ("default") where nothing is said of a device's group."""
    asked = [(option.name == "src-group", *option.value, option.negated) for option in match.options]

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        for incoming, value, mask, negated in asked:
            dev = state.indev if incoming else state.outdev
            group = _group(bind.kernel.links.get(dev))
            if group is None:
                return guess(bind, f"-m devgroup: which number the group of {dev} has is not known")
            if ((group ^ value) & mask == 0) == negated:
                return False
        return True

    return matcher


def _group(link: Link | None) -> int | None:
    text = dict(link.rest).get("group", "default") if link is not None else "default"
    if text == "default":
        return 0
    return int(text) if str(text).isdigit() else None


def _rpfilter(match: Match, bind: Bind) -> Matcher:
    flags = ("loose", "validmark", "accept-local", "invert")
    loose, validmark, accept, invert = (match.option(name) is not None for name in flags)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        answer = bind.kernel.fib.reverse_path(skb, loose=loose, validmark=validmark, accept_local=accept)
        return answer != invert

    return matcher


# ---------------------------------------------------------------------- sockets, marks, routes, policies


def _owner(match: Match, bind: Bind) -> Matcher:
    """A packet without a socket matches where everything that is asked is inverted; a socket without a user likewise."""
    exists, uid, gid = (match.option(name) for name in ("socket-exists", "uid-owner", "gid-owner"))
    without_socket = all(option.negated for option in match.options)
    without_user = all(option.negated for option in (uid, gid) if option is not None)
    groups = match.option("suppl-groups") is not None

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if not skb.has_socket:
            return without_socket
        if exists is not None and exists.negated:
            return False
        if skb.uid is None or skb.gid is None:
            return without_user
        if uid is not None and _among(uid, skb.uid) == uid.negated:
            return False
        if gid is None:
            return True
        among = _among(gid, skb.gid)
        if groups and not among:
            among = guess(bind, "-m owner --suppl-groups: the socket's other groups are not known")
        return among != gid.negated

    return matcher


def _among(option: Option, number: int) -> bool:
    low, high = option.value
    found: bool = low <= number <= high
    return found


def _mark(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return all_of(tested(match.options[0], lambda value: lambda skb: skb.mark & value[1] == value[0]))


def _realm(match: Match, bind: Bind) -> Matcher:
    """Realm 0 is that of every route that names none."""
    option = match.options[0]
    hit = bool(option.value[0] == 0) != option.negated  # 0 under any mask is 0

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        route = skb.dst.route if skb.dst is not None else None
        if route is not None and any(name in ("realm", "realms") for name, _ in route.rest):
            return guess(bind, "-m realm on a route with realms is not modelled")
        return hit

    return matcher


def _policy(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """No packet has been or will be transformed by IPsec here, so every packet is one of --pol none."""
    policy = match.option("pol")
    return always if policy is not None and policy.value == "none" else never


def _depends_on(what: str) -> MatchRow:
    """A match on something that no packet or snapshot tells; never pure, so that an index does not step over it."""
    return MatchRow(lambda match, bind: not_modelled(f"-m {match.name} ({what})", bind), pure=False)


ROWS: Final[dict[str, MatchRow]] = {
    "addrtype": MatchRow(_addrtype),
    "physdev": MatchRow(_physdev),
    "mac": MatchRow(_mac),
    "pkttype": MatchRow(_pkttype),
    "devgroup": MatchRow(_devgroup),
    "rpfilter": MatchRow(_rpfilter),
    "owner": MatchRow(_owner),
    "mark": MatchRow(_mark),
    "realm": MatchRow(_realm),
    "policy": MatchRow(_policy),
    "socket": _depends_on("which sockets listen is not part of a node's state"),
    "cgroup": _depends_on("the control group of the sending process is not known"),
    "cpu": _depends_on("which CPU handles a packet is not known"),
    "bpf": _depends_on("the program reads the packet's bytes"),
}

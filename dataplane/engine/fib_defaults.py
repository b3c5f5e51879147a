"""The routes and rules that the kernel makes by itself from a node's addresses.

Used where a snapshot says nothing of them. Source: fib_add_ifaddr (net/ipv4/fib_frontend.c), addrconf.c (net/ipv6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dataplane.inet import FULL_MASK, Prefix, mask_of
from dataplane.rules.network import TABLES, Address, Link, NextHop, Route, RoutingRule

_LOCAL, _MAIN, _DEFAULT = TABLES["local"], TABLES["main"], TABLES["default"]


def kernel_rules(family: int) -> tuple[RoutingRule, ...]:
    """``ip rule`` of a new namespace (IPv6 has no rule for the table "default")."""
    rules = [RoutingRule(family, 0, table=_LOCAL), RoutingRule(family, 32766, table=_MAIN)]
    if family == 4:
        rules.append(RoutingRule(family, 32767, table=_DEFAULT))
    return tuple(rules)


def kernel_routes4(links: Iterable[Link]) -> tuple[Route, ...]:
    """Local, broadcast and prefix routes of every IPv4 address; on a link that is down only the local ones."""
    return tuple(route for link in links for address in link.addresses if address.family == 4 for route in _of4(link, address))


def _of4(link: Link, address: Address) -> Iterator[Route]:
    hop = (NextHop(dev=link.name),)
    full = FULL_MASK[4]
    mask = mask_of(4, address.prefixlen)
    subnet = (address.peer if address.peer is not None else address.local) & mask
    yield Route(4, Prefix(4, address.local, full), "local", _LOCAL, hop, scope=254, prefsrc=address.local, protocol="kernel")
    if not link.up:
        return
    if address.broadcast not in (None, full):
        yield Route(4, Prefix(4, address.broadcast or 0, full), "broadcast", _LOCAL, hop, scope=253, prefsrc=address.local, protocol="kernel")
    if address.secondary or subnet == 0 or (subnet == address.local and address.prefixlen == 32):
        return
    if "LOOPBACK" in link.flags:
        yield Route(4, Prefix(4, subnet, mask), "local", _LOCAL, hop, scope=254, prefsrc=address.local, protocol="kernel")
    else:
        yield Route(4, Prefix(4, subnet, mask), "unicast", _MAIN, hop, scope=253, prefsrc=address.local, protocol="kernel")
    if address.prefixlen < 31:
        yield Route(4, Prefix(4, subnet | ~mask & full, full), "broadcast", _LOCAL, hop, scope=253, prefsrc=address.local, protocol="kernel")


def kernel_routes6(links: Iterable[Link], *, forwarding: bool) -> tuple[Route, ...]:
    """Local, prefix, multicast and (on a router) subnet-router anycast routes of every IPv6 address on a link that is up.

    A link that is down has the local ones, too, where it knows no neighbours (dummies): addresses are then not tried for duplicates.
    """
    routes: list[Route] = []
    for link in links:
        if not link.up and "NOARP" not in link.flags:
            continue
        hop = (NextHop(dev=link.name),)
        own = [address for address in link.addresses if address.family == 6]
        for address in own:
            mask = mask_of(6, address.prefixlen)
            routes.append(Route(6, Prefix(6, address.local, FULL_MASK[6]), "local", _LOCAL, hop, protocol="kernel"))
            if link.up and address.prefixlen < 128 and "LOOPBACK" not in link.flags:
                routes.append(Route(6, Prefix(6, address.local & mask, mask), "unicast", _MAIN, hop, metric=256, protocol="kernel"))
                if forwarding and address.prefixlen < 127:
                    routes.append(Route(6, Prefix(6, address.local & mask, FULL_MASK[6]), "anycast", _LOCAL, hop, protocol="kernel"))
        if own and link.up and "LOOPBACK" not in link.flags:
            routes.append(Route(6, Prefix(6, 0xFF << 120, mask_of(6, 8)), "multicast", _LOCAL, hop, metric=256, protocol="kernel"))
    return tuple(routes)

"""A plain network for a node of which nothing is known but the Node object: enough to walk packets at once.

lo, eth0 with the node's addresses, cni0 with the pods' side, routes to the other nodes' pods, a default route; and the sysctls that
kubelet and kube-proxy set.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from dataplane.engine.fib_defaults import kernel_routes4, kernel_routes6
from dataplane.inet import Prefix, mask_of
from dataplane.kube.objects import Node
from dataplane.proxy.addresses import sloppy_address, sloppy_cidr
from dataplane.rules.network import TABLES, Address, Link, NextHop, Route
from dataplane.rules.nodestate import LOOPBACK, NodeState

_NODE_LENGTH = {4: 24, 6: 64}


def plain_network(node: Node, nodes: Sequence[Node], links: Sequence[Link] | None = None) -> NodeState:
    """Links, routes and sysctls of the node; ``links`` are kept as they are where they are given."""
    given = tuple(links) if links is not None else _links(node)
    names = {link.name for link in given}
    gateways = _subnets(given, "eth0")
    routes: dict[int, list[Route]] = {
        4: list(kernel_routes4(given)), 6: list(kernel_routes6(given, forwarding=True)),
    }  # fmt: skip
    taken = {address for other in nodes for address in addresses_of(other)}
    for other in nodes:
        if other.name != node.name:
            for family, route in _routes_to(other, gateways):
                routes[family].append(route)
    for family, subnet in gateways.items():
        if "eth0" in names:
            routes[family].append(_default(family, subnet, taken))
    sysctls = {
        "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
        "net.bridge.bridge-nf-call-iptables": "1", "net.bridge.bridge-nf-call-ip6tables": "1",
    }  # fmt: skip
    return NodeState(links=given, routes4=tuple(routes[4]), routes6=tuple(routes[6]), sysctls=sysctls)


def addresses_of(node: Node) -> list[tuple[int, int]]:
    """The node's addresses as (family, value), in the order of its status; names are left out."""
    found = [sloppy_address(one.address) for one in node.addresses if one.type in ("InternalIP", "ExternalIP")]
    return [one for one in found if one is not None]


def _links(node: Node) -> tuple[Link, ...]:
    outside = Link(2, "eth0", addresses=tuple(Address(f, a, _NODE_LENGTH[f]) for f, a in addresses_of(node)), mac=_mac(node, 2))
    cidrs = [cidr for text in node.pod_cidrs if (cidr := sloppy_cidr(text)) is not None]
    if not cidrs:
        return LOOPBACK, outside
    pods = Link(
        3, "cni0", addresses=tuple(Address(cidr.family, cidr.address + 1, cidr.length or 0) for cidr in cidrs), kind="bridge",
        mac=_mac(node, 3),
    )  # fmt: skip
    return LOOPBACK, outside, pods


def _mac(node: Node, index: int) -> str:
    """A locally administered MAC that no other node's link has: of the node's name and the link's index."""
    digits = sha256(node.name.encode()).hexdigest()[:8]
    return f"02:{':'.join(digits[at : at + 2] for at in range(0, 8, 2))}:{index:02x}"


def _subnets(links: Sequence[Link], name: str) -> dict[int, Prefix]:
    found: dict[int, Prefix] = {}
    for link in links:
        for one in link.addresses if link.name == name else ():
            mask = mask_of(one.family, one.prefixlen)
            found.setdefault(one.family, Prefix(one.family, one.local & mask, mask))
    return found


def _routes_to(other: Node, subnets: dict[int, Prefix]) -> list[tuple[int, Route]]:
    """The other node's pods by its address, where that address is on a common subnet."""
    made: list[tuple[int, Route]] = []
    gateways = dict(reversed(addresses_of(other)))
    for text in other.pod_cidrs:
        cidr = sloppy_cidr(text)
        gateway = gateways.get(cidr.family) if cidr is not None else None
        if cidr is None or gateway is None or cidr.family not in subnets or gateway not in subnets[cidr.family]:
            continue
        hop = (NextHop(dev="eth0", gateway=gateway),)
        made.append((cidr.family, Route(cidr.family, cidr, table=TABLES["main"], nexthops=hop, metric=1024 if cidr.family == 6 else 0)))
    return made


def _default(family: int, subnet: Prefix, taken: set[tuple[int, int]]) -> Route:
    gateway = subnet.address + 1
    if (family, gateway) in taken:
        gateway = subnet.address + 254
    hop = (NextHop(dev="eth0", gateway=gateway),)
    return Route(family, Prefix(family, 0, 0), table=TABLES["main"], nexthops=hop)._replace(metric=1024 if family == 6 else 0)

"""Who stands where: nodes on one LAN, pods behind them, a LAN host and a router with the world behind it.

Nodes route to each other's pods over the LAN; the router knows the LAN and the addresses that the administrator routes to a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from dataplane.engine.fib import Flow
from dataplane.engine.netns import Netns
from dataplane.inet import format_address
from dataplane.kube.objects import Cluster, Node
from dataplane.proxy.addresses import sloppy_address
from dataplane.proxy.network import addresses_of
from dataplane.rules.nodestate import NodeState

CLIENT: Final = {4: "203.0.113.9", 6: "2001:db8:c::9"}
_LAN_HOST: Final = 50
_POD_HOST: Final = 200


@dataclass(slots=True)
class Topology:
    """``nodes`` are engines by name; ``owners`` says which node answers for an address on the LAN; ``pods`` where each pod address is.

    ``routed`` are addresses that the router sends to a node: externalIPs and balancers' addresses, which Kubernetes does not route.
    """

    objects: Cluster
    nodes: dict[str, Netns]
    owners: dict[tuple[int, int], str] = field(default_factory=dict)
    pods: dict[tuple[int, int], str] = field(default_factory=dict)
    routed: dict[tuple[int, int], str] = field(default_factory=dict)

    def node_of(self, name: str) -> Node:
        """A node's object."""
        return next(one for one in self.objects.nodes if one.name == name)

    def pod_node(self, family: int, address: int) -> str | None:
        """The node that has a pod of that address, or would: by its podCIDR."""
        found = self.pods.get((family, address))
        if found is not None:
            return found
        value = ip_address(format_address(family, address))
        return next((one.name for one in self.objects.nodes for cidr in one.pod_cidrs if value in ip_network(cidr, strict=False)), None)

    def lan_host(self, family: int) -> int | None:
        """An address on the nodes' LAN that no node has."""
        for (own, address), name in self.owners.items():
            if own != family:
                continue
            owner = self.nodes[name].kernel.fib.owner(family, address)
            for one in owner.addresses if owner is not None else ():
                if one.family == family and one.local == address:
                    network = ip_network(f"{format_address(family, address)}/{one.prefixlen}", strict=False)
                    found = int(network.network_address) + min(_LAN_HOST, network.num_addresses - 2)
                    return found if (family, found) not in self.owners else found + 1
        return None

    def device_to(self, name: str, family: int, source: int) -> str | None:
        """By which device a packet from that source comes to a node."""
        back = self.nodes[name].kernel.fib.lookup(Flow(family, source))
        return back.dev if back.error is None and not back.local else None


def topology(objects: Cluster, states: Mapping[str, NodeState], routed_to: Sequence[str]) -> Topology:
    """The cluster; what is not a node's own is routed to the first of ``routed_to`` (node names)."""
    made = Topology(objects, {name: Netns(state) for name, state in states.items()})
    for node in objects.nodes:
        for address in addresses_of(node):
            made.owners[address] = node.name
    for part in objects.endpoint_slices:
        for end in part.endpoints:
            for text in end.addresses:
                parsed = sloppy_address(text)
                if parsed is not None and end.node_name and parsed not in made.owners:
                    made.pods[parsed] = end.node_name
    for service in objects.services:
        for text in (*service.external_ips, *(one.ip for one in service.ingress)):
            parsed = sloppy_address(text)
            if parsed is not None and parsed not in made.owners and routed_to:
                made.routed[parsed] = routed_to[0]
    return made


def free_pod(node: Node, family: int) -> int | None:
    """An address of the node's pods for somebody who asks."""
    for cidr in node.pod_cidrs:
        network = ip_network(cidr, strict=False)
        if network.version == family:
            return int(network.network_address) + min(_POD_HOST, network.num_addresses - 2)
    return None

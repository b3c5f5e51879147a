"""The packets that a comparison sends: from every vantage to every frontend, and to what lies beside the frontends.

Everything follows from the objects and the node's network; nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from dataplane.engine.fib import Fib, Flow
from dataplane.inet import ICMP, ICMPV6, PROTOCOL_NAMES, PROTOCOL_NUMBERS, format_address, format_endpoint, parse_address
from dataplane.kube.objects import Cluster, KubeProxyConfiguration, Node
from dataplane.packet import Packet
from dataplane.packet_text import make_packet
from dataplane.proxy.compile import service_map
from dataplane.proxy.endpoints import Endpoint
from dataplane.proxy.network import addresses_of
from dataplane.proxy.serviceport import ServicePort
from dataplane.rules.network import Link
from dataplane.rules.nodestate import NodeState

CLUSTER_IP, NODE_PORT, EXTERNAL_IP, LOAD_BALANCER = "ClusterIP", "NodePort", "externalIP", "LoadBalancer IP"
OTHER_NODE_PORT, NODE_PORT_ON_VIP, WRONG_PORT, PING = "NodePort of another node", "NodePort on a Service address", "port of no Service", "ping"
CLIENT, LAN, POD, ENDPOINT, OTHER_POD, NODE, LOOPBACK = (
    "external client", "LAN host", "pod on this node", "the endpoint itself", "pod on another node", "this node", "loopback",
)  # fmt: skip
VANTAGES: Final = (CLIENT, LAN, POD, ENDPOINT, OTHER_POD, NODE, LOOPBACK)
_FAR: Final = {4: ("203.0.113.9", "198.51.100.9", "192.0.2.9"), 6: ("2001:db8:c::9", "2001:db8:d::9", "2001:db8:e::9")}
_SPORT: Final = 40000
_WRONG: Final = (10250, 9, 81, 8081)  # the kubelet's first: whoever takes a node's address takes that, too


class Frontend(NamedTuple):
    """An address that is asked: ``kind`` says what it is to ``service``; ``of`` is what the address itself is (for wrong ports and pings)."""

    kind: str
    of: str
    service: str
    family: int
    address: int
    protocol: int
    port: int

    def __str__(self) -> str:
        if self.protocol in (ICMP, ICMPV6):
            return f"icmp {format_address(self.family, self.address)}"
        return f"{PROTOCOL_NAMES[self.protocol]} {format_endpoint(self.family, self.address, self.port)}"


class Probe(NamedTuple):
    """A packet and where it comes from; ``indev`` None: the node itself sends it."""

    vantage: str
    frontend: Frontend
    packet: Packet
    indev: str | None


class Subject(NamedTuple):
    """What is served in one family on a node: its Services' ports, their endpoints by the ports' names, and the network around it."""

    family: int
    ports: Sequence[ServicePort]
    endpoints: Mapping[str, Sequence[Endpoint]]
    cluster: Cluster
    node: Node
    network: NodeState


def subjects(cluster: Cluster, node: Node, network: NodeState, families: Sequence[int]) -> Iterator[Subject]:
    """What is served on a node, a family at a time."""
    config = cluster.proxy_configuration or KubeProxyConfiguration()
    for family in families:
        ports, endpoints, _ = service_map(cluster, node, config, family)
        yield Subject(family, ports, {port.name: endpoints[index] for index, port in enumerate(ports)}, cluster, node, network)


def probes(subject: Subject) -> Iterator[Probe]:
    """Every packet, in an order that stays."""
    fib = Fib(subject.network)
    clients = dict(_clients(subject, fib))
    for frontend in dict.fromkeys((*_frontends(subject), *_beside(subject))):
        for vantage in VANTAGES:
            source = _source(vantage, frontend, clients, subject, fib)
            if source is not None:
                yield Probe(vantage, frontend, _packet(frontend, source[0]), source[1])


# ---------------------------------------------------------------------- frontends


def _frontends(subject: Subject) -> Iterator[Frontend]:
    own, others = _node_addresses(subject)
    for port in subject.ports:
        protocol = PROTOCOL_NUMBERS[port.protocol]
        for kind, texts, number in (
            (CLUSTER_IP, (port.cluster_ip,), port.port), (EXTERNAL_IP, port.external_ips, port.port), (LOAD_BALANCER, port.vips, port.port),
        ):  # fmt: skip
            for text in texts:
                yield Frontend(kind, kind, port.name, subject.family, parse_address(text)[1], protocol, number)
        if port.node_port:
            for address in own:
                yield Frontend(NODE_PORT, NODE_PORT, port.name, subject.family, address, protocol, port.node_port)
            for address in others[:1]:
                yield Frontend(OTHER_NODE_PORT, NODE_PORT, port.name, subject.family, address, protocol, port.node_port)


def _beside(subject: Subject) -> Iterator[Frontend]:
    """Ports of the Services' addresses that nobody serves, node ports on them, and pings."""
    asked = list(_frontends(subject))
    taken = {(one.address, one.port) for one in asked}
    node_ports = [one for one in asked if one.kind == NODE_PORT]
    icmp = ICMP if subject.family == 4 else ICMPV6
    seen: set[int] = set()
    for one in asked:
        if one.of == NODE_PORT or one.address in seen:
            continue
        seen.add(one.address)
        wrong = next(port for port in _WRONG if (one.address, port) not in taken)
        yield one._replace(kind=WRONG_PORT, port=wrong, protocol=6)
        for other in node_ports[:1]:
            if (one.address, other.port) not in taken:
                yield one._replace(kind=NODE_PORT_ON_VIP, protocol=other.protocol, port=other.port, service=other.service)
        yield one._replace(kind=PING, protocol=icmp, port=0)


def _of_family(node: Node, family: int) -> list[tuple[int, int]]:
    return [one for one in addresses_of(node) if one[0] == family]


def _node_addresses(subject: Subject) -> tuple[list[int], list[int]]:
    """This node's own, on whatever links the Services' are not, and the other nodes'."""
    services = {one for port in subject.ports for one in (port.cluster_ip, *port.external_ips, *port.vips)}
    links = [link for link in subject.network.links if link.kind != "dummy" and not _is_loopback(link)]
    own = [
        one.local for link in links for one in link.addresses
        if one.family == subject.family and not ip_address(format_address(one.family, one.local)).is_link_local and format_address(one.family, one.local) not in services
    ]  # fmt: skip
    others = [parsed[1] for node in subject.cluster.nodes if node.name != subject.node.name for parsed in _of_family(node, subject.family)]
    return own, [one for one in others if one not in own]


# ---------------------------------------------------------------------- vantages


def _clients(subject: Subject, fib: Fib) -> Iterator[tuple[str, int]]:
    """The addresses from which is asked, but for the endpoint itself, this node and its loopback."""
    family = subject.family
    taken = {parse_address(one)[1] for port in subject.ports for one in (port.cluster_ip, *port.external_ips, *port.vips)}
    taken |= {parsed[1] for node in subject.cluster.nodes for parsed in _of_family(node, family)}
    taken |= {parse_address(one.ip)[1] for found in subject.endpoints.values() for one in found}
    taken |= {one.local for link in subject.network.links for one in link.addresses if one.family == family}
    taken |= {hop.gateway for route in (subject.network.routes4 if family == 4 else subject.network.routes6) or () for hop in route.nexthops if hop.gateway}
    yield CLIENT, next((value for value in (parse_address(text)[1] for text in _FAR[family]) if value not in taken), 0)
    primary = next((value for _, value in _of_family(subject.node, family)), None)
    owner = fib.owner(family, primary) if primary is not None else None
    for one in owner.addresses if owner is not None else ():
        if one.local == primary and one.prefixlen < (31 if family == 4 else 127):
            yield LAN, _free(f"{format_address(family, one.local)}/{one.prefixlen}", 50, taken)
    for vantage, cidrs in (
        (POD, subject.node.pod_cidrs), (OTHER_POD, [cidr for node in subject.cluster.nodes if node.name != subject.node.name for cidr in node.pod_cidrs]),
    ):  # fmt: skip
        for cidr in [cidr for cidr in cidrs if (":" in cidr) == (family == 6)][:1]:
            yield vantage, _free(cidr, 200, taken)


def _free(cidr: str, wanted: int, taken: set[int]) -> int:
    """A host of the network whose number begins at ``wanted``, or as near below as it is not taken."""
    network = ip_network(cidr, strict=False)
    first = int(network.network_address)
    number = min(wanted, network.num_addresses - 2)
    while number > 1 and first + number in taken:
        number -= 1
    return first + number


def _source(vantage: str, frontend: Frontend, clients: dict[str, int], subject: Subject, fib: Fib) -> tuple[int, str | None] | None:
    """The source address and the device by which it comes in; None where there is no such vantage for this frontend."""
    family = frontend.family
    if vantage == LOOPBACK:
        loopback = 127 << 24 | 1 if family == 4 else 1
        return (loopback, None) if frontend.kind == NODE_PORT else None
    if vantage == NODE:
        return (0, None)
    if vantage == ENDPOINT:
        local = [one for one in subject.endpoints.get(frontend.service, ()) if one.local]
        source = parse_address(local[0].ip)[1] if local and frontend.kind not in (WRONG_PORT, PING, NODE_PORT_ON_VIP) else 0
    else:
        source = clients.get(vantage, 0)
    if not source or fib.owner(family, source) is not None:
        return None
    back = fib.lookup(Flow(family, source))
    return (source, back.dev) if back.error is None and back.dev else None


def _packet(frontend: Frontend, source: int) -> Packet:
    address = frontend.address
    if source in (127 << 24 | 1, 1):
        address = source  # the node's ports by loopback
    if frontend.protocol in (ICMP, ICMPV6):
        return Packet(frontend.family, source, address, frontend.protocol, icmp_type=8 if frontend.family == 4 else 128, icmp_id=7, length=28 if frontend.family == 4 else 48)
    return make_packet(frontend.protocol, frontend.family, source, address, _SPORT, frontend.port)


def _is_loopback(link: Link) -> bool:
    return "LOOPBACK" in link.flags or link.name == "lo"

"""Every way to reach a Service, measured by walking packets: who can use it, which nodes answer, what the pod sees of the client.

Not here yet: hostPort, hostNetwork and Ingress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from dataplane.cluster.path import Path, walk
from dataplane.cluster.topology import CLIENT, Topology, free_pod
from dataplane.engine.choices import Seeded
from dataplane.engine.fib import Flow
from dataplane.inet import PROTOCOL_NUMBERS, format_address, format_endpoint, parse_address
from dataplane.kube.objects import Service, ServicePort
from dataplane.packet_text import make_packet

_SEEDS: Final = 12  # walks by which balancing shows; a choice of ten endpoints shows two of them but once in 10^11


class Way(NamedTuple):
    """One way to one port of a Service. ``reached_from`` are senders whose answer is accepted; ``nodes`` those that answer when asked themselves.

    ``endpoints`` are those seen over many connections; ``source_kept`` of a client outside (None: it does not get through); ``most_nodes`` and
    ``most_nats`` are the worst of all accepted walks.
    """

    service: str
    kind: str
    mode: str
    frontend: str
    reached_from: tuple[str, ...]
    nodes: tuple[str, ...]
    endpoints: tuple[str, ...]
    source_kept: bool | None
    most_nodes: int
    most_nats: int


def ways(make: Callable[[str], Topology], service: Service, mode: str) -> Iterator[Way]:
    """All ways to a Service in a mode; ``make`` gives a fresh cluster whose outside addresses are routed to a node."""
    for port in service.ports:
        for kind, address, number in _frontends(make, service, port):
            family, value = parse_address(address)
            yield _measured(make, service, kind, mode, port, family, value, number)


def _frontends(make: Callable[[str], Topology], service: Service, port: ServicePort) -> Iterator[tuple[str, str, int]]:
    if service.cluster_ip and service.cluster_ip != "None":
        yield "ClusterIP", service.cluster_ip, port.port
    if port.node_port:
        world = make("")
        yield "NodePort", next(format_address(*owner) for owner in world.owners), port.node_port
    for one in service.ingress:
        if one.ip:
            yield "LoadBalancer", one.ip, port.port
    for text in service.external_ips:
        yield "externalIP", text, port.port


def _measured(make: Callable[[str], Topology], service: Service, kind: str, mode: str, port: ServicePort, family: int, value: int, number: int) -> Way:
    first = make("")
    names = list(first.nodes)
    accepted: list[Path] = []
    reached, nodes, endpoints = dict[str, None](), dict[str, None](), dict[str, None]()
    kept: bool | None = None
    for name in names:
        target = next((address for (own, address), owner in first.owners.items() if owner == name and own == family), value) if kind == "NodePort" else value
        for sender in ("client", "lan", f"pod:{name}", f"node:{name}"):
            for seed in range(_SEEDS if sender in ("client", "lan") or kind == "ClusterIP" else 1):
                world = make(name)
                source = _source(world, sender, family, target)
                if source is None:
                    break
                packet = make_packet(PROTOCOL_NUMBERS[port.protocol.lower()], family, source, target, 40000 + seed, number)
                found = walk(world, packet, sender, Seeded(seed))
                if not found.accepted:
                    continue
                accepted.append(found)
                reached[sender.partition(":")[0]] = None
                endpoints[format_endpoint(family, found.request.packet.daddr, found.request.packet.dport)] = None
                if sender in ("client", "lan"):
                    nodes[found.request.nodes[0]] = None
                    kept = (kept is not False) and found.request.packet.saddr == source
    return Way(
        f"{service.namespace}/{service.name}", kind, mode, format_endpoint(family, value, number), tuple(reached), tuple(nodes), tuple(sorted(endpoints)), kept,
        max((len(one.request.nodes) for one in accepted), default=0), max((one.request.nats for one in accepted), default=0),
    )  # fmt: skip


def _source(world: Topology, sender: str, family: int, target: int) -> int | None:
    kind, _, name = sender.partition(":")
    if kind == "client":
        return parse_address(CLIENT[family])[1]
    if kind == "lan":
        return world.lan_host(family)
    if kind == "pod":
        return free_pod(world.node_of(name), family)
    fib = world.nodes[name].kernel.fib
    flow = Flow(family, target)
    return fib.source_address(flow, fib.lookup(flow))

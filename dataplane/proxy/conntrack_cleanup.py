"""Which connections kube-proxy takes away after a sync: UDP flows of a Service that go to an endpoint which serves no more.

UDP has no end, so such a flow would go on to a Pod that is gone for as long as packets come. Source: pkg/proxy/conntrack/cleanup.go of
Kubernetes 1.36 (the reply's address and port are compared; traffic policy and topology are not asked; TCP and SCTP are left alone).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dataplane.inet import UDP
from dataplane.kube.objects import Cluster, KubeProxyConfiguration, Node
from dataplane.proxy.addresses import sloppy_address
from dataplane.proxy.endpoints import SERVICE_NAME_LABEL, endpoints_map
from dataplane.proxy.serviceport import service_ports
from dataplane.rules.network import Connection

End = tuple[int, int]  # address, port


class Frontends(NamedTuple):
    """UDP service ports of one family with at least one serving endpoint: what serves behind an address and port, and behind a node port."""

    family: int
    by_end: Mapping[End, frozenset[End]]
    by_node_port: Mapping[int, frozenset[End]]


def udp_frontends(cluster: Cluster, node: Node, config: KubeProxyConfiguration, family: int) -> Frontends:
    """The frontends of a cluster as the node's kube-proxy sees them."""
    services = [one for one in cluster.services if any(port.protocol == "UDP" for port in one.ports)]
    names = {(one.namespace, one.name) for one in services}
    slices = [one for one in cluster.endpoint_slices if (one.namespace, one.labels.get(SERVICE_NAME_LABEL, "")) in names]
    endpoints = endpoints_map(slices, family, config.hostname_override or node.name)
    allowed = config.feature_gates.get("AllowServiceExternalIPs", True)
    by_end: dict[End, frozenset[End]] = {}
    by_node_port: dict[int, frozenset[End]] = {}
    for port in service_ports(services, family, external_ips_allowed=allowed):
        known = endpoints.get((port.namespace, port.service, port.port_name, port.protocol), ())
        serving = frozenset(filter(None, (_end(one.ip, one.port) for one in known if one.serving)))
        if port.protocol != "udp" or not serving:
            continue
        for address in (port.cluster_ip, *port.external_ips, *port.vips):
            end = _end(address, port.port)
            if end is not None:
                by_end.setdefault(end, serving)
        if port.node_port:
            by_node_port.setdefault(port.node_port, serving)
    return Frontends(family, by_end, by_node_port)


def _end(address: str, port: int) -> End | None:
    found = sloppy_address(address)
    return None if found is None else (found[1], port)


def stale(frontends: Sequence[Frontends], connections: Iterable[Connection]) -> list[Connection]:
    """The connections that are to be deleted."""
    found = []
    by_family = {one.family: one for one in frontends}
    for connection in connections:
        known = by_family.get(connection.family)
        if known is None or connection.protocol != UDP:
            continue
        serving = known.by_end.get((connection.original.dst, connection.original.dport)) or known.by_node_port.get(connection.original.dport)
        if serving is not None and (connection.reply.src, connection.reply.sport) not in serving:
            found.append(connection)
    return found

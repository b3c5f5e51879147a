"""Which endpoints a service port's traffic may reach from this node.

Source: pkg/proxy/topology.go (CategorizeEndpoints) of Kubernetes 1.36; KEP-1669, KEP-2433, KEP-3015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dataplane.proxy.endpoints import Endpoint

ZONE_LABEL = "topology.kubernetes.io/zone"


class Categorized(NamedTuple):
    """``cluster`` and ``local``: for the policies Cluster and Local; ``reachable``: all that some rule may choose.

    ``has_any``: the service has usable endpoints somewhere, reachable from here or not (DROP instead of REJECT).
    """

    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    reachable: tuple[Endpoint, ...] = ()
    has_any: bool = False


def categorize_endpoints(
    endpoints: Sequence[Endpoint], *, uses_cluster: bool, uses_local: bool, node_name: str, zone: str, node_hints: bool = True
) -> Categorized:
    """The endpoints by policy, after topology hints and the fallback to terminating ones."""
    if not endpoints:
        return Categorized()
    cluster: tuple[Endpoint, ...] = ()
    mode = ""
    if uses_cluster:
        mode = _mode(endpoints, node_name, zone, node_hints=node_hints)
        ready = [one for one in endpoints if one.ready]
        cluster = tuple([one for one in ready if _available(one, mode, node_name, zone)] if mode else ready)
        if not cluster:
            cluster = tuple(one for one in endpoints if one.serving and one.terminating)
    if not uses_local:
        return Categorized(cluster, (), cluster, bool(cluster))
    has_any = bool(cluster) or any(one.ready or (one.serving and one.terminating) for one in endpoints)
    local = tuple(one for one in endpoints if one.local and one.ready)
    fallback = False
    if not local:
        local = tuple(one for one in endpoints if one.local and one.serving and one.terminating)
        fallback = bool(local)
    if not uses_cluster:
        return Categorized((), local, local, has_any)
    if not mode and not fallback:
        return Categorized(cluster, local, cluster, has_any)
    union = {one.text: one for one in cluster} | {one.text: one for one in local}
    return Categorized(cluster, local, tuple(union[text] for text in sorted(union)), has_any)


def _mode(endpoints: Sequence[Endpoint], node_name: str, zone: str, *, node_hints: bool) -> str:
    """ "node", "zone" or "": hints count only when every ready endpoint has them and one of them is for here."""
    ready = [one for one in endpoints if one.ready]
    if not ready:
        return ""
    first = ready[0]
    if node_hints and first.nodes and all(one.nodes for one in ready) and any(node_name in one.nodes for one in ready):
        return "node"
    if zone and first.zones and all(one.zones for one in ready) and any(zone in one.zones for one in ready):
        return "zone"
    return ""


def _available(endpoint: Endpoint, mode: str, node_name: str, zone: str) -> bool:
    if not mode:
        return True
    return node_name in endpoint.nodes if mode == "node" else zone in endpoint.zones

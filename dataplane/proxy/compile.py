"""From a cluster to one node's kernel: the service map, the endpoints, the rules, and the state they leave behind.

compile never reads the machine; the node's links are input. Source: cmd/kube-proxy/app/server_linux.go for how a proxier is set up.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dataplane.errors import UnsupportedError
from dataplane.kube.objects import Cluster, KubeProxyConfiguration, Node
from dataplane.proxy import iptables
from dataplane.proxy.addresses import sloppy_address
from dataplane.proxy.conntrack_cleanup import Frontends, udp_frontends
from dataplane.proxy.endpoints import Endpoint, endpoints_map
from dataplane.proxy.network import plain_network
from dataplane.proxy.nodeport_addresses import local_detector, node_addresses, nodeport_addresses
from dataplane.proxy.serviceport import ServicePort, service_ports
from dataplane.proxy.topology import ZONE_LABEL, Categorized, categorize_endpoints
from dataplane.rules.iptables import Xtables
from dataplane.rules.network import Link
from dataplane.rules.nodestate import NodeState
from dataplane.text.iptables_unread import unread


class Compiled(NamedTuple):
    """``restore`` is the restore input of each family; ``notes`` are sentences for the user; ``frontends`` what UDP flows may go to."""

    state: NodeState
    restore: dict[int, str]
    notes: tuple[str, ...] = ()
    frontends: tuple[Frontends, ...] = ()


def node_families(node: Node) -> tuple[int, ...]:
    """The families that the node has addresses in (IPv4 where it has none at all)."""
    found = {one[0] for text in node.addresses if (one := sloppy_address(text.address)) is not None}
    return tuple(family for family in (4, 6) if family in found) or (4,)


def compile_node(
    cluster: Cluster, node: Node, *, configuration: KubeProxyConfiguration | None = None, links: Sequence[Link] | None = None,
    network: NodeState | None = None, families: Sequence[int] | None = None, mode: str = "iptables",
) -> Compiled:  # fmt: skip
    """One node's state in a mode, iptables or ipvs. ``network`` (of a snapshot) is used as it is; else a plain one is made.

    UnsupportedError for other modes. Endpoints count as local by the name that kube-proxy goes by (hostnameOverride, else the node's).
    """
    config = configuration or cluster.proxy_configuration or KubeProxyConfiguration()
    chosen = tuple(families) if families else node_families(node)
    if mode == "ipvs":
        with _no_collections():
            return _compile_ipvs(cluster, node, config, network or plain_network(node, cluster.nodes, links), chosen)
    if mode != "iptables":
        raise UnsupportedError(f"mode {mode} is not built yet: only iptables and ipvs are")
    base = network or _with_sysctls(plain_network(node, cluster.nodes, links), config)
    texts: dict[int, str] = {}
    notes: list[str] = []
    with _no_collections():
        for family in chosen:
            texts[family], more = restore_text(cluster, node, config, base.links, family)
            notes += more
    state = base._replace(
        iptables=_state(texts.get(4), 4) or base.iptables,
        ip6tables=_state(texts.get(6), 6) or base.ip6tables,
    )
    return Compiled(state, texts, tuple(dict.fromkeys(notes)), tuple(udp_frontends(cluster, node, config, family) for family in chosen))


def _with_sysctls(state: NodeState, config: KubeProxyConfiguration) -> NodeState:
    """What kube-proxy itself writes at its start (iptables.NewProxier, newProxyServer)."""
    written = {"net.ipv4.conf.all.route_localnet": "1" if config.iptables_localhost_node_ports else "0"}
    if config.conntrack_tcp_be_liberal:
        written["net.netfilter.nf_conntrack_tcp_be_liberal"] = "1"
    return state._replace(sysctls={**state.sysctls, **written})


@contextmanager
def _no_collections() -> Iterator[None]:
    """All that is made in here stays: looking for garbage among it again and again doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compile_ipvs(cluster: Cluster, node: Node, config: KubeProxyConfiguration, base: NodeState, families: Sequence[int]) -> Compiled:
    from dataplane.proxy import ipvs, ipvs_node  # iptables mode starts without them

    texts: dict[int, str] = {}
    wanted: dict[int, ipvs.Wanted] = {}
    notes: list[str] = []
    for family in families:
        settings = ipvs_node.settings_of(config, node, base.links, family)
        ports, endpoints, categorized = service_map(cluster, node, config, family)
        wanted[family] = ipvs.sync(ports, endpoints, categorized, settings)
        texts[family] = ipvs_node.node_text(wanted[family], settings)
        notes += [*_owner_notes(ports, "which one gets the traffic is left to chance in IPVS mode"), *ipvs_node.set_notes(wanted[family], family)]
    return Compiled(ipvs_node.programmed(base, config, wanted, texts), texts, tuple(dict.fromkeys(notes)))


def service_map(
    cluster: Cluster, node: Node, config: KubeProxyConfiguration, family: int
) -> tuple[list[ServicePort], dict[int, Sequence[Endpoint]], dict[int, Categorized]]:
    """The service ports of one family; by their positions all endpoints, and those that each policy allows."""
    name = config.hostname_override or node.name
    gates = config.feature_gates
    ports = service_ports(cluster.services, family, external_ips_allowed=gates.get("AllowServiceExternalIPs", True))
    endpoints = endpoints_map(cluster.endpoint_slices, family, name)
    zone = node.labels.get(ZONE_LABEL, "")
    found: dict[int, Sequence[Endpoint]] = {}
    categorized = {}
    for index, port in enumerate(ports):
        own = endpoints.get((port.namespace, port.service, port.port_name, port.protocol), ())
        found[index] = own
        categorized[index] = categorize_endpoints(
            own, uses_cluster=port.uses_cluster_endpoints, uses_local=port.uses_local_endpoints, node_name=name, zone=zone,
            node_hints=gates.get("PreferSameTrafficDistribution", True),
        )  # fmt: skip
    return ports, found, categorized


def restore_text(cluster: Cluster, node: Node, config: KubeProxyConfiguration, links: Sequence[Link], family: int) -> tuple[str, list[str]]:
    """What kube-proxy feeds to iptables-restore in one family in iptables mode, and what a user should know of it."""
    ports, endpoints, categorized = service_map(cluster, node, config, family)
    total = sum(map(len, endpoints.values()))
    settings = _settings(config, node, links, family)
    buffers = iptables.sync(ports, categorized, settings, large=total > iptables.LARGE_CLUSTER)
    return buffers.text(), _notes(ports, settings, family)


def _settings(config: KubeProxyConfiguration, node: Node, links: Sequence[Link], family: int) -> iptables.Settings:
    own = node_addresses(node, config)
    addresses = nodeport_addresses(config, family, own)
    localhost = config.iptables_localhost_node_ports and family == 4 and addresses.contains_loopback4
    return iptables.Settings(
        family, iptables.mark_text(config.iptables_masquerade_bit), config.iptables_masquerade_all, local_detector(config, node, family),
        localhost, None if addresses.everywhere else addresses.matching(links), own.get(family), config.nfacct, config.random_fully,
        config.conntrack_tcp_be_liberal,
    )  # fmt: skip


def _state(text: str | None, family: int) -> Xtables | None:
    return unread(iptables.jump_commands() + text, family, file="kube-proxy's restore input") if text is not None else None


def _notes(ports: Sequence[ServicePort], settings: iptables.Settings, family: int) -> list[str]:
    notes: list[str] = []
    if settings.detector is None and not settings.masquerade_all:
        notes.append(
            f"IPv{family}: no way to tell local traffic is configured (clusterCIDR, detectLocalMode): traffic from outside the cluster"
            " to a ClusterIP is not masqueraded, so its replies may go another way"
        )
    return notes + _owner_notes(ports, "the first one gets all traffic")


def _owner_notes(ports: Sequence[ServicePort], outcome: str) -> list[str]:
    notes: list[str] = []
    owners: dict[tuple[str, str, int], str] = {}
    for port in ports:
        for address in (*port.external_ips, *port.vips):
            first = owners.setdefault((address, port.protocol, port.port), port.name)
            if first != port.name:
                notes.append(f"{address}:{port.port}/{port.protocol} is claimed by {first} and by {port.name}: {outcome}")
    return notes

"""Kubernetes objects as kube-proxy and the control plane see them: frozen data, API field names in snake case.

Only the fields that decide how traffic is routed are kept. ``None`` means that the field was not set; defaults are
filled in by ``defaults``, allocations by ``controlplane``, never here. No parsing, no checking, no evaluating.
Source: Kubernetes API v1 and discovery.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
Protocol = str  # "TCP", "UDP" or "SCTP" once validated


class Origin(NamedTuple):
    """Where an object was read: file as the user named it, and the line (from 1) at which the object begins."""

    file: str
    line: int | None = None


class ServicePort(NamedTuple):
    port: int
    name: str = ""
    protocol: Protocol = "TCP"
    target_port: int | str | None = None
    node_port: int = 0


class LoadBalancerIngress(NamedTuple):
    """One entry of status.loadBalancer.ingress."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str | None = None


class Service(NamedTuple):
    namespace: str
    name: str
    labels: Mapping[str, str] = _NONE
    annotations: Mapping[str, str] = _NONE
    type: str = "ClusterIP"
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str | None = None
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] | None = None
    external_ips: tuple[str, ...] = ()
    external_name: str = ""
    load_balancer_ip: str = ""
    load_balancer_class: str | None = None
    load_balancer_source_ranges: tuple[str, ...] = ()
    allocate_load_balancer_node_ports: bool | None = None
    ingress: tuple[LoadBalancerIngress, ...] = ()
    session_affinity: str = "None"
    session_affinity_timeout: int | None = None
    external_traffic_policy: str = ""
    internal_traffic_policy: str | None = None
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None
    origin: Origin | None = None


class EndpointPort(NamedTuple):
    """A port of an EndpointSlice; all fields may be missing in objects that no API server has defaulted."""

    name: str | None = ""
    protocol: Protocol | None = "TCP"
    port: int | None = None
    app_protocol: str | None = None


class Endpoint(NamedTuple):
    """One endpoint of an EndpointSlice; conditions are None where the object leaves them out."""

    addresses: tuple[str, ...]
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None
    node_name: str | None = None
    zone: str | None = None
    hostname: str | None = None
    hint_zones: tuple[str, ...] = ()
    hint_nodes: tuple[str, ...] = ()


class EndpointSlice(NamedTuple):
    namespace: str
    name: str
    address_type: str
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    labels: Mapping[str, str] = _NONE
    annotations: Mapping[str, str] = _NONE
    origin: Origin | None = None


class NodeAddress(NamedTuple):
    type: str  # InternalIP, ExternalIP, Hostname, InternalDNS, ExternalDNS
    address: str


class Node(NamedTuple):
    name: str
    labels: Mapping[str, str] = _NONE
    annotations: Mapping[str, str] = _NONE
    pod_cidrs: tuple[str, ...] = ()
    addresses: tuple[NodeAddress, ...] = ()
    origin: Origin | None = None


class ContainerPort(NamedTuple):
    container_port: int
    name: str = ""
    protocol: Protocol = "TCP"
    host_port: int = 0
    host_ip: str = ""


class Pod(NamedTuple):
    """A Pod, as given or as a workload would create it; ``owner`` names the workload (``Deployment/web``)."""

    namespace: str
    name: str
    labels: Mapping[str, str] = _NONE
    annotations: Mapping[str, str] = _NONE
    node_name: str | None = None
    host_network: bool = False
    hostname: str | None = None
    subdomain: str | None = None
    ports: tuple[ContainerPort, ...] = ()
    phase: str | None = None
    ready: bool | None = None
    terminating: bool = False
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    owner: str | None = None
    origin: Origin | None = None


class ServiceCIDR(NamedTuple):
    name: str
    cidrs: tuple[str, ...] = ()
    origin: Origin | None = None


class Namespace(NamedTuple):
    name: str
    labels: Mapping[str, str] = _NONE
    origin: Origin | None = None


class KubeProxyConfiguration(NamedTuple):
    """The fields of kubeproxy.config.k8s.io/v1alpha1 that change what is programmed, with kube-proxy's defaults.

    Durations are seconds. ``nodeport_addresses`` and ``cluster_cidr`` are as written (the latter may hold two, with a comma).
    ``nfacct``, ``random_fully`` and ``conntrack_tcp_be_liberal`` are not configuration but what kube-proxy finds out
    about its kernel and tools at start; they are here because the rules depend on them in the same way.
    """

    mode: str = ""
    hostname_override: str = ""
    bind_address: str = ""
    cluster_cidr: str = ""
    detect_local_mode: str = ""
    bridge_interface: str = ""
    interface_name_prefix: str = ""
    nodeport_addresses: tuple[str, ...] = ()
    config_sync_period: float = 900.0
    conntrack_tcp_be_liberal: bool = False
    iptables_masquerade_all: bool = False
    iptables_masquerade_bit: int = 14
    iptables_localhost_node_ports: bool = True
    iptables_sync_period: float = 30.0
    iptables_min_sync_period: float = 1.0
    ipvs_scheduler: str = ""
    ipvs_strict_arp: bool = False
    ipvs_exclude_cidrs: tuple[str, ...] = ()
    ipvs_tcp_timeout: float = 0.0
    ipvs_tcp_fin_timeout: float = 0.0
    ipvs_udp_timeout: float = 0.0
    ipvs_sync_period: float = 30.0
    ipvs_min_sync_period: float = 0.0
    nftables_masquerade_all: bool = False
    nftables_masquerade_bit: int = 14
    nftables_sync_period: float = 30.0
    nftables_min_sync_period: float = 1.0
    feature_gates: Mapping[str, bool] = _NONE
    nfacct: bool = True
    random_fully: bool = True
    origin: Origin | None = None


class Cluster(NamedTuple):
    """All objects that one question is asked about, in the order in which they were read.

    ``notes`` say, a sentence each, what was filled in, passed over or looks odd.
    """

    services: tuple[Service, ...] = ()
    endpoint_slices: tuple[EndpointSlice, ...] = ()
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    service_cidrs: tuple[ServiceCIDR, ...] = ()
    proxy_configuration: KubeProxyConfiguration | None = None
    ignored: Mapping[str, int] = _NONE  # kind -> how many were passed over
    notes: tuple[str, ...] = ()

"""What the API server sets where an object leaves a field out. Only constants: what has to be allocated is ``allocation``'s.

Source: k8s.io/kubernetes/pkg/apis/core/v1/defaults.go and pkg/apis/discovery/v1/defaults.go.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypedDict

from dataplane.kube.objects import EndpointPort, EndpointSlice, LoadBalancerIngress, Service, ServicePort

#: How long ClientIP affinity lasts, in seconds.
AFFINITY_TIMEOUT: Final = 10800
_ROUTED_TYPES: Final = frozenset(("ClusterIP", "NodePort", "LoadBalancer"))


class _Changes(TypedDict, total=False):
    type: str
    ports: tuple[ServicePort, ...]
    cluster_ips: tuple[str, ...]
    session_affinity: str
    session_affinity_timeout: int | None
    external_traffic_policy: str
    internal_traffic_policy: str
    allocate_load_balancer_node_ports: bool
    ingress: tuple[LoadBalancerIngress, ...]


def externally_accessible(service: Service) -> bool:
    """Whether traffic from outside is meant to reach the Service (pkg/api/v1/service.ExternallyAccessible)."""
    return service.type in ("LoadBalancer", "NodePort") or (service.type == "ClusterIP" and bool(service.external_ips))


def needs_health_check(service: Service) -> bool:
    """Whether nodes answer a load balancer's question for local endpoints."""
    return service.type == "LoadBalancer" and service.external_traffic_policy == "Local"


def default_service(service: Service) -> Service:
    """A Service with the API's defaults; itself where there is nothing to set."""
    if not service.type:
        service = replace(service, type="ClusterIP")
    changes = _Changes()
    affinity = service.session_affinity or "None"
    if affinity != service.session_affinity:
        changes["session_affinity"] = affinity
    timeout = _affinity_timeout(affinity, service.session_affinity_timeout)
    if timeout != service.session_affinity_timeout:
        changes["session_affinity_timeout"] = timeout
    ports = tuple([_default_port(port) for port in service.ports])
    if any(new is not old for new, old in zip(ports, service.ports, strict=True)):
        changes["ports"] = ports
    if service.cluster_ip and not service.cluster_ips:
        changes["cluster_ips"] = (service.cluster_ip,)
    if not service.external_traffic_policy and externally_accessible(service):
        changes["external_traffic_policy"] = "Cluster"
    if service.internal_traffic_policy is None and service.type in _ROUTED_TYPES:
        changes["internal_traffic_policy"] = "Cluster"
    if service.type == "LoadBalancer":
        _default_load_balancer(service, changes)
    return replace(service, **changes) if changes else service


def _affinity_timeout(affinity: str, timeout: int | None) -> int | None:
    if affinity == "None":
        return None
    return AFFINITY_TIMEOUT if affinity == "ClientIP" and timeout is None else timeout


def _default_port(port: ServicePort) -> ServicePort:
    """TCP, and the target port that is the port."""
    if port.protocol and port.target_port not in (None, 0, ""):
        return port
    return replace(port, protocol=port.protocol or "TCP", target_port=port.target_port or port.port)


def _default_load_balancer(service: Service, changes: _Changes) -> None:
    if service.allocate_load_balancer_node_ports is None:
        changes["allocate_load_balancer_node_ports"] = True
    if any(one.ip and one.ip_mode is None for one in service.ingress):
        changes["ingress"] = tuple(
            replace(one, ip_mode="VIP") if one.ip and one.ip_mode is None else one for one in service.ingress
        )


def default_endpoint_slice(one: EndpointSlice) -> EndpointSlice:
    """An EndpointSlice whose ports all have a name (perhaps an empty one) and a protocol."""
    if all(port.name is not None and port.protocol for port in one.ports):
        return one
    ports = tuple(
        EndpointPort(port.name or "", "TCP" if port.protocol is None else port.protocol, port.port, port.app_protocol)
        for port in one.ports
    )
    return replace(one, ports=ports)

"""The service map: one ServicePort for each port of each Service that kube-proxy serves in a family.

Source: pkg/proxy/serviceport.go, servicechangetracker.go of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dataplane.kube.objects import Service
from dataplane.proxy.addresses import canonical, sloppy_address, sloppy_cidr

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"


class ServicePort(NamedTuple):
    """``name`` is ``NAMESPACE/SERVICE[:PORT]``, ``protocol`` lower case; addresses are canonical text of one family.

    ``affinity`` is the ClientIP timeout in seconds or None; ``sources`` the loadBalancerSourceRanges that filter.
    """

    namespace: str
    service: str
    port_name: str
    name: str
    protocol: str
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    affinity: int | None = None
    external_local: bool = False
    internal_local: bool = False
    health_check_node_port: int = 0
    externally_accessible: bool = False

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Traffic of some kind goes to endpoints anywhere."""
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        """Traffic of some kind goes to this node's endpoints only."""
        return self.internal_local or (self.external_local and self.externally_accessible)


def service_ports(services: Iterable[Service], family: int, *, external_ips_allowed: bool = True) -> list[ServicePort]:
    """The service map of one family, in the canonical order (namespace, name, port name, protocol)."""
    found: dict[tuple[str, str, str, str], ServicePort] = {}
    for service in services:
        address = _cluster_ip(service, family)
        if address is None or PROXY_NAME_LABEL in service.labels or service.type == "ExternalName":
            continue
        common = _common(service, family)
        for port in service.ports:
            name = f"{service.namespace}/{service.name}" + (f":{port.name}" if port.name else "")
            external, vips = common.external_ips, common.vips
            found[(service.namespace, service.name, port.name, port.protocol)] = ServicePort(
                service.namespace, service.name, port.name, name, port.protocol.lower(), address, port.port, port.node_port,
                external if external_ips_allowed else (), vips, common.sources, common.affinity, common.external_local,
                service.internal_traffic_policy == "Local", common.health_check_node_port,
                bool(port.node_port or external or vips),
            )  # fmt: skip
    return [found[key] for key in sorted(found)]


class _Common(NamedTuple):
    external_ips: tuple[str, ...]
    vips: tuple[str, ...]
    sources: tuple[str, ...]
    affinity: int | None
    external_local: bool
    health_check_node_port: int


def _cluster_ip(service: Service, family: int) -> str | None:
    if not service.cluster_ip or service.cluster_ip == "None":
        return None
    if not service.ip_families:
        return canonical(service.cluster_ip, family)
    wanted = f"IPv{family}"
    if wanted not in service.ip_families:
        return None
    index = service.ip_families.index(wanted)
    addresses = service.cluster_ips
    if index >= len(addresses):
        return None
    found = sloppy_address(addresses[index])
    return canonical(addresses[index], found[0]) if found is not None else None


def _common(service: Service, family: int) -> _Common:
    external = tuple(ip for text in service.external_ips if (ip := canonical(text, family)) is not None)
    vips = tuple(
        ip for one in service.ingress if one.ip and one.ip_mode != "Proxy" and (ip := canonical(one.ip, family)) is not None
    )  # fmt: skip
    affinity = None
    if service.session_affinity == "ClientIP":
        affinity = service.session_affinity_timeout if service.session_affinity_timeout is not None else 10800
    local = service.external_traffic_policy == "Local" and (
        service.type in ("LoadBalancer", "NodePort") or (service.type == "ClusterIP" and bool(service.external_ips))
    )
    health = service.health_check_node_port if service.type == "LoadBalancer" and service.external_traffic_policy == "Local" else 0
    return _Common(external, vips, _sources(service, family), affinity, local, health)


def _sources(service: Service, family: int) -> tuple[str, ...]:
    """The ranges of the family; one that admits everybody makes all of them moot (1.34 on)."""
    ranges = [prefix for text in service.load_balancer_source_ranges if (prefix := sloppy_cidr(text.strip())) is not None]
    own = [prefix for prefix in ranges if prefix.family == family]
    return () if any(prefix.mask == 0 for prefix in own) else tuple(map(str, own))

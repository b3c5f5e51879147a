"""Which Services the API server (1.36) refuses, with its field paths and its wording; in its order, all at once.

A ``stored`` object shows that an API server has accepted it before: it may carry addresses in forms that are no longer accepted
anew. What depends on other objects (addresses and ports that are taken) is checked by ``allocation``.
Source: k8s.io/kubernetes/pkg/apis/core/validation/validation.go, ValidateService and what it calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dataplane.kube import names
from dataplane.kube.addresses import check_cidr, check_ip, check_not_special, family_name, sloppy_address
from dataplane.kube.defaults import externally_accessible, needs_health_check
from dataplane.kube.fielderrors import Violation, duplicate, forbidden, invalid, not_supported, required
from dataplane.kube.objects import LoadBalancerIngress, Service, ServicePort
from dataplane.kube.validation_meta import check_labels, check_metadata

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
TRAFFIC_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameNode", "PreferSameZone")
_POLICIES: Final = ("Cluster", "Local")
_AFFINITIES: Final = ("ClientIP", "None")
_FAMILIES: Final = ("IPv4", "IPv6")
_FAMILY_POLICIES: Final = ("PreferDualStack", "RequireDualStack", "SingleStack")
_IP_MODES: Final = ("Proxy", "VIP")
_LONGEST_AFFINITY: Final = 86400
_TOPOLOGY_MODE: Final = "service.kubernetes.io/topology-mode"
_TOPOLOGY_HINTS: Final = "service.kubernetes.io/topology-aware-hints"
_SOURCE_RANGES: Final = "service.beta.kubernetes.io/load-balancer-source-ranges"
_ONLY_LOAD_BALANCER: Final = "may only be used when `type` is 'LoadBalancer'"


def check_service(service: Service, *, stored: bool = False) -> Iterator[Violation]:
    """Everything that is wrong with a Service whose defaults are set."""
    yield from check_metadata(service.name, service.namespace, service.labels, service.annotations, names.label)
    yield from _check_topology_annotations(service)
    if not service.ports and not is_headless(service) and service.type != "ExternalName":
        yield required("spec.ports")
    yield from _check_type_and_cluster_ip(service)
    seen: set[str] = set()
    for index, port in enumerate(service.ports):
        yield from _check_port(port, f"spec.ports[{index}]", len(service.ports) > 1, seen)
    if service.selector:
        yield from check_labels(service.selector, "spec.selector")
    yield from _check_affinity(service)
    if service.type != "ExternalName":
        yield from check_cluster_ips(service, stored=stored)
    for index, address in enumerate(service.external_ips):
        yield from _check_external_ip(address, f"spec.externalIPs[{index}]", stored=stored)
    if service.type not in TYPES:
        yield not_supported("spec.type", service.type, TYPES)
    yield from _check_ports_together(service)
    yield from _check_source_ranges(service, stored=stored)
    yield from _check_load_balancer(service)
    yield from _check_traffic(service)
    for index, ingress in enumerate(service.ingress):
        yield from _check_ingress(ingress, f"status.loadBalancer.ingress[{index}]", service.type, stored=stored)


def is_headless(service: Service) -> bool:
    """Whether the Service has no address of its own."""
    return service.cluster_ips == ("None",)


def _check_topology_annotations(service: Service) -> Iterator[Violation]:
    mode, hints = service.annotations.get(_TOPOLOGY_MODE), service.annotations.get(_TOPOLOGY_HINTS)
    if mode is not None and hints is not None and mode != hints:
        detail = f"must match annotations[{_TOPOLOGY_HINTS}] when both are specified"
        yield invalid(f"metadata.annotations[{_TOPOLOGY_MODE}]", mode, detail)


def _check_type_and_cluster_ip(service: Service) -> Iterator[Violation]:
    if service.type in ("LoadBalancer", "NodePort"):
        if is_headless(service):
            yield invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {service.type} services")
    elif service.type == "ExternalName":
        families, policy = service.ip_families, service.ip_family_policy
        for path, value in (("clusterIPs", service.cluster_ips), ("ipFamilies", families), ("ipFamilyPolicy", policy)):
            if value:
                yield forbidden(f"spec.{path}", "may not be set for ExternalName services")
        name = service.external_name.removesuffix(".")
        if not name:
            yield required("spec.externalName")
        for complaint in names.subdomain(name) if name else ():
            yield invalid("spec.externalName", name, complaint)


def _check_port(port: ServicePort, path: str, name_required: bool, seen: set[str]) -> Iterator[Violation]:
    if port.name:
        for complaint in names.label(port.name):
            yield invalid(f"{path}.name", port.name, complaint)
        if port.name in seen:
            yield duplicate(f"{path}.name", port.name)
        seen.add(port.name)
    elif name_required:
        yield required(f"{path}.name")
    for complaint in names.port_number(port.port):
        yield invalid(f"{path}.port", port.port, complaint)
    if port.protocol not in PROTOCOLS:
        yield not_supported(f"{path}.protocol", port.protocol, PROTOCOLS)
    target = port.target_port
    if target != port.port:  # where it was left out it is the port, about which all has been said
        for complaint in names.port_number(target) if isinstance(target, int) else names.port_name(target or ""):
            yield invalid(f"{path}.targetPort", target, complaint)
    if port.app_protocol is not None:
        for complaint in names.qualified_name(port.app_protocol):
            yield invalid(f"{path}.appProtocol", port.app_protocol, complaint)


def _check_affinity(service: Service) -> Iterator[Violation]:
    if service.session_affinity not in _AFFINITIES:
        yield not_supported("spec.sessionAffinity", service.session_affinity, _AFFINITIES)
    timeout = service.session_affinity_timeout
    if service.session_affinity == "ClientIP" and timeout is not None and not 0 < timeout <= _LONGEST_AFFINITY:
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        yield invalid(path, timeout, f"must be greater than 0 and less than {_LONGEST_AFFINITY}")


def check_cluster_ips(service: Service, *, stored: bool) -> Iterator[Violation]:
    """clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy must agree (ValidateServiceClusterIPsRelatedFields)."""
    addresses = service.cluster_ips
    if service.cluster_ip and addresses and addresses[0] != service.cluster_ip:
        yield invalid("spec.clusterIPs", list(addresses), "first value must match `clusterIP`")
    if not service.cluster_ip and addresses:
        yield invalid("spec.clusterIPs", list(addresses), "must be empty when `clusterIP` is not specified")
    yield from _check_families(service)
    wrong = [violation for index in range(len(addresses)) for violation in _check_cluster_ip(addresses, index, stored)]
    yield from wrong
    if len(addresses) > 2:
        yield invalid("spec.clusterIPs", list(addresses), "may only hold up to 2 values")
    if wrong or is_headless(service):
        return
    found = [address.family for text in addresses if (address := sloppy_address(text)) is not None]
    if len(addresses) > 1 and len(set(found)) != 2:
        yield invalid("spec.clusterIPs", list(addresses), "may specify no more than one IP for each IP family")
    for index, (family, text, wanted) in enumerate(zip(found, addresses, service.ip_families, strict=False)):
        if wanted in _FAMILIES and wanted != family_name(family):
            detail = f"expected an {wanted} value as indicated by `ipFamilies[{index}]`"
            yield invalid(f"spec.clusterIPs[{index}]", text, detail)


def _check_cluster_ip(addresses: tuple[str, ...], index: int, stored: bool) -> Iterator[Violation]:
    address = addresses[index]
    if index == 0 and address == "None":
        if len(addresses) > 1:
            yield invalid("spec.clusterIPs", list(addresses), "'None' must be the first and only value")
    else:
        yield from check_ip(f"spec.clusterIPs[{index}]", address, stored=stored)


def _check_families(service: Service) -> Iterator[Violation]:
    for index, family in enumerate(service.ip_families):
        if family not in _FAMILIES:
            yield not_supported(f"spec.ipFamilies[{index}]", family, _FAMILIES)
        if family in service.ip_families[:index]:
            yield duplicate(f"spec.ipFamilies[{index}]", family)
    policy = service.ip_family_policy
    if policy is not None and policy not in _FAMILY_POLICIES:
        yield not_supported("spec.ipFamilyPolicy", policy, _FAMILY_POLICIES)


def _check_external_ip(address: str, path: str, *, stored: bool) -> Iterator[Violation]:
    wrong = list(check_ip(path, address, stored=stored))
    yield from wrong or check_not_special(path, address)


def _check_ports_together(service: Service) -> Iterator[Violation]:
    """Node ports only where they are allowed, and no port twice for one protocol."""
    node_ports: set[tuple[str, int]] = set()
    ports: set[tuple[str, int]] = set()
    for index, port in enumerate(service.ports):
        if port.node_port and service.type == "ClusterIP":
            yield forbidden(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
    for index, port in enumerate(service.ports):
        if port.node_port and (port.protocol, port.node_port) in node_ports:
            yield duplicate(f"spec.ports[{index}].nodePort", port.node_port)
        node_ports.add((port.protocol, port.node_port))
    for index, port in enumerate(service.ports):
        if (port.protocol, port.port) in ports:
            yield duplicate(f"spec.ports[{index}]", _only_port(port))
        ports.add((port.protocol, port.port))


def _only_port(port: ServicePort) -> dict[str, object]:
    """How the API server shows the two fields that are compared: as its internal type, which has no JSON names."""
    return {"Name": "", "Protocol": port.protocol, "AppProtocol": None, "Port": port.port, "TargetPort": 0, "NodePort": 0}


def _check_source_ranges(service: Service, *, stored: bool) -> Iterator[Violation]:
    """The field path has a capital L in Kubernetes, too."""
    path, ranges = "spec.LoadBalancerSourceRanges", [text.strip() for text in service.load_balancer_source_ranges]
    paths = [f"{path}[{index}]" for index in range(len(ranges))]
    if not ranges:
        annotation = service.annotations.get(_SOURCE_RANGES)
        if annotation is None:
            return
        path = f"metadata.annotations[{_SOURCE_RANGES}]"
        ranges = [text.strip() for text in annotation.strip().split(",")] if annotation.strip() else []
        paths = [path] * len(ranges)
    if service.type != "LoadBalancer":
        yield forbidden(path, _ONLY_LOAD_BALANCER)
    for place, text in zip(paths, ranges, strict=True):
        yield from check_cidr(place, text, stored=stored)


def _check_load_balancer(service: Service) -> Iterator[Violation]:
    if service.type != "LoadBalancer":
        if service.allocate_load_balancer_node_ports is not None:
            yield forbidden("spec.allocateLoadBalancerNodePorts", _ONLY_LOAD_BALANCER)
        if service.load_balancer_class is not None:
            yield forbidden("spec.loadBalancerClass", _ONLY_LOAD_BALANCER)
    elif service.load_balancer_class is not None:
        for complaint in names.qualified_name(service.load_balancer_class):
            yield invalid("spec.loadBalancerClass", service.load_balancer_class, complaint)


def _check_traffic(service: Service) -> Iterator[Violation]:
    external, internal = service.external_traffic_policy, service.internal_traffic_policy
    if external and not externally_accessible(service):
        yield invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
    elif external and external not in _POLICIES:
        yield not_supported("spec.externalTrafficPolicy", external, _POLICIES)
    port = service.health_check_node_port
    if port and not needs_health_check(service):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid("spec.healthCheckNodePort", port, detail)
    elif port:
        for complaint in names.port_number(port):
            yield invalid("spec.healthCheckNodePort", port, complaint)
    if internal is not None and internal not in _POLICIES:
        yield not_supported("spec.internalTrafficPolicy", internal, _POLICIES)
    distribution = service.traffic_distribution
    if distribution is not None and distribution not in TRAFFIC_DISTRIBUTIONS:
        yield not_supported("spec.trafficDistribution", distribution, TRAFFIC_DISTRIBUTIONS)


def _check_ingress(one: LoadBalancerIngress, path: str, service_type: str, *, stored: bool) -> Iterator[Violation]:
    if service_type != "LoadBalancer":
        yield forbidden("status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'")
        return
    if one.ip:
        yield from check_ip(f"{path}.ip", one.ip, stored=stored)
    if one.ip_mode is not None and not one.ip:
        yield forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set")
    elif one.ip_mode is not None and one.ip_mode not in _IP_MODES:
        yield not_supported(f"{path}.ipMode", one.ip_mode, _IP_MODES)
    for complaint in names.subdomain(one.hostname) if one.hostname else ():
        yield invalid(f"{path}.hostname", one.hostname, complaint)
    if one.hostname and sloppy_address(one.hostname) is not None:
        yield invalid(f"{path}.hostname", one.hostname, "must be a DNS name, not an IP address")

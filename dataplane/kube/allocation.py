"""What the API server allocates for Services: IP families, ClusterIPs, node ports and health check node ports.

Numbers come from the Services' names, with probing past those that are taken; like the API server's, the dynamic choices avoid
the lower end of a range, which is left to those who choose themselves. What a Service brings is kept or refused, never changed.
Source: k8s.io/kubernetes/pkg/registry/core/service/{storage/alloc.go,ipallocator,portallocator}; KEP-3070 (the lower end).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from dataplane.inet import BITS, Prefix, format_address, parse_prefix
from dataplane.kube import stable
from dataplane.kube.addresses import family_name, sloppy_address, sloppy_cidr
from dataplane.kube.defaults import needs_health_check
from dataplane.kube.fielderrors import Violation, invalid
from dataplane.kube.objects import LoadBalancerIngress, Service, ServiceCIDR, ServicePort
from dataplane.kube.validation import is_headless

#: Of a cluster that says nothing (kubeadm's, and the IPv6 range of kind).
DEFAULT_SERVICE_CIDRS: Final = ("10.96.0.0/12", "fd00:10:96::/108")
NODE_PORTS: Final = range(30000, 32768)
_RESERVED_NODE_PORTS: Final = 86
_NOT_IN_NODE_PORTS: Final = (
    f"provided port is not in the valid range. The range of valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}"
)
_MOST_TRIED: Final = 1 << 20


class Refusal(NamedTuple):
    """A Service that the API server would not store beside the others."""

    service: Service
    violation: Violation


@dataclass(slots=True)
class Allocated:
    """The Services with everything allocated, what was allocated, and what was refused."""

    services: list[Service] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def service_prefixes(cidrs: Sequence[ServiceCIDR]) -> dict[str, list[Prefix]]:
    """The ranges that ClusterIPs come from, by family, the default family first."""
    ordered = sorted(cidrs, key=lambda one: one.name != "kubernetes")
    texts = [text for one in ordered for text in one.cidrs] or list(DEFAULT_SERVICE_CIDRS)
    prefixes: dict[str, list[Prefix]] = {}
    for text in texts:
        cidr = sloppy_cidr(text)
        if cidr is not None:
            prefix = parse_prefix(f"{format_address(cidr.address.family, cidr.network)}/{cidr.length}")
            prefixes.setdefault(family_name(prefix.family), []).append(prefix)
    return prefixes


def check_ranges(service: Service, cidrs: Sequence[ServiceCIDR]) -> Iterator[Violation]:
    """What a new Service asks for must be in the cluster's ranges (one that a cluster has printed is not asked).

    Without a ServiceCIDR nobody knows the cluster's range: any address that is not globally routable may be in it.
    """
    prefixes = service_prefixes(cidrs)
    for text in service.cluster_ips:
        address = sloppy_address(text)
        if address is None:
            continue
        ranges = prefixes.get(family_name(address.family), [])
        known = cidrs or ipaddress.ip_address(format_address(address.family, address.value)).is_global
        if known and not any(address.value in prefix for prefix in ranges):
            names = ", ".join(map(str, ranges)) or "none of this family"
            detail = f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {names}"
            yield invalid("spec.clusterIPs", list(service.cluster_ips), f"failed to allocate IP {text}: {detail}")
    for index, port in enumerate(service.ports):
        if port.node_port and port.node_port not in NODE_PORTS:
            yield invalid(f"spec.ports[{index}].nodePort", port.node_port, _NOT_IN_NODE_PORTS)
    port_number = service.health_check_node_port
    if port_number and needs_health_check(service) and port_number not in NODE_PORTS:
        detail = f"failed to allocate requested HealthCheck NodePort {port_number}: {_NOT_IN_NODE_PORTS}"
        yield Violation("spec.healthCheckNodePort", f"Internal error: {detail}")


def allocate(services: Sequence[Service], cidrs: Sequence[ServiceCIDR]) -> Allocated:
    """All Services with their families, addresses and node ports; those given are reserved first, in order."""
    allocator = _Allocator(service_prefixes(cidrs))
    result = allocator.result
    with_families = [allocator.families(service) for service in services]
    for service in with_families:
        allocator.reserve(service)
    changed: dict[int, Service] = {}
    incomplete = [index for index, service in enumerate(with_families) if _is_incomplete(service)]
    for index in sorted(incomplete, key=lambda one: (with_families[one].namespace, with_families[one].name)):
        changed[index] = allocator.fill(with_families[index])
    result.services = [changed.get(index, service) for index, service in enumerate(with_families)]
    return result


def _is_incomplete(service: Service) -> bool:
    if service.type == "ExternalName":
        return False
    wants_addresses = not is_headless(service) and len(service.cluster_ips) < len(service.ip_families)
    wants_ports = _has_node_ports(service) and not all(port.node_port for port in service.ports)
    wants_health_check = needs_health_check(service) and not service.health_check_node_port
    return wants_addresses or wants_ports or wants_health_check or (service.type == "LoadBalancer" and not service.ingress)


def _has_node_ports(service: Service) -> bool:
    return service.type == "NodePort" or (
        service.type == "LoadBalancer" and service.allocate_load_balancer_node_ports is not False
    )


def subject(service: Service) -> str:
    """How messages name a Service."""
    return f"Service {service.namespace}/{service.name}"


class _Allocator:
    """What is taken so far, and the result that grows."""

    def __init__(self, prefixes: Mapping[str, Sequence[Prefix]]) -> None:
        self.prefixes = prefixes
        self.addresses: set[tuple[int, int]] = set()
        self.node_ports: set[int] = set()
        self.result = Allocated()

    def families(self, service: Service) -> Service:
        """The Service with its ipFamilies and ipFamilyPolicy (initIPFamilyFields)."""
        addresses = service.cluster_ips
        if service.type == "ExternalName" or (service.ip_families and len(addresses) >= len(service.ip_families)):
            return service
        selectorless = is_headless(service) and not service.selector
        policy = service.ip_family_policy or ("RequireDualStack" if selectorless else "SingleStack")
        found = tuple(family_name(address.family) for text in addresses if (address := sloppy_address(text)) is not None)
        families = service.ip_families + found[len(service.ip_families) :]
        violations = list(self._family_violations(service, policy, families, selectorless))
        if violations:
            self.result.refusals.extend(Refusal(service, violation) for violation in violations)
            return service
        families = families or (next(iter(self.prefixes)),)
        if policy != "SingleStack" and len(families) == 1 and (selectorless or len(self.prefixes) == 2):
            families = (*families, "IPv6" if families[0] == "IPv4" else "IPv4")
        return replace(service, ip_families=families, ip_family_policy=policy)

    def _family_violations(
        self, service: Service, policy: str, families: tuple[str, ...], selectorless: bool
    ) -> Iterator[Violation]:
        multiple = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
        if policy == "SingleStack" and len(service.cluster_ips) == 2:
            yield invalid("spec.ipFamilyPolicy", policy, multiple.format("cluster IPs"))
        if policy == "SingleStack" and len(service.ip_families) == 2:
            yield invalid("spec.ipFamilyPolicy", policy, multiple.format("IP families"))
        if selectorless:
            return
        if policy == "RequireDualStack" and len(self.prefixes) < 2:
            yield invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
        for index, family in enumerate(families):
            if family not in self.prefixes and index < len(service.ip_families):
                yield invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")

    def reserve(self, service: Service) -> None:
        """Take what the Service brings; refuse what another has."""
        for text in service.cluster_ips:
            address = sloppy_address(text)
            if address is None:
                continue
            key = address.family, address.value
            if key in self.addresses:
                detail = f"failed to allocate IP {text}: provided IP is already allocated"
                self._refuse(service, invalid("spec.clusterIPs", list(service.cluster_ips), detail))
            self.addresses.add(key)
        own: set[int] = set()
        for index, port in enumerate(service.ports):
            if port.node_port and port.node_port in self.node_ports and port.node_port not in own:
                detail = "provided port is already allocated"
                self._refuse(service, invalid(f"spec.ports[{index}].nodePort", port.node_port, detail))
            if port.node_port:
                own.add(port.node_port)
                self.node_ports.add(port.node_port)
        if service.health_check_node_port:
            self.node_ports.add(service.health_check_node_port)

    def _refuse(self, service: Service, violation: Violation) -> None:
        self.result.refusals.append(Refusal(service, violation))

    def fill(self, service: Service) -> Service:
        """Allocate what the Service lacks."""
        said: list[str] = []
        if not is_headless(service):
            service = self._with_addresses(service, said)
        if _has_node_ports(service):
            service = self._with_node_ports(service, said)
        if needs_health_check(service) and not service.health_check_node_port:
            port = self._next_node_port(service, "healthCheck")
            said.append(f"healthCheckNodePort {port}")
            service = replace(service, health_check_node_port=port)
        if said:
            self.result.notes.append(f"{subject(service)}: {', '.join(said)} allocated")
        return self._with_load_balancer(service) if service.type == "LoadBalancer" else service

    def _with_addresses(self, service: Service, said: list[str]) -> Service:
        addresses = list(service.cluster_ips)
        for family in service.ip_families[len(addresses) :]:
            found = self._next_address(service, family)
            if found is None:
                ranges = ", ".join(map(str, self.prefixes.get(family, ())))
                self._refuse(service, Violation("spec.clusterIPs", f"failed to allocate a serviceIP: range is full ({ranges})"))
                return service
            said.append(f"clusterIP {found}")
            addresses.append(found)
        return replace(service, cluster_ip=addresses[0] if addresses else "", cluster_ips=tuple(addresses))

    def _next_address(self, service: Service, family: str) -> str | None:
        for prefix in self.prefixes.get(family, ()):
            for offset in _offsets(prefix, stable.number(service.namespace, service.name, family)):
                key = prefix.family, prefix.address + offset
                if key not in self.addresses:
                    self.addresses.add(key)
                    return format_address(*key)
        return None

    def _with_node_ports(self, service: Service, said: list[str]) -> Service:
        """Ports that share a number for several protocols share the node port, too."""
        by_port = {port.port: port.node_port for port in reversed(service.ports) if port.node_port}
        ports: list[ServicePort] = []
        for port in service.ports:
            if not port.node_port:
                if port.port not in by_port:
                    by_port[port.port] = self._next_node_port(service, port.port)
                port = replace(port, node_port=by_port[port.port])
                name = port.name or f"{port.port}/{port.protocol}"
                said.append(f"nodePort {port.node_port} for port {name}")
            ports.append(port)
        return replace(service, ports=tuple(ports))

    def _next_node_port(self, service: Service, purpose: object) -> int:
        count = len(NODE_PORTS)
        for offset in _probes(count, _RESERVED_NODE_PORTS, stable.number(service.namespace, service.name, purpose)):
            if NODE_PORTS[offset] not in self.node_ports:
                self.node_ports.add(NODE_PORTS[offset])
                return NODE_PORTS[offset]
        self._refuse(service, Violation("spec.ports", "failed to allocate a nodePort: range is full"))
        return 0

    def _with_load_balancer(self, service: Service) -> Service:
        """A load balancer's address is its controller's to give: only one that was asked for is taken to be granted."""
        if service.ingress:
            return service
        if not service.load_balancer_ip:
            self.result.notes.append(f"{subject(service)}: pending, as nobody gives load balancer addresses here")
            return service
        address = service.load_balancer_ip
        self.result.notes.append(f"{subject(service)}: load balancer address {address} taken from spec.loadBalancerIP")
        return replace(service, ingress=(LoadBalancerIngress(address, ip_mode="VIP"),))


def _offsets(prefix: Prefix, seed: int) -> Iterable[int]:
    """Offsets into a prefix: not the network's own address, nor an IPv4 broadcast address."""
    size = 1 << (BITS[prefix.family] - (prefix.length or 0))
    usable = size - (2 if prefix.family == 4 else 1)
    band = 0 if size < 16 else min(max(16, size // 16), 256)
    return (offset + 1 for offset in _probes(min(max(usable, 0), _MOST_TRIED), band, seed))


def _probes(count: int, reserved: int, seed: int) -> Iterator[int]:
    """All of ``range(count)``, the part behind the reserved band first, beginning at a place that the seed chooses."""
    upper = count - reserved
    for step in range(max(upper, 0)):
        yield reserved + (seed + step) % upper
    yield from range(min(reserved, count))

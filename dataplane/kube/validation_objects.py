"""Which EndpointSlices, Nodes, ServiceCIDRs, Pods and workloads the API server (1.36) refuses, with its paths and wording.

Of Pods and workloads only what decides about traffic is checked: names, labels, ports, replicas.
Source: k8s.io/kubernetes/pkg/apis/discovery/validation, apis/core/validation, apis/apps/validation, apis/networking/validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from dataplane.kube import names
from dataplane.kube.addresses import (
    NOT_A_CIDR,
    check_canonical_ip,
    check_cidr,
    check_ip,
    check_not_special,
    family_name,
    is_ordinary,
    sloppy_address,
    sloppy_cidr,
)
from dataplane.kube.fielderrors import Violation, duplicate, invalid, not_supported, required, too_many
from dataplane.kube.objects import (
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    ServiceCIDR,
    Workload,
)
from dataplane.kube.validation import PROTOCOLS
from dataplane.kube.validation_meta import check_labels, check_metadata

_ADDRESS_TYPES: Final = ("FQDN", "IPv4", "IPv6")
_MOST_ENDPOINTS: Final = 1000
_MOST_ADDRESSES: Final = 100
_MOST_PORTS: Final = 20000
_MOST_HINTS: Final = 8
_NOT_NEGATIVE: Final = "must be greater than or equal to 0"


def check_endpoint_slice(one: EndpointSlice, *, stored: bool = False) -> Iterator[Violation]:
    """Everything that is wrong with an EndpointSlice whose defaults are set."""
    yield from check_metadata(one.name, one.namespace, one.labels, one.annotations, names.subdomain)
    if not one.address_type:
        yield required("addressType")
    elif one.address_type not in _ADDRESS_TYPES:
        yield not_supported("addressType", one.address_type, _ADDRESS_TYPES)
    if len(one.endpoints) > _MOST_ENDPOINTS:
        yield too_many("endpoints", len(one.endpoints), _MOST_ENDPOINTS)
    else:
        for index, endpoint in enumerate(one.endpoints):
            yield from _check_endpoint(endpoint, one.address_type, f"endpoints[{index}]", stored=stored)
    yield from _check_endpoint_ports(one.ports)


def _check_endpoint(endpoint: Endpoint, address_type: str, path: str, *, stored: bool) -> Iterator[Violation]:
    addresses = endpoint.addresses
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > _MOST_ADDRESSES:
        yield too_many(f"{path}.addresses", len(addresses), _MOST_ADDRESSES)
    family = 6 if address_type == "IPv6" else 4
    for index, address in enumerate(addresses):
        if is_ordinary(address, family) and address_type != "FQDN":
            continue
        if address_type == "FQDN":
            yield from _check_fqdn(address, f"{path}.addresses[{index}]")
        elif address_type in _ADDRESS_TYPES:
            yield from _check_address(address, address_type, path, index, stored=stored)
    if endpoint.node_name is not None:
        for complaint in names.subdomain(endpoint.node_name):
            yield invalid(f"{path}.nodeName", endpoint.node_name, complaint)
    if endpoint.hostname is not None:
        for complaint in names.label(endpoint.hostname):
            yield invalid(f"{path}.hostname", endpoint.hostname, complaint)
    if endpoint.hint_zones or endpoint.hint_nodes:
        yield from _check_hints(endpoint.hint_zones, f"{path}.hints.forZones")
        yield from _check_hints(endpoint.hint_nodes, f"{path}.hints.forNodes")


def _check_address(text: str, address_type: str, path: str, index: int, *, stored: bool) -> Iterator[Violation]:
    """IPv6 addresses must be canonical, IPv4 ones have only one form; the family is complained of without an index."""
    place = f"{path}.addresses[{index}]"
    check = check_ip if address_type == "IPv4" else check_canonical_ip
    wrong = list(check(place, text, stored=stored))
    yield from wrong
    address = sloppy_address(text)
    if address is None or wrong:
        return
    if family_name(address.family) != address_type:
        yield invalid(f"{path}.addresses", text, f"must be an {address_type} address")._replace(place=place)
    else:
        yield from check_not_special(place, text)


def _check_fqdn(text: str, path: str) -> Iterator[Violation]:
    name = text.removesuffix(".")
    if not text:
        yield required(path)
        return
    complaints = names.subdomain(name)
    if complaints:
        yield invalid(path, name, ",".join(complaints))
    if "." not in name:
        yield invalid(path, name, "should be a domain with at least two segments separated by dots")


def _check_hints(hints: Sequence[str], path: str) -> Iterator[Violation]:
    if len(hints) > _MOST_HINTS:
        yield too_many(path, len(hints), _MOST_HINTS)
        return
    for index, name in enumerate(hints):
        if name in hints[:index]:
            yield duplicate(f"{path}[{index}].name", name)
        for complaint in names.label_value(name) if path.endswith("forZones") else names.subdomain(name):
            yield invalid(f"{path}[{index}].name", name, complaint)


def _check_endpoint_ports(ports: Sequence[EndpointPort]) -> Iterator[Violation]:
    """Names are unique, an empty one among them; numbers are not checked by the API."""
    if len(ports) > _MOST_PORTS:
        yield too_many("ports", len(ports), _MOST_PORTS)
        return
    seen: set[str | None] = set()
    for index, port in enumerate(ports):
        if port.name:
            for complaint in names.label(port.name):
                yield invalid(f"ports[{index}].name", port.name, complaint)
        if port.name in seen:
            yield duplicate(f"ports[{index}].name", port.name)
        seen.add(port.name)
        if port.protocol not in PROTOCOLS:
            yield not_supported(f"ports[{index}].protocol", port.protocol, PROTOCOLS)
        if port.app_protocol is not None:
            for complaint in names.qualified_name(port.app_protocol):
                yield invalid(f"ports[{index}].appProtocol", port.app_protocol, complaint)


def check_node(one: Node, *, stored: bool = False) -> Iterator[Violation]:
    """A Node: its name, and at most one Pod CIDR a family."""
    yield from check_metadata(one.name, None, one.labels, one.annotations, names.subdomain)
    cidrs = one.pod_cidrs
    for index, text in enumerate(cidrs):
        yield from check_cidr(f"spec.podCIDRs[{index}]", text, stored=stored)
    families = {cidr.address.family for text in cidrs if (cidr := sloppy_cidr(text)) is not None}
    if len(cidrs) > 1 and len(families) != len(cidrs):
        yield invalid("spec.podCIDRs", list(cidrs), "may specify no more than one CIDR for each IP family")


def check_service_cidr(one: ServiceCIDR, *, stored: bool = False) -> Iterator[Violation]:
    """A ServiceCIDR: one CIDR, or one of each family."""
    yield from check_metadata(one.name, None, {}, {}, names.subdomain)
    if not one.cidrs:
        yield required("spec.cidrs", "at least one CIDR required")
    elif len(one.cidrs) > 2:
        yield invalid("spec.cidrs", list(one.cidrs), "may only hold up to 2 values")
    families: set[int] = set()
    for index, text in enumerate(one.cidrs):
        cidr = sloppy_cidr(text)
        if cidr is None:
            yield invalid(f"spec.cidrs[{index}]", text, NOT_A_CIDR)
            continue
        yield from check_cidr(f"spec.cidrs[{index}]", text, stored=stored)
        families.add(cidr.address.family)
    if len(one.cidrs) == 2 and len(families) == 1:
        detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        yield invalid("spec.cidrs", list(one.cidrs), detail)


def check_namespace(one: Namespace) -> Iterator[Violation]:
    """A Namespace."""
    yield from check_metadata(one.name, None, one.labels, {}, names.label)


def check_pod(one: Pod, *, stored: bool = False) -> Iterator[Violation]:
    """A Pod: its name and its addresses."""
    yield from check_metadata(one.name, one.namespace, one.labels, one.annotations, names.subdomain)
    for index, text in enumerate(one.pod_ips):
        yield from check_ip(f"status.podIPs[{index}].ip", text, stored=stored)


def check_workload(one: Workload) -> Iterator[Violation]:
    """A workload: its name, the number of its Pods, and their labels."""
    yield from check_metadata(one.name, one.namespace, {}, {}, names.subdomain)
    if one.replicas < 0:
        yield invalid("spec.replicas", one.replicas, _NOT_NEGATIVE)
    if one.first_ordinal < 0:
        yield invalid("spec.ordinals.start", one.first_ordinal, _NOT_NEGATIVE)
    for violation in check_labels(one.template.labels, "spec.template.labels"):  # without "metadata", as Kubernetes has it
        yield violation._replace(place=(violation.place or "").replace("template.", "template.metadata."))


def check_container_port(port: ContainerPort, path: str) -> Iterator[Violation]:
    """One port of a container, at its field path."""
    for complaint in names.port_number(port.container_port):
        yield invalid(f"{path}.containerPort", port.container_port, complaint)
    for complaint in names.port_number(port.host_port) if port.host_port else ():
        yield invalid(f"{path}.hostPort", port.host_port, complaint)
    if port.protocol not in PROTOCOLS:
        yield not_supported(f"{path}.protocol", port.protocol, PROTOCOLS)
    for complaint in names.port_name(port.name) if port.name else ():
        yield invalid(f"{path}.name", port.name, complaint)

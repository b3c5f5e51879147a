"""Plain dicts into the objects that routing is made of: Services, EndpointSlices, Endpoints, Nodes, Namespaces, ServiceCIDRs.

Only types are checked here; nothing is defaulted or judged, and every value is kept as it was written.
Source: Kubernetes API types core/v1, discovery.k8s.io/v1, networking.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import intern
from typing import Final

from dataplane.kube.addresses import check_ip, check_not_special, family_name, sloppy_address
from dataplane.kube.metadata import Metadata, read_metadata
from dataplane.kube.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Namespace,
    Node,
    NodeAddress,
    Origin,
    Service,
    ServiceCIDR,
    ServicePort,
)
from dataplane.kube.reading import Fields, Reader

_OBJECT: Final = frozenset(("apiVersion", "kind", "metadata", "spec", "status"))
_SERVICE_SPEC: Final = frozenset((
    "allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName", "externalTrafficPolicy",
    "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass", "loadBalancerIP",
    "loadBalancerSourceRanges", "ports", "publishNotReadyAddresses", "selector", "sessionAffinity", "sessionAffinityConfig",
    "trafficDistribution", "type",
))  # fmt: skip
_SERVICE_PORT: Final = frozenset(("appProtocol", "name", "nodePort", "port", "protocol", "targetPort"))
_SLICE: Final = frozenset(("addressType", "apiVersion", "endpoints", "kind", "metadata", "ports"))
_ENDPOINT: Final = frozenset((
    "addresses", "conditions", "deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "topology", "zone",
))  # fmt: skip

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
MANAGED_BY_LABEL: Final = "endpointslice.kubernetes.io/managed-by"
_MIRRORED_BY: Final = "endpointslicemirroring-controller.k8s.io"
_HOSTNAME_LABEL: Final = "kubernetes.io/hostname"
_ZONE_LABEL: Final = "topology.kubernetes.io/zone"


def service(fields: Fields, reader: Reader, origin: Origin | None = None) -> Service:
    """A Service, with status.loadBalancer."""
    metadata = read_metadata(fields, reader)
    spec = reader.mapping(fields, "spec", "")
    reader.known(fields, _OBJECT, "")
    reader.known(spec, _SERVICE_SPEC, "spec")
    affinity_path = "spec.sessionAffinityConfig"
    affinity = reader.mapping(reader.mapping(spec, "sessionAffinityConfig", "spec"), "clientIP", affinity_path)
    return Service(
        namespace=metadata.namespace, name=metadata.name, labels=metadata.labels, annotations=metadata.annotations,
        type=reader.text(spec, "type", "spec"),
        cluster_ip=reader.text(spec, "clusterIP", "spec"), cluster_ips=reader.texts(spec, "clusterIPs", "spec"),
        ip_families=reader.texts(spec, "ipFamilies", "spec"),
        ip_family_policy=reader.optional_text(spec, "ipFamilyPolicy", "spec"),
        ports=tuple([_service_port(port, reader, at) for port, at in reader.objects(spec, "ports", "spec")]),
        selector=reader.text_map(spec, "selector", "spec") or None,
        external_ips=reader.texts(spec, "externalIPs", "spec"), external_name=reader.text(spec, "externalName", "spec"),
        load_balancer_ip=reader.text(spec, "loadBalancerIP", "spec"),
        load_balancer_class=reader.optional_text(spec, "loadBalancerClass", "spec"),
        load_balancer_source_ranges=reader.texts(spec, "loadBalancerSourceRanges", "spec"),
        allocate_load_balancer_node_ports=reader.boolean(spec, "allocateLoadBalancerNodePorts", "spec"),
        ingress=_ingress(fields, reader),
        session_affinity=reader.text(spec, "sessionAffinity", "spec"),
        session_affinity_timeout=reader.optional_integer(affinity, "timeoutSeconds", f"{affinity_path}.clientIP"),
        external_traffic_policy=reader.text(spec, "externalTrafficPolicy", "spec"),
        internal_traffic_policy=reader.optional_text(spec, "internalTrafficPolicy", "spec"),
        health_check_node_port=reader.integer(spec, "healthCheckNodePort", "spec"),
        publish_not_ready_addresses=reader.boolean(spec, "publishNotReadyAddresses", "spec") or False,
        traffic_distribution=reader.optional_text(spec, "trafficDistribution", "spec"),
        origin=origin,
    )  # fmt: skip


def _service_port(port: Fields, reader: Reader, at: str) -> ServicePort:
    reader.known(port, _SERVICE_PORT, at)
    return ServicePort(
        reader.integer(port, "port", at),
        reader.text(port, "name", at),
        reader.text(port, "protocol", at),
        reader.integer_or_text(port, "targetPort", at),
        reader.integer(port, "nodePort", at),
        reader.optional_text(port, "appProtocol", at),
    )


def _ingress(fields: Fields, reader: Reader) -> tuple[LoadBalancerIngress, ...]:
    status = fields.get("status")
    if not status:
        return ()
    balancer = reader.mapping(reader.mapping(fields, "status", ""), "loadBalancer", "status")
    return tuple([
        LoadBalancerIngress(
            reader.text(one, "ip", at), reader.text(one, "hostname", at), reader.optional_text(one, "ipMode", at)
        )
        for one, at in reader.objects(balancer, "ingress", "status.loadBalancer")
    ])  # fmt: skip


def endpoint_slice(fields: Fields, reader: Reader, origin: Origin | None = None) -> EndpointSlice:
    """An EndpointSlice."""
    metadata = read_metadata(fields, reader)
    reader.known(fields, _SLICE, "")
    return EndpointSlice(
        metadata.namespace, metadata.name,
        intern(reader.text(fields, "addressType", "")),
        tuple([_endpoint_port(port, reader, at) for port, at in reader.objects(fields, "ports", "")]),
        tuple([_endpoint(one, reader, at) for one, at in reader.objects(fields, "endpoints", "")]),
        metadata.labels, metadata.annotations, origin,
    )  # fmt: skip


def _endpoint_port(port: Fields, reader: Reader, at: str) -> EndpointPort:
    return EndpointPort(
        reader.name(port, "name", at),
        reader.name(port, "protocol", at),
        reader.optional_integer(port, "port", at),
        reader.optional_text(port, "appProtocol", at),
    )


def _endpoint(one: Fields, reader: Reader, at: str) -> Endpoint:
    reader.known(one, _ENDPOINT, at)
    node_name, zone = reader.name(one, "nodeName", at), reader.name(one, "zone", at)
    if "topology" in one:  # discovery.k8s.io/v1beta1
        topology = reader.text_map(one, "topology", at)
        node_name, zone = node_name or topology.get(_HOSTNAME_LABEL), zone or topology.get(_ZONE_LABEL)
    conditions, hints = one.get("conditions"), one.get("hints")
    addresses, hostname = reader.texts(one, "addresses", at), reader.optional_text(one, "hostname", at)
    ready = serving = terminating = None
    if conditions:
        conditions, place = reader.mapping(one, "conditions", at), f"{at}.conditions"
        ready = reader.boolean(conditions, "ready", place)
        serving = reader.boolean(conditions, "serving", place)
        terminating = reader.boolean(conditions, "terminating", place)
    if not hints:
        return Endpoint(addresses, ready, serving, terminating, node_name, zone, hostname)
    hints, place = reader.mapping(one, "hints", at), f"{at}.hints"
    zones, nodes = (_names(hints, key, reader, place) for key in ("forZones", "forNodes"))
    return Endpoint(addresses, ready, serving, terminating, node_name, zone, hostname, zones, nodes)


def _names(fields: Fields, key: str, reader: Reader, at: str) -> tuple[str, ...]:
    return tuple([reader.name(one, "name", place) or "" for one, place in reader.objects(fields, key, at)])


def endpoints(
    fields: Fields, reader: Reader, origin: Origin | None = None, *, stored: bool = False
) -> tuple[EndpointSlice, ...]:
    """An Endpoints object as the EndpointSlices that the mirroring controller makes of it: one a subset and IP family.

    Nothing for an object that asks not to be mirrored. Addresses are judged here, as their places are not kept.
    Source: k8s.io/kubernetes/pkg/controller/endpointslicemirroring.
    """
    metadata = read_metadata(fields, reader)
    if metadata.labels.get("endpointslice.kubernetes.io/skip-mirror") == "true":
        return ()
    labels = {**metadata.labels, SERVICE_NAME_LABEL: metadata.name, MANAGED_BY_LABEL: _MIRRORED_BY}
    slices = []
    for index, (subset, at) in enumerate(reader.objects(fields, "subsets", "")):
        ports = tuple(
            EndpointPort(reader.text(port, "name", place), reader.text(port, "protocol", place) or "TCP",
                         reader.integer(port, "port", place), reader.optional_text(port, "appProtocol", place))
            for port, place in reader.objects(subset, "ports", at)
        )  # fmt: skip
        families: dict[str, list[Endpoint]] = {}
        for endpoint in _subset_endpoints(subset, reader, at, stored):
            address = sloppy_address(endpoint.addresses[0])
            families.setdefault(family_name(address.family if address else 4), []).append(endpoint)
        for family, members in families.items():
            name = f"{metadata.name}-{family.lower()}-{index}"
            slices.append(EndpointSlice(metadata.namespace, name, family, ports, tuple(members), labels, origin=origin))
    return tuple(slices)


def _subset_endpoints(subset: Fields, reader: Reader, at: str, stored: bool) -> Iterator[Endpoint]:
    for key, ready in (("addresses", True), ("notReadyAddresses", False)):
        for one, place in reader.objects(subset, key, at):
            address = reader.text(one, "ip", place)
            reader.violations.extend(check_ip(f"{place}.ip", address, stored=stored))
            reader.violations.extend(check_not_special(f"{place}.ip", address))
            node_name, hostname = reader.name(one, "nodeName", place), reader.text(one, "hostname", place) or None
            yield Endpoint((address,), ready, node_name=node_name, hostname=hostname)


def node(fields: Fields, reader: Reader, origin: Origin | None = None) -> Node:
    """A Node."""
    metadata = read_metadata(fields, reader)
    spec, status = reader.mapping(fields, "spec", ""), reader.mapping(fields, "status", "")
    cidrs = reader.texts(spec, "podCIDRs", "spec")
    if not cidrs:
        cidr = reader.text(spec, "podCIDR", "spec")
        cidrs = (cidr,) if cidr else ()
    addresses = tuple(
        NodeAddress(reader.text(one, "type", at), reader.text(one, "address", at))
        for one, at in reader.objects(status, "addresses", "status")
    )
    return Node(intern(metadata.name), metadata.labels, metadata.annotations, cidrs, addresses, origin)


def namespace(fields: Fields, reader: Reader, origin: Origin | None = None) -> Namespace:
    """A Namespace."""
    metadata: Metadata = read_metadata(fields, reader)
    return Namespace(metadata.name, metadata.labels, origin)


def service_cidr(fields: Fields, reader: Reader, origin: Origin | None = None) -> ServiceCIDR:
    """A ServiceCIDR."""
    spec = reader.mapping(fields, "spec", "")
    return ServiceCIDR(read_metadata(fields, reader).name, reader.texts(spec, "cidrs", "spec"), origin)

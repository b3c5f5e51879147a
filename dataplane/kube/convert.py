"""Plain objects into the frozen ones: types are checked, nothing is filled in and nothing is judged.

Source: Kubernetes API types v1, discovery.k8s.io/v1, apps/v1, networking.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dataplane.kube.fields import Fields
from dataplane.kube.objects import (
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Namespace,
    Node,
    NodeAddress,
    Origin,
    Pod,
    Service,
    ServiceCIDR,
    ServicePort,
)


class Workload(NamedTuple):
    """A Deployment, StatefulSet, DaemonSet or ReplicaSet: ``template`` is a Pod without a name or place."""

    kind: str
    namespace: str
    name: str
    replicas: int | None
    template: Pod
    origin: Origin | None = None


def service(one: Fields, origin: Origin) -> Service:
    """A Service."""
    meta, spec = one.fields("metadata"), one.fields("spec")
    affinity = spec.fields("sessionAffinityConfig").fields("clientIP")
    balancer = one.fields("status").fields("loadBalancer")
    selector = spec.mapping("selector") if spec.value.get("selector") is not None else None
    return Service(
        namespace=meta.text("namespace", "default") or "default", name=meta.text("name"), labels=meta.mapping("labels"),
        annotations=meta.mapping("annotations"), type=spec.text("type", "ClusterIP") or "ClusterIP", cluster_ip=spec.text("clusterIP"),
        cluster_ips=spec.texts("clusterIPs"), ip_families=spec.texts("ipFamilies"), ip_family_policy=spec.maybe_text("ipFamilyPolicy"),
        ports=tuple(_service_port(port) for port in spec.items("ports")), selector=selector, external_ips=spec.texts("externalIPs"),
        external_name=spec.text("externalName"), load_balancer_ip=spec.text("loadBalancerIP"),
        load_balancer_class=spec.maybe_text("loadBalancerClass"),
        load_balancer_source_ranges=spec.texts("loadBalancerSourceRanges"),
        allocate_load_balancer_node_ports=spec.flag("allocateLoadBalancerNodePorts"),
        ingress=tuple(
            LoadBalancerIngress(entry.text("ip"), entry.text("hostname"), entry.maybe_text("ipMode")) for entry in balancer.items("ingress")
        ),
        session_affinity=spec.text("sessionAffinity", "None") or "None", session_affinity_timeout=affinity.number("timeoutSeconds"),
        external_traffic_policy=spec.text("externalTrafficPolicy"), internal_traffic_policy=spec.maybe_text("internalTrafficPolicy"),
        health_check_node_port=spec.number("healthCheckNodePort") or 0,
        publish_not_ready_addresses=spec.flag("publishNotReadyAddresses") or False,
        traffic_distribution=spec.maybe_text("trafficDistribution"), origin=origin,
    )  # fmt: skip


def _target(one: Fields, name: str) -> int | str | None:
    value = one.value.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        return value
    one.problems.invalid(one.at(name), value, "must be an integer or a string")
    return None


def _service_port(one: Fields) -> ServicePort:
    if one.value.get("port") is None:
        one.problems.add(one.at("port"), "Required value")
    return ServicePort(
        one.number("port") or 0, one.text("name"), one.text("protocol", "TCP") or "TCP", _target(one, "targetPort"), one.number("nodePort") or 0
    )  # fmt: skip


def endpoint_slice(one: Fields, origin: Origin) -> EndpointSlice:
    """An EndpointSlice."""
    meta = one.fields("metadata")
    ports = []
    for port in one.items("ports"):
        name = port.text("name") if "name" not in port.value or port.value["name"] is not None else None
        ports.append(EndpointPort(name, port.text("protocol", "TCP") or "TCP", port.number("port"), port.maybe_text("appProtocol")))
    return EndpointSlice(
        meta.text("namespace", "default") or "default", meta.text("name"), one.text("addressType"), tuple(ports),
        tuple(_endpoint(entry) for entry in one.items("endpoints")), meta.mapping("labels"), meta.mapping("annotations"), origin,
    )  # fmt: skip


def _endpoint(one: Fields) -> Endpoint:
    conditions, hints = one.fields("conditions"), one.fields("hints")
    return Endpoint(
        one.texts("addresses"), conditions.flag("ready"), conditions.flag("serving"), conditions.flag("terminating"),
        one.maybe_text("nodeName"), one.maybe_text("zone"), one.maybe_text("hostname"),
        tuple(entry.text("name") for entry in hints.items("forZones")), tuple(entry.text("name") for entry in hints.items("forNodes")),
    )  # fmt: skip


def endpoints(one: Fields, origin: Origin) -> list[EndpointSlice]:
    """An Endpoints object as the slices that the mirroring controller makes of it: one a subset and family."""
    meta = one.fields("metadata")
    name, namespace = meta.text("name"), meta.text("namespace", "default") or "default"
    made = []
    for index, subset in enumerate(one.items("subsets")):
        ports = tuple(EndpointPort(port.text("name"), port.text("protocol", "TCP") or "TCP", port.number("port")) for port in subset.items("ports"))
        found: dict[str, list[Endpoint]] = {}
        for key, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.items(key):
                ip = address.text("ip")
                kind = "IPv6" if ":" in ip else "IPv4"
                found.setdefault(kind, []).append(Endpoint((ip,), ready, ready, False, address.maybe_text("nodeName")))
        for kind, entries in found.items():
            labels = {**meta.mapping("labels"), "kubernetes.io/service-name": name}
            made.append(EndpointSlice(namespace, f"{name}-{index}-{kind.lower()}", kind, ports, tuple(entries), labels, {}, origin))
    return made


def node(one: Fields, origin: Origin) -> Node:
    """A Node."""
    meta, spec = one.fields("metadata"), one.fields("spec")
    cidrs = spec.texts("podCIDRs") or tuple(text for text in (spec.text("podCIDR"),) if text)
    addresses = tuple(NodeAddress(entry.text("type"), entry.text("address")) for entry in one.fields("status").items("addresses"))
    return Node(meta.text("name"), meta.mapping("labels"), meta.mapping("annotations"), cidrs, addresses, origin)


def pod(one: Fields, origin: Origin) -> Pod:
    """A Pod."""
    meta, status = one.fields("metadata"), one.fields("status")
    ready = None
    for condition in status.items("conditions"):
        if condition.text("type") == "Ready":
            ready = condition.text("status") == "True"
    ips = tuple(entry.text("ip") for entry in status.items("podIPs")) or tuple(text for text in (status.text("podIP"),) if text)
    hosts = tuple(entry.text("ip") for entry in status.items("hostIPs")) or tuple(text for text in (status.text("hostIP"),) if text)
    return _pod(
        one.fields("spec"), meta, name=meta.text("name"), namespace=meta.text("namespace", "default") or "default", origin=origin,
        phase=status.maybe_text("phase"), ready=ready, terminating=meta.value.get("deletionTimestamp") is not None, pod_ips=ips, host_ips=hosts,
    )  # fmt: skip


def _pod(spec: Fields, meta: Fields, **rest: Any) -> Pod:  # Any: the keyword fields of Pod
    ports = [
        ContainerPort(port.number("containerPort") or 0, port.text("name"), port.text("protocol", "TCP") or "TCP", port.number("hostPort") or 0, port.text("hostIP"))
        for key in ("containers", "initContainers")
        for container in spec.items(key)
        for port in container.items("ports")
    ]
    return Pod(
        labels=meta.mapping("labels"), annotations=meta.mapping("annotations"), node_name=spec.maybe_text("nodeName"),
        host_network=spec.flag("hostNetwork") or False, hostname=spec.maybe_text("hostname"), subdomain=spec.maybe_text("subdomain"),
        ports=tuple(ports), **rest,
    )  # fmt: skip


def workload(one: Fields, origin: Origin) -> Workload:
    """Whatever carries a Pod template."""
    meta, spec = one.fields("metadata"), one.fields("spec")
    namespace = meta.text("namespace", "default") or "default"
    template = spec.fields("template")
    made = _pod(template.fields("spec"), template.fields("metadata"), name="", namespace=namespace, origin=origin)
    return Workload(one.text("kind"), namespace, meta.text("name"), spec.number("replicas"), made, origin)


def service_cidr(one: Fields, origin: Origin) -> ServiceCIDR:
    """A ServiceCIDR."""
    return ServiceCIDR(one.fields("metadata").text("name"), one.fields("spec").texts("cidrs"), origin)


def namespace(one: Fields, origin: Origin) -> Namespace:
    """A Namespace."""
    meta = one.fields("metadata")
    return Namespace(meta.text("name"), meta.mapping("labels"), origin)


SIMPLE: dict[str, Callable[[Fields, Origin], Any]] = {
    "Service": service, "EndpointSlice": endpoint_slice, "Node": node, "Pod": pod, "ServiceCIDR": service_cidr, "Namespace": namespace,
    "Deployment": workload, "StatefulSet": workload, "DaemonSet": workload, "ReplicaSet": workload,
}  # fmt: skip

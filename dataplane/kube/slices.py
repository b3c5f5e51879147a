"""EndpointSlices for Services with a selector, as the EndpointSlice controller makes them from Pods.

Source: k8s.io/endpointslice (reconciler.go, utils.go, trafficdist), k8s.io/kubernetes/pkg/api/v1/pod FindPort.
Not modelled: hints by topology-mode Auto, which depend on the nodes' CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dataplane.kube import stable
from dataplane.kube.convert import MANAGED_BY_LABEL, SERVICE_NAME_LABEL
from dataplane.kube.objects import Cluster, Endpoint, EndpointPort, EndpointSlice, Node, Pod, Service, ServicePort
from dataplane.kube.scheduling import by_label, is_finished
from dataplane.kube.validation import is_headless

HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_MANAGER: Final = "endpointslice-controller.k8s.io"
_MOST_ENDPOINTS: Final = 100
_HINTED_BY_ZONE: Final = ("PreferClose", "PreferSameZone", "PreferSameNode")
_HINTED_BY_NODE: Final = ("PreferSameNode",)


class Slices(NamedTuple):
    """New EndpointSlices, and what they were made from."""

    slices: tuple[EndpointSlice, ...]
    notes: tuple[str, ...]


def complete_slices(cluster: Cluster) -> Slices:
    """EndpointSlices for the Services that have a selector but none yet."""
    given = {(one.namespace, one.labels.get(SERVICE_NAME_LABEL)) for one in cluster.endpoint_slices}
    lacking = [one for one in cluster.services if one.type != "ExternalName" and (one.namespace, one.name) not in given]
    if not lacking:
        return Slices((), ())
    pods = by_label(cluster.pods)
    nodes = {node.name: node for node in cluster.nodes}
    slices: list[EndpointSlice] = []
    notes: list[str] = []
    for service in lacking:
        if service.selector:
            chosen = [pod for pod in _selected(service, pods) if pod.pod_ips and not is_finished(pod)]
            slices.extend(_slices_of(service, chosen, nodes))
            notes.extend(_notes(service, chosen))
        elif not is_headless(service):
            notes.append(f"Service {service.namespace}/{service.name}: no selector and no EndpointSlice, so no endpoints")
    return Slices(tuple(slices), tuple(notes))


def _selected(service: Service, pods: Mapping[tuple[str, str, str], Sequence[Pod]]) -> list[Pod]:
    selector = service.selector or {}
    key, value = next(iter(selector.items()))
    found = pods.get((service.namespace, key, value), ())
    return [pod for pod in found if all(pod.labels.get(name) == wanted for name, wanted in selector.items())]


def _notes(service: Service, pods: Sequence[Pod]) -> Iterator[str]:
    subject = f"Service {service.namespace}/{service.name}"
    if not pods:
        text = ",".join(f"{key}={value}" for key, value in (service.selector or {}).items())
        yield f"{subject}: no Pod matches its selector {text}, so it has no endpoints"
        return
    yield f"{subject}: {len(pods)} endpoint{'' if len(pods) == 1 else 's'} from the Pods that its selector matches"
    for port in service.ports:
        lacking = sum(target_port(port, pod) is None for pod in pods)
        if lacking:
            many = f"{lacking} of {len(pods)} Pods have" if len(pods) > 1 else "its Pod has"
            yield f'{subject}: {many} no {port.protocol} port named "{port.target_port}"'
    for family in service.ip_families:
        if not any(_is_of(text, family) for pod in pods for text in pod.pod_ips):
            yield f"{subject}: none of its Pods has an {family} address"


def _is_of(text: str, family: str) -> bool:
    return (":" in text) == (family == "IPv6")


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The number that a Service port means on a Pod; None where the Pod has no port of that name."""
    target = port.target_port
    if isinstance(target, int):
        return target
    return next((one.container_port for one in pod.ports if one.name == target and one.protocol == port.protocol), None)


def _slices_of(service: Service, pods: Sequence[Pod], nodes: Mapping[str, Node]) -> Iterator[EndpointSlice]:
    """Slices of at most 100 endpoints that share a family and the numbers of all ports."""
    labels = {**service.labels, SERVICE_NAME_LABEL: service.name, MANAGED_BY_LABEL: _MANAGER}
    if is_headless(service):
        labels[HEADLESS_LABEL] = ""
    for family in service.ip_families or ("IPv4",):
        groups: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
        for pod in pods:
            address = next((text for text in pod.pod_ips if _is_of(text, family)), None)
            if address is not None:
                groups.setdefault(_ports(service, pod), []).append(_endpoint(service, pod, address, nodes))
        for ports, endpoints in groups.items() or (((), []),):
            for start in range(0, len(endpoints) or 1, _MOST_ENDPOINTS):
                part = stable.suffix(5, service.namespace, service.name, family, ports, start)
                members = tuple(endpoints[start : start + _MOST_ENDPOINTS])
                yield EndpointSlice(service.namespace, f"{service.name}-{part}", family, ports, members, labels)


def _ports(service: Service, pod: Pod) -> tuple[EndpointPort, ...]:
    return tuple(
        EndpointPort(port.name, port.protocol, number, port.app_protocol)
        for port in service.ports
        if (number := target_port(port, pod)) is not None
    )


def _endpoint(service: Service, pod: Pod, address: str, nodes: Mapping[str, Node]) -> Endpoint:
    serving = pod.ready is not False
    ready = service.publish_not_ready_addresses or (serving and not pod.terminating)
    node = nodes.get(pod.node_name or "")
    zone = (node.labels.get(ZONE_LABEL) or None) if node is not None else None
    by_zone = ready and zone is not None and service.traffic_distribution in _HINTED_BY_ZONE
    by_node = ready and pod.node_name is not None and service.traffic_distribution in _HINTED_BY_NODE
    return Endpoint(
        (address,), ready, serving, pod.terminating, pod.node_name, zone,
        pod.hostname if pod.hostname and pod.subdomain == service.name else None,
        (zone,) if by_zone and zone else (), (pod.node_name,) if by_node and pod.node_name else (),
    )  # fmt: skip

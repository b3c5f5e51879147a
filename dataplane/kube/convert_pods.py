"""Plain dicts into Pods and into what Pods are made from: Deployments, ReplicaSets, StatefulSets, DaemonSets and their like.

Types are checked, and container ports, as their place is not kept. Of a Pod stays what decides who can reach it: labels, node,
ports, addresses, readiness.
Source: Kubernetes API types core/v1 and apps/v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dataplane.kube.metadata import Metadata, read_metadata
from dataplane.kube.objects import ContainerPort, Origin, Pod, Workload
from dataplane.kube.reading import NO_FIELDS, Fields, Reader
from dataplane.kube.validation_objects import check_container_port

_NO_METADATA: Final = Metadata("")


def pod(fields: Fields, reader: Reader, origin: Origin | None = None) -> Pod:
    """A Pod, with the parts of its status that matter."""
    metadata = read_metadata(fields, reader)
    spec, status = reader.mapping(fields, "spec", ""), reader.mapping(fields, "status", "")
    ready = None
    for condition, at in reader.objects(status, "conditions", "status"):
        if reader.text(condition, "type", at) == "Ready":
            ready = reader.text(condition, "status", at) == "True"
    return _pod(
        metadata, spec, reader, "spec", phase=reader.text(status, "phase", "status") or None, ready=ready,
        pod_ips=_addresses(status, "podIP", "podIPs", reader), host_ips=_addresses(status, "hostIP", "hostIPs", reader),
        origin=origin,
    )  # fmt: skip


def workload(fields: Fields, reader: Reader, origin: Origin | None = None) -> Workload:
    """A Deployment, ReplicaSet, StatefulSet, DaemonSet or ReplicationController."""
    metadata, spec = read_metadata(fields, reader), reader.mapping(fields, "spec", "")
    template = reader.mapping(spec, "template", "spec")
    of_template = read_metadata(template, reader, "spec.template.metadata")
    replicas = reader.optional_integer(spec, "replicas", "spec")
    ordinals = reader.mapping(spec, "ordinals", "spec")
    made = _pod(
        of_template._replace(name="", namespace=metadata.namespace, terminating=False, owner=None),
        reader.mapping(template, "spec", "spec.template"), reader, "spec.template.spec", origin=origin,
    )  # fmt: skip
    return Workload(
        reader.text(fields, "kind", ""), metadata.namespace, metadata.name, made, 1 if replicas is None else replicas,
        reader.integer(ordinals, "start", "spec.ordinals"), metadata.owner, origin,
    )  # fmt: skip


def _pod(
    metadata: Metadata, spec: Fields, reader: Reader, at: str, *, phase: str | None = None, ready: bool | None = None,
    pod_ips: tuple[str, ...] = (), host_ips: tuple[str, ...] = (), origin: Origin | None = None,
) -> Pod:  # fmt: skip
    return Pod(
        metadata.namespace, metadata.name, metadata.labels, metadata.annotations,
        node_name=reader.name(spec, "nodeName", at) or None,
        host_network=reader.boolean(spec, "hostNetwork", at) or False,
        hostname=reader.text(spec, "hostname", at) or None,
        subdomain=reader.text(spec, "subdomain", at) or None,
        ports=tuple(_ports(spec, reader, at)),
        phase=phase, ready=ready, terminating=metadata.terminating, pod_ips=pod_ips, host_ips=host_ips,
        node_selector=reader.text_map(spec, "nodeSelector", at),
        owner=metadata.owner, origin=origin,
    )  # fmt: skip


def _ports(spec: Fields, reader: Reader, at: str) -> Iterator[ContainerPort]:
    """The ports of the containers, and of the init containers that keep running beside them."""
    for container, path in reader.objects(spec, "containers", at):
        yield from _container_ports(container, reader, path)
    for container, path in reader.objects(spec, "initContainers", at):
        if reader.text(container, "restartPolicy", path) == "Always":
            yield from _container_ports(container, reader, path)


def _container_ports(container: Fields, reader: Reader, at: str) -> Iterator[ContainerPort]:
    for port, path in reader.objects(container, "ports", at):
        made = ContainerPort(
            reader.integer(port, "containerPort", path),
            reader.text(port, "name", path),
            reader.text(port, "protocol", path) or "TCP",
            reader.integer(port, "hostPort", path),
            reader.text(port, "hostIP", path),
        )
        reader.violations.extend(check_container_port(made, path))
        yield made


def _addresses(status: Fields, single: str, several: str, reader: Reader) -> tuple[str, ...]:
    """podIPs, or podIP where an old cluster has only that."""
    if status is NO_FIELDS:
        return ()
    found = tuple(reader.text(one, "ip", at) for one, at in reader.objects(status, several, "status"))
    first = reader.text(status, single, "status")
    return found or ((first,) if first else ())

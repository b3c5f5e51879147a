"""Manifests in, a complete Cluster out: read, convert, default, validate, and do what the control plane does.

All problems of all files are reported together; nothing is returned then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from dataplane.errors import InputError, Problem, SpecError
from dataplane.kube import convert
from dataplane.kube.controlplane import complete
from dataplane.kube.fields import Fields, Problems
from dataplane.kube.manifest import Document, read_paths
from dataplane.kube.objects import Cluster, EndpointSlice, KubeProxyConfiguration, LoadBalancerIngress, Node, Origin, Service
from dataplane.kube.proxyconfig import configuration
from dataplane.kube.validation import validate_endpoint_slice, validate_service

_VERSIONS = {
    "Service": ("v1",), "Endpoints": ("v1",), "Node": ("v1",), "Pod": ("v1",), "Namespace": ("v1",), "List": ("v1",),
    "EndpointSlice": ("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"), "Deployment": ("apps/v1", "apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"),
    "StatefulSet": ("apps/v1", "apps/v1beta1", "apps/v1beta2"), "DaemonSet": ("apps/v1", "apps/v1beta2", "extensions/v1beta1"),
    "ReplicaSet": ("apps/v1", "apps/v1beta2", "extensions/v1beta1"), "ServiceCIDR": ("networking.k8s.io/v1", "networking.k8s.io/v1beta1"),
    "KubeProxyConfiguration": ("kubeproxy.config.k8s.io/v1alpha1",),
}  # fmt: skip


def load(paths: Sequence[str], *, recursive: bool = False, config: str | None = None, stdin: BinaryIO | None = None) -> Cluster:
    """The cluster that the manifests describe. Raises SpecError or ParseError with everything that is wrong."""
    documents = read_paths(paths, recursive=recursive, stdin=stdin)
    cluster = _cluster(documents)
    if config is None:
        return cluster
    given = [document for document in read_paths([config]) if isinstance(document.value, dict)]
    found = _cluster(given, only_configuration=True).proxy_configuration
    if found is None:
        raise SpecError(Problem("expected a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1)", config))
    return cluster._replace(proxy_configuration=found)


def load_objects(objects: Iterable[Mapping[str, Any]]) -> Cluster:
    """The cluster of objects that are plain mappings already."""
    return _cluster([Document("objects", index, dict(one)) for index, one in enumerate(objects, 1)])


def node_of(cluster: Cluster, name: str | None) -> Node:
    """The node of that name; without a name the only one. Raises InputError that lists those there are."""
    names = ", ".join(node.name for node in cluster.nodes)
    if name is None:
        if len(cluster.nodes) == 1:
            return cluster.nodes[0]
        raise InputError(Problem(f"which node? The manifests have {names}: say --node NAME"))
    for node in cluster.nodes:
        if node.name == name:
            return node
    raise InputError(Problem(f'node "{name}" not found: the manifests have {names}'))


class _Collected:
    """Objects by kind while documents are read."""

    def __init__(self) -> None:
        self.simple: dict[str, list[Any]] = {kind: [] for kind in convert.SIMPLE}
        self.endpoints: list[EndpointSlice] = []
        self.configuration: KubeProxyConfiguration | None = None
        self.ignored: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.seen: dict[tuple[str, str, str], Document] = {}


def _cluster(documents: Sequence[Document], *, only_configuration: bool = False) -> Cluster:
    found = _Collected()
    for document in documents:
        for one in _flattened(document, found):
            _read(one, found)
    if found.problems:
        raise SpecError(found.problems)
    simple = found.simple
    have = {(one.namespace, one.labels.get("kubernetes.io/service-name", "")) for one in simple["EndpointSlice"]}
    mirrored = [one for one in found.endpoints if (one.namespace, one.labels["kubernetes.io/service-name"]) not in have]
    notes = [f"{count} {kind} passed over (not part of Service routing)" for kind, count in sorted(found.ignored.items())]
    cluster = Cluster(
        tuple(simple["Service"]), (*simple["EndpointSlice"], *mirrored), tuple(simple["Node"]), tuple(simple["Pod"]),
        tuple(simple["Namespace"]), tuple(simple["ServiceCIDR"]), found.configuration, dict(found.ignored), tuple(notes),
    )  # fmt: skip
    if only_configuration:
        return cluster
    workloads = [one for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet") for one in simple[kind]]
    return complete(cluster, workloads)


def _flattened(document: Document, found: _Collected) -> Iterable[Document]:
    value = document.value
    if not isinstance(value, dict):
        found.problems.append(Problem(f"expected an object with apiVersion and kind, got {type(value).__name__}", document.file, document.line))
        return
    kind = value.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            if isinstance(item, dict) and "kind" not in item:
                item = {"kind": kind.removesuffix("List"), "apiVersion": value.get("apiVersion"), **item}
            yield from _flattened(Document(document.file, document.line, item, document.text, f"{document.path}items[{index}]."), found)
        return
    yield document


def _read(document: Document, found: _Collected) -> None:
    value = document.value
    kind, version = value.get("kind"), value.get("apiVersion")
    problems = Problems(document)
    if not isinstance(kind, str) or not kind:
        problems.add("kind", "Required value: every object needs a kind")
        found.problems.extend(problems.found)
        return
    if version not in _VERSIONS.get(kind, ()):
        found.ignored[f"{kind} ({version})" if kind in _VERSIONS else kind] += 1
        return
    line = document.line_of("apiVersion") if document.path and not document.text else document.line
    origin = Origin(document.file, line)
    one = Fields(value, "", problems)
    metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") or "default" if isinstance(metadata, dict) else "default"
    problems.subject = f"{kind} {namespace}/{name}" if kind not in ("Node", "Namespace", "ServiceCIDR") else f"{kind} {name}"
    if kind == "KubeProxyConfiguration":
        problems.subject = ""
        found.configuration = configuration(one, origin)
    elif kind == "Endpoints":
        found.endpoints.extend(convert.endpoints(one, origin))
    else:
        made = convert.SIMPLE[kind](one, origin)
        stored = _is_stored(value)
        if isinstance(made, Service):
            made = _defaulted(made)
            if not problems.found:
                validate_service(made, problems, stored=stored)
        elif isinstance(made, EndpointSlice) and not problems.found:
            validate_endpoint_slice(made, problems, stored=stored or document.file == "objects")
        key = (kind, str(namespace) if kind != "Node" else "", str(name))
        if key in found.seen and name:
            first = found.seen[key]
            problems.add("metadata.name", f"the same object is given twice (first at {first.file}:{first.line})")
        found.seen[key] = document
        found.simple[kind].append(made)
    found.problems.extend(problems.found)


def _is_stored(value: Mapping[str, Any]) -> bool:
    """Printed by a cluster: its API server has judged it already, perhaps by older rules."""
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and any(key in metadata for key in ("uid", "resourceVersion", "creationTimestamp")):
        return True
    spec = value.get("spec")
    if value.get("kind") == "Service":
        return isinstance(spec, dict) and bool(spec.get("clusterIPs")) and bool(spec.get("clusterIP"))
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return isinstance(labels, dict) and "endpointslice.kubernetes.io/managed-by" in labels


def _defaulted(service: Service) -> Service:
    """API defaults (pkg/apis/core/v1/defaults.go)."""
    changes: dict[str, Any] = {}
    if service.session_affinity == "ClientIP" and service.session_affinity_timeout is None:
        changes["session_affinity_timeout"] = 10800
    external = service.type in ("NodePort", "LoadBalancer") or (service.type == "ClusterIP" and bool(service.external_ips))
    if external and not service.external_traffic_policy:
        changes["external_traffic_policy"] = "Cluster"
    if service.internal_traffic_policy is None and service.type in ("ClusterIP", "NodePort", "LoadBalancer"):
        changes["internal_traffic_policy"] = "Cluster"
    if service.load_balancer_ip and service.type == "LoadBalancer" and not service.ingress:
        changes["ingress"] = (LoadBalancerIngress(service.load_balancer_ip),)
    return service._replace(**changes) if changes else service


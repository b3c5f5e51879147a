"""Objects gathered from documents: each converted, defaulted and validated as it comes, what is wrong kept with its place.

Objects of one name replace each other, as with ``kubectl apply``; kinds that decide nothing about Service traffic are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from dataplane.errors import ParseError, Problem, SpecError
from dataplane.kube import convert, convert_pods, manifest, places
from dataplane.kube.allocation import Refusal, check_ranges, subject
from dataplane.kube.convert import MANAGED_BY_LABEL, SERVICE_NAME_LABEL
from dataplane.kube.defaults import default_endpoint_slice, default_service
from dataplane.kube.fielderrors import Violation, quote
from dataplane.kube.manifest import Document
from dataplane.kube.metadata import DEFAULT_NAMESPACE, is_printed
from dataplane.kube.objects import (
    Cluster,
    EndpointSlice,
    KubeProxyConfiguration,
    Namespace,
    Node,
    Origin,
    Pod,
    Service,
    ServiceCIDR,
    Workload,
)
from dataplane.kube.proxyconfig import API_VERSION, configuration
from dataplane.kube.reading import Fields, Reader
from dataplane.kube.validation import check_service
from dataplane.kube.validation_objects import (
    check_endpoint_slice,
    check_namespace,
    check_node,
    check_pod,
    check_service_cidr,
    check_workload,
)

_Object = TypeVar("_Object", Service, EndpointSlice, Node, Pod, Workload, Namespace, ServiceCIDR)
_CONFIGURATION: Final = "KubeProxyConfiguration"
_APPS: Final = ("apps/v1", "apps/v1beta2", "apps/v1beta1", "extensions/v1beta1")
#: The kinds that are read, with the API versions in which they are (or, for old manifests, were) known.
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "Service": ("v1",), "Endpoints": ("v1",), "Node": ("v1",), "Pod": ("v1",), "Namespace": ("v1",),
    "ReplicationController": ("v1",), "EndpointSlice": ("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"),
    "ServiceCIDR": ("networking.k8s.io/v1", "networking.k8s.io/v1beta1", "networking.k8s.io/v1alpha1"),
    "Deployment": _APPS, "ReplicaSet": _APPS, "StatefulSet": _APPS, "DaemonSet": _APPS, _CONFIGURATION: (API_VERSION,),
}  # fmt: skip
_MOST_TOLD: Final = 1000
_CLUSTER_SCOPED: Final = frozenset(("Node", "Namespace", "ServiceCIDR", _CONFIGURATION))



class _Entry(NamedTuple, Generic[_Object]):
    """An object, the document that it came from (without its content), and whether a cluster has printed it."""

    value: _Object
    document: Document
    printed: bool


class Wrong(NamedTuple):
    """Something that is wrong with an object."""

    document: Document
    subject: str
    violation: Violation


class _Kept(Generic[_Object]):
    """The objects of one kind by namespace and name, in the order in which the names were first read."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[tuple[str, str], _Entry[_Object]] = {}

    def keep(self, value: _Object, namespace: str, document: Document, notes: list[str], *, printed: bool = False) -> None:
        """Add an object; one of the same name is replaced."""
        key = namespace, value.name
        before = self._entries.get(key)
        if before is not None and value.name:
            name = f"{self._kind} {namespace}/{value.name}" if namespace else f"{self._kind} {value.name}"
            notes.append(f"{document.place}: {name} replaces the one at {before.document.place}")
        self._entries[key] = _Entry(value, document._replace(value=None), printed)

    def all(self) -> tuple[_Object, ...]:
        """The objects."""
        return tuple([entry.value for entry in self._entries.values()])

    def entries(self) -> Iterable[_Entry[_Object]]:
        """The objects with where they came from."""
        return self._entries.values()

    def document(self, namespace: str, name: str) -> Document:
        """Where an object came from."""
        return self._entries[namespace, name].document


class Found:
    """What has been read so far."""

    def __init__(self, *, stored: bool = False) -> None:
        self.stored = stored
        self.services = _Kept[Service]("Service")
        self.slices = _Kept[EndpointSlice]("EndpointSlice")
        self.nodes = _Kept[Node]("Node")
        self.pods = _Kept[Pod]("Pod")
        self.namespaces = _Kept[Namespace]("Namespace")
        self.service_cidrs = _Kept[ServiceCIDR]("ServiceCIDR")
        self.workloads: dict[str, _Kept[Workload]] = {}
        self.mirrored: list[EndpointSlice] = []
        self.configuration: KubeProxyConfiguration | None = None
        self.ignored: Counter[str] = Counter()
        self.notes: list[str] = []
        self.unreadable: list[Problem] = []
        self.wrong: list[Wrong] = []

    def text(self, data: bytes | str, name: str) -> None:
        """Read the content of a file."""
        for document in manifest.read(data, name):
            if isinstance(document, Problem):
                self.unreadable.append(document)
            else:
                self.add(document)

    def add(self, document: Document) -> None:
        """Read one object."""
        fields = document.value
        if not isinstance(fields, Mapping):
            self._refuse(document, "", Violation("", f"expected an object with apiVersion and kind, got {_json_type(fields)}"))
            return
        kind, version = fields.get("kind"), fields.get("apiVersion")
        for key, value, name in (("kind", kind, "Kind"), ("apiVersion", version, "apiVersion")):
            if not isinstance(value, str) or not value:
                self._refuse(document, "", Violation("", f"Object '{name}' is missing", key))
                return
        if version in _KINDS.get(str(kind), ()):
            self._read(str(kind), fields, document)
        elif kind == _CONFIGURATION:
            message = f'no kind "{kind}" is registered for version "{version}": {API_VERSION} is'
            self._refuse(document, "", Violation("", message, "apiVersion"))
        else:
            self.ignored[f"{kind} ({version})" if kind in _KINDS else str(kind)] += 1

    def _read(self, kind: str, fields: Fields, document: Document) -> None:
        reader, origin = Reader(), Origin(document.file, document.line or None)
        violations = self._convert(kind, fields, reader, origin, document)
        found = reader.violations or ([] if self.stored else list(violations))
        self.wrong.extend(Wrong(document, _subject(kind, fields), violation) for violation in found)
        if reader.unknown:
            names = ", ".join(quote(name) for name in reader.unknown[:5])
            more = f" and {len(reader.unknown) - 5} more" if len(reader.unknown) > 5 else ""
            self.notes.append(f"{document.place}: {_subject(kind, fields)}: unknown field {names}{more} passed over")

    def _convert(
        self, kind: str, fields: Fields, reader: Reader, origin: Origin, document: Document
    ) -> Iterable[Violation]:
        """Keep the object; returns what is wrong with it (to be looked at only if all types are right)."""
        printed = is_printed(fields)
        match kind:
            case "Service":
                service = default_service(convert.service(fields, reader, origin))
                stored = printed or bool(service.cluster_ips and service.ip_families)
                self.services.keep(service, service.namespace, document, self.notes, printed=printed)
                return check_service(service, stored=stored)
            case "EndpointSlice":
                one = default_endpoint_slice(convert.endpoint_slice(fields, reader, origin))
                self.slices.keep(one, one.namespace, document, self.notes)
                return check_endpoint_slice(one, stored=printed or MANAGED_BY_LABEL in one.labels)
            case "Endpoints":
                self.mirrored.extend(convert.endpoints(fields, reader, origin, stored=printed or self.stored))
                return ()
            case "Node":
                node = convert.node(fields, reader, origin)
                self.nodes.keep(node, "", document, self.notes)
                return check_node(node, stored=printed)
            case "Pod":
                pod = convert_pods.pod(fields, reader, origin)
                self.pods.keep(pod, pod.namespace, document, self.notes)
                return check_pod(pod, stored=printed)
            case "Namespace":
                namespace = convert.namespace(fields, reader, origin)
                self.namespaces.keep(namespace, "", document, self.notes)
                return check_namespace(namespace)
            case "ServiceCIDR":
                cidr = convert.service_cidr(fields, reader, origin)
                self.service_cidrs.keep(cidr, "", document, self.notes)
                return check_service_cidr(cidr, stored=printed)
            case "KubeProxyConfiguration":
                if self.configuration is not None:
                    self.notes.append(f"{document.place}: this KubeProxyConfiguration replaces the one before it")
                self.configuration = configuration(fields, reader, origin)
                return ()
            case _:
                workload = convert_pods.workload(fields, reader, origin)
                self.workloads.setdefault(kind, _Kept[Workload](kind)).keep(workload, workload.namespace, document, self.notes)
                return check_workload(workload)

    def _refuse(self, document: Document, subject: str, violation: Violation) -> None:
        self.wrong.append(Wrong(document, subject, violation))

    def cluster(self) -> Cluster:
        """The objects, nothing filled in yet; raises what was wrong."""
        if not self.stored:
            self._check_ranges()
        self.raise_if_wrong()
        if self.ignored:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.ignored.items()))
            self.notes.append(f"passed over, as they decide nothing about Service traffic: {counts}")
        slices = self.slices.all()
        given = {(one.namespace, one.labels.get(SERVICE_NAME_LABEL)) for one in slices}
        mirrored = [one for one in self.mirrored if (one.namespace, one.labels[SERVICE_NAME_LABEL]) not in given]
        return Cluster(
            services=self.services.all(), endpoint_slices=(*slices, *mirrored), nodes=self.nodes.all(), pods=self.pods.all(),
            workloads=tuple(workload for kept in self.workloads.values() for workload in kept.all()),
            namespaces=self.namespaces.all(), service_cidrs=self.service_cidrs.all(),
            proxy_configuration=self.configuration, ignored=dict(self.ignored), notes=tuple(self.notes),
        )  # fmt: skip

    def raise_if_wrong(self) -> None:
        """Raise everything that is wrong, file by file and object by object."""
        if not self.unreadable and not self.wrong:
            return
        problems = [*self.unreadable, *_placed(self.wrong[:_MOST_TOLD])]
        files = {file: index for index, file in enumerate(dict.fromkeys(problem.file for problem in problems))}
        problems.sort(key=lambda problem: (files[problem.file], problem.line or 0, problem.column or 0))
        if len(self.wrong) > _MOST_TOLD:
            problems.append(Problem(f"and {len(self.wrong) - _MOST_TOLD} more"))
        raise (SpecError if self.wrong else ParseError)(problems)

    def _check_ranges(self) -> None:
        """New Services must fit the cluster's ranges, which are known only when everything has been read."""
        cidrs = self.service_cidrs.all()
        wrong = {one.subject for one in self.wrong}
        for service, document, printed in self.services.entries():
            if not printed and subject(service) not in wrong:
                for violation in check_ranges(service, cidrs):
                    self._refuse(document, subject(service), violation)

    def problems_of(self, refusals: Sequence[Refusal]) -> list[Problem]:
        """What the allocators refused, at its place."""
        wrong = []
        for service, violation in refusals:
            document = self.services.document(service.namespace, service.name)
            wrong.append(Wrong(document, subject(service), violation))
        return list(_placed(wrong))


def _subject(kind: str, fields: Fields) -> str:
    """How messages name an object."""
    metadata = fields.get("metadata")
    name, namespace = (metadata.get("name"), metadata.get("namespace")) if isinstance(metadata, Mapping) else (None, None)
    if kind == _CONFIGURATION:
        return ""
    text = str(name) if name else "(no name)"
    return f"{kind} {text}" if kind in _CLUSTER_SCOPED else f"{kind} {namespace or DEFAULT_NAMESPACE}/{text}"


def _json_type(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _placed(wrong: Sequence[Wrong]) -> Iterator[Problem]:
    """Violations with the line and column at which their documents have the field."""
    in_text = [one for one in wrong if one.document.chunk.text]
    wanted = [(one.document, one.violation.path if one.violation.place is None else one.violation.place) for one in in_text]
    found = {id(one): place for one, place in zip(in_text, places.find(wanted), strict=True)}
    for one in wrong:
        line, column = found.get(id(one), (None, None))
        yield one.violation.problem(one.subject, file=one.document.file, line=line, column=column)

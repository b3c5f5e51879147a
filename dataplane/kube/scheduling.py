"""Pods for workloads, a node for each Pod, an address for each Pod: the workload controllers, the scheduler, kubelet and CNI.

Scheduling is round-robin from a node that the workload's name chooses, with regard to nodeName and nodeSelector only (no
resources, affinities or taints). Addresses come from the node's Pod CIDRs, .2 upward; when they are used up, Pods are pending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from dataplane.inet import BITS, format_address
from dataplane.kube import stable
from dataplane.kube.addresses import sloppy_address, sloppy_cidr
from dataplane.kube.objects import Cluster, Node, Pod, Workload

_FINISHED: Final = ("Succeeded", "Failed")
_FIRST_OFFSET: Final = 2
_MOST_PODS: Final = 100_000
_SHOWN: Final = 4
#: Kinds whose Pods are made by one of another kind, which the manifests may hold, too.
_VIA_REPLICA_SET: Final = "Deployment"


class Pods(NamedTuple):
    """All Pods, and what was done for them."""

    pods: tuple[Pod, ...]
    notes: tuple[str, ...]


def complete_pods(cluster: Cluster, nodes: Sequence[Node]) -> Pods:
    """The Pods that are given and those that the workloads make, each on a node and with an address."""
    if not cluster.pods and not cluster.workloads:
        return Pods((), ())
    scheduler = _Scheduler(cluster, nodes)
    made = [pod for workload in _sources(cluster) for pod in scheduler.pods_of(workload)]
    before = (*cluster.pods, *made)
    pods = scheduler.with_addresses([scheduler.place(pod) for pod in before])
    scheduler.notes.extend(_said(before, pods))
    return Pods(tuple(pods), tuple(scheduler.notes))


def _said(before: Sequence[Pod], after: Sequence[Pod]) -> Iterator[str]:
    """A note for each workload, or Pod of its own, whose Pods were placed."""
    groups: dict[str, list[Pod]] = {}
    for old, new in zip(before, after, strict=True):
        if old is not new:
            kind, _, name = (new.owner or f"Pod/{new.name}").partition("/")
            groups.setdefault(f"{kind} {new.namespace}/{name}", []).append(new)
    for subject, pods in groups.items():
        shown = [f"{pod.name} {', '.join(pod.pod_ips) or 'pending'} on {pod.node_name or 'no node'}" for pod in pods[:_SHOWN]]
        more = f", and {len(pods) - _SHOWN} more" if len(pods) > _SHOWN else ""
        yield f"{subject}: {_counted(len(pods), 'Pod')}: {'; '.join(shown)}{more}"


def _sources(cluster: Cluster) -> Iterator[Workload]:
    """Workloads whose Pods are not given: a live cluster's dump has the Pods, or the ReplicaSets that make them."""
    owners = {(pod.namespace, pod.owner) for pod in cluster.pods if pod.owner}
    made_by = {(one.namespace, one.owner) for one in cluster.workloads if one.owner}
    by_replica_sets = {
        (namespace, f"{_VIA_REPLICA_SET}/{owner.removeprefix('ReplicaSet/').rpartition('-')[0]}")
        for namespace, owner in owners if owner.startswith("ReplicaSet/")
    }  # fmt: skip
    for workload in cluster.workloads:
        key = workload.namespace, f"{workload.kind}/{workload.name}"
        if key not in owners and key not in made_by and not (workload.kind == _VIA_REPLICA_SET and key in by_replica_sets):
            yield workload


class _Scheduler:
    def __init__(self, cluster: Cluster, nodes: Sequence[Node]) -> None:
        self.notes: list[str] = []
        self._nodes = {node.name: node for node in nodes}
        self._given = bool(cluster.nodes)
        self._left = _MOST_PODS
        self._turns: dict[object, int] = {}
        self._allowed: dict[object, list[str]] = {}
        self._taken = _taken_addresses(cluster)

    def pods_of(self, workload: Workload) -> Iterator[Pod]:
        """The Pods that a workload wants, most without a node yet."""
        owner = f"{workload.kind}/{workload.name}"
        template = replace(workload.template, owner=owner, phase="Running", ready=True)
        subject = f"{workload.kind} {workload.namespace}/{workload.name}"
        if workload.kind == "DaemonSet":
            nodes = self._eligible(template, subject)
            yield from (replace(template, name=f"{workload.name}-{name}", node_name=name) for name in nodes)
            return
        count = min(workload.replicas, self._left)
        self._left -= count
        if count < workload.replicas:
            self.notes.append(f"{subject}: {count} instead of {workload.replicas} Pods, which is more than is sensible")
        for index in range(count):
            name = self._pod_name(workload, index)
            hostname = template.hostname or (name if workload.kind == "StatefulSet" else None)
            yield replace(template, name=name, hostname=hostname)

    def _pod_name(self, workload: Workload, index: int) -> str:
        if workload.kind == "StatefulSet":
            return f"{workload.name}-{workload.first_ordinal + index}"
        part = stable.suffix(9 if workload.kind == _VIA_REPLICA_SET else 5, workload.kind, workload.namespace, workload.name)
        return f"{workload.name}-{part}-{index}"

    def place(self, pod: Pod) -> Pod:
        """The Pod on a node, or as it is if it has one, is over, or fits nowhere."""
        if pod.node_name or pod.pod_ips or pod.phase in (*_FINISHED, "Pending"):
            return pod
        name = pod.owner or f"Pod/{pod.name}"
        kind, _, short = name.partition("/")
        nodes = self._eligible(pod, f"{kind} {pod.namespace}/{short}")
        if not nodes:
            return replace(pod, phase="Pending", ready=False)
        turn = self._turns.setdefault((pod.namespace, name), stable.number(pod.namespace, name))
        self._turns[pod.namespace, name] = turn + 1
        return replace(pod, node_name=nodes[turn % len(nodes)])

    def _eligible(self, pod: Pod, subject: str) -> list[str]:
        """The nodes that the nodeSelector allows. No selector can have been written for nodes that are made up."""
        key = frozenset(pod.node_selector.items())
        names = self._allowed.get(key)
        if names is None:
            names = [name for name, node in self._nodes.items() if key <= node.labels.items()]
            if not names:
                text = ",".join(f"{key}={value}" for key, value in pod.node_selector.items())
                outcome = "it stays pending" if self._given else "placed all the same"
                self.notes.append(f"{subject}: no Node matches its nodeSelector {text}: {outcome}")
                names = [] if self._given else list(self._nodes)
            self._allowed[key] = names
        return names

    def with_addresses(self, pods: Sequence[Pod]) -> list[Pod]:
        """All Pods with addresses, given out in the order of their names."""
        pools = {name: _Pool(node, self._taken) for name, node in self._nodes.items()}
        results = list(pods)
        pending: Counter[str] = Counter()
        for index in sorted(range(len(pods)), key=lambda one: (pods[one].namespace, pods[one].name)):
            pod = pods[index]
            pool = pools.get(pod.node_name or "")
            if pool is None or pod.pod_ips or pod.phase in (*_FINISHED, "Pending"):
                continue
            addresses = pool.hosts if pod.host_network else pool.next()
            if not addresses:
                pending[pool.node] += 1
                results[index] = replace(pod, phase="Pending", ready=False)
                continue
            results[index] = replace(pod, pod_ips=addresses, host_ips=pod.host_ips or pool.hosts)
        for name, count in sorted(pending.items()):
            self.notes.append(f"Node {name}: {_counted(count, 'Pod')} pending, as its podCIDR has no more addresses")
        return results


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _taken_addresses(cluster: Cluster) -> set[tuple[int, int]]:
    texts = [text for pod in cluster.pods for text in pod.pod_ips]
    texts += [text for one in cluster.endpoint_slices for endpoint in one.endpoints for text in endpoint.addresses]
    return {(address.family, address.value) for text in texts if (address := sloppy_address(text)) is not None}


class _Pool:
    """The addresses of one node: those it has itself, and those it gives to Pods."""

    def __init__(self, node: Node, taken: set[tuple[int, int]]) -> None:
        self.node = node.name
        self.hosts = _host_addresses(node)
        self._free = [_free(text, taken) for text in node.pod_cidrs]

    def next(self) -> tuple[str, ...]:
        """The next address of each family; none where the first family has no more."""
        found = [next(free, None) for free in self._free]
        return tuple(text for text in found if text is not None) if found and found[0] is not None else ()


def _host_addresses(node: Node) -> tuple[str, ...]:
    """A node's own addresses, one a family, internal ones first."""
    chosen: dict[int, str] = {}
    for kind in ("InternalIP", "ExternalIP"):
        for one in node.addresses:
            address = sloppy_address(one.address) if one.type == kind else None
            if address is not None:
                chosen.setdefault(address.family, one.address)
    return tuple(chosen.values())


def _free(text: str, taken: set[tuple[int, int]]) -> Iterator[str]:
    cidr = sloppy_cidr(text)
    if cidr is None:
        return
    family = cidr.address.family
    end = 1 << (BITS[family] - cidr.length)
    for offset in range(_FIRST_OFFSET, end - 1 if family == 4 else end):
        key = family, cidr.network + offset
        if key not in taken:
            taken.add(key)
            yield format_address(*key)


def is_finished(pod: Pod) -> bool:
    """Whether the Pod has ended and is no endpoint any more."""
    return pod.phase in _FINISHED


def by_label(pods: Sequence[Pod]) -> Mapping[tuple[str, str, str], list[Pod]]:
    """The Pods by namespace and each of their labels."""
    index: dict[tuple[str, str, str], list[Pod]] = {}
    for pod in pods:
        for key, value in pod.labels.items():
            index.setdefault((pod.namespace, key, value), []).append(pod)
    return index

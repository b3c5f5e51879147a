"""What the control plane does before kube-proxy sees a Service: allocate, make nodes, Pods and EndpointSlices.

A pure function of the objects, which stay as they are: only what is missing is filled in, and ``notes`` say what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dataplane.errors import Problem, SpecError
from dataplane.kube.allocation import Refusal, allocate, subject
from dataplane.kube.nodes import complete_nodes, families_in_order
from dataplane.kube.objects import Cluster
from dataplane.kube.scheduling import complete_pods
from dataplane.kube.slices import complete_slices


def complete(cluster: Cluster, *, problems_of: Callable[[Sequence[Refusal]], Sequence[Problem]] | None = None) -> Cluster:
    """The cluster with all that a control plane would have added.

    Raises SpecError where Services want what is taken or not to be had; ``problems_of`` finds the places in the manifests.
    """
    allocated = allocate(cluster.services, cluster.service_cidrs)
    if allocated.refusals:
        raise SpecError((problems_of or _problems)(allocated.refusals))
    cluster = replace(cluster, services=tuple(allocated.services))
    families = families_in_order(family for one in cluster.services for family in one.ip_families)
    nodes, node_notes = complete_nodes(cluster, families)
    pods, pod_notes = complete_pods(cluster, nodes)
    cluster = replace(cluster, nodes=nodes, pods=pods)
    slices, slice_notes = complete_slices(cluster)
    notes = (*cluster.notes, *node_notes, *allocated.notes, *pod_notes, *slice_notes)
    return replace(cluster, endpoint_slices=(*cluster.endpoint_slices, *slices), notes=notes)


def _problems(refusals: Sequence[Refusal]) -> list[Problem]:
    """The refusals where nothing is known of the manifests' text."""
    found = []
    for service, violation in refusals:
        file, line = (service.origin.file, service.origin.line) if service.origin else (None, None)
        found.append(violation.problem(subject(service), file=file, line=line))
    return found

"""What a cluster has before the first Pod: nodes with addresses and Pod CIDRs, made up where the manifests have none.

A made-up node is called what EndpointSlices and Pods call it (else node-a and node-b); its Pod CIDR is the one that its
endpoints' addresses suggest, else the next free one. Source of the defaults: kubeadm's and flannel's 10.244.0.0/16, /24 a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Final, NamedTuple

from dataplane.inet import BITS, Prefix, format_address, mask_of, parse_address, parse_prefix
from dataplane.kube.addresses import family_name, sloppy_address, sloppy_cidr
from dataplane.kube.objects import Cluster, Node, NodeAddress

_MADE_UP: Final = ("node-a", "node-b")
_FAMILY_NUMBERS: Final = {"IPv4": 4, "IPv6": 6}
#: The first Pod CIDR, and how far the next one is; 10.244.0.0/24 is left out, as it looks like the whole range.
_POD_CIDRS: Final = {4: parse_prefix("10.244.1.0/24"), 6: parse_prefix("fd00:10:244:1::/64")}
#: Nodes' addresses begin behind these.
_NODE_ADDRESSES: Final = {4: parse_address("192.168.0.10")[1], 6: parse_address("fd00:192:168::10")[1]}
_POD_CIDR_LENGTHS: Final = {4: 24, 6: 64}


class Nodes(NamedTuple):
    """All nodes, and what was made up."""

    nodes: tuple[Node, ...]
    notes: tuple[str, ...]


def complete_nodes(cluster: Cluster, families: Collection[str]) -> Nodes:
    """The cluster's nodes, each with an address and a Pod CIDR; those given keep what they have.

    ``families`` are the IP families that Services use.
    """
    numbers = sorted({_FAMILY_NUMBERS[family] for family in families if family in _FAMILY_NUMBERS}) or [4]
    nodes, why = list(cluster.nodes), ""
    if not nodes:
        names, why = _names(cluster)
        nodes = [Node(name, _labels(name)) for name in names]
    filled = _with_pod_cidrs(_with_addresses(nodes, cluster, numbers), cluster, numbers)
    if cluster.nodes:
        parts = (_filled_in(before, after) for before, after in zip(nodes, filled, strict=True))
        notes = (*(part for part in parts if part), *_strangers(cluster))
    else:
        notes = (f"no Node is given: made up {why}are {', '.join(map(_described, filled))}",)
    return Nodes(tuple(filled), notes)


def _addresses(node: Node) -> str:
    return ", ".join(one.address for one in node.addresses if one.type == "InternalIP")


def _described(node: Node) -> str:
    return f"{node.name} ({_addresses(node)}; Pods in {', '.join(node.pod_cidrs)})"


def _filled_in(before: Node, after: Node) -> str:
    parts = []
    if not before.addresses:
        parts.append(f"InternalIP {_addresses(after)}")
    if not before.pod_cidrs:
        parts.append(f"podCIDR {', '.join(after.pod_cidrs)}")
    return f"Node {after.name}: {', '.join(parts)} made up" if parts else ""


def _labels(name: str) -> dict[str, str]:
    return {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}


def _names(cluster: Cluster) -> tuple[Sequence[str], str]:
    mentioned = {endpoint.node_name for one in cluster.endpoint_slices for endpoint in one.endpoints}
    mentioned |= {pod.node_name for pod in cluster.pods} | {one.template.node_name for one in cluster.workloads}
    configuration = cluster.proxy_configuration
    if configuration is not None:
        mentioned.add(configuration.hostname_override.strip().lower())
    names = sorted(name for name in mentioned if name)
    return (names, "from mentions ") if names else (_MADE_UP, "")


def _with_addresses(nodes: Sequence[Node], cluster: Cluster, families: Sequence[int]) -> list[Node]:
    """An InternalIP for nodes that have no address: the one that their Pods know as hostIP, else the next free one."""
    if all(node.addresses for node in nodes):
        return list(nodes)
    known: dict[str, tuple[str, ...]] = {pod.node_name: pod.host_ips for pod in cluster.pods if pod.node_name and pod.host_ips}
    taken = {address for node in nodes for one in node.addresses if (address := sloppy_address(one.address)) is not None}
    used = {(address.family, address.value) for address in taken}
    used |= {(one.family, one.value) for texts in known.values() for text in texts if (one := sloppy_address(text)) is not None}
    free = {family: _free_addresses(family, used) for family in families}
    filled = []
    for node in nodes:
        if not node.addresses:
            texts = known.get(node.name) or tuple(next(free[family]) for family in families)
            addresses = (*(NodeAddress("InternalIP", text) for text in texts), NodeAddress("Hostname", node.name))
            node = replace(node, addresses=addresses)
        filled.append(node)
    return filled


def _free_addresses(family: int, used: Collection[tuple[int, int]]) -> Iterator[str]:
    for value in count(_NODE_ADDRESSES[family] + 1):
        if (family, value) not in used:
            yield format_address(family, value)


def _with_pod_cidrs(nodes: Sequence[Node], cluster: Cluster, families: Sequence[int]) -> list[Node]:
    if all(node.pod_cidrs for node in nodes):
        return list(nodes)
    taken = _Taken(prefix for node in nodes for prefix in _prefixes(node.pod_cidrs))
    suggested = _suggestions(cluster)
    chosen: dict[str, list[str]] = {node.name: [] for node in nodes}
    lacking = sorted(node.name for node in nodes if not node.pod_cidrs)
    for family in families:
        undecided = []
        for name in lacking:
            prefix = suggested.get((name, family))
            if prefix is not None and taken.add(prefix):
                chosen[name].append(str(prefix))
            else:
                undecided.append(name)
        free = _free_prefixes(family, taken)
        for name in undecided:
            chosen[name].append(str(next(free)))
    return [node if node.pod_cidrs else replace(node, pod_cidrs=tuple(chosen[node.name])) for node in nodes]


def _prefixes(texts: Iterable[str]) -> Iterator[Prefix]:
    for text in texts:
        cidr = sloppy_cidr(text)
        if cidr is not None:
            yield Prefix(cidr.address.family, cidr.network, mask_of(cidr.address.family, cidr.length))


class _Taken:
    """The Pod CIDRs that nodes have: the wide ones singly, the others by the block that they lie in."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._wide: list[Prefix] = []
        self._blocks: set[tuple[int, int]] = set()
        for prefix in prefixes:
            if (prefix.length or 0) < _POD_CIDR_LENGTHS[prefix.family]:
                self._wide.append(prefix)
            else:
                self._blocks.add((prefix.family, _block(prefix.family, prefix.address)))

    def add(self, prefix: Prefix) -> bool:
        """Take a prefix of the usual length; False where somebody has it."""
        key = prefix.family, _block(prefix.family, prefix.address)
        if key in self._blocks or any(one.family == prefix.family and prefix.address in one for one in self._wide):
            return False
        self._blocks.add(key)
        return True


def _block(family: int, address: int) -> int:
    return address >> (BITS[family] - _POD_CIDR_LENGTHS[family])


def _free_prefixes(family: int, taken: _Taken) -> Iterator[Prefix]:
    first = _POD_CIDRS[family]
    step = 1 << (BITS[family] - _POD_CIDR_LENGTHS[family])
    for address in count(first.address, step):
        prefix = Prefix(family, address, first.mask)
        if taken.add(prefix):
            yield prefix


def _suggestions(cluster: Cluster) -> Mapping[tuple[str, int], Prefix]:
    """For each node and family the block that most of the addresses of its endpoints and Pods lie in."""
    blocks: dict[tuple[str, int], Counter[int]] = {}
    for name, text in _addresses_by_node(cluster):
        address = sloppy_address(text)
        if address is not None:
            network = address.value & mask_of(address.family, _POD_CIDR_LENGTHS[address.family])
            blocks.setdefault((name, address.family), Counter())[network] += 1
    suggestions = {}
    for (name, family), found in blocks.items():
        most = max(found.values())
        network = min(network for network, times in found.items() if times == most)
        suggestions[name, family] = Prefix(family, network, mask_of(family, _POD_CIDR_LENGTHS[family]))
    return suggestions


def _addresses_by_node(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Addresses of endpoints and Pods that are not those of the node itself."""
    hosts = {address.address for node in cluster.nodes for address in node.addresses}
    hosts |= {text for pod in cluster.pods for text in (*pod.host_ips, *(pod.pod_ips if pod.host_network else ()))}
    mentioned: list[tuple[str | None, tuple[str, ...]]] = [(pod.node_name, pod.pod_ips) for pod in cluster.pods]
    for one in cluster.endpoint_slices:
        if one.address_type in _FAMILY_NUMBERS:
            mentioned.extend((endpoint.node_name, endpoint.addresses) for endpoint in one.endpoints)
    for name, texts in mentioned:
        if name:
            yield from ((name, text) for text in texts if text not in hosts)


def _strangers(cluster: Cluster) -> Iterator[str]:
    """Nodes that are mentioned but not given."""
    known = {node.name for node in cluster.nodes}
    mentions: Counter[str] = Counter()
    for one in cluster.endpoint_slices:
        mentions.update(name for endpoint in one.endpoints if (name := endpoint.node_name) and name not in known)
    mentions.update(name for pod in cluster.pods if (name := pod.node_name) and name not in known)
    for name, times in sorted(mentions.items()):
        yield f'node "{name}" is named by {times} endpoint{"" if times == 1 else "s"} or Pods, but no such Node is given'


def families_in_order(used: Iterable[str]) -> tuple[str, ...]:
    """IPv4 before IPv6, each once."""
    found = set(used)
    return tuple(family for family in (family_name(4), family_name(6)) if family in found)

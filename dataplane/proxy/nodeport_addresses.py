"""What kube-proxy knows of its own node: its addresses, the addresses that take NodePorts, and what counts as local traffic.

Source: pkg/proxy/util/nodeport_addresses.go, localdetector.go, cmd/kube-proxy/app/server_linux.go of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dataplane.inet import Prefix, format_address
from dataplane.kube.objects import KubeProxyConfiguration, Node
from dataplane.proxy.addresses import host_prefix, sloppy_address, sloppy_cidr
from dataplane.rules.network import Link

_LOOPBACK4 = Prefix(4, 127 << 24, 255 << 24)


def node_addresses(node: Node, configuration: KubeProxyConfiguration) -> dict[int, int]:
    """The node's own address in each family: InternalIP before ExternalIP; --bind-address first where it is one."""
    found: dict[int, int] = {}
    for kind in ("InternalIP", "ExternalIP"):
        for one in node.addresses:
            address = sloppy_address(one.address) if one.type == kind else None
            if address is not None:
                found.setdefault(*address)
    bind = sloppy_address(configuration.bind_address) if configuration.bind_address else None
    if bind is not None and bind[1]:
        found[bind[0]] = bind[1]
    return found


class NodePortAddresses(NamedTuple):
    """The CIDRs of one family; ``everywhere`` when every address of the node takes NodePorts."""

    family: int
    cidrs: tuple[Prefix, ...]
    everywhere: bool

    @property
    def contains_loopback4(self) -> bool:
        """Whether 127.0.0.0/8, or a part of it, takes NodePorts."""
        if self.family == 6:
            return False
        return any(_LOOPBACK4.address in cidr or cidr.address in _LOOPBACK4 for cidr in self.cidrs)

    def matching(self, links: Sequence[Link]) -> list[str]:
        """The node's addresses that take NodePorts, as text, sorted."""
        own = {one.local for link in links for one in link.addresses if one.family == self.family}
        return sorted(format_address(self.family, one) for one in own if any(one in cidr for cidr in self.cidrs))


def nodeport_addresses(configuration: KubeProxyConfiguration, family: int, node_ips: dict[int, int]) -> NodePortAddresses:
    """The configuration's nodePortAddresses for one family; none given for it means all."""
    given: list[Prefix] = []
    if configuration.nodeport_addresses == ("primary",):
        for one, address in node_ips.items():
            if not (one == 4 and address in _LOOPBACK4) and not (one == 6 and address == 1):
                given.append(host_prefix(one, address))
    else:
        given = [cidr for text in configuration.nodeport_addresses if (cidr := sloppy_cidr(text)) is not None]
    own = [cidr for cidr in given if cidr.family == family] or [Prefix(family, 0, 0)]
    considered: list[Prefix] = []
    for cidr in own:
        considered.append(cidr)
        if cidr.mask == 0:
            return NodePortAddresses(family, tuple(considered), True)
    return NodePortAddresses(family, tuple(considered), False)


class LocalDetector(NamedTuple):
    """Arguments that match traffic from this cluster's pods, and the rest."""

    if_local: str
    if_not_local: str


def local_detector(configuration: KubeProxyConfiguration, node: Node, family: int) -> LocalDetector | None:
    """How local traffic is told in one family, or None where it cannot be told."""
    mode = configuration.detect_local_mode or "ClusterCIDR"
    if mode == "BridgeInterface":
        return LocalDetector(f"-i {configuration.bridge_interface}", f"! -i {configuration.bridge_interface}")
    if mode == "InterfaceNamePrefix":
        return LocalDetector(f"-i {configuration.interface_name_prefix}+", f"! -i {configuration.interface_name_prefix}+")
    texts: Sequence[str] = ()
    if mode == "ClusterCIDR":
        texts = [text.strip() for text in configuration.cluster_cidr.split(",")]
    elif mode == "NodeCIDR":
        texts = node.pod_cidrs
    for text in texts:
        cidr = sloppy_cidr(text)
        if cidr is not None and cidr.family == family:
            return LocalDetector(f"-s {cidr}", f"! -s {cidr}")
    return None

"""Hypothesis strategies for users' own tests: packets, Services with endpoints, clusters, and iptables rule sets. Needs hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

from dataplane.inet import ICMP, ICMPV6, SCTP, TCP, UDP, parse_address
from dataplane.packet import ACK, FIN, RST, SYN, Packet
from dataplane.packet_text import make_packet

#: A Kubernetes object as it stands in a manifest.
Manifest = dict[str, Any]

_PORTS: Final = st.integers(1, 65535)
_NETWORKS: Final = {4: "10.0.0.0/8", 6: "fd00:10::/32"}
_FLAGS: Final = (SYN, SYN | ACK, ACK, ACK | FIN, RST, RST | ACK)
_NODES: Final = ("node-a", "node-b")
_MATCHES: Final = (
    "", "-s 10.0.0.0/8 ", "! -s 10.244.0.0/16 ", "-d 10.96.0.20/32 ", "-p tcp ", "-p tcp -m tcp --dport 80 ", "-p udp -m udp --dport 53 ",
    "-p tcp -m tcp --dport 1:1024 ", "-i eth0 ", "-m conntrack --ctstate NEW ", "-m mark --mark 0x1/0x1 ",
    "-d 10.96.0.20/32 -p tcp -m tcp --dport 80 ",
)  # fmt: skip
#: Targets by chain; jumps lead down the list, so that there is no loop.
_TARGETS: Final = {
    "FORWARD": ("ACCEPT", "DROP", "ONE", "TWO"), "ONE": ("RETURN", "DROP", "ACCEPT", "TWO"), "TWO": ("RETURN", "DROP", "REJECT"),
}  # fmt: skip


def addresses(network: str = _NETWORKS[4]) -> st.SearchStrategy[str]:
    """Addresses of a network as text."""
    return st.ip_addresses(network=network).map(str)


@st.composite
def packets(
    draw: st.DrawFn, sources: Sequence[str] = (), destinations: Sequence[str] = (), ports: Sequence[int] = (), *,
    family: int = 4, openings: bool = True,
) -> Packet:  # fmt: skip
    """TCP, UDP, SCTP and echo requests of one family, aimed at the given ends where there are some.

    ``openings``: TCP only as SYNs; otherwise with any of the common flags.
    """
    source = draw(st.sampled_from(list(sources)) if sources else addresses(_NETWORKS[family]))
    target = draw(st.sampled_from(list(destinations)) if destinations else addresses(_NETWORKS[family]))
    (found, saddr), (_, daddr) = parse_address(source), parse_address(target, parse_address(source)[0])
    protocol = draw(st.sampled_from((TCP, UDP, SCTP, ICMP if found == 4 else ICMPV6)))
    ttl = draw(st.integers(2, 255))
    if protocol in (ICMP, ICMPV6):
        return make_packet(protocol, found, saddr, daddr, ttl=ttl, icmp_id=draw(st.integers(0, 65535)))
    port = draw(st.sampled_from(list(ports)) if ports else _PORTS)
    flags = SYN if openings else draw(st.sampled_from(_FLAGS))
    return make_packet(protocol, found, saddr, daddr, draw(_PORTS), port, flags=flags, ttl=ttl)


@st.composite
def services(draw: st.DrawFn, *, name: str | None = None, policies: bool = True) -> list[Manifest]:
    """A Service and its EndpointSlice. Endpoints are on node-a (10.244.1.0/24) and node-b (10.244.2.0/24).

    ``policies``: types, traffic policies and session affinity of all kinds; otherwise a plain ClusterIP.
    """
    called = name or draw(st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True))
    port, target = draw(_PORTS), draw(_PORTS)
    protocol = draw(st.sampled_from(("TCP", "UDP", "SCTP")))
    spec: Manifest = {"type": "ClusterIP", "ports": [{"name": "p", "port": port, "targetPort": target, "protocol": protocol}]}
    if policies:
        spec |= draw(_policies())
    ends = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(2, 250)), max_size=5, unique=True))
    endpoints = [
        {"addresses": [f"10.244.{node + 1}.{host}"], "nodeName": _NODES[node], "conditions": {"ready": draw(st.booleans())}}
        for node, host in ends
    ]
    labels = {"kubernetes.io/service-name": called}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": called, "namespace": "default"}, "spec": spec},
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": f"{called}-1", "namespace": "default", "labels": labels},
            "ports": [{"name": "p", "port": target, "protocol": protocol}],
        },
    ]  # fmt: skip


@st.composite
def _policies(draw: st.DrawFn) -> Manifest:
    kind = draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer")))
    chosen: Manifest = {"type": kind, "sessionAffinity": draw(st.sampled_from(("None", "ClientIP")))}
    chosen["internalTrafficPolicy"] = draw(st.sampled_from(("Cluster", "Local")))
    if kind != "ClusterIP":
        chosen["externalTrafficPolicy"] = draw(st.sampled_from(("Cluster", "Local")))
    if kind == "LoadBalancer" and draw(st.booleans()):
        chosen["loadBalancerSourceRanges"] = draw(st.lists(st.sampled_from(("192.0.2.0/24", "10.244.0.0/16")), min_size=1, unique=True))
    if draw(st.booleans()):
        chosen["externalIPs"] = [draw(addresses("198.51.100.0/24"))]
    return chosen


def nodes() -> list[Manifest]:
    """The two Nodes that ``services`` and ``clusters`` put their endpoints on."""
    return [
        {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": [f"10.244.{number}.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.1{number}"}]},
        }
        for number, name in enumerate(_NODES, 1)
    ]  # fmt: skip


@st.composite
def clusters(draw: st.DrawFn, *, largest: int = 4) -> list[Manifest]:
    """Two nodes, and up to ``largest`` Services with their endpoints: what ``dataplane.load`` takes."""
    names = [f"web-{number}" for number in range(draw(st.integers(0, largest)))]
    return [*nodes(), *(one for name in names for one in draw(services(name=name)))]


@st.composite
def rule_sets(draw: st.DrawFn) -> str:
    """Filter tables as iptables-restore text: plain matches, jumps to two user chains, verdicts."""
    policy = draw(st.sampled_from(("ACCEPT", "DROP")))
    head = ["*filter", ":INPUT ACCEPT [0:0]", f":FORWARD {policy} [0:0]", ":OUTPUT ACCEPT [0:0]", ":ONE - [0:0]", ":TWO - [0:0]"]
    rules = [
        f"-A {chain} {draw(st.sampled_from(_MATCHES))}-j {draw(st.sampled_from(targets))}"
        for chain, targets in _TARGETS.items()
        for _ in range(draw(st.integers(0, 14)))
    ]
    return "\n".join([*head, *rules, "COMMIT", ""])

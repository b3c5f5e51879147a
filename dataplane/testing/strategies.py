"""Hypothesis strategies for users' own tests: packets, Services with endpoints, and iptables rule sets. Needs hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from dataplane.inet import TCP, UDP, parse_address
from dataplane.packet import Packet
from dataplane.packet_text import make_packet

_PORTS = st.integers(1, 65535)


def addresses(network: str = "10.0.0.0/8") -> st.SearchStrategy[str]:
    """Addresses of a network as text."""
    return st.ip_addresses(network=network).map(str)


@st.composite
def packets(draw: st.DrawFn, sources: Sequence[str] = (), destinations: Sequence[str] = (), ports: Sequence[int] = ()) -> Packet:
    """IPv4 TCP SYNs and UDP packets, aimed at the given ends where there are some."""
    source = draw(st.sampled_from(list(sources)) if sources else addresses())
    target = draw(st.sampled_from(list(destinations)) if destinations else addresses())
    port = draw(st.sampled_from(list(ports)) if ports else _PORTS)
    family, saddr = parse_address(source)
    return make_packet(draw(st.sampled_from((TCP, UDP))), family, saddr, parse_address(target)[1], draw(_PORTS), port, ttl=draw(st.integers(1, 255)))


@st.composite
def services(draw: st.DrawFn) -> list[dict[str, Any]]:  # Any: Kubernetes objects
    """A Service and its EndpointSlice as objects."""
    name = draw(st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True))
    port, target = draw(_PORTS), draw(_PORTS)
    protocol = draw(st.sampled_from(("TCP", "UDP", "SCTP")))
    kind = draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer")))
    spec: dict[str, Any] = {"type": kind, "ports": [{"name": "p", "port": port, "targetPort": target, "protocol": protocol}]}
    if draw(st.booleans()):
        spec["sessionAffinity"] = "ClientIP"
    if kind != "ClusterIP":
        spec["externalTrafficPolicy"] = draw(st.sampled_from(("Cluster", "Local")))
    ends = draw(st.lists(st.tuples(st.integers(1, 2), st.integers(2, 250)), max_size=5, unique=True))
    endpoints = [{"addresses": [f"10.244.{node}.{host}"], "nodeName": f"node-{'ab'[node - 1]}", "conditions": {"ready": True}} for node, host in ends]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec},
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "p", "port": target, "protocol": protocol}],
        },
    ]  # fmt: skip


@st.composite
def rule_sets(draw: st.DrawFn) -> str:
    """Filter tables as iptables-restore text: plain matches, jumps to two user chains, verdicts."""
    matches = st.sampled_from((
        "", "-s 10.0.0.0/8 ", "! -s 10.244.0.0/16 ", "-d 10.96.0.20/32 ", "-p tcp ", "-p tcp -m tcp --dport 80 ", "-p udp -m udp --dport 53 ",
        "-p tcp -m tcp --dport 1:1024 ", "-i eth0 ", "-m conntrack --ctstate NEW ", "-m mark --mark 0x1/0x1 ", "-d 10.96.0.20/32 -p tcp -m tcp --dport 80 ",
    ))  # fmt: skip
    ends = {"FORWARD": ("ACCEPT", "DROP", "ONE", "TWO"), "ONE": ("RETURN", "DROP", "ACCEPT", "TWO"), "TWO": ("RETURN", "DROP", "REJECT")}
    lines = ["*filter", ":INPUT ACCEPT [0:0]", f":FORWARD {draw(st.sampled_from(('ACCEPT', 'DROP')))} [0:0]", ":OUTPUT ACCEPT [0:0]", ":ONE - [0:0]", ":TWO - [0:0]"]
    for chain, targets in ends.items():
        for _ in range(draw(st.integers(0, 14))):
            lines.append(f"-A {chain} {draw(matches)}-j {draw(st.sampled_from(targets))}")
    return "\n".join([*lines, "COMMIT", ""])

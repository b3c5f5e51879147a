"""Stale UDP flows, as kube-proxy 1.36 chooses them, and that apply deletes them in a real namespace and leaves the others."""

import subprocess

import pytest
import yaml

from dataplane.adapters import namespaces, tools
from dataplane.adapters.apply import apply
from dataplane.kube.load import load_objects
from dataplane.proxy.compile import compile_node
from dataplane.proxy.conntrack_cleanup import stale
from dataplane.text.conntrack import parse_connections
from tests.adapters.test_apply import netns  # noqa: F401 - a fixture

MANIFEST = """
kind: Node
apiVersion: v1
metadata: {name: n}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.11}]}
---
kind: Service
apiVersion: v1
metadata: {name: dns, namespace: s}
spec: {type: NodePort, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ipFamilies: [IPv4], externalIPs: [198.51.100.9], ports: [{port: 53, protocol: UDP, nodePort: 30053}]}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: dns-x, namespace: s, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: "", port: 53, protocol: UDP}]
endpoints: [ENDPOINTS]
"""
LIVE = '{addresses: ["10.244.1.5"], nodeName: n, conditions: {ready: true}}'
ENDING = '{addresses: ["10.244.1.6"], nodeName: n, conditions: {ready: false, serving: true, terminating: true}}'
GONE = '{addresses: ["10.244.1.7"], nodeName: n, conditions: {ready: false, serving: false}}'


def compiled(*endpoints):
    cluster = load_objects(list(yaml.safe_load_all(MANIFEST.replace("ENDPOINTS", ", ".join(endpoints)))))
    return compile_node(cluster, cluster.nodes[0], families=[4])


def flow(destination, dport, endpoint, port=53, protocol="udp", number=17):
    return (
        f"ipv4     2 {protocol}      {number} 30 src=10.244.1.9 dst={destination} sport=4000 dport={dport} [UNREPLIED] src={endpoint} dst=10.244.1.9"
        f" sport={port} dport=4000 mark=0 use=1"
    )


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (flow("10.96.0.10", 53, "10.244.1.5"), False), (flow("10.96.0.10", 53, "10.244.1.6"), False), (flow("10.96.0.10", 53, "10.244.1.7"), True),
        (flow("10.96.0.10", 53, "10.244.1.5", 54), True), (flow("10.96.0.10", 53, "10.96.0.10"), True), (flow("198.51.100.9", 53, "10.244.1.8"), True),
        (flow("192.168.0.11", 30053, "10.244.1.8"), True), (flow("192.168.0.11", 30053, "10.244.1.5"), False), (flow("10.96.0.10", 54, "10.244.1.7"), False),
        (flow("10.96.0.10", 53, "10.244.1.7", protocol="udplite", number=136), False),
    ],
)  # fmt: skip
def test_which_flows_are_stale(line, wanted):
    connections = parse_connections(line + "\n")
    assert bool(stale(compiled(LIVE, ENDING, GONE).frontends, connections)) is wanted


def test_without_a_serving_endpoint_nothing_is_touched():
    assert stale(compiled(GONE).frontends, parse_connections(flow("10.96.0.10", 53, "10.244.1.7") + "\n")) == []


def test_apply_deletes_them(netns):  # noqa: F811
    both = compiled(LIVE, LIVE.replace("1.5", "1.8"))
    apply(both.state, netns)
    path = namespaces.path_of(netns)
    for endpoint, protocol in (("10.244.1.5", "udp"), ("10.244.1.8", "udp"), ("10.244.1.8", "tcp")):
        state = ["--state", "ESTABLISHED"] if protocol == "tcp" else []
        number = {"10.244.1.5": "4005", "10.244.1.8": "4008"}[endpoint]
        command = ["conntrack", "-I", "-p", protocol, "-t", "60", *state, "-s", "10.244.1.9", "-d", "10.96.0.10", "--sport", number, "--dport", "53"]
        reply = ["-r", endpoint, "-q", "10.244.1.9", "--reply-port-src", "53", "--reply-port-dst", number]
        subprocess.run(["nsenter", f"--net={path}", *command, *reply], check=True, capture_output=True)
    one = compiled(LIVE)
    done = apply(one.state, netns, stale=lambda connections: stale(one.frontends, connections))
    assert [step.text for step in done.steps if step.text.startswith("conntrack")] == [
        "conntrack -D -p udp -s 10.244.1.9 -d 10.96.0.10 --sport 4008 --dport 53"
    ]
    left = tools.run(path, "conntrack", "-L")
    assert "udp" in left
    assert "sport=4005" in left
    assert "tcp" in left
    assert left.count("sport=4008") == 1

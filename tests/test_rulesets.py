"""Every flow of every case under rulesets/: where the packet ends, masqueraded or not, answered or not, and by which rule."""

from pathlib import Path

import pytest
import yaml

from dataplane.cli.render_text import render
from dataplane.inet import format_endpoint
from dataplane.node import Node
from dataplane.kube.load import load, node_of
from dataplane.packet_text import parse_packet
from dataplane.proxy.compile import compile_node

RULESETS = Path(__file__).resolve().parents[1] / "rulesets"
FLOWS = [(case.name, flow) for case in sorted(RULESETS.iterdir()) if case.is_dir() for flow in yaml.safe_load((case / "flows.yaml").read_text())["flows"]]
_VERDICTS = {"forward", "local", "drop", "reject"}


def node_for(name: str) -> Node:
    case = RULESETS / name
    cluster = load([str(case / "manifest.yaml")], config=str(case / "kube-proxy.yaml"))
    return Node(compile_node(cluster, node_of(cluster, "node-a")).state)


@pytest.mark.parametrize(("name", "flow"), FLOWS, ids=[f"{name}-{flow['packet']}" for name, flow in FLOWS])
def test_a_flow_ends_as_the_case_says(name, flow):
    node = node_for(name)
    packet = parse_packet(flow["packet"])
    outcomes = [result.trace for result in node.outcomes(packet, None if flow["in"] == "local" else flow["in"])]
    shown = "\n".join(render(trace) for trace in outcomes)
    wanted = set(str(flow["want"]).split())
    if wanted <= _VERDICTS:
        assert {trace.verdict for trace in outcomes} == wanted, shown
    else:
        assert {format_endpoint(trace.packet.family, trace.packet.daddr, trace.packet.dport) for trace in outcomes} == wanted, shown
    if "masquerade" in flow:
        got = {any(getattr(one.rule.target, "name", "") == "MASQUERADE" for one in trace.rules()) for trace in outcomes}
        assert got == {flow["masquerade"]}, shown
    for trace in outcomes:
        if "out" in flow:
            assert trace.oif == flow["out"], shown
        if "by" in flow:
            assert trace.by is not None, shown
            assert f"{trace.by.table} {trace.by.chain}" == flow["by"], shown
        if "reply" in flow:
            assert trace.reply is not None, shown
            assert f"icmp {trace.reply.icmp_type}/{trace.reply.icmp_code}" == flow["reply"], shown


def test_affinity_keeps_a_client_at_its_endpoint():
    node = node_for("session-affinity")
    first = node.receive("tcp 10.244.1.9:40000 > 10.96.0.20:80", "cni0", seed=1).packet.daddr
    for port in range(40001, 40020):
        assert node.receive(f"tcp 10.244.1.9:{port} > 10.96.0.20:80", "cni0", seed=port).packet.daddr == first

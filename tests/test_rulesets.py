"""Every flow of every case under rulesets/: what becomes of a packet in each possible outcome, and whether its answer finds the way back.

A flow has a ``packet`` and ``in`` (an interface, or ``local``), and what is wanted of it: ``want`` is a verdict, or all destinations that
are possible; ``masquerade``; ``source`` (``kept``, ``masqueraded`` or an address); ``out``; ``by`` (table and chain); ``reply``;
``chance`` (of each destination). ``after`` is what happened before: packets walked on the same connections (``answered: true``: and what
whoever got them says to them), ``wait`` in seconds, ``endpoints``: kube-proxy syncs and wants no others (``restarted: true``: after a new start).
``node`` is another than node-a, ``mode`` another than iptables, ``sysctls`` others than kube-proxy's, ``snapshot`` a directory instead of the manifests.
Unless ``returns: false``, the answer to what left must come back as from the address asked.
"""

import functools
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from dataplane.inet import format_address, format_endpoint, parse_address
from dataplane.node import Node, Result, load, load_snapshot
from dataplane.packet import answer_to
from dataplane.rules.ipvs import IPVS
from dataplane.trace import Trace

RULESETS = Path(__file__).resolve().parents[1] / "rulesets"
CASES = sorted(file.parent for file in RULESETS.glob("*/flows.yaml"))
FLOWS = [(case.name, flow) for case in CASES for flow in yaml.safe_load((case / "flows.yaml").read_text())["flows"]]
_FIELDS = {"packet", "in", "want", "masquerade", "source", "out", "by", "reply", "chance", "after", "node", "snapshot", "returns", "mode", "sysctls"}
_VERDICTS = {"forward", "local", "drop", "reject"}
_SEEDS = range(200)


@functools.cache
def compiled(name: str, node: str, mode: str = "iptables") -> Node:
    return load(RULESETS / name).node(node, mode=mode)


def node_for(name: str, flow: dict) -> Node:
    """The node of a flow after what happened before on it."""
    node = load_snapshot(RULESETS / name / flow["snapshot"]) if "snapshot" in flow else compiled(name, flow.get("node", "node-a"), flow.get("mode", "iptables")).fork()
    if "sysctls" in flow:
        node = Node(node.state._replace(sysctls={**node.state.sysctls, **flow["sysctls"]}))
    first = node.state.ipvs
    for step in flow.get("after", ()):
        happen(node, step, first)
    return node


def happen(node: Node, step: dict, first: IPVS) -> None:
    """One step of what was before a flow."""
    if "wait" in step:
        node.now += step["wait"]
        node.sync_ipvs()
    elif "endpoints" in step:
        stay = [parse_address(one)[1] for one in step["endpoints"].split()]
        servers = [one._replace(servers=tuple(end for end in one.servers if end.address in stay)) for one in first.servers]
        node.sync_ipvs(first._replace(servers=tuple(servers)), restarted=step.get("restarted", False))
    else:
        trace = walk(node, step).trace
        if step.get("answered"):
            _check_way_back(node, trace)


def walk(node: Node, flow: dict, seed: int = 0) -> Result:
    return node.trace(flow["packet"], flow["in"], local=flow["in"] == "local", seed=seed)


@pytest.mark.parametrize(("name", "flow"), FLOWS, ids=[f"{name}-{flow['packet']}" for name, flow in FLOWS])
def test_a_flow_ends_as_the_case_says(name, flow):
    assert set(flow) <= _FIELDS
    node = node_for(name, flow)
    results = node.outcomes(flow["packet"], flow["in"], local=flow["in"] == "local")
    shown = "\n\n".join(f"{result.probability}\n{result.text()}" for result in results)
    _check_ends(results, flow, shown)
    for result in results:
        got = seen(result.trace, flow)
        assert {key: got[key] for key in flow.keys() & got.keys()} == {key: flow[key] for key in flow.keys() & got.keys()}, shown


def _check_ends(results: list[Result], flow: dict, shown: str) -> None:
    wanted = set(str(flow["want"]).split())
    if wanted <= _VERDICTS:
        assert {result.trace.verdict for result in results} == wanted, shown
        return
    chances: Counter = Counter()
    for result in results:
        packet = result.trace.packet
        chances[format_endpoint(packet.family, packet.daddr, packet.dport)] += result.probability
    assert set(chances) == wanted, shown
    assert {result.trace.verdict for result in results} <= {"forward", "local"}, shown
    if "chance" in flow:
        assert set(chances.values()) == {Fraction(flow["chance"])}, shown


def seen(trace: Trace, flow: dict) -> dict:
    """What can be wanted of one outcome, in the words of a flow."""
    packet, original = trace.packet, trace.original
    kept = (packet.saddr, packet.sport) == (original.saddr, original.sport)
    named = {"kept": "kept" if kept else "masqueraded", "masqueraded": "masqueraded" if not kept else "kept"}
    return {
        "masquerade": any(getattr(one.rule.target, "name", "") == "MASQUERADE" for one in trace.rules()),
        "source": named.get(flow.get("source", ""), format_address(packet.family, packet.saddr)),
        "out": trace.oif,
        "by": f"{trace.by.table} {trace.by.chain}" if trace.by else None,
        "reply": f"icmp {trace.reply.icmp_type}/{trace.reply.icmp_code}" if trace.reply else None,
    }


@pytest.mark.parametrize(("name", "flow"), FLOWS, ids=[f"{name}-{flow['packet']}" for name, flow in FLOWS])
def test_the_answer_comes_back_as_from_the_address_asked(name, flow):
    if not flow.get("returns", True):
        return
    begin = node_for(name, flow)
    ends = {result.trace.packet.daddr for result in begin.outcomes(flow["packet"], flow["in"], local=flow["in"] == "local")}
    for seed in _SEEDS:
        node = begin.fork()
        trace = walk(node, flow, seed).trace
        if trace.packet.daddr not in ends:
            continue
        ends.remove(trace.packet.daddr)
        if trace.verdict in ("forward", "local"):
            _check_way_back(node, trace)
        if not ends:
            return
    raise AssertionError(f"no seed leads to {[format_address(trace.packet.family, end) for end in ends]}")


def _check_way_back(node: Node, trace: Trace) -> None:
    sent, there = trace.original, answer_to(trace.packet)
    back = node.send(there) if trace.verdict == "local" else node.receive(there, trace.oif)
    packet = back.trace.packet
    assert back.verdict in ("forward", "local"), back.text()
    assert (packet.saddr, packet.sport, packet.daddr, packet.dport) == (sent.daddr, sent.dport, sent.saddr, sent.sport), back.text()


def test_affinity_keeps_a_client_at_its_endpoint():
    node = compiled("session-affinity", "node-a").fork()
    first = node.receive("tcp 10.244.1.9:40000 > 10.96.0.20:80", "cni0", seed=1).packet.daddr
    for port in range(40001, 40020):
        assert node.receive(f"tcp 10.244.1.9:{port} > 10.96.0.20:80", "cni0", seed=port).packet.daddr == first


def test_the_index_has_each_cases_own_line():
    lines = [f"| [{case.name}]({case.name}/) | {(case / 'README.md').read_text().strip()} |" for case in CASES]
    index = (RULESETS / "README.md").read_text().splitlines()
    assert [line for line in index if line.startswith("| [")] == lines

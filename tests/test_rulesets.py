"""Every flow of rulesets/: what becomes of a packet in each of its possible outcomes, and whether its answer finds the way back.

A flow is ``packet`` (an expression), ``in`` (an interface; ``local: true`` where the node sends it) and what is expected:
``verdict``, ``to`` (all destinations that are possible), ``source`` (``kept``, ``masqueraded`` or an address), ``by`` (the deciding
chain), ``oif``, ``reply`` (``rst``, or ICMP ``type/code``), ``chance`` (of each destination). ``after`` are packets walked before, in
order, on one connection table. Unless ``returns: false``, the answer to what left must come back with addresses undone.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataplane.inet import ICMP, ICMPV6, TCP, format_address, format_endpoint
from dataplane.node import Node, Result, load, load_snapshot
from dataplane.packet import ACK, RST, SYN, Packet
from dataplane.packet_text import parse_packet

RULESETS = Path(__file__).resolve().parents[1] / "rulesets"
_KNOWN = {"name", "packet", "in", "local", "node", "snapshot", "verdict", "to", "source", "by", "oif", "reply", "chance", "after", "returns"}


def _flows() -> list[Any]:
    found = []
    for file in sorted(RULESETS.glob("*/flows.yaml")):
        for flow in yaml.safe_load(file.read_text())["flows"]:
            assert set(flow) <= _KNOWN, f"{file}: {sorted(set(flow) - _KNOWN)}"
            found.append(pytest.param(file.parent, flow, id=f"{file.parent.name}: {flow['name']}"))
    return found


@functools.lru_cache(maxsize=None)
def _compiled(case: Path, name: str) -> Node:
    return load(case).node(name)


def _node(case: Path, flow: dict[str, Any]) -> Node:
    if "snapshot" in flow:
        return load_snapshot(case / flow["snapshot"])
    return _compiled(case, flow.get("node", "node-a")).fork()


@pytest.mark.parametrize(("case", "flow"), _flows())
def test_flow(case: Path, flow: dict[str, Any]) -> None:
    node = _node(case, flow)
    for step in flow.get("after", ()):
        node.trace(step["packet"], step.get("in"), local=step.get("local", False))
    local = flow.get("local", False)
    results = node.outcomes(flow["packet"], flow.get("in"), local=local)
    problems = [problem for result in results for problem in _differences(result, flow)]
    problems += _destinations(results, flow)
    if flow.get("returns", True) and not problems:
        problems += [problem for result in results for problem in _way_back(node, result, flow)]
    shown = "\n\n".join(f"{result.probability}:\n{result.text()}" for result in results)
    assert not problems, "\n".join([*problems, "", shown])


def _differences(result: Result, flow: dict[str, Any]) -> list[str]:
    trace, packet = result.trace, result.trace.packet
    source, original = format_address(packet.family, packet.saddr), trace.original
    got = {
        "verdict": trace.verdict,
        "oif": trace.oif,
        "by": trace.by.chain if trace.by else None,
        "reply": _reply(trace.reply),
        "source": source if flow.get("source") not in ("kept", "masqueraded") else
                  "kept" if (packet.saddr, packet.sport) == (original.saddr, original.sport) else "masqueraded",
    }  # fmt: skip
    return [f"{name}: expected {flow[name]!r}, got {value!r}" for name, value in got.items() if name in flow and flow[name] != value]


def _reply(packet: Packet | None) -> str | None:
    if packet is None:
        return None
    return f"{packet.icmp_type}/{packet.icmp_code}" if packet.is_icmp else "rst" if packet.tcp_flags & RST else str(packet)


def _destinations(results: list[Result], flow: dict[str, Any]) -> list[str]:
    chances: dict[str, Fraction] = {}
    for result in results:
        packet = result.trace.packet
        there = format_endpoint(packet.family, packet.daddr, packet.dport) if packet.dport else format_address(packet.family, packet.daddr)
        chances[there] = chances.get(there, Fraction(0)) + (result.probability or 0)
    problems = []
    if "to" in flow:
        wanted = [flow["to"]] if isinstance(flow["to"], str) else flow["to"]
        if sorted(chances) != sorted(wanted):
            problems.append(f"to: expected {sorted(wanted)}, got {sorted(chances)}")
    if "chance" in flow and any(chance != Fraction(flow["chance"]) for chance in chances.values()):
        problems.append(f"chance: expected {flow['chance']} each, got {chances}")
    return problems


def _way_back(node: Node, result: Result, flow: dict[str, Any]) -> list[str]:
    """Sends the packet for good, choosing as in this outcome, and its answer; the answer must look as if it came from the address asked."""
    trace = result.trace
    if trace.verdict not in ("forward", "local"):
        return []
    before = trace.packet
    again = next((walked for walked in _attempts(node, flow) if walked[1].packet.daddr == before.daddr), None)
    if again is None:
        return [f"no seed leads to {format_address(before.family, before.daddr)}"]
    same, first = again
    answer = _answer(first.packet)
    back = same.netns.send(answer) if first.verdict == "local" else same.netns.receive(answer, first.oif)
    got, original = back.packet, first.original
    if back.verdict not in ("forward", "local") or (got.saddr, got.sport, got.daddr, got.dport) != (
        original.daddr, original.dport, original.saddr, original.sport,
    ):  # fmt: skip
        return [f"the answer {answer} does not come back to {original}: {back.verdict} {got} ({back.reason})"]
    return []


def _attempts(node: Node, flow: dict[str, Any]) -> Any:
    for seed in range(60):
        same = node.fork()
        yield same, same.trace(flow["packet"], flow.get("in"), local=flow.get("local", False), seed=seed).trace


def _answer(packet: Packet) -> Packet:
    turned = replace(packet, saddr=packet.daddr, daddr=packet.saddr, sport=packet.dport, dport=packet.sport, ttl=64)
    if packet.protocol == TCP:
        flags = SYN | ACK if packet.tcp_flags & SYN else ACK
        return replace(turned, tcp_flags=flags, seq=5000 if packet.tcp_flags & SYN else packet.ack, ack=packet.seq + 1)
    if packet.protocol in (ICMP, ICMPV6):
        return replace(turned, icmp_type=0 if packet.family == 4 else 129)
    return turned


def test_every_ruleset_has_its_line_in_the_readme() -> None:
    readme = (RULESETS / "README.md").read_text()
    missing = [file.parent.name for file in RULESETS.glob("*/flows.yaml") if f"[{file.parent.name}]" not in readme]
    assert not missing


def test_no_expression_of_a_ruleset_has_a_default_that_hides_a_typo() -> None:
    for parameter in _flows():
        flow = parameter.values[1]
        parse_packet(flow["packet"])
        assert {"verdict", "to", "by"} & set(flow), f"{parameter.id} expects nothing"

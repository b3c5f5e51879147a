"""Two modes of one manifest: what differs, what is known of it, and that nothing differs where nothing should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplane.cli import cli
from dataplane.compare import report
from dataplane.compare.known import KNOWN
from dataplane.compare.probes import LAN, VANTAGES, probes, subjects
from dataplane.compare.run import Comparison, Variant, compare, groups, netns_of
from dataplane.node import load
from dataplane.proxy.compile import compile_node, node_families
from click.testing import CliRunner

RULESETS = Path(__file__).resolve().parents[2] / "rulesets"
CASES = sorted(path.parent.name for path in RULESETS.glob("*/flows.yaml"))


def compared(case: str, modes: tuple[str, ...] = ("iptables", "ipvs")) -> Comparison:
    objects = load(RULESETS / case).objects
    node = next(one for one in objects.nodes if one.name == "node-a")
    states = {mode: compile_node(objects, node, mode=mode).state for mode in modes}
    variants = [Variant(f"{number}", mode, netns_of(states[mode])) for number, mode in enumerate(modes)]
    return compare(variants, list(subjects(objects, node, states[modes[0]], node_families(node))))


@pytest.mark.parametrize("case", CASES)
def test_a_mode_does_not_differ_from_itself(case: str) -> None:
    assert compared(case, ("ipvs", "ipvs")).differences == []


@pytest.fixture(scope="module")
def everything() -> dict[str, Comparison]:
    return {case: compared(case) for case in CASES}


def test_every_difference_of_the_cases_is_a_known_one(everything: dict[str, Comparison]) -> None:
    unknown = [f"{case}: {one.probe}" for case, found in everything.items() for one in found.differences if not one.known]
    assert unknown == []


WANTED = {  # case of rulesets/: words of the known issue, words of the fate in iptables mode, in IPVS mode
    "cluster-ip": ("ping: in IPVS mode", "sent on by eth0", "refused"),
    "external-policy-local": ("#71596", "dropped", "answer lost"),
    "external-ip-of-a-node": ("cannot reach that node any more", "sent on by eth0", "refused"),
    "two-owners": ("two Services claim", "10.244.1.6:8080", "10.244.1.7:8080"),
    "node-port": ("127.0.0.1:nodePort", "sent to an endpoint", ""),
    "internal-policy-local": ("without a local endpoint", "dropped", "refused"),
    "no-endpoints": ("ping", "", "refused"),
}


@pytest.mark.parametrize("case", WANTED)
def test_the_cases_tell_what_the_field_has_met(case: str, everything: dict[str, Comparison]) -> None:
    words, *fates = WANTED[case]
    found = [one for one in everything[case].differences if words in one.known]
    assert found
    assert any(all(part in " ".join(str(outcome.fate) for outcome in one.outcomes[name]) for name, part in zip("01", fates, strict=True)) for one in found)


def test_most_known_issues_are_met_by_some_case(everything: dict[str, Comparison]) -> None:
    met = {one.known for found in everything.values() for one in found.differences}
    assert len(met) >= 10
    assert met <= {one.text for one in KNOWN}


def test_ways_part_where_the_address_becomes_local(everything: dict[str, Comparison]) -> None:
    ping = next(one for one in everything["cluster-ip"].differences if one.probe.vantage == LAN and one.probe.frontend.kind == "ping")
    assert [str(step) for step in ping.parts.values()] == ["PREROUTING: route: default via 192.168.0.1 dev eth0", "PREROUTING: route: local (this node)"]


def test_every_vantage_asks(everything: dict[str, Comparison]) -> None:
    objects = load(RULESETS / "node-port").objects
    node = objects.nodes[0]
    subject = next(iter(subjects(objects, node, compile_node(objects, node).state, (4,))))
    assert {probe.vantage for probe in probes(subject)} == set(VANTAGES)


def test_groups_hold_every_difference_once(everything: dict[str, Comparison]) -> None:
    for found in everything.values():
        assert sum(len(group.differences) for group in groups(found)) == len(found.differences)
        json.dumps(report.as_json(found))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-f", "external-ip", "--node", "node-a"], 1, "iptables against ipvs: 20 end differently"),
        (["-f", "external-ip", "--node", "node-a", "-o", "wide"], 1, "this node"),
        (["-f", "ignored", "--node", "node-a"], 0, "none end differently"),
        (["-f", "external-ip", "--node", "node-a", "--service", "shop/none"], 0, "none end differently"),
        (["-f", "external-ip", "--node", "node-a", "--modes", "ipvs"], 2, "expected two"),
        (["-f", "external-ip", "--node", "node-a", "--modes", "ipvs,ebpf"], 2, "expected two"),
        (["--node", "node-a"], 2, "-f PATH"),
    ],
)
def test_the_command(arguments: list[str], code: int, words: str) -> None:
    given = [str(RULESETS / one) if one in CASES else one for one in arguments]
    done = CliRunner().invoke(cli, ["compare", *given], standalone_mode=False)
    assert (done.return_value if done.exception is None else done.exception.exit_code) == code  # type: ignore[attr-defined]  # a UsageError
    assert words in done.output + str(done.exception)

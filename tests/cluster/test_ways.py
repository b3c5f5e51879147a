"""The ways to a Service, measured: what the project's source says of each is what the walks show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataplane.cli import cli

RULESETS = Path(__file__).resolve().parents[2] / "rulesets"
EVERYBODY = {"client", "lan", "pod", "node"}


def measured(case: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli, ["ways", "-f", str(RULESETS / case), "-o", "json"], standalone_mode=False)
    assert done.exception is None, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("case", "kind", "reached", "nodes", "kept", "pods"),
    [
        ("external-ip", "ClusterIP", {"pod", "node"}, [], None, 2), ("external-ip", "externalIP", EVERYBODY, ["node-a", "node-b"], False, 2),
        ("node-port", "NodePort", EVERYBODY, ["node-a", "node-b"], False, 2), ("load-balancer", "LoadBalancer", EVERYBODY, ["node-a", "node-b"], False, 2),
        ("external-policy-local", "NodePort", EVERYBODY, ["node-b"], True, 1), ("external-policy-local", "LoadBalancer", EVERYBODY, ["node-b"], True, 1),
        ("external-ip-local", "externalIP", EVERYBODY, None, True, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["iptables", "ipvs"])
def test_what_is_said_of_a_way_is_what_is_measured(case: str, kind: str, reached: set[str], nodes: list[str] | None, kept: bool | None, pods: int | None, mode: str) -> None:
    way = next(one for one in measured(case) if (one["kind"], one["mode"]) == (kind, mode))
    assert set(way["reached_from"]) == reached and way["source_kept"] == kept
    assert nodes is None or way["nodes"] == nodes
    assert pods is None or len(way["endpoints"]) == pods


def test_the_table_and_bad_input() -> None:
    run = CliRunner()
    table = run.invoke(cli, ["ways", "-f", str(RULESETS / "external-ip"), "--service", "shop/web"], standalone_mode=False).stdout
    assert table.splitlines()[0].split()[:3] == ["service", "way", "mode"] and len(table.splitlines()) == 5
    for arguments, words in ((["--service", "shop/none"], "no Service"), (["--modes", "ebpf"], "--modes")):
        done = run.invoke(cli, ["ways", "-f", str(RULESETS / "external-ip"), *arguments], standalone_mode=False)
        assert words in str(done.exception)

"""Packets through whole clusters: who gets them, what source is seen, how many NATs, and whether the answer is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataplane.cli import cli

RULESETS = Path(__file__).resolve().parents[2] / "rulesets"


def path(case: str, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["path", "-f", str(RULESETS / case), *arguments], standalone_mode=False)


def told(case: str, *arguments: str) -> dict[str, Any]:
    done = path(case, *arguments, "-o", "json")
    assert done.exception is None, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.return_value == (0 if found["accepted"] else 1)
    return found


@pytest.mark.parametrize("mode", ["iptables", "ipvs"])
@pytest.mark.parametrize("seed", range(6))
def test_an_external_ip_is_answered_from_either_node_with_the_source_lost(mode: str, seed: int) -> None:
    found = told("external-ip", "--mode", mode, "--seed", str(seed), "http://198.51.100.10/cart")
    assert found["accepted"] and found["request"]["nats"] == 2 and found["request"]["nodes"][0] == "node-a"
    assert found["reply"]["nodes"][-1] == "node-a" and found["seen_source"] in ("192.168.0.11", "10.244.1.1")


def test_the_node_that_the_address_is_routed_to_is_the_users_choice() -> None:
    assert told("external-ip", "--via", "node-b", "tcp 198.51.100.10:80")["request"]["nodes"][0] == "node-b"


def test_a_node_port_answers_on_every_node() -> None:
    for node, address in (("node-a", "192.168.0.11"), ("node-b", "192.168.0.12")):
        for sender in ("lan", "pod:node-a", "pod:node-b", "node:node-a"):
            found = told("node-port", "--from", sender, f"tcp {address}:30080")
            assert found["accepted"] and node in found["request"]["nodes"], found


def test_a_cluster_ip_is_for_the_cluster_only() -> None:
    outside = told("cluster-ip", "--from", "client", "tcp 10.96.0.20:80")
    assert not outside["accepted"] and "address of the cluster only" in outside["why"] and outside["request"]["nodes"] == []
    for sender in ("pod:node-a", "pod:node-b", "node:node-a"):
        assert told("cluster-ip", "--from", sender, "tcp 10.96.0.20:80")["accepted"]


def test_local_policy_keeps_the_source_where_an_endpoint_is_and_ends_where_none_is() -> None:
    there = told("external-policy-local", "--via", "node-b", "tcp 198.51.100.20:80")
    assert there["accepted"] and there["seen_source"] == "203.0.113.9" and there["request"]["nats"] == 1
    elsewhere = told("external-policy-local", "--via", "node-a", "tcp 198.51.100.20:80")
    assert not elsewhere["accepted"] and "drop" in elsewhere["why"]


def test_in_ipvs_mode_the_answer_of_a_local_policy_goes_past_the_node() -> None:
    """kubernetes #71596: the endpoint's node answers the client itself, which does not know that address."""
    found = told("external-policy-local", "--mode", "ipvs", "--via", "node-a", "tcp 198.51.100.20:80")
    assert not found["accepted"] and "it comes from 10.244.2.5:8080" in found["why"]
    assert found["reply"]["nodes"] == ["node-b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "which target"), (["tcp 198.51.100.10"], "say which port"), (["http://198.51.100.10", "--from", "mars"], "--from: expected client"),
        (["http://198.51.100.10", "--via", "node-z"], "no node 'node-z'"),
    ],
)  # fmt: skip
def test_bad_input_is_told(arguments: list[str], words: str) -> None:
    done = path("external-ip", *arguments)
    assert done.exception is not None and words in str(done.exception)


def test_the_text_names_every_hop() -> None:
    lines = path("external-ip", "http://198.51.100.10/cart").output
    assert "1. client sends" in lines and "node-a (by eth0): forward" in lines and "accepted: the answer comes back" in lines

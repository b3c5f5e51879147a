"""The compiler's IPVS mode against what the real kube-proxy 1.36 programmed: every golden, every file, both families."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dataplane.inet import format_address
from dataplane.kube.load import load, node_of
from dataplane.proxy.compile import Compiled, compile_node
from dataplane.text.snapshot import print_snapshot, read_snapshot
from tests.shared import cases, needs_shared

GOLDENS = [path.parent for path in cases("goldens/*/ipvs")]
each_golden = pytest.mark.parametrize("case", GOLDENS, ids=lambda path: path.name)


def compiled(case: Path) -> Compiled:
    facts = json.loads((case / "case.json").read_text())
    cluster = load([str(case / "manifest.yaml")], config=str(case / "kube-proxy-ipvs.yaml"))
    families = [int(name[-1]) for name in facts["families"].split(",")]
    links = read_snapshot(case / "network")[0].links
    return compile_node(cluster, node_of(cluster, facts["node"]), links=links, families=families, mode="ipvs")


def rules(text: str) -> list[str]:
    """Without counters and comments; the rules of KUBE-IPVS-OUT-FILTER, which come in the order of a Go map, sorted."""
    lines = [re.sub(r"\[\d+:\d+\]", "[0:0]", line) for line in text.splitlines() if not line.startswith("#")]
    shuffled = iter(sorted(line for line in lines if line.startswith("-A KUBE-IPVS-OUT-FILTER")))
    return [next(shuffled) if line.startswith("-A KUBE-IPVS-OUT-FILTER") else line for line in lines]


def sets(text: str) -> dict[str, list[str]]:
    """Create lines without what the kernel makes up, and members, which have no order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        found.setdefault(line.split()[1], []).append(re.sub(r" hashsize \d+| bucketsize \d+| initval \S+", "", line))
    return {name: sorted(lines) for name, lines in found.items()}


def services(text: str) -> list[str]:
    """Each virtual server with its real servers; virtual servers sorted."""
    return sorted(text.removeprefix("-A ").split("\n-A "))


@needs_shared
def test_there_are_goldens() -> None:
    assert len(GOLDENS) >= 53


@needs_shared
@each_golden
def test_a_snapshot_holds_what_kube_proxy_programmed(case: Path) -> None:
    made = compiled(case)
    files = print_snapshot(made.state)
    golden = {path.name: path.read_text() for path in (case / "ipvs").iterdir()}
    for family, name in ((4, "iptables-save.txt"), (6, "ip6tables-save.txt")):
        if family in made.restore:
            assert rules(files[name]) == rules(golden[name])
    assert sets(files["ipset-save.txt"]) == sets(golden["ipset-save.txt"])
    assert services(files["ipvsadm-save.txt"].strip()) == services(golden["ipvsadm-save.txt"].strip())


@needs_shared
@each_golden
def test_the_restore_input_is_kube_proxys(case: Path) -> None:
    made = compiled(case)
    golden = (case / "ipvs/restore-input.txt").read_text()
    assert rules("".join(made.restore[family] for family in sorted(made.restore))) == rules(golden)


@needs_shared
@each_golden
def test_kube_ipvs0_has_the_addresses_that_kube_proxy_bound(case: Path) -> None:
    device = next(link for link in compiled(case).state.links if link.name == "kube-ipvs0")
    found = [f"kube-ipvs0 {format_address(one.family, one.local)}/{one.prefixlen} global" for one in device.addresses]
    assert sorted(found) == sorted((case / "ipvs/ip-addr.txt").read_text().splitlines())

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
from tests.uml import in_uml

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


def tables(text: str) -> list[str]:
    """The tables, which a kernel lists in the order of their making."""
    return sorted(table.strip() for table in "\n".join(rules(text)).split("COMMIT"))


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


@needs_shared
def test_a_real_kernel_takes_a_snapshot_and_prints_it_back() -> None:
    """One boot: sets, virtual servers and rules of some goldens (of all it takes a minute) are restored and printed again."""
    files: dict[str, str] = {}
    some = [case for case in GOLDENS if re.match("ipvs-|dual|sctp|lb-source|ipv6-only|session|rnd-00[0-3]", case.name)]
    for at, case in enumerate(some):
        for name, text in print_snapshot(compiled(case).state).items():
            if name.endswith("-save.txt"):
                files[f"{at}-{name}"] = re.sub(r" -m nfacct --nfacct-name +\S+", "", text)
    script = """
for at in $(seq 0 LAST); do
  iptables-legacy -F; iptables-legacy -t nat -F; ip6tables-legacy -F; ip6tables-legacy -t nat -F; ipset destroy; ipvsadm -C
  ipset restore < $at-ipset-save.txt; ipvsadm -R < $at-ipvsadm-save.txt
  for tool in iptables ip6tables; do [ ! -e $at-$tool-save.txt ] || $tool-legacy-restore < $at-$tool-save.txt; done
  ipset save; echo ==; ipvsadm -Sn; echo ==; iptables-legacy-save; echo ==; ip6tables-legacy-save; echo ==
done
""".replace("LAST", str(len(some) - 1))
    said = in_uml(script, "ipset", "ipvsadm", "iptables-legacy-restore", "ip6tables-legacy-restore", files=files).split("==\n")
    for at, case in enumerate(some):
        saved, virtual, *both = said[4 * at : 4 * at + 4]
        assert (case.name, sets(saved)) == (case.name, sets(files[f"{at}-ipset-save.txt"]))
        assert (case.name, virtual) == (case.name, files[f"{at}-ipvsadm-save.txt"])
        for name, text in zip(("iptables-save.txt", "ip6tables-save.txt"), both, strict=True):
            if f"{at}-{name}" in files:
                assert (case.name, tables(text)) == (case.name, tables(files[f"{at}-{name}"]))

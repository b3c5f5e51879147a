"""The compiler against what the real kube-proxy 1.36 programmed: every golden, both renderings."""

import json
import re
from pathlib import Path

import pytest

from dataplane.kube.load import load, node_of
from dataplane.proxy.compile import Compiled, compile_node
from dataplane.text.iptables import print_save
from dataplane.text.snapshot import read_snapshot
from tests.shared import cases, needs_shared

GOLDENS = [path.parent for path in cases("goldens/*/iptables")]
_SHUFFLED = re.compile(r"-A (KUBE-(?:SERVICES|NODEPORTS|EXTERNAL-SERVICES|PROXY-FIREWALL)) ")


def compiled(case: Path) -> Compiled:
    facts = json.loads((case / "case.json").read_text())
    cluster = load([str(case / "manifest.yaml")], config=str(case / "kube-proxy-iptables.yaml"))
    links = read_snapshot(case / "network")[0].links
    families = [int(name[-1]) for name in facts["families"].split(",")]
    return compile_node(cluster, node_of(cluster, facts["node"]), links=links, families=families)


def normalised(text: str) -> list[str]:
    """Without counters and comments; where kube-proxy walks a Go map, rules are sorted stably by their service port."""
    found: list[tuple[str, tuple[int, str, str], str]] = []
    table = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        plain = re.sub(r"\[\d+:\d+\]", "[0:0]", line)
        if plain.startswith("*"):
            table = plain
        shuffled = _SHUFFLED.match(plain)
        if shuffled is None:
            found.append(("", (0, "", ""), plain))
            continue
        last = "must be the last rule" in plain
        name = re.search(r'--comment "?([^\s"]+)', plain)
        key = (1, "", plain) if last else (0, name.group(1) if name else "", "")
        found.append((table + shuffled.group(1), key, plain))
    groups: dict[str, list[tuple[tuple[int, str, str], str]]] = {}
    for group, key, plain in found:
        groups.setdefault(group, []).append((key, plain))
    for group, rules in groups.items():
        if group:
            rules.sort(key=lambda rule: rule[0])
    queues = {group: iter(rules) for group, rules in groups.items()}
    return [next(queues[group])[1] for group, _, _ in found]


def blocks(text: str) -> dict[str, list[str]]:
    """Rules by table and chain, each in order; services inside a shuffled chain sorted."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in normalised(text):
        table = line if line.startswith("*") else table
        chain = line.split(" ")[1] if line.startswith("-A ") else ""
        found.setdefault(f"{table} {chain}", []).append(line)
    declarations = {key: sorted(lines) for key, lines in found.items() if key.endswith(" ")}
    return found | declarations


@needs_shared
@pytest.mark.parametrize("case", GOLDENS, ids=lambda path: path.name)
def test_what_iptables_save_prints_is_what_kube_proxy_programmed(case):
    made = compiled(case)
    for family, name in ((4, "iptables-save.txt"), (6, "ip6tables-save.txt")):
        if family in made.restore:
            assert normalised(print_save(made.state.xtables(family))) == normalised((case / "iptables" / name).read_text())


@needs_shared
@pytest.mark.parametrize("case", GOLDENS, ids=lambda path: path.name)
def test_the_restore_input_is_kube_proxys(case):
    made = compiled(case)
    golden = (case / "iptables/restore-input.txt").read_text()
    ends = [match.end() for match in re.finditer(r"(?m)^COMMIT\n", golden)][1::2]
    texts = [golden[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert len(texts) == len(made.restore)
    for family, text in zip(sorted(made.restore), texts, strict=True):
        assert blocks(made.restore[family]) == blocks(text)



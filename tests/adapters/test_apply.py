"""apply, against the real kernel: what stands afterwards is what was asked for, twice is no change, and nothing is left where it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.adapters import apply as applying
from dataplane.adapters import namespaces, ruleset, tools
from dataplane.adapters.apply import apply, cleanup, observe
from dataplane.errors import ApplyError, InputError
from dataplane.kube.load import load, node_of
from dataplane.proxy.compile import compile_node
from dataplane.rules.nodestate import NodeState
from dataplane.text.conntrack import parse_connections
from dataplane.text.iptables import parse_save, print_save
from dataplane.text.snapshot import parse_snapshot, read_snapshot
from tests.kernel import requirements
from tests.shared import cases, needs_shared

ROOT = Path(__file__).resolve().parents[2]
NAME = f"dptest-{os.getpid()}"
RULESETS = sorted(path.parent for path in (ROOT / "rulesets").glob("*/flows.yaml"))
EXTERNAL = ROOT / "rulesets/external-ip"


@pytest.fixture
def netns() -> Iterator[str]:
    requirements.require()
    yield NAME
    for one in (NAME, namespaces.outside_of(NAME)):
        namespaces.remove(one)
    namespaces.forget(NAME)


def compiled(directory: Path) -> NodeState:
    if (directory / "snapshot").is_dir():
        return read_snapshot(directory / "snapshot")[0]
    cluster = load([str(directory)])
    return compile_node(cluster, node_of(cluster, cluster.nodes[0].name)).state


def rules(state: NodeState) -> dict[tuple[int, str], str]:
    return {
        (xtables.family, name): uncounted(print_save(xtables._replace(tables={name: table}, headers={})))
        for xtables in (state.iptables, state.ip6tables)
        for name, table in xtables.tables.items()
        if any(chain.rules or chain.policy != "ACCEPT" for chain in table.chains.values())
    }


def uncounted(text: str) -> str:
    return "\n".join(line.split(" [")[0] if line.startswith(":") else line.partition("] ")[2] if line.startswith("[") else line for line in text.splitlines())


def same(state: NodeState, seen: NodeState) -> None:
    assert rules(seen) == rules(state)
    for link in state.links:
        found = next(one for one in seen.links if one.name == link.name)
        assert {(one.local, one.prefixlen) for one in link.addresses} == {(one.local, one.prefixlen) for one in found.addresses}
        assert (found.mtu, found.index, found.up) == (link.mtu, link.index, link.up)
    for routes, there in ((state.routes4, seen.routes4), (state.routes6, seen.routes6)):
        wanted = {(route.destination, route.table, tuple(hop.gateway for hop in route.nexthops)) for route in routes or () if route.protocol != "kernel"}
        assert wanted <= {(route.destination, route.table, tuple(hop.gateway for hop in route.nexthops)) for route in there or ()}


@pytest.mark.parametrize("directory", RULESETS, ids=lambda path: path.name)
def test_a_case_stands_and_twice_is_no_change(directory, netns):
    state = compiled(directory)
    done = apply(state, netns)
    assert done.made
    same(state, observe(namespaces.path_of(netns), state))
    assert apply(state, netns).steps == ()
    cleanup(netns)
    assert not namespaces.exists(netns)
    assert not namespaces.exists(namespaces.outside_of(netns))


@needs_shared
@pytest.mark.parametrize("directory", cases("goldens/*/iptables")[::5], ids=lambda path: path.parent.name)
def test_a_golden_stands(directory, netns):
    network = {path.name: path.read_text() for path in (directory.parent / "network").iterdir() if path.suffix == ".json"}
    texts = {path.name: path.read_text() for path in directory.iterdir() if path.name.endswith("tables-save.txt")}
    state = parse_snapshot({**network, **texts})[0]
    apply(state, netns)
    seen = observe(namespaces.path_of(netns), state)
    assert rules(seen) == rules(state)
    assert apply(state, netns).steps == ()


def test_a_changed_state_sends_the_difference_and_keeps_counters(netns):
    state = compiled(EXTERNAL)
    apply(state, netns)
    path = namespaces.path_of(netns)
    tools.run(path, "sh", "-c", "ping -c 1 -W 1 192.168.0.11 >/dev/null 2>&1; true")
    tools.run(path, "iptables-legacy-restore", "-c", text="*mangle\n[7:700] -A PREROUTING -j ACCEPT\nCOMMIT\n")
    seen = tools.run(path, "iptables-legacy-save", "-c", "-t", "mangle")
    assert "[7:700] -A PREROUTING -j ACCEPT" in seen
    extra = print_save(state.iptables).replace("-A KUBE-MARK-MASQ", "-A KUBE-MARK-MASQ -s 10.9.9.9/32 -j RETURN\n-A KUBE-MARK-MASQ", 1)
    extra = extra.replace("*mangle\n", "*mangle\n", 1)
    changed = state._replace(iptables=parse_save(extra, 4).xtables)
    done = apply(changed, netns)
    assert len(done.steps) == 1
    same(changed, observe(path, changed))


def moved() -> NodeState:
    """The external IP's case with an endpoint at another address."""
    cluster = load([str(EXTERNAL)])
    first, *others = cluster.endpoint_slices
    there = first._replace(endpoints=(first.endpoints[0]._replace(addresses=("10.244.1.77",)), *first.endpoints[1:]))
    return compile_node(cluster._replace(endpoint_slices=(there, *others)), node_of(cluster, "node-a")).state


def test_new_rules_are_compared_with_those_that_were_fed(netns, monkeypatch):
    apply(compiled(EXTERNAL), netns)

    def unread(old, new):
        assert not old.tables and not new.tables, "what stands is read"
        return ""

    monkeypatch.setattr(ruleset, "restore_input", unread)
    assert apply(compiled(EXTERNAL), netns).steps == ()
    done = apply(moved(), netns)
    assert len(done.steps) == 1 and len(done.steps[0].given.splitlines()) < 20
    same(moved(), observe(namespaces.path_of(netns), moved()))
    assert apply(moved(), netns).steps == ()


def test_what_others_did_to_the_rules_in_between_is_seen(netns):
    apply(compiled(EXTERNAL), netns)
    path = namespaces.path_of(netns)
    for state in (compiled(EXTERNAL), moved()):
        tools.run(path, "iptables-legacy", "-t", "nat", "-I", "KUBE-SERVICES", "-j", "RETURN")
        assert len(apply(state, netns).steps) == 1
        same(state, observe(path, state))


CONNECTIONS = """\
ipv4     2 udp      17 100 src=10.244.1.9 dst=10.96.0.20 sport=4001 dport=53 src=10.244.1.5 dst=192.168.0.11 sport=5353 dport=61000 [ASSURED] mark=0 use=1
ipv4     2 tcp      6 431999 ESTABLISHED src=10.244.1.9 dst=10.96.0.20 sport=4002 dport=80 src=10.244.1.5 dst=10.244.1.9 sport=8080 dport=4002 [ASSURED] mark=7 use=1
ipv4     2 icmp     1 25 src=10.244.1.9 dst=192.0.2.10 type=8 code=0 id=9 [UNREPLIED] src=192.0.2.10 dst=10.244.1.9 type=0 code=0 id=9 mark=0 use=1
ipv6     10 udp      17 100 src=2001:db8::5 dst=2001:db8::10 sport=1 dport=2 [UNREPLIED] src=fd00::5 dst=2001:db8::5 sport=3 dport=1 mark=0 use=1
ipv4     2 sctp     132 100 ESTABLISHED src=10.244.1.9 dst=192.0.2.10 sport=5 dport=6 src=192.0.2.10 dst=10.244.1.9 sport=6 dport=5 [ASSURED] mark=0 use=1
"""


def test_known_connections_stand_with_their_nat(netns):
    state = compiled(EXTERNAL)._replace(connections=parse_connections(CONNECTIONS))
    assert apply(state, netns).warnings == ("known connections of protocols that the conntrack command cannot make: 1",)
    seen = observe(namespaces.path_of(netns), state).connections
    wanted = {(one.original, one.reply, one.state, one.flags, one.mark) for one in state.connections if one.protocol != 1}
    assert {(one.original, one.reply, one.state, one.flags, one.mark) for one in seen} == wanted
    assert apply(state, netns).steps == ()


def test_what_the_kernel_refuses_leaves_nothing_behind(netns):
    state = compiled(EXTERNAL)
    wrong = state._replace(iptables=parse_save("*filter\n-A INPUT -m set --match-set NOT-THERE src -j DROP\nCOMMIT\n", 4).xtables)
    with pytest.raises(ApplyError, match="NOT-THERE"):
        apply(wrong, netns)
    assert not namespaces.exists(netns)
    assert not namespaces.exists(namespaces.outside_of(netns))
    apply(state, netns)
    with pytest.raises(ApplyError, match="NOT-THERE"):
        apply(wrong, netns)
    same(state, observe(namespaces.path_of(netns), state))


def test_a_namespace_of_somebody_else_is_not_touched(netns):
    namespaces.create(netns)
    with pytest.raises(ApplyError, match="was not made by dataplane"):
        apply(compiled(EXTERNAL), netns)
    with pytest.raises(ApplyError, match="was not made by dataplane"):
        cleanup(netns)
    assert namespaces.exists(netns)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-x", "x" * 300])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InputError, match="not a name"):
        apply(NodeState(), name)


def test_two_at_once_do_not_mix(netns):
    with namespaces.alone(netns), pytest.raises(ApplyError, match=f"process {os.getpid()}"):
        apply(compiled(EXTERNAL), netns, wait=0)


def test_a_tool_that_outlives_a_killed_apply_still_holds_the_lock(netns):
    code = (
        "import sys\nfrom dataplane.adapters import namespaces, ruleset, tools\n"
        "with namespaces.alone(sys.argv[1]):\n    print('held', flush=True)\n    tools.run(None, 'sleep', '2')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, netns], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        time.sleep(0.5)
        process.kill()
    with pytest.raises(ApplyError, match=f"another dataplane .process {process.pid}. is at work on {netns}"):
        apply(compiled(EXTERNAL), netns, wait=0)
    said: list[str] = []
    assert apply(compiled(EXTERNAL), netns, say=said.append).made
    assert said[0].startswith("waiting: another dataplane")


def test_nothing_is_left_of_what_was_cleaned_up(netns):
    apply(compiled(EXTERNAL), netns)
    cleanup(netns)
    assert not list(Path("/run/dataplane").glob(f"{netns}*"))


def test_a_namespace_that_took_the_place_of_ours_is_not_touched(netns):
    apply(compiled(EXTERNAL), netns)
    namespaces.remove(netns)
    namespaces.create(netns)
    with pytest.raises(ApplyError, match="was not made by dataplane"):
        apply(compiled(EXTERNAL), netns)
    with pytest.raises(ApplyError, match="was not made by dataplane"):
        cleanup(netns)
    namespaces.remove(netns)
    assert apply(compiled(EXTERNAL), netns).made


@pytest.mark.parametrize("stage", range(1, 12, 2))
def test_whoever_comes_after_a_killed_apply_can_go_on(stage, netns):
    """The process is killed before its n-th step."""
    script = (
        "import os, signal, sys\nfrom dataplane.adapters import apply as a\nfrom tests.adapters.test_apply import compiled, EXTERNAL\n"
        "left = [int(sys.argv[2])]\n"
        "def say(text):\n    left[0] -= 1\n    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "a.apply(compiled(EXTERNAL), sys.argv[1], say=say)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, netns, str(stage)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if stage % 4 == 1:
        cleanup(netns)
        assert not namespaces.exists(netns)
    state = compiled(EXTERNAL)
    apply(state, netns)
    same(state, observe(namespaces.path_of(netns), state))


def test_a_missing_tool_is_named_before_anything_is_done(netns, monkeypatch):
    monkeypatch.setattr(tools, "missing", lambda wanted: ["iptables-legacy-restore"] if "iptables-legacy-restore" in wanted else [])
    with pytest.raises(ApplyError, match=r"not installed: iptables-legacy-restore \(Debian: iptables\)"):
        apply(compiled(EXTERNAL), netns)
    assert not namespaces.exists(netns)


def test_without_root_it_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ApplyError, match="needs root"):
        applying.apply(NodeState(), NAME)


def test_a_dry_run_does_nothing(netns):
    began = time.monotonic()
    done = apply(compiled(EXTERNAL), netns, dry_run=True)
    assert any(step.text.startswith("ip addr add") for step in done.steps)
    assert not namespaces.exists(netns)
    assert time.monotonic() - began < 30

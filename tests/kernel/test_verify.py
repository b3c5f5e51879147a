"""``dataplane verify`` finds nothing where there is nothing, and finds what was put there: an emulator that is told other rules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.lines import Packet
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.adapters.lab.tracing import kernel_trace
from dataplane.verify.aim import packets_for
from dataplane.verify.plausible import completed
from dataplane.verify.run import Result, state_of, verify
from dataplane.verify.shrink import fewer_rules, shrunk
from tests.kernel import requirements
from tests.kernel.invent import invented

_RULES = """*nat
:ONE - [0:0]
-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.50000000000 -j ONE
-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.2.5:8080
-A ONE -p tcp -j DNAT --to-destination 10.244.1.5:8080
-A POSTROUTING -o eth0 -j MASQUERADE --random-fully
COMMIT
*filter
-A FORWARD -i cni0 -p udp -m udp --dport 53 -j DROP
-A INPUT -p udp -m udp --dport 53 -j ACCEPT
COMMIT
"""
_NODE = completed(Snapshot(iptables=_RULES))
_PACKETS = packets_for(_NODE, 1500, 3)


def _told(old: str, new: str) -> Result:
    """The kernel has the rules; the emulator is told others."""
    return verify(_NODE, _PACKETS, state=state_of(replace(_NODE, iptables=_RULES.replace(old, new))))


@pytest.mark.usefixtures("kernel")
def test_nothing_is_found_where_nothing_is() -> None:
    result = verify(_NODE, _PACKETS)
    assert result.disagreements == [] and result.packets == 1500 and result.unreached == []


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("--dport 53 -j DROP", "--dport 54 -j DROP", "verdict"),
        ("10.244.2.5:8080", "10.244.2.5:8081", "verdict dport"),
        ("-p udp -m udp --dport 53 -j ACCEPT", "-p udp -m udp --dport 54 -j ACCEPT", "counter"),
        ("0.50000000000", "0.10000000000", "chance"),
    ],
)
def test_another_emulator_is_caught(old: str, new: str, kind: str) -> None:
    """A chance of 0.1 instead of 0.5 is caught though no single packet shows it. Which field is told depends on what the kernel chose."""
    if kind == "chance":
        packets = [Packet(n, "cni0", "10.200.0.9", "10.96.0.1", "tcp", 2000 + n, 80, "S") for n in range(300)]
        result = verify(_NODE, packets, state=state_of(replace(_NODE, iptables=_RULES.replace(old, new))))
    else:
        result = _told(old, new)
    assert set(kind.split()) & {one.kind for one in result.disagreements}


@pytest.mark.usefixtures("kernel")
def test_connections_are_compared() -> None:
    other = replace(_NODE, sysctls={**_NODE.sysctls, "net.netfilter.nf_conntrack_udp_timeout": "77"})
    assert {one.kind for one in verify(_NODE, _PACKETS, state=state_of(other)).disagreements} == {"connection"}


@pytest.mark.usefixtures("kernel")
def test_a_disagreement_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the emulator reads a DROP it is told ACCEPT: one packet and one rule are left."""
    read = state_of
    monkeypatch.setattr("dataplane.verify.run.state_of", lambda one: read(replace(one, iptables=one.iptables.replace("-j DROP", "-j ACCEPT"))))
    first = verify(_NODE, _PACKETS).disagreements[0]
    packets, again = shrunk(_NODE, _PACKETS, first)
    snapshot, last = fewer_rules(_NODE, packets, again)
    assert first.kind == again.kind == last.kind == "verdict"
    assert len(packets) == 1
    assert [line for line in snapshot.iptables.splitlines() if "-A" in line] == ["-A FORWARD -i cni0 -p udp -m udp --dport 53 -j DROP"]


@pytest.mark.usefixtures("kernel")
def test_the_kernel_tells_its_own_way() -> None:
    told = kernel_trace(_NODE, [Packet(1, "cni0", "10.200.1.9", "10.200.0.9", "udp", 2000, 53)])
    assert "TRACE: filter:FORWARD:rule:1 udp 10.200.1.9 2000 > 10.200.0.9 53" in told.splitlines()


@pytest.mark.usefixtures("kernel")
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.randoms(use_true_random=False))
def test_invented_rules_agree(random: Random) -> None:
    """Matches, targets, chains and NAT as nobody would write them; hypothesis shrinks what fails."""
    snapshot = invented(random)
    result = verify(snapshot, packets_for(snapshot, 300, 1))
    assert not result.disagreements, snapshot.iptables + snapshot.ip6tables + result.disagreements[0].text


# ---------------------------------------------------------------------- the command


def _command(*arguments: str, wrapped: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*wrapped, sys.executable, "-m", "dataplane", "verify", *arguments], text=True, capture_output=True, timeout=120, check=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    files.write(tmp_path / "node", _NODE)
    return tmp_path / "node"


@pytest.mark.usefixtures("kernel")
def test_the_command_agrees(directory: Path) -> None:
    done = _command("--snapshot", str(directory), "--packets", "600", "--seed", "7", "-o", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["packets"], told["disagreements"], done.stderr) == (0, 600, [], "")


@pytest.mark.usefixtures("kernel")
def test_rules_that_no_packet_met_are_named(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"id": 1, "in": "cni0", "src": "10.200.1.9", "dst": "10.200.0.9", "proto": "udp", "dport": 54}\n')
    done = _command("--snapshot", str(directory), "--replay", str(tmp_path / "one.jsonl"))
    assert done.returncode == 0
    assert "not met: iptables -t filter -A FORWARD -i cni0 -p udp -m udp --dport 53 -j DROP\n" in done.stdout
    assert "disagreements: none" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (lambda node: (), 2, "say which node"),
        (lambda node: ("--snapshot", str(node), "--packets", "0"), 2, "0 is not in the range"),
        (lambda node: ("--snapshot", str(node / "nothing")), 1, "nothing"),
        (lambda node: ("--snapshot", str(node), "--replay", str(node / "none.jsonl")), 1, "none.jsonl"),
    ],
)
def test_wrong_usage_is_one_message(directory: Path, arguments: Callable[[Path], tuple[str, ...]], code: int, message: str) -> None:
    requirements.require()
    done = _command(*arguments(directory))
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_packets_that_are_none_are_named(directory: Path, tmp_path: Path) -> None:
    requirements.require()
    (tmp_path / "bad.jsonl").write_text('\n{"id": 1, "proto": "carrier pigeon"}\n')
    done = _command("--snapshot", str(directory), "--replay", str(tmp_path / "bad.jsonl"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/bad.jsonl:2: not a packet:")


def test_without_root_it_says_so() -> None:
    requirements.require()
    done = _command("--snapshot", "rulesets/docker-masquerade/snapshot", wrapped=("setpriv", "--bounding-set=-all", "--reuid=65534", "--clear-groups"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: verify: the kernel is only asked by root")

"""IPVS in the kernel (a user-mode-linux) and in the emulator: the same packets, the same ends, connections and counters."""

from __future__ import annotations

import pickle
import sys
import tempfile
from pathlib import Path

import pytest

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.lines import Packet
from dataplane.engine.netns import Netns
from dataplane.rules.nodestate import NodeState
from dataplane.text.snapshot import parse_snapshot, print_snapshot
from dataplane.verify.run import Kernel, judge
from tests.kernel.ipvs_cases import cases, golden_cases
from tests.kernel.ipvs_lab import Answer, Question
from tests.uml import in_uml

_SLACK = 4.0
REPOSITORY = Path(__file__).parents[2]


def ask(questions: list[Question]) -> list[Answer]:
    """One boot answers all of them."""
    with tempfile.TemporaryDirectory(prefix="dataplane-ipvs-") as directory:
        file = Path(directory, "questions")
        file.write_bytes(pickle.dumps(questions))
        script = f"cd {REPOSITORY}\nTMPDIR=/run PYTHONPATH={REPOSITORY} {sys.executable} -m tests.kernel.ipvs_lab {file}\n"
        in_uml(script, "ipvsadm", "iptables-legacy-restore", "nft", load=("ip_vs", "dummy", "veth", "nfnetlink_log", "nft_log"), memory=768, timeout=900)
        return pickle.loads(file.with_suffix(".answers").read_bytes())


def differences(state: NodeState, question: Question, answer: Answer) -> list[str]:
    if answer.error:
        return [answer.error]
    kernel = Kernel(answer.lines, {}, answer.connections, answer.at, 0.0)  # rules' counters are not told: the lab's own packets meet rules, too
    netns = Netns(state, fresh=True)
    result = judge(netns, question.packets, kernel)
    found = [f"{one.kind}: {one.text}" for one in result.disagreements]
    return found or connection_differences(netns, answer)


def connection_differences(netns: Netns, answer: Answer) -> list[str]:
    """``ipvsadm -Lnc`` against the emulator's table; expiry in seconds, as far as clocks agree."""
    netns.kernel.now = answer.at
    theirs = {line: seconds for line, seconds in map(_listed, answer.ipvs.splitlines()[2:])}
    ours = {str(conn): conn.expires_at - answer.at for conn in netns.ipvs.table}
    found = [f"only the kernel has the connection {line}" for line in theirs.keys() - ours.keys() if theirs[line] > _SLACK]
    found += [f"only the emulator has the connection {line}" for line in ours.keys() - theirs.keys() if ours[line] > _SLACK]
    both = theirs.keys() & ours.keys()
    return found + [f"{line} expires in {theirs[line]} s, not {ours[line]:.1f}" for line in both if abs(theirs[line] - ours[line]) > _SLACK]


def _listed(line: str) -> tuple[str, int]:
    """A connection without its time, as ``str(IPVSConn)`` has it, and the seconds that are left."""
    protocol, expires, state, *ends = line.split()
    minutes, seconds = expires.split(":")
    return f"{protocol:<3} {state:<11} {' '.join(ends)}", int(minutes) * 60 + int(seconds)


def as_snapshot(name: str, state: NodeState, packets: list[Packet]) -> tuple[NodeState, Question]:
    """Both sides read the same files."""
    printed = print_snapshot(state)
    return parse_snapshot(printed)[0], Question(name, files.parse(printed), packets)


@pytest.fixture(scope="module")
def asked() -> list[tuple[NodeState, Question, Answer]]:
    given = [as_snapshot(*case) for case in (*cases(), *golden_cases())]
    answers = ask([question for _, question in given])
    return [(state, question, answer) for (state, question), answer in zip(given, answers, strict=True)]


@pytest.mark.parametrize("name", [name for name, _, _ in (*cases(), *golden_cases())])
def test_the_emulator_does_what_the_kernel_does(name: str, asked: list[tuple[NodeState, Question, Answer]]) -> None:
    found = [differences(*one) for one in asked if one[1].name == name]
    assert found == [[]], "\n".join(found[0])

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
from dataplane.text.ipvsadm import parse_save
from dataplane.text.snapshot import parse_snapshot, print_snapshot
from dataplane.verify.compare import compare
from dataplane.verify.connections import connection_differences as tracked
from dataplane.verify.follow import Follower
from tests.kernel.ipvs_cases import cases, golden_cases, step_cases
from tests.kernel.ipvs_lab import Answer, Question, Step
from tests.uml import in_uml

_SLACK = 4.0
REPOSITORY = Path(__file__).parents[2]


def ask(questions: list[Question]) -> list[Answer]:
    """One boot answers all of them."""
    with tempfile.TemporaryDirectory(prefix="dataplane-ipvs-") as directory:
        file = Path(directory, "questions")
        file.write_bytes(pickle.dumps(questions))
        script = f"cd {REPOSITORY}\nTMPDIR=/run PYTHONPATH={REPOSITORY} {sys.executable} -c 'from tests.kernel import ipvs_lab; ipvs_lab.main()' {file}\n"
        in_uml(script, "ipvsadm", "iptables-legacy-restore", "nft", load=("ip_vs", "dummy", "veth", "nfnetlink_log", "nft_log"), memory=768, timeout=900)
        return pickle.loads(file.with_suffix(".answers").read_bytes())


def differences(state: NodeState, question: Question, answer: Answer) -> list[str]:
    """What the emulator holds to be impossible of what the kernel did; then the tables of connections."""
    if answer.error:
        return [answer.error]
    netns = Netns(state, fresh=True)
    follower, found = Follower(netns), []
    lines = iter(answer.lines)
    for step, at in zip((None, *question.steps), (0.0, *answer.times), strict=True):
        if step is not None:
            netns.kernel.conntrack, netns.kernel.memory = follower.worlds[0]
            netns.kernel.now = at
            netns.program_ipvs(parse_save(step.servers))
        for packet, line in zip(question.packets if step is None else step.packets, lines, strict=False):
            followed = follower.follow(packet, line)
            if not followed.fits and line["outcomes"]:
                found.append(f"{packet.line()}\n  {compare(followed.outcomes(), line['outcomes'][0])}")
    netns.kernel.conntrack, netns.kernel.memory = follower.worlds[0]
    return found or [*tracked(netns.kernel.conntrack, answer.connections, answer.at), *connection_differences(netns, answer)]


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


def as_snapshot(name: str, state: NodeState, packets: list[Packet], steps: tuple[Step, ...] = ()) -> tuple[NodeState, Question]:
    """Both sides read the same files."""
    printed = print_snapshot(state)
    return parse_snapshot(printed)[0], Question(name, files.parse(printed), packets, steps)


@pytest.fixture(scope="module")
def asked() -> list[tuple[NodeState, Question, Answer]]:
    given = [as_snapshot(*case) for case in (*cases(), *step_cases(), *golden_cases())]
    answers = ask([question for _, question in given])
    return [(state, question, answer) for (state, question), answer in zip(given, answers, strict=True)]


@pytest.mark.parametrize("name", [name for name, *_ in (*cases(), *step_cases(), *golden_cases())])
def test_the_emulator_does_what_the_kernel_does(name: str, asked: list[tuple[NodeState, Question, Answer]]) -> None:
    found = [differences(*one) for one in asked if one[1].name == name]
    assert found == [[]], "\n".join(found[0])

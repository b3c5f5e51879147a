"""Questions to a kernel, each of a node of its own: what happens to these packets there? And the answers.

The running kernel answers, or, where virtual servers are asked and it has no ip_vs, user-mode-linux, one boot a processor for all of them.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from dataplane.adapters.lab.clock import now
from dataplane.adapters.lab.lines import Line, Packet
from dataplane.adapters.lab.listing import Place, connections_of, counters_of
from dataplane.adapters.lab.node import Flavour, standing
from dataplane.adapters.lab.observer import Observer
from dataplane.adapters.lab.referee import Mode, Referee
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.adapters.lab.sockets import SocketObserver
from dataplane.adapters.lab.uml import boot_reason, in_uml
from dataplane.errors import LabError

_TOOLS: Final = ("ipvsadm", "ipset", "nfacct", "iptables-legacy-restore", "ip6tables-legacy-restore", "nft")
_MODULES: Final = ("ip_vs", "dummy", "veth", "nfnetlink_log", "nft_log")
_HERE: Final = Path("/proc/net/ip_vs")
_MEMORY: Final = 768  # MiB
_JIFFIES: Final = 0.1  # seconds: connections without a real server are looked for a jiffy after it went
_BOOT, _NODE, _PACKET = 60.0, 10.0, 0.05  # seconds that they may take in user-mode-linux


class Step(NamedTuple):
    """What is done to the virtual servers (lines of ipvsadm's arguments), what they are then (as saved), and what is sent after it."""

    commands: str
    servers: str
    packets: list[Packet]


class Question(NamedTuple):
    """A node and what is sent to it; then, step by step, what changes and what is sent after that."""

    snapshot: Snapshot
    packets: list[Packet]
    mode: Mode = "sequence"
    flavour: Flavour | None = None
    steps: tuple[Step, ...] = ()

    def everything(self) -> list[Packet]:
        """All packets."""
        return [*self.packets, *(packet for step in self.steps for packet in step.packets)]


class Answer(NamedTuple):
    """A line a packet, when each step was done, then the rules' counters, ``conntrack -L`` and ``ipvsadm -Lnc`` at the moment ``at``.

    ``counters`` is None where the observer's own packets meet rules, too. ``seconds`` is how long it took, without setting up the node.
    """

    lines: list[Line]
    times: list[float]
    counters: dict[Place, int] | None
    connections: str
    ipvs: str
    at: float
    seconds: float


def ask(question: Question) -> Answer:
    """The kernel's answer, of a node made for this alone. LabError where it cannot be asked."""
    (answer,) = ask_all([question])
    return answer


def ask_all(questions: Sequence[Question]) -> list[Answer]:
    """The answers to all of them, of the kernel that has what they need. LabError at the first that gets none."""
    if has_ipvs() or not any(question.snapshot.ipvs for question in questions):
        return [ask_here(question, Observer) for question in questions]
    count = min(len(questions), os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(_ask_uml, [list(questions[start::count]) for start in range(count)]))
    return [parts[place % count][place // count] for place in range(len(questions))]


def missing_for(snapshot: Snapshot) -> str | None:
    """Why nobody here can be asked about a node with virtual servers, or None."""
    if not snapshot.ipvs or has_ipvs():
        return None
    reason = boot_reason(*_TOOLS)
    return None if reason is None else f"virtual servers: the running kernel has no ip_vs, and {reason} (Debian: user-mode-linux kmod ipvsadm)"


@cache
def has_ipvs() -> bool:
    """Whether the running kernel has IPVS (its module is loaded if it is there)."""
    if not _HERE.exists():
        try:
            subprocess.run(["modprobe", "-q", "ip_vs"], check=False, capture_output=True)
        except OSError:
            return False
    return _HERE.exists()


def ask_here(question: Question, observed_by: type[Observer] | type[SocketObserver]) -> Answer:
    """The answer of the kernel that this process runs on."""
    with standing(question.snapshot, flavour=question.flavour, observed_by=observed_by) as node:
        referee = Referee(node)
        try:
            began = now()
            lines, times = referee.send(question.packets, question.mode), []
            for step in question.steps:
                node.inside.run("ipvsadm", "-R", text=step.commands)
                time.sleep(_JIFFIES)
                times.append(referee.clock())
                lines += referee.send(step.packets)
            seconds = now() - began
            counters = counters_of(node) if observed_by is Observer else None
            servers = node.inside.run("ipvsadm", "-Lnc") if question.snapshot.ipvs else ""
            return Answer(lines, times, counters, connections_of(node), servers, referee.clock(), seconds)
        finally:
            referee.close()


def _ask_uml(questions: list[Question]) -> list[Answer]:
    """The answers of one boot."""
    packets = sum(len(question.everything()) for question in questions)
    with tempfile.TemporaryDirectory(prefix="dataplane-ipvs-") as directory:
        file = Path(directory, "questions")
        file.write_bytes(pickle.dumps(questions))
        root = Path(__file__).resolve().parents[3]
        script = f"TMPDIR=/run PYTHONPATH={root} {sys.executable} -c 'from dataplane.adapters.lab import asking; asking.main()' {file}\n"
        in_uml(script, *_TOOLS, load=_MODULES, memory=_MEMORY, timeout=_BOOT + _NODE * len(questions) + _PACKET * packets)
        answers: list[Answer | LabError] = pickle.loads(file.with_suffix(".answers").read_bytes())
    for answer in answers:
        if isinstance(answer, LabError):
            raise answer
    return [answer for answer in answers if not isinstance(answer, LabError)]


def main() -> None:
    """Inside user-mode-linux: answers every question of a file."""
    file = Path(sys.argv[1])
    file.with_suffix(".answers").write_bytes(pickle.dumps([_tried(question) for question in pickle.loads(file.read_bytes())]))


def _tried(question: Question) -> Answer | LabError:
    try:
        return ask_here(question, SocketObserver)
    except LabError as error:
        return error

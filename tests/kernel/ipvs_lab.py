"""Asks IPVS in a kernel of our own: many nodes and their packets in one boot.

Run there as ``python -m tests.kernel.ipvs_lab FILE``: reads pickled questions (snapshot, packets), writes beside it what the kernel did.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import NamedTuple

from dataplane.adapters.lab.lines import Line, Packet
from dataplane.adapters.lab.listing import connections_of
from dataplane.adapters.lab.node import standing
from dataplane.adapters.lab.referee import Referee
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.adapters.lab.sockets import SocketObserver
from dataplane.errors import DataplaneError


class Step(NamedTuple):
    """What is done to the virtual servers (lines of ipvsadm's arguments), what they are then (as saved), and what is sent after it."""

    commands: str
    servers: str
    packets: list[Packet]


class Question(NamedTuple):
    """A node and what is sent to it, one packet after the other; then step by step."""

    name: str
    snapshot: Snapshot
    packets: list[Packet]
    steps: tuple[Step, ...] = ()


class Answer(NamedTuple):
    """What the kernel did: a line a packet, when each step was done, ``conntrack -L`` and ``ipvsadm -Lnc`` afterwards, at that moment; or why it could not."""

    lines: list[Line]
    times: list[float]
    connections: str
    ipvs: str
    at: float
    error: str = ""


def ask(question: Question) -> Answer:
    """One node's answers."""
    try:
        with standing(question.snapshot, observed_by=SocketObserver) as node:
            referee = Referee(node)
            try:
                lines, times = referee.send(question.packets), []
                for step in question.steps:
                    node.inside.run("ipvsadm", "-R", text=step.commands)
                    time.sleep(0.1)  # connections without a real server are looked for a jiffy later
                    times.append(referee.clock())
                    lines += referee.send(step.packets)
                return Answer(lines, times, connections_of(node), node.inside.run("ipvsadm", "-Lnc"), referee.clock())
            finally:
                referee.close()
    except DataplaneError as error:
        return Answer([], [], "", "", 0.0, str(error))


def main() -> None:
    """Answers every question of the file."""
    file = Path(sys.argv[1])
    questions: list[Question] = pickle.loads(file.read_bytes())
    file.with_suffix(".answers").write_bytes(pickle.dumps([ask(question) for question in questions]))


"""IPVS in the kernel (a user-mode-linux) and in the emulator: the same packets, the same ends, connections and counters.

DATAPLANE_REFEREE_IPVS says of how many cases one is asked: 1 for all of them.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.asking import Answer, Question, ask_all, missing_for
from dataplane.rules.nodestate import NodeState
from dataplane.text.snapshot import parse_snapshot, print_snapshot
from dataplane.verify.run import judge, netns_of
from tests.kernel.ipvs_cases import Case, cases, golden_cases, step_cases
from tests.uml import without_referee

_ONE_OF: Final = int(os.environ.get("DATAPLANE_REFEREE_IPVS", "8"))
_CASES: Final[list[Case]] = [*cases(), *step_cases(), *golden_cases()][::_ONE_OF]


@pytest.fixture(scope="module")
def asked() -> dict[str, tuple[NodeState, Question, Answer]]:
    """Both sides read the same files; few boots answer all of it."""
    states, questions = [], []
    for case in _CASES:
        printed = print_snapshot(case.state)
        states.append(parse_snapshot(printed)[0])
        questions.append(Question(files.parse(printed), case.packets, steps=case.steps))
    reason = missing_for(questions[0].snapshot)
    if reason is not None:
        without_referee(reason)
    return {case.name: one for case, *one in zip(_CASES, states, questions, ask_all(questions), strict=True)}


@pytest.mark.parametrize("name", [case.name for case in _CASES])
def test_the_emulator_does_what_the_kernel_does(name: str, asked: dict[str, tuple[NodeState, Question, Answer]]) -> None:
    state, question, answer = asked[name]
    found = judge(netns_of(state), question, answer).disagreements
    assert not found, "\n".join(f"{one.kind}: {one.text}" for one in found)

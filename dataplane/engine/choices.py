"""Where the kernel throws dice, the engine asks a Choices: seeded, scripted, or exhaustive.

Every random decision (``-m statistic --mode random``, an ECMP path, ``limit`` never) is one call of ``pick`` with the
exact weights. ``explore`` replays a walk over all decisions, depth first, and gives every outcome with its exact probability:
the walk is deterministic but for its choices, so the same prefix of answers leads to the same next question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Protocol, TypeVar

Outcome = TypeVar("Outcome")


class Choices(Protocol):
    """Answers to the kernel's random decisions."""

    def pick(self, weights: Sequence[int], what: str) -> int:
        """The index of the alternative taken; ``weights`` are relative and exact, ``what`` says what is decided."""

    def number(self, bound: int, what: str) -> int:
        """A uniform number below ``bound`` whose value changes no verdict (a random source port): never branched over."""


class Seeded:
    """Pseudo-random answers; the same seed gives the same answers."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).random

    def pick(self, weights: Sequence[int], what: str) -> int:  # noqa: ARG002 - the label serves other implementations
        """A weighted random alternative."""
        if len(weights) == 2:
            first, second = weights
            return 0 if self._draw() * (first + second) < first else 1
        ticket = int(self._draw() * sum(weights))
        for index, weight in enumerate(weights):
            ticket -= weight
            if ticket < 0:
                return index
        raise AssertionError("weights are positive")

    def number(self, bound: int, what: str) -> int:  # noqa: ARG002
        """A uniform number below ``bound``."""
        return int(self._draw() * bound)


class Scripted:
    """Answers given beforehand, for tests: alternatives for ``pick`` in order; then always the first one."""

    def __init__(self, answers: Sequence[int] = ()) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def pick(self, weights: Sequence[int], what: str) -> int:
        """The next scripted answer."""
        self.asked.append(what)
        answer = self._answers.pop(0) if self._answers else 0
        if not 0 <= answer < len(weights):
            raise ValueError(f"scripted answer {answer} for {what}: there are {len(weights)} alternatives")
        return answer

    def number(self, bound: int, what: str) -> int:
        """The middle of the range."""
        self.asked.append(what)
        return bound // 2


class _Replay:
    """Follows a prefix of answers, then takes the first possible alternative and notes what else there was."""

    def __init__(self, prefix: list[tuple[int, Sequence[int]]], numbers: Sequence[int]) -> None:
        self.taken = prefix
        self.numbers: list[int] = []
        self._given = numbers
        self._position = 0

    def pick(self, weights: Sequence[int], what: str) -> int:  # noqa: ARG002
        if self._position == len(self.taken):
            self.taken.append((next(index for index, weight in enumerate(weights) if weight), weights))
        index = self.taken[self._position][0]
        self._position += 1
        return index

    def number(self, bound: int, what: str) -> int:  # noqa: ARG002
        place = len(self.numbers)
        self.numbers.append(self._given[place] % bound if place < len(self._given) else bound // 2)
        return self.numbers[place]


def explore(walk: Callable[[Choices], Outcome], numbers: Sequence[int] = ()) -> Iterator[tuple[Fraction, Outcome]]:
    """Every outcome of ``walk`` with its exact probability, in the order of the alternatives.

    ``walk`` must start from the same state each time it is called. ``numbers`` answers the questions for a number, in order;
    what it does not answer is the middle of the range.
    """
    prefix: list[tuple[int, Sequence[int]]] = []
    while True:
        replay = _Replay(prefix, numbers)
        outcome = walk(replay)
        probability = Fraction(1)
        for index, weights in replay.taken:
            probability *= Fraction(weights[index], sum(weights))
        yield probability, outcome
        prefix = replay.taken
        while prefix:
            index, weights = prefix.pop()
            following = next((later for later in range(index + 1, len(weights)) if weights[later]), None)
            if following is not None:
                prefix.append((following, weights))
                break
        else:
            return

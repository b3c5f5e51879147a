"""Do the kernel's random choices come as often as the emulator says?

Every packet whose outcome tells which way it went is one draw: a set of ways with exact chances, of which one was seen. Draws with
the same chances at the same rules are added up, and Pearson's chi-square tells whether so great a deviation happens by chance.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Final

from dataplane.trace import ChoiceEvent, Trace
from dataplane.verify.compare import said
from dataplane.verify.follow import Followed

#: A deviation that comes once in a hundred million draws of this kind is none of chance.
_LEAST_CHANCE: Final = 1e-8
_LEAST_EXPECTED: Final = 5  # in each way, below which chi-square says little

_Kind = tuple[tuple[str, Fraction], ...]


class Chances:
    """Collects draws; ``unlikely`` tells those that deviate."""

    def __init__(self) -> None:
        self._seen: dict[_Kind, Counter[str]] = {}

    def note(self, followed: Followed) -> None:
        """One packet; it is a draw where several ways were possible and exactly one of them fits."""
        if len(followed.ways) < 2 or len(followed.traces) != 1 or not followed.fits:
            return
        ways = Counter[str]()
        kind: dict[str, Fraction] = {}
        for chance, trace in followed.ways:
            name = _name(trace)
            kind[name] = kind.get(name, Fraction(0)) + chance
            ways[repr(said(trace))] += 1
        if max(ways.values()) > 1 or sum(kind.values()) != 1:
            return
        self._seen.setdefault(tuple(kind.items()), Counter())[_name(followed.traces[0])] += 1

    def unlikely(self) -> list[str]:
        """Of the draws that deviate more than chance explains, what was expected and what came."""
        found = []
        for kind, seen in self._seen.items():
            total = sum(seen.values())
            if len(kind) < 2 or any(float(chance) * total < _LEAST_EXPECTED for _, chance in kind):
                continue
            statistic = sum((seen[name] - total * float(chance)) ** 2 / (total * float(chance)) for name, chance in kind)
            if chi_square_tail(statistic, len(kind) - 1) < _LEAST_CHANCE:
                ways = "; ".join(f"{name}: expected {float(chance) * total:.1f}, came {seen[name]}" for name, chance in kind)
                found.append(f"of {total} draws {ways}")
        return found


def chi_square_tail(statistic: float, freedom: int) -> float:
    """The chance of a chi-square at least so great: the upper regularized gamma function Q(freedom / 2, statistic / 2).

    By its series and its continued fraction (Abramowitz and Stegun 6.5.29 and 6.5.31).
    """
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for step in range(1, 1000):
            term *= x / (a + step)
            total += term
        return 1 - scale * total
    value = 0.0
    for step in range(200, 0, -1):
        value = step * (step - a) / (x + 2 * step + 1 - a - value)
    return scale / (x + 1 - a - value)


def _name(trace: Trace) -> str:
    """The choices of a walk."""
    return ", ".join(f"{event.what} {event.weight}/{event.total}" for event in trace.events if isinstance(event, ChoiceEvent))

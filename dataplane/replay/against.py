"""The same capture through two nodes: which packets change their fate?

An endpoint that chance chooses is no difference; that a packet is translated, refused, dropped, delivered or sent elsewhere is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dataplane.compare.fates import fate_of, parting
from dataplane.packet import describe
from dataplane.render.text import render
from dataplane.replay.walk import Replayed


class Change(NamedTuple):
    """Packets with the same pair of fates (in general words): how many, and the first of them, as both nodes saw it."""

    fates: tuple[str, str]
    packets: int
    example: tuple[Replayed, Replayed]


def changes(pairs: Iterable[tuple[Replayed, Replayed]]) -> list[Change]:
    """Every pair of fates that differs, the commonest first."""
    found: dict[tuple[str, str], Change] = {}
    for one, other in pairs:
        fates = fate(one), fate(other)
        if fates[0] != fates[1]:
            known = found.get(fates)
            found[fates] = known._replace(packets=known.packets + 1) if known is not None else Change(fates, 1, (one, other))
    return sorted(found.values(), key=lambda change: -change.packets)


def fate(one: Replayed) -> str:
    """A packet's fate in general words."""
    return fate_of(one.trace).general if one.trace is not None else f"not understood: {one.why}"


def text(found: list[Change], names: tuple[str, str], packets: int) -> Iterator[str]:
    """For people, one trace of each side for each change."""
    changed = sum(change.packets for change in found)
    yield f"{packets} packets, {names[0]} against {names[1]}: {changed or 'none'} end differently"
    for number, change in enumerate(found, 1):
        one, other = change.example
        yield ""
        yield f"{number}. {change.packets} packets"
        for name, general in zip(names, change.fates, strict=True):
            yield f"   {name}: {general}"
        if one.trace is None or other.trace is None or one.packet is None:
            continue
        yield f"   first: packet {one.number}, {describe(one.packet)}"
        for name, step in zip(names, parting(one.trace, other.trace), strict=True):
            yield f"   parts {name}: {step if step is not None else 'its end, a step before'}"
        for name, side in ((names[0], one.trace), (names[1], other.trace)):
            yield f"   {name}:"
            yield from (f"     {line}".rstrip() for line in render(side).splitlines())

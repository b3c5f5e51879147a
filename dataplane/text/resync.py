"""Two restore inputs of one writer, side by side: the smallest input that leads from the rules of one to those of the other.

Texts that one compiler wrote for two states are alike but for a few lines. They are compared in large pieces; where they part, the nearest line
is looked for from which both go on alike. Whatever chains stand in what lies between are compared rule by rule (text/difference), all others cannot
differ. Nothing is parsed, so that a change among hundreds of thousands of rules costs a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dataplane.rules.iptables import BUILTIN_CHAINS
from dataplane.text.difference import table_input

_PIECE: Final = 1 << 20  # characters that are compared at once
_NEAR: Final = 1 << 16  # how far away, in characters, the texts may meet again
_ALIKE: Final = 3  # lines in a row that count as having met
_FEW: Final = 12  # chains of which each is looked for by itself


class _Stretch(NamedTuple):
    """Whole lines of the first text, and what stands in their place in the second, as offsets."""

    first: int
    last: int
    low: int
    high: int


class _Part(NamedTuple):
    """Lines from ``*TABLE`` on."""

    table: str
    start: int
    end: int


def resync_input(old: str, new: str) -> str | None:
    """What ``iptables-restore --noflush`` must be fed. None where the texts differ in more than rules of chains that only they hold."""
    changed: dict[str, set[str]] = {}
    parts = _parts(old), _parts(new)
    for stretch in _stretches(old, new):
        for text, places, start, end in ((old, parts[0], stretch.first, stretch.last), (new, parts[1], stretch.low, stretch.high)):
            table = next((part.table for part in places if part.start <= start < part.end), "")
            for line in text[start:end].splitlines():
                chain = _chain_of(line)
                if chain is None or table not in BUILTIN_CHAINS or chain in BUILTIN_CHAINS[table]:
                    return None
                changed.setdefault(table, set()).add(chain)
    inputs = []
    for table, chains in changed.items():
        before, after = (_rules(text, [part for part in places if part.table == table], chains) for text, places in zip((old, new), parts, strict=True))
        inputs.append(table_input(table, before, after, emptied=False))
    return "".join(inputs)


def _parts(text: str) -> list[_Part]:
    found = []
    place = 0 if text.startswith("*") else text.find("\n*") + 1
    while text.startswith("*", place):
        following = text.find("\n*", place) + 1 or len(text)
        found.append(_Part(text[place + 1 : text.find("\n", place)], place, following))
        place = following
    return found


def _stretches(old: str, new: str) -> Iterator[_Stretch]:
    """Where the texts are not alike, from the beginning on."""
    first = low = 0
    while True:
        alike = _alike(old, new, first, low)
        first, low = first + alike, low + alike
        if first == len(old) and low == len(new):
            return
        last, high = _meeting(old, new, first, low)
        yield _Stretch(first, last, low, high)
        first, low = last, high


def _alike(old: str, new: str, first: int, low: int) -> int:
    """How many characters are the same from there on, in whole lines."""
    count, piece = 0, _PIECE
    while piece:
        one, other = old[first + count : first + count + piece], new[low + count : low + count + piece]
        if one and one == other:
            count += len(one)
        else:
            piece //= 2
    if first + count == len(old) and low + count == len(new):
        return count
    return max(old.rfind("\n", first, first + count) + 1 - first, 0)


def _meeting(old: str, new: str, first: int, low: int) -> tuple[int, int]:
    """The nearest place from which both texts go on alike; their ends where there is none near."""
    before, after = old[first : first + _NEAR].splitlines(keepends=True), new[low : low + _NEAR].splitlines(keepends=True)
    ahead: dict[tuple[str, ...], int] = {}
    place = low
    for number, line in enumerate(after):
        ahead.setdefault(tuple(after[number : number + _ALIKE]), place)
        place += len(line)
    place = first
    for number, line in enumerate(before):
        there = ahead.get(tuple(before[number : number + _ALIKE]))
        if there is not None:
            return place, there
        place += len(line)
    return len(old), len(new)


def _chain_of(line: str) -> str | None:
    """The chain that a line declares or adds to; None for any other line."""
    if line.startswith("-A "):
        return line.split(" ", 2)[1]
    return line[1:].split(" ", 1)[0] if line.startswith(":") else None


def _rules(text: str, parts: Sequence[_Part], chains: set[str]) -> dict[str, Sequence[str]]:
    """Of each of the chains that is there: its declaration, then its rules. A declaration empties its chain."""
    found: dict[str, list[str]] = {}
    for _, start, end in parts:
        for line in _lines_of(text, start, end, chains):
            chain = _chain_of(line)
            if chain not in chains:
                continue
            assert chain is not None
            if line.startswith(":"):
                found[chain] = [f":{chain} -"]
            else:
                found.setdefault(chain, [f":{chain} -"]).append(line)
    return dict(found)


def _lines_of(text: str, start: int, end: int, chains: set[str]) -> Iterator[str]:
    """Lines that may be about these chains, those of each chain in their order."""
    if len(chains) > _FEW:
        yield from text[start:end].splitlines()
        return
    for head in (f"\n{word}{chain} " for chain in chains for word in (":", "-A ")):
        place = text.find(head, start, end)
        while place >= 0:
            yield text[place + 1 : text.find("\n", place + 1)]
            place = text.find(head, place + 1, end)

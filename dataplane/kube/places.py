"""Finds the line and column of a field, by its path, in the text that a document came from; only when an error has to be told.

All fields that are asked for in one stretch of text are found in one pass over it, without building the document again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from dataplane.kube import jsontext, yamltext
from dataplane.kube.jsontext import Path
from dataplane.kube.manifest import Chunk, Document

#: Field paths of the API server that are spelt otherwise in manifests.
_SPELLINGS: Final = {"LoadBalancerSourceRanges": "loadBalancerSourceRanges"}
#: Lists that a manifest may give as a single value.
_SINGULAR: Final = {"clusterIPs": "clusterIP", "podCIDRs": "podCIDR", "podIPs": "podIP"}
_STEP: Final = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class _Found(NamedTuple):
    """Where a field's key and its value are, and whether it holds other fields."""

    key: Place
    value: Place
    collection: bool


def find(wanted: Sequence[tuple[Document, str]]) -> list[Place]:
    """The place of each field, or of its nearest parent that is there."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (document, _) in enumerate(wanted):
        groups.setdefault((id(document.chunk), document.start), []).append(index)
    starts: dict[int, list[int]] = {}
    places = [Place(1, 1)] * len(wanted)
    for members in groups.values():
        document = wanted[members[0]][0]
        paths = {index: [wanted[index][0].path + steps for steps in _spellings(wanted[index][1])] for index in members}
        prefixes = {path[:length] for several in paths.values() for path in several for length in range(len(path) + 1)}
        found = dict(_positions(document.chunk, document.start, prefixes, starts))
        for index in members:
            places[index] = _nearest(found, paths[index], Place(wanted[index][0].line or 1, 1))
    return places


def _nearest(found: Mapping[Path, _Found], paths: Iterable[Path], default: Place) -> Place:
    """Of a whole field its value (of a list or object the key), of the longest part of a path the key."""
    best: tuple[int, Place] = (-1, default)
    for path in paths:
        length = next((length for length in range(len(path), -1, -1) if path[:length] in found), -1)
        if length > best[0]:
            one = found[path[:length]]
            best = length, one.value if length == len(path) and not one.collection else one.key
    return best[1]


def _spellings(path: str) -> list[Path]:
    """The steps of a path, and those of the field that stands for it in shorter manifests."""
    steps: list[str | int] = []
    for match in _STEP.finditer(path):
        inner, name = match[1], match[2]
        if inner is None:
            steps.append(_SPELLINGS.get(name, name))
        else:
            steps.append(int(inner) if inner.isdecimal() and len(inner) < 10 else inner)
    spellings = [tuple(steps)]
    for index, step in enumerate(steps):
        if isinstance(step, str) and step in _SINGULAR:
            spellings.append((*steps[:index], _SINGULAR[step]))
    return spellings


def _positions(
    chunk: Chunk, start: int, wanted: set[Path], starts: dict[int, list[int]]
) -> Iterator[tuple[Path, _Found]]:
    if not chunk.json:
        for path, key, collection, value in yamltext.positions(chunk.text, start):
            if path in wanted:
                yield path, _Found(_moved(key, chunk), _moved(value, chunk), collection)
        return
    lines = starts.get(id(chunk))
    if lines is None:
        lines = starts[id(chunk)] = [0, *accumulate(len(line) + 1 for line in chunk.text.split("\n"))]
    for path, key_offset, offset in jsontext.positions(chunk.text, start):
        if path in wanted:
            key_place, value_place = _moved(_line(lines, key_offset), chunk), _moved(_line(lines, offset), chunk)
            yield path, _Found(key_place, value_place, chunk.text[offset] in "{[")


def _line(starts: Sequence[int], offset: int) -> tuple[int, int]:
    """Line and column of an offset, both from 0."""
    line = bisect_right(starts, offset) - 1
    return line, offset - starts[line]


def _moved(place: tuple[int, int], chunk: Chunk) -> Place:
    """A place in a chunk as a place in its file."""
    return Place(chunk.line + place[0], place[1] + 1)

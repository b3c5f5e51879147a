"""``ipset list``: the sets as people look at them and post them, read and printed.

Header and members are those of ``ipset save`` in other places, so they are read as a restore file is. Older versions print protocols
as numbers and leave lines out; posts have trailing blanks, and counts that no longer fit, which is told. Printing what the
command printed gives the same bytes. Not read: ipset 4 (before 2011), -o xml, -t (no members).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from dataplane.errors import Problem
from dataplane.rules.ipset import IPSet, IPSets
from dataplane.text.ipset import LineError, Reader, column_of, print_save
from dataplane.text.problems import Problems

#: What a list says of a set beside its content, in order.
_COUNTS: Final = ("Revision", "Size in memory", "References", "Number of entries")
_FIELDS: Final = ("Name", "Type", "Revision", "Header", "Size in memory", "References", "Number of entries", "Members")


class Listing(NamedTuple):
    """``facts`` are the numbers that the list tells of each set, by their titles; a set that nobody listed has none."""

    sets: IPSets
    facts: Mapping[str, Mapping[str, int]] = {}
    warnings: tuple[Problem, ...] = ()


def print_list(listing: Listing) -> str:
    """The sets as ``ipset list`` prints them; a number that is not known is left out."""
    return "\n".join(_block(one, listing.facts.get(one.name, {})) for one in listing.sets.sets.values())


def parse_list(text: str, *, file: str | None = None) -> Listing:
    """The sets of a list in its order. ParseError with all that is wrong; counts that do not fit are warnings."""
    reader = _ListReader(Problems(file))
    for number, line in enumerate(text.split("\n"), 1):
        reader.read(number, line)
    return reader.listing()


def _block(one: IPSet, facts: Mapping[str, int]) -> str:
    create, *members = print_save(IPSets({one.name: one})).splitlines()
    name = len(_quoted(one.name)) + 1
    values: dict[str, object] = {
        "Name": one.name, "Type": one.type, "Header": create[len("create ") + name + len(one.type) + 1 :], "Number of entries": len(members), **facts,
    }  # fmt: skip
    lines = [f"{title}: {values[title]}" for title in _FIELDS if title in values]
    return "".join(f"{line}\n" for line in [*lines, "Members:", *(member[len("add ") + name :] for member in members)])


@dataclass(slots=True)
class _Set:
    """One block of the list as far as it has been read; ``members`` with their line numbers."""

    name: str
    line: int
    type: str = ""
    header: tuple[int, str] | None = None
    facts: dict[str, int] = field(default_factory=dict)
    members: list[tuple[int, str]] = field(default_factory=list)
    inside: bool = False


class _ListReader:
    """Gathers the blocks, and has a Reader make the sets of them when all are known (a list of sets may come before its members)."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._blocks: list[_Set] = []
        self._fields: Mapping[str, Callable[[_Set, int, str], None]] = MappingProxyType({
            "Type": self._type, "Header": self._header, "Members": self._members, **{title: self._count(title) for title in _COUNTS},
        })  # fmt: skip

    def read(self, number: int, line: str) -> None:
        bare = line.strip()
        title, colon, value = bare.partition(":")
        if line.startswith("Name:"):
            self._blocks.append(_Set(value.strip(), number))
        elif not bare:
            if self._blocks:
                self._blocks[-1].inside = False
        elif not self._blocks:
            self._problems.add("expected Name: and a set's name, as ipset list prints it", line=number, column=1, source=line)
        elif self._blocks[-1].inside:
            self._blocks[-1].members.append((number, line))
        elif colon and title in self._fields:
            self._fields[title](self._blocks[-1], number, line)
        else:
            self._problems.add(f"expected one of {', '.join(_FIELDS)}, got {bare[:40]!r}", line=number, column=1, source=line)

    def listing(self) -> Listing:
        reader = Reader()
        for one in self._blocks:
            self._create(reader, one)
        for one in self._blocks:
            for number, line in one.members if one.name in reader.sets else ():
                self._carry_out(reader, f"add {_quoted(one.name)} ", number, line, 0)
        self._problems.raise_if_any()
        sets = {one.name: reader.sets[one.name].frozen() for one in self._blocks}
        facts = {one.name: one.facts for one in self._blocks}
        return Listing(IPSets(sets), facts, tuple(self._wrong_counts()))

    def _create(self, reader: Reader, one: _Set) -> None:
        if not one.type or one.header is None:
            self._problems.add(f"the set {one.name!r} has no {'Header' if one.type else 'Type'}", line=one.line)
            return
        number, line = one.header
        self._carry_out(reader, f"create {_quoted(one.name)} {one.type} ", number, line, len("Header:"))

    def _carry_out(self, reader: Reader, start: str, number: int, line: str, skip: int) -> None:
        command = start + line[skip:]
        try:
            reader.read(command)
        except LineError as error:
            column = column_of(command, error.word) - len(start) + skip
            self._problems.add(str(error), line=number, column=max(column, 1), source=line.rstrip())

    def _type(self, one: _Set, _number: int, line: str) -> None:
        one.type = line.partition(":")[2].strip()

    def _header(self, one: _Set, number: int, line: str) -> None:
        one.header = number, line

    def _members(self, one: _Set, _number: int, _line: str) -> None:
        one.inside = True

    def _count(self, title: str) -> Callable[[_Set, int, str], None]:
        def read(one: _Set, number: int, line: str) -> None:
            value = line.partition(":")[2].strip()
            if not (value.isascii() and value.isdigit() and len(value) < 20):
                self._problems.add(f"{title}: expected a number, got {value!r}", line=number, column=len(title) + 3, source=line.rstrip())
                return
            one.facts[title] = int(value)

        return read

    def _wrong_counts(self) -> list[Problem]:
        found = []
        for one in self._blocks:
            said = one.facts.get("Number of entries")
            if said is not None and said != len(one.members):
                message = f"the list says that the set has {said} members, and shows {len(one.members)}"
                found.append(Problem(message, self._problems.file, one.line, subject=f"set {one.name}"))
        return found


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name or "\t" in name else name

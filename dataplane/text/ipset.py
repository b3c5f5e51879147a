"""``ipset save``: reading what the command prints or ``ipset restore`` takes, and printing it.

A restore file is carried out, so that the result is what the kernel would hold: ranges are expanded, defaults and names are in
the spelling of ``ipset save``. Where a real restore stops at the first mistake, all of them are reported. Printing what
``ipset save`` printed gives the same bytes. ``ipset list`` is in ipset_list; not read: ``-o xml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from math import prod
from typing import Final

from dataplane.inet import mask_of, parse_address
from dataplane.rules.ipset import Element, Entry, IPSet, IPSets
from dataplane.text.ipset_elements import ElementError, expand, format_element, masked
from dataplane.text.ipset_options import (
    BARE,
    DEFAULTS,
    ENTRY_OPTIONS,
    FAMILIES,
    IGNORED,
    TYPE_ALIASES,
    TYPES,
    SetType,
    bitmap_range,
    create_value,
    range_bounds,
)
from dataplane.text.problems import Problems

Options = dict[str, str | None]
EntryOptions = tuple[tuple[str, str | None], ...]

_MAX_NAME: Final = 31
_WORD: Final = re.compile(r'[^ \t\r\n"]*"[^"]*"|[^ \t\r\n"]+|"')
_SPACE: Final = re.compile(r"[ \t]")
#: Commands by their names; the first that a shortened one fits is meant.
_COMMANDS: Final = (
    ("create", "new", "-N"), ("add", "-A"), ("del", "-D"), ("test", "-T"), ("destroy", "x", "-X"), ("list", "-L"),
    ("save", "-S"), ("restore", "-R"), ("flush", "-F"), ("rename", "ren", "-E"), ("swap", "sw", "-W"), ("help", "-h"),
    ("version", "-V"), ("quit",),
)  # fmt: skip
#: A mistake that only such a word forgives: what is added or made is there already.
_EXIST: Final = frozenset({"-exist", "-!"})
#: Create options in which two sets of one name may differ without a clash.
_TUNING: Final = frozenset({"hashsize", "bucketsize", "initval"})


def parse_save(text: str, *, file: str | None = None) -> IPSets:
    """The sets that a text of ``ipset save`` (or for ``ipset restore``) describes. ParseError with all that is wrong."""
    problems = Problems(file)
    reader = Reader()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reader.read(line)
        except LineError as error:
            problems.add(str(error), line=number, column=column_of(line, error.word), source=line.rstrip())
    problems.raise_if_any()
    return IPSets({name: made.frozen() for name, made in reader.sets.items()})


def print_save(sets: IPSets) -> str:
    """The sets as ``ipset save`` prints them; lists of sets come last, as the kernel dumps them."""
    ordered = sorted(sets.sets.values(), key=lambda one: one.type == "list:set")
    return "".join(line for one in ordered for line in _lines(one))


def format_member(one: IPSet, entry: Entry) -> str:
    """One member without its options: ``10.0.0.1,tcp:80``."""
    kinds = TYPES[one.type].kinds
    return ",".join(format_element(kind, element) for kind, element in zip(kinds, entry.elements, strict=False))


# ---------------------------------------------------------------------- printing


def _lines(one: IPSet) -> Iterator[str]:
    name = f'"{one.name}"' if _SPACE.search(one.name) else one.name
    family = f" family inet{'6' if one.family == 6 else ''}" if TYPES[one.type].family else ""
    options = "".join(_option(key, value) for key, value in one.options if key != "family")
    yield f"create {name} {one.type}{family}{options}\n"
    for entry in one.entries:
        yield f"add {name} {format_member(one, entry)}{''.join(_option(key, value) for key, value in entry.options)}\n"


def _option(name: str, value: str | None) -> str:
    if value is None:
        return f" {name}"
    return f' {name} "{value}"' if name == "comment" else f" {name} {value}"


# ---------------------------------------------------------------------- reading


class LineError(ValueError):
    """What is wrong with a line, and at which of its words (from 0)."""

    def __init__(self, message: str, word: int) -> None:
        super().__init__(message)
        self.word = word


@dataclass(slots=True)
class _Set:
    """A set while it is being read; ``step`` and ``mask`` are those of netmask and bitmask."""

    name: str
    type: str
    spec: SetType
    family: int
    options: Options
    entries: dict[tuple[Element, ...], EntryOptions] = field(default_factory=dict)
    always: Options = field(default_factory=dict)  # options that every member prints
    step: int | None = None
    mask: int | None = None
    masked: tuple[str, ...] = ()  # the dimensions that the mask is for
    bounds: tuple[int, int] | None = None
    most: int = 0  # 0: no limit

    def frozen(self) -> IPSet:
        entries = tuple([Entry(elements, options) for elements, options in self.entries.items()])
        return IPSet(self.name, self.type, self.family, tuple(self.options.items()), entries)

    def prepare(self) -> None:
        """Work out what members need from the create options."""
        netmask, bitmask, markmask = (self.options.get(name) for name in ("netmask", "bitmask", "markmask"))
        self.masked = ("mark",) if markmask is not None else ("ip", "net")
        if netmask is not None:
            self.step = int(netmask)
            self.mask = mask_of(self.family, self.step)
        elif bitmask is not None:
            self.mask = parse_address(bitmask, self.family)[1]
        elif markmask not in (None, DEFAULTS["markmask"]):
            self.mask = int(markmask or "0", 16)
        value = self.options.get("range")
        if value is not None:
            self.bounds = range_bounds(self.type, value)
        if self.type.startswith("hash:") and "forceadd" not in self.options:
            self.most = int(self.options["maxelem"] or 0)
        if "timeout" in self.options:
            self.always["timeout"] = self.options["timeout"]
        if "counters" in self.options:
            self.always.update(packets="0", bytes="0")

    def members(self, text: str) -> list[tuple[Element, ...]]:
        """What the element of an add or del line stands for. ElementError."""
        kinds = self.spec.kinds
        parts = text.split(",") if len(kinds) > 1 else [text]
        if not len(kinds) - self.spec.optional <= len(parts) <= len(kinds):
            raise ElementError(f"{self.type} expects {','.join(self.type.partition(':')[2].split(','))}, got {text!r}")
        step = self.step if len(kinds) == 1 else None
        values = [expand(kind, part, self.family, step) for kind, part in zip(kinds, parts, strict=False)]
        if self.mask is not None:
            values = [
                tuple(dict.fromkeys(masked(element, self.mask) for element in value)) if kind in self.masked else value
                for kind, value in zip(kinds, values, strict=False)
            ]
        if self.bounds is not None:
            self._check_bounds(values[0], text)
        elif kinds[0] in ("ip", "mac") and len(kinds) == 1 and any(_is_null(element) for element in values[0]):
            raise ElementError(f"{self.type} cannot hold {text!r}: the value is zero")
        size = prod(map(len, values))
        if self.most and size > self.most:
            raise ElementError(f"the set is full: {text} stands for {size} elements, maxelem is {self.most}")
        return list(product(*values))

    def _check_bounds(self, values: object, text: str) -> None:
        low, high = self.bounds or (0, 0)
        for element in values if isinstance(values, (list, tuple)) else ():
            number = element if isinstance(element, int) else element.address
            if not low <= number <= high:
                raise ElementError(f"{text} is outside of the range of the set, {self.options['range']}")


def _is_null(element: Element) -> bool:
    return element == 0 or (isinstance(element, tuple) and len(element) == 3 and element[1] == 0)


class Reader:
    """Carries out the lines of a restore file."""

    def __init__(self) -> None:
        self.sets: dict[str, _Set] = {}
        self._last: tuple[str, _Set] | None = None
        self._do: Mapping[str, tuple[Callable[[list[str], bool], None], int, int | None]] = {
            # how many arguments: at least, at most
            "create": (self._create, 2, None),
            "add": (self._add, 2, None),
            "del": (self._del, 2, None),
            "flush": (self._flush, 0, 1),
            "destroy": (self._destroy, 0, 1),
            "rename": (self._rename, 2, 2),
            "swap": (self._swap, 2, 2),
        }

    def read(self, line: str) -> None:
        """Carry out one line. LineError."""
        words = _split(line)
        if not words or words[0].startswith("#") or words[0] == "COMMIT":
            return
        exist = not _EXIST.isdisjoint(words)
        if exist:
            words = [word for word in words if word not in _EXIST]
        command = _command(words[0]) if words else ""
        if command not in self._do:
            raise LineError("expected create, add, del, flush, destroy, rename or swap", 0)
        do, least, most = self._do[command]
        if len(words) - 1 < least:
            raise LineError(f"{command} needs {least} arguments", len(words))
        if most is not None and len(words) - 1 > most:
            raise LineError(f"nothing more expected after {command} {' '.join(words[1 : most + 1])}", most + 1)
        do(words, exist)

    def _named(self, words: list[str], at: int = 1) -> _Set:
        found = self.sets.get(words[at])
        if found is None:
            raise LineError(f"there is no set {words[at]!r} yet", at)
        return found

    def _create(self, words: list[str], exist: bool) -> None:
        name = words[1]
        if len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME:
            raise LineError(f"the name of a set has at most {_MAX_NAME} characters", 1)
        made = _created(words)
        known = self.sets.get(name)
        if known is None:
            self.sets[name] = made
        elif not exist or not _same(known, made):
            raise LineError(f"there is a set {name!r} already{', made differently' if exist else ''}", 1)

    def _add(self, words: list[str], exist: bool) -> None:
        one = self._named(words)
        try:
            members = one.members(words[2])
        except ElementError as error:
            raise LineError(str(error), 2) from None
        options = _entry_options(one, words) if len(words) > 3 or one.always else ()
        entries = one.entries
        for elements in members:
            if not exist and elements in entries:
                raise LineError(f"{words[2]} is in the set {one.name!r} already", 2)
            entries[elements] = options
        if one.type == "list:set":
            self._place(one, words)
        if one.most and len(entries) > one.most:
            raise LineError(f"the set {one.name!r} is full: maxelem is {one.most}", 1)

    def _place(self, one: _Set, words: list[str]) -> None:
        """Move the member just added to a list of sets to before or after another."""
        if self._named(words, 2).type == "list:set":
            raise LineError("a list of sets cannot be in a list of sets", 2)
        for at in range(3, len(words) - 1):
            if words[at] in ("before", "after"):
                order = [key for key in one.entries if key != (words[2],)]
                if (words[at + 1],) not in order:
                    raise LineError(f"the set {words[at + 1]!r} is not in the list {one.name!r}", at + 1)
                order.insert(order.index((words[at + 1],)) + (words[at] == "after"), (words[2],))
                one.entries = {key: one.entries[key] for key in order}

    def _del(self, words: list[str], exist: bool) -> None:
        one = self._named(words)
        try:
            members = one.members(words[2])
        except ElementError as error:
            raise LineError(str(error), 2) from None
        for elements in members:
            if one.entries.pop(elements, None) is None and not exist:
                raise LineError(f"{words[2]} is not in the set {one.name!r}", 2)

    def _flush(self, words: list[str], _exist: bool) -> None:
        for one in [self._named(words)] if len(words) > 1 else self.sets.values():
            one.entries.clear()

    def _destroy(self, words: list[str], _exist: bool) -> None:
        if len(words) == 1:
            self.sets.clear()
            return
        one = self._named(words)
        for other in self.sets.values():
            if other.type == "list:set" and (one.name,) in other.entries:
                raise LineError(f"the set {one.name!r} is in the list {other.name!r}", 1)
        del self.sets[one.name]

    def _rename(self, words: list[str], _exist: bool) -> None:
        one = self._named(words)
        if words[2] in self.sets:
            raise LineError(f"there is a set {words[2]!r} already", 2)
        old, one.name = one.name, words[2]
        self.sets = {made.name: made for made in self.sets.values()}
        for other in self.sets.values():
            if other.type == "list:set":
                other.entries = {(one.name,) if key == (old,) else key: value for key, value in other.entries.items()}

    def _swap(self, words: list[str], _exist: bool) -> None:
        one, other = self._named(words), self._named(words, 2)
        if (one.type, one.family) != (other.type, other.family):
            raise LineError("sets of different types cannot be swapped", 2)
        one.name, other.name = other.name, one.name
        self.sets[one.name], self.sets[other.name] = one, other


def _split(line: str) -> list[str]:
    if '"' not in line and line.isprintable():
        return line.split()
    words: list[str] = []
    for found in _WORD.finditer(line):
        if found[0] == '"':
            raise LineError("missing close quote", len(words))
        word = found[0].replace('"', "")
        if word:
            words.append(word)
    return words


def column_of(line: str, word: int) -> int:
    """Where a word of a line begins (the end, if there are fewer)."""
    starts = [found.start() for found in _WORD.finditer(line) if found[0] not in ('""', *_EXIST)]
    return starts[word] + 1 if word < len(starts) else len(line.rstrip()) + 1


@lru_cache(maxsize=256)
def _command(word: str) -> str:
    bare = word.removeprefix("--")
    for names in _COMMANDS:
        if any(bare == name or (len(bare) and not name.startswith("-") and name.startswith(bare)) for name in names):
            return names[0]
    return ""


def _same(known: _Set, made: _Set) -> bool:
    def essence(one: _Set) -> Options:
        return {key: value for key, value in one.options.items() if key not in _TUNING}

    return (known.type, known.family, essence(known)) == (made.type, made.family, essence(made))


def _created(words: list[str]) -> _Set:
    type_name = TYPE_ALIASES.get(words[2], words[2])
    spec = TYPES.get(type_name)
    if spec is None:
        raise LineError(f"{words[2]!r} is no type of set; there are {', '.join(TYPES)}", 2)
    family, given = _create_words(words, type_name, spec)
    options: Options = {}
    for name in spec.create:
        if name in given:
            at, text = given[name]
            try:
                value = create_value(type_name, name, text, family) if name not in BARE else None
            except ElementError as error:
                raise LineError(f"{name}: {error}", at) from None
            if value is not None or name in BARE:
                options[name] = value
        elif name in DEFAULTS:
            options[name] = DEFAULTS[name]
        elif name == "range":
            raise LineError(f"{type_name} needs a range", len(words))
    if type_name == "bitmap:ip":
        try:
            options["range"] = bitmap_range(options["range"] or "", int(options.get("netmask") or 32))
        except ElementError as error:
            raise LineError(f"range: {error}", given["range"][0]) from None
    made = _Set(words[1], type_name, spec, family, options)
    made.prepare()
    return made


def _create_words(words: list[str], type_name: str, spec: SetType) -> tuple[int, dict[str, tuple[int, str]]]:
    """The family, and each option's place and value as written."""
    family = 4
    given: dict[str, tuple[int, str]] = {}
    at = 3
    while at < len(words):
        name = words[at].removeprefix("--")
        bare = name in BARE or name in ("-4", "-6")
        if not bare and at + 1 >= len(words):
            raise LineError(f"{name} needs a value", len(words))
        value = name if bare else words[at + 1]
        if name in ("family", "-4", "-6") and spec.family:
            if value not in FAMILIES:
                raise LineError(f"expected family inet or inet6, got {value!r}", at + 1)
            if "family" in given:
                raise LineError("family is given twice", at)
            family = FAMILIES[value]
            given["family"] = (at, value)
        elif name in ("from", "to", "network") and "range" in spec.create:
            before = given.pop("range", (at, ""))[1]
            value = f"{before}-{value}" if name == "to" else value
            given["range"] = (at + 1, value)
        elif name in spec.create:
            if name in given and name not in BARE:
                raise LineError(f"{name} is given twice", at)
            given[name] = (at + 1, value)
        elif name not in IGNORED:
            raise LineError(f"{type_name} has no option {words[at]!r}", at)
        at += 1 if bare else 2
    if "netmask" in given and "bitmask" in given:
        raise LineError("netmask and bitmask exclude each other", given["bitmask"][0] - 1)
    return family, given


def _entry_options(one: _Set, words: list[str]) -> EntryOptions:
    found: Options = dict(one.always)
    seen: set[str] = set()
    at = 3
    while at < len(words):
        name = words[at].removeprefix("--")
        if one.type == "list:set" and name in ("before", "after"):
            at += 2
            continue
        if name not in ENTRY_OPTIONS:
            raise LineError(f"members of sets have no option {words[at]!r}", at)
        extension, read = ENTRY_OPTIONS[name]
        if (extension or name) not in one.options and name not in one.spec.flags:
            raise LineError(f"the set {one.name!r} was made without {extension or name}", at)
        if name in seen:
            raise LineError(f"{name} is given twice", at)
        seen.add(name)
        if read is not None and at + 1 >= len(words):
            raise LineError(f"{name} needs a value", len(words))
        try:
            value = read(words[at + 1]) if read is not None else None
        except ElementError as error:
            raise LineError(f"{name}: {error}", at + 1) from None
        if value is not None or read is None:
            found[name] = value
        at += 1 if read is None else 2
    return tuple((name, found[name]) for name in ENTRY_OPTIONS if name in found)

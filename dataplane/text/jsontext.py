"""What the readers of ``ip -j`` output have in common: lists of objects whose fields keep their order, and the printer.

A JSON object is a tuple of (name, value) pairs here, an array a list: ``ip -j route`` prints a name twice in one object where a
route is encapsulated ("dst" of the route, then "dst" of the tunnel), which a dict would lose. Numbers with a fraction keep
their text (0.00). Knows no fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

from dataplane.inet import parse_address
from dataplane.rules.network import Rest
from dataplane.text.problems import Problems

_MAX_DEPTH: Final = 32
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # half a character, which JSON can spell and UTF-8 cannot
_BLANK: Final = re.compile(r"[ \t\r\n,]*")

#: Stands for a field that is not there (JSON's null is None).
ABSENT: Final = object()


class _Fraction(float):
    text: str

    def __new__(cls, text: str) -> _Fraction:
        made = super().__new__(cls, text)
        made.text = text
        return made


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def print_objects(objects: Iterable[Rest]) -> str:
    """The objects as ``ip -j`` prints them: one line, no blanks."""
    return f"[{','.join(_print(one) for one in objects)}]\n"


def arrange(known: Mapping[str, Any], rest: Rest, hidden: Mapping[str, Any]) -> Rest:
    """The fields of one object in the order in which they were read; those that were not read follow.

    ``known`` holds every field that the model decides, in the tool's order, ABSENT for those that are not there; ``hidden``
    the values that the tool prints only on demand, so that they are left out unless they were read.
    """
    out: list[tuple[str, Any]] = []
    placed: set[str] = set()
    for name, value in rest:
        if name not in known or name in placed:
            out.append((name, value))
        elif known[name] is not ABSENT:
            out.append((name, known[name]))
        placed.add(name)
    for name, value in known.items():
        if name not in placed and value is not ABSENT and hidden.get(name, ABSENT) != value:
            out.append((name, value))
    return tuple(out)


class Objects:
    """The objects of one text. Whatever is wrong goes to ``problems``; reading goes on with what is left."""

    def __init__(self, text: str, problems: Problems, command: str) -> None:
        self._text = text
        self.problems = problems
        self.items = [Item(one, self, number) for number, one in enumerate(self._parse(command)) if isinstance(one, tuple)]

    def _parse(self, command: str) -> list[Any]:  # JSON
        if not self._text.strip():
            self.problems.add(f"empty; expected the JSON that `{command}` prints, [] where there is nothing", line=1)
            return []
        try:
            value = json.loads(self._text, object_pairs_hook=tuple, parse_float=_Fraction, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(self._text.rstrip())
            message = f"not JSON: {error.msg}" if not cut else f"the JSON ends too early: {error.msg}"
            source = self._text.split("\n")[error.lineno - 1]
            self.problems.add(message, line=error.lineno, column=error.colno, source=source)
            return []
        except (ValueError, RecursionError) as error:
            self.problems.add(f"not the JSON that `{command}` prints: {error}")
            return []
        if not isinstance(value, list):
            self.problems.add(f"expected a list of objects as `{command}` prints it, got {describe(value)}", line=1)
            return []
        for number, one in enumerate(value):
            if not isinstance(one, tuple):
                self.report(number, f"expected an object, got {describe(one)}", f"[{number}]", None)
            elif _depth(one) > _MAX_DEPTH:
                self.report(number, f"nested more than {_MAX_DEPTH} levels deep", f"[{number}]", None)
        return value

    def report(self, number: int, message: str, path: str, subject: str | None) -> None:
        """Note a problem of the object with that number."""
        place = self._starts[number] if number < len(self._starts) else 0
        line = self._text.count("\n", 0, place) + 1
        column = place - self._text.rfind("\n", 0, place)
        self.problems.add(message, line=line, column=column, subject=subject, path=path)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each object begins; only looked for when something is wrong."""
        decoder = json.JSONDecoder()
        starts = []
        place = _end_of_blank(self._text, self._text.index("[") + 1)
        while self._text[place : place + 1] not in ("]", ""):
            starts.append(place)
            place = _end_of_blank(self._text, decoder.raw_decode(self._text, place)[1])
        return starts


class Item:
    """One object while its fields are being read; a field of the wrong kind is reported and its default taken."""

    def __init__(self, pairs: Rest, source: Objects, number: int, path: str = "") -> None:
        self.pairs = pairs
        self.subject: str | None = None
        self._source = source
        self._number = number
        self._path = path or f"[{number}]"
        self._values: dict[str, Any] = {}
        for name, value in pairs:
            self._values.setdefault(name, value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def replaced(self, pairs: Rest) -> Item:
        """The same object with other fields."""
        made = Item(pairs, self._source, self._number, self._path)
        made.subject = self.subject
        return made

    def _child(self, pairs: Rest, name: str) -> Item:
        made = Item(pairs, self._source, self._number, f"{self._path}.{name}")
        made.subject = self.subject
        return made

    def raw(self, name: str) -> Any:  # JSON
        """The value of a field as it is, None without it."""
        return self._values.get(name)

    def wrong(self, name: str, expected: str) -> None:
        """Report the value of a field."""
        got = describe(self._values[name]) if name in self._values else "nothing"
        path = f"{self._path}.{name}" if name else self._path
        self._source.report(self._number, f"expected {expected}, got {got}", path, self.subject)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, str) and not _SURROGATE.search(value):
            return value
        self.wrong(name, "a string")
        return None

    def number(self, name: str, low: int, high: int, *, needed: bool = False) -> int | None:
        """An integer from ``low`` to ``high``."""
        value = self._values.get(name)
        if value is None and not needed:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.wrong(name, f"a number from {low} to {high}")
        return None

    def hexadecimal(self, name: str, high: int) -> int | None:
        """A string such as ``0x10``."""
        text = self.text(name)
        if text is None:
            return None
        if re.fullmatch(r"0x[0-9a-fA-F]{1,8}|[0-9]{1,10}", text, re.ASCII):
            value = int(text, 16 if text.startswith("0x") else 10)
            if value <= high:
                return value
        self.wrong(name, f"a number from 0x0 to {high:#x} as a string")
        return None

    def flag(self, name: str) -> bool:
        """A field that is true when it is there."""
        value = self._values.get(name, False)
        if isinstance(value, bool):
            return value
        self.wrong(name, "true or false")
        return False

    def address(self, name: str, family: int, *, needed: bool = False) -> int | None:
        """An address of that family."""
        value = self._values.get(name)
        if value is None and not needed:
            return None
        try:
            return parse_address(value if isinstance(value, str) else "", family)[1]
        except ValueError:
            self.wrong(name, f"an IPv{family} address")
            return None

    def strings(self, name: str, *, needed: bool = False) -> tuple[str, ...]:
        """A list of strings."""
        value = self._values.get(name, None if needed else [])
        if isinstance(value, list) and all(isinstance(one, str) and not _SURROGATE.search(one) for one in value):
            return tuple(value)
        self.wrong(name, "a list of strings")
        return ()

    def items(self, name: str) -> list[Item]:
        """A list of objects."""
        value = self._values.get(name, [])
        if isinstance(value, list) and all(isinstance(one, tuple) for one in value):
            return [self._child(one, f"{name}[{at}]") for at, one in enumerate(value)]
        self.wrong(name, "a list of objects")
        return []

    def item(self, name: str) -> Item | None:
        """One object."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, tuple):
            return self._child(value, name)
        self.wrong(name, "an object")
        return None


def describe(value: object) -> str:
    """A JSON value in a few words, for messages."""
    match value:
        case tuple():
            return "an object"
        case list():
            return "a list"
        case _:
            text = _print(value)
            return text if len(text) <= 60 else f"{text[:60]}…"


def _end_of_blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place


def _depth(value: object) -> int:
    deepest = 0
    stack = [(value, 1)]
    while stack and deepest <= _MAX_DEPTH:
        one, depth = stack.pop()
        deepest = max(deepest, depth)
        children = one if isinstance(one, list) else [child for _, child in one] if isinstance(one, tuple) else ()
        stack += [(child, depth + 1) for child in children if isinstance(child, (list, tuple))]
    return deepest


def _print(value: Any) -> str:  # JSON
    if isinstance(value, tuple):
        return f"{{{','.join(f'{_print(name)}:{_print(one)}' for name, one in value)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_print, value))}]"
    if isinstance(value, _Fraction):
        return value.text
    return json.dumps(value, ensure_ascii=isinstance(value, str) and bool(_SURROGATE.search(value)))

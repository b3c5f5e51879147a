"""JSON text into values with their places: one by one, the items of a List singly, so that a large file is never held whole.

Duplicate keys are refused, as by Kubernetes' strict decoding, and so are NaN and Infinity. Places are found again only when
an error has to be told, by walking the tokens. Knows nothing of objects, except that a List has ``items``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from json import JSONDecodeError
from typing import Final, NamedTuple

Path = tuple[str | int, ...]

_BLANK: Final = re.compile(r"[ \t\n\r]*")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+')
_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class JSONProblem(Exception):  # the word that errors.Problem uses
    """What is wrong with the text, and where (an offset into it)."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message, self.offset = message, offset


class Value(NamedTuple):
    """A document, or one item of a List, and the offset at which it begins."""

    value: object
    offset: int


def read(text: str) -> Iterator[Value]:
    """The JSON values of a text; of a List (an object with ``items``) its items. Raises JSONProblem where it goes wrong."""
    reading = _Reading(text)
    index = _blank(text, 0)
    while index < len(text):
        start = index
        if text[index] == "{":
            index = yield from reading.document(index)
        else:
            value, index = reading.value(index)
            yield Value(value, start)
        index = _blank(text, index)


class _Reading:
    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
        self._mend = _ESCAPED_SURROGATE.search(text) is not None

    def value(self, index: int) -> tuple[object, int]:
        """The value that begins at an offset, and the offset behind it."""
        try:
            value, end = self._decoder.raw_decode(self._text, index)
        except RecursionError:
            raise JSONProblem("nested too deeply", index) from None
        except _DuplicateKeyError as error:
            raise JSONProblem(f'key "{error.key}" already set in map', _duplicate(self._text, index)) from None
        except JSONDecodeError as error:
            raise JSONProblem(f"invalid JSON: {error.msg}", error.pos) from None
        except ValueError as error:  # NaN, or a number with thousands of digits
            raise JSONProblem(f"invalid JSON: {error}", index) from None
        return _without_surrogates(value) if self._mend else value, end

    def document(self, start: int) -> Generator[Value, None, int]:
        """Yields the object that begins at an offset, or its items; returns the offset behind it."""
        members: dict[str, object] = {}
        items: list[Value] | None = None
        index = _blank(self._text, start + 1)
        while self._text[index : index + 1] != "}":
            if members or items is not None:
                index = self._expect(",", index)
            key, value_index = self._key(index, members)
            kind = members.get("kind", "List")
            if key == "items" and self._text[value_index : value_index + 1] == "[" and str(kind).endswith("List"):
                items, index = yield from self._items(value_index)
                members[key] = None
            else:
                members[key], index = self.value(value_index)
            index = _blank(self._text, index)
        if items is None:
            yield Value(members, start)
        else:
            yield from _typed(items, members, start)
        return index + 1

    def _key(self, index: int, members: Mapping[str, object]) -> tuple[str, int]:
        if self._text[index : index + 1] != '"':
            raise JSONProblem("invalid JSON: Expecting property name enclosed in double quotes", index)
        key, end = self.value(index)
        if key in members:
            raise JSONProblem(f'key "{key}" already set in map', index)
        return str(key), self._expect(":", _blank(self._text, end))

    def _items(self, start: int) -> Generator[Value, None, tuple[list[Value], int]]:
        """Yields the items that say what kind they are; returns the others, and the offset behind the list."""
        others: list[Value] = []
        index, first = _blank(self._text, start + 1), True
        while self._text[index : index + 1] != "]":
            if not first:
                index = self._expect(",", index)
            value, end = self.value(index)
            if isinstance(value, dict) and "kind" in value:
                yield Value(value, index)
            else:
                others.append(Value(value, index))
            index, first = _blank(self._text, end), False
        return others, index + 1

    def _expect(self, character: str, index: int) -> int:
        if self._text[index : index + 1] != character:
            raise JSONProblem(f"invalid JSON: Expecting '{character}' delimiter", index)
        return _blank(self._text, index + 1)


def _typed(items: list[Value], members: Mapping[str, object], start: int) -> Iterator[Value]:
    """The items of a typed list (ServiceList) leave out their kind: it is the list's."""
    kind = members.get("kind")
    if not isinstance(kind, str) or not kind.endswith("List"):
        raise JSONProblem(f"an object with items must be a List, kind is {json.dumps(kind)}", start)
    for item in items:
        if isinstance(item.value, dict) and kind != "List":
            header = {"kind": kind.removesuffix("List"), "apiVersion": members.get("apiVersion")}
            yield Value({**header, **item.value}, item.offset)
        else:
            yield item


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _DuplicateKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _without_surrogates(value: object) -> object:
    """Half surrogate pairs become U+FFFD, as in Go: no text that is printed may hold one."""
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", key): _without_surrogates(one) for key, one in value.items()}
    return value


def _blank(text: str, index: int) -> int:
    match = _BLANK.match(text, index)
    return match.end() if match else index


def positions(text: str, start: int) -> Iterator[tuple[Path, int, int]]:
    """Every value of the JSON text at an offset: its path, the offset of its key (or of itself) and its own."""
    path: list[str | int] = []
    key_offset: int | None = None
    expecting_key = False
    for match in _TOKEN.finditer(text, start):
        token = match[0]
        if token in "}]":
            path = path[:-1]
            expecting_key = False
        elif token == ",":
            expecting_key = bool(path) and isinstance(path[-1], str)
            if not expecting_key and path:
                path[-1] = int(path[-1]) + 1
        elif token == ":":
            expecting_key = False
        elif expecting_key:
            path[-1], key_offset = _unquoted(token), match.start()
            continue
        else:
            yield tuple(path), match.start() if key_offset is None else key_offset, match.start()
            if token in "{[":
                path.append("" if token == "{" else 0)
                expecting_key = token == "{"
        if token != ":":
            key_offset = None
        if not path:
            return


def _unquoted(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        return token


def _duplicate(text: str, start: int) -> int:
    """The offset of the first key that its object has already."""
    seen: set[Path] = set()
    for path, key, offset in positions(text, start):
        if path in seen and key != offset:
            return key
        seen.add(path)
    return start

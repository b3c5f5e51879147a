"""Takes typed fields out of plain dicts, as the API server's decoder does, and collects what has the wrong type.

A missing field and ``null`` are the same. Every method takes the dict, the key and the field path of the dict
(``spec.ports[0]``); what cannot be used is noted as a Violation and replaced by the empty value, so that one pass finds all.
Knows no kind of object. Strings that repeat all over a cluster are interned, and empty values are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from sys import intern
from typing import Final, TypeVar

from dataplane.kube.fielderrors import Violation, invalid

Fields = Mapping[str, object]
_Empty = TypeVar("_Empty")

NO_FIELDS: Final[Fields] = {}
NO_TEXTS: Final[Mapping[str, str]] = {}
_INT32: Final = range(-(1 << 31), 1 << 31)


class Reader:
    """Reads the fields of one object; ``violations`` are what was wrong with it, ``unknown`` the fields that nobody knows."""

    __slots__ = ("unknown", "violations")

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.unknown: list[str] = []

    def text(self, fields: Fields, key: str, at: str) -> str:
        """A string, empty where there is none."""
        value = fields.get(key)
        if type(value) is str:
            return value
        return "" if value is None else self._text(value, key, at)

    def optional_text(self, fields: Fields, key: str, at: str) -> str | None:
        """A string, or None where there is none."""
        value = fields.get(key)
        return None if value is None else self.text(fields, key, at)

    def name(self, fields: Fields, key: str, at: str) -> str | None:
        """A string that many objects share (of a node, a zone), interned; None where there is none."""
        value = fields.get(key)
        if type(value) is str:
            return intern(value)
        return None if value is None else self._text(value, key, at)

    def integer(self, fields: Fields, key: str, at: str) -> int:
        """A 32-bit integer, 0 where there is none."""
        return self.optional_integer(fields, key, at) or 0

    def optional_integer(self, fields: Fields, key: str, at: str) -> int | None:
        """A 32-bit integer, or None where there is none."""
        value = fields.get(key)
        if value is None:
            return None
        if type(value) is float and value.is_integer():  # 80.0 in YAML reaches the API server as 80
            value = int(value)
        if type(value) is not int:
            return self._refuse(value, key, at, "an integer", None)
        if value not in _INT32:
            return self._refuse(value, key, at, f"an integer between {_INT32.start} and {_INT32.stop - 1}", None)
        return value

    def boolean(self, fields: Fields, key: str, at: str) -> bool | None:
        """A boolean, or None where there is none."""
        value = fields.get(key)
        if value is None or value is True or value is False:
            return value
        return self._refuse(value, key, at, "a boolean", None)

    def integer_or_text(self, fields: Fields, key: str, at: str) -> int | str | None:
        """An IntOrString; None where there is none."""
        value = fields.get(key)
        if value is None or type(value) is str:
            return value
        if isinstance(value, (bool, list, dict)) or (type(value) is float and not value.is_integer()):
            return self._refuse(value, key, at, "an integer or a string", None)
        return self.optional_integer(fields, key, at)

    def mapping(self, fields: Fields, key: str, at: str) -> Fields:
        """A nested object, empty where there is none."""
        value = fields.get(key)
        if type(value) is dict:
            return value
        if value is None:
            return NO_FIELDS
        return value if isinstance(value, Mapping) else self._refuse(value, key, at, "an object", NO_FIELDS)

    def sequence(self, fields: Fields, key: str, at: str) -> Sequence[object]:
        """A list, empty where there is none."""
        value = fields.get(key)
        if type(value) is list:
            return value
        if value is None:
            return ()
        return value if isinstance(value, tuple) else self._refuse(value, key, at, "a list", ())

    def texts(self, fields: Fields, key: str, at: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.sequence(fields, key, at)
        if not values:
            return ()
        return tuple([
            value if type(value) is str else "" if value is None else self._text(value, f"{key}[{index}]", at)
            for index, value in enumerate(values)
        ])  # fmt: skip

    def objects(self, fields: Fields, key: str, at: str) -> Iterator[tuple[Fields, str]]:
        """The objects in a list, each with its own field path."""
        for index, value in enumerate(self.sequence(fields, key, at)):
            path = _join(at, f"{key}[{index}]")
            if isinstance(value, Mapping):
                yield value, path
            elif value is None:
                yield NO_FIELDS, path
            else:
                self._refuse(value, f"{key}[{index}]", at, "an object", None)

    def text_map(self, fields: Fields, key: str, at: str) -> Mapping[str, str]:
        """A map of strings, such as labels; empty where there is none."""
        values = self.mapping(fields, key, at)
        if not values:
            return NO_TEXTS
        texts: dict[str, str] = {}
        for name, value in values.items():
            text = value if type(value) is str else "" if value is None else self._text(value, f"{key}[{name}]", at)
            texts[intern(str(name))] = intern(text)
        return texts

    def known(self, fields: Fields, names: frozenset[str], at: str) -> None:
        """Note the fields that are none of ``names``."""
        if not fields.keys() <= names:
            self.unknown.extend(_join(at, name) for name in fields if name not in names)

    def _text(self, value: object, key: str, at: str) -> str:
        if isinstance(value, str):  # a subclass, from a caller's own dict
            return str(value)
        hint = ""
        if isinstance(value, bool):
            hint = " (unquoted yes, no, on, off, y and n are booleans in YAML: quote it)"
        elif isinstance(value, (int, float)):
            hint = " (quote it)"
        return self._refuse(value, key, at, f"a string{hint}", "")

    def _refuse(self, value: object, key: str, at: str, wanted: str, empty: _Empty) -> _Empty:
        self.violations.append(invalid(_join(at, key), value, f"must be {wanted}"))
        return empty


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key

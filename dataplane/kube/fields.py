"""Reading the fields of a plain object with their types checked; every problem is collected under its field path.

Wording follows the API server's decoder and validation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from dataplane.errors import Problem
from dataplane.kube.manifest import Document


class Problems:
    """What is wrong with one object so far."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.subject = ""
        self.found: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        """Notes a problem at a field path."""
        self.found.append(Problem(message, self.document.file, self.document.line_of(path), None, self.subject or None, path or None))

    def invalid(self, path: str, value: Any, detail: str) -> None:
        """``path: Invalid value: value: detail``."""
        self.add(path, f"Invalid value: {json.dumps(value, ensure_ascii=False)}: {detail}")


class Fields(NamedTuple):
    """A mapping at a field path."""

    value: dict[str, Any]
    path: str
    problems: Problems

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def _typed(self, name: str, kind: type, words: str) -> Any:
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.problems.invalid(self.at(name), value, f"must be {words}")
            return None
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._typed(name, str, "a string")
        return default if value is None else value

    def maybe_text(self, name: str) -> str | None:
        """A string or None."""
        value: str | None = self._typed(name, str, "a string")
        return value

    def number(self, name: str) -> int | None:
        """An integer or None."""
        value = self.value.get(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        number: int | None = self._typed(name, int, "an integer")
        return number

    def flag(self, name: str) -> bool | None:
        """A boolean or None."""
        value: bool | None = self._typed(name, bool, "a boolean (true or false)")
        return value

    def fields(self, name: str) -> Fields:
        """A mapping (empty where it is missing)."""
        value = self._typed(name, dict, "an object")
        return Fields(value or {}, self.at(name), self.problems)

    def items(self, name: str) -> Iterator[Fields]:
        """A list of mappings."""
        for index, value in enumerate(self._typed(name, list, "an array") or ()):
            path = f"{self.at(name)}[{index}]"
            if isinstance(value, dict):
                yield Fields(value, path, self.problems)
            else:
                self.problems.invalid(path, value, "must be an object")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        found = []
        for index, value in enumerate(self._typed(name, list, "an array") or ()):
            if isinstance(value, str):
                found.append(value)
            else:
                self.problems.invalid(f"{self.at(name)}[{index}]", value, "must be a string")
        return tuple(found)

    def mapping(self, name: str) -> dict[str, str]:
        """A mapping of strings to strings."""
        value = self._typed(name, dict, "an object") or {}
        for key, one in value.items():
            if not isinstance(one, str):
                self.problems.invalid(f"{self.at(name)}.{key}", one, "must be a string")
        return {key: one for key, one in value.items() if isinstance(one, str)}

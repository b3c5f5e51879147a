"""The API server's way of saying that a field is wrong: ``spec.ports[0].port: Invalid value: 0: must be between ...``.

One function a reason, as in ``k8s.io/apimachinery/pkg/util/validation/field``; values are rendered as Kubernetes 1.34 and
later do (strings quoted as Go quotes them, numbers and booleans bare, everything else as JSON). Knows no kind of object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from dataplane.errors import Problem

#: Lists and objects are cut off after this many characters.
_LONGEST: Final = 1000


class Violation(NamedTuple):
    """What is wrong at a field. ``path`` is printed; ``place`` is the path in the document, where that is spelt otherwise."""

    path: str
    message: str
    place: str | None = None

    def problem(self, subject: str, *, file: str | None = None, line: int | None = None, column: int | None = None) -> Problem:
        """The violation as a problem of an input."""
        return Problem(self.message, file, line, column, subject, self.path)


def invalid(path: str, value: object, detail: str) -> Violation:
    """The value may not stand there."""
    return Violation(path, f"Invalid value: {render(value)}: {detail}" if detail else f"Invalid value: {render(value)}")


def required(path: str, detail: str = "") -> Violation:
    """The field must be set."""
    return Violation(path, f"Required value: {detail}" if detail else "Required value")


def forbidden(path: str, detail: str) -> Violation:
    """The field must not be set, whatever its value."""
    return Violation(path, f"Forbidden: {detail}")


def duplicate(path: str, value: object) -> Violation:
    """The value stands in the list twice."""
    return Violation(path, f"Duplicate value: {render(value)}")


def not_supported(path: str, value: object, supported: Sequence[str]) -> Violation:
    """The value is none of a closed list."""
    names = ", ".join(render(name) for name in supported)
    return Violation(path, f"Unsupported value: {render(value)}: supported values: {names}")


def too_many(path: str, actual: int, most: int) -> Violation:
    """The list is too long."""
    return Violation(path, f"Too many: {actual}: must have at most {most} item{'' if most == 1 else 's'}")


def too_long(path: str, most: int) -> Violation:
    """The text is too long; its value is not repeated."""
    return Violation(path, f"Too long: may not be more than {most} bytes")


def render(value: object) -> str:
    """A value as the API server prints it in an error (Kubernetes >= 1.34)."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return _number(value)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    except (ValueError, TypeError, RecursionError):  # a caller's own dict may hold itself
        text = f"{type(value).__name__} value"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _number(value: float | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "g") if isinstance(value, float) else str(value)


_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def quote(text: str) -> str:
    """Go's ``%q``: double quotes, with everything that does not print escaped."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(_quoted(character) for character in text)}"'


def _quoted(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

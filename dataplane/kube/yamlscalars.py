"""What an unquoted YAML scalar means to Kubernetes: YAML 1.1 as sigs.k8s.io/yaml (go-yaml v2) reads it.

It differs from PyYAML: ``y`` and ``n`` are booleans too, ``1e3`` and ``0o17`` are numbers, ``1:20`` is no number, and what
looks like a date stays text. Source: sigs.k8s.io/yaml, goyaml.v2/resolve.go. No other file decides about scalars.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Final

Scalar = str | int | float | bool | None

_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_DIGIT_OR_SIGN: Final = frozenset("0123456789+-.")
_DECIMAL: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OCTAL: Final = re.compile(r"([-+]?)0o?([0-7]+)", re.IGNORECASE)
_BINARY: Final = re.compile(r"([-+]?)0b([01]+)", re.IGNORECASE)
_HEXADECIMAL: Final = re.compile(r"([-+]?)0x([0-9a-f]+)", re.IGNORECASE)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
#: CPython refuses to read longer decimal numbers; no field of Kubernetes holds one.
_LONGEST: Final = 1000


def resolve(text: str) -> Scalar:
    """The value of a plain scalar."""
    if text[:1] in _DIGIT_OR_SIGN and text not in _WORDS:
        number = _number(text.replace("_", "")) if len(text) <= _LONGEST else None
        return text if number is None else number
    return _WORDS.get(text, text)


def _number(text: str) -> int | float | None:
    if _DECIMAL.fullmatch(text):
        return int(text)
    for pattern, base in ((_OCTAL, 8), (_BINARY, 2), (_HEXADECIMAL, 16)):
        match = pattern.fullmatch(text)
        if match:
            return int(match[1] + match[2], base)
    value = float(text) if _FLOAT.fullmatch(text) else None
    return value if value is not None and isfinite(value) else None


def key_text(key: object) -> str | None:
    """A mapping key as JSON has it, always text; None for what Kubernetes refuses as a key (null, lists, mappings)."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key)
    if isinstance(key, float):
        return format(key, "g")
    return None

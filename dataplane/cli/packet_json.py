"""One packet as a line of JSON: which fields there are, what they may be, and what is said where they are not.

A Record is a line that was checked field by field; what a reply leaves out is derived elsewhere (packets).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dataplane.errors import ParseError, Problem
from dataplane.inet import ICMP, PROTOCOL_NUMBERS, SCTP, TCP, UDP, parse_address
from dataplane.packet_text import flag_bits

Json = Any  # whatever a line held

PROTOCOLS: Final[Mapping[str, int]] = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
#: Fields with a number, and the largest.
_NUMBERS: Final[Mapping[str, int]] = {
    "sport": 65535, "dport": 65535, "ttl": 255, "tos": 255, "mark": 0xFFFFFFFF, "seq": 0xFFFFFFFF, "ack": 0xFFFFFFFF, "window": 65535,
    "length": 65000, "type": 255, "code": 255, "chunk": 255, "uid": 0xFFFFFFFF, "gid": 0xFFFFFFFF,
}  # fmt: skip
_FIELDS: Final = ("id", "in", "src", "dst", "proto", "sport", "dport", "flags", "ttl", "reply_to", "mac", "physin", "at", *_NUMBERS)
_KNOWN: Final = frozenset(_FIELDS)


class Record:
    """One line: ``values`` has the fields that are not null, checked; addresses are (family, value), flags are bits."""

    __slots__ = ("file", "id", "line", "reply_to", "values")

    def __init__(self, file: str, line: int, given: Mapping[str, Json]) -> None:
        self.file, self.line = file, line
        if given.keys() - _KNOWN:
            strange = min(given.keys() - _KNOWN)
            self.refuse(f"unknown field {_shown(strange)}: expected some of {', '.join(dict.fromkeys(_FIELDS))}")
        self.id = self._key(given, "id")
        self.reply_to = self._key(given, "reply_to")
        self.values: dict[str, Json] = {}
        for name, value in given.items():
            if value is not None and name not in ("id", "reply_to"):
                self.values[name] = self._checked(name, value)

    def refuse(self, message: str) -> NoReturn:
        """A ParseError that names the file and the line."""
        raise ParseError(Problem(message, self.file, self.line))

    def _key(self, given: Mapping[str, Json], name: str) -> int | str | None:
        value = given.get(name)
        if isinstance(value, bool) or not isinstance(value, int | str | None):
            self.refuse(f"{name}: expected a number or a string, got {_shown(value)}")
        return value

    def _checked(self, name: str, value: Json) -> Json:
        high = _NUMBERS.get(name)
        if high is not None:
            if type(value) is not int or not 0 <= value <= high:
                self.refuse(f"{name}: expected a number from 0 to {high}, got {_shown(value)}")
            return value
        if name == "at":
            if type(value) not in (int, float) or not 0 <= value < 1e12:
                self.refuse(f"at: expected seconds on the virtual clock, got {_shown(value)}")
            return float(value)
        if not isinstance(value, str):
            self.refuse(f"{name}: expected a string, got {_shown(value)}")
        if name in ("src", "dst"):
            try:
                return parse_address(value)
            except ValueError:
                self.refuse(f"{name}: expected an IP address, got {_shown(value)}")
        return self._word(name, value)

    def _word(self, name: str, value: str) -> Json:
        if name == "flags":
            try:
                return flag_bits(value)
            except ValueError:
                self.refuse(f"flags: expected letters of FSRPAUEC, got {_shown(value)}")
        if name == "proto":
            number = PROTOCOLS.get(value, PROTOCOL_NUMBERS.get(value))
            if number is None:
                self.refuse(f"proto: expected tcp, udp, sctp or icmp, got {_shown(value)}")
            return number
        if name == "mac":
            try:
                return int.from_bytes(bytes.fromhex(value.replace(":", "")), "big")
            except ValueError:
                self.refuse(f"mac: expected a MAC address, got {_shown(value)}")
        return value


def read_line(text: str, file: str, number: int) -> Record | None:
    """The record of a line, None for a blank one. Raises ParseError with file and line."""
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            return None
        raise ParseError(Problem(f"invalid JSON: {error.msg}", file, number, error.colno)) from None
    except (RecursionError, ValueError):
        raise ParseError(Problem("invalid JSON: too deep, or a number too long", file, number)) from None
    if not isinstance(given, dict):
        raise ParseError(Problem(f'expected an object such as {{"id": 1, "in": "eth0", …}}, got {_shown(given)}', file, number))
    return Record(file, number, given)


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Names that ``ip`` prints instead of numbers: scopes, tables, types of service, protocols.

They come from files that a node may have changed (/etc/iproute2/rt_*), so a name that was read is printed again as long as it
stands for the same number. Source: the files of iproute2 6.1 and, for types of service, also those of 4.x.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Final

from dataplane.inet import PROTOCOL_NAMES, PROTOCOL_NUMBERS
from dataplane.rules.network import SCOPES, TABLES, Rest
from dataplane.text.jsontext import Item

_U32: Final = 0xFFFFFFFF
_UNKNOWN_TABLE: Final = 1 << 32
_SCOPE_NAMES: Final = {number: name for name, number in SCOPES.items()}
_TABLE_NAMES: Final = {number: name for name, number in TABLES.items()}
_TOS_NAMES: Final = {
    0x28: "AF11", 0x30: "AF12", 0x38: "AF13", 0x48: "AF21", 0x50: "AF22", 0x58: "AF23", 0x68: "AF31", 0x70: "AF32",
    0x78: "AF33", 0x88: "AF41", 0x90: "AF42", 0x98: "AF43", 0x20: "CS1", 0x40: "CS2", 0x60: "CS3", 0x80: "CS4", 0xA0: "CS5",
    0xC0: "CS6", 0xE0: "CS7", 0xB8: "EF",
}  # fmt: skip
_TOS: Final = {name: number for number, name in _TOS_NAMES.items()} | {
    "default": 0, "lowdelay": 0x10, "throughput": 0x08, "reliability": 0x04, "mincost": 0x02, "le": 0x04,
}  # fmt: skip
_DECIMAL: Final = re.compile(r"[0-9]{1,10}", re.ASCII)


def read_scope(item: Item) -> int:
    """The scope of an address or a route."""
    text = item.text("scope")
    if text is None:
        return 0
    if text in SCOPES:
        return SCOPES[text]
    if _DECIMAL.fullmatch(text) and int(text) < 256:
        return int(text)
    item.wrong("scope", f"a scope ({', '.join(SCOPES)} or a number up to 255)")
    return 0


def scope_name(scope: int) -> str:
    """A scope as ``ip`` prints it."""
    return _SCOPE_NAMES.get(scope, str(scope))


def table_number(text: str) -> int:
    """The number of a routing table; a name that is not known here gets one of its own above 2**32."""
    if text in TABLES:
        return TABLES[text]
    if _DECIMAL.fullmatch(text) and int(text) <= _U32:
        return int(text)
    return _UNKNOWN_TABLE + zlib.crc32(text.encode("utf-8", "surrogatepass"))


def table_name(table: int, rest: Rest) -> str:
    """A table as ``ip`` prints it."""
    read = _as_read("table", table_number, table, rest)
    return read if read is not None else _TABLE_NAMES.get(table, str(table))


def read_tos(item: Item) -> int:
    """The type of service of a route or a rule, 0 where there is none."""
    text = item.text("tos")
    if text is None:
        return 0
    number = _tos_number(text)
    if number is None:
        item.wrong("tos", "a type of service such as 0x10 or CS1")
    return number or 0


def tos_name(tos: int, rest: Rest) -> str:
    """A type of service as ``ip`` prints it."""
    return _as_read("tos", _tos_number, tos, rest) or _TOS_NAMES.get(tos) or f"0x{tos:02x}"


def read_protocol(item: Item) -> int | None:
    """The ``ipproto`` of a rule."""
    text = item.text("ipproto")
    if text is None:
        return None
    bare = text.removeprefix("ipproto-")
    if text in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[text]
    if _DECIMAL.fullmatch(bare) and int(bare) < 256:
        return int(bare)
    item.wrong("ipproto", "the name or number of a protocol")
    return None


def protocol_name(protocol: int) -> str:
    """A protocol as ``ip rule`` prints it."""
    return PROTOCOL_NAMES.get(protocol) or f"ipproto-{protocol}"


def _tos_number(text: str) -> int | None:
    if text in _TOS:
        return _TOS[text]
    if re.fullmatch(r"0x[0-9a-fA-F]{1,2}", text, re.ASCII):
        return int(text, 16)
    return int(text) if _DECIMAL.fullmatch(text) and int(text) < 256 else None


def _as_read(field: str, number: Callable[[str], int | None], value: int, rest: Rest) -> str | None:
    for name, text in rest:
        if name == field and isinstance(text, str) and number(text) == value:
            return text
    return None

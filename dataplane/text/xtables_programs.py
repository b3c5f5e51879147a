"""Options that are small languages of their own: strings to search, u32 tests, BPF programs, dates, SCTP chunks.

Each is read into the form in which iptables-save prints it. Source: libxt_string.c, libxt_u32.c, libxt_bpf.c, libxt_time.c,
libxt_sctp.c of iptables 1.8.9.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from dataplane.rules.iptables import Option
from dataplane.text.xtables_extension import Facts
from dataplane.text.xtables_kinds import Kind, number

# ---------------------------------------------------------------------- strings

_MOST_BYTES: Final = 128


def _searched(words: Sequence[str], family: int) -> bytes:  # noqa: ARG001
    return words[0].encode("utf-8", "surrogateescape")


def _hex_searched(words: Sequence[str], family: int) -> bytes:  # noqa: ARG001
    """Text with blocks of hexadecimal bytes between bars; a backslash takes the next character as it is."""
    text, found, position, inside = words[0], b"", 0, False
    while position < len(text):
        char = text[position]
        if char == "\\" and position + 1 < len(text):
            found += text[position + 1].encode("utf-8", "surrogateescape")
            position += 1
        elif char == "|":
            inside = not inside
        elif not inside:
            found += char.encode("utf-8", "surrogateescape")
        elif char != " ":
            pair = text[position : position + 2]
            if not re.fullmatch("[0-9a-fA-F]{2}", pair):
                raise ValueError(f"invalid hex block in {text!r}")
            found += bytes((int(pair, 16),))
            position += 1
        position += 1
    if inside:
        raise ValueError(f"invalid hex block in {text!r}: a | is missing")
    return found


def _spelled(value: bytes) -> tuple[Option, ...]:
    """--string where all of it can be printed, --hex-string else."""
    if not value or len(value) > _MOST_BYTES:
        raise ValueError(f"expected a string of 1 to {_MOST_BYTES} bytes")
    printable = all(32 <= byte < 127 for byte in value) and not value.endswith(b"\\")
    return (Option("string" if printable else "hex-string", value),)


STRING_REWRITES: Final = {
    "string": (Kind("bytes", 1, _searched, lambda value, family: ""), _spelled),
    "hex-string": (Kind("bytes", 1, _hex_searched, lambda value, family: ""), _spelled),
}
SEARCHED: Final = Kind(
    "bytes", 1, _searched, lambda value, family: '"' + re.sub(r'(["\\])', r"\\\1", value.decode("ascii")) + '"'
)  # fmt: skip
HEX_SEARCHED: Final = Kind("bytes", 1, _hex_searched, lambda value, family: f'"|{value.hex()}|"')

# ---------------------------------------------------------------------- u32, BPF

_N: Final = r"\s*(?:0[xX][0-9a-fA-F]+|[0-9]+)\s*"
_LOCATION: Final = re.compile(rf"{_N}(?:(?:<<|>>|&|@){_N})*")
_RANGES: Final = re.compile(rf"{_N}(?::{_N})?(?:,{_N}(?::{_N})?)*")
_MOST_TESTS: Final = 10


def _u32(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    tests = words[0].split("&&")
    made = []
    for test in tests:
        location, equals, ranges = test.partition("=")
        if not equals or not _LOCATION.fullmatch(location) or not _RANGES.fullmatch(ranges):
            raise ValueError(f"expected LOCATION=RANGES joined by &&, got {test!r}")
        if len(re.findall(_N, location)) > _MOST_TESTS or ranges.count(",") >= _MOST_TESTS:
            raise ValueError(f"at most {_MOST_TESTS} operations and ranges are allowed")
        made.append(f"{_in_hex(location)}={_in_hex(ranges)}")
    if len(tests) > _MOST_TESTS:
        raise ValueError(f"at most {_MOST_TESTS} tests are allowed")
    return "&&".join(made)


def _in_hex(text: str) -> str:
    return re.sub(_N, lambda found: f"0x{number(found[0].strip()):x}", text)


def _bpf(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    count, *lines = words[0].split(",")
    instructions = [line.split() for line in lines if line.strip()]
    numbers = [number(count, 1, 64), *(number(part) for line in instructions for part in line)]
    if any(len(line) != 4 for line in instructions) or len(instructions) != numbers[0]:
        raise ValueError(f"expected as many BPF instructions of four numbers as said first, got {words[0]!r}")
    return ",".join((str(numbers[0]), *(" ".join(str(number(part)) for part in line) for line in instructions)))


U32: Final = Kind("string", 1, _u32, lambda value, family: f'"{value}"')
BPF: Final = Kind("string", 1, _bpf, lambda value, family: f'"{value}"')

# ---------------------------------------------------------------------- dates

_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = 86400
LAST_DATE: Final = "2038-01-19T03:14:07"


def _daytime(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2}))?", words[0])
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (99, 0, 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ValueError(f"expected a time of day HH:MM[:SS] before 24:00, got {words[0]!r}")
    return hours * 3600 + minutes * 60 + seconds


def _date(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    found = re.fullmatch(r"(\d{4})(?:-(\d\d?)(?:-(\d\d?)(?:T(\d\d?)(?::(\d\d?)(?::(\d\d?))?)?)?)?)?", words[0])
    try:
        if not found:
            raise ValueError
        year, month, day, hours, minutes, seconds = (int(part) if part else None for part in found.groups())
        moment = datetime(year or 0, month or 1, day or 1, hours or 0, minutes or 0, seconds or 0)
    except ValueError:
        raise ValueError(f"expected a date YYYY[-MM[-DD[Thh[:mm[:ss]]]]], got {words[0]!r}") from None
    if not "1970" <= moment.isoformat() <= LAST_DATE:
        raise ValueError(f"expected a date from 1970 to {LAST_DATE}, got {words[0]!r}")
    return moment.isoformat()


def _monthdays(words: Sequence[str], family: int) -> tuple[int, ...]:  # noqa: ARG001
    return tuple(sorted({number(part, 1, 31) for part in words[0].split(",")}))


def _weekdays(words: Sequence[str], family: int) -> tuple[str, ...]:  # noqa: ARG001
    given = set()
    for part in words[0].split(","):
        name = _WEEKDAYS[int(part) - 1] if re.fullmatch("[1-7]", part) else part[:3].capitalize()
        if name not in _WEEKDAYS or len(part) == 2:
            raise ValueError(f"{part!r} is not a valid day specifier")
        given.add(name)
    return tuple(name for name in _WEEKDAYS if name in given)


def time(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    """Inverted days are the other days; both ends of the day or none."""
    kept = {option.name: option for option in options}
    begin, end = (kept[name].value if name in kept else usual for name, usual in (("timestart", 0), ("timestop", _DAY - 1)))
    for name, value in (("timestart", begin), ("timestop", end)):
        kept.pop(name, None)
        if (begin, end) != (0, _DAY - 1):
            kept[name] = Option(name, value)
    for name, all_days in (("monthdays", tuple(range(1, 32))), ("weekdays", _WEEKDAYS)):
        if name in kept:
            chosen, negated = kept[name].value, kept.pop(name).negated
            days = tuple(day for day in all_days if (day in chosen) != negated)
            if days and days != all_days:
                kept[name] = Option(name, days)
    kept.pop("utc", None)
    if kept.pop("localtz", None) is not None:
        kept["kerneltz"] = Option("kerneltz")
    return list(kept.values())


DAYTIME: Final = Kind("daytime", 1, _daytime, lambda value, family: f"{value // 3600:02}:{value // 60 % 60:02}:{value % 60:02}")
DATE: Final = Kind("date", 1, _date, lambda value, family: str(value))
MONTHDAYS: Final = Kind("days", 1, _monthdays, lambda value, family: ",".join(map(str, value)))
WEEKDAYS: Final = Kind("names", 1, _weekdays, lambda value, family: ",".join(value))

# ---------------------------------------------------------------------- chunks of SCTP

_CHUNKS: Final = (
    "DATA", "INIT", "INIT_ACK", "SACK", "HEARTBEAT", "HEARTBEAT_ACK", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK", "ERROR", "COOKIE_ECHO",
    "COOKIE_ACK", "ECN_ECNE", "ECN_CWR", "SHUTDOWN_COMPLETE", "I_DATA", "ASCONF_ACK", "RE_CONFIG", "PAD", "FORWARD_TSN", "ASCONF",
    "I_FORWARD_TSN",
)  # fmt: skip
_CHUNK_FLAGS: Final = {"DATA": "IUBE", "I_DATA": "IUBE", "ABORT": "T", "SHUTDOWN_COMPLETE": "T"}  # highest bit first


def _chunks(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    how, text = words[0].lower(), words[1]
    if how not in ("all", "any", "only"):
        raise ValueError(f"expected all, any or only, got {words[0]!r}")
    if text.upper() in ("ALL", "NONE"):
        return f"{how} {text.upper()}"
    flags: dict[str, str] = {}
    for part in text.split(","):
        name, _, given = part.partition(":")
        name = name.upper()
        allowed = _CHUNK_FLAGS.get(name, "")
        if name not in _CHUNKS or not set(given.upper()) <= set(allowed):
            raise ValueError(f"unknown SCTP chunk or flag {part!r}")
        flags[name] = "".join(letter for flag in allowed for letter in given if letter.upper() == flag)
    return f"{how} " + ",".join(name + (f":{flags[name]}" if flags[name] else "") for name in _CHUNKS if name in flags)


CHUNKS: Final = Kind("chunks", 2, _chunks, lambda value, family: str(value))

"""The words of one line for ``ipvsadm -R``: options, and the values that they take. Knows no virtual servers.

As popt reads them: short options may stand together (-At ADDRESS) or with their value (-w5), long ones may have it after "=".
Quotes mean nothing. Source: ipvsadm 1.31 as observed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple


class Takes(Enum):
    NOTHING = auto()
    VALUE = auto()
    MAYBE = auto()  # the next word, unless that is an option


#: Long name, letter, what it takes, and the group of which one line may have one option.
_TABLE: Final = (
    ("add-service", "A", Takes.NOTHING, "command"),
    ("edit-service", "E", Takes.NOTHING, "command"),
    ("delete-service", "D", Takes.NOTHING, "command"),
    ("add-server", "a", Takes.NOTHING, "command"),
    ("edit-server", "e", Takes.NOTHING, "command"),
    ("delete-server", "d", Takes.NOTHING, "command"),
    ("clear", "C", Takes.NOTHING, "command"),
    ("zero", "Z", Takes.NOTHING, "command"),
    ("set", "", Takes.NOTHING, "command"),
    ("tcp-service", "t", Takes.VALUE, "service-address"),
    ("udp-service", "u", Takes.VALUE, "service-address"),
    ("sctp-service", "", Takes.VALUE, "service-address"),
    ("fwmark-service", "f", Takes.VALUE, "service-address"),
    ("ipv6", "6", Takes.NOTHING, "ipv6"),
    ("scheduler", "s", Takes.VALUE, "scheduler"),
    ("persistent", "p", Takes.MAYBE, "persistent"),
    ("netmask", "M", Takes.VALUE, "netmask"),
    ("pe", "", Takes.VALUE, "pe"),
    ("ops", "o", Takes.NOTHING, "ops"),
    ("sched-flags", "b", Takes.VALUE, "sched-flags"),
    ("real-server", "r", Takes.VALUE, "real-server"),
    ("masquerading", "m", Takes.NOTHING, "forwarding-method"),
    ("ipip", "i", Takes.NOTHING, "forwarding-method"),
    ("gatewaying", "g", Takes.NOTHING, "forwarding-method"),
    ("weight", "w", Takes.VALUE, "weight"),
    ("u-threshold", "x", Takes.VALUE, "u-threshold"),
    ("l-threshold", "y", Takes.VALUE, "l-threshold"),
    ("tun-type", "", Takes.VALUE, "tun-type"),
    ("tun-port", "", Takes.VALUE, "tun-port"),
    ("tun-nocsum", "", Takes.NOTHING, "checksum"),
    ("tun-csum", "", Takes.NOTHING, "checksum"),
    ("tun-remcsum", "", Takes.NOTHING, "checksum"),
)


class _Option(NamedTuple):
    name: str
    takes: Takes
    group: str


_LONG: Final = {name: _Option(name, takes, group) for name, _, takes, group in _TABLE}
_SHORT: Final = {letter: _LONG[name] for name, letter, _, _ in _TABLE if letter}
_WORD: Final = re.compile(r"\S+")


class LineError(ValueError):
    """What is wrong with a line; ``column`` counts from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


class Given(NamedTuple):
    """One option as given; ``value`` is empty where it has none. ``column`` is the value's, ``start`` the option's own."""

    name: str
    value: str
    column: int
    start: int = 0


@dataclass(slots=True)
class Line:
    """The options of a line by group, the other words, and the column where the line ends."""

    end: int
    options: dict[str, Given] = field(default_factory=dict)
    others: list[Given] = field(default_factory=list)

    def add(self, group: str, given: Given) -> None:
        """Note an option. LineError where the group has one already."""
        before = self.options.get(group)
        if before is not None:
            both = f"--{before.name} and --{given.name} exclude each other" if before.name != given.name else f"--{given.name} is given twice"
            raise LineError(both, given.start)
        self.options[group] = given

    def value(self, group: str) -> str | None:
        """What was given for a group, or None."""
        given = self.options.get(group)
        return given.value if given is not None else None

    def wrong(self, group: str, message: str) -> LineError:
        """An error at a group's option, or at the end where it is missing."""
        given = self.options.get(group)
        return LineError(message, given.column if given is not None else self.end)


def split_line(text: str) -> Line | None:
    """The options of a line, None for an empty one. LineError."""
    words = [(found[0], found.start() + 1) for found in _WORD.finditer(text)]
    if words and words[0][0] == "ipvsadm":
        del words[0]
    if not words:
        return None
    line = Line(len(text.rstrip()) + 1)
    queue = iter(words)
    waiting: Given | None = None  # takes the next word where that is no option
    for word, column in queue:
        if waiting is not None and not _is_option(word):
            line.options["persistent"] = Given(waiting.name, word, column, waiting.start)
            waiting = None
            continue
        waiting = None
        if not _is_option(word):
            line.others.append(Given("", word, column))
            continue
        for option, value in _options_of(word, column):
            if option.takes is Takes.VALUE and value is None:
                value, place = next(queue, ("", 0))
                if not place:
                    raise LineError(f"--{option.name} needs a value", line.end)
                given = Given(option.name, value, place, column)
            else:
                given = Given(option.name, value or "", column, column)
            line.add(option.group, given)
            waiting = given if option.takes is Takes.MAYBE and value is None else None
    return line


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _options_of(word: str, column: int) -> Iterator[tuple[_Option, str | None]]:
    """The options of one word, each with the value that stands in the same word."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        option = _LONG.get(name)
        if option is None or (equals and option.takes is Takes.NOTHING):
            raise LineError(f"ipvsadm's dumps have no option {word!r}", column)
        yield option, value if equals else None
        return
    for at, letter in enumerate(word[1:], 1):
        short = _SHORT.get(letter)
        if short is None:
            raise LineError(f"ipvsadm's dumps have no option '-{letter}'", column + (at if at > 1 else 0))
        rest = word[at + 1 :]
        if short.takes is not Takes.NOTHING:
            yield short, rest or None
            return
        yield short, None

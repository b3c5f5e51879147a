"""``conntrack -L -o extended``: reading it, plain ``conntrack -L`` and /proc/net/nf_conntrack; printing the first.

    ipv4     2 tcp      6 99 SYN_SENT src=… dst=… sport=… dport=… [UNREPLIED] src=… dst=… sport=… dport=… mark=0 use=1

Each line is the original direction's tuple, the tuple that replies are expected to have, and fields of the connection as a
whole; counters and zones of one direction stand after its tuple. Source: libnetfilter_conntrack (snprintf_default.c) as
observed with conntrack 1.4.7, nf_conntrack_standalone.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from dataplane.inet import GRE, ICMP, ICMPV6, format_address, parse_address
from dataplane.rules.network import Connection, Tuple
from dataplane.text.problems import Problems

#: Protocols by the names that the command gives them; all others are "unknown".
_NAMES: Final = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_SHOWN: Final = {"ipv4": 4, "ipv6": 6}

_TUPLE: Final = (
    r"src=(\S+) +dst=(\S+)"
    r"(?: +sport=(\d{1,5}) +dport=(\d{1,5})| +type=(\d{1,3}) +code=(\d{1,3}) +id=(\d{1,5})"
    r"| +srckey=(0x[0-9a-f]{1,8}) +dstkey=(0x[0-9a-f]{1,8}))?"
)
#: Fields of the whole connection: what comes before them belongs to the reply.
_WHOLE: Final = r"(?:mark|secmark|secctx|zone|delta-time|helper|labels|use|id)="
_LINE: Final = re.compile(
    r"(?:(ipv4|ipv6) +\d+ +)?(\S+) +(\d{1,3})(?: +(\d{1,10}))?(?: +([A-Z][A-Z0-9_]*))?(?: +timeout=\d+, stream_timeout=\d+)? +"
    rf"{_TUPLE}((?: +(?!src=|\[)\S+)*)((?: +\[[A-Z_]+\])*) +"
    rf"{_TUPLE}((?: +(?!{_WHOLE}|\[)\S+)*)((?: +\[[A-Z_]+\])*)((?: +(?:\[[a-z]+=[^\]]*\]|\S+))*)",
    re.ASCII,
)
_TOKEN: Final = re.compile(r"\[[a-z]+=[^\]]*\]|\S+", re.ASCII)
_FLAG: Final = re.compile(r"\[([A-Z_]+)\]", re.ASCII)
#: Groups of _LINE: where the tuples begin, and what follows each.
_ORIGINAL, _REPLY = 6, 17
_AFTER: Final = 9
_TAIL: Final = 28
#: How many there were: error output, which lands anywhere among the lines where both go to one file.
_SUMMARY: Final = re.compile(r"conntrack v[^ \n]+ \(conntrack-tools\): \d+ flow entries have been shown\.\n?", re.ASCII)
_EXPECTED: Final = "expected a line of `conntrack -L -o extended`"
_OTHERS: Final = (
    (re.compile(r" *\[(NEW|UPDATE|DESTROY)\]"), "this is an event of `conntrack -E`, not a line of a listing"),
    (re.compile(r"<\?xml|<conntrack"), "this is XML; expected the output of `conntrack -L -o extended`"),
    (re.compile(r"-[AD] -t "), "this is `-o save` output; expected the output of `conntrack -L -o extended`"),
)


def parse_connections(text: str, *, file: str | None = None) -> tuple[Connection, ...]:
    """The connections in the order of the text. ParseError with all that is wrong."""
    problems = Problems(file)
    connections = []
    for number, line in enumerate(_SUMMARY.sub("", text).split("\n"), 1):
        line = line.rstrip()
        if not line:
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            message, column = _explain(line)
            problems.add(message, line=number, column=column, source=line)
            continue
        try:
            connections.append(_connection(found))
        except _FieldError as error:
            problems.add(str(error), line=number, column=found.start(error.group) + 1, source=line)
    problems.raise_if_any()
    return tuple(connections)


def print_connections(connections: Iterable[Connection]) -> str:
    """The connections as ``conntrack -L -o extended`` prints them."""
    return "".join(_shown(one) for one in connections)


# ---------------------------------------------------------------------- reading


class _FieldError(ValueError):
    def __init__(self, message: str, group: int) -> None:
        super().__init__(message)
        self.group = group


def _connection(found: re.Match[str]) -> Connection:
    groups = found.groups()
    family = _SHOWN[groups[0]] if groups[0] is not None else 6 if ":" in groups[5] else 4
    protocol = int(groups[2])
    if protocol > 255:
        raise _FieldError(f"expected a protocol's number up to 255, got {protocol}", 3)
    before, between, behind, after, tail = groups[14], groups[15], groups[25], groups[26], groups[27]
    rest, mark, zone = _tail(tail)
    if mark is None or zone is None:
        raise _FieldError("expected mark=NUMBER and zone=NUMBER", _TAIL)
    if before or behind:
        rest = _beside("original.", before) + _beside("reply.", behind) + rest
    return Connection(
        family, protocol, _tuple(groups, _ORIGINAL, family, protocol), _tuple(groups, _REPLY, family, protocol),
        int(groups[3]) if groups[3] is not None else None, groups[4], _flags(between, after), mark, zone, rest,
    )  # fmt: skip


def _tuple(groups: tuple[str | None, ...], first: int, family: int, protocol: int) -> Tuple:
    src, dst, sport, dport, kind, code, ident, srckey, dstkey = groups[first - 1 : first + 8]
    if sport is not None and dport is not None:
        low, high = int(sport), int(dport)
        if low > 65535 or high > 65535:
            raise _FieldError("expected a port up to 65535", first + (2 if low > 65535 else 3))
    elif kind is not None and code is not None and ident is not None:
        low, high = int(ident), int(kind) << 8 | int(code)
        if int(kind) > 255 or int(code) > 255 or low > 65535:
            raise _FieldError("expected a type and code up to 255 and an id up to 65535", first + 4)
    elif srckey is not None and dstkey is not None:
        low, high = int(srckey, 16), int(dstkey, 16)
        if low > 65535 or high > 65535:
            raise _FieldError("expected a key up to 0xffff", first + (7 if low > 65535 else 8))
    else:
        low, high = 0, 0
    try:
        return Tuple(_parsed(src or "", family), _parsed(dst or "", family), protocol, low, high)
    except ValueError:
        at = first if not _is_address(src or "", family) else first + 1
        raise _FieldError(f"expected an IPv{family} address, got {groups[at - 1]!r}", at) from None


def _is_address(text: str, family: int) -> bool:
    try:
        parse_address(text, family)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=65536)
def _parsed(text: str, family: int) -> int:
    return parse_address(text, family)[1]


@lru_cache(maxsize=256)
def _flags(between: str, after: str) -> tuple[str, ...]:
    return tuple(_FLAG.findall(between + after))


def _beside(direction: str, text: str) -> tuple[tuple[str, str], ...]:
    """What follows one direction's tuple, such as its counters."""
    pairs = [token.partition("=") for token in text.split()]
    return tuple([(direction + name, value) if value else (direction + name + equals, "") for name, equals, value in pairs])


@lru_cache(maxsize=4096)
def _tail(text: str) -> tuple[tuple[tuple[str, str], ...], int | None, int | None]:
    """The fields of the whole connection, with those of Connection left empty, and mark and zone (None: not a number)."""
    rest = []
    numbers: dict[str, int | None] = {"mark": 0, "zone": 0}
    for name, value in map(_pair, _TOKEN.findall(text)):
        if name in numbers:
            number = int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else -1
            numbers[name] = number if 0 <= number <= (0xFFFFFFFF if name == "mark" else 0xFFFF) else None
            value = ""
        rest.append((name, value))
    return tuple(rest), numbers["mark"], numbers["zone"]


def _pair(token: str) -> tuple[str, str]:
    """``name=value`` as a pair; ``[start=…]`` keeps its brackets around the name, a word without a value stays whole."""
    bracketed = token.startswith("[") and token.endswith("]")
    name, _, value = (token[1:-1] if bracketed else token).partition("=")
    if not value:
        return token, ""
    return f"[{name}]" if bracketed else name, value


def _explain(line: str) -> tuple[str, int | None]:
    """What is wrong with a line that has not the form of a connection, and where."""
    for pattern, message in _OTHERS:
        if pattern.match(line):
            return message, 1
    if line.count("src=") == 1 and line.count("dst=") <= 1:
        return f"{_EXPECTED}: the reply's src=… dst=… is missing", len(line) + 1
    return f"{_EXPECTED}: [ipv4 2] tcp 6 TIMEOUT [STATE] src=… dst=… … src=… dst=… …, got {line[:80]!r}", None


# ---------------------------------------------------------------------- printing


def _shown(one: Connection) -> str:
    head = f"{'ipv6     10' if one.family == 6 else 'ipv4     2'} {_NAMES.get(one.protocol, 'unknown'):<8} {one.protocol}"
    words = [head]
    if one.timeout is not None:
        words.append(str(one.timeout))
    if one.state is not None:
        words.append(one.state)
    words.append(_shown_tuple(one.original, one.family))
    words += [_word(name[9:], value) for name, value in one.rest if name.startswith("original.")]
    words += [f"[{flag}]" for flag in one.flags if flag == "UNREPLIED"]
    words.append(_shown_tuple(one.reply, one.family))
    words += [_word(name[6:], value) for name, value in one.rest if name.startswith("reply.")]
    words += [f"[{flag}]" for flag in one.flags if flag != "UNREPLIED"]
    words += _shown_tail(one)
    return " ".join(words) + "\n"


def _shown_tail(one: Connection) -> list[str]:
    tail = [(name, value) for name, value in one.rest if not name.startswith(("original.", "reply."))]
    if not one.rest:
        tail = [("mark", ""), ("use", "1")]
    names = [name for name, _ in tail]
    if "mark" not in names and one.mark:
        tail.insert(0, ("mark", ""))
        names.insert(0, "mark")
    if "zone" not in names and one.zone:
        tail.insert(names.index("mark") + 1 if "mark" in names else 0, ("zone", ""))
    numbers = {"mark": one.mark, "zone": one.zone}
    return [f"{name}={numbers[name]}" if name in numbers else _word(name, value) for name, value in tail]


def _word(name: str, value: str) -> str:
    if name.startswith("[") and name.endswith("]") and value:
        return f"[{name[1:-1]}={value}]"
    return f"{name}={value}" if value else name


def _shown_tuple(one: Tuple, family: int) -> str:
    ends = f"src={_text(family, one.src)} dst={_text(family, one.dst)}"
    if one.protocol in (ICMP, ICMPV6):
        return f"{ends} type={one.dport >> 8} code={one.dport & 255} id={one.sport}"
    if one.protocol == GRE:
        return f"{ends} srckey={one.sport:#x} dstkey={one.dport:#x}"
    ports = one.protocol in _NAMES or one.sport or one.dport
    return f"{ends} sport={one.sport} dport={one.dport}" if ports else ends


@lru_cache(maxsize=65536)
def _text(family: int, address: int) -> str:
    return format_address(family, address)

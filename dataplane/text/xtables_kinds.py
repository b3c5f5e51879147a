"""How one option's value is read and printed: a Kind each, used by the rows of xtables_options.

A Kind reads as many words as it needs and gives the value described in rules/iptables.py; it prints exactly what
iptables-save prints. ValueError from ``parse`` says what was expected. Source: iptables 1.8.9, extensions/*.c, checked by restore and save.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dataplane.inet import FULL_MASK, PROTOCOL_NUMBERS, Prefix, format_address, parse_address, parse_prefix


class Kind(NamedTuple):
    """``words`` is how many arguments the option takes; ``parse`` gets them and the family; ``show`` gives the text after the name."""

    name: str
    words: int
    parse: Callable[[Sequence[str], int], Any]
    show: Callable[[Any, int], str]


_NUMBER: Final = re.compile(r"\s*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]+")


def quoted(text: str) -> str:
    """A word as xtables_save_string prints it: bare only when it holds nothing but letters, digits, ``_`` and ``-``."""
    if _SAFE.fullmatch(text):
        return text
    return '"' + re.sub(r"([\"\\'])", r"\\\1", text) + '"'


def number(text: str, low: int = 0, high: int = 0xFFFFFFFF) -> int:
    """An unsigned integer in C's notations (decimal, 0x, 0). Raises ValueError."""
    found = _NUMBER.fullmatch(text)
    if not found:
        raise ValueError(f"expected a number, got {text!r}")
    value = int(found[1], 8 if found[1].startswith("0") and found[1][1:].isdigit() else 0)
    if not low <= value <= high:
        raise ValueError(f"expected a number from {low} to {high}, got {text!r}")
    return value


def port(text: str) -> int:
    """A port by number (C's notations) or by service name."""
    if text[:1].isdigit():
        return number(text, 0, 65535)
    try:
        return socket.getservbyname(text)
    except (OSError, UnicodeError):
        raise ValueError(f"expected a port, got {text!r}") from None


def number_decimal(text: str, high: int) -> int:
    """A decimal number up to ``high``."""
    value = int(text)
    if value > high:
        raise ValueError(f"expected a number from 0 to {high}, got {text!r}")
    return value


def protocol(text: str) -> int:
    """A protocol by number or name, any case; 0 for "all"."""
    low = text.lower()
    if low in ("all", "ip", "hopopt"):
        return 0
    if low in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[low]
    extra = {"ipv6-mh": 135, "mh": 135, "ipv6-icmp": 58, "icmp6": 58}
    if low in extra:
        return extra[low]
    try:
        return number(text, 0, 255)
    except ValueError:
        raise ValueError(f"unknown protocol {text!r}") from None


def _port_range(text: str) -> tuple[int, int]:
    first, last = port_pair(text)
    if first > last:
        raise ValueError(f"invalid port range {text!r} (min > max)")
    return first, last


def port_pair(text: str) -> tuple[int, int]:
    """Two ports in any order; a missing one is the least or the greatest."""
    low, colon, high = text.partition(":")
    if not low and not colon:
        raise ValueError("expected a port, got ''")
    first = port(low) if low else 0
    return first, (port(high) if high else 65535) if colon else first


def _show_range(value: tuple[int, int]) -> str:
    return f"{value[0]}" if value[0] == value[1] else f"{value[0]}:{value[1]}"


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    parts = text.split(",")
    if any(part.startswith(":") or part.endswith(":") for part in parts):
        raise ValueError(f"expected a port on both sides of the colon in {text!r}")
    found = tuple(_port_range(part) for part in parts)
    if sum(2 if low != high else 1 for low, high in found) > 15:
        raise ValueError("too many ports specified (at most 15)")
    return found


def _bits(text: str, full: int = 0xFFFFFFFF) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return number(value), number(mask) if slash else full


def _show_bits(value: tuple[int, int]) -> str:
    return f"0x{value[0]:x}" if value[1] == 0xFFFFFFFF else f"0x{value[0]:x}/0x{value[1]:x}"


def address(text: str, family: int) -> Prefix:
    """An address with an optional mask, host bits cut off. A short IPv4 address ends in zeros; host names are not resolved."""
    host, slash, mask = text.lstrip().partition("/")
    if family == 4:
        host = _dotted(host)
        if slash and not re.fullmatch(r"[0-9]+(\.[0-9]+){3}", mask):
            mask = str(number(mask, 0, 32))
    try:
        return parse_prefix(host + slash + mask, family)
    except ValueError:
        if re.fullmatch(r"[0-9.]+|.*:.*", host):
            raise ValueError(f"host/network {text!r} not found") from None
        raise ValueError(f"host/network {text!r} not found: names are not resolved, give an address") from None


def _dotted(host: str) -> str:
    """Every part in C's notations, missing ones 0; localhost is what it always is (RFC 6761)."""
    if host == "localhost":
        return "127.0.0.1"
    parts = host.split(".")
    try:
        if len(parts) == 1 and host.lower().startswith("0x"):
            return format_address(4, number(host))
        numbers = [number(part, 0, 255) for part in parts]
    except ValueError:
        return host
    return ".".join(map(str, numbers + [0] * (4 - len(numbers))))


def _host(text: str, family: int) -> Prefix:
    """An address with a mask whose host bits stay (the kernel compares under the mask only)."""
    prefix = address(text, family)
    try:
        host = text.partition("/")[0]
        return prefix._replace(address=parse_address(_dotted(host) if family == 4 else host, family)[1])
    except ValueError:
        return prefix


def show_address(prefix: Prefix) -> str:
    """An address as iptables-save prints it, always with its mask."""
    return str(prefix)


def _ip_range(text: str, family: int) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    try:
        first = parse_address(low, family)[1]
        return first, parse_address(high, family)[1] if dash else first
    except ValueError:
        raise ValueError(f"expected an address range A-B, got {text!r}") from None


def _names(order: Sequence[str], *, upper: bool) -> Callable[[Sequence[str], int], tuple[str, ...]]:
    def parse(words: Sequence[str], family: int) -> tuple[str, ...]:  # noqa: ARG001
        given = {word.upper() if upper else word for word in words[0].split(",")}
        bad = given - set(order)
        if bad:
            raise ValueError(f"expected some of {','.join(order)}, got {words[0]!r}")
        return tuple(name for name in order if name in given)

    return parse


def names(order: Sequence[str], *, upper: bool = True) -> Kind:
    """A comma list out of known names, kept in the order in which save prints them; ``upper``: in any case."""
    return Kind("names", 1, _names(order, upper=upper), lambda value, family: ",".join(value))


def one_of(table: Mapping[str, str], *, any_case: bool = False) -> Kind:
    """One word out of a table of accepted spellings (in lower case where case is all one) and what save prints for each."""

    def parse(words: Sequence[str], family: int) -> str:  # noqa: ARG001
        word = words[0].lower() if any_case else words[0]
        if word not in table:
            raise ValueError(f"expected one of {', '.join(sorted(set(table.values())))}, got {words[0]!r}")
        return table[word]

    return Kind("word", 1, parse, lambda value, family: str(value))


_TCP_FLAGS: Final = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


def _tcp_flags(text: str) -> int:
    value = 0
    for name in text.upper().split(","):
        if name == "ALL":
            value |= 0x3F
        elif name in _TCP_FLAGS:
            value |= 1 << _TCP_FLAGS.index(name)
        elif name != "NONE":
            raise ValueError(f"unknown TCP flag {name!r}")
    return value


def _show_tcp_flags(value: int) -> str:
    return ",".join(name for bit, name in enumerate(_TCP_FLAGS) if value >> bit & 1) or "NONE"


def numbered(low: int = 0, high: int = 0xFFFFFFFF, style: str = "{}") -> Kind:
    """A number within bounds, printed in a style ("{}" or "0x{:02x}")."""
    return Kind("number", 1, lambda words, family: number(words[0], low, high), lambda value, family: style.format(value))


def _span(high: int, *, ordered: bool = False) -> Kind:
    def parse(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
        low, found, last = words[0].partition(":")
        first = number(low, 0, high) if low or not found else 0
        pair = first, (number(last, 0, high) if last else high) if found else first
        if ordered and pair[0] > pair[1]:
            raise ValueError(f"invalid range {words[0]!r} (min > max)")
        return pair

    return Kind("span", 1, parse, lambda value, family: _show_range(value))


def _users(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    """Numbers; of the names only root's, which is 0 everywhere."""
    if words[0] == "root":
        return 0, 0
    low, dash, high = words[0].partition("-")
    try:
        pair = number(low, 0, 0xFFFFFFFE), number(high if dash else low, 0, 0xFFFFFFFE)
    except ValueError:
        raise ValueError(f"expected a number or a range A-B, got {words[0]!r} (names of users and groups are not resolved)") from None
    if pair[0] > pair[1]:
        raise ValueError(f"invalid range {words[0]!r} (min > max)")
    return pair


def _probability(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    try:
        value = float(words[0])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {words[0]!r}")
    return int(0x80000000 * value + 0.5)


def _mac(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    if not re.fullmatch(r"[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}", words[0]):
        raise ValueError(f"expected a MAC address, got {words[0]!r}")
    return int("".join(part.zfill(2) for part in words[0].split(":")), 16)


def _show_mac(value: int, family: int) -> str:  # noqa: ARG001
    return ":".join(f"{value >> shift & 255:02x}" for shift in range(40, -8, -8))


def _match_set(words: Sequence[str], family: int) -> tuple[str, tuple[str, ...]]:  # noqa: ARG001
    directions = tuple(words[1].split(","))
    if not set(directions) <= {"src", "dst"}:
        raise ValueError(f"expected src or dst, separated by commas, got {words[1]!r}")
    if len(directions) > 6:
        raise ValueError("at most 6 of src and dst are allowed")
    return words[0], directions


def _netmap(words: Sequence[str], family: int) -> Prefix:
    return address(words[0], family)


def _mask(words: Sequence[str], family: int) -> int:
    """A mask is an address; a plain number is IPv4's address of that number."""
    text = words[0]
    if family == 4 and text.isdigit():
        return number(text)
    try:
        return parse_address(text, family)[1]
    except ValueError:
        raise ValueError(f"expected a netmask, got {text!r}") from None


def text(longest: int, shortest: int = 0, *, cut: bool = False) -> Kind:
    """A string in quotes where it needs them; too long a one is refused, or ``cut`` as the tool does."""

    def parse(words: Sequence[str], family: int) -> str:  # noqa: ARG001
        size = len(words[0].encode("utf-8", "surrogateescape"))
        if size < shortest or (size > longest and not cut):
            raise ValueError(f"expected {shortest} to {longest} bytes, got {size}")
        return words[0].encode("utf-8", "surrogateescape")[:longest].decode("utf-8", "ignore") if size > longest else words[0]

    return Kind("string", 1, parse, lambda value, family: quoted(value))


def bare(longest: int) -> Kind:
    """A word that the tool cuts and never quotes."""
    return Kind("word", 1, lambda words, family: words[0][:longest], lambda value, family: str(value))


def numbered_port() -> Kind:
    """One port by its decimal number or its service."""
    return Kind("number", 1, _one_port, lambda value, family: str(value))


def _one_port(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    if not re.fullmatch("[0-9]+|[^0-9].*", words[0]):
        raise ValueError(f"expected a port, got {words[0]!r}")
    return number_decimal(words[0], 65535) if words[0].isdigit() else port(words[0])


_TOS_NAMES: Final = {
    "minimize-delay": 0x10, "maximize-throughput": 0x08, "maximize-reliability": 0x04, "minimize-cost": 0x02, "normal-service": 0,
}  # fmt: skip
_DSCP_CLASSES: Final = {
    "be": 0, "ef": 0x2E, **{f"cs{n}": n << 3 for n in range(8)}, **{f"af{c}{d}": c << 3 | d << 1 for c in range(1, 5) for d in range(1, 4)},
}


def _tos(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    if words[0].lower() in _TOS_NAMES:
        return _TOS_NAMES[words[0].lower()], 0x3F
    value, slash, mask = words[0].partition("/")
    return number(value, 0, 255), number(mask, 0, 255) if slash else 255


def _dscp_class(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    if words[0].lower() not in _DSCP_CLASSES:
        raise ValueError(f"expected a DSCP class (CS0 to CS7, AF11 to AF43, BE, EF), got {words[0]!r}")
    return _DSCP_CLASSES[words[0].lower()]


FLAG: Final = Kind("flag", 0, lambda words, family: None, lambda value, family: "")
STRING: Final = Kind("string", 1, lambda words, family: words[0], lambda value, family: quoted(value))
WORD: Final = Kind("word", 1, lambda words, family: words[0], lambda value, family: str(value))
PORT: Final = Kind("port", 1, lambda words, family: _port_range(words[0]), lambda value, family: _show_range(value))
PORTS: Final = Kind("ports", 1, lambda words, family: _ports(words[0]), lambda value, family: ",".join(map(_show_range, value)))
BITS: Final = Kind("bits", 1, lambda words, family: _bits(words[0]), lambda value, family: _show_bits(value))
XMARK: Final = Kind("bits", 1, lambda words, family: _bits(words[0]), lambda value, family: f"0x{value[0]:x}/0x{value[1]:x}")
HEX: Final = numbered(style="0x{:x}")
NUMBER: Final = numbered()
HOST: Final = Kind(
    "address", 1, lambda words, family: _host(words[0], family),
    lambda value, family: format_address(family, value.address) + ("" if value.mask == FULL_MASK[family] or value.length is None else f"/{value.length}"),
)  # fmt: skip
IP: Final = Kind("ip", 1, lambda words, family: parse_address(words[0], family)[1], lambda value, family: format_address(family, value))
IPRANGE: Final = Kind(
    "range", 1, lambda words, family: _ip_range(words[0], family),
    lambda value, family: f"{format_address(family, value[0])}-{format_address(family, value[1])}",
)  # fmt: skip
TCPFLAGS: Final = Kind(
    "tcpflags", 2, lambda words, family: (_tcp_flags(words[0]), _tcp_flags(words[1])),
    lambda value, family: f"{_show_tcp_flags(value[0])} {_show_tcp_flags(value[1])}",
)  # fmt: skip
PAIR: Final = _span(0xFFFFFFFF)
LENGTH: Final = _span(65535)
ORDERED: Final = _span(65535, ordered=True)
PORTPAIR: Final = Kind("port", 1, lambda words, family: port_pair(words[0]), lambda value, family: _show_range(value))
UIDS: Final = Kind("span", 1, _users, lambda value, family: f"{value[0]}" if value[0] == value[1] else f"{value[0]}-{value[1]}")
NUMBER64: Final = numbered(0, (1 << 64) - 1)
TOS: Final = Kind("bits", 1, _tos, lambda value, family: f"0x{value[0]:02x}/0x{value[1]:02x}")
DSCP_CLASS: Final = Kind("number", 1, _dscp_class, lambda value, family: f"0x{value:02x}")
PROBABILITY: Final = Kind("probability", 1, _probability, lambda value, family: f"{value / 0x80000000:.11f}")
MAC: Final = Kind("mac", 1, _mac, _show_mac)
SETREF: Final = Kind("set", 2, _match_set, lambda value, family: f"{value[0]} {','.join(value[1])}")
NETMAP: Final = Kind("address", 1, _netmap, lambda value, family: str(value))
MASK: Final = Kind("mask", 1, _mask, lambda value, family: format_address(family, value))
PROTOCOL: Final = Kind("protocol", 1, lambda words, family: protocol(words[0]), lambda value, family: str(value))

"""How one option's value is read and printed: a Kind each, used by the rows of xtables_options.

A Kind reads as many words as it needs and gives the value described in rules/iptables.py; it prints exactly what
iptables-save prints. ValueError from ``parse`` says what was expected. Source: iptables 1.8.9, extensions/*.c, checked by restore and save.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dataplane.inet import FULL_MASK, PROTOCOL_NUMBERS, Prefix, format_address, mask_of, parse_address, parse_prefix
from dataplane.rules.iptables import NatRange


@dataclass(frozen=True, slots=True)
class Kind:
    """``words`` is how many arguments the option takes; ``parse`` gets them and the family; ``show`` gives the text after the name."""

    name: str
    words: int
    parse: Callable[[Sequence[str], int], Any]
    show: Callable[[Any, int], str]


_SAFE: Final = re.compile(r"[A-Za-z0-9_-]+")


def quoted(text: str) -> str:
    """A word as xtables_save_string prints it: bare only when it holds nothing but letters, digits, ``_`` and ``-``."""
    if _SAFE.fullmatch(text):
        return text
    return '"' + re.sub(r"([\"\\'])", r"\\\1", text) + '"'


def number(text: str, low: int = 0, high: int = 0xFFFFFFFF) -> int:
    """An unsigned integer in C's notations (decimal, 0x, 0). Raises ValueError."""
    try:
        value = int(text, 8) if re.fullmatch(r"0[0-7]+", text) else int(text, 0)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None
    if not low <= value <= high:
        raise ValueError(f"expected a number from {low} to {high}, got {text!r}")
    return value


def port(text: str) -> int:
    """A port by number or by service name."""
    if text.isdigit():
        return number_decimal(text, 65535)
    try:
        return socket.getservbyname(text)
    except OSError:
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
    if low == "all":
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
    low, colon, high = text.partition(":")
    first = port(low) if low else 0
    last = (port(high) if high else 65535) if colon else first
    if first > last:
        raise ValueError(f"invalid port range {text!r} (min > max)")
    return first, last


def _show_range(value: tuple[int, int]) -> str:
    return f"{value[0]}" if value[0] == value[1] else f"{value[0]}:{value[1]}"


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    found = tuple(_port_range(part) for part in text.split(","))
    if sum(2 if low != high else 1 for low, high in found) > 15:
        raise ValueError("too many ports specified (at most 15)")
    return found


def _bits(text: str, full: int = 0xFFFFFFFF) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return number(value), number(mask) if slash else full


def _show_bits(value: tuple[int, int]) -> str:
    return f"0x{value[0]:x}" if value[1] == 0xFFFFFFFF else f"0x{value[0]:x}/0x{value[1]:x}"


def address(text: str, family: int) -> Prefix:
    """An address with an optional mask, host bits cut off; an IPv4 address may be short of nothing (no host names)."""
    try:
        return parse_prefix(text, family)
    except ValueError:
        host, slash, mask = text.partition("/")
        if family == 4 and slash and re.fullmatch(r"[0-9.]+", host) and host.count(".") < 3:
            full = host + ".0" * (3 - host.count("."))
            return parse_prefix(f"{full}/{mask}", family)
        raise ValueError(f"host/network {text!r} not found") from None


def _host(text: str, family: int) -> Prefix:
    """An address with a mask whose host bits stay (the kernel compares under the mask only)."""
    prefix = address(text, family)
    try:
        return prefix._replace(address=parse_address(text.partition("/")[0], family)[1])
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


def _names(order: Sequence[str]) -> Callable[[Sequence[str], int], tuple[str, ...]]:
    def parse(words: Sequence[str], family: int) -> tuple[str, ...]:  # noqa: ARG001
        given = {word.upper() for word in words[0].split(",")}
        bad = given - set(order)
        if bad:
            raise ValueError(f"expected some of {','.join(order)}, got {words[0]!r}")
        return tuple(name for name in order if name in given)

    return parse


def names(order: Sequence[str]) -> Kind:
    """A comma list out of known names, kept in the order in which save prints them."""
    return Kind("names", 1, _names(order), lambda value, family: ",".join(value))


def one_of(table: Mapping[str, str]) -> Kind:
    """One word out of a table of accepted spellings and what save prints for each."""

    def parse(words: Sequence[str], family: int) -> str:  # noqa: ARG001
        if words[0] not in table:
            raise ValueError(f"expected one of {', '.join(sorted(set(table.values())))}, got {words[0]!r}")
        return table[words[0]]

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


RATES: Final = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def rate(scale: int) -> Kind:
    """``5/min`` as the kernel keeps it: the cost of one packet in 1/``scale`` seconds."""

    def parse(words: Sequence[str], family: int) -> int:  # noqa: ARG001
        found = re.fullmatch(r"([0-9]+)(?:/([a-z]+))?", words[0], re.I)
        unit = (found.group(2) or "second").lower() if found else ""
        known = any(name.startswith(unit) for name in ("second", "minute", "hour", "day")) and unit
        if not found or not known or not int(found.group(1)):
            raise ValueError(f"bad rate {words[0]!r}")
        cost = scale * _UNITS[unit[0]] // int(found.group(1))
        if not cost:
            raise ValueError(f"rate too fast {words[0]!r}")
        return cost

    def show(value: int, family: int) -> str:  # noqa: ARG001
        chosen = 0
        for index in range(1, len(RATES)):
            unit = RATES[index][1] * scale
            if value > unit or unit // value < unit % value:
                break
            chosen = index
        return f"{RATES[chosen][1] * scale // value}/{RATES[chosen][0]}"

    return Kind("rate", 1, parse, show)


_NAT4: Final = re.compile(r"(?P<low>[0-9.]*)(?:-(?P<high>[0-9.]+))?(?::(?P<ports>[0-9]+(?:-[0-9]+)?(?:/[0-9]+)?))?")
_NAT6: Final = re.compile(
    r"(?:\[(?P<low>[^\]-]+)(?:-(?P<high>[^\]]+))?\]|(?P<low2>[0-9a-fA-F:.]+)(?:-(?P<high2>[0-9a-fA-F:.]+))?)?"
    r"(?:(?<=\]):(?P<ports>[0-9]+(?:-[0-9]+)?(?:/[0-9]+)?)|(?<![\s\S]):(?P<ports2>[0-9]+(?:-[0-9]+)?(?:/[0-9]+)?))?"
)


def _nat_ports(text: str | None) -> tuple[int | None, int | None, int | None]:
    if not text:
        return None, None, None
    span, slash, base = text.partition("/")
    low, dash, high = span.partition("-")
    first = number_decimal(low, 65535)
    last = number_decimal(high, 65535) if dash else first
    if last < first:
        raise ValueError(f"port range {text!r} is backwards")
    return first, last, number_decimal(base, 65535) if slash else None


def _nat_range(words: Sequence[str], family: int) -> NatRange:
    text = words[0]
    found = (_NAT4 if family == 4 else _NAT6).fullmatch(text)
    if not found or not text:
        raise ValueError(f"expected ADDRESS[-ADDRESS][:PORT[-PORT]], got {text!r}")
    parts = found.groupdict()
    low, high = parts["low"] or parts.get("low2"), parts["high"] or parts.get("high2")
    try:
        first = parse_address(low, family)[1] if low else None
        last = parse_address(high, family)[1] if high else first
    except ValueError:
        raise ValueError(f"bad IP address in {text!r}") from None
    return NatRange(first, last, *_nat_ports(parts["ports"] or parts.get("ports2")))


def _show_nat_range(value: NatRange, family: int) -> str:
    text = ""
    if value.low is not None:
        text = format_address(family, value.low)
        if value.high is not None and value.high != value.low:
            text += f"-{format_address(family, value.high)}"
    if value.port_low is None:
        return text
    if family == 6 and text:
        text = f"[{text}]"
    text += f":{value.port_low}"
    if value.port_high != value.port_low:
        text += f"-{value.port_high}"
    return text + (f"/{value.port_base}" if value.port_base is not None else "")


def _port_span(words: Sequence[str], family: int) -> NatRange:  # noqa: ARG001
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?", words[0]):
        name = port(words[0])
        return NatRange(port_low=name, port_high=name)
    low, high, _ = _nat_ports(words[0])
    return NatRange(port_low=low, port_high=high)


def _show_port_span(value: NatRange, family: int) -> str:  # noqa: ARG001
    return f"{value.port_low}" if value.port_low == value.port_high else f"{value.port_low}-{value.port_high}"


def numbered(low: int = 0, high: int = 0xFFFFFFFF, style: str = "{}") -> Kind:
    """A number within bounds, printed in a style ("{}" or "0x{:02x}")."""
    return Kind("number", 1, lambda words, family: number(words[0], low, high), lambda value, family: style.format(value))


def _span(high: int, separator: str) -> Kind:
    def parse(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
        low, found, last = words[0].partition(separator)
        first = number(low, 0, high) if low else 0
        return first, (number(last, 0, high) if last else high) if found else first

    def show(value: tuple[int, int], family: int) -> str:  # noqa: ARG001
        return f"{value[0]}" if value[0] == value[1] else f"{value[0]}{separator}{value[1]}"

    return Kind("span", 1, parse, show)


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
    return words[0], directions


def _netmap(words: Sequence[str], family: int) -> Prefix:
    return address(words[0], family)


def _mask(words: Sequence[str], family: int) -> int:
    text = words[0]
    if text.isdigit():
        return mask_of(family, number_decimal(text, 32 if family == 4 else 128))
    try:
        return parse_address(text, family)[1]
    except ValueError:
        raise ValueError(f"expected a netmask, got {text!r}") from None


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
    lambda value, family: format_address(family, value.address) + ("" if value.mask == FULL_MASK[family] else f"/{value.length}"),
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
NATRANGE: Final = Kind("endpoint", 1, _nat_range, _show_nat_range)
PORTSPAN: Final = Kind("endpoint", 1, _port_span, _show_port_span)
LENGTH: Final = _span(65535, ":")
UIDS: Final = _span(0xFFFFFFFE, "-")
PROBABILITY: Final = Kind("probability", 1, _probability, lambda value, family: f"{value / 0x80000000:.11f}")
MAC: Final = Kind("mac", 1, _mac, _show_mac)
SETREF: Final = Kind("set", 2, _match_set, lambda value, family: f"{value[0]} {','.join(value[1])}")
NETMAP: Final = Kind("address", 1, _netmap, lambda value, family: str(value))
MASK: Final = Kind("mask", 1, _mask, lambda value, family: format_address(family, value))
PROTOCOL: Final = Kind("protocol", 1, lambda words, family: protocol(words[0]), lambda value, family: str(value))

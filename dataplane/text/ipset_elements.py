"""The members of ip sets as text: addresses, ranges, ports, MACs, marks, interfaces, and back.

What ``ipset add`` takes (ranges, names, short forms) is expanded into what the kernel would hold, which is what ``ipset save``
prints. Host names are not looked up. Source: ipset 7.17 lib/parse.c and print.c as observed, ip_set_range_to_cidr.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from dataplane.inet import (
    BITS,
    FULL_MASK,
    ICMP,
    ICMPV6,
    PROTOCOL_NAMES,
    PROTOCOL_NUMBERS,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Prefix,
    format_address,
    mask_of,
    parse_address,
)  # fmt: skip
from dataplane.rules.ipset import Element, PortElement

#: ICMP types and codes by name, in the order in which a shortened name is looked up.
_ICMP: Final = """
    echo-reply 0/0  pong 0/0  network-unreachable 3/0  host-unreachable 3/1  protocol-unreachable 3/2  port-unreachable 3/3
    fragmentation-needed 3/4  source-route-failed 3/5  network-unknown 3/6  host-unknown 3/7  network-prohibited 3/9
    host-prohibited 3/10  TOS-network-unreachable 3/11  TOS-host-unreachable 3/12  communication-prohibited 3/13
    host-precedence-violation 3/14  precedence-cutoff 3/15  source-quench 4/0  network-redirect 5/0  host-redirect 5/1
    TOS-network-redirect 5/2  TOS-host-redirect 5/3  echo-request 8/0  ping 8/0  router-advertisement 9/0
    router-solicitation 10/0  ttl-zero-during-transit 11/0  ttl-zero-during-reassembly 11/1  ip-header-bad 12/0
    required-option-missing 12/1  timestamp-request 13/0  timestamp-reply 14/0  address-mask-request 17/0
    address-mask-reply 18/0
"""
_ICMPV6: Final = """
    no-route 1/0  communication-prohibited 1/1  address-unreachable 1/3  port-unreachable 1/4  packet-too-big 2/0
    ttl-zero-during-transit 3/0  ttl-zero-during-reassembly 3/1  bad-header 4/0  unknown-header-type 4/1  unknown-option 4/2
    echo-request 128/0  ping 128/0  echo-reply 129/0  pong 129/0  router-solicitation 133/0  router-advertisement 134/0
    neighbour-solicitation 135/0  neigbour-solicitation 135/0  neighbour-advertisement 136/0  neigbour-advertisement 136/0
    redirect 137/0
"""


def _codes(table: str) -> dict[str, int]:
    words = table.split()
    pairs = (code.split("/") for code in words[1::2])
    return {name: int(kind) << 8 | int(code) for name, (kind, code) in zip(words[::2], pairs, strict=True)}


_ALIASES: Final = frozenset({"ping", "pong", "neigbour-solicitation", "neigbour-advertisement"})
_ICMP_NAMES: Final[dict[int, dict[str, int]]] = {ICMP: _codes(_ICMP), ICMPV6: _codes(_ICMPV6)}
_ICMP_PRINTED: Final = {
    protocol: {value: name for name, value in names.items() if name not in _ALIASES} for protocol, names in _ICMP_NAMES.items()
}
_WITH_PORTS: Final = frozenset({TCP, UDP, SCTP, UDPLITE})

_MOST_RANGE: Final = 1 << 20  # IPSET_MAX_RANGE
_IFNAMSIZ: Final = 16
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+", re.ASCII)
_SHORT_IPV4: Final = re.compile(r"[0-9]{1,11}(\.[0-9]{1,11}){0,3}", re.ASCII)
_MAC: Final = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", re.ASCII)


class ElementError(ValueError):
    """Why a text is no member of a set of this type."""


def parse_number(text: str, low: int, high: int) -> int:
    """A number as strtoull reads it (0x… hexadecimal, 0… octal); ElementError outside of low to high."""
    if not _NUMBER.fullmatch(text):
        raise ElementError(f"expected a number from {low} to {high}, got {text!r}")
    try:
        value = int(text, 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" and len(text) > 1 else 10)
    except ValueError:  # a digit 8 or 9 in an octal number, or thousands of digits
        raise ElementError(f"expected a number from {low} to {high}, got {text[:40]!r}") from None
    if not low <= value <= high:
        raise ElementError(f"expected a number from {low} to {high}, got {text}")
    return value


def expand(kind: str, text: str, family: int, step: int | None) -> Sequence[Element]:
    """What one dimension of an element stands for: usually one value, several for a range.

    ``kind`` is the dimension as in ipset_options.TYPES; ``step`` the set's netmask for addresses, if it has one.
    """
    match kind:
        case "ip":
            return _addresses(text, family, step)
        case "host":
            return (_host(text, family),)
        case "net" | "anynet":
            return _networks(text, family, zero=kind == "anynet")
        case "port":
            return _ports(text, family)
        case "plainport":
            return _plain_ports(text)
        case "mac":
            return (_mac(text),)
        case "mark":
            return (parse_number(text, 0, 0xFFFFFFFF),)
        case "iface":
            return (_interface(text),)
        case _:
            return (text,)


def format_element(kind: str, element: Element) -> str:
    """One dimension of an element as ``ipset save`` prints it."""
    if isinstance(element, PortElement):
        return _format_port(element)
    if isinstance(element, Prefix):
        text = format_address(element.family, element.address)
        return text if element.mask == FULL_MASK[element.family] else f"{text}/{element.length}"
    if isinstance(element, str):
        return element
    if kind == "mac":
        return ":".join(f"{byte:02X}" for byte in element.to_bytes(6, "big"))
    return f"{element:#010x}" if kind == "mark" else str(element)


# ---------------------------------------------------------------------- addresses


def parse_host(text: str, family: int) -> int:
    """One address; IPv4 also in the short and octal forms of inet_aton. ElementError for a host name."""
    try:
        return parse_address(text, family)[1]
    except ValueError:
        bare = text.removeprefix("[").removesuffix("]") if text.startswith("[") and text.endswith("]") else text
        if bare != text:
            return parse_host(bare, family)
        if family == 4 and _SHORT_IPV4.fullmatch(text):
            try:
                return int.from_bytes(socket.inet_aton(text), "big")
            except OSError:
                pass
        raise ElementError(f"expected an IPv{family} address, got {text!r}") from None


def _host(text: str, family: int) -> Prefix:
    address, slash, length = text.partition("/")
    if slash and length != str(BITS[family]):
        raise ElementError(f"expected one IPv{family} address, got {text!r}")
    return Prefix(family, parse_host(address, family), FULL_MASK[family])


def _addresses(text: str, family: int, step: int | None) -> Sequence[Prefix]:
    mask = FULL_MASK[family]
    if family == 6 or not ("/" in text or "-" in text):
        return (_host(text, family),)
    low, high = _span(text, family)
    step = 1 << BITS[family] - (step if step is not None else BITS[family])
    low -= low % step
    if (high - low) // step >= _MOST_RANGE:
        raise ElementError(f"the range {text} is too large: more than {_MOST_RANGE} addresses")
    return [Prefix(family, address, mask) for address in range(low, high + 1, step)]


def _networks(text: str, family: int, *, zero: bool) -> Sequence[Prefix]:
    if "-" in text and family == 4:
        low, high = _span(text, family)
        if high - low == FULL_MASK[4]:
            raise ElementError(f"the range {text} covers the whole address space")
        return list(_cover(low, high))
    host, slash, length_text = text.partition("/")
    length = parse_number(length_text, 0 if zero else 1, BITS[family]) if slash else BITS[family]
    mask = mask_of(family, length)
    return (Prefix(family, parse_host(host, family) & mask, mask),)


def _span(text: str, family: int) -> tuple[int, int]:
    if "/" in text:
        host, _, length = text.partition("/")
        mask = mask_of(family, parse_number(length, 1, BITS[family]))
        low = parse_host(host, family) & mask
        return low, low | ~mask & FULL_MASK[family]
    first, _, last = text.partition("-")
    low, high = parse_host(first, family), parse_host(last, family)
    return min(low, high), max(low, high)


def _cover(low: int, high: int) -> Iterator[Prefix]:
    while low <= high:
        size = low & -low if low else 1 << 31
        while low + size - 1 > high:
            size >>= 1
        yield Prefix(4, low, FULL_MASK[4] & ~(size - 1))
        low += size


# ---------------------------------------------------------------------- ports


@lru_cache(maxsize=65536)
def _ports(text: str, family: int) -> tuple[PortElement, ...]:
    name, colon, port = text.partition(":")
    if not colon or not name or not port:
        return tuple(PortElement(TCP, number) for number in _port_range(text, "tcp"))
    protocol = _protocol(name)
    if protocol in _WITH_PORTS:
        return tuple(PortElement(protocol, number) for number in _port_range(port, PROTOCOL_NAMES[protocol]))
    if protocol in _ICMP_NAMES:
        if protocol != (ICMP if family == 4 else ICMPV6):
            raise ElementError(f"protocol {name} does not go with the set's family, IPv{family}")
        return (PortElement(protocol, _icmp(port, protocol)),)
    if port != "0":
        raise ElementError(f"protocol {name} has no ports: expected {name}:0, got {text!r}")
    return (PortElement(protocol, 0),)


def _plain_ports(text: str) -> tuple[int, ...]:
    name, colon, port = text.partition(":")
    if not colon or not name or not port:
        return tuple(_port_range(text, "tcp"))
    if _protocol(name) not in (TCP, UDP):
        raise ElementError(f"expected protocol tcp or udp, got {name!r}")
    return tuple(_port_range(port, name))


def _port_range(text: str, protocol: str) -> range:
    first, dash, last = text.partition("-")
    if not dash or not first or not last or text.startswith("["):
        port = _port(text, protocol)
        return range(port, port + 1)
    ends = _port(first, protocol), _port(last, protocol)
    return range(min(ends), max(ends) + 1)


def _port(text: str, protocol: str) -> int:
    if text[:1].isdigit():
        return parse_number(text, 0, 65535)
    try:
        return socket.getservbyname(text.removeprefix("[").removesuffix("]"), protocol)
    except (OSError, ValueError):
        raise ElementError(f"expected a port (0 to 65535) or the name of a {protocol} service, got {text!r}") from None


def _protocol(text: str) -> int:
    number = PROTOCOL_NUMBERS.get(text.lower())
    if number is None and text.isascii() and text.isdigit() and len(text) <= 3:
        number = int(text)
    if number is None or not 0 < number < 256:
        raise ElementError(f"expected a protocol's name or a number from 1 to 255, got {text!r}")
    return number


def _icmp(text: str, protocol: int) -> int:
    kind, slash, code = text.partition("/")
    if slash:
        return parse_number(kind, 0, 255) << 8 | parse_number(code, 0, 255)
    for name, value in _ICMP_NAMES[protocol].items():
        if name.lower().startswith(text.lower()):
            return value
    raise ElementError(f"expected TYPE/CODE or a name such as echo-request, got {text!r}")


@lru_cache(maxsize=65536)
def _format_port(element: PortElement) -> str:
    protocol, port = element
    name = PROTOCOL_NAMES.get(protocol, str(protocol))
    if protocol in _ICMP_PRINTED:
        return f"{name}:{_ICMP_PRINTED[protocol].get(port) or f'{port >> 8}/{port & 255}'}"
    return f"{name}:{port}"


# ---------------------------------------------------------------------- the rest


def _mac(text: str) -> int:
    if not _MAC.fullmatch(text):
        raise ElementError(f"expected a MAC address such as 0A:1B:2C:3D:4E:5F, got {text!r}")
    return int.from_bytes(bytes(int(byte, 16) for byte in text.split(":")), "big")


def _interface(text: str) -> str:
    name = text.removeprefix("physdev:")
    if len(name.encode("utf-8", "surrogatepass")) >= _IFNAMSIZ:
        raise ElementError(f"interface name {name!r} is longer than {_IFNAMSIZ - 1} characters")
    return text


def masked(element: Element, mask: int) -> Element:
    """An address as a set with a netmask or bitmask holds it, a mark as one with a markmask does; others unchanged."""
    if isinstance(element, Prefix):
        return Prefix(element.family, element.address & mask, element.mask)
    return element & mask if isinstance(element, int) else element

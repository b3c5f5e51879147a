"""The types of ip sets and what their create and add lines may say, as tables. Reading and printing lines is in ipset.

Source: ipset 7.17 and the kernels 6.1 and 6.18 as observed; the order of options is that of ``ipset save``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from dataplane.inet import BITS, format_address, mask_of
from dataplane.text.ipset_elements import ElementError, expand, parse_host, parse_number

_EXTENSIONS: Final = ("timeout", "counters", "comment", "forceadd", "skbinfo", "bucketsize", "initval")
_PLAIN: Final = ("timeout", "counters", "comment", "skbinfo")
_SIZES: Final = ("hashsize", "maxelem")
_MASKS: Final = ("netmask", "bitmask")


class SetType(NamedTuple):
    """``kinds`` are the dimensions (see ipset_elements.expand), the last ``optional`` of which may be missing.

    ``create`` are the options of the create line in the order of ``ipset save``; ``flags`` the bare words of an add line.
    """

    kinds: tuple[str, ...]
    create: tuple[str, ...]
    flags: tuple[str, ...] = ()
    family: bool = True
    optional: int = 0


TYPES: Final[Mapping[str, SetType]] = {
    "hash:ip": SetType(("ip",), (*_SIZES, *_MASKS, *_EXTENSIONS)),
    "hash:mac": SetType(("mac",), (*_SIZES, *_EXTENSIONS), family=False),
    "hash:ip,mac": SetType(("host", "mac"), (*_SIZES, *_EXTENSIONS)),
    "hash:net": SetType(("net",), (*_SIZES, *_EXTENSIONS), ("nomatch",)),
    "hash:net,net": SetType(("net", "net"), (*_SIZES, *_EXTENSIONS, *_MASKS), ("nomatch",)),
    "hash:ip,port": SetType(("ip", "port"), (*_SIZES, *_EXTENSIONS, *_MASKS)),
    "hash:net,port": SetType(("net", "port"), (*_SIZES, *_EXTENSIONS), ("nomatch",)),
    "hash:ip,port,ip": SetType(("ip", "port", "host"), (*_SIZES, *_EXTENSIONS)),
    "hash:ip,port,net": SetType(("ip", "port", "net"), (*_SIZES, *_EXTENSIONS), ("nomatch",)),
    "hash:net,port,net": SetType(("anynet", "port", "anynet"), (*_SIZES, *_EXTENSIONS), ("nomatch",)),
    "hash:ip,mark": SetType(("ip", "mark"), ("markmask", *_SIZES, *_EXTENSIONS)),
    "hash:net,iface": SetType(("anynet", "iface"), (*_SIZES, *_EXTENSIONS), ("nomatch", "wildcard")),
    "bitmap:ip": SetType(("ip",), ("range", "netmask", *_PLAIN), family=False),
    "bitmap:ip,mac": SetType(("host", "mac"), ("range", *_PLAIN), family=False, optional=1),
    "bitmap:port": SetType(("plainport",), ("range", *_PLAIN), family=False),
    "list:set": SetType(("set",), ("size", *_PLAIN), family=False),
}

#: The names that types had before ipset 6.
TYPE_ALIASES: Final[Mapping[str, str]] = {
    "ipmap": "bitmap:ip", "macipmap": "bitmap:ip,mac", "portmap": "bitmap:port", "setlist": "list:set", "iphash": "hash:ip",
    "machash": "hash:mac", "ipmachash": "hash:ip,mac", "nethash": "hash:net", "netnethash": "hash:net,net",
    "ipporthash": "hash:ip,port", "netporthash": "hash:net,port", "ipportiphash": "hash:ip,port,ip",
    "ipportnethash": "hash:ip,port,net", "netportnethash": "hash:net,port,net", "ipmarkhash": "hash:ip,mark",
    "netifacehash": "hash:net,iface",
}  # fmt: skip

#: What the kernel takes where the create line says nothing, of the options that ``ipset save`` always prints.
DEFAULTS: Final[Mapping[str, str]] = {"hashsize": "1024", "maxelem": "65536", "markmask": "0xffffffff", "size": "8"}
#: Families by the words for them.
FAMILIES: Final[Mapping[str, int]] = {"inet": 4, "ipv4": 4, "-4": 4, "inet6": 6, "ipv6": 6, "-6": 6}
#: Options of old versions that are read over, each with one value.
IGNORED: Final = frozenset({"probes", "resize", "gc"})
#: Create options without a value.
BARE: Final = frozenset({"counters", "comment", "skbinfo", "forceadd"})

_MAX_TIMEOUT: Final = 2147483
_MAX_U64: Final = 18446744073709551614
_MAX_BITMAP: Final = 65536
_MAX_COMMENT: Final = 255
_SKBMARK: Final = re.compile(r"0x([0-9a-fA-F]{1,8})(?:/0x([0-9a-fA-F]{1,8}))?", re.ASCII)
_SKBPRIO: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{1,4}):(?:0x)?([0-9a-fA-F]{1,4})", re.ASCII)


def create_value(type_name: str, option: str, text: str, family: int) -> str | None:
    """The value of a create option as ``ipset save`` prints it, None where it would not be printed. ElementError."""
    match option:
        case "hashsize":
            return str(max(64, 1 << (parse_number(text, 0, 0x80000000) - 1).bit_length()))
        case "bucketsize":
            return str(min(max(-(-parse_number(text, 0, 255) // 2) * 2, 2), 12))
        case "initval" | "markmask":
            return f"{parse_number(text, int(option == 'markmask'), 0xFFFFFFFF):#010x}"
        case "size":
            return str(max(4, parse_number(text, 0, 0xFFFFFFFF)))
        case "timeout":
            return str(parse_number(text, 0, _MAX_TIMEOUT))
        case "netmask":
            length = parse_number(text, 1, BITS[family])
            return str(length) if length != BITS[family] else None
        case "bitmask":
            return format_address(family, parse_host(text, family))
        case "range":
            return _range(type_name, text)
        case _:
            return str(parse_number(text, 0, 0xFFFFFFFF))


def bitmap_range(value: str, netmask: int | None) -> str:
    """The range of a bitmap:ip set as the kernel keeps it: whole networks of the netmask. ElementError where it refuses.

    Source: bitmap_ip_create, range_to_mask.
    """
    low, high = range_bounds("bitmap:ip", value)
    if netmask is not None:
        mask = mask_of(4, netmask)
        low, high = low & mask, high | ~mask & 0xFFFFFFFF
        length = 31
        while length > 0 and high & mask_of(4, length) != low:
            length -= 1
        if netmask <= length:
            raise ElementError(f"netmask {netmask} leaves a single element of the range {value}")
    if high - low >> 32 - (netmask or 32) >= _MAX_BITMAP:
        raise ElementError(f"the range {value} holds more than {_MAX_BITMAP} elements")
    return f"{format_address(4, low)}-{format_address(4, high)}"


def range_bounds(type_name: str, value: str) -> tuple[int, int]:
    """First and last number (port or IPv4 address) of a canonical ``range`` value."""
    low, _, high = value.partition("-")
    if type_name == "bitmap:port":
        return int(low), int(high)
    return parse_host(low, 4), parse_host(high, 4)


def _range(type_name: str, text: str) -> str:
    if type_name == "bitmap:port":
        if "-" not in text:
            raise ElementError(f"expected two ports, FROM-TO, got {text!r}")
        ports = expand("plainport", text, 4, None)
        return f"{ports[0]}-{ports[-1]}"
    if "-" in text:
        ends = sorted(parse_host(end, 4) for end in text.split("-", 1))
    else:
        host, slash, length = text.partition("/")
        if not slash:
            raise ElementError(f"expected two addresses, FROM-TO, or a network, got {text!r}")
        size = 1 << 32 - parse_number(length, 0, 32)
        low = parse_host(host, 4) // size * size
        ends = [low, low + size - 1]
    return "-".join(format_address(4, end) for end in ends)


# ---------------------------------------------------------------------- options of elements


def _number(high: int) -> Callable[[str], str | None]:
    return lambda text: str(parse_number(text, 0, high))


def _comment(text: str) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > _MAX_COMMENT:
        raise ElementError(f"the comment is longer than {_MAX_COMMENT} bytes")
    return text


def _skbmark(text: str) -> str:
    found = _SKBMARK.fullmatch(text)
    if found is None:
        raise ElementError(f"expected 0xMARK or 0xMARK/0xMASK, got {text!r}")
    mark, mask = int(found[1], 16), int(found[2] or "ffffffff", 16)
    return f"{mark:#x}" if mask == 0xFFFFFFFF else f"{mark:#x}/{mask:#x}"


def _skbprio(text: str) -> str | None:
    found = _SKBPRIO.fullmatch(text)
    if found is None:
        raise ElementError(f"expected MAJOR:MINOR in hexadecimal, got {text!r}")
    major, minor = int(found[1], 16), int(found[2], 16)
    return f"{major:x}:{minor:x}" if major or minor else None


def _skbqueue(text: str) -> str | None:
    number = parse_number(text, 0, 65535)
    return str(number) if number else None


#: Options of an add line in the order of ``ipset save``: the create option that allows them, and the reader of their value
#: (None: a bare word, allowed by the type). What a reader makes None is not printed.
ENTRY_OPTIONS: Final[Mapping[str, tuple[str | None, Callable[[str], str | None] | None]]] = {
    "timeout": ("timeout", _number(_MAX_TIMEOUT)),
    "nomatch": (None, None),
    "wildcard": (None, None),
    "packets": ("counters", _number(_MAX_U64)),
    "bytes": ("counters", _number(_MAX_U64)),
    "comment": ("comment", _comment),
    "skbmark": ("skbinfo", _skbmark),
    "skbprio": ("skbinfo", _skbprio),
    "skbqueue": ("skbinfo", _skbqueue),
}

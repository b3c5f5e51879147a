"""The option table of matches on IPv6's extension headers. Source: extensions/libip6t_*.c of iptables 1.8.9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dataplane.inet import format_address, parse_address
from dataplane.rules.iptables import Option
from dataplane.text import xtables_kinds as k
from dataplane.text.xtables_extension import Extension, Facts, Row, exclusive
from dataplane.text.xtables_kinds import Kind

_ONLY: Final = (6,)
_MOBILITY: Final = 135
_ANY: Final = (0, 0xFFFFFFFF)
_HEADERS: Final = {
    "hop-by-hop": ("hop", "0"), "ipv6-opts": ("dst", "60"), "ipv6-route": ("route", "43"), "ipv6-frag": ("frag", "44"), "ah": ("auth", "51"),
    "esp": ("esp", "50"), "ipv6-nonxt": ("none", "59"), "protocol": ("prot",),
}  # fmt: skip
_MOBILITY_TYPES: Final = (
    ("binding-refresh-request", "brr"), ("home-test-init", "hoti"), ("careof-test-init", "coti"), ("home-test", "hot"),
    ("careof-test", "cot"), ("binding-update", "bu"), ("binding-acknowledgement", "ba"), ("binding-error", "be"),
)  # fmt: skip


def _header(words: Sequence[str], family: int) -> tuple[str, ...]:  # noqa: ARG001
    names = {spelling: name for name, others in _HEADERS.items() for spelling in (name, *others)}
    given = words[0].lower().split(",")
    if not set(given) <= set(names):
        raise ValueError(f"expected some of {','.join(names)}, got {words[0]!r}")
    return tuple(name for name in _HEADERS if name in {names[one] for one in given})


def _mobility_type(text: str) -> int:
    wanted = text.lower()
    by_name = [number for number, names in enumerate(_MOBILITY_TYPES) for name in names if wanted and name.startswith(wanted)]
    if by_name:
        return by_name[0]
    return k.number(text, 0, 255)


def _mobility(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    low, colon, high = words[0].partition(":")
    first = _mobility_type(low) if low else 0
    last = (_mobility_type(high) if high else 255) if colon else first
    if first > last:
        raise ValueError(f"invalid type range {words[0]!r} (min > max)")
    return first, last


def _options(words: Sequence[str], family: int) -> tuple[tuple[int, int | None], ...]:  # noqa: ARG001
    """Types with their lengths; a length of 255 is any."""
    found = []
    for part in words[0].split(","):
        kind, colon, length = part.partition(":")
        size = k.number(length, 0, 255) if colon else 255
        found.append((k.number(kind, 0, 255), None if size == 255 else size))
    if len(found) > 16:
        raise ValueError("at most 16 options are allowed")
    return tuple(found)


def _show_options(value: tuple[tuple[int, int | None], ...], family: int) -> str:  # noqa: ARG001
    return ",".join(f"{kind}" if size is None else f"{kind}:{size}" for kind, size in value)


def _addresses(words: Sequence[str], family: int) -> tuple[int, ...]:
    try:
        found = tuple(parse_address(part, family)[1] for part in words[0].split(","))
    except ValueError:
        raise ValueError(f"expected IPv6 addresses, got {words[0]!r}") from None
    if len(found) > 16:
        raise ValueError("at most 16 addresses are allowed")
    return found


def _rt(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    kept = {option.name: option for option in options}
    kind = kept.get("rt-type")
    if ("rt-0-res" in kept or "rt-0-addrs" in kept) and (kind is None or kind.value or kind.negated):
        raise ValueError("--rt-type 0 is required for --rt-0-res and --rt-0-addrs")
    return options


def _compared(name: str, high: int = 255) -> tuple[Row, ...]:
    return tuple(Row(f"srh-{name}-{how}", k.numbered(0, high), True) for how in ("eq", "gt", "lt"))


_OPTIONS: Final = Kind("options", 1, _options, _show_options)

MATCHES6: Final[dict[str, Extension]] = {
    "eui64": Extension(families=_ONLY),
    "frag": Extension(
        (
            Row("fragid", k.PAIR, True, hidden=_ANY), Row("fraglen", k.NUMBER, True), Row("fragres", k.FLAG), Row("fragfirst", k.FLAG),
            *exclusive(Row("fragmore", k.FLAG), Row("fraglast", k.FLAG)),
        ),
        families=_ONLY,
    ),
    "hbh": Extension((Row("hbh-len", k.NUMBER, True), Row("hbh-opts", _OPTIONS)), families=_ONLY),
    "dst": Extension((Row("dst-len", k.NUMBER, True), Row("dst-opts", _OPTIONS)), families=_ONLY),
    "rt": Extension(
        (
            Row("rt-type", k.NUMBER, True), Row("rt-segsleft", k.PAIR, True, hidden=_ANY), Row("rt-len", k.NUMBER, True), Row("rt-0-res", k.FLAG),
            Row("rt-0-addrs", Kind("addresses", 1, _addresses, lambda value, family: ",".join(format_address(family, one) for one in value))),
            Row("rt-0-not-strict", k.FLAG, needs=("rt-0-addrs",)),
        ),
        families=_ONLY, finish=_rt,
    ),
    "ipv6header": Extension(
        (Row("header", Kind("names", 1, _header, lambda value, family: ",".join(value)), True, required=True), Row("soft", k.FLAG)), families=_ONLY,
    ),
    "mh": Extension(
        (Row("mh-type", Kind("span", 1, _mobility, lambda value, family: f"{value[0]}" if value[0] == value[1] else f"{value[0]}:{value[1]}"),
             True, hidden=(0, 255)),),
        families=_ONLY, protocols=(_MOBILITY,),
    ),
    "srh": Extension(
        (
            Row("srh-next-hdr", k.numbered(0, 255), True), *_compared("hdr-len"), *_compared("segs-left"), *_compared("last-entry"),
            Row("srh-tag", k.numbered(0, 65535), True), Row("srh-psid", k.NETMAP, True), Row("srh-nsid", k.NETMAP, True),
            Row("srh-lsid", k.NETMAP, True),
        ),
        families=_ONLY,
    ),
}  # fmt: skip

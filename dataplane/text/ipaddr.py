"""``ip -j addr`` (also with -d, -s): the links of a node and their addresses, read and printed.

Read as one line or as ``ip -p -j`` lays it out; printed as one line. Source: iproute2 ip/ipaddress.c as observed (6.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dataplane.inet import BITS, format_address
from dataplane.rules.network import Address, Link, Rest
from dataplane.text.jsontext import ABSENT, Item, Objects, arrange, print_objects
from dataplane.text.problems import Problems
from dataplane.text.rtnames import read_scope, scope_name

COMMAND: Final = "ip -j addr"
_FAMILIES: Final = {"inet": 4, "inet6": 6}
_MAX_INDEX: Final = 0x7FFFFFFF


def parse_links(text: str, *, file: str | None = None) -> tuple[Link, ...]:
    """The links in the order of the text. ParseError with all that is wrong."""
    problems = Problems(file)
    source = Objects(text, problems, COMMAND)
    links: list[Link] = []
    for item in source.items:
        if item.pairs:  # older versions print {} for a link that was filtered out
            links.append(_link(item, {link.name for link in links}))
    problems.raise_if_any()
    return tuple(links)


def print_links(links: Iterable[Link]) -> str:
    """The links as ``ip -j addr`` prints them."""
    return print_objects(_shown(link) for link in links)


# ---------------------------------------------------------------------- reading


def _link(item: Item, taken: set[str]) -> Link:
    name = item.text("ifname") or ""
    if not name:
        item.wrong("ifname", "the name of an interface")
    item.subject = f"interface {name}"
    if name in taken:
        item.wrong("ifname", "each interface once")
    info = item.item("linkinfo")
    return Link(
        index=item.number("ifindex", 1, _MAX_INDEX, needed=True) or 0,
        name=name,
        flags=item.strings("flags", needed=True),
        mtu=_or(item.number("mtu", 0, 0xFFFFFFFF), 1500),
        link_type=item.text("link_type") or "ether",
        mac=item.text("address"),
        master=item.text("master"),
        kind=info.text("info_kind") if info is not None else None,
        addresses=tuple([made for one in item.items("addr_info") if one.pairs and (made := _address(one)) is not None]),
        altnames=item.strings("altnames"),
        rest=item.pairs,
    )


def _address(item: Item) -> Address | None:
    family = _FAMILIES.get(item.text("family") or "")
    if family is None:
        item.wrong("family", "inet or inet6")
        return None
    prefixlen = item.number("prefixlen", 0, BITS[family], needed=True)
    peer = item.address("address", family)
    # a lone "address" is what the kernel sends as IFA_ADDRESS without IFA_LOCAL: the address itself
    local = item.address("local", family, needed=True) if peer is None or "local" in item else peer
    return Address(
        family=family,
        local=local or 0,
        prefixlen=prefixlen or 0,
        scope=read_scope(item),
        peer=peer if "local" in item else None,
        broadcast=item.address("broadcast", family),
        secondary=item.flag("secondary"),
        tentative=item.flag("tentative"),
        deprecated=item.flag("deprecated"),
        label=item.text("label"),
        rest=item.pairs,
    )


def _or(value: int | None, default: int) -> int:
    return value if value is not None else default


# ---------------------------------------------------------------------- printing


def _shown(link: Link) -> Rest:
    known: dict[str, Any] = {  # JSON
        "ifindex": link.index,
        "ifname": link.name,
        "flags": list(link.flags),
        "mtu": link.mtu,
        "master": _or_absent(link.master),
        "link_type": link.link_type,
        "address": _or_absent(link.mac),
        "linkinfo": _linkinfo(link),
        "altnames": list(link.altnames) or ABSENT,
        "addr_info": [_shown_address(address) for address in link.addresses],
    }
    return arrange(known, link.rest, {})


def _linkinfo(link: Link) -> Any:  # JSON
    read = dict(link.rest).get("linkinfo", ())
    known: Mapping[str, Any] = {"info_kind": _or_absent(link.kind)}
    return arrange(known, read if isinstance(read, tuple) else (), {}) or ABSENT


def _shown_address(address: Address) -> Rest:
    lone = bool(address.rest) and address.peer is None and all(name != "local" for name, _ in address.rest)
    local = format_address(address.family, address.local)
    known: dict[str, Any] = {
        "family": "inet" if address.family == 4 else "inet6",
        "local": ABSENT if lone else local,
        "address": local if lone else _address_or_absent(address.family, address.peer),
        "prefixlen": address.prefixlen,
        "broadcast": _address_or_absent(address.family, address.broadcast),
        "scope": scope_name(address.scope),
        "secondary": address.secondary or ABSENT,
        "tentative": address.tentative or ABSENT,
        "deprecated": address.deprecated or ABSENT,
        "label": _or_absent(address.label),
    }
    return arrange(known, address.rest, {})


def _or_absent(value: object) -> object:
    return ABSENT if value is None else value


def _address_or_absent(family: int, value: int | None) -> object:
    return ABSENT if value is None else format_address(family, value)

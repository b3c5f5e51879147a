"""IP sets as frozen data: what ``ipset save`` holds. No parsing, printing or lookup here.

Source: net/netfilter/ipset/, ipset(8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dataplane.inet import Prefix


class PortElement(NamedTuple):
    """``tcp:80``: a protocol number and a port (an ICMP type and code as ``type << 8 | code``)."""

    protocol: int
    port: int


#: One dimension of an element: prefix (ip, net), port with protocol, MAC, interface name, mark or the name of another set.
Element = Prefix | PortElement | int | str


@dataclass(frozen=True, slots=True)
class Entry:
    """One member. ``elements`` has one item a dimension; ``options`` keeps timeout, comment, nomatch, packets … in file order."""

    elements: tuple[Element, ...]
    options: tuple[tuple[str, str | None], ...] = ()

    @property
    def nomatch(self) -> bool:
        """An exception inside a net: what it covers is not in the set."""
        return any(name == "nomatch" for name, _ in self.options)


@dataclass(frozen=True, slots=True)
class IPSet:
    """``type`` is e.g. ``hash:ip,port``; ``options`` is the rest of the create line in file order (family, hashsize, range …)."""

    name: str
    type: str
    family: int = 4
    options: tuple[tuple[str, str | None], ...] = ()
    entries: tuple[Entry, ...] = ()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """``("ip", "port")`` of ``hash:ip,port``."""
        return tuple(self.type.partition(":")[2].split(","))


@dataclass(frozen=True, slots=True)
class IPSets:
    sets: Mapping[str, IPSet] = field(default_factory=dict)

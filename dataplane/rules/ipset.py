"""IP sets as frozen data: what ``ipset save`` holds. No parsing, printing or lookup here.

Source: net/netfilter/ipset/, ipset(8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dataplane.inet import Prefix


class PortElement(NamedTuple):
    """``tcp:80``: a protocol number and a port (an ICMP type and code as ``type << 8 | code``)."""

    protocol: int
    port: int


#: One dimension of an element, by the name that it has in the set's type:
#: ip, net          Prefix (of one address: the full mask)
#: port             PortElement; in bitmap:port, which knows no protocols, an int
#: mac, mark        int
#: iface            the name, after "physdev:" where that was said
#: set              the name of another set
Element = Prefix | PortElement | int | str


class Entry(NamedTuple):
    """One member. ``elements`` has one item a dimension (in bitmap:ip,mac the MAC may be missing: not learnt yet).

    ``options`` are timeout, nomatch, wildcard, packets, bytes, comment, skbmark … as text, None for the bare words.
    """

    elements: tuple[Element, ...]
    options: tuple[tuple[str, str | None], ...] = ()

    @property
    def nomatch(self) -> bool:
        """An exception inside a net: what it covers is not in the set."""
        return any(name == "nomatch" for name, _ in self.options)


class IPSet(NamedTuple):
    """``type`` is e.g. ``hash:ip,port``; ``options`` is the rest of the create line in order (hashsize, range, timeout …).

    The family is a field, not an option; bitmaps are always IPv4, and bitmap:port, hash:mac and list:set have none (4 here).
    """

    name: str
    type: str
    family: int = 4
    options: tuple[tuple[str, str | None], ...] = ()
    entries: tuple[Entry, ...] = ()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """``("ip", "port")`` of ``hash:ip,port``."""
        return tuple(self.type.partition(":")[2].split(","))


class IPSets(NamedTuple):
    sets: Mapping[str, IPSet] = {}

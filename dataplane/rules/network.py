"""Links, addresses, routes, rules, sysctls and known connections of one node, as frozen data.

Fields are those of ``ip -j addr|route|rule`` under the same names where they decide where a packet goes. ``rest`` is what the
tool printed, as pairs in its order, so that nothing is lost and nothing moves in printing: what has no field here is taken from
``rest``; what has one is printed from the field, in the place that ``rest`` shows. It is empty for what was made, not read,
and takes no part in comparing. No lookup here: that is engine/fib.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dataplane.inet import Prefix
from dataplane.rules.comparing import compared_without_last

#: rtnetlink's names of scopes, as numbers (include/uapi/linux/rtnetlink.h).
SCOPES: Mapping[str, int] = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
#: Names of the tables that always exist.
TABLES: Mapping[str, int] = {"default": 253, "main": 254, "local": 255}

#: Name and value of everything that the tool printed of one object, in its order (a tuple, as names can come twice).
Rest = tuple[tuple[str, Any], ...]  # values are JSON


@compared_without_last
class Address(NamedTuple):
    family: int
    local: int
    prefixlen: int
    scope: int = 0
    peer: int | None = None  # the far end's address on a point-to-point link ("address" in ip -j)
    broadcast: int | None = None
    secondary: bool = False
    tentative: bool = False
    deprecated: bool = False
    label: str | None = None
    rest: Rest = ()


@compared_without_last
class Link(NamedTuple):
    """One interface; ``kind`` is linkinfo.info_kind (bridge, veth, vlan …), ``master`` the bridge or VRF that it belongs to."""

    index: int  # type: ignore[assignment]  # no one looks for an item of a link
    name: str
    flags: tuple[str, ...] = ("UP", "LOWER_UP")
    mtu: int = 1500
    link_type: str = "ether"
    mac: str | None = None
    master: str | None = None
    kind: str | None = None
    addresses: tuple[Address, ...] = ()
    altnames: tuple[str, ...] = ()
    rest: Rest = ()

    @property
    def up(self) -> bool:
        """Administratively up (IFF_UP)."""
        return "UP" in self.flags

    @property
    def carrier(self) -> bool:
        """IFF_LOWER_UP; a link without carrier makes its routes "linkdown"."""
        return "LOWER_UP" in self.flags


@compared_without_last
class NextHop(NamedTuple):
    dev: str | None = None
    gateway: int | None = None
    gateway_family: int | None = None  # differs from the route's in "via inet6 …"
    weight: int = 1
    onlink: bool = False
    flags: tuple[str, ...] = ()  # dead, linkdown, … (not onlink, which has its own field)
    rest: Rest = ()


@compared_without_last
class Route(NamedTuple):
    """One route; ``type`` is unicast, local, broadcast, multicast, anycast, unreachable, prohibit, blackhole or throw.

    ``nexthops`` is empty for IPv4 routes of the last four types (IPv6 ones name lo). A table that is only known by a name of
    that node's rt_tables has a number above 2**32, the same one in routes and rules.
    """

    family: int
    destination: Prefix
    type: str = "unicast"
    table: int = 254
    nexthops: tuple[NextHop, ...] = ()
    metric: int = 0
    scope: int = 0
    tos: int = 0
    prefsrc: int | None = None
    protocol: str | None = None  # kernel, static, bird …; None is boot, which is what commands leave behind
    mtu: int | None = None
    rest: Rest = ()


@compared_without_last
class RoutingRule(NamedTuple):
    """One policy routing rule.

    ``action`` is lookup, goto, nop, unreachable, prohibit, blackhole or l3mdev (look up in the VRF's table).
    """

    family: int
    priority: int
    source: Prefix | None = None
    destination: Prefix | None = None
    negated: bool = False
    iif: str | None = None
    oif: str | None = None
    fwmark: int = 0
    fwmask: int = 0
    tos: int = 0
    ip_protocol: int | None = None
    sport: tuple[int, int] | None = None
    dport: tuple[int, int] | None = None
    uid_range: tuple[int, int] | None = None
    table: int | None = None
    action: str = "lookup"
    goto: int | None = None
    suppress_prefixlength: int | None = None
    rest: Rest = ()


class Tuple(NamedTuple):
    """One direction of a connection. For ICMP ``sport`` is the identifier and ``dport`` is ``type << 8 | code``; for GRE
    they are the keys; for a protocol without ports they are 0.
    """

    src: int
    dst: int
    protocol: int
    sport: int
    dport: int


@compared_without_last
class Connection(NamedTuple):
    """One line of ``conntrack -L -o extended``; ``timeout`` in seconds, ``state`` of TCP, SCTP or DCCP.

    In ``rest`` what stands among the two tuples is named ``original.packets``, ``reply.bytes`` and the like.
    """

    family: int
    protocol: int
    original: Tuple
    reply: Tuple
    timeout: int | None = None
    state: str | None = None
    flags: tuple[str, ...] = ()  # UNREPLIED, ASSURED, OFFLOAD …
    mark: int = 0
    zone: int = 0
    rest: tuple[tuple[str, str], ...] = ()

"""NodeState: everything that one node's kernel has been told about where packets go.

It joins everything: the compiler makes one, the native formats read and print one, the engine runs one. Frozen data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dataplane.rules.ipset import IPSets
from dataplane.rules.iptables import Xtables
from dataplane.rules.ipvs import IPVS
from dataplane.rules.network import Address, Connection, Link, Route, RoutingRule

#: ``lo`` as every new network namespace has it, once it is up.
LOOPBACK = Link(
    index=1, name="lo", flags=("LOOPBACK", "UP", "LOWER_UP"), mtu=65536, link_type="loopback", mac="00:00:00:00:00:00",
    addresses=(
        Address(family=4, local=0x7F000001, prefixlen=8, scope=254),
        Address(family=6, local=1, prefixlen=128, scope=254),
    ),
)  # fmt: skip


class NodeState(NamedTuple):
    """``routes`` and ``rules`` are None for a family of which nothing was said: the engine then derives the kernel's own."""

    links: tuple[Link, ...] = (LOOPBACK,)
    routes4: tuple[Route, ...] | None = None
    routes6: tuple[Route, ...] | None = None
    rules4: tuple[RoutingRule, ...] | None = None
    rules6: tuple[RoutingRule, ...] | None = None
    sysctls: Mapping[str, str] = {}
    iptables: Xtables = Xtables(4)
    ip6tables: Xtables = Xtables(6)
    ipsets: IPSets = IPSets()
    ipvs: IPVS = IPVS()
    connections: tuple[Connection, ...] = ()

    def xtables(self, family: int) -> Xtables:
        """The rule set of one family (4 or 6)."""
        return self.iptables if family == 4 else self.ip6tables

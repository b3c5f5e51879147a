"""iptables and ip6tables rule sets as frozen data: tables, chains, rules, matches and targets.

A rule is kept as iptables-save shows it, parsed: the header fields (-s -d -i -o -p -f), the matches in their order, one target.
What an option's value is made of is said by its *kind* in the option table (text/xtables_options.py):

    flag      None                          number    int
    string    str                           names     tuple[str, ...]
    port      (low, high)                   ports     ((low, high), ...)
    bits      (value, mask)                 address   Prefix
    range     (low, high) of addresses      endpoint  NatRange (addresses and ports of a NAT target)

A match or target that has no row in that table is kept verbatim (``verbatim`` holds its arguments as they were written).
No parsing, no printing, no evaluating here. Chains may be made on demand: ``Table.chains`` is any mapping in file order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dataplane.inet import Prefix
from dataplane.rules.comparing import compared_without_last

#: The tables in the order in which one hook visits them (priority), and the built-in chains of each.
BUILTIN_CHAINS: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


class Counters(NamedTuple):
    packets: int = 0
    bytes: int = 0


class NatRange(NamedTuple):
    """--to-source, --to-destination, --to-ports: each part None where it was not given."""

    low: int | None = None
    high: int | None = None
    port_low: int | None = None
    port_high: int | None = None
    port_base: int | None = None


class ByteRate(NamedTuple):
    """A rate of hashlimit in bytes a second (or a burst in bytes), as far as the kernel's 32 bits can say it."""

    bytes: int


class Option(NamedTuple):
    """One option of a match or target: ``--dport 80`` is ``Option("dport", (80, 80))``."""

    name: str
    value: Any = None  # typed by the option's kind, see the module's docstring
    negated: bool = False


class Match(NamedTuple):
    """``-m NAME …``; ``verbatim`` is not None exactly when the match has no row in the option table."""

    name: str
    options: tuple[Option, ...] = ()
    verbatim: str | None = None

    def option(self, name: str) -> Option | None:
        """The option of that name, or None."""
        for option in self.options:
            if option.name == name:
                return option
        return None


class Target(NamedTuple):
    """``-j NAME …`` where NAME is an extension or a standard verdict (ACCEPT, DROP, RETURN, QUEUE)."""

    name: str
    options: tuple[Option, ...] = ()
    verbatim: str | None = None

    def option(self, name: str) -> Option | None:
        """The option of that name, or None."""
        for option in self.options:
            if option.name == name:
                return option
        return None


class Jump(NamedTuple):
    """``-j CHAIN`` or ``-g CHAIN`` to a chain of the same table."""

    chain: str
    goto: bool = False


class Negatable(NamedTuple):
    """A header field that may be inverted with ``!``."""

    value: Any  # Prefix, interface name (a trailing + is a wildcard), or protocol number
    negated: bool = False


@compared_without_last
class Rule(NamedTuple):
    """One rule. ``protocol`` is a number (0, "all", is never stored). ``fragment`` is -f (IPv4: second and later fragments)."""

    source: Negatable | None = None
    destination: Negatable | None = None
    in_interface: Negatable | None = None
    out_interface: Negatable | None = None
    protocol: Negatable | None = None
    fragment: Negatable | None = None
    matches: tuple[Match, ...] = ()
    target: Target | Jump | None = None
    counters: Counters | None = None

    def match(self, name: str) -> Match | None:
        """The first match of that name, or None."""
        for match in self.matches:
            if match.name == name:
                return match
        return None


@compared_without_last
class Chain(NamedTuple):
    """``policy`` is ACCEPT or DROP for a built-in chain, None for a user's; ``line`` is where its first rule was read."""

    name: str
    policy: str | None = None
    rules: tuple[Rule, ...] = ()
    counters: Counters = Counters()


class Table(NamedTuple):
    name: str
    chains: Mapping[str, Chain] = {}


@compared_without_last
class Xtables(NamedTuple):
    """All tables of one family; ``flavour`` is "legacy" or "nft", as the save's header tells; both print alike so far."""

    family: int
    tables: Mapping[str, Table] = {}
    flavour: str = "legacy"
    headers: Mapping[str, tuple[str, str]] = {}  # table -> "# Generated", "# Completed"


__all__ = [
    "BUILTIN_CHAINS", "ByteRate", "Chain", "Counters", "Jump", "Match", "NatRange", "Negatable", "Option", "Prefix", "Rule", "Table",
    "Target", "Xtables",
]  # fmt: skip

"""What a node's kernel counted and remembers: rules' counters and connections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from dataplane.adapters.lab.node import Node, flavour_of
from dataplane.trace import RuleRef

Place = RuleRef

_LISTING: Final = Path("/proc/thread-self/net/nf_conntrack")
_MOST_READS: Final = 8
_TIMEOUT: Final = re.compile(r"^(\S+ +\d+ +\S+ +\d+ +)\d+")
_RULE: Final = re.compile(r"\[(\d+):\d+\] -A (\S+)")
_POLICY: Final = re.compile(r":(\S+) (\S+) \[(\d+):\d+\]")


def connections_of(node: Node) -> str:
    """Connections as ``conntrack -L -o extended`` prints them."""
    with node.inside.inside():
        if _LISTING.exists():
            return _whole_listing()
    return node.inside.run("conntrack", "-L", "-o", "extended") + node.inside.run("conntrack", "-L", "-f", "ipv6", "-o", "extended")


def _whole_listing() -> str:
    """The listing is read in pieces, each by its position: what expires meanwhile hides others (ct_seq_next). So until nothing new is seen."""
    found: dict[str, str] = {}
    for _ in range(_MOST_READS):
        known = len(found)
        found |= {_TIMEOUT.sub(r"\1", line): line for line in _LISTING.read_text().splitlines(keepends=True)}
        if known and len(found) == known:
            break
    return "".join(found.values())


def counters_of(node: Node) -> dict[Place, int]:
    """How many packets met each rule, and each policy (number None; iptables-nft does not count these)."""
    found: dict[Place, int] = {}
    for family, tool, text in ((4, "iptables", node.snapshot.iptables), (6, "ip6tables", node.snapshot.ip6tables)):
        if text.strip():
            flavour = node.flavour or flavour_of(text)
            found |= _counters(node.inside.run(f"{tool}-{flavour}-save", "-c"), family, policies=flavour == "legacy")
    return found


def _counters(text: str, family: int, *, policies: bool) -> dict[Place, int]:
    found: dict[Place, int] = {}
    table, numbers = "", dict[str, int]()
    for line in text.splitlines():
        if line.startswith("*"):
            table, numbers = line[1:], {}
        elif rule := _RULE.match(line):
            chain = rule[2]
            numbers[chain] = numbers.get(chain, 0) + 1
            found[RuleRef(family, table, chain, numbers[chain])] = int(rule[1])
        elif (policy := _POLICY.match(line)) and policies and policy[2] != "-":
            found[RuleRef(family, table, policy[1], None)] = int(policy[3])
    return found

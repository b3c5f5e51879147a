"""What differs between two nodes: as lines for people, and as the smallest input for the batch tools that leads from one to the other.

Rules are compared as iptables-save prints them, chain by chain, without their counters; a rule that stays keeps its counters, since only
what differs is deleted and inserted, by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final, NamedTuple

from dataplane.errors import ApplyError
from dataplane.rules.ipset import IPSet, IPSets
from dataplane.rules.iptables import BUILTIN_CHAINS, Table, Xtables
from dataplane.rules.nodestate import NodeState
from dataplane.text import ipset, ipvsadm
from dataplane.text.iptables import chain_lines, same_source, written
from dataplane.text.ipwords import address_words, route_words, rule_words

_COMPARED: Final = 2000  # lines of one chain that are compared one by one; a longer stretch is written anew


class Difference(NamedTuple):
    """``section`` says where (``iptables nat KUBE-SERVICES``, ``routes``); the lines that are gone, and the new ones."""

    section: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


def differences(old: NodeState, new: NodeState) -> Iterator[Difference]:
    """Everything that differs, section by section; order within a chain counts, elsewhere it does not. What only one tells of is unknown (routes, rules, sysctls)."""
    for name, one, other in (("iptables", old.iptables, new.iptables), ("ip6tables", old.ip6tables, new.ip6tables)):
        yield from _rules(name, one, other)
    sections: tuple[tuple[str, list[str], list[str]], ...] = (
        ("ipset", _set_lines(_lasting(old.ipsets)), _set_lines(_lasting(new.ipsets))),
        ("ipvs", ipvsadm.print_save(old.ipvs).splitlines(), ipvsadm.print_save(new.ipvs).splitlines()),
        ("links", _links(old), _links(new)),
        ("addresses", _addresses(old), _addresses(new)),
        ("routes", _routes(old, new), _routes(new, old)),
        ("rules", _routing_rules(old, new), _routing_rules(new, old)),
        ("sysctls", _sysctls(old, new), _sysctls(new, old)),
    )
    for section, before, after in sections:
        there, wanted = set(before), set(after)
        if there != wanted:
            yield Difference(section, tuple(line for line in before if line not in wanted), tuple(line for line in after if line not in there))


def _links(state: NodeState) -> list[str]:
    return [f"{link.name} index {link.index} mtu {link.mtu} {'up' if link.up else 'down'}" for link in state.links]


def _addresses(state: NodeState) -> list[str]:
    return [address_words(one, link.name) for link in state.links for one in link.addresses]


def _routes(state: NodeState, other: NodeState) -> list[str]:
    """Of the families of which both tell; the kernel's own for IPv6 multicast come and go with each link."""
    pairs = ((state.routes4, other.routes4), (state.routes6, other.routes6))
    return [route_words(one) for own, there in pairs if own is not None and there is not None for one in own if one.type != "multicast"]


def _routing_rules(state: NodeState, other: NodeState) -> list[str]:
    pairs = ((state.rules4, other.rules4), (state.rules6, other.rules6))
    return [rule_words(one) for own, there in pairs if own is not None and there is not None for one in own]


def _sysctls(state: NodeState, other: NodeState) -> list[str]:
    return [f"{key} = {value}" for key, value in state.sysctls.items() if key in other.sysctls]


def _lasting(sets: IPSets) -> IPSets:
    """The sets without what the kernel chooses by itself."""
    return IPSets({name: one._replace(options=_fixed(one)) for name, one in sets.sets.items()})


def _set_lines(sets: IPSets) -> list[str]:
    return ipset.print_save(sets).splitlines() if sets.sets else []


def _rules(name: str, old: Xtables, new: Xtables) -> Iterator[Difference]:
    for table in dict.fromkeys((*old.tables, *new.tables)):
        before, after = _chains(old, new, table)
        for chain in dict.fromkeys((*before, *after)):
            there, wanted = before.get(chain, ()), after.get(chain, ())
            if there == wanted:
                continue
            removed: list[str] = []
            added: list[str] = []
            for tag, first, last, low, high in _edits(there, wanted):
                if tag != "equal":
                    removed += there[first:last]
                    added += wanted[low:high]
            yield Difference(f"{name} {table} {chain}", tuple(removed), tuple(added))


def _chains(old: Xtables, new: Xtables, table: str) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
    """Of each chain: its declaration, and its rules without counters. Chains that were written alike are left out on both sides."""
    one, other = old.tables.get(table), new.tables.get(table)
    alike: set[str] = set()
    if one is not None and other is not None:
        policies = _policies(one), _policies(other)
        common = (chain for chain in one.chains if chain in other.chains and policies[0].get(chain) == policies[1].get(chain))
        alike = {chain for chain in common if same_source(one, other, chain)}
    return _lines_of(old, one, alike), _lines_of(new, other, alike)


def _lines_of(xtables: Xtables, table: Table | None, alike: set[str]) -> dict[str, Sequence[str]]:
    if table is None:
        return {}
    policies = _policies(table)
    chains = [chain for chain in table.chains if chain not in alike]
    return {chain: [f":{chain} {policies.get(chain, '-')}", *_bare(chain_lines(xtables, table, chain))] for chain in chains}


def _policies(table: Table) -> dict[str, str]:
    builtin = [chain for chain in BUILTIN_CHAINS.get(table.name, ()) if chain in table.chains]
    return {chain: table.chains[chain].policy or "ACCEPT" for chain in builtin}


def _bare(lines: Iterable[str]) -> list[str]:
    return [line[line.index("] ") + 2 :] if line[0] == "[" else line for line in lines]


def _edits(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """Opcodes as difflib has them. What is the same at both ends is cut off first; of a long rest all is new."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    last, high = len(old) - end, len(new) - end
    if max(last, high) - start > _COMPARED:
        return [("replace", start, last, start, high)]
    matcher = SequenceMatcher(None, old[start:last], new[start:high], autojunk=False)
    return [(tag, a + start, b + start, c + start, d + start) for tag, a, b, c, d in matcher.get_opcodes()]


# ---------------------------------------------------------------------- input for iptables-restore


def restore_input(old: Xtables, new: Xtables) -> str:
    """What ``iptables-restore --noflush`` must be fed to lead from one rule set to another; nothing where they are the same."""
    texts = []
    for name in dict.fromkeys((*old.tables, *new.tables)):
        if name not in old.tables:
            texts.append(_fresh_table(new, new.tables[name]))
        else:
            texts.append(table_input(name, *_chains(old, new, name), emptied=name not in new.tables))
    return "".join(texts)


def _fresh_table(xtables: Xtables, table: Table) -> str:
    """A table that is not there yet needs no comparing: its rules as they were written."""
    rules = written(xtables, table)
    builtin = _policies(table)
    heads = [f"-P {chain} {policy}" for chain, policy in builtin.items() if policy != "ACCEPT"]
    declared = [f":{chain} - [0:0]" for chain in table.chains if chain not in builtin]
    return "\n".join([f"*{table.name}", *declared, *heads, f"{rules}COMMIT", ""]) if rules or declared or heads else ""


def table_input(table: str, old: dict[str, Sequence[str]], new: dict[str, Sequence[str]], *, emptied: bool) -> str:
    """Chains are declared before they are jumped to, and go when nothing jumps to them any more."""
    builtin = BUILTIN_CHAINS.get(table, ())
    if emptied:
        new = {chain: [f":{chain} ACCEPT"] for chain in old if chain in builtin}
    declared = [f"{lines[0]} [0:0]" for chain, lines in new.items() if chain not in old and chain not in builtin]
    rules: list[str] = []
    for chain, lines in new.items():
        before = old.get(chain, [f":{chain} {'ACCEPT' if chain in builtin else '-'}"])
        if before[0] != lines[0]:
            rules.append(f"-P {chain} {lines[0].split()[1]}")
        if before[1:] != lines[1:]:
            rules += _chain_input(chain, before[1:], lines[1:])
    gone = [chain for chain in old if chain not in new]
    rules += [f"-F {chain}" for chain in gone if len(old[chain]) > 1]
    rules += [f"-X {chain}" for chain in gone if chain not in builtin]
    if not declared and not rules:
        return ""
    return "\n".join([f"*{table}", *declared, *rules, "COMMIT", ""])


def _chain_input(chain: str, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The fewest lines: deletions and insertions by number, or the chain emptied and written anew."""
    whole = [*([f"-F {chain}"] if old else []), *new]
    edits: list[str] = []
    shift = 0
    for tag, first, last, low, high in _edits(old, new):
        if tag == "equal":
            continue
        edits += [f"-D {chain} {first + shift + 1}"] * (last - first)
        edits += [
            line if last == len(old) else f"-I {chain} {first + shift + place + 1}{line[3 + len(chain) :]}"
            for place, line in enumerate(new[low:high])
        ]
        shift += high - low - (last - first)
    return edits if len(edits) < len(whole) else whole


# ---------------------------------------------------------------------- input for ipset restore


def set_inputs(old: IPSets, new: IPSets) -> tuple[str, str]:
    """What ``ipset restore -exist`` must be fed before the rules change, and ``ipset restore`` afterwards.

    ApplyError for a set that would have to become one of another type.
    """
    before: list[str] = []
    for name, one in new.sets.items():
        there = old.sets.get(name)
        if there is None:
            before += _set_lines(IPSets({name: one}))
        elif (there.type, there.family, _fixed(there)) != (one.type, one.family, _fixed(one)):
            raise ApplyError(f"the set {name} is there as a {there.type} with other options: it must be removed first")
        else:
            before += _members(there, one)
    after = [f"destroy {name}" for name in old.sets if name not in new.sets]
    return "".join(f"{line}\n" for line in before), "".join(f"{line}\n" for line in after)


def _fixed(one: IPSet) -> tuple[tuple[str, str | None], ...]:
    """Options that a set keeps for life; the kernel grows a hash by itself and says how it was seeded."""
    return tuple(option for option in one.options if option[0] not in ("hashsize", "initval", "bucketsize"))


def _members(old: IPSet, new: IPSet) -> list[str]:
    there = dict.fromkeys(ipset.format_member(old, entry) for entry in old.entries)
    wanted = dict.fromkeys(ipset.format_member(new, entry) for entry in new.entries)
    kept = {text.split(" ", 1)[0] for text in wanted}
    gone = [text for text in (text.split(" ", 1)[0] for text in there if text not in wanted) if text not in kept]
    return [*(f"del {new.name} {text}" for text in gone), *(f"add {new.name} {text}" for text in wanted if text not in there)]

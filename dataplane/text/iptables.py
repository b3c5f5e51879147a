"""iptables-save text: a whole rule set read and printed, and the effect of feeding iptables-restore.

Source: iptables 1.8.9 (iptables-restore.c, iptables-save.c), checked against the real tools.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from dataplane.errors import Problem
from dataplane.rules.iptables import Rule, Table, Xtables
from dataplane.text.iptables_chains import TextChains, print_line, read_line
from dataplane.text.iptables_rule import print_rule
from dataplane.text.iptables_tables import Reader


class Parsed(NamedTuple):
    """A rule set, and what is odd about the text though it can be read."""

    xtables: Xtables
    warnings: tuple[Problem, ...] = ()


def parse_save(text: str, family: int, *, file: str = "iptables-save.txt") -> Parsed:
    """Reads iptables-save output or restore input for an empty kernel. Raises ParseError with every line that is wrong."""
    reader = Reader(family, file)
    return Parsed(reader.read(text), tuple(reader.warnings))


def apply_restore(xtables: Xtables | None, text: str, family: int, *, noflush: bool = False, file: str = "restore input") -> Xtables:
    """The rule set after ``iptables-restore [--noflush] < text`` on top of another one; user chains sorted as the kernel lists them."""
    reader = Reader(family, file, noflush=noflush)
    if xtables is not None:
        reader.start_from(xtables)
    return reader.read(text, sort=True)


def print_save(xtables: Xtables, *, counters: bool = False) -> str:
    """The text that iptables-save prints (``counters``: with -c; rules that carry counters always show them)."""
    return "".join(_print_table(xtables, table, counters=counters) for table in xtables.tables.values())


def _print_table(xtables: Xtables, table: Table, *, counters: bool) -> str:
    generated, completed = xtables.headers.get(table.name, ("", ""))
    lines = [generated] if generated else []
    lines.append(f"*{table.name}")
    chains = table.chains
    if isinstance(chains, TextChains):
        heads, printed = chains.heads(), chains.all_lines()
    else:
        heads = ((chain.name, chain.policy, chain.counters) for chain in chains.values())
        printed = (chain_lines(xtables, table, name) for name in chains)
    lines.extend(f":{name} {policy or '-'} [{counted.packets}:{counted.bytes}]" for name, policy, counted in heads)
    for rules in printed:
        lines.extend([f"[0:0] {line}" if line[0] != "[" else line for line in rules] if counters else rules)
    lines.append("COMMIT")
    if completed:
        lines.append(completed)
    return "\n".join(lines) + "\n"


def same_source(one: Table, other: Table, name: str) -> bool:
    """Whether a chain was written alike in both, so that its rules need not be compared; False says nothing."""
    if not isinstance(one.chains, TextChains) or not isinstance(other.chains, TextChains):
        return False
    source = one.chains.source(name)
    return source is not None and source == other.chains.source(name)


def written(xtables: Xtables, table: Table) -> str:
    """The rules of a table, each with its chain, as input for a restore: as they were written, which may not be how iptables-save prints them."""
    if isinstance(table.chains, TextChains):
        return table.chains.written()
    return "".join(f"{line}\n" for name in table.chains for line in chain_lines(xtables, table, name))


def chain_lines(xtables: Xtables, table: Table, name: str) -> list[str]:
    """The rules of a chain as iptables-save prints them, ``-A CHAIN …``, with counters where they carry some."""
    if isinstance(table.chains, TextChains):
        return table.chains.lines(name)
    return [print_line(name, rule, xtables.family, xtables.flavour) for rule in table.chains[name].rules]


def parse_rule(text: str, family: int, *, chains: Container[str] | None = None, file: str = "rule", line: int = 1) -> list[tuple[str, Rule]]:
    """Chain and rules of one ``-A CHAIN …`` line (several where address lists are given). Raises ParseError."""
    name, rules = read_line(text, line, family, chains, file)
    return [(name, rule) for rule in rules]


__all__ = ["Parsed", "apply_restore", "chain_lines", "parse_rule", "parse_save", "print_rule", "print_save", "same_source", "written"]

"""kube-proxy's part of a rule set that belongs to others, too: exchanged, or taken out, with everything else left as it stands.

Its part are the chains called KUBE-… and the rules of built-in chains that jump to them.
"""

from __future__ import annotations

from typing import Final

from dataplane.rules.iptables import BUILTIN_CHAINS, Table, Xtables
from dataplane.text.iptables import chain_lines, parse_save

_OWN: Final = "KUBE-"


def with_kube_rules(there: Xtables, kube: Xtables | None) -> Xtables:
    """A rule set with kube-proxy's part from ``kube`` instead of its own (None: without any). Its jumps come first where they are new."""
    names = dict.fromkeys((*there.tables, *(kube.tables if kube is not None else ())))
    text = "".join(_table(name, there, kube) for name in names)
    made = parse_save(text, there.family, file="the rules that stand here, with kube-proxy's").xtables
    return Xtables(there.family, made.tables, there.flavour)


def _table(name: str, there: Xtables, kube: Xtables | None) -> str:
    old, new = there.tables.get(name), kube.tables.get(name) if kube is not None else None
    builtin = BUILTIN_CHAINS.get(name, ())
    heads = [f":{chain} {(old.chains[chain].policy if old is not None and chain in old.chains else None) or 'ACCEPT'} [0:0]" for chain in builtin]
    others = [chain for chain in (old.chains if old is not None else ()) if chain not in builtin and not chain.startswith(_OWN)]
    own = [chain for chain in (new.chains if new is not None else ()) if chain.startswith(_OWN)]
    heads += [f":{chain} - [0:0]" for chain in (*others, *own)]
    rules: list[str] = []
    for chain in builtin:
        before, after = _lines(there, old, chain), _lines(kube, new, chain) if kube is not None else []
        jumps = [line for line in after if _is_jump(line)]
        stay = sorted(jumps) == sorted(line for line in before if _is_jump(line))
        rules += before if stay else [*jumps, *(line for line in before if not _is_jump(line))]
    rules += [line for chain in others for line in _lines(there, old, chain)]
    rules += [line for chain in own if kube is not None for line in _lines(kube, new, chain)]
    return "\n".join([f"*{name}", *heads, *rules, "COMMIT", ""])


def _lines(xtables: Xtables, table: Table | None, chain: str) -> list[str]:
    lines = chain_lines(xtables, table, chain) if table is not None and chain in table.chains else []
    return [line[line.index("] ") + 2 :] if line[0] == "[" else line for line in lines]


def _is_jump(line: str) -> bool:
    return f" -j {_OWN}" in line or f" -g {_OWN}" in line

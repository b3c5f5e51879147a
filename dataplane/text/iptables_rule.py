"""One iptables rule: from its words to a Rule and back to the text that iptables-save prints.

Reads whatever iptables-restore accepts and prints the canonical form. Knows single rules only: tables and chains are text/iptables.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from dataplane.errors import Problem
from dataplane.inet import PROTOCOL_NAMES
from dataplane.rules.iptables import Jump, Match, Option, Rule, Target
from dataplane.text.iptables_reader import OTHER_TARGETS, Reader, RuleError, Word, split
from dataplane.text.xtables_options import MATCHES, TARGETS, Extension, Row


def read_rule(words: Sequence[Word], family: int, chains: Container[str] | None = None, *, flavour: str = "") -> list[Rule]:
    """The rules that the words after ``-A CHAIN`` stand for (several where an address list is given). Raises RuleError.

    ``chains`` are the table's chains; without them every unknown target is taken as it is. ``flavour`` is "legacy", "nft", or "" for
    either: what that iptables does not take is refused, what it loses is lost.
    """
    if not words:
        return [Rule()]
    return Reader(words, family, chains, flavour).rules()


def print_rule(rule: Rule, family: int, *, flavour: str = "") -> str:
    """The rule as iptables-save prints it behind ``-A CHAIN`` (empty for a rule without anything).

    ``! -i +``, which matches nothing, is printed by the nft flavour only.
    """
    parts: list[str] = []
    for letter, field_ in (("s", rule.source), ("d", rule.destination)):
        if field_ is not None:
            parts.append(f"{'! ' if field_.negated else ''}-{letter} {field_.value}")
    for letter, field_ in (("i", rule.in_interface), ("o", rule.out_interface)):
        if field_ is not None and (field_.value != "+" or flavour == "nft"):
            parts.append(f"{'! ' if field_.negated else ''}-{letter} {field_.value}")
    if rule.protocol is not None:
        name = PROTOCOL_NAMES.get(rule.protocol.value, str(rule.protocol.value))
        parts.append(f"{'! ' if rule.protocol.negated else ''}-p {name}")
    if rule.fragment is not None:
        parts.append("! -f" if rule.fragment.negated else "-f")
    for match in rule.matches:
        parts.append(f"-m {match.name}")
        parts.extend(_options(match, MATCHES.get(match.name), family))
    target = rule.target
    if isinstance(target, Jump):
        parts.append(f"-{'g' if target.goto else 'j'} {target.chain}")
    elif target is not None:
        parts.append(f"-j {target.name}")
        parts.extend(_options(target, TARGETS.get(target.name), family))
    return " ".join(parts)


def _options(one: Match | Target, extension: Extension | None, family: int) -> Iterator[str]:
    if one.verbatim is not None or extension is None:
        if one.verbatim:
            yield one.verbatim
        return
    for option in one.options:
        row = extension.row(option.name)
        assert row is not None
        if row.hidden is not None and option.value == row.hidden and not (option.negated and row.shown_inverted):
            continue
        yield _one_option(option, row, family)


def _one_option(option: Option, row: Row, family: int) -> str:
    text = f"{'! ' if option.negated else ''}--{option.name}"
    if row.kind.words:
        text += row.separator + row.kind.show(option.value, family)
    return text


def problem(error: RuleError, file: str, line: int, source: str) -> Problem:
    """The error, placed in its file."""
    return Problem(str(error), file, line, error.column, source=source)


__all__ = ["OTHER_TARGETS", "RuleError", "Word", "print_rule", "problem", "read_rule", "split"]

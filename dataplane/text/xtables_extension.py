"""What the option table is made of: a row an option, an extension a match or target, and the facts of the rule that it may ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from dataplane.rules.iptables import Option
from dataplane.text.xtables_kinds import Kind

BOTH = (4, 6)


class Row(NamedTuple):
    """One option. ``hidden`` is the value that save leaves out (of an inverted option too, unless ``shown_inverted``).

    ``default`` is filled in where the option is missing. ``required``, ``excludes`` and ``needs`` are what iptables insists on.
    """

    name: str
    kind: Kind
    negatable: bool = False
    default: Any = None
    hidden: Any = None
    separator: str = " "
    required: bool = False
    excludes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    families: tuple[int, ...] = BOTH
    shown_inverted: bool = False
    repeated: bool = False


class Facts(NamedTuple):
    """What an extension may know of its rule: ``protocol`` is None without -p, or with ``! -p``; ``named`` is the one of -p, inverted or not.

    ``syn``: -m tcp asks for SYN. ``flavour``: "legacy", "nft", or "" where the rule must only fit one of them.
    """

    family: int
    protocol: int | None
    named: int | None
    syn: bool
    flavour: str = ""


Finish = Callable[[list[Option], Facts], list[Option]]
Rewrite = tuple[Kind, Callable[[Any], tuple[Option, ...]]]


@dataclass(frozen=True, slots=True, eq=False)
class Extension:
    """A match or target.

    ``aliases``: another spelling -> row. ``rewrites``: an option that stands for others. ``protocols``: the kernel takes the rule
    with one of these only, if it is ``bound_in`` the rule's family. ``some_of``: at least one must be given. ``finish``: gets the options as they were given, returns what
    the kernel keeps, raises ValueError. ``ordered``: save prints in the order of the rows.
    """

    rows: tuple[Row, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    rewrites: Mapping[str, Rewrite] = field(default_factory=dict)
    families: tuple[int, ...] = BOTH
    protocols: tuple[int, ...] = ()
    bound_in: tuple[int, ...] = BOTH
    some_of: tuple[str, ...] = ()
    finish: Finish | None = None
    ordered: bool = True

    def row(self, name: str) -> Row | None:
        """The row of a canonical name."""
        return next((row for row in self.rows if row.name == name), None)


@cache
def of_family(extension: Extension, family: int) -> Extension:
    """The extension with the rows of one family only."""
    rows = tuple(row for row in extension.rows if family in row.families)
    return extension if rows == extension.rows else replace(extension, rows=rows)


@cache
def spellings(extension: Extension) -> Mapping[str, str]:
    """Every name of an option, and the row or rewrite that it stands for."""
    return {row.name: row.name for row in extension.rows} | dict(extension.aliases) | {name: name for name in extension.rewrites}


def exclusive(*rows: Row) -> tuple[Row, ...]:
    """Rows of which a rule may have one."""
    return tuple(row._replace(excludes=(*row.excludes, *(other.name for other in rows if other is not row))) for row in rows)


def completed(options: Sequence[Option], extension: Extension, facts: Facts) -> tuple[Option, ...]:
    """The options as the kernel keeps them: checked, with defaults, in the order in which save prints them. Raises ValueError."""
    given = {option.name for option in options}
    if extension.protocols and facts.family in extension.bound_in and facts.protocol not in extension.protocols:
        raise ValueError("the kernel takes this only with -p of its own protocol, not inverted")
    for row in extension.rows:
        if row.name in given:
            _check(row, given)
        elif row.required:
            raise ValueError(f"option --{row.name} must be specified")
    if extension.some_of and not given & set(extension.some_of):
        raise ValueError(f"one of --{', --'.join(extension.some_of)} must be specified")
    kept = list(options)
    kept.extend(Option(row.name, row.default) for row in extension.rows if row.default is not None and row.name not in given)
    if extension.finish is not None:
        kept = extension.finish(kept, facts)
    if extension.ordered:
        places = {row.name: place for place, row in enumerate(extension.rows)}
        kept.sort(key=lambda option: places[option.name])
    return tuple(kept)


def _check(row: Row, given: set[str]) -> None:
    for other in row.excludes:
        if other in given:
            raise ValueError(f"option --{row.name} cannot be used together with --{other}")
    for other in row.needs:
        if other not in given:
            raise ValueError(f"option --{row.name} also requires --{other}")

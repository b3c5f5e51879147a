"""What the files of matches share: the row of the table, options as functions, and what to say when nobody knows the answer.

Some matches have no row in the option table, so a rule keeps their arguments as they were written; ``given`` reads those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.skb import Skb
from dataplane.rules.iptables import Match, Option, Target

Factory = Callable[[Match, Bind], Matcher]
Test = Callable[[Skb], bool]


@dataclass(frozen=True, slots=True)
class MatchRow:
    """``pure``: neither a side effect nor a random decision. ``verbatim``: the factory reads ``Match.verbatim`` itself."""

    make: Factory
    pure: bool = True
    verbatim: bool = False


def always(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
    """Matches every packet."""
    return True


def never(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
    """Matches no packet."""
    return False


def guess(bind: Bind, what: str) -> bool:
    """``Kernel.assume``, with a note of what was assumed; raises Unknown where nothing is to be assumed."""
    kernel = bind.kernel
    if kernel.assume is None:
        raise Unknown(what, bind.rule)
    kernel.notes.append(f"{bind.rule}: {what}; assumed to {'match' if kernel.assume else 'not match'}")
    return kernel.assume


def not_modelled(what: str, bind: Bind) -> Matcher:
    """A matcher whose answer nobody knows."""
    return lambda skb, state: guess(bind, f"{what} is not modelled")


def all_of(*tests: Test | None) -> Matcher:
    """A matcher that holds where every test holds."""
    wanted = tuple(test for test in tests if test is not None)
    if not wanted:
        return always
    if len(wanted) == 1:
        one = wanted[0]
        return lambda skb, state: one(skb)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        for test in wanted:  # noqa: SIM110 - a generator costs half a microsecond more
            if not test(skb):
                return False
        return True

    return matcher


def tested(option: Option | None, make: Callable[[Any], Test]) -> Test | None:  # Any: as the option's kind has it
    """One option as a test that honours its ``!``; None where the option was not given."""
    if option is None:
        return None
    test = make(option.value)
    return (lambda skb: not test(skb)) if option.negated else test


class Given(NamedTuple):
    """One option of a verbatim match: its words behind the name, and whether a ``!`` stood before it."""

    words: tuple[str, ...]
    negated: bool

    @property
    def word(self) -> str:
        """The first argument, without the quotation marks that save puts around names."""
        return self.words[0].strip('"') if self.words else ""


def given(extension: Match | Target) -> dict[str, Given]:
    """The options of a verbatim match or target by name. (No argument of those that are read here holds a blank.)"""
    options: dict[str, Given] = {}
    name, negated, words = "", False, list[str]()
    for word in (extension.verbatim or "").split():
        if word.startswith("--") or word == "!":
            if name:
                options[name] = Given(tuple(words), negated)
            name, negated, words = ("", True, []) if word == "!" else (word[2:], negated and not name, [])
        elif name:
            words.append(word)
    if name:
        options[name] = Given(tuple(words), negated)
    return options


def span(text: str, highest: int = 0xFFFFFFFF) -> tuple[int, int]:
    """``low:high`` in C's notations, either of which may be missing; one number alone is both."""
    low, colon, high = text.partition(":")
    first = int(low, 0) if low else 0
    return first, (int(high, 0) if high else highest) if colon else first

"""What the files of matches share: the row of the table, options as functions, and what to say when nobody knows the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.skb import Skb
from dataplane.rules.iptables import Match, Option

Factory = Callable[[Match, Bind], Matcher]
Test = Callable[[Skb], bool]


class MatchRow(NamedTuple):
    """``pure``: neither a side effect nor a random decision."""

    make: Factory
    pure: bool = True


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

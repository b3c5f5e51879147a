"""Walking the chains of one table as the kernel does, rule by rule, with jumps, gotos, returns and policies.

The walk goes over the rules that a chain's index gives (engine/iptables_chain); the linear walk (``linear=True``) has the same meaning,
and a property test holds one to the other. Source: ipt_do_table in net/ipv4/netfilter/ip_tables.c, ip6_tables.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from dataplane.engine.bind import HotDrop, Matcher
from dataplane.engine.hooks import ACCEPT, Accept, Drop, HookState, Unknown, Verdict
from dataplane.engine.iptables_chain import ReadyChain, ReadyRule
from dataplane.engine.kernel import Kernel
from dataplane.engine.skb import Skb
from dataplane.rules.iptables import Table
from dataplane.trace import ChangeEvent, NoMatchEvent, RuleRef, TableLeft

_RETURN: Final = object()


class TableWalk:
    """One table of one family, ready to be walked. ``verbose`` records why rules did not match (and walks linearly)."""

    def __init__(self, table: Table, family: int, kernel: Kernel, *, linear: bool = False, verbose: bool = False) -> None:
        self.table = table
        self.family = family
        self.kernel = kernel
        self.linear = linear or verbose
        self.verbose = verbose
        self._chains: dict[str, ReadyChain] = {}

    def _chain(self, name: str) -> ReadyChain:
        chain = self._chains.get(name)
        if chain is None:
            chain = self._chains[name] = ReadyChain(self.table.chains[name], self.family, self.table.name, self.kernel)
        return chain

    def hook_function(self, base: str) -> Callable[[Skb, HookState], Verdict]:
        """The function that the table registers at the hook of its base chain."""
        return partial(self.walk, base)

    def walk(self, base_name: str, skb: Skb, state: HookState) -> Verdict:
        """The table's verdict on a packet. Raises Unknown where a rule that is not modelled decides."""
        events = self.kernel.events
        chain = base = self._chains.get(base_name) or self._chain(base_name)
        if not base.length:
            events += base.left
            return ACCEPT if base.policy != "DROP" else self._dropped(base)
        events.append(base.left[0])
        rules = iter(chain.plain or chain.candidates(skb, linear=self.linear))
        stack: list[tuple[ReadyChain, Iterator[ReadyRule], int]] = []
        counted = visited = depth = 0  # rules of the chain at hand already counted; rules counted in all; length of the stack
        verbose = self.verbose
        while True:
            rule = None
            try:
                for candidate in rules:
                    for check in candidate.checks:
                        if not check(skb, state):
                            if verbose:
                                self._no_match(candidate, check, depth)
                            break
                    else:
                        rule = candidate
                        break
            except Unknown as raised:
                if self._rest_holds(candidate, check, skb, state, depth):
                    raise Unknown(raised.reason, raised.by or candidate.ref) from None
                continue
            except HotDrop as drop:
                return Drop(str(drop), candidate.ref)
            if rule is None:
                visited += chain.length - counted
                if not depth:
                    self.kernel.visited += visited
                    events += (base.left[1], TableLeft(self.table.name, visited))
                    return ACCEPT if base.policy != "DROP" else self._dropped(base)
                chain, rules, counted = stack.pop()
                depth -= 1
                continue
            if rule.jump is not None:
                visited += rule.number - counted
                events.append(rule.told.get(depth) or rule.event(depth))
                if not rule.goto:
                    stack.append((chain, rules, rule.number))
                    depth += 1
                if rule.chain is None:
                    rule.chain = self._chain(rule.jump)
                chain, counted = rule.chain, 0
                rules = iter(chain.plain or chain.candidates(skb, linear=self.linear))
                continue
            verdict = self._act(rule, skb, state, depth)
            if verdict is None:
                continue
            visited += rule.number - counted
            if verdict is _RETURN:
                counted, rules = chain.length, iter(())
                continue
            self.kernel.visited += visited
            events.append(TableLeft(self.table.name, visited))
            return verdict  # type: ignore[return-value]  # _RETURN was handled

    def _rest_holds(self, rule: ReadyRule, unknown: Matcher, skb: Skb, state: HookState, depth: int) -> bool:
        """Whether no check behind an unknown one fails: one that is unknown decides only where none of the others fails."""
        for check in rule.checks[rule.checks.index(unknown) + 1 :]:
            try:
                if not check(skb, state):
                    if self.verbose:
                        self._no_match(rule, check, depth)
                    return False
            except Unknown:
                continue
        return True

    def _no_match(self, rule: ReadyRule, check: Matcher, depth: int) -> None:
        self.kernel.events.append(NoMatchEvent(rule.ref, rule.rule, rule.names[rule.checks.index(check)], depth))

    def _dropped(self, base: ReadyChain) -> Verdict:
        return Drop(f"policy DROP of {self.table.name} {base.name}", RuleRef(self.family, self.table.name, base.name, None))

    def _act(self, rule: ReadyRule, skb: Skb, state: HookState, depth: int) -> Verdict | object | None:
        events = self.kernel.events
        function, standard = rule.function, rule.standard
        if function is None:
            events.append(rule.told.get(depth) or rule.event(depth))
            if standard == "ACCEPT":
                return ACCEPT
            if standard is None:
                return None
            return _RETURN if standard == "RETURN" else Drop(f"{rule.ref}", rule.ref)
        mark, ttl, tos, place = skb.mark, skb.ttl, skb.tos, len(events)
        try:
            verdict = function(skb, state)
        except Unknown as raised:
            raise Unknown(raised.reason, raised.by or rule.ref) from None
        if verdict is None:
            action = "continue"
        elif isinstance(verdict, Accept):
            action = "accept"
        else:
            action = "reject" if isinstance(verdict, Drop) and verdict.replies else "drop"
        events.insert(place, rule.event(depth, action))
        if mark != skb.mark:
            events.append(ChangeEvent("mark", mark, skb.mark))
        if ttl != skb.ttl:
            events.append(ChangeEvent("ttl", ttl, skb.ttl))
        if tos != skb.tos:
            events.append(ChangeEvent("tos", tos, skb.tos))
        return verdict

"""Walking the chains of one table as the kernel does, rule by rule, with jumps, gotos, returns and policies.

A long chain is indexed by the exact fields of its rules (protocol, addresses, port), so that the walk looks only at rules that
can match; how many rules the kernel would have looked at is still known, since it goes through a chain in order. The index is a
pure optimisation: the linear walk (``linear=True``) has the same meaning, and a property test holds one to the other. Rules are
compiled when a packet first comes to them. Source: ipt_do_table in net/ipv4/netfilter/ip_tables.c, ip6_tables.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dataplane.engine.bind import Bind, HotDrop, Matcher, TargetFunction
from dataplane.engine.hooks import ACCEPT, Accept, Drop, HookState, Unknown, Verdict
from dataplane.engine.kernel import Kernel
from dataplane.engine.matches import MATCHES, make_matcher
from dataplane.engine.skb import Skb
from dataplane.engine.targets import make_target
from dataplane.inet import FULL_MASK, SCTP, TCP, UDP, Prefix
from dataplane.rules.iptables import Chain, Jump, Rule, Table
from dataplane.trace import ChangeEvent, NoMatchEvent, PolicyEvent, RuleEvent, RuleRef, TableEvent, TableLeft

_INDEX_FROM: Final = 8  # shorter chains are walked as they are
_PORT_MATCHES: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}

Check = tuple[str, Matcher]


class _Rule:
    """A rule made ready: what is to be checked in order, then what it does."""

    __slots__ = ("checks", "function", "goto", "jump", "ref", "rule", "standard")

    def __init__(self, rule: Rule, ref: RuleRef, kernel: Kernel) -> None:
        self.rule = rule
        self.ref = ref
        bind = Bind(kernel, ref.family, ref)
        self.checks: tuple[Check, ...] = (
            *_header_checks(rule, ref.family),
            *((f"-m {m.name}", make_matcher(m, bind)) for m in rule.matches if m.name != "comment"),
        )
        self.jump: str | None = None
        self.goto = False
        self.standard: str | None = None
        self.function: TargetFunction | None = None
        target = rule.target
        if isinstance(target, Jump):
            self.jump, self.goto = target.chain, target.goto
        elif target is not None and target.name in ("ACCEPT", "DROP", "RETURN"):
            self.standard = target.name
        elif target is not None:
            self.function = make_target(target, bind)


class _Chain:
    """A chain and, when it is long, its index: rule positions by what an exact field must be."""

    __slots__ = ("_by_daddr", "_by_full", "_by_port", "_by_saddr", "_compiled", "_generic", "indexed", "name", "policy", "refs", "rules")

    def __init__(self, chain: Chain) -> None:
        self.name = chain.name
        self.policy = chain.policy
        self.rules: Sequence[Rule] = chain.rules
        self._compiled: list[_Rule | None] = [None] * len(chain.rules)
        self._by_full: dict[tuple[int, int, int], list[int]] = {}
        self._by_port: dict[tuple[int, int], list[int]] = {}
        self._by_daddr: dict[int, list[int]] = {}
        self._by_saddr: dict[int, list[int]] = {}
        self._generic: list[int] = []
        self.indexed = len(chain.rules) >= _INDEX_FROM
        if self.indexed:
            for position, rule in enumerate(chain.rules):
                self._place(position, rule)

    def _place(self, position: int, rule: Rule) -> None:
        protocol = rule.protocol.value if rule.protocol is not None and not rule.protocol.negated else None
        daddr = _exact(rule.destination)
        port = _exact_port(rule, protocol)
        if port is not None and protocol is not None:
            if daddr is not None:
                self._by_full.setdefault((protocol, daddr, port), []).append(position)
            else:
                self._by_port.setdefault((protocol, port), []).append(position)
        elif daddr is not None:
            self._by_daddr.setdefault(daddr, []).append(position)
        elif (saddr := _exact(rule.source)) is not None:
            self._by_saddr.setdefault(saddr, []).append(position)
        else:
            self._generic.append(position)

    def candidates(self, skb: Skb, *, linear: bool) -> Sequence[int]:
        """Positions of the rules that can match, ascending."""
        if not self.indexed or linear or skb.fragment_offset:
            return range(len(self.rules))
        found = self._generic
        protocol, daddr, port = skb.protocol, skb.daddr, skb.dport
        for more in (
            self._by_full.get((protocol, daddr, port)),
            self._by_port.get((protocol, port)),
            self._by_daddr.get(daddr),
            self._by_saddr.get(skb.saddr),
        ):
            if more:
                found = [*found, *more] if found else more
        return found if found is self._generic else sorted(found)

    def rule(self, position: int, family: int, table: str, kernel: Kernel) -> _Rule:
        """The rule at a position, compiled on first use."""
        compiled = self._compiled[position]
        if compiled is None:
            ref = RuleRef(family, table, self.name, position + 1)
            compiled = self._compiled[position] = _Rule(self.rules[position], ref, kernel)
        return compiled


class TableWalk:
    """One table of one family, ready to be walked. ``verbose`` records why rules did not match (and walks linearly)."""

    def __init__(self, table: Table, family: int, kernel: Kernel, *, linear: bool = False, verbose: bool = False) -> None:
        self.table = table
        self.family = family
        self.kernel = kernel
        self.linear = linear or verbose
        self.verbose = verbose
        self._chains: dict[str, _Chain] = {}

    def _chain(self, name: str) -> _Chain:
        chain = self._chains.get(name)
        if chain is None:
            chain = self._chains[name] = _Chain(self.table.chains[name])
        return chain

    def hook_function(self, base: str) -> Callable[[Skb, HookState], Verdict]:
        """The function that the table registers at the hook of its base chain."""

        def walk(skb: Skb, state: HookState) -> Verdict:
            return self.walk(base, skb, state)

        return walk

    def walk(self, base_name: str, skb: Skb, state: HookState) -> Verdict:
        """The table's verdict on a packet. Raises Unknown where a rule that is not modelled decides."""
        kernel = self.kernel
        events = kernel.events
        events.append(TableEvent(self.table.name, base_name))
        chain = base = self._chain(base_name)
        positions = iter(chain.candidates(skb, linear=self.linear))
        stack: list[tuple[_Chain, object, int]] = []
        counted = visited = 0  # rules of the chain at hand already counted; rules counted in all
        rule: _Rule | None = None
        try:
            while True:
                for position in positions:
                    rule = chain.rule(position, self.family, self.table.name, kernel)
                    if not self._matches(rule, skb, state, len(stack)):
                        continue
                    if rule.jump is not None:
                        visited += position + 1 - counted
                        kind = "goto" if rule.goto else "jump"
                        events.append(RuleEvent(rule.ref, rule.rule, f"{kind} {rule.jump}", len(stack)))
                        if not rule.goto:
                            stack.append((chain, positions, position + 1))
                        chain, counted = self._chain(rule.jump), 0
                        positions = iter(chain.candidates(skb, linear=self.linear))
                        break
                    verdict = self._act(rule, skb, state, len(stack))
                    if verdict is None:
                        continue
                    visited += position + 1 - counted
                    if verdict is _RETURN:
                        counted = len(chain.rules)
                        positions = iter(())
                        break
                    kernel.visited += visited
                    events.append(TableLeft(self.table.name, visited))
                    return verdict  # type: ignore[return-value]  # _RETURN was handled
                else:
                    visited += len(chain.rules) - counted
                    if stack:
                        chain, positions, counted = stack.pop()  # type: ignore[assignment]  # an iterator of int
                        continue
                    return self._policy(base, visited)
        except Unknown as unknown:
            raise Unknown(unknown.reason, unknown.by or (rule.ref if rule else None)) from None
        except HotDrop as drop:
            return Drop(str(drop), rule.ref if rule else None)

    def _policy(self, base: _Chain, visited: int) -> Verdict:
        policy = base.policy or "ACCEPT"
        ref = RuleRef(self.family, self.table.name, base.name, None)
        self.kernel.events.append(PolicyEvent(ref, policy))
        self.kernel.events.append(TableLeft(self.table.name, visited))
        self.kernel.visited += visited
        return ACCEPT if policy == "ACCEPT" else Drop(f"policy {policy} of {self.table.name} {base.name}", ref)

    def _matches(self, rule: _Rule, skb: Skb, state: HookState, depth: int) -> bool:
        """Whether all checks hold. One that is unknown decides only where none of the others fails."""
        unknown: Unknown | None = None
        for name, check in rule.checks:
            try:
                if check(skb, state):
                    continue
            except Unknown as raised:
                unknown = unknown or raised
                continue
            if self.verbose:
                self.kernel.events.append(NoMatchEvent(rule.ref, rule.rule, name, depth))
            return False
        if unknown is not None:
            raise unknown
        return True

    def _act(self, rule: _Rule, skb: Skb, state: HookState, depth: int) -> Verdict | object | None:
        events = self.kernel.events
        standard = rule.standard
        if standard is not None:
            events.append(RuleEvent(rule.ref, rule.rule, standard.lower(), depth))
            if standard == "ACCEPT":
                return ACCEPT
            return _RETURN if standard == "RETURN" else Drop(f"{rule.ref}", rule.ref)
        if rule.function is None:
            events.append(RuleEvent(rule.ref, rule.rule, "continue", depth))
            return None
        mark, ttl, tos, place = skb.mark, skb.ttl, skb.tos, len(events)
        verdict = rule.function(skb, state)
        if verdict is None:
            action = "continue"
        elif isinstance(verdict, Accept):
            action = "accept"
        else:
            action = "reject" if isinstance(verdict, Drop) and verdict.replies else "drop"
        events.insert(place, RuleEvent(rule.ref, rule.rule, action, depth))
        for field, old, new in (("mark", mark, skb.mark), ("ttl", ttl, skb.ttl), ("tos", tos, skb.tos)):
            if old != new:
                events.append(ChangeEvent(field, old, new))
        return verdict


_RETURN: Final = object()


def _exact(field: object) -> int | None:
    """The address of a field that names exactly one."""
    if field is None or field.negated or field.value.mask != FULL_MASK[field.value.family]:  # type: ignore[attr-defined]  # Negatable
        return None
    address: int = field.value.address  # type: ignore[attr-defined]
    return address


def _exact_port(rule: Rule, protocol: int | None) -> int | None:
    """The one destination port that a rule asks for, where no side effect of an earlier match would be lost."""
    for match in rule.matches:
        if _PORT_MATCHES.get(match.name) == protocol and protocol is not None:
            option = match.option("dport")
            if option is not None and not option.negated and option.value[0] == option.value[1]:
                port: int = option.value[0]
                return port
        row = MATCHES.get(match.name)
        if row is None or not row.pure or match.verbatim is not None:
            return None
    return None


def _header_checks(rule: Rule, family: int) -> list[Check]:
    checks: list[Check] = []
    if rule.protocol is not None:
        checks.append((_named("-p", rule.protocol.negated), _protocol(rule.protocol.value, rule.protocol.negated)))
    if rule.source is not None:
        checks.append((_named("-s", rule.source.negated), _address("saddr", rule.source.value, rule.source.negated)))
    if rule.destination is not None:
        checks.append((_named("-d", rule.destination.negated), _address("daddr", rule.destination.value, rule.destination.negated)))
    if rule.in_interface is not None:
        checks.append((_named("-i", rule.in_interface.negated), _interface(1, rule.in_interface.value, rule.in_interface.negated)))
    if rule.out_interface is not None:
        checks.append((_named("-o", rule.out_interface.negated), _interface(2, rule.out_interface.value, rule.out_interface.negated)))
    if rule.fragment is not None and family == 4:
        wanted = not rule.fragment.negated
        checks.append((_named("-f", rule.fragment.negated), lambda skb, state: (skb.fragment_offset != 0) == wanted))
    return checks


def _named(option: str, negated: bool) -> str:
    return f"! {option}" if negated else option


def _protocol(number: int, negated: bool) -> Matcher:
    if negated:
        return lambda skb, state: skb.protocol != number
    return lambda skb, state: skb.protocol == number


def _address(side: str, prefix: Prefix, negated: bool) -> Matcher:
    address, mask = prefix.address, prefix.mask
    if side == "saddr":
        if negated:
            return lambda skb, state: skb.saddr & mask != address
        return lambda skb, state: skb.saddr & mask == address
    if negated:
        return lambda skb, state: skb.daddr & mask != address
    return lambda skb, state: skb.daddr & mask == address


def _interface(field: int, name: str, negated: bool) -> Matcher:
    if name.endswith("+"):
        prefix = name[:-1]
        return lambda skb, state: state[field].startswith(prefix) != negated  # type: ignore[union-attr]
    return lambda skb, state: (state[field] == name) != negated

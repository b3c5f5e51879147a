"""A chain made ready for walking: its rules turned into functions, and an index where it is long.

The index knows the exact fields of the rules (protocol, addresses, port), so that a walk looks only at rules that can match. How many
rules the kernel would have looked at is still known, since it goes through a chain in order: a rule carries its number.
Rules are made ready when a packet first comes to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dataplane.engine.bind import Bind, Matcher, TargetFunction
from dataplane.engine.kernel import Kernel
from dataplane.engine.matches import MATCHES, make_matcher
from dataplane.engine.skb import Skb
from dataplane.engine.targets import make_target
from dataplane.inet import FULL_MASK, SCTP, TCP, UDP, Prefix
from dataplane.rules.iptables import Chain, Jump, Rule
from dataplane.trace import Event, PolicyEvent, RuleEvent, RuleRef, TableEvent, TableLeft

_INDEX_FROM: Final = 16  # shorter chains are walked as they are
_PORT_MATCHES: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}


class ReadyRule:
    """A rule: ``checks`` in their order (``names`` say what each looks at), then a jump, a standard verdict, or a function.

    ``matched`` keeps the events that say so, by depth and what a target did ("" for what never varies);
    ``chain`` is where a jump goes, once it was taken.
    """

    __slots__ = ("chain", "checks", "function", "goto", "jump", "matched", "names", "number", "ref", "rule", "standard", "told")

    def __init__(self, rule: Rule, ref: RuleRef, kernel: Kernel) -> None:
        self.rule = rule
        self.ref = ref
        self.number = ref.number or 0
        bind = Bind(kernel, ref.family, ref)
        named = (
            *_header_checks(rule, ref.family),
            *((f"-m {m.name}", make_matcher(m, bind)) for m in rule.matches if m.name != "comment"),
        )
        self.names: tuple[str, ...] = tuple(name for name, _ in named)
        self.checks: tuple[Matcher, ...] = tuple(check for _, check in named)
        self.jump: str | None = None
        self.chain: ReadyChain | None = None
        self.goto = False
        self.standard: str | None = None
        self.function: TargetFunction | None = None
        self.matched: dict[tuple[int, str], RuleEvent] = {}
        self.told: dict[int, RuleEvent] = {}
        target = rule.target
        if isinstance(target, Jump):
            self.jump, self.goto = target.chain, target.goto
        elif target is not None and target.name in ("ACCEPT", "DROP", "RETURN"):
            self.standard = target.name
        elif target is not None:
            self.function = make_target(target, bind)

    def event(self, depth: int, done: str = "") -> RuleEvent:
        """That the rule matched; ``done`` is what its target did, "" for a jump or a standard verdict (these are kept in ``told``, too)."""
        event = self.matched.get((depth, done))
        if event is None:
            action = done or (f"{'goto' if self.goto else 'jump'} {self.jump}" if self.jump is not None else (self.standard or "continue").lower())
            event = self.matched[depth, done] = RuleEvent(self.ref, self.rule, action, depth)
            if not done:
                self.told[depth] = event
        return event


class ReadyChain:
    """A chain and, when it is long, its index: rule positions by what an exact field must be. ``plain`` are all rules of a short one.

    ``left`` are the events of a table whose base chain it is and is left by the policy, without a rule looked at.
    """

    __slots__ = (
        "_by_daddr", "_by_full", "_by_port", "_by_saddr", "_family", "_generic", "_kernel", "_ready", "_rules", "_table", "length",
        "left", "name", "plain", "policy",
    )  # fmt: skip

    def __init__(self, chain: Chain, family: int, table: str, kernel: Kernel) -> None:
        self.name = chain.name
        self.policy = chain.policy
        self._rules: Sequence[Rule] = chain.rules
        self._family, self._table, self._kernel = family, table, kernel
        self.length = len(chain.rules)
        self._by_full: dict[tuple[int, int, int], list[int]] = {}
        self._by_port: dict[tuple[int, int], list[int]] = {}
        self._by_daddr: dict[int, list[int]] = {}
        self._by_saddr: dict[int, list[int]] = {}
        self._generic: list[int] = []
        self._ready: list[ReadyRule | None] = [None] * self.length
        self.plain: list[ReadyRule] | None = None
        if self.length < _INDEX_FROM:
            self.plain = self._take(range(self.length))
        else:
            for position, rule in enumerate(chain.rules):
                self._place(position, rule)
        ref = RuleRef(family, table, self.name, None)
        policy = PolicyEvent(ref, chain.policy or "ACCEPT")
        self.left: tuple[Event, ...] = (TableEvent(table, self.name), policy, TableLeft(table, 0))

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

    def candidates(self, skb: Skb, *, linear: bool) -> Iterable[ReadyRule]:
        """The rules that can match, in order."""
        if self.plain is not None:
            return self.plain
        if linear or skb.fragment_offset:
            return self._take(range(self.length))
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
        return self._take(found if found is self._generic else sorted(found))

    def _take(self, positions: Iterable[int]) -> list[ReadyRule]:
        ready = self._ready
        return [ready[position] or self._make(position) for position in positions]

    def _make(self, position: int) -> ReadyRule:
        ref = RuleRef(self._family, self._table, self.name, position + 1)
        made = self._ready[position] = ReadyRule(self._rules[position], ref, self._kernel)
        return made


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


def _header_checks(rule: Rule, family: int) -> list[tuple[str, Matcher]]:
    checks: list[tuple[str, Matcher]] = []
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

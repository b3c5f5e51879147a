"""Matches on the connection that a packet belongs to: state, tuples, status, mark, label, counters, helper.

A packet without a connection is INVALID (conn None, ctinfo None) or UNTRACKED; behind -j CT in the raw table it has a template,
which counts as NEW (conn None, ctinfo NEW).
Source: xt_conntrack.c, xt_state.c, xt_connmark.c, xt_connbytes.c, xt_connlabel.c, xt_helper.c, xt_cluster.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.conntrack import Conn, is_reply
from dataplane.engine.hooks import HookState
from dataplane.engine.jhash import jhash, scaled
from dataplane.engine.matching import MatchRow, Test, all_of, guess, not_modelled, tested
from dataplane.engine.skb import (
    CT_ATTACHED,
    CT_ESTABLISHED,
    CT_ESTABLISHED_REPLY,
    CT_NEW,
    CT_RELATED,
    CT_RELATED_REPLY,
    CT_UNTRACKED,
    Skb,
)
from dataplane.inet import Prefix
from dataplane.rules.iptables import Match

#: What each state's name covers, as Skb.ctinfo.
_CTINFO: Final[Mapping[str, frozenset[int | None]]] = {
    "INVALID": frozenset({None, CT_ATTACHED}), "NEW": frozenset({CT_NEW}), "RELATED": frozenset({CT_RELATED, CT_RELATED_REPLY}),
    "ESTABLISHED": frozenset({CT_ESTABLISHED, CT_ESTABLISHED_REPLY}), "UNTRACKED": frozenset({CT_UNTRACKED}),
}  # fmt: skip

ConnTest = Callable[[Conn, Skb], bool]


def _states(names: tuple[str, ...]) -> Test:
    """One of the states, or an address of the connection is translated (SNAT, DNAT)."""
    wanted = frozenset[int | None]().union(*(_CTINFO.get(name, frozenset()) for name in names))
    snat, dnat = "SNAT" in names, "DNAT" in names
    if not snat and not dnat:
        return lambda skb: skb.ctinfo in wanted

    def test(skb: Skb) -> bool:
        conn = skb.conn
        return skb.ctinfo in wanted or (conn is not None and ((snat and conn.snat) or (dnat and conn.dnat)))

    return test


def _state(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return all_of(tested(match.options[0], _states))


def _conntrack(match: Match, bind: Bind) -> Matcher:
    """Without a connection nothing but --ctstate counts: alone or not, it decides; without it the match fails."""
    states = tested(match.option("ctstate"), _states)
    others = [option for option in match.options if option.name != "ctstate"]
    rest = tuple((_CONN_TESTS[option.name](option.value, bind), option.negated) for option in others)
    if not rest:
        return all_of(states)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if states is not None and not states(skb):
            return False
        conn = skb.conn
        if conn is None:
            return states is not None
        for test, negated in rest:  # noqa: SIM110 - a generator costs half a microsecond more
            if test(conn, skb) == negated:
                return False
        return True

    return matcher


def _within(side: Callable[[Conn], int]) -> Callable[[Prefix, Bind], ConnTest]:
    def make(prefix: Prefix, bind: Bind) -> ConnTest:  # noqa: ARG001
        address, mask = prefix.address, prefix.mask  # host bits of the rule's address count for nothing (conntrack_addrcmp)
        return lambda conn, skb: (side(conn) ^ address) & mask == 0

    return make


def _between(side: Callable[[Conn], int]) -> Callable[[tuple[int, int], Bind], ConnTest]:
    def make(span: tuple[int, int], bind: Bind) -> ConnTest:  # noqa: ARG001
        low, high = span
        return lambda conn, skb: low <= side(conn) <= high

    return make


def _protocol(number: int, bind: Bind) -> ConnTest:  # noqa: ARG001
    return lambda conn, skb: conn.original.protocol == number


def _status(names: tuple[str, ...], bind: Bind) -> ConnTest:  # noqa: ARG001
    """One of the bits; NONE is no bit, so it never matches."""
    expected, seen, assured, confirmed = (name in names for name in ("EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"))
    return lambda conn, skb: (
        (expected and conn.expected)
        or (seen and conn.seen_reply)
        or (assured and conn.assured)
        or (confirmed and conn.confirmed)
    )


def _expires(span: tuple[int, int], bind: Bind) -> ConnTest:
    """Whole seconds left; 0 for a connection that is not in the table yet."""
    low, high = span

    def test(conn: Conn, skb: Skb) -> bool:  # noqa: ARG001
        left = 0 if conn.timeout_at is None else max(0, int(conn.timeout_at - bind.kernel.now))
        return low <= left <= high

    return test


def _direction(value: str, bind: Bind) -> ConnTest:  # noqa: ARG001
    reply = value == "REPLY"
    return lambda conn, skb: is_reply(skb.ctinfo) == reply


_CONN_TESTS: Final[Mapping[str, Callable[[Any, Bind], ConnTest]]] = {  # Any: as the option's kind has it
    "ctproto": _protocol,
    "ctorigsrc": _within(lambda conn: conn.original.src),
    "ctorigdst": _within(lambda conn: conn.original.dst),
    "ctreplsrc": _within(lambda conn: conn.reply.src),
    "ctrepldst": _within(lambda conn: conn.reply.dst),
    "ctorigsrcport": _between(lambda conn: conn.original.sport),
    "ctorigdstport": _between(lambda conn: conn.original.dport),
    "ctreplsrcport": _between(lambda conn: conn.reply.sport),
    "ctrepldstport": _between(lambda conn: conn.reply.dport),
    "ctstatus": _status,
    "ctexpire": _expires,
    "ctdir": _direction,
}


def _connmark(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]
    (value, mask), negated = option.value, option.negated

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        return skb.conn is not None and (skb.conn.mark & mask == value) != negated

    return matcher


def _helper(match: Match, bind: Bind) -> Matcher:
    """The helper of the connection that expected this one; no connection of the emulator is ever expected."""
    negated = match.options[0].negated

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if skb.conn is not None and skb.conn.expected:
            return guess(bind, "-m helper: which helper expected the connection is not known")
        return negated

    return matcher


def _connbytes(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """Counters with the packet at hand. The kernel keeps an inverted range as one whose ends are swapped, so ! 5:5 is 5:5."""
    options = {option.name: option for option in match.options}
    low, high = options["connbytes"].value
    high = high or (1 << 64) - 1
    negated = options["connbytes"].negated and low != high
    directions = {"original": (0,), "reply": (1,), "both": (0, 1)}[options["connbytes-dir"].value]
    mode = options["connbytes-mode"].value

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        conn = skb.conn
        if conn is None:
            return False
        packets, size = sum(conn.packets[side] for side in directions), sum(conn.bytes[side] for side in directions)
        amount = packets if mode == "packets" else size if mode == "bytes" else size // packets if packets else 0
        return bool(low <= amount <= high) != negated

    return matcher


def _connlabel(match: Match, bind: Bind) -> Matcher:
    """Labels by number (their names are in a file that no snapshot has); --set puts the label and holds."""
    label = match.option("label")
    assert label is not None  # iptables takes no other
    if not label.value.isdecimal():
        return not_modelled(f'-m connlabel with the name "{label.value}"', bind)
    bit, negated, sets = 1 << int(label.value), label.negated, match.option("set") is not None

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        conn = skb.conn
        if conn is None:
            return negated
        if sets:
            conn.labels |= bit
        return bool(conn.labels & bit) != negated

    return matcher


def _cluster(match: Match, bind: Bind) -> Matcher:
    """A hash of the connection's original source says which nodes answer.

    Only the first 32 bits of an IPv6 address count (NF_CT_TUPLE_L3SIZE is divided by 4 twice). A little-endian machine is taken.
    """
    options = {option.name: option for option in match.options}
    nodes, seed = options["cluster-total-nodes"].value, options["cluster-hash-seed"].value
    mask, negated = options["cluster-local-nodemask"].value, options["cluster-local-nodemask"].negated

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        conn = skb.conn
        if skb.pkttype == "multicast" and not _is_multicast(skb):
            skb.pkttype = "host"
        if conn is None:
            return False
        if conn.expected:
            return guess(bind, "-m cluster: the source of the connection that expected this one is not known")
        first = conn.original.src if skb.family == 4 else conn.original.src >> 96
        word = int.from_bytes(first.to_bytes(4, "big"), "little")
        return bool(1 << scaled(jhash([word], seed), nodes) & mask) != negated

    return matcher


def _is_multicast(skb: Skb) -> bool:
    return skb.daddr >> 28 == 0xE if skb.family == 4 else skb.daddr >> 120 == 0xFF


ROWS: Final[dict[str, MatchRow]] = {
    "conntrack": MatchRow(_conntrack),
    "state": MatchRow(_state),
    "connmark": MatchRow(_connmark),
    "helper": MatchRow(_helper),
    "connbytes": MatchRow(_connbytes),
    "connlabel": MatchRow(_connlabel, pure=False),
    "cluster": MatchRow(_cluster, pure=False),
}

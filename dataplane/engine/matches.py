"""What each match asks of a packet: the table of all matches, and how one becomes a function.

By theme: matches_transport, matches_header, matches_origin, matches_connection, matches_ipvs, matches_stateful, matches_rate, matches_bytes;
sets: ipset. A match without a row is answered by ``Kernel.assume`` or makes the outcome unknown: ipcomp, l2tp, mh, rateest, srh.
Source: net/netfilter/xt_*.c, net/ipv4/netfilter/ipt_*.c, net/ipv6/netfilter/ip6t_*.c of the same names.
"""

from __future__ import annotations

from typing import Final

from dataplane.engine import (
    matches_bytes,
    matches_connection,
    matches_header,
    matches_ipvs,
    matches_origin,
    matches_rate,
    matches_stateful,
    matches_transport,
)
from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.matching import MatchRow, always, guess, not_modelled
from dataplane.engine.skb import Skb
from dataplane.rules.iptables import Match


def make_matcher(match: Match, bind: Bind) -> Matcher:
    """The function of a match; of one without a row, one that asks ``Kernel.assume``."""
    row = MATCHES.get(match.name)
    if row is None or match.verbatim is not None:
        return not_modelled(f"-m {match.name}", bind)
    return row.make(match, bind)


def _comment(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return always


def _set(match: Match, bind: Bind) -> Matcher:
    """--return-nomatch holds for what a nomatch entry takes out of a set of nets. Counters matter in sets that have some."""
    option = match.option("match-set")
    assert option is not None  # iptables takes no other
    (name, directions), negated = option.value, option.negated
    nomatch = match.option("return-nomatch") is not None
    counted = any(option.name.startswith(("packets-", "bytes-")) for option in match.options)
    one = bind.kernel.ipsets.get(name)
    if counted and (one is None or one.type == "list:set" or "counters" in dict(one.options)):
        return not_modelled(f"-m set with counters of {name}", bind)

    def matcher(skb: Skb, state: HookState) -> bool:
        try:
            return bind.kernel.sets.test(name, skb, state, directions, nomatch=nomatch) != negated
        except Unknown as unknown:
            return guess(bind, unknown.reason)

    return matcher


MATCHES: Final[dict[str, MatchRow]] = {
    "comment": MatchRow(_comment),
    "set": MatchRow(_set, pure=False),
    **matches_transport.ROWS,
    **matches_header.ROWS,
    **matches_origin.ROWS,
    **matches_connection.ROWS,
    **matches_ipvs.ROWS,
    **matches_stateful.ROWS,
    **matches_rate.ROWS,
    **matches_bytes.ROWS,
}

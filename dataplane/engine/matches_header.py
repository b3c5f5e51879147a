"""Matches on the IP header itself, and on IPv6's chain of extension headers as far as a Packet tells of it.

Known of the extension headers is which there are (``ip_options``) and what a fragment says; not what else is inside them, so
options such as --hbh-opts are answered only where the header is missing.
Source: xt_length.c, xt_hl.c, xt_dscp.c, xt_iprange.c, ip6t_ipv6header.c, ip6t_frag.c, ip6t_hbh.c, ip6t_rt.c, ip6t_eui64.c.
"""

from __future__ import annotations

from typing import Final

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import Factory, MatchRow, Test, all_of, guess, tested
from dataplane.engine.skb import Skb
from dataplane.inet import AH, ESP
from dataplane.rules.iptables import Match

_HOP, _ROUTING, _FRAGMENT, _NONE, _DESTINATION = 0, 43, 44, 59, 60
#: Extension headers as -m ipv6header names them; "protocol" stands for an upper protocol behind them.
_NAMES: Final = {
    _HOP: "hop-by-hop", _DESTINATION: "ipv6-opts", _ROUTING: "ipv6-route", _FRAGMENT: "ipv6-frag", AH: "ah", ESP: "esp",
    _NONE: "ipv6-nonxt",
}  # fmt: skip


def extension_headers(skb: Skb) -> set[int]:
    """The extension headers of an IPv6 packet by number, ESP, AH and "no next header" among them."""
    headers = {number for number in (*skb.ip_options, skb.protocol) if number in _NAMES}
    if skb.fragment_offset or skb.more_fragments:
        headers.add(_FRAGMENT)
    return headers


def _between(low: int, high: int) -> Test:
    return lambda skb: low <= skb.length <= high


def _length(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """The whole packet with its IP header, in IPv6 too (skb_ipv6_payload_len and 40)."""
    return all_of(tested(match.options[0], lambda value: _between(*value)))


def _ttl(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """TTL and hop limit: --ttl-eq may be inverted, the other two exclude the number itself."""
    option = match.options[0]
    number, how = option.value, option.name.partition("-")[2]
    tests: dict[str, Test] = {
        "lt": lambda skb: skb.ttl < number, "gt": lambda skb: skb.ttl > number, "eq": lambda skb: skb.ttl == number,
    }  # fmt: skip
    return all_of(tested(option, lambda value: tests[how]))


def _tos(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return all_of(tested(match.options[0], lambda value: lambda skb: skb.tos & value[1] == value[0]))


def _dscp(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return all_of(tested(match.options[0], lambda value: lambda skb: skb.tos >> 2 == value))


def _iprange(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return all_of(
        tested(match.option("src-range"), lambda value: lambda skb: value[0] <= skb.saddr <= value[1]),
        tested(match.option("dst-range"), lambda value: lambda skb: value[0] <= skb.daddr <= value[1]),
    )


# ---------------------------------------------------------------------- IPv6 extension headers


def _ipv6header(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """Exactly these headers; --soft: these among others, where ``!`` means none of these."""
    header = match.option("header")
    assert header is not None  # iptables takes no other
    wanted, negated, soft = frozenset(header.value), header.negated, match.option("soft") is not None

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        found = {_NAMES[number] for number in extension_headers(skb)}
        if not found & {"ipv6-nonxt", "esp"}:
            found.add("protocol")
        if soft:
            return not wanted & found if negated else wanted <= found
        return (wanted == found) != negated

    return matcher


def _presence(number: int, name: str) -> Factory:
    """A header that is there or not; options about its inside are beyond a Packet (and fail where it is missing)."""

    def make(match: Match, bind: Bind) -> Matcher:
        options = match.options

        def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
            there = number in extension_headers(skb)
            return there and (not options or guess(bind, f"-m {name} with options is not modelled"))

        return matcher

    return make


def _frag(match: Match, bind: Bind) -> Matcher:
    number = match.option("fragid")
    low, high = number.value if number is not None else (0, 0xFFFFFFFF)
    flags = ("fragfirst", "fragmore", "fraglast", "fraglen", "fragres")
    first, more, last, length, reserved = (match.option(name) is not None for name in flags)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if _FRAGMENT not in extension_headers(skb):
            return False
        if number is not None and (low <= skb.ip_id <= high) == number.negated:
            return False
        if (first and skb.fragment_offset) or (more and not skb.more_fragments) or (last and skb.more_fragments):
            return False
        return not (length or reserved) or guess(bind, "-m frag --fraglen and --fragres are not modelled")

    return matcher


def _eui64(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """The source address ends in its sender's MAC, as stateless autoconfiguration makes it."""

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        link = bind.kernel.links.get(skb.indev)
        if skb.local or link is None or link.link_type == "loopback":
            return False
        mac = skb.mac_source
        if mac is None:
            return guess(bind, "-m eui64: the packet's source MAC address is not known")
        return skb.saddr & 0xFFFFFFFFFFFFFFFF == ((mac >> 24 ^ 0x020000) << 40 | 0xFFFE << 24 | mac & 0xFFFFFF)

    return matcher


ROWS: Final[dict[str, MatchRow]] = {
    "length": MatchRow(_length),
    "ttl": MatchRow(_ttl),
    "hl": MatchRow(_ttl),
    "tos": MatchRow(_tos),
    "dscp": MatchRow(_dscp),
    "iprange": MatchRow(_iprange),
    "ipv6header": MatchRow(_ipv6header),
    "hbh": MatchRow(_presence(_HOP, "hbh")),
    "dst": MatchRow(_presence(_DESTINATION, "dst")),
    "rt": MatchRow(_presence(_ROUTING, "rt")),
    "frag": MatchRow(_frag),
    "eui64": MatchRow(_eui64),
}

"""Matches on the IP header itself, and on IPv6's chain of extension headers as far as a Packet tells of it.

Known of the extension headers is which there are (``ip_options``) and what a fragment says; not what else is inside them, so
options such as --hbh-opts are answered only where the header is missing.
Source: xt_length.c, xt_hl.c, xt_dscp.c, xt_iprange.c, ip6t_ipv6header.c, ip6t_frag.c, ip6t_hbh.c, ip6t_rt.c, ip6t_eui64.c.
"""

from __future__ import annotations

from typing import Final

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import Factory, MatchRow, Test, all_of, given, guess, span, tested
from dataplane.engine.skb import Skb
from dataplane.inet import AH, ESP
from dataplane.rules.iptables import Match

_HOP, _ROUTING, _FRAGMENT, _NONE, _DESTINATION = 0, 43, 44, 59, 60
#: Extension headers as -m ipv6header names them; "prot" stands for an upper protocol behind them.
_HEADERS: Final = {
    "hop": "hop", "hop-by-hop": "hop", "dst": "dst", "ipv6-opts": "dst", "route": "route", "ipv6-route": "route", "frag": "frag",
    "ipv6-frag": "frag", "auth": "auth", "ah": "auth", "esp": "esp", "none": "none", "ipv6-nonxt": "none", "prot": "prot", "protocol": "prot",
    "0": "hop", "60": "dst", "43": "route", "44": "frag", "51": "auth", "50": "esp", "59": "none",
}  # fmt: skip
_NUMBERS: Final = {_HOP: "hop", _DESTINATION: "dst", _ROUTING: "route", _FRAGMENT: "frag", AH: "auth", ESP: "esp", _NONE: "none"}


def extension_headers(skb: Skb) -> set[int]:
    """The extension headers of an IPv6 packet by number, ESP, AH and "no next header" among them."""
    headers = {number for number in (*skb.ip_options, skb.protocol) if number in _NUMBERS}
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
    tests: dict[str, Test] = {"lt": lambda skb: skb.ttl < number, "gt": lambda skb: skb.ttl > number, "eq": lambda skb: skb.ttl == number}
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
    options = given(match)
    header = options["header"]
    wanted = {_HEADERS[name] for name in header.word.split(",")}
    negated, soft = header.negated, "soft" in options

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        found = {_NUMBERS[number] for number in extension_headers(skb)}
        if not found & {"none", "esp"}:
            found.add("prot")
        if soft:
            return not wanted & found if negated else wanted <= found
        return (wanted == found) != negated

    return matcher


def _presence(number: int, name: str) -> Factory:
    """A header that is there or not; options about its inside are beyond a Packet (and fail where it is missing)."""

    def make(match: Match, bind: Bind) -> Matcher:
        options = given(match)

        def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
            there = number in extension_headers(skb)
            return there and (not options or guess(bind, f"-m {name} with options is not modelled"))

        return matcher

    return make


def _frag(match: Match, bind: Bind) -> Matcher:
    options = given(match)
    number = options.get("fragid")
    low, high = span(number.word) if number is not None else (0, 0xFFFFFFFF)
    first, more, last = (name in options for name in ("fragfirst", "fragmore", "fraglast"))

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if _FRAGMENT not in extension_headers(skb):
            return False
        if number is not None and (low <= skb.ip_id <= high) == number.negated:
            return False
        if (first and skb.fragment_offset) or (more and not skb.more_fragments) or (last and skb.more_fragments):
            return False
        return not {"fraglen", "fragres"} & options.keys() or guess(bind, "-m frag --fraglen and --fragres are not modelled")

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
    "ipv6header": MatchRow(_ipv6header, verbatim=True),
    "hbh": MatchRow(_presence(_HOP, "hbh"), verbatim=True),
    "dst": MatchRow(_presence(_DESTINATION, "dst"), verbatim=True),
    "rt": MatchRow(_presence(_ROUTING, "rt"), verbatim=True),
    "frag": MatchRow(_frag, verbatim=True),
    "eui64": MatchRow(_eui64, verbatim=True),
}

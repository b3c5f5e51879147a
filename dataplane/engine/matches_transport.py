"""Matches on what stands behind the IP header: ports, TCP flags and options, SCTP chunks, ICMP types, SPIs.

They all share two rules of the kernel. The header is only in the first fragment, so a later one never matches, not even an
inverted match. And a packet too short for its header is dropped on the spot (hotdrop), not passed to the next rule.
Not known of a packet: flags of SCTP chunks, types and options of DCCP, the CPI of IPComp.
Source: xt_tcpudp.c, xt_sctp.c, xt_dccp.c, xt_multiport.c, xt_tcpmss.c, xt_ecn.c, xt_esp.c, ipt_ah.c, ip6t_ah.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dataplane.engine.bind import Bind, HotDrop, Matcher
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import Factory, MatchRow, Test, guess, not_modelled, tested
from dataplane.engine.skb import Skb
from dataplane.inet import AH, DCCP, ESP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from dataplane.packet import CWR, ECE
from dataplane.rules.iptables import Match

_HEADER_LENGTH: Final = {TCP: 20, UDP: 8, UDPLITE: 8, SCTP: 12, DCCP: 12, ICMP: 8, ICMPV6: 8, ESP: 8, AH: 12}
_CHUNKS: Final = {
    name: number for number, name in enumerate((
        "DATA", "INIT", "INIT_ACK", "SACK", "HEARTBEAT", "HEARTBEAT_ACK", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK", "ERROR",
        "COOKIE_ECHO", "COOKIE_ACK", "ECN_ECNE", "ECN_CWR", "SHUTDOWN_COMPLETE",
    ))
} | {
    "I_DATA": 64, "ASCONF_ACK": 128, "RE_CONFIG": 130, "PAD": 132, "FORWARD_TSN": 192, "ASCONF": 193, "I_FORWARD_TSN": 194,
}  # fmt: skip


def tcp_option_kinds(skb: Skb) -> set[int]:
    """The kinds of the TCP options that the packet is known to carry."""
    options = skb.tcp_options
    if options is None:
        return set()
    known = (
        (2, options.mss is not None), (3, options.wscale is not None), (4, options.sack_permitted), (5, bool(options.sack)),
        (8, options.timestamp),
    )  # fmt: skip
    return {kind for kind, there in known if there} | set(options.other)


def _behind_header(protocol: int, tests: Sequence[Test | None], bind: Bind) -> Matcher:
    """A matcher on one protocol's header: false for later fragments, a drop for what is too short, else all the tests."""
    wanted = tuple(test for test in tests if test is not None)
    only = wanted[0] if len(wanted) == 1 else None
    shortest = (20 if bind.family == 4 else 40) + _HEADER_LENGTH[protocol]

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if skb.protocol != protocol:
            return False
        if skb.fragment_offset:
            return _later_fragment(skb)
        if 0 < skb.length < shortest:
            raise HotDrop("the packet is too short for its transport header")
        if only is not None:
            return only(skb)
        for test in wanted:  # noqa: SIM110 - a generator costs half a microsecond more
            if not test(skb):
                return False
        return True

    return matcher


def _later_fragment(skb: Skb) -> bool:
    """A TCP fragment that begins 8 bytes in would overwrite the flags of the first one: dropped, as tcp_mt quotes Alan."""
    if skb.fragment_offset == 8 and skb.protocol == TCP and skb.family == 4:
        raise HotDrop("a TCP fragment that begins inside the TCP header")
    return False


def _sport(value: tuple[int, int]) -> Test:
    low, high = value
    return (lambda skb: skb.sport == low) if low == high else (lambda skb: low <= skb.sport <= high)


def _dport(value: tuple[int, int]) -> Test:
    low, high = value
    return (lambda skb: skb.dport == low) if low == high else (lambda skb: low <= skb.dport <= high)


def _tcp_flags(value: tuple[int, int]) -> Test:
    mask, wanted = value
    return lambda skb: skb.tcp_flags & mask == wanted


def _tcp_option(kind: int) -> Test:
    return lambda skb: kind in tcp_option_kinds(skb)


def _tcp(match: Match, bind: Bind) -> Matcher:
    tests = (
        tested(match.option("sport"), _sport), tested(match.option("dport"), _dport),
        tested(match.option("tcp-flags"), _tcp_flags), tested(match.option("tcp-option"), _tcp_option),
    )  # fmt: skip
    return _behind_header(TCP, tests, bind)


def _with_ports(protocol: int) -> Factory:
    def make(match: Match, bind: Bind) -> Matcher:
        return _behind_header(protocol, (tested(match.option("sport"), _sport), tested(match.option("dport"), _dport)), bind)

    return make


def _sctp(match: Match, bind: Bind) -> Matcher:
    chunks = match.option("chunk-types")
    test: Test | None = None
    if chunks is not None and set(chunks.value.partition(" ")[2].split(",")) <= {*_CHUNKS, "ALL", "NONE"}:
        test = tested(chunks, _chunk_types)
    elif chunks is not None:
        test = lambda skb: guess(bind, f"-m sctp --chunk-types {chunks.value} is not modelled")  # noqa: E731
    return _behind_header(SCTP, (tested(match.option("sport"), _sport), tested(match.option("dport"), _dport), test), bind)


def _chunk_types(value: str) -> Test:
    how, _, names = value.partition(" ")
    named = frozenset(_CHUNKS[name] for name in names.split(",") if name in _CHUNKS)
    chosen = frozenset(range(256)) if names == "ALL" else named

    def test(skb: Skb) -> bool:
        chunks = skb.sctp_chunks
        if not chunks:
            raise HotDrop("an SCTP packet without a chunk")
        if how == "any":
            return any(kind in chosen for kind in chunks)
        return chosen.issubset(chunks) if how == "all" else chosen.issuperset(chunks)

    return test


def _dccp(match: Match, bind: Bind) -> Matcher:
    other = match.option("dccp-types") is not None or match.option("dccp-option") is not None
    test: Test | None = (lambda skb: guess(bind, "-m dccp with types or options is not modelled")) if other else None
    return _behind_header(DCCP, (tested(match.option("sport"), _sport), tested(match.option("dport"), _dport), test), bind)


def _icmp(protocol: int) -> Factory:
    """IPv4's type 255 stands for any type; IPv6 has no such word."""

    def make(match: Match, bind: Bind) -> Matcher:
        option = match.option("icmp-type" if protocol == ICMP else "icmpv6-type")
        return _behind_header(protocol, (tested(option, _icmp_type),), bind)

    def _icmp_type(value: tuple[int, int, int]) -> Test:
        kind, low, high = value
        if kind == 255 and protocol == ICMP:
            return lambda skb: True
        return lambda skb: skb.icmp_type == kind and low <= skb.icmp_code <= high

    return make


def _multiport(match: Match, bind: Bind) -> Matcher:
    """The rule's -p is one of the protocols with ports and not inverted, or the kernel does not take the rule."""
    option = match.options[0]
    spans, which, negated = tuple(option.value), option.name, option.negated
    exact = frozenset(low for low, high in spans if low == high)
    ranges = tuple((low, high) for low, high in spans if low != high)
    by_source, by_destination = which in ("sports", "ports"), which in ("dports", "ports")
    shortest = (20 if bind.family == 4 else 40) + 4

    def among(port: int) -> bool:
        return port in exact or any(low <= port <= high for low, high in ranges)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if skb.fragment_offset:
            return False
        if 0 < skb.length < shortest:
            raise HotDrop("the packet is too short for its ports")
        return ((by_source and among(skb.sport)) or (by_destination and among(skb.dport))) != negated

    return matcher


def _esp(match: Match, bind: Bind) -> Matcher:
    return _behind_header(ESP, (tested(match.option("espspi"), _spi),), bind)


def _ah(match: Match, bind: Bind) -> Matcher:
    if match.option("ahlen") is not None or match.option("ahres") is not None:
        return not_modelled("-m ah --ahlen and --ahres", bind)
    test = tested(match.option("ahspi"), _spi)
    if bind.family == 4:
        return _behind_header(AH, (test,), bind)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        there = skb.protocol == AH or AH in skb.ip_options
        return there and not skb.fragment_offset and (test is None or test(skb))

    return matcher


def _spi(value: tuple[int, int]) -> Test:
    low, high = value
    return lambda skb: low <= skb.spi <= high


def _tcpmss(match: Match, bind: Bind) -> Matcher:
    """Takes what a later fragment begins with for a TCP header."""
    whole = _behind_header(TCP, (tested(match.option("mss"), _mss),), bind)

    def matcher(skb: Skb, state: HookState) -> bool:
        if skb.fragment_offset and skb.protocol == TCP:
            return guess(bind, "-m tcpmss looks for an option in the data of a later fragment")
        return whole(skb, state)

    return matcher


def _mss(value: tuple[int, int]) -> Test:
    low, high = value

    def test(skb: Skb) -> bool:
        mss = skb.tcp_options.mss if skb.tcp_options is not None else None
        return mss is not None and low <= mss <= high

    return test


def _ecn(match: Match, bind: Bind) -> Matcher:
    """IP's two bits first, then TCP's flags (for which it takes whatever a later fragment has in their place)."""
    ect = match.option("ecn-ip-ect")
    bits = {"ecn-tcp-ece": ECE, "ecn-tcp-cwr": CWR}
    flags = [(bits[option.name], option.negated) for option in match.options if option.name in bits]

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if ect is not None and (skb.tos & 3 == ect.value) == ect.negated:
            return False
        if flags and skb.fragment_offset:
            return guess(bind, "-m ecn takes the data of a later fragment for TCP's flags")
        return all(bool(skb.tcp_flags & bit) != negated for bit, negated in flags)

    return matcher


ROWS: Final[dict[str, MatchRow]] = {
    "tcp": MatchRow(_tcp),
    "udp": MatchRow(_with_ports(UDP)),
    "udplite": MatchRow(_with_ports(UDPLITE)),
    "sctp": MatchRow(_sctp),
    "dccp": MatchRow(_dccp),
    "icmp": MatchRow(_icmp(ICMP)),
    "icmp6": MatchRow(_icmp(ICMPV6)),
    "multiport": MatchRow(_multiport),
    "esp": MatchRow(_esp),
    "ah": MatchRow(_ah),
    "tcpmss": MatchRow(_tcpmss),
    "ecn": MatchRow(_ecn),
}

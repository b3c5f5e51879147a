"""What each match asks of a packet: one row a match, a factory that compiles its options to a function.

The stateful ones (recent, limit, hashlimit, quota, statistic nth, connlimit) are in matches_stateful; sets in ipset. A match
without a row is answered by ``Kernel.assume`` or makes the outcome unknown.
Source: net/netfilter/xt_*.c, net/ipv4/netfilter/ipt_*.c, net/ipv6/netfilter/ip6t_*.c of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dataplane.engine import matches_stateful as stateful
from dataplane.engine.bind import Bind, HotDrop, Matcher
from dataplane.engine.conntrack import is_reply
from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.skb import CT_NEW, CT_RELATED, CT_RELATED_REPLY, CT_UNTRACKED, Skb
from dataplane.inet import DCCP, SCTP, TCP, UDP, UDPLITE, Prefix
from dataplane.rules.iptables import Match, Option

Factory = Callable[[Match, Bind], Matcher]


@dataclass(frozen=True, slots=True)
class MatchRow:
    """``pure``: neither a side effect nor a random decision."""

    make: Factory
    pure: bool = True


def always(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
    """Matches every packet."""
    return True


def make_matcher(match: Match, bind: Bind) -> Matcher:
    """The function of a match; of one without a row, one that asks ``Kernel.assume``."""
    row = MATCHES.get(match.name)
    if row is None or match.verbatim is not None:
        return not_modelled(f"-m {match.name}", bind)
    return row.make(match, bind)


def not_modelled(what: str, bind: Bind) -> Matcher:
    """A matcher whose answer nobody knows."""

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kernel = bind.kernel
        if kernel.assume is None:
            raise Unknown(f"{what} is not modelled")
        kernel.notes.append(f"{what} in {bind.rule} is not modelled: assumed to {'match' if kernel.assume else 'not match'}")
        return kernel.assume

    return matcher


def _both(*parts: Matcher | None) -> Matcher:
    wanted = tuple(part for part in parts if part is not None)
    if not wanted:
        return always
    if len(wanted) == 1:
        return wanted[0]
    return lambda skb, state: all(part(skb, state) for part in wanted)


def _test(option: Option | None, make: Callable[[Any], Callable[[Skb], bool]]) -> Matcher | None:
    """One option as a matcher that honours its ``!``."""
    if option is None:
        return None
    test, negated = make(option.value), option.negated
    return lambda skb, state: test(skb) != negated


# ---------------------------------------------------------------------- transport protocols


def _sport_in(value: tuple[int, int]) -> Callable[[Skb], bool]:
    low, high = value
    return lambda skb: low <= skb.sport <= high


def _dport_in(value: tuple[int, int]) -> Callable[[Skb], bool]:
    low, high = value
    return lambda skb: low <= skb.dport <= high


def _tcp_options(skb: Skb) -> set[int]:
    options = skb.tcp_options
    if options is None:
        return set()
    known = {2: options.mss is not None, 3: options.wscale is not None, 4: options.sack_permitted, 5: bool(options.sack), 8: options.timestamp}
    return {kind for kind, there in known.items() if there} | set(options.other)


def _transport(protocol: int) -> Factory:
    def make(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
        inner = _both(
            _test(match.option("sport"), _sport_in),
            _test(match.option("dport"), _dport_in),
            _test(match.option("tcp-flags"), lambda value: lambda skb: skb.tcp_flags & value[0] == value[1]),
            _test(match.option("tcp-option"), lambda value: lambda skb: value in _tcp_options(skb)),
            _test(match.option("chunk-types"), _chunks),
        )

        def matcher(skb: Skb, state: HookState) -> bool:
            if skb.protocol != protocol:
                return False
            if skb.fragment_offset:
                if skb.fragment_offset == 8 and protocol == TCP:
                    raise HotDrop("a TCP fragment at offset 1: dropped by -m tcp")
                return False
            return inner(skb, state)

        return matcher

    return make


_CHUNK_NAMES: Final = (
    "DATA", "INIT", "INIT_ACK", "SACK", "HEARTBEAT", "HEARTBEAT_ACK", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK", "ERROR", "COOKIE_ECHO",
    "COOKIE_ACK", "ECN_ECNE", "ECN_CWR", "SHUTDOWN_COMPLETE",
)  # fmt: skip


def _chunks(value: str) -> Callable[[Skb], bool]:
    how, _, names = value.partition(" ")
    wanted = {_CHUNK_NAMES.index(name.partition(":")[0]) for name in names.split(",") if name.partition(":")[0] in _CHUNK_NAMES}
    if names == "ALL":
        wanted = set(range(256))
    if how == "any":
        return lambda skb: any(kind in wanted for kind in skb.sctp_chunks)
    if how == "all":
        return lambda skb: wanted <= set(skb.sctp_chunks)
    return lambda skb: set(skb.sctp_chunks) <= wanted


def _icmp(match: Match, bind: Bind) -> Matcher:
    option = match.option("icmp-type") or match.option("icmpv6-type")
    kind, low, high = option.value if option is not None else (255, 0, 255)
    negated = option is not None and option.negated
    anything = kind == 255 and bind.family == 4

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if not skb.is_icmp or skb.fragment_offset:
            return False
        return (anything or (skb.icmp_type == kind and low <= skb.icmp_code <= high)) != negated

    return matcher


_PORTS: Final = frozenset((TCP, UDP, SCTP, DCCP, UDPLITE))


def _multiport(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]
    spans, negated, which = option.value, option.negated, option.name

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if skb.fragment_offset or skb.protocol not in _PORTS:
            return False
        ports = {"sports": (skb.sport,), "dports": (skb.dport,)}.get(which, (skb.sport, skb.dport))
        return any(low <= port <= high for port in ports for low, high in spans) != negated

    return matcher


# ---------------------------------------------------------------------- connections


def _state_name(skb: Skb) -> str:
    if skb.ctinfo == CT_UNTRACKED:
        return "UNTRACKED"
    if skb.conn is None:
        return "INVALID"
    if skb.ctinfo == CT_NEW:
        return "NEW"
    return "RELATED" if skb.ctinfo in (CT_RELATED, CT_RELATED_REPLY) else "ESTABLISHED"


def _states(value: tuple[str, ...]) -> Callable[[Skb], bool]:
    names = frozenset(value)
    snat, dnat = "SNAT" in names, "DNAT" in names

    def test(skb: Skb) -> bool:
        if _state_name(skb) in names:
            return True
        conn = skb.conn
        return conn is not None and ((snat and conn.snat) or (dnat and conn.dnat))

    return test


def _conntrack(match: Match, bind: Bind) -> Matcher:
    states = _test(match.option("ctstate"), _states)
    rest = tuple((option, _CONN_TESTS[option.name]) for option in match.options if option.name != "ctstate")

    def matcher(skb: Skb, state: HookState) -> bool:
        if states is not None and not states(skb, state):
            return False
        conn = skb.conn
        if conn is None:
            return not rest
        return all(bool(test(conn, skb, option.value, bind)) != option.negated for option, test in rest)

    return matcher


def _within(prefix: Prefix, address: int) -> bool:
    return address & prefix.mask == prefix.address


def _between(span: tuple[int, int], number: int) -> bool:
    return span[0] <= number <= span[1]


def _status(conn: Any, names: tuple[str, ...]) -> bool:
    there = {"EXPECTED": conn.expected, "SEEN_REPLY": conn.seen_reply, "ASSURED": conn.assured, "CONFIRMED": conn.confirmed}
    return any(there.get(name, False) for name in names) or ("NONE" in names and not any(there.values()))


_CONN_TESTS: Final[Mapping[str, Callable[[Any, Skb, Any, Bind], bool]]] = {
    "ctproto": lambda conn, skb, value, bind: conn.original.protocol == value,
    "ctorigsrc": lambda conn, skb, value, bind: _within(value, conn.original.src),
    "ctorigdst": lambda conn, skb, value, bind: _within(value, conn.original.dst),
    "ctreplsrc": lambda conn, skb, value, bind: _within(value, conn.reply.src),
    "ctrepldst": lambda conn, skb, value, bind: _within(value, conn.reply.dst),
    "ctorigsrcport": lambda conn, skb, value, bind: _between(value, conn.original.sport),
    "ctorigdstport": lambda conn, skb, value, bind: _between(value, conn.original.dport),
    "ctreplsrcport": lambda conn, skb, value, bind: _between(value, conn.reply.sport),
    "ctrepldstport": lambda conn, skb, value, bind: _between(value, conn.reply.dport),
    "ctstatus": lambda conn, skb, value, bind: _status(conn, value),
    "ctexpire": lambda conn, skb, value, bind: _between(
        value, 0 if conn.timeout_at is None else int(conn.timeout_at - bind.kernel.now)
    ),
    "ctdir": lambda conn, skb, value, bind: is_reply(skb.ctinfo) == (value == "REPLY"),
}


def _mark(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]
    (value, mask), negated = option.value, option.negated
    return lambda skb, state: (skb.mark & mask == value) != negated


def _connmark(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]
    (value, mask), negated = option.value, option.negated
    return lambda skb, state: skb.conn is not None and (skb.conn.mark & mask == value) != negated


def _helper(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]
    name, negated = option.value, option.negated

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if skb.conn is None or skb.conn.helper is None:
            return negated and skb.conn is not None
        return (not name or skb.conn.helper == name) != negated

    return matcher


# ---------------------------------------------------------------------- addresses, devices, origin


def _addrtype(match: Match, bind: Bind) -> Matcher:
    source, target = match.option("src-type"), match.option("dst-type")
    limit_in, limit_out = match.option("limit-iface-in") is not None, match.option("limit-iface-out") is not None
    test = _address_type4 if bind.family == 4 else _address_type6

    def matcher(skb: Skb, state: HookState) -> bool:
        dev = state.indev if limit_in else state.outdev if limit_out else None
        if source is not None and test(bind, skb.saddr, dev, source.value) == source.negated:
            return False
        return target is None or test(bind, skb.daddr, dev, target.value) != target.negated

    return matcher


def _address_type4(bind: Bind, address: int, dev: str | None, names: tuple[str, ...]) -> bool:
    return bind.kernel.fib.address_type(4, address, dev) in names


def _address_type6(bind: Bind, address: int, dev: str | None, names: tuple[str, ...]) -> bool:
    multicast, unspecified = address >> 120 == 0xFF, address == 0
    if "MULTICAST" in names and not multicast:
        return False
    if "UNICAST" in names and (multicast or unspecified):
        return False
    if "UNSPEC" in names and not unspecified:
        return False
    if not {"ANYCAST", "LOCAL", "UNREACHABLE"} & set(names):
        return True
    if dev is not None:
        link = bind.kernel.links.get(dev)
        own = link is not None and any(one.local == address and one.family == 6 for one in link.addresses)
        return own and "LOCAL" in names
    return bind.kernel.fib.address_type(6, address) in names


def _iprange(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return _both(
        _test(match.option("src-range"), lambda value: lambda skb: value[0] <= skb.saddr <= value[1]),
        _test(match.option("dst-range"), lambda value: lambda skb: value[0] <= skb.daddr <= value[1]),
    )


def _name_test(pattern: str) -> Callable[[str], bool]:
    if pattern.endswith("+"):
        return lambda name: name.startswith(pattern[:-1])
    return lambda name: name == pattern


def _physdev(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    options = {option.name.removeprefix("physdev-"): option for option in match.options}
    names: dict[str, Callable[[str], bool]] = {key: _name_test(options[key].value) for key in ("in", "out") if key in options}

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if not skb.physin and not skb.physout:
            return all(option.negated for option in match.options)
        facts = {"is-in": bool(skb.physin), "is-out": bool(skb.physout), "is-bridged": bool(skb.physin and skb.physout)}
        for key, option in options.items():
            there = facts[key] if key in facts else _device_fits(names, key, skb)
            if there == option.negated:
                return False
        return True

    return matcher


def _device_fits(names: Mapping[str, Callable[[str], bool]], key: str, skb: Skb) -> bool:
    return names[key](skb.physin if key == "in" else skb.physout)


def _owner(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    exists, uid, gid = (match.option(name) for name in ("socket-exists", "uid-owner", "gid-owner"))

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        if not skb.has_socket or skb.uid is None:
            return all(option.negated for option in match.options)
        if exists is not None and exists.negated:
            return False
        if uid is not None and _between(uid.value, skb.uid) == uid.negated:
            return False
        return gid is None or _between(gid.value, skb.gid or 0) != gid.negated

    return matcher


def _mac(match: Match, bind: Bind) -> Matcher:
    option = match.options[0]

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        link = bind.kernel.links.get(skb.indev)
        if skb.local or link is None or link.link_type != "ether":
            return False
        return bool(skb.mac_source == option.value) != option.negated

    return matcher


def _pkttype(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]

    def matcher(skb: Skb, state: HookState) -> bool:
        kind = "unicast" if skb.pkttype in ("host", "loopback") else skb.pkttype
        if state.indev == "lo" or skb.local:
            multicast = skb.daddr >> 28 == 0xE if skb.family == 4 else skb.daddr >> 120 == 0xFF
            kind = "multicast" if multicast else "broadcast" if skb.daddr == 0xFFFFFFFF and skb.family == 4 else "unicast"
        return bool(kind == option.value) != option.negated

    return matcher


def _rpfilter(match: Match, bind: Bind) -> Matcher:
    loose, validmark, accept, invert = (match.option(name) is not None for name in ("loose", "validmark", "accept-local", "invert"))

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        return bind.kernel.fib.reverse_path(skb, loose=loose, validmark=validmark, accept_local=accept) != invert

    return matcher


# ---------------------------------------------------------------------- header fields


def _length(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    # IPv6: the payload length with its 40-byte header, which is the whole packet as well.
    return _both(_test(match.options[0], lambda value: lambda skb: value[0] <= skb.length <= value[1]))


def _ttl(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    option = match.options[0]
    number, negated, how = option.value, option.negated, option.name.partition("-")[2]
    if how == "lt":
        return lambda skb, state: skb.ttl < number
    if how == "gt":
        return lambda skb, state: skb.ttl > number
    return lambda skb, state: (skb.ttl == number) != negated


def _tos(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return _both(_test(match.options[0], lambda value: lambda skb: skb.tos & value[1] == value[0]))


def _dscp(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return _both(_test(match.options[0], lambda value: lambda skb: skb.tos >> 2 == value))


def _nfacct(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return always


def _set(match: Match, bind: Bind) -> Matcher:
    option = match.option("match-set")
    assert option is not None
    name, directions = option.value
    if match.option("return-nomatch") is not None:
        return not_modelled("-m set --return-nomatch", bind)

    def matcher(skb: Skb, state: HookState) -> bool:
        return bind.kernel.sets.test(name, skb, state, directions) != option.negated

    return matcher


def _comment(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    return always


MATCHES: Final[dict[str, MatchRow]] = {
    "tcp": MatchRow(_transport(TCP)), "udp": MatchRow(_transport(UDP)), "udplite": MatchRow(_transport(UDPLITE)),
    "sctp": MatchRow(_transport(SCTP)), "dccp": MatchRow(_transport(DCCP)), "icmp": MatchRow(_icmp), "icmp6": MatchRow(_icmp),
    "multiport": MatchRow(_multiport), "comment": MatchRow(_comment), "conntrack": MatchRow(_conntrack),
    "state": MatchRow(lambda match, bind: _both(_test(match.options[0], _states))), "mark": MatchRow(_mark),
    "connmark": MatchRow(_connmark), "helper": MatchRow(_helper), "addrtype": MatchRow(_addrtype), "iprange": MatchRow(_iprange),
    "physdev": MatchRow(_physdev), "owner": MatchRow(_owner), "mac": MatchRow(_mac), "pkttype": MatchRow(_pkttype),
    "rpfilter": MatchRow(_rpfilter), "length": MatchRow(_length), "ttl": MatchRow(_ttl), "hl": MatchRow(_ttl), "tos": MatchRow(_tos),
    "dscp": MatchRow(_dscp), "nfacct": MatchRow(_nfacct, pure=False), "set": MatchRow(_set, pure=False),
    "statistic": MatchRow(stateful.statistic, pure=False), "recent": MatchRow(stateful.recent, pure=False),
    "limit": MatchRow(stateful.limit, pure=False), "hashlimit": MatchRow(stateful.hashlimit, pure=False),
    "connlimit": MatchRow(stateful.connlimit, pure=False),
}  # fmt: skip

"""The option table: one row a match or target extension, driving parser and printer alike.

Options stand in the order in which iptables-save prints them. The value types are those of the kinds (rules/iptables.py):

match tcp/udp/udplite/dccp sport, dport (low, high) · tcp: tcp-flags (mask, compare), tcp-option int · sctp: chunk-types str
multiport sports/dports/ports ((low, high), …) · icmp icmp-type, icmp6 icmpv6-type (type, code_low, code_high), type 255 any
conntrack ctstate/ctstatus/ctdir names, ctproto int, ctorigsrc/… Prefix, ctorigsrcport/… (low, high), ctexpire (low, high)
state state names · mark/connmark mark (value, mask) · addrtype src-type/dst-type names, limit-iface-in/-out flag
statistic mode "random"|"nth", probability int/2^31, every, packet int · recent set/rcheck/update/remove flag, seconds, hitcount int,
reap, rttl, rsource, rdest flag, name str, mask int · limit limit int (cost in 1/10000 s), limit-burst int
hashlimit hashlimit-upto/-above int (cost in 1/1000000 s) or str (bytes), hashlimit-burst int, hashlimit-mode str, hashlimit-name str, …
connlimit connlimit-upto/-above int, connlimit-mask int (length), connlimit-saddr/-daddr flag · set match-set (name, directions)
physdev physdev-in/-out str, physdev-is-in/-is-out/-is-bridged flag · iprange src-range/dst-range (low, high)
owner uid-owner/gid-owner (low, high), socket-exists flag · mac mac-source int · length length (low, high) · ttl ttl-eq/-lt/-gt int
hl hl-eq/-lt/-gt int · pkttype pkt-type str · rpfilter loose/validmark/accept-local/invert flag · nfacct nfacct-name str · tos tos (value, mask)
dscp dscp int · helper helper str · ipvs ipvs flag, vproto, vport, vportctl int, vaddr Prefix, vdir, vmethod str
target DNAT to-destination, SNAT to-source NatRange · MASQUERADE/REDIRECT to-ports NatRange · NETMAP to Prefix · random, random-fully,
persistent flag · REJECT reject-with str · MARK set-xmark (value, mask) · CONNMARK set-xmark | save-mark, restore-mark flag with nfmask, ctmask int
CT notrack flag, helper str, zone str … · SET add-set/del-set (name, directions) · TPROXY on-port int, on-ip int, tproxy-mark (value, mask)
TCPMSS set-mss int, clamp-mss-to-pmtu flag · LOG/NFLOG · TTL ttl-set/-dec/-inc, HL hl-set/-dec/-inc int · TOS set-tos (value, mask)
DSCP set-dscp int · CLASSIFY set-class str. Anything without a row is kept verbatim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dataplane.inet import FULL_MASK
from dataplane.rules.iptables import Option
from dataplane.text import xtables_kinds as k
from dataplane.text.xtables_kinds import Kind


@dataclass(frozen=True, slots=True)
class Row:
    """``default`` is filled in where the option is missing; ``hidden`` is the value that save leaves out."""

    name: str
    kind: Kind
    negatable: bool = False
    default: Any = None
    hidden: Any = None
    separator: str = " "


@dataclass(frozen=True, slots=True)
class Extension:
    """``aliases``: another spelling -> row; ``rewrites``: an option that stands for others. ``after``: the negation stands behind the name."""

    rows: tuple[Row, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    rewrites: Mapping[str, tuple[Kind, Callable[[Any], tuple[Option, ...]]]] = field(default_factory=dict)
    families: tuple[int, ...] = (4, 6)

    def row(self, name: str) -> Row | None:
        """The row of a canonical name."""
        return next((row for row in self.rows if row.name == name), None)


_STATES: Final = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
_STATUSES: Final = ("NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED")
_TYPES: Final = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE",
)  # fmt: skip

_ICMP_NAMES: Final = {
    "any": (255, 0, 255), "echo-reply": (0, 0, 255), "pong": (0, 0, 255), "destination-unreachable": (3, 0, 255),
    "network-unreachable": (3, 0, 0), "host-unreachable": (3, 1, 1), "protocol-unreachable": (3, 2, 2), "port-unreachable": (3, 3, 3),
    "fragmentation-needed": (3, 4, 4), "source-route-failed": (3, 5, 5), "network-unknown": (3, 6, 6), "host-unknown": (3, 7, 7),
    "network-prohibited": (3, 9, 9), "host-prohibited": (3, 10, 10), "TOS-network-unreachable": (3, 11, 11),
    "TOS-host-unreachable": (3, 12, 12), "communication-prohibited": (3, 13, 13), "host-precedence-violation": (3, 14, 14),
    "precedence-cutoff": (3, 15, 15), "source-quench": (4, 0, 255), "redirect": (5, 0, 255), "network-redirect": (5, 0, 0),
    "host-redirect": (5, 1, 1), "TOS-network-redirect": (5, 2, 2), "TOS-host-redirect": (5, 3, 3), "echo-request": (8, 0, 255),
    "ping": (8, 0, 255), "router-advertisement": (9, 0, 255), "router-solicitation": (10, 0, 255), "time-exceeded": (11, 0, 255),
    "ttl-exceeded": (11, 0, 255), "ttl-zero-during-transit": (11, 0, 0), "ttl-zero-during-reassembly": (11, 1, 1),
    "parameter-problem": (12, 0, 255), "ip-header-bad": (12, 0, 0), "required-option-missing": (12, 1, 1),
    "timestamp-request": (13, 0, 255), "timestamp-reply": (14, 0, 255), "address-mask-request": (17, 0, 255),
    "address-mask-reply": (18, 0, 255),
}  # fmt: skip
_ICMP6_NAMES: Final = {
    "destination-unreachable": (1, 0, 255), "no-route": (1, 0, 0), "communication-prohibited": (1, 1, 1), "beyond-scope": (1, 2, 2),
    "address-unreachable": (1, 3, 3), "port-unreachable": (1, 4, 4), "failed-policy": (1, 5, 5), "reject-route": (1, 6, 6),
    "packet-too-big": (2, 0, 255), "time-exceeded": (3, 0, 255), "ttl-exceeded": (3, 0, 255), "ttl-zero-during-transit": (3, 0, 0),
    "ttl-zero-during-reassembly": (3, 1, 1), "parameter-problem": (4, 0, 255), "bad-header": (4, 0, 0), "unknown-header-type": (4, 1, 1),
    "unknown-option": (4, 2, 2), "echo-request": (128, 0, 255), "ping": (128, 0, 255), "echo-reply": (129, 0, 255), "pong": (129, 0, 255),
    "mld-listener-query": (130, 0, 255), "mld-listener-report": (131, 0, 255), "mld-listener-done": (132, 0, 255),
    "router-solicitation": (133, 0, 255), "router-advertisement": (134, 0, 255), "neighbour-solicitation": (135, 0, 255),
    "neighbor-solicitation": (135, 0, 255), "neighbour-advertisement": (136, 0, 255), "neighbor-advertisement": (136, 0, 255),
    "redirect": (137, 0, 255),
}  # fmt: skip


def _icmp(table: Mapping[str, tuple[int, int, int]], *, anything: bool) -> Kind:
    def parse(words: Sequence[str], family: int) -> tuple[int, int, int]:  # noqa: ARG001
        text = words[0]
        wanted = text.lower()
        found = [name for name in table if name.lower().startswith(wanted)] if wanted and not wanted[0].isdigit() else []
        exact = [name for name in found if name.lower() == wanted]
        if exact or len({table[name] for name in found}) == 1:
            return table[(exact or found)[0]]
        kind, slash, code = text.partition("/")
        try:
            number = k.number(kind, 0, 255)
            one = k.number(code, 0, 255) if slash else None
        except ValueError:
            raise ValueError(f"invalid ICMP type {text!r}") from None
        return (number, 0, 255) if one is None else (number, one, one)

    def show(value: tuple[int, int, int], family: int) -> str:  # noqa: ARG001
        if anything and value == (255, 0, 255):
            return "any"
        return f"{value[0]}" if (value[1], value[2]) == (0, 255) else f"{value[0]}/{value[1]}"

    return Kind("icmp", 1, parse, show)


_LEVELS: Final = {"emerg": 0, "panic": 0, "alert": 1, "crit": 2, "err": 3, "error": 3, "warning": 4, "warn": 4, "notice": 5, "info": 6, "debug": 7}
_TOS_NAMES: Final = {
    "Minimize-Delay": 0x10, "Maximize-Throughput": 0x08, "Maximize-Reliability": 0x04, "Minimize-Cost": 0x02, "Normal-Service": 0,
}  # fmt: skip
_DSCP_CLASSES: Final = {
    "CS0": 0, "BE": 0, "EF": 0x2E, "VA": 0x2C,
    **{f"CS{n}": n << 3 for n in range(1, 8)}, **{f"AF{c}{d}": c << 3 | d << 1 for c in range(1, 5) for d in range(1, 4)},
}  # fmt: skip


def _level(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    return _LEVELS[words[0]] if words[0] in _LEVELS else k.number(words[0], 0, 7)


_ONE_PORT: Final = Kind("number", 1, lambda words, family: k.port(words[0]), lambda value, family: str(value))


def _tos(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    named = {name.lower(): value for name, value in _TOS_NAMES.items()}
    if words[0].lower() in named:
        return named[words[0].lower()], 0x3F
    value, slash, mask = words[0].partition("/")
    return k.number(value, 0, 255), k.number(mask, 0, 255) if slash else 255


_TOS: Final = Kind("bits", 1, _tos, lambda value, family: f"0x{value[0]:02x}/0x{value[1]:02x}")
_PORTS: Final = (Row("sport", k.PORT, True), Row("dport", k.PORT, True))
_PORT_ALIASES: Final = {"source-port": "sport", "destination-port": "dport"}
_REJECT4: Final = {
    "net-unreach": "icmp-net-unreachable", "host-unreach": "icmp-host-unreachable", "proto-unreach": "icmp-proto-unreachable",
    "port-unreach": "icmp-port-unreachable", "net-prohib": "icmp-net-prohibited", "host-prohib": "icmp-host-prohibited",
    "admin-prohib": "icmp-admin-prohibited", "tcp-rst": "tcp-reset",
}  # fmt: skip
_REJECT6: Final = {
    "no-route": "icmp6-no-route", "adm-prohibited": "icmp6-adm-prohibited", "addr-unreach": "icmp6-addr-unreachable",
    "port-unreach": "icmp6-port-unreachable", "policy-fail": "icmp6-policy-fail", "reject-route": "icmp6-reject-route",
    "tcp-rst": "tcp-reset",
}  # fmt: skip


def _reject(words: Sequence[str], family: int) -> str:
    table = _REJECT4 if family == 4 else _REJECT6
    text = words[0].lower()
    accepted = {value: value for value in table.values()} | table
    found = {value for name, value in accepted.items() if name.startswith(text)}
    if text in accepted:
        return accepted[text]
    if len(found) != 1:
        raise ValueError(f"unknown reject type {words[0]!r}")
    return found.pop()


def _xmark(name: str) -> dict[str, tuple[Kind, Callable[[Any], tuple[Option, ...]]]]:
    full = 0xFFFFFFFF
    return {
        "set-mark": (k.BITS, lambda value: (Option(name, (value[0], value[0] | value[1])),)),
        "or-mark": (k.HEX, lambda value: (Option(name, (value, value)),)),
        "and-mark": (k.HEX, lambda value: (Option(name, (0, ~value & full)),)),
        "xor-mark": (k.HEX, lambda value: (Option(name, (value, 0)),)),
    }


MATCHES: Final[dict[str, Extension]] = {
    "tcp": Extension(
        (*_PORTS, Row("tcp-option", k.numbered(1, 255), True), Row("tcp-flags", k.TCPFLAGS, True)), _PORT_ALIASES,
        {"syn": (k.FLAG, lambda value: (Option("tcp-flags", (0x17, 0x02)),))},
    ),
    "udp": Extension(_PORTS, _PORT_ALIASES),
    "udplite": Extension(_PORTS, _PORT_ALIASES),
    "dccp": Extension((*_PORTS, Row("dccp-types", k.WORD, True), Row("dccp-option", k.NUMBER, True)), _PORT_ALIASES),
    "sctp": Extension(
        (*_PORTS, Row("chunk-types", Kind("chunks", 2, lambda words, family: " ".join(words), lambda value, family: value), True)),
        _PORT_ALIASES,
    ),
    "icmp": Extension((Row("icmp-type", _icmp(_ICMP_NAMES, anything=True), True, (255, 0, 255)),), families=(4,)),
    "icmp6": Extension((Row("icmpv6-type", _icmp(_ICMP6_NAMES, anything=False), True),), {"icmp6-type": "icmpv6-type"}, families=(6,)),
    "multiport": Extension(
        (Row("sports", k.PORTS, True), Row("dports", k.PORTS, True), Row("ports", k.PORTS, True)),
        {"source-ports": "sports", "destination-ports": "dports"},
    ),
    "comment": Extension((Row("comment", k.STRING),)),
    "conntrack": Extension(
        (
            Row("ctstate", k.names(_STATES), True), Row("ctproto", k.PROTOCOL, True), Row("ctorigsrc", k.HOST, True),
            Row("ctorigdst", k.HOST, True), Row("ctreplsrc", k.HOST, True), Row("ctrepldst", k.HOST, True),
            Row("ctorigsrcport", k.PORT, True), Row("ctorigdstport", k.PORT, True), Row("ctreplsrcport", k.PORT, True),
            Row("ctrepldstport", k.PORT, True), Row("ctstatus", k.names(_STATUSES), True), Row("ctexpire", k.LENGTH, True),
            Row("ctdir", k.one_of({"ORIGINAL": "ORIGINAL", "REPLY": "REPLY"})),
        ),
    ),
    "state": Extension((Row("state", k.names(_STATES[:5]), True),)),
    "mark": Extension((Row("mark", k.BITS, True),)),
    "connmark": Extension((Row("mark", k.BITS, True),)),
    "addrtype": Extension(
        (Row("src-type", k.names(_TYPES), True), Row("dst-type", k.names(_TYPES), True), Row("limit-iface-in", k.FLAG), Row("limit-iface-out", k.FLAG)),
    ),
    "statistic": Extension(
        (
            Row("mode", k.one_of({"random": "random", "nth": "nth"})), Row("probability", k.PROBABILITY, True),
            Row("every", k.NUMBER, True), Row("packet", k.NUMBER),
        ),
    ),
    "recent": Extension(
        (
            Row("set", k.FLAG, True), Row("rcheck", k.FLAG, True), Row("update", k.FLAG, True), Row("remove", k.FLAG, True),
            Row("seconds", k.NUMBER), Row("reap", k.FLAG), Row("hitcount", k.NUMBER), Row("rttl", k.FLAG),
            Row("name", k.WORD, default="DEFAULT"), Row("mask", k.MASK, default="full"), Row("rsource", k.FLAG), Row("rdest", k.FLAG),
        ),
    ),
    "limit": Extension((Row("limit", k.rate(10000), default=360000000 // 3), Row("limit-burst", k.numbered(0, 10000), hidden=5))),
    "hashlimit": Extension(
        (
            Row("hashlimit-upto", k.rate(1000000)), Row("hashlimit-above", k.rate(1000000)), Row("hashlimit-burst", k.NUMBER, default=5),
            Row("hashlimit-mode", k.WORD), Row("hashlimit-name", k.WORD), Row("hashlimit-htable-size", k.NUMBER),
            Row("hashlimit-htable-max", k.NUMBER), Row("hashlimit-htable-gcinterval", k.NUMBER, hidden=1000),
            Row("hashlimit-htable-expire", k.NUMBER, hidden=10000), Row("hashlimit-srcmask", k.numbered(0, 128)),
            Row("hashlimit-dstmask", k.numbered(0, 128)),
        ),
        {"hashlimit": "hashlimit-upto"},
    ),
    "connlimit": Extension(
        (
            Row("connlimit-upto", k.NUMBER), Row("connlimit-above", k.NUMBER), Row("connlimit-mask", k.numbered(0, 128)),
            Row("connlimit-saddr", k.FLAG), Row("connlimit-daddr", k.FLAG),
        ),
    ),
    "set": Extension((Row("match-set", k.SETREF, True), Row("return-nomatch", k.FLAG)), {"set": "match-set"}),
    "physdev": Extension(
        (
            Row("physdev-is-in", k.FLAG, True), Row("physdev-in", k.WORD, True), Row("physdev-is-out", k.FLAG, True),
            Row("physdev-out", k.WORD, True), Row("physdev-is-bridged", k.FLAG, True),
        ),
    ),
    "iprange": Extension((Row("src-range", k.IPRANGE, True), Row("dst-range", k.IPRANGE, True))),
    "owner": Extension(
        (Row("socket-exists", k.FLAG, True), Row("uid-owner", k.UIDS, True), Row("gid-owner", k.UIDS, True), Row("suppl-groups", k.FLAG)),
    ),
    "mac": Extension((Row("mac-source", k.MAC, True),)),
    "length": Extension((Row("length", k.LENGTH, True),)),
    "ttl": Extension((Row("ttl-eq", k.numbered(0, 255), True), Row("ttl-lt", k.numbered(0, 255)), Row("ttl-gt", k.numbered(0, 255))), {"ttl": "ttl-eq"}, families=(4,)),
    "hl": Extension((Row("hl-eq", k.numbered(0, 255), True), Row("hl-lt", k.numbered(0, 255)), Row("hl-gt", k.numbered(0, 255))), {"hl": "hl-eq"}, families=(6,)),
    "pkttype": Extension((Row("pkt-type", k.one_of({"unicast": "unicast", "host": "unicast", "broadcast": "broadcast", "bcast": "broadcast", "multicast": "multicast", "mcast": "multicast"}), True),)),
    "rpfilter": Extension((Row("loose", k.FLAG), Row("validmark", k.FLAG), Row("accept-local", k.FLAG), Row("invert", k.FLAG))),
    "nfacct": Extension((Row("nfacct-name", k.WORD, separator="  "),)),
    "tos": Extension((Row("tos", _TOS, True),)),
    "dscp": Extension(
        (Row("dscp", k.numbered(0, 63, "0x{:02x}"), True),), {},
        {"dscp-class": (k.one_of({name: name for name in _DSCP_CLASSES}), lambda value: (Option("dscp", _DSCP_CLASSES[value]),))},
    ),
    "helper": Extension((Row("helper", k.STRING, True),)),
    "ipvs": Extension(
        (
            Row("ipvs", k.FLAG, True), Row("vproto", k.PROTOCOL, True), Row("vaddr", k.HOST, True), Row("vport", _ONE_PORT, True),
            Row("vdir", k.one_of({"ORIGINAL": "ORIGINAL", "REPLY": "REPLY"})),
            Row("vmethod", k.one_of({"GATE": "GATE", "IPIP": "IPIP", "MASQ": "MASQ"}), True), Row("vportctl", _ONE_PORT, True),
        ),
    ),
}  # fmt: skip

_RANDOM: Final = (Row("random", k.FLAG), Row("random-fully", k.FLAG), Row("persistent", k.FLAG))

TARGETS: Final[dict[str, Extension]] = {
    **{name: Extension(()) for name in ("ACCEPT", "DROP", "RETURN", "QUEUE", "TRACE", "NOTRACK")},
    "REJECT": Extension((Row("reject-with", Kind("word", 1, _reject, lambda value, family: str(value)), default="reject"),)),
    "DNAT": Extension((Row("to-destination", k.NATRANGE), *_RANDOM)),
    "SNAT": Extension((Row("to-source", k.NATRANGE), *_RANDOM)),
    "MASQUERADE": Extension((Row("to-ports", k.PORTSPAN), *_RANDOM[:2])),
    "REDIRECT": Extension((Row("to-ports", k.PORTSPAN), _RANDOM[0])),
    "NETMAP": Extension((Row("to", k.NETMAP),)),
    "MARK": Extension((Row("set-xmark", k.XMARK),), {}, _xmark("set-xmark")),
    "CONNMARK": Extension(
        (Row("set-xmark", k.XMARK), Row("save-mark", k.FLAG), Row("restore-mark", k.FLAG), Row("nfmask", k.HEX), Row("ctmask", k.HEX)), {},
        {**_xmark("set-xmark"), "mask": (k.HEX, lambda value: (Option("nfmask", value), Option("ctmask", value)))},
    ),
    "CT": Extension(
        (
            Row("notrack", k.FLAG), Row("helper", k.WORD), Row("timeout", k.WORD), Row("ctevents", k.WORD), Row("expevents", k.WORD),
            Row("zone-orig", k.WORD), Row("zone-reply", k.WORD), Row("zone", k.WORD),
        ),
    ),
    "LOG": Extension(
        (
            Row("log-prefix", k.STRING), Row("log-level", Kind("number", 1, _level, lambda value, family: str(value)), hidden=4),
            Row("log-tcp-sequence", k.FLAG), Row("log-tcp-options", k.FLAG), Row("log-ip-options", k.FLAG), Row("log-uid", k.FLAG),
            Row("log-macdecode", k.FLAG),
        ),
    ),
    "NFLOG": Extension(
        (Row("nflog-prefix", k.STRING), Row("nflog-group", k.NUMBER, hidden=0), Row("nflog-range", k.NUMBER), Row("nflog-size", k.NUMBER), Row("nflog-threshold", k.NUMBER)),
    ),
    "SET": Extension(
        (Row("add-set", k.SETREF), Row("exist", k.FLAG), Row("timeout", k.NUMBER), Row("del-set", k.SETREF), Row("map-set", k.SETREF)),
    ),
    "TPROXY": Extension((Row("on-port", k.numbered(0, 65535), default=0), Row("on-ip", k.IP, default=0), Row("tproxy-mark", k.XMARK, default=(0, 0)))),
    "TCPMSS": Extension((Row("set-mss", k.numbered(0, 65535)), Row("clamp-mss-to-pmtu", k.FLAG))),
    "CHECKSUM": Extension((Row("checksum-fill", k.FLAG),)),
    "TTL": Extension((Row("ttl-set", k.numbered(0, 255)), Row("ttl-dec", k.numbered(1, 255)), Row("ttl-inc", k.numbered(1, 255))), families=(4,)),
    "HL": Extension((Row("hl-set", k.numbered(0, 255)), Row("hl-dec", k.numbered(1, 255)), Row("hl-inc", k.numbered(1, 255))), families=(6,)),
    "TOS": Extension((Row("set-tos", _TOS),)),
    "DSCP": Extension(
        (Row("set-dscp", k.numbered(0, 63, "0x{:02x}")),), {},
        {"set-dscp-class": (k.one_of({name: name for name in _DSCP_CLASSES}), lambda value: (Option("set-dscp", _DSCP_CLASSES[value]),))},
    ),
    "CLASSIFY": Extension((Row("set-class", k.WORD),)),
    "NFQUEUE": Extension(
        (Row("queue-num", k.numbered(0, 65535), default=0), Row("queue-balance", k.WORD), Row("queue-bypass", k.FLAG), Row("queue-cpu-fanout", k.FLAG)),
    ),
}  # fmt: skip

#: Defaults whose value depends on the family.
FAMILY_DEFAULTS: Final[Mapping[tuple[str, str], Mapping[int, Any]]] = {
    ("recent", "mask"): FULL_MASK,
    ("REJECT", "reject-with"): {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"},
}

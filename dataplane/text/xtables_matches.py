"""The option table of matches, those of IPv6's extension headers aside (xtables_matches6). Source: extensions/ of iptables 1.8.9."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dataplane.inet import AH, DCCP, ESP, FULL_MASK, SCTP, TCP, UDP, UDPLITE
from dataplane.rules.iptables import Option
from dataplane.text import xtables_kinds as k
from dataplane.text import xtables_programs as programs
from dataplane.text import xtables_rates as rates
from dataplane.text.xtables_extension import Extension, Facts, Row, exclusive
from dataplane.text.xtables_icmp import ICMP6_TYPE, ICMP_TYPE
from dataplane.text.xtables_kinds import Kind
from dataplane.text.xtables_matches6 import MATCHES6

_IPCOMP: Final = 108
_ANY_PORT: Final = (0, 65535)
_ANY_SPI: Final = (0, 0xFFFFFFFF)
_STATES: Final = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
_STATUSES: Final = ("NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED")
_TYPES: Final = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE",
)  # fmt: skip
_NOT_IN_IPV6: Final = frozenset(("BROADCAST", "BLACKHOLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"))
_DCCP_TYPES: Final = ("REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK", "INVALID")
_ONE_PORT: Final = Kind("number", 1, lambda words, family: k.port(words[0]), lambda value, family: str(value))
_PORT_ALIASES: Final = {"source-port": "sport", "destination-port": "dport"}
_PORTS: Final = (Row("sport", k.PORT, True, hidden=_ANY_PORT), Row("dport", k.PORT, True, hidden=_ANY_PORT))
_SHOWN_PORTS: Final = (Row("sport", k.PORT, True), Row("dport", k.PORT, True))


def _word(table: Mapping[str, str]) -> Kind:
    return k.one_of({**table, **{name.lower(): value for name, value in table.items()}}, any_case=True)


# ---------------------------------------------------------------------- what the tool makes of the options


def _conntrack(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    return [
        one._replace(value=tuple(name for name in one.value if name != "NONE")) if one.name == "ctstatus" and len(one.value) > 1 else one
        for one in options
    ]  # fmt: skip


def _addrtype(options: list[Option], facts: Facts) -> list[Option]:
    named = {name for option in options if option.name in ("src-type", "dst-type") for name in option.value}
    if facts.family == 6 and named & _NOT_IN_IPV6:
        raise ValueError(f"the kernel takes no {','.join(sorted(named & _NOT_IN_IPV6))} for IPv6")
    return options


def _statistic(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    given = {option.name: option.value for option in options}
    if given.setdefault("mode", "random") == "random":
        if "probability" not in given:
            raise ValueError("--probability must be specified when using random mode")
    elif "every" not in given:
        raise ValueError("--every and --packet must be specified when using nth mode")
    elif given["packet"] >= given["every"]:
        raise ValueError("the --packet p must be 0 <= p <= n-1")
    return options


def _recent(options: list[Option], facts: Facts) -> list[Option]:
    kept = {option.name: option for option in options}
    if kept.setdefault("mask", Option("mask", FULL_MASK[facts.family])) and "rdest" in kept:
        kept.pop("rsource", None)
    else:
        kept["rsource"] = Option("rsource")
    if ("set" in kept or "remove" in kept) and ("seconds" in kept or "hitcount" in kept):
        raise ValueError("the kernel takes --seconds and --hitcount with --rcheck and --update only")
    if not kept["name"].value:
        raise ValueError("--name must not be empty")
    return list(kept.values())


def _connlimit(options: list[Option], facts: Facts) -> list[Option]:
    kept = {option.name: option for option in options}
    name = "connlimit-upto" if "connlimit-upto" in kept else "connlimit-above"
    option = kept.pop(name)
    if option.negated:
        name = "connlimit-above" if name == "connlimit-upto" else "connlimit-upto"
    kept[name] = Option(name, option.value)
    bits = 32 if facts.family == 4 else 128
    kept["connlimit-mask"] = Option("connlimit-mask", min(bits, kept["connlimit-mask"].value) if "connlimit-mask" in kept else bits)
    if "connlimit-daddr" not in kept:
        kept["connlimit-saddr"] = Option("connlimit-saddr")
    return list(kept.values())


def _set(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    """Counters are updated unless somebody says not to."""
    for kind in ("packets-", "bytes-"):
        if sum(option.name.startswith(kind) for option in options) > 1:
            raise ValueError(f"only one of --{kind}eq, -lt and -gt is allowed")
    return [option for option in options if option.negated or not option.name.startswith("update-")]


def _cluster(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    kept = {option.name: option for option in options}
    nodes, node = kept["cluster-total-nodes"].value, kept.pop("cluster-local-node", None)
    if node is not None:
        kept["cluster-local-nodemask"] = Option("cluster-local-nodemask", 1 << node.value - 1, node.negated)
    if kept["cluster-local-nodemask"].value >> nodes:
        raise ValueError("the local node is beyond --cluster-total-nodes")
    return list(kept.values())


def _ecn(options: list[Option], facts: Facts) -> list[Option]:
    if facts.protocol != TCP and any(option.name.startswith("ecn-tcp") for option in options):
        raise ValueError("TCP's flags can be asked with -p tcp only")
    return options


_ELEMENT: Final = ("reqid", "spi", "proto", "mode", "tunnel-dst", "tunnel-src")


def _policy(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    """--next begins an element; --pol is ipsec unless said, and of "none" nothing else counts."""
    whole = {option.name: option for option in options if option.name in ("dir", "pol", "strict")}
    whole.setdefault("pol", Option("pol", "ipsec"))
    elements: list[dict[str, Option]] = [{}]
    for option in options:
        if option.name == "next":
            elements.append({})
        elif option.name in _ELEMENT:
            if option.name in elements[-1]:
                raise ValueError(f"--{option.name} is given twice in one element")
            elements[-1][option.name] = option
    if len(elements) > 1 and "strict" not in whole:
        raise ValueError("option --next also requires --strict")
    made = [whole[name] for name in ("dir", "pol", "strict") if name in whole]
    if whole["pol"].value == "none":
        return made
    for number, element in enumerate(elements):
        if not element and "strict" in whole:
            raise ValueError(f"policy element {number} is empty, which --strict does not allow")
        if ("tunnel-src" in element or "tunnel-dst" in element) and (element.get("mode") or Option("")).value != "tunnel":
            raise ValueError("--tunnel-src and --tunnel-dst are only valid in tunnel mode")
        made += [Option("next")] if number else []
        made += [element[name] for name in _ELEMENT if name in element]
    return made


# ---------------------------------------------------------------------- kinds of one match only


def _named_bits(zero: str) -> Kind:
    """Bits whose number 0 has a name in the files of iproute2."""

    def parse(words: Sequence[str], family: int) -> Any:
        return (0, 0xFFFFFFFF) if words[0] == zero else k.BITS.parse(words, family)

    return Kind("bits", 1, parse, lambda value, family: zero if value == (0, 0xFFFFFFFF) else k.BITS.show(value, family))


def _label(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    if not re.fullmatch("[0-9]+", words[0]) or int(words[0]) > 127:
        raise ValueError(f"expected a label from 0 to 127, got {words[0]!r} (names of labels are not resolved)")
    return str(int(words[0]))


_PACKETS: Final = exclusive(Row("packets-eq", k.NUMBER64, True), Row("packets-lt", k.NUMBER64), Row("packets-gt", k.NUMBER64))
_BYTES: Final = exclusive(Row("bytes-eq", k.NUMBER64, True), Row("bytes-lt", k.NUMBER64), Row("bytes-gt", k.NUMBER64))
_PACKET_TYPES: Final = {
    "unicast": "unicast", "host": "unicast", "broadcast": "broadcast", "bcast": "broadcast", "multicast": "multicast", "mcast": "multicast",
    "otherhost": "otherhost",
}  # fmt: skip

_TRANSPORT: Final[dict[str, Extension]] = {
    "tcp": Extension(
        (*_PORTS, Row("tcp-option", k.numbered(1, 255), True), Row("tcp-flags", k.TCPFLAGS, True, hidden=(0, 0), shown_inverted=True)),
        _PORT_ALIASES, {"syn": (k.FLAG, lambda value: (Option("tcp-flags", (0x17, 0x02)),))}, protocols=(TCP,),
    ),
    "udp": Extension(_PORTS, _PORT_ALIASES, protocols=(UDP,)),
    "udplite": Extension(_PORTS, _PORT_ALIASES, protocols=(UDPLITE,)),
    "dccp": Extension(
        (*_SHOWN_PORTS, Row("dccp-types", k.names(_DCCP_TYPES), True), Row("dccp-option", k.numbered(1, 255), True)), _PORT_ALIASES,
        protocols=(DCCP,),
    ),
    "sctp": Extension((*_SHOWN_PORTS, Row("chunk-types", programs.CHUNKS, True)), _PORT_ALIASES, protocols=(SCTP,)),
    "icmp": Extension((Row("icmp-type", ICMP_TYPE, True, required=True),), families=(4,), protocols=(1,)),
    "icmp6": Extension((Row("icmpv6-type", ICMP6_TYPE, True, required=True),), families=(6,), protocols=(58,)),
    "multiport": Extension(
        exclusive(Row("sports", k.PORTS, True), Row("dports", k.PORTS, True), Row("ports", k.PORTS, True)),
        {"source-ports": "sports", "destination-ports": "dports"}, protocols=(TCP, UDP, UDPLITE, SCTP, DCCP), some_of=("sports", "dports", "ports"),
    ),
    "esp": Extension((Row("espspi", k.PAIR, True, hidden=_ANY_SPI),), protocols=(ESP,)),
    "ah": Extension(
        (Row("ahspi", k.PAIR, True, hidden=_ANY_SPI), Row("ahlen", k.NUMBER, True, hidden=0, families=(6,)), Row("ahres", k.FLAG, families=(6,))),
        protocols=(AH,), bound_in=(4,),
    ),
    "ipcomp": Extension((Row("ipcompspi", k.PAIR, True, hidden=_ANY_SPI, default=(0, 0)), Row("compres", k.FLAG)), protocols=(_IPCOMP,)),
    "tcpmss": Extension((Row("mss", k.ORDERED, True, required=True),), protocols=(TCP,)),
    "ecn": Extension(
        (Row("ecn-tcp-ece", k.FLAG, True), Row("ecn-tcp-cwr", k.FLAG, True), Row("ecn-ip-ect", k.numbered(0, 3), True)),
        some_of=("ecn-tcp-ece", "ecn-tcp-cwr", "ecn-ip-ect"), finish=_ecn,
    ),
    "osf": Extension(
        (Row("genre", k.WORD, True, required=True), Row("ttl", k.numbered(0, 2)), Row("log", k.numbered(0, 2))), families=(4,), protocols=(TCP,),
    ),
    "string": Extension(
        (
            Row("string", programs.SEARCHED, True, excludes=("hex-string",)), Row("hex-string", programs.HEX_SEARCHED, True),
            Row("algo", k.one_of({name: name for name in ("bm", "kmp", "fsm")}), required=True), Row("from", k.numbered(0, 65535), hidden=0),
            Row("to", k.numbered(0, 65535), hidden=65535), Row("icase", k.FLAG),
        ),
        rewrites=programs.STRING_REWRITES, some_of=("string", "hex-string"),
    ),
    "u32": Extension((Row("u32", programs.U32, True, required=True),)),
    "bpf": Extension((Row("bytecode", programs.BPF), Row("object-pinned", k.WORD)), some_of=("bytecode", "object-pinned")),
}  # fmt: skip

_HEADER: Final[dict[str, Extension]] = {
    "comment": Extension((Row("comment", k.text(255), required=True),)),
    "iprange": Extension((Row("src-range", k.IPRANGE, True), Row("dst-range", k.IPRANGE, True)), some_of=("src-range", "dst-range")),
    "length": Extension((Row("length", k.LENGTH, True, required=True),)),
    "ttl": Extension(
        exclusive(Row("ttl-eq", k.numbered(0, 255), True), Row("ttl-lt", k.numbered(0, 255)), Row("ttl-gt", k.numbered(0, 255))),
        {"ttl": "ttl-eq"}, families=(4,), some_of=("ttl-eq", "ttl-lt", "ttl-gt"),
    ),
    "hl": Extension(
        exclusive(Row("hl-eq", k.numbered(0, 255), True), Row("hl-lt", k.numbered(0, 255)), Row("hl-gt", k.numbered(0, 255))),
        {"hl": "hl-eq"}, families=(6,), some_of=("hl-eq", "hl-lt", "hl-gt"),
    ),
    "tos": Extension((Row("tos", k.TOS, True, required=True),)),
    "dscp": Extension(
        (Row("dscp", k.numbered(0, 63, "0x{:02x}"), True, required=True),), {},
        {"dscp-class": (k.DSCP_CLASS, lambda value: (Option("dscp", value),))},
    ),
    "addrtype": Extension(
        (
            Row("src-type", k.names(_TYPES), True), Row("dst-type", k.names(_TYPES), True),
            *exclusive(Row("limit-iface-in", k.FLAG), Row("limit-iface-out", k.FLAG)),
        ),
        some_of=("src-type", "dst-type"), finish=_addrtype,
    ),
    "physdev": Extension(
        (
            Row("physdev-is-in", k.FLAG, True), Row("physdev-in", k.WORD, True), Row("physdev-is-out", k.FLAG, True),
            Row("physdev-out", k.WORD, True), Row("physdev-is-bridged", k.FLAG, True),
        ),
        some_of=("physdev-is-in", "physdev-in", "physdev-is-out", "physdev-out", "physdev-is-bridged"),
    ),
    "mac": Extension((Row("mac-source", k.MAC, True, required=True),)),
    "pkttype": Extension((Row("pkt-type", _word(_PACKET_TYPES), True, required=True),)),
    "devgroup": Extension(
        (Row("src-group", _named_bits("default"), True), Row("dst-group", _named_bits("default"), True)), some_of=("src-group", "dst-group"),
    ),
    "realm": Extension((Row("realm", _named_bits("cosmos"), True, required=True),), families=(4,)),
    "rpfilter": Extension((Row("loose", k.FLAG), Row("validmark", k.FLAG), Row("accept-local", k.FLAG), Row("invert", k.FLAG))),
}  # fmt: skip

_CONNECTION: Final[dict[str, Extension]] = {
    "conntrack": Extension(
        (
            Row("ctstate", k.names(_STATES), True), Row("ctproto", k.PROTOCOL, True), Row("ctorigsrc", k.HOST, True),
            Row("ctorigdst", k.HOST, True), Row("ctreplsrc", k.HOST, True), Row("ctrepldst", k.HOST, True),
            Row("ctorigsrcport", k.PORTPAIR, True), Row("ctorigdstport", k.PORTPAIR, True), Row("ctreplsrcport", k.PORTPAIR, True),
            Row("ctrepldstport", k.PORTPAIR, True), Row("ctstatus", k.names(_STATUSES), True), Row("ctexpire", k.PAIR, True),
            Row("ctdir", _word({"ORIGINAL": "ORIGINAL", "REPLY": "REPLY"})),
        ),
        some_of=(
            "ctstate", "ctproto", "ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst", "ctorigsrcport", "ctorigdstport", "ctreplsrcport",
            "ctrepldstport", "ctstatus", "ctexpire", "ctdir",
        ),
        finish=_conntrack,
    ),
    "state": Extension((Row("state", k.names(_STATES[:5]), True, required=True),)),
    "mark": Extension((Row("mark", k.BITS, True, required=True),)),
    "connmark": Extension((Row("mark", k.BITS, True, required=True),)),
    "ipvs": Extension((
        Row("ipvs", k.FLAG, True), Row("vproto", k.PROTOCOL, True), Row("vaddr", k.HOST, True), Row("vport", _ONE_PORT, True),
        Row("vdir", k.one_of({"ORIGINAL": "ORIGINAL", "REPLY": "REPLY"})),
        Row("vmethod", k.one_of({"GATE": "GATE", "IPIP": "IPIP", "MASQ": "MASQ"}), True), Row("vportctl", _ONE_PORT, True),
    )),
    "helper": Extension((Row("helper", k.STRING, True, required=True),)),
    "connbytes": Extension(
        (
            Row("connbytes", rates.AMOUNTS, True, required=True),
            Row("connbytes-mode", k.one_of({name: name for name in ("packets", "bytes", "avgpkt")}), required=True),
            Row("connbytes-dir", k.one_of({name: name for name in ("original", "reply", "both")}), required=True),
        ),
    ),
    "connlabel": Extension((Row("label", Kind("string", 1, _label, lambda value, family: f'"{value}"'), True, required=True), Row("set", k.FLAG))),
    "connlimit": Extension(
        (
            *exclusive(Row("connlimit-upto", k.NUMBER, True), Row("connlimit-above", k.NUMBER, True)), Row("connlimit-mask", k.numbered(0, 128)),
            *exclusive(Row("connlimit-saddr", k.FLAG), Row("connlimit-daddr", k.FLAG)),
        ),
        some_of=("connlimit-upto", "connlimit-above"), finish=_connlimit,
    ),
    "cluster": Extension(
        (
            Row("cluster-local-node", k.numbered(1, 32), True, excludes=("cluster-local-nodemask",)),
            Row("cluster-local-nodemask", k.numbered(style="0x{:08x}"), True), Row("cluster-total-nodes", k.numbered(1, 32), required=True),
            Row("cluster-hash-seed", k.numbered(style="0x{:08x}"), required=True),
        ),
        some_of=("cluster-local-node", "cluster-local-nodemask"), finish=_cluster,
    ),
    "policy": Extension(
        (
            Row("dir", k.one_of({"in": "in", "out": "out"}), required=True), Row("pol", k.one_of({"none": "none", "ipsec": "ipsec"})),
            Row("strict", k.FLAG), Row("reqid", k.NUMBER, True, repeated=True), Row("spi", k.HEX, True, repeated=True),
            Row("proto", k.one_of({"ah": "ah", "esp": "esp", "ipcomp": "ipcomp"}), True, repeated=True),
            Row("mode", k.one_of({"transport": "transport", "tunnel": "tunnel"}), True, repeated=True),
            Row("tunnel-dst", k.HOST, True, repeated=True), Row("tunnel-src", k.HOST, True, repeated=True), Row("next", k.FLAG, repeated=True),
        ),
        finish=_policy, ordered=False,
    ),
    "owner": Extension(
        (
            Row("socket-exists", k.FLAG, True), Row("uid-owner", k.UIDS, True), Row("gid-owner", k.UIDS, True),
            Row("suppl-groups", k.FLAG, needs=("gid-owner",)),
        ),
        some_of=("socket-exists", "uid-owner", "gid-owner"),
    ),
    "socket": Extension((Row("transparent", k.FLAG), Row("nowildcard", k.FLAG), Row("restore-skmark", k.FLAG))),
    "cgroup": Extension(exclusive(Row("path", k.WORD, True), Row("cgroup", k.NUMBER, True)), some_of=("path", "cgroup")),
    "cpu": Extension((Row("cpu", k.NUMBER, True, required=True),)),
}  # fmt: skip

_REMEMBERED: Final[dict[str, Extension]] = {
    "set": Extension(
        (
            Row("match-set", k.SETREF, True, required=True), Row("return-nomatch", k.FLAG), Row("update-counters", k.FLAG, True),
            Row("update-subcounters", k.FLAG, True), *_PACKETS, *_BYTES,
        ),
        {"set": "match-set"}, finish=_set,
    ),
    "statistic": Extension(
        (
            Row("mode", k.one_of({"random": "random", "nth": "nth"})), Row("probability", k.PROBABILITY, True, excludes=("every",)),
            Row("every", k.numbered(1), True, needs=("packet",)), Row("packet", k.NUMBER, needs=("every",)),
        ),
        finish=_statistic,
    ),
    "recent": Extension(
        (
            *exclusive(Row("set", k.FLAG, True), Row("rcheck", k.FLAG, True), Row("update", k.FLAG, True), Row("remove", k.FLAG, True)),
            Row("seconds", k.numbered(1)), Row("reap", k.FLAG, needs=("seconds",)), Row("hitcount", k.NUMBER, hidden=0),
            Row("rttl", k.FLAG, excludes=("set", "remove")), Row("name", k.bare(199), default="DEFAULT"), Row("mask", k.MASK),
            Row("rsource", k.FLAG), Row("rdest", k.FLAG),
        ),
        some_of=("set", "rcheck", "update", "remove"), finish=_recent,
    ),
    "limit": Extension((Row("limit", rates.rate(10000), default=36000000 // 3), Row("limit-burst", k.numbered(0, 10000), hidden=5))),
    "hashlimit": Extension(
        (
            *exclusive(Row("hashlimit-upto", rates.HASHRATE, True), Row("hashlimit-above", rates.HASHRATE, True)),
            Row("hashlimit-burst", rates.HASHBURST), Row("hashlimit-mode", rates.HASHMODE), Row("hashlimit-name", k.WORD, required=True),
            Row("hashlimit-htable-size", k.NUMBER), Row("hashlimit-htable-max", k.NUMBER),
            Row("hashlimit-htable-gcinterval", k.NUMBER, hidden=1000), Row("hashlimit-htable-expire", k.NUMBER),
            Row("hashlimit-srcmask", k.numbered(0, 128)), Row("hashlimit-dstmask", k.numbered(0, 128)), Row("hashlimit-rate-match", k.FLAG),
            Row("hashlimit-rate-interval", k.numbered(1), hidden=1),
        ),
        {"hashlimit": "hashlimit-upto"}, some_of=("hashlimit-upto", "hashlimit-above"), finish=rates.hashlimit,
    ),
    "nfacct": Extension((Row("nfacct-name", k.WORD, separator="  ", required=True),)),
    "quota": Extension((Row("quota", k.NUMBER64, True, required=True),)),
    "time": Extension(
        (
            Row("timestart", programs.DAYTIME), Row("timestop", programs.DAYTIME), Row("monthdays", programs.MONTHDAYS, True),
            Row("weekdays", programs.WEEKDAYS, True), Row("datestart", programs.DATE, hidden="1970-01-01T00:00:00"),
            Row("datestop", programs.DATE, default=programs.LAST_DATE), Row("kerneltz", k.FLAG), Row("contiguous", k.FLAG),
            Row("utc", k.FLAG), Row("localtz", k.FLAG),
        ),
        finish=programs.time,
    ),
}  # fmt: skip

MATCHES: Final[dict[str, Extension]] = {**_TRANSPORT, **_HEADER, **_CONNECTION, **_REMEMBERED, **MATCHES6}

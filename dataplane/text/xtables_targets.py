"""The option table of targets. Source: extensions/ of iptables 1.8.9."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from dataplane.inet import DCCP, ICMP, SCTP, TCP, UDP
from dataplane.rules.iptables import Option
from dataplane.text import xtables_kinds as k
from dataplane.text import xtables_rates as rates
from dataplane.text.xtables_extension import Extension, Facts, Rewrite, Row, exclusive
from dataplane.text.xtables_kinds import Kind

_FULL: Final = 0xFFFFFFFF
_WITH_PORTS: Final = (TCP, UDP, SCTP, DCCP, ICMP)

# ---------------------------------------------------------------------- NAT


def _ports_need_a_protocol(options: list[Option], facts: Facts) -> list[Option]:
    for option in options:
        if option.name.startswith("to-") and option.value.port_low is not None and facts.named not in _WITH_PORTS:
            raise ValueError("ports need -p with tcp, udp, sctp or dccp")
    return options


_RANDOM: Final = Row("random", k.FLAG)
_RANDOM_FULLY: Final = Row("random-fully", k.FLAG)
_PERSISTENT: Final = Row("persistent", k.FLAG)
_PREFIXES: Final = Extension((Row("src-pfx", k.NETMAP, required=True), Row("dst-pfx", k.NETMAP, required=True)), families=(6,))

_NAT: Final[dict[str, Extension]] = {
    "DNAT": Extension((Row("to-destination", k.NATRANGE, required=True), _RANDOM, _PERSISTENT), finish=_ports_need_a_protocol),
    "SNAT": Extension((Row("to-source", k.NATRANGE, required=True), _RANDOM, _RANDOM_FULLY, _PERSISTENT), finish=_ports_need_a_protocol),
    "MASQUERADE": Extension((Row("to-ports", k.PORTSPAN), _RANDOM, _RANDOM_FULLY), finish=_ports_need_a_protocol),
    "REDIRECT": Extension((Row("to-ports", k.PORTSPAN), _RANDOM), finish=_ports_need_a_protocol),
    "NETMAP": Extension((Row("to", k.NETMAP, required=True),)),
    "SNPT": _PREFIXES,
    "DNPT": _PREFIXES,
}

# ---------------------------------------------------------------------- marks


def _marks(name: str, words: Sequence[str]) -> dict[str, Rewrite]:
    """Set, or, and, xor: all are a value that is put in the place of a mask's bits."""
    given: dict[str, Rewrite] = {
        "set-mark": (k.BITS, lambda value: (Option(name, (value[0], value[0] | value[1])),)),
        "or-mark": (k.HEX, lambda value: (Option(name, (value, value)),)),
        "and-mark": (k.HEX, lambda value: (Option(name, (0, ~value & _FULL)),)),
        "xor-mark": (k.HEX, lambda value: (Option(name, (value, 0)),)),
    }
    return {word: given[word] for word in words}


def _connmark(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    kept = {option.name: option for option in options}
    mask = kept.pop("mask", None)
    if "set-xmark" in kept:
        if mask is not None:
            kept["set-xmark"] = Option("set-xmark", (kept["set-xmark"].value[0], mask.value))
        return list(kept.values())
    if mask is not None and ("nfmask" in kept or "ctmask" in kept):
        raise ValueError("option --mask cannot be used together with --nfmask and --ctmask")
    for name in ("nfmask", "ctmask"):
        kept.setdefault(name, Option(name, mask.value if mask is not None else _FULL))
    return list(kept.values())


def _tos_bits(make: Callable[[int], tuple[int, int]]) -> Rewrite:
    return k.numbered(0, 255), lambda value: (Option("set-tos", make(value)),)


_ALL_MARKS: Final = ("set-mark", "or-mark", "and-mark", "xor-mark")
_MARKS: Final[dict[str, Extension]] = {
    "MARK": Extension((Row("set-xmark", k.XMARK, required=True),), {}, _marks("set-xmark", _ALL_MARKS)),
    "CONNMARK": Extension(
        (
            *exclusive(Row("set-xmark", k.XMARK), Row("save-mark", k.FLAG), Row("restore-mark", k.FLAG)), Row("nfmask", k.HEX),
            Row("ctmask", k.HEX), Row("mask", k.HEX), Row("left-shift-mark", k.numbered(0, 31)), Row("right-shift-mark", k.numbered(0, 31)),
        ),
        {}, _marks("set-xmark", _ALL_MARKS), some_of=("set-xmark", "save-mark", "restore-mark"), finish=_connmark,
    ),
    "TOS": Extension(
        (Row("set-tos", k.TOS, required=True),), {},
        {"and-tos": _tos_bits(lambda value: (0, ~value & 255)), "or-tos": _tos_bits(lambda value: (value, value)),
         "xor-tos": _tos_bits(lambda value: (value, 0))},
    ),
    "DSCP": Extension(
        (Row("set-dscp", k.numbered(0, 63, "0x{:02x}"), required=True),), {},
        {"set-dscp-class": (k.DSCP_CLASS, lambda value: (Option("set-dscp", value),))},
    ),
}  # fmt: skip


def _class(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    found = re.match(r"\s*(?:0[xX])?([0-9a-fA-F]+):\s*(?:0[xX])?([0-9a-fA-F]+)", words[0])
    if not found:
        raise ValueError(f"expected a class MAJOR:MINOR in hexadecimal, got {words[0]!r}")
    return int(found[1], 16) & 0xFFFF, int(found[2], 16) & 0xFFFF


_TUPLE: Final = {
    "src": "hmark-src-prefix", "dst": "hmark-dst-prefix", "sport": "hmark-sport-mask", "dport": "hmark-dport-mask", "spi": "hmark-spi-mask",
    "proto": "hmark-proto-mask",
}  # fmt: skip


def _hmark(options: list[Option], facts: Facts) -> list[Option]:
    """--hmark-tuple stands for whole masks; only ct stays a word of its own."""
    kept = {option.name: option for option in options}
    chosen = kept.pop("hmark-tuple", Option("", ())).value
    bits = 32 if facts.family == 4 else 128
    full = {"src": bits, "dst": bits, "spi": _FULL}
    for name in chosen:
        if name in _TUPLE:
            kept[_TUPLE[name]] = Option(_TUPLE[name], full.get(name, 0xFFFF))
    if "ct" in chosen:
        kept["hmark-tuple"] = Option("hmark-tuple", ("ct",))
    return list(kept.values())


def _tuple(words: Sequence[str], family: int) -> tuple[str, ...]:  # noqa: ARG001
    given = words[0].lower().split(",")
    if not set(given) <= {*_TUPLE, "ct"}:
        raise ValueError(f"expected some of {','.join(_TUPLE)},ct, got {words[0]!r}")
    return tuple(dict.fromkeys(given))


_HMARK: Final = Extension(
    (
        Row("hmark-src-prefix", k.numbered(0, 128)), Row("hmark-dst-prefix", k.numbered(0, 128)),
        Row("hmark-sport-mask", k.numbered(0, 65535, "0x{:04x}")), Row("hmark-dport-mask", k.numbered(0, 65535, "0x{:04x}")),
        Row("hmark-spi-mask", k.numbered(style="0x{:08x}")), Row("hmark-sport", k.numbered(0, 65535, "0x{:04x}")),
        Row("hmark-dport", k.numbered(0, 65535, "0x{:04x}")), Row("hmark-spi", k.numbered(style="0x{:08x}")),
        Row("hmark-proto-mask", k.numbered(0, 65535, "0x{:02x}")), Row("hmark-rnd", k.numbered(style="0x{:08x}"), required=True),
        Row("hmark-mod", k.numbered(1), required=True), Row("hmark-offset", k.NUMBER, hidden=0),
        Row("hmark-tuple", Kind("names", 1, _tuple, lambda value, family: ",".join(value))),
    ),
    finish=_hmark,
)  # fmt: skip

# ---------------------------------------------------------------------- REJECT and what changes a header

_REJECT4: Final = {
    "icmp-net-unreachable": "net-unreach", "icmp-host-unreachable": "host-unreach", "icmp-port-unreachable": "port-unreach",
    "icmp-proto-unreachable": "proto-unreach", "icmp-net-prohibited": "net-prohib", "icmp-host-prohibited": "host-prohib",
    "tcp-reset": "tcp-rst", "icmp-admin-prohibited": "admin-prohib",
}  # fmt: skip
_REJECT6: Final = {
    "icmp6-no-route": "no-route", "icmp6-adm-prohibited": "adm-prohibited", "icmp6-addr-unreachable": "addr-unreach",
    "icmp6-port-unreachable": "port-unreach", "tcp-reset": "tcp-reset", "icmp6-policy-fail": "policy-fail", "icmp6-reject-route": "reject-route",
}  # fmt: skip


def _reject(words: Sequence[str], family: int) -> str:
    """The first of the table whose name or short name begins so."""
    wanted = words[0].lower()
    for name, short in (_REJECT4 if family == 4 else _REJECT6).items():
        if name.startswith(wanted) or short.startswith(wanted):
            return name
    raise ValueError(f"unknown reject type {words[0]!r}")


def _reset_needs_tcp(options: list[Option], facts: Facts) -> list[Option]:
    kept = options or [Option("reject-with", "icmp-port-unreachable" if facts.family == 4 else "icmp6-port-unreachable")]
    if kept[0].value == "tcp-reset" and facts.protocol != TCP:
        raise ValueError("tcp-reset needs -p tcp")
    return kept


def _tcpmss(options: list[Option], facts: Facts) -> list[Option]:
    """Given both, the path's MTU counts. Only the legacy kernel interface insists on SYN."""
    if facts.flavour == "legacy" and not facts.syn:
        raise ValueError("the kernel takes TCPMSS for TCP SYN packets only: -p tcp --tcp-flags SYN,RST SYN")
    clamped = [option for option in options if option.name == "clamp-mss-to-pmtu"]
    return clamped or options


def _ecn(options: list[Option], facts: Facts) -> list[Option]:
    if facts.protocol != TCP and any(option.name.startswith("ecn-tcp") for option in options):
        raise ValueError("TCP's flags can be changed with -p tcp only")
    return options


_TCP_OPTIONS: Final = {"wscale": 3, "mss": 2, "sack-permitted": 4, "sack": 5, "timestamp": 8, "md5": 19}


def _stripped(words: Sequence[str], family: int) -> tuple[int, ...]:  # noqa: ARG001
    found = [_TCP_OPTIONS[part] if part in _TCP_OPTIONS else k.number(part, 2, 255) for part in words[0].split(",")]
    if len(set(found)) < len(found):
        raise ValueError(f"an option is given twice in {words[0]!r}")
    return tuple(sorted(found))


def _hops(name: str, family: int) -> Extension:
    rows = exclusive(
        Row(f"{name}-set", k.numbered(0, 255)), Row(f"{name}-dec", k.numbered(1, 255)), Row(f"{name}-inc", k.numbered(1, 255))
    )  # fmt: skip
    return Extension(rows, families=(family,), some_of=tuple(row.name for row in rows))


_CHANGES: Final[dict[str, Extension]] = {
    "REJECT": Extension((Row("reject-with", Kind("word", 1, _reject, lambda value, family: str(value))),), finish=_reset_needs_tcp),
    "TCPMSS": Extension(
        (Row("set-mss", k.numbered(0, 65515)), Row("clamp-mss-to-pmtu", k.FLAG)), protocols=(TCP,), some_of=("set-mss", "clamp-mss-to-pmtu"),
        finish=_tcpmss,
    ),
    "TCPOPTSTRIP": Extension(
        (Row("strip-options", Kind("numbers", 1, _stripped, lambda value, family: ",".join(map(str, value)))),), protocols=(TCP,),
    ),
    "SYNPROXY": Extension(
        (Row("sack-perm", k.FLAG), Row("timestamp", k.FLAG), Row("wscale", k.NUMBER), Row("mss", k.NUMBER), Row("ecn", k.FLAG)), protocols=(TCP,),
    ),
    "ECN": Extension(
        (
            Row("ecn-tcp-remove", k.FLAG, excludes=("ecn-tcp-cwr", "ecn-tcp-ece")), Row("ecn-tcp-ece", k.numbered(0, 1)),
            Row("ecn-tcp-cwr", k.numbered(0, 1)), Row("ecn-ip-ect", k.numbered(0, 3)),
        ),
        families=(4,), some_of=("ecn-tcp-remove", "ecn-tcp-ece", "ecn-tcp-cwr", "ecn-ip-ect"), finish=_ecn,
    ),
    "TTL": _hops("ttl", 4),
    "HL": _hops("hl", 6),
    "CHECKSUM": Extension((Row("checksum-fill", k.FLAG, required=True),)),
    "CLASSIFY": Extension((Row("set-class", Kind("class", 1, _class, lambda value, family: f"{value[0]:04x}:{value[1]:04x}"), required=True),)),
    "HMARK": _HMARK,
    "TPROXY": Extension(
        (Row("on-port", k.numbered_port(), required=True), Row("on-ip", k.IP, default=0), Row("tproxy-mark", k.XMARK, default=(0, 0))),
        protocols=(TCP, UDP),
    ),
}  # fmt: skip

# ---------------------------------------------------------------------- connection tracking and sets

_EVENTS: Final = ("new", "related", "destroy", "reply", "assured", "protoinfo", "helper", "mark", "natseqinfo", "secmark")


def _zone(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    if words[0] == "mark":
        return "mark"
    return str(k.number(words[0], 0, 65535))


def _ct(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    """There is one zone, of the last option, for one direction or (by two of the options, or --zone) for both."""
    zones = [option for option in options if option.name.startswith("zone")]
    kept = [option for option in options if option not in zones]
    if zones:
        directed = {option.name for option in zones if option.name != "zone"}
        name = directed.pop() if len(directed) == 1 else "zone"
        kept += [Option(name, zones[-1].value)] if zones[-1].value != "0" or name != "zone" else []
    return kept


def _set(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    given = {option.name for option in options}
    if given & {"exist", "timeout"} and "add-set" not in given:
        raise ValueError("--exist and --timeout can be used with --add-set only")
    return options


_ZONE: Final = Kind("word", 1, _zone, lambda value, family: str(value))
_EVENT_NAMES: Final = k.names(_EVENTS, upper=False)
_TRACKING: Final[dict[str, Extension]] = {
    "CT": Extension(
        (
            Row("notrack", k.FLAG), Row("helper", k.WORD, hidden=""), Row("timeout", k.WORD), Row("ctevents", _EVENT_NAMES),
            Row("expevents", k.names(("new",), upper=False)), Row("zone-orig", _ZONE), Row("zone-reply", _ZONE), Row("zone", _ZONE),
        ),
        finish=_ct,
    ),
    "SET": Extension(
        (
            Row("add-set", k.SETREF), Row("exist", k.FLAG), Row("timeout", k.NUMBER), Row("del-set", k.SETREF), Row("map-set", k.SETREF),
            *(Row(name, k.FLAG, needs=("map-set",)) for name in ("map-mark", "map-prio", "map-queue")),
        ),
        some_of=("add-set", "del-set", "map-set"), finish=_set,
    ),
    "CONNSECMARK": Extension(exclusive(Row("save", k.FLAG), Row("restore", k.FLAG)), some_of=("save", "restore")),
    "SECMARK": Extension((Row("selctx", k.WORD, required=True),)),
}  # fmt: skip

# ---------------------------------------------------------------------- what tells somebody

_LEVELS: Final = {"emerg": 0, "panic": 0, "alert": 1, "crit": 2, "error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}


def _level(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    return _LEVELS[words[0]] if words[0] in _LEVELS else k.number(words[0], 0, 7)


def _balance(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    low, colon, high = words[0].partition(":")
    if not colon:
        raise ValueError(f"expected queues FIRST:LAST, got {words[0]!r}")
    pair = k.number(low, 0, 65535), k.number(high, 0, 65535)
    if pair[0] >= pair[1]:
        raise ValueError(f"{pair[0]} should be less than {pair[1]}")
    return pair


def _nfqueue(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    given = {option.name for option in options}
    return options if given & {"queue-num", "queue-balance"} else [Option("queue-num", 0), *options]


_KINDS_OF_AUDIT: Final[Mapping[str, str]] = {name: name for name in ("accept", "drop", "reject")}
_BALANCE: Final = Kind("span", 1, _balance, lambda value, family: f"{value[0]}:{value[1]}")
_TELLING: Final[dict[str, Extension]] = {
    "LOG": Extension(
        (
            Row("log-prefix", k.text(29, 1, cut=True)), Row("log-level", Kind("number", 1, _level, lambda value, family: str(value)), hidden=4),
            Row("log-tcp-sequence", k.FLAG), Row("log-tcp-options", k.FLAG), Row("log-ip-options", k.FLAG), Row("log-uid", k.FLAG),
            Row("log-macdecode", k.FLAG),
        ),
    ),
    "NFLOG": Extension(
        (
            Row("nflog-prefix", k.text(63, 1, cut=True)), Row("nflog-group", k.numbered(0, 65535), hidden=0),
            Row("nflog-range", k.NUMBER, hidden=0, excludes=("nflog-size",)), Row("nflog-size", k.NUMBER),
            Row("nflog-threshold", k.numbered(0, 65535), hidden=0),
        ),
    ),
    "NFQUEUE": Extension(
        (
            *exclusive(Row("queue-num", k.numbered(0, 65535)), Row("queue-balance", _BALANCE)), Row("queue-bypass", k.FLAG),
            Row("queue-cpu-fanout", k.FLAG, needs=("queue-balance",)),
        ),
        finish=_nfqueue,
    ),
    "AUDIT": Extension((Row("type", k.one_of(_KINDS_OF_AUDIT, any_case=True), required=True),)),
    "TEE": Extension((Row("gateway", k.IP, required=True), Row("oif", k.WORD))),
    "IDLETIMER": Extension((Row("timeout", k.numbered(1), required=True), Row("label", k.bare(27), required=True), Row("alarm", k.FLAG))),
    "RATEEST": Extension(
        (
            Row("rateest-name", k.WORD, required=True), Row("rateest-interval", rates.TIME, required=True),
            Row("rateest-ewmalog", rates.TIME, required=True),
        ),
        finish=rates.rateest,
    ),
}  # fmt: skip

TARGETS: Final[dict[str, Extension]] = {
    **{name: Extension() for name in ("ACCEPT", "DROP", "RETURN", "QUEUE", "TRACE", "NOTRACK")},
    **_NAT, **_MARKS, **_CHANGES, **_TRACKING, **_TELLING,
}  # fmt: skip

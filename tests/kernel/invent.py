"""Rule sets that nobody would write, made from a seed: every table, chains that jump and go to each other, many matches.

They are valid, small, and speak of few addresses and ports, so that packets meet them often. What they are for is to find
what neither a test's author nor a dump has thought of. The node has eth0 and cni0, IPv4 and IPv6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from dataplane.verify.plausible import completed
from dataplane.adapters.lab.snapshot import Snapshot

_HOOKS: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_SETS: Final = {
    4: ("s-ip hash:ip", "s-net hash:net", "s-port hash:ip,port"),
    6: ("t-ip hash:ip family inet6", "t-net hash:net family inet6", "t-port hash:ip,port family inet6"),
}
_HOSTS: Final = {
    4: ("10.200.0.1", "10.200.0.9", "10.200.0.10", "10.200.1.1", "10.200.1.5", "10.200.1.6", "10.96.0.1", "198.51.100.20"),
    6: (
        "fd00:200::1", "fd00:200::9", "fd00:200::a", "fd00:200:1::1", "fd00:200:1::5", "fd00:200:1::6", "fd00:96::1",
        "2001:db8::7",
    ),
}  # fmt: skip
_NETS: Final = {
    4: ("10.200.0.0/24", "10.200.1.0/24", "10.200.1.4/30", "10.96.0.0/16", "0.0.0.0/1", "127.0.0.0/8"),
    6: ("fd00:200::/64", "fd00:200:1::/64", "fd00:200:1::4/126", "fd00:96::/32", "::/1", "fd00::/8"),
}
_PORTS: Final = (53, 80, 443, 8080, 30080)
_MARKS: Final = ("0x1/0x1", "0x4000/0x4000", "0x2/0xff", "0x0/0xf", "0x7")
_STATES: Final = (
    "NEW", "ESTABLISHED", "RELATED", "INVALID", "NEW,ESTABLISHED", "RELATED,ESTABLISHED", "DNAT", "SNAT", "UNTRACKED",
)  # fmt: skip
_TYPES: Final = {4: ("LOCAL", "UNICAST", "BROADCAST", "MULTICAST"), 6: ("LOCAL", "UNICAST", "MULTICAST", "UNREACHABLE")}


def invented(seed: int | Random) -> Snapshot:
    """The rule sets of a seed, on a plain node with an uplink and a bridge of pods; flows over UDP expire fast now and then."""
    random = seed if isinstance(seed, Random) else Random(seed)
    node = completed(Snapshot(iptables="-A FORWARD -i cni0\n"))
    sets = "".join(_set(text, family, random) for family in (4, 6) for text in _SETS[family])
    fast = {"net.netfilter.nf_conntrack_udp_timeout": "1"} if random.random() > 0.95 else {}
    return Snapshot(
        links=node.links, routes4=node.routes4, routes6=node.routes6, sysctls={**node.sysctls, **fast}, ipset=sets,
        iptables=_Author(4, random).save(), ip6tables=_Author(6, random).save(),
    )  # fmt: skip


def _set(text: str, family: int, random: Random) -> str:
    name, kind, *_ = text.split()
    entries: dict[str, str] = {}
    for _ in range(random.randint(1, 4)):
        host = random.choice(_HOSTS[family])
        if kind == "hash:net":
            entry = random.choice(_NETS[family])
        else:
            entry = host if kind == "hash:ip" else f"{host},{random.choice(('tcp', 'udp'))}:{random.choice(_PORTS)}"
        nomatch = " nomatch" if kind == "hash:net" and random.random() < 0.2 else ""
        entries[entry] = f"add {name} {entry}{nomatch}"
    return "\n".join([f"create {text}", *entries.values(), ""])


class _Author:
    """Writes one family's tables."""

    def __init__(self, family: int, random: Random) -> None:
        self._family = family
        self._random = random
        self._icmp = "icmp" if family == 4 else "ipv6-icmp"

    def save(self) -> str:
        tables = [name for name in _HOOKS if name in ("nat", "filter") or self._random.random() < 0.6]
        return "".join(self._table(name) for name in tables)

    def _table(self, name: str) -> str:
        random = self._random
        chains = [f"X{name[0]}{number}" for number in range(random.randint(0, 4))]
        head = [f":{hook} {self._policy(name)} [0:0]" for hook in _HOOKS[name]] + [f":{chain} - [0:0]" for chain in chains]
        rules = []
        for hook in _HOOKS[name]:
            rules += [self._rule(name, hook, hook, chains) for _ in range(random.randint(0, 4))]
        for position, chain in enumerate(chains):
            later = chains[position + 1 :]  # a chain calls only those after it: no loops
            rules += [self._rule(name, chain, "", later) for _ in range(random.randint(1, 4))]
        return "\n".join([f"*{name}", *head, *rules, "COMMIT", ""])

    def _policy(self, table: str) -> str:
        return "DROP" if table == "filter" and self._random.random() < 0.15 else "ACCEPT"

    # ------------------------------------------------------------------ rules

    def _rule(self, table: str, chain: str, hook: str, jumps: Sequence[str]) -> str:
        random = self._random
        if jumps and random.random() < 0.35:
            proto = random.choice(("", "tcp", "udp"))
            action = f"-{random.choice('jjg')} {random.choice(jumps)}"
        else:
            proto = random.choice(("", "tcp", "tcp", "udp", "icmp", "sctp"))
            proto, action = self._target(table, hook, proto)
        early = hook == "PREROUTING" and table in ("raw", "mangle")
        parts = [f"-A {chain}", *self._plain(hook, proto), *self._matches(proto, early=early)]
        return " ".join(part for part in [*parts, action] if part)

    def _plain(self, hook: str, proto: str) -> list[str]:
        random = self._random
        parts = []
        for option in ("-s", "-d"):
            if random.random() < 0.3:
                address = random.choice(random.choice((_HOSTS, _NETS))[self._family])
                parts.append(f"{self._no()}{option} {address}")
        if hook in ("PREROUTING", "INPUT", "FORWARD") and random.random() < 0.25:
            parts.append(f"{self._no()}-i {random.choice(('eth0', 'cni0', 'lo', 'eth+', 'cni+'))}")
        if hook in ("FORWARD", "OUTPUT", "POSTROUTING") and random.random() < 0.25:
            parts.append(f"{self._no()}-o {random.choice(('eth0', 'cni0', 'lo', 'c+'))}")
        if proto:
            parts.append(f"-p {self._icmp if proto == 'icmp' else proto}")
        return parts

    def _no(self) -> str:
        return "! " if self._random.random() < 0.25 else ""

    def _matches(self, proto: str, *, early: bool) -> list[str]:
        makers: list[Callable[[], str]] = [
            self._conntrack, self._mark, self._addrtype, self._iprange, self._in_set, self._statistic, self._length, self._ttl,
        ]  # fmt: skip
        if proto in ("tcp", "udp", "sctp"):
            makers += [lambda: self._ports(proto), lambda: self._ports(proto), lambda: self._multiport(proto)]
        if proto == "tcp":
            makers.append(self._flags)
        if proto == "icmp":
            makers.append(self._icmp_type)
        if early:
            makers.append(lambda: f"-m rpfilter{self._random.choice(('', ' --loose', ' --invert', ' --validmark'))}")
        count = self._random.choice((0, 0, 1, 1, 2))
        return [maker() for maker in self._random.sample(makers, min(count, len(makers)))]

    def _port(self) -> str:
        low = self._random.choice(_PORTS)
        return f"{low}:{low + 400}" if self._random.random() < 0.2 else str(low)

    def _ports(self, proto: str) -> str:
        return f"-m {proto} {self._no()}--{self._random.choice(('dport', 'dport', 'sport'))} {self._port()}"

    def _multiport(self, proto: str) -> str:
        if proto == "sctp" and self._family == 6:
            return ""
        ports = ",".join(self._port() for _ in range(self._random.randint(1, 3)))
        return f"-m multiport {self._no()}--{self._random.choice(('dports', 'sports', 'ports'))} {ports}"

    def _flags(self) -> str:
        mask, expected = self._random.choice(
            (("FIN,SYN,RST,ACK", "SYN"), ("SYN,ACK", "SYN,ACK"), ("RST", "RST"), ("ALL", "NONE"), ("FIN,SYN", "NONE"))
        )
        return f"-m tcp {self._no()}--tcp-flags {mask} {expected}"

    def _icmp_type(self) -> str:
        kind = self._random.choice((8, 0, 3) if self._family == 4 else (128, 129, 1))
        return f"-m icmp{'6' if self._family == 6 else ''} {self._no()}--icmp{'v6' if self._family == 6 else ''}-type {kind}"

    def _conntrack(self) -> str:
        random = self._random
        choice = random.random()
        if choice < 0.6:
            return f"-m conntrack {self._no()}--ctstate {random.choice(_STATES)}"
        if choice < 0.75:
            return f"-m conntrack {self._no()}--ctorigdst {random.choice(_HOSTS[self._family])}"
        if choice < 0.85:
            return f"-m conntrack --ctproto 6 {self._no()}--ctorigdstport {random.choice(_PORTS)}"
        if choice < 0.93:
            return f"-m conntrack {self._no()}--ctreplsrc {random.choice(_HOSTS[self._family])}"
        return f"-m conntrack --ctdir {random.choice(('ORIGINAL', 'REPLY'))}"

    def _mark(self) -> str:
        return f"-m {self._random.choice(('mark', 'connmark'))} {self._no()}--mark {self._random.choice(_MARKS)}"

    def _addrtype(self) -> str:
        side = self._random.choice(("dst", "dst", "src"))
        return f"-m addrtype {self._no()}--{side}-type {self._random.choice(_TYPES[self._family])}"

    def _iprange(self) -> str:
        low, high = sorted(self._random.sample(_HOSTS[self._family][:3], 2), key=_HOSTS[self._family].index)
        return f"-m iprange {self._no()}--{self._random.choice(('src', 'dst'))}-range {low}-{high}"

    def _in_set(self) -> str:
        name, kind, *_ = self._random.choice(_SETS[self._family]).split()
        side = self._random.choice(("src", "dst"))
        return f"-m set {self._no()}--match-set {name} {f'{side},{side}' if kind == 'hash:ip,port' else side}"

    def _statistic(self) -> str:
        return f"-m statistic --mode random --probability {self._random.choice(('0.5', '0.33333333349', '0.25'))}"

    def _length(self) -> str:
        return f"-m length {self._no()}--length {self._random.choice(('0:39', '40', '28:48', '41:100', '60'))}"

    def _ttl(self) -> str:
        name = "ttl" if self._family == 4 else "hl"
        return f"-m {name} --{name}-{self._random.choice(('eq', 'lt', 'gt'))} {self._random.choice((1, 63, 64))}"

    # ------------------------------------------------------------------ targets

    def _target(self, table: str, hook: str, proto: str) -> tuple[str, str]:
        """The protocol (a target may want one) and the target; "" where a chain that several hooks share can take few."""
        plain = [(proto, f"-j {name}") for name in ("ACCEPT", "RETURN", "RETURN")]
        if table != "nat":
            plain.append((proto, "-j DROP"))
        special = {"raw": self._raw, "mangle": self._mangle, "nat": self._nat, "filter": self._filter}[table]
        return self._random.choice(plain) if self._random.random() < 0.25 else special(hook, proto)

    def _raw(self, hook: str, proto: str) -> tuple[str, str]:
        return proto, self._random.choice(("-j CT --notrack", "-j DROP", "-j RETURN")) if hook else "-j ACCEPT"

    def _mangle(self, _: str, proto: str) -> tuple[str, str]:
        value = self._random.choice(("0x1", "0x4000", "0x2", "0x7"))
        choices = [
            f"-j MARK --set-xmark {value}/{value}", f"-j MARK --set-xmark {value}/0xffffffff",
            f"-j MARK --set-xmark {value}/0x0",
            f"-j CONNMARK --set-xmark {value}/{value}", "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark",
            f"-j MARK --or-mark {value}", f"-j MARK --and-mark {value}",
            "-j TTL --ttl-dec 1" if self._family == 4 else "-j HL --hl-dec 1", "-j DSCP --set-dscp 0x0a",
        ]  # fmt: skip
        return proto, self._random.choice(choices)

    def _filter(self, _: str, proto: str) -> tuple[str, str]:
        if proto == "tcp" and self._random.random() < 0.4:
            return proto, "-j REJECT --reject-with tcp-reset"
        kinds = ("icmp-port-unreachable", "icmp-admin-prohibited", "icmp-host-unreachable", "icmp-net-prohibited")
        kinds6 = ("icmp6-port-unreachable", "icmp6-adm-prohibited", "icmp6-no-route", "icmp6-addr-unreachable")
        kind = self._random.choice(kinds if self._family == 4 else kinds6)
        return proto, self._random.choice(("-j ACCEPT", "-j DROP", f"-j REJECT --reject-with {kind}"))

    def _nat(self, hook: str, proto: str) -> tuple[str, str]:
        random = self._random
        ported = proto in ("tcp", "udp", "sctp")
        if hook in ("PREROUTING", "OUTPUT"):
            host = random.choice(_HOSTS[self._family][3:6])
            ports = random.choice(("", f":{random.choice(_PORTS)}")) if ported else ""
            target = f"[{host}]{ports}" if self._family == 6 and ports else host + ports
            redirect = f"-j REDIRECT{f' --to-ports {random.choice(_PORTS)}' if ported else ''}"
            options = random.choice(("", "", " --random", " --persistent"))
            return proto, random.choice((f"-j DNAT --to-destination {target}{options}",) * 3 + (redirect,))
        if hook in ("POSTROUTING", "INPUT"):
            host = random.choice(_HOSTS[self._family][:5])
            choices = [f"-j SNAT --to-source {host}"]
            if hook == "POSTROUTING":
                choices += ["-j MASQUERADE", "-j MASQUERADE --random-fully", "-j MASQUERADE"]
                choices += [f"-j NETMAP --to {random.choice(_NETS[self._family][:2])}"]
                if ported:
                    choices.append("-j MASQUERADE --to-ports 40000-40100")
            return proto, random.choice(choices)
        return proto, random.choice(("-j ACCEPT", "-j RETURN"))

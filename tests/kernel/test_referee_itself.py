"""The referee is right where the answer is known: rules written by hand, and what every administrator knows they do.

A row is a claim: the packets, and what must become of the last of them. Verdicts are written as they are read:
"forward cni0 10.244.1.5:8080 ttl 63", "local 10.244.1.1:80", "drop", "reject icmp 3/3 from 192.168.0.11".
"""



from __future__ import annotations

from typing import Any, Final

import pytest

from dataplane.verify import plausible
from tests.kernel.rig import kernel_lines
from dataplane.adapters.lab.lines import Outcome, Packet
from dataplane.adapters.lab.node import standing
from dataplane.adapters.lab.referee import Mode, Referee
from dataplane.adapters.lab.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("kernel")

_OUT4, _POD4, _NODE4 = "192.168.0.99", "10.244.1.5", "192.168.0.11"
_OUT6, _POD6, _NODE6 = "fd00::99", "fd00:10:244:1::5", "fd00::11"
_LINKS: Final[list[dict[str, Any]]] = [  # Any: JSON
    plausible.LO,
    plausible.link(2, "eth0", [
        {"family": "inet", "local": _NODE4, "prefixlen": 24, "broadcast": "192.168.0.255", "scope": "global"},
        {"family": "inet6", "local": _NODE6, "prefixlen": 64, "scope": "global"},
    ]),
    plausible.link(3, "cni0", [
        {"family": "inet", "local": "10.244.1.1", "prefixlen": 24, "broadcast": "10.244.1.255", "scope": "global"},
        {"family": "inet6", "local": "fd00:10:244:1::1", "prefixlen": 64, "scope": "global"},
    ]),
]  # fmt: skip
_ROUTES4: Final[list[dict[str, Any]]] = [  # Any: JSON
    {"dst": "192.168.0.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "prefsrc": _NODE4},
    {"dst": "10.244.1.0/24", "dev": "cni0", "protocol": "kernel", "scope": "link", "prefsrc": "10.244.1.1"},
    {"dst": "10.0.0.0/8", "gateway": "192.168.0.1", "dev": "eth0"},
    {"type": "unreachable", "dst": "172.16.1.0/24"},
    {"type": "prohibit", "dst": "172.16.2.0/24"},
    {"type": "blackhole", "dst": "172.16.3.0/24"},
    {"dst": "192.0.2.0/24", "dev": "cni0", "scope": "link", "table": "100"},
]
_ROUTES6: Final[list[dict[str, Any]]] = [  # Any: JSON
    {"dst": "fd00::/64", "dev": "eth0", "protocol": "kernel", "metric": 256},
    {"dst": "fd00:10:244:1::/64", "dev": "cni0", "protocol": "kernel", "metric": 256},
    {"dst": "fd00:aaaa::/32", "gateway": "fd00::1", "dev": "eth0", "metric": 1024},
    {"type": "unreachable", "dst": "fd00:b1::/32", "dev": "lo", "metric": 1024},
    {"type": "prohibit", "dst": "fd00:b2::/32", "dev": "lo", "metric": 1024},
    {"type": "blackhole", "dst": "fd00:b3::/32", "dev": "lo", "metric": 1024},
]
_RULES4: Final[list[dict[str, Any]]] = [  # Any: JSON
    {"priority": 0, "src": "all", "table": "local"},
    {"priority": 100, "src": "all", "fwmark": "0x7", "table": "100"},
    {"priority": 32766, "src": "all", "table": "main"},
    {"priority": 32767, "src": "all", "table": "default"},
]


def _node(v4: str = "", v6: str = "", sysctls: dict[str, str] | None = None, **more: Any) -> Snapshot:  # Any: fields of Snapshot
    return Snapshot(
        links=_LINKS, routes4=_ROUTES4, routes6=_ROUTES6, rules4=_RULES4, iptables=v4, ip6tables=v6,
        sysctls={**plausible.FORWARDING, **(sysctls or {})}, **more,
    )  # fmt: skip


def _table(name: str, *rules: str) -> str:
    chains = dict.fromkeys(rule.split()[1] for rule in rules if not rule.split()[1].isupper() or rule.split()[1].startswith("X"))
    return "\n".join([f"*{name}", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT", ""])


def packet(text: str, *, ttl: int = 64, number: int = 1) -> Packet:
    """``eth0 tcp 1.2.3.4:5 > 6.7.8.9:80 SA``; ``node`` for what the node sends itself; ``reply`` for an answer to the one before."""
    words = text.split()
    if words[0] == "reply":
        return Packet(number, flags=words[1] if len(words) > 1 else None, reply_to=number - 1, ttl=ttl)
    (src, sport), (dst, dport) = (_endpoint(end) for end in (words[2], words[4]))
    flags = words[5] if len(words) > 5 else None
    return Packet(number, None if words[0] == "node" else words[0], src, dst, words[1], sport, dport, flags, ttl)


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def told(outcome: Outcome) -> str:
    """An outcome as the rows below write it."""
    seen, reply = outcome["packet"], outcome["reply"]
    if reply:
        what = f"icmp {reply['type']}/{reply['code']}" if reply["proto"] == "icmp" else f"tcp {reply['flags']}"
        return f"reject {what} from {reply['src']} to {reply['dst']}"
    if seen is None:
        return outcome["verdict"]
    source, target = (f"[{a}]" if ":" in a else a for a in (seen["src"], seen["dst"]))
    mark = f" mark {seen['mark']:#x}" if seen["mark"] else ""
    where = f"forward {outcome['oif']}" if outcome["verdict"] == "forward" else outcome["verdict"]
    return f"{where} {source}:{seen['sport']} > {target}:{seen['dport']} ttl {seen['ttl']}{mark}"


def _last(snapshot: Snapshot, *texts: str, ttl: int = 64, mode: Mode = "sequence") -> str:
    packets = [packet(text, number=number, ttl=ttl) for number, text in enumerate(texts, 1)]
    lines = kernel_lines(snapshot, packets, mode)
    return told(lines[-1]["outcomes"][0])


_DNAT = _table("nat", "-A PREROUTING -d 10.96.0.1/32 -p tcp -j DNAT --to-destination 10.244.1.5:8080",
               "-A OUTPUT -d 10.96.0.1/32 -p tcp -j DNAT --to-destination 10.244.1.5:8080")  # fmt: skip
_DNAT6 = _table("nat", "-A PREROUTING -d fd00:96::1/128 -p tcp -j DNAT --to-destination [fd00:10:244:1::5]:8080")
_MASQUERADE = _table("nat", "-A POSTROUTING -o eth0 -j MASQUERADE")

#: What a plain node does: rules, packets, what becomes of the last.
PLAIN = [
    ("forwarded", "", ["eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80"], "forward cni0 192.168.0.99:1000 > 10.244.1.5:80 ttl 63"),
    ("own packet out", "", ["node udp 192.168.0.11:1000 > 10.1.1.1:53"], "forward eth0 192.168.0.11:1000 > 10.1.1.1:53 ttl 64"),
    ("closed tcp port", "", ["eth0 tcp 192.168.0.99:1000 > 192.168.0.11:9"], "local 192.168.0.99:1000 > 192.168.0.11:9 ttl 64"),
    ("closed udp port", "", ["eth0 udp 192.168.0.99:1000 > 192.168.0.11:9"], "local 192.168.0.99:1000 > 192.168.0.11:9 ttl 64"),
    ("sctp to the node", "", ["eth0 sctp 192.168.0.99:1000 > 192.168.0.11:9"], "local 192.168.0.99:1000 > 192.168.0.11:9 ttl 64"),
    ("echo request", "", ["eth0 icmp 192.168.0.99:77 > 192.168.0.11:0"], "local 192.168.0.99:77 > 192.168.0.11:0 ttl 64"),
    ("loopback", "", ["node tcp 127.0.0.1:1000 > 127.0.0.1:80"], "local 127.0.0.1:1000 > 127.0.0.1:80 ttl 64"),
    ("node to its own address", "", ["node tcp 192.168.0.11:1000 > 10.244.1.1:80"], "local 192.168.0.11:1000 > 10.244.1.1:80 ttl 64"),
    ("no route", "", ["cni0 udp 10.244.1.5:1000 > 8.8.8.8:53"], "reject icmp 3/0 from 10.244.1.1 to 10.244.1.5"),
    ("no route, from the node", "", ["node udp 192.168.0.11:1000 > 8.8.8.8:53"], "drop"),
    ("unreachable", "", ["cni0 udp 10.244.1.5:1000 > 172.16.1.1:53"], "reject icmp 3/1 from 10.244.1.1 to 10.244.1.5"),
    ("prohibited", "", ["cni0 udp 10.244.1.5:1000 > 172.16.2.1:53"], "reject icmp 3/13 from 10.244.1.1 to 10.244.1.5"),
    ("blackhole", "", ["cni0 udp 10.244.1.5:1000 > 172.16.3.1:53"], "drop"),
    ("martian destination", "", ["eth0 udp 192.168.0.99:1000 > 127.0.0.1:53"], "drop"),
    ("martian source", "", ["eth0 udp 127.0.0.1:1000 > 10.244.1.5:53"], "drop"),
    ("own source from outside", "", ["eth0 udp 10.244.1.1:1000 > 10.244.1.5:53"], "drop"),
    ("broadcast", "", ["eth0 udp 192.168.0.99:1000 > 192.168.0.255:53"], "local 192.168.0.99:1000 > 192.168.0.255:53 ttl 64"),
    ("v6 forwarded", "", ["eth0 tcp [fd00::99]:1000 > [fd00:10:244:1::5]:80"], "forward cni0 [fd00::99]:1000 > [fd00:10:244:1::5]:80 ttl 63"),
    ("v6 own packet", "", ["node udp [fd00::11]:1000 > [fd00:aaaa::1]:53"], "forward eth0 [fd00::11]:1000 > [fd00:aaaa::1]:53 ttl 64"),
    ("v6 local", "", ["eth0 tcp [fd00::99]:1000 > [fd00::11]:9"], "local [fd00::99]:1000 > [fd00::11]:9 ttl 64"),
    ("v6 echo", "", ["eth0 icmp [fd00::99]:77 > [fd00::11]:0"], "local [fd00::99]:77 > [fd00::11]:0 ttl 64"),
    ("v6 loopback", "", ["node tcp [::1]:1000 > [::1]:80"], "local [::1]:1000 > [::1]:80 ttl 64"),
    ("v6 no route", "", ["cni0 udp [fd00:10:244:1::5]:1000 > [2001:db8::1]:53"], "reject icmp 1/0 from fd00:10:244:1::1 to fd00:10:244:1::5"),
    ("v6 unreachable", "", ["cni0 udp [fd00:10:244:1::5]:1000 > [fd00:b1::1]:53"], "reject icmp 1/0 from fd00:10:244:1::1 to fd00:10:244:1::5"),
    ("v6 prohibited", "", ["cni0 udp [fd00:10:244:1::5]:1000 > [fd00:b2::1]:53"], "reject icmp 1/1 from fd00:10:244:1::1 to fd00:10:244:1::5"),
    ("v6 blackhole", "", ["cni0 udp [fd00:10:244:1::5]:1000 > [fd00:b3::1]:53"], "drop"),
    ("v6 ::1 from outside", "", ["eth0 udp [fd00::99]:1000 > [::1]:53"], "drop"),
]  # fmt: skip

#: The same with IPv4 rules.
RULES = [
    ("dnat", _DNAT, ["eth0 tcp 192.168.0.99:1000 > 10.96.0.1:80"], "forward cni0 192.168.0.99:1000 > 10.244.1.5:8080 ttl 63"),
    ("dnat at output", _DNAT, ["node tcp 192.168.0.11:1000 > 10.96.0.1:80"], "forward cni0 192.168.0.11:1000 > 10.244.1.5:8080 ttl 64"),
    ("answer of dnat", _DNAT, ["eth0 tcp 192.168.0.99:1000 > 10.96.0.1:80", "reply"], "forward eth0 10.96.0.1:80 > 192.168.0.99:1000 ttl 63"),
    ("ack of dnat", _DNAT, ["eth0 tcp 192.168.0.99:1000 > 10.96.0.1:80", "reply", "reply"],
     "forward cni0 192.168.0.99:1000 > 10.244.1.5:8080 ttl 63"),
    ("answer to the node", _DNAT, ["node tcp 192.168.0.11:1000 > 10.96.0.1:80", "reply"], "local 10.96.0.1:80 > 192.168.0.11:1000 ttl 64"),
    ("masquerade", _MASQUERADE, ["cni0 tcp 10.244.1.5:1000 > 10.1.1.1:80"], "forward eth0 192.168.0.11:1000 > 10.1.1.1:80 ttl 63"),
    ("answer of masquerade", _MASQUERADE, ["cni0 udp 10.244.1.5:1000 > 10.1.1.1:80", "reply"], "forward cni0 10.1.1.1:80 > 10.244.1.5:1000 ttl 63"),
    ("masqueraded echo", _MASQUERADE, ["cni0 icmp 10.244.1.5:77 > 10.1.1.1:0", "reply"], "forward cni0 10.1.1.1:77 > 10.244.1.5:0 ttl 63"),
    ("masqueraded sctp", _MASQUERADE, ["cni0 sctp 10.244.1.5:1000 > 10.1.1.1:80", "reply", "reply"],
     "forward eth0 192.168.0.11:1000 > 10.1.1.1:80 ttl 63"),
    ("redirect", _table("nat", "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 15001"), ["cni0 tcp 10.244.1.5:1000 > 10.1.1.1:80"],
     "local 10.244.1.5:1000 > 10.244.1.1:15001 ttl 64"),
    ("drop", _table("filter", "-A FORWARD -j DROP"), ["eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80"], "drop"),
    ("drop at input", _table("filter", "-A INPUT -j DROP"), ["eth0 tcp 192.168.0.99:1000 > 192.168.0.11:80"], "drop"),
    ("drop at output", _table("filter", "-A OUTPUT -j DROP"), ["node tcp 192.168.0.11:1000 > 10.1.1.1:80"], "drop"),
    ("drop in raw", _table("raw", "-A PREROUTING -j DROP"), ["eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80"], "drop"),
    ("dnat to nowhere", _table("nat", "-A PREROUTING -j DNAT --to-destination 1.2.3.4"), ["eth0 udp 192.168.0.99:1000 > 10.244.1.5:80"],
     "reject icmp 3/0 from 10.244.1.5 to 192.168.0.99"),  # nf_nat_icmp_reply_translation: as if from whom the client asked
    ("reject", _table("filter", "-A FORWARD -j REJECT"), ["eth0 udp 192.168.0.99:1000 > 10.244.1.5:80"], "reject icmp 3/3 from 192.168.0.11 to 192.168.0.99"),
    ("reject at input", _table("filter", "-A INPUT -i eth0 -j REJECT --reject-with icmp-admin-prohibited"),
     ["eth0 udp 192.168.0.99:1000 > 10.244.1.1:80"], "reject icmp 3/13 from 10.244.1.1 to 192.168.0.99"),
    ("reject with a reset", _table("filter", "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset"),
     ["eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80"], "reject tcp RA from 10.244.1.5 to 192.168.0.99"),
    ("reset of an ack", _table("filter", "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset"),
     ["eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80 A"], "reject tcp R from 10.244.1.5 to 192.168.0.99"),
    ("no reset for a reset", _table("filter", "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset"),
     ["eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80 R"], "drop"),
    ("reject at output", _table("filter", "-A OUTPUT -d 10.1.1.1/32 -j REJECT"), ["node udp 192.168.0.11:1000 > 10.1.1.1:80"],
     "reject icmp 3/3 from 192.168.0.11 to 192.168.0.11"),
    ("reset on loopback", _table("filter", "-A INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset"),
     ["node tcp 127.0.0.1:1000 > 127.0.0.1:80"], "reject tcp RA from 127.0.0.1 to 127.0.0.1"),
    ("an answer that is dropped is none", _table("filter", "-A FORWARD -j REJECT", "-A OUTPUT -p icmp -j DROP"),
     ["eth0 udp 192.168.0.99:1000 > 10.244.1.5:80"], "drop"),
    ("reject behind dnat", _DNAT + _table("filter", "-A FORWARD -d 10.244.1.5/32 -p tcp -j REJECT --reject-with tcp-reset"),
     ["eth0 tcp 192.168.0.99:1000 > 10.96.0.1:80"], "reject tcp RA from 10.96.0.1 to 192.168.0.99"),
    ("mark", _table("mangle", "-A PREROUTING -j MARK --set-xmark 0x4000/0x4000"), ["eth0 udp 192.168.0.99:1000 > 10.244.1.5:80"],
     "forward cni0 192.168.0.99:1000 > 10.244.1.5:80 ttl 63 mark 0x4000"),
    ("mark at input", _table("mangle", "-A INPUT -j MARK --set-xmark 0x1/0xffffffff"), ["eth0 udp 192.168.0.99:1000 > 192.168.0.11:80"],
     "local 192.168.0.99:1000 > 192.168.0.11:80 ttl 64 mark 0x1"),
    ("routed by mark", _table("mangle", "-A PREROUTING -j MARK --set-xmark 0x7/0xffffffff"), ["eth0 udp 192.168.0.99:1000 > 192.0.2.1:80"],
     "forward cni0 192.168.0.99:1000 > 192.0.2.1:80 ttl 63 mark 0x7"),
    ("rerouted by mark", _table("mangle", "-A OUTPUT -d 10.244.1.0/24 -j MARK --set-xmark 0x9/0xffffffff"), ["node udp 192.168.0.11:1000 > 10.244.1.5:80"],
     "forward cni0 192.168.0.11:1000 > 10.244.1.5:80 ttl 64 mark 0x9"),
    ("stateful", _table("filter", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-A FORWARD -i cni0 -j DROP"),
     ["eth0 udp 192.168.0.99:1000 > 10.244.1.5:80", "reply"], "forward eth0 10.244.1.5:80 > 192.168.0.99:1000 ttl 63"),
    ("stateful, unasked", _table("filter", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-A FORWARD -i cni0 -j DROP"),
     ["cni0 udp 10.244.1.5:80 > 192.168.0.99:1000"], "drop"),
    ("delivered connections are confirmed", _table("filter", "-A INPUT -m conntrack --ctstate NEW -m mark --mark 0x1 -j ACCEPT",
     "-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-A OUTPUT -j DROP"),
     ["eth0 tcp 192.168.0.99:1000 > 192.168.0.11:80", "reply"], "forward eth0 192.168.0.11:80 > 192.168.0.99:1000 ttl 64"),
    ("no socket spoils a connection", _table("filter", "-A OUTPUT -p tcp --tcp-flags RST RST -j ACCEPT",
     "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-A INPUT -i cni0 -j DROP"),
     ["node tcp 10.244.1.1:1000 > 10.244.1.5:80", "reply", "reply", "reply PA"], "local 10.244.1.5:80 > 10.244.1.1:1000 ttl 64"),
]  # fmt: skip

RULES6 = [
    ("v6 dnat", _DNAT6, ["eth0 tcp [fd00::99]:1000 > [fd00:96::1]:80", "reply"], "forward eth0 [fd00:96::1]:80 > [fd00::99]:1000 ttl 63"),
    ("v6 masquerade", _MASQUERADE, ["cni0 tcp [fd00:10:244:1::5]:1000 > [fd00:aaaa::1]:80"], "forward eth0 [fd00::11]:1000 > [fd00:aaaa::1]:80 ttl 63"),
    ("v6 reject", _table("filter", "-A FORWARD -j REJECT"), ["eth0 udp [fd00::99]:1000 > [fd00:10:244:1::5]:80"], "reject icmp 1/4 from fd00::11 to fd00::99"),
    ("v6 reset", _table("filter", "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset"), ["eth0 tcp [fd00::99]:1000 > [fd00:10:244:1::5]:80"],
     "reject tcp RA from fd00:10:244:1::5 to fd00::99"),
    ("v6 drop at output", _table("filter", "-A OUTPUT -j DROP"), ["node tcp [fd00::11]:1000 > [fd00:aaaa::1]:80"], "drop"),
    ("v6 mark", _table("mangle", "-A OUTPUT -j MARK --set-xmark 0x9/0xffffffff"), ["node tcp [fd00::11]:1000 > [fd00:aaaa::1]:80"],
     "forward eth0 [fd00::11]:1000 > [fd00:aaaa::1]:80 ttl 64 mark 0x9"),
]  # fmt: skip


@pytest.mark.parametrize("flavour", ["legacy", "nft"])
@pytest.mark.parametrize(("rules", "texts", "expected"), [row[1:] for row in PLAIN + RULES], ids=[row[0] for row in PLAIN + RULES])
def test_ipv4(rules: str, texts: list[str], expected: str, flavour: str) -> None:
    header = f"# Generated by iptables-save v1.8.9 ({'nf_tables' if flavour == 'nft' else 'legacy'})\n"
    assert _last(_node(header + rules if rules else ""), *texts) == expected


@pytest.mark.parametrize(("rules", "texts", "expected"), [row[1:] for row in RULES6], ids=[row[0] for row in RULES6])
def test_ipv6(rules: str, texts: list[str], expected: str) -> None:
    assert _last(_node(v6=rules), *texts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eth0 udp 192.168.0.99:1000 > 10.244.1.5:80", "reject icmp 11/0 from 192.168.0.11 to 192.168.0.99"),
        ("eth0 udp 192.168.0.99:1000 > 192.168.0.11:80", "local 192.168.0.99:1000 > 192.168.0.11:80 ttl 1"),
        ("eth0 udp [fd00::99]:1000 > [fd00:10:244:1::5]:80", "reject icmp 3/0 from fd00::11 to fd00::99"),
    ],
)
def test_ttl_of_one(text: str, expected: str) -> None:
    assert _last(_node(), text, ttl=1) == expected


@pytest.mark.parametrize(("value", "expected"), [("0", "forward"), ("1", "drop"), ("2", "forward")])
def test_rp_filter(value: str, expected: str) -> None:
    """The source lies behind eth0, the packet comes in by cni0."""
    snapshot = _node(sysctls={"net.ipv4.conf.cni0.rp_filter": value})
    assert _last(snapshot, "cni0 udp 10.1.1.1:1000 > 192.168.0.99:80").startswith(expected)


def test_sysctls_decide() -> None:
    forwarding_off = _node(sysctls={"net.ipv4.ip_forward": "0"})
    assert _last(forwarding_off, "eth0 udp 192.168.0.99:1000 > 10.244.1.5:80") == "drop"
    localnet = _node(_table("nat", "-A PREROUTING -j DNAT --to-destination 127.0.0.1"), sysctls={"net.ipv4.conf.all.route_localnet": "1"})
    assert _last(localnet, "eth0 udp 192.168.0.99:1000 > 192.168.0.11:80") == "local 192.168.0.99:1000 > 127.0.0.1:80 ttl 64"


def test_every_routing_error_is_told() -> None:
    """ip_error() would tell a source of five."""
    packets = [Packet(n, "cni0", _POD4, "172.16.1.1", "udp", 1000 + n, 53) for n in range(50)]
    assert {told(line["outcomes"][0]) for line in kernel_lines(_node(), packets)} == {f"reject icmp 3/1 from 10.244.1.1 to {_POD4}"}


def test_fresh_forgets_and_sequence_does_not() -> None:
    rules = _table("filter", "-A FORWARD -m conntrack --ctstate NEW -j ACCEPT", "-A FORWARD -i eth0 -j DROP")
    texts = ["eth0 udp 192.168.0.99:1000 > 10.244.1.5:80", "reply", "eth0 udp 192.168.0.99:1000 > 10.244.1.5:80"]
    assert _last(_node(rules), *texts) == "drop"
    assert _last(_node(rules), *texts, mode="fresh").startswith("forward")


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -m recent --set --name seen -m recent ! --rcheck --hitcount 2 --name seen -j ACCEPT",
        "-A FORWARD -m limit --limit 1/hour --limit-burst 1 -j ACCEPT",
        "-A FORWARD -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-name h -j ACCEPT",
        "-A FORWARD -m statistic --mode nth --every 2 --packet 0 -j ACCEPT",
        "-A FORWARD -m quota --quota 28 -j ACCEPT",
        "-A FORWARD -m set ! --match-set seen src -j SET --add-set seen src\n-A FORWARD -m conntrack --ctstate NEW -m set --match-set twice src -j DROP",
    ],
)
def test_fresh_forgets_what_rules_remember(rule: str) -> None:
    snapshot = _node(_table("filter", *rule.splitlines(), "-A FORWARD -p udp -j DROP"), ipset="create seen hash:ip\ncreate twice hash:ip\n")
    packets = [Packet(n, "eth0", _OUT4, _POD4, "udp", 1000 + n, 53) for n in range(3)]
    fresh = [line["outcomes"][0]["verdict"] for line in kernel_lines(snapshot, packets, "fresh")]
    assert len(set(fresh)) == 1
    if "SET" not in rule:
        assert fresh[0] == "forward"
        assert kernel_lines(snapshot, packets)[1]["outcomes"][0]["verdict"] == "drop"


def test_known_connections_are_known() -> None:
    known = (
        "ipv4     2 tcp      6 431990 ESTABLISHED src=192.168.0.99 dst=10.96.0.9 sport=5555 dport=53 "
        "src=10.244.1.5 dst=10.244.1.1 sport=53 dport=7777 [ASSURED] mark=0 use=1\n"
        "ipv4     2 udp      17 29 src=192.168.0.99 dst=10.96.0.1 sport=5555 dport=80 [UNREPLIED] "
        "src=10.96.0.1 dst=192.168.0.99 sport=80 dport=5555 mark=0 use=1\n"
    )
    snapshot = _node(_DNAT, conntrack=known)
    assert _last(snapshot, "eth0 tcp 192.168.0.99:5555 > 10.96.0.9:53 A") == "forward cni0 10.244.1.1:7777 > 10.244.1.5:53 ttl 63"
    assert _last(snapshot, "eth0 tcp 192.168.0.99:5555 > 10.96.0.9:53 A", "reply") == "forward eth0 10.96.0.9:53 > 192.168.0.99:5555 ttl 63"
    assert _last(snapshot, "eth0 udp 192.168.0.99:5555 > 10.96.0.1:80", mode="fresh").startswith("forward eth0 192.168.0.99:5555 > 10.96.0.1:80")


def test_watching_does_not_start_connection_tracking() -> None:
    with standing(_node()) as node:
        referee = Referee(node)
        referee.send([packet("eth0 tcp 192.168.0.99:1000 > 10.244.1.5:80")])
        referee.close()
        assert node.inside.run("cat", "/proc/net/nf_conntrack") == ""


def test_a_reply_to_a_dropped_packet_is_not_sent() -> None:
    snapshot = _node(_table("filter", "-A FORWARD -j DROP"))
    lines = kernel_lines(snapshot, [packet("eth0 udp 192.168.0.99:1000 > 10.244.1.5:80"), Packet(2, reply_to=1)])
    assert lines[1] == {"id": 2, "outcomes": []}


def test_the_node_is_what_the_snapshot_says() -> None:
    with standing(_node(sysctls={"net.ipv4.conf.eth0.rp_filter": "2"})) as node:
        assert node.sysctl("net.ipv4.conf.eth0.rp_filter") == "2"
        assert node.unset == []
        assert node.links == {1: "lo", 2: "eth0", 3: "cni0"}
        assert "02:00:00:00:01:03" in node.inside.run("ip", "link", "show", "cni0")
        assert "fe80" not in node.inside.run("ip", "-6", "addr")


def test_many_packets_do_not_mix_each_other_up() -> None:
    packets = [Packet(n, "eth0", _OUT4, f"10.244.1.{2 + n % 200}", "udp", 2000 + n, 53) for n in range(3000)]
    for mine, line in zip(packets, kernel_lines(_node(), packets), strict=True):
        seen = line["outcomes"][0]["packet"]
        assert seen is not None and (seen["dst"], seen["sport"]) == (mine.dst, mine.sport)

"""Matches, targets and ip sets against the kernel: rules without a target only count, so one packet asks a whole chain of them.

A node with eth0 (192.168.0.11/24, fd00::11/64) and cni0 (10.244.1.1/24, fd00:10:244:1::1/64) stands in a namespace. Every packet
is put on the far end of eth0; which rules counted it is compared with which rules the emulator's walk says matched. What depends
on time runs by the same clock in both, with moments that leave room for a slow machine.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest

from dataplane.adapters.scapy import from_scapy
from dataplane.engine.matches import MATCHES
from dataplane.engine.netns import Netns as Emulated
from dataplane.errors import ParseError
from dataplane.packet import Packet, TcpOptions
from dataplane.text.ipset import parse_save as parse_sets
from dataplane.text.iptables import parse_rule, parse_save
from tests.engine import test_matches_header, test_matches_origin, test_matches_transport
from tests.engine.lab import node
from tests.kernel.world import Netns, write_sysctl

scapy = pytest.importorskip("scapy.all")
pytestmark = pytest.mark.usefixtures("kernel")

MAC: Final = "02:00:00:00:00:01"
Place = tuple[int, str, str, int]  # family, table, chain, number
_COUNTED: Final = re.compile(r"\[(\d+):\d+\] -A (\S+)")
_TOOL: Final = {4: "iptables", 6: "ip6tables"}
#: Counts everything that arrives, so that it is known when the kernel has begun with it.
_SENTRY: Final = "*raw\n-A PREROUTING\nCOMMIT\n"


class Node:
    """The node on the kernel and in the emulator, with the same rules and sets; time runs in both."""

    def __init__(self, inside: Netns, outside: Netns, rules4: str, rules6: str, sets: str) -> None:
        self._inside = inside
        if sets:
            inside.run("ipset", "restore", text=sets)
        for family, text in ((4, rules4), (6, rules6)):
            inside.run(f"{_TOOL[family]}-legacy-restore", text=_SENTRY + text)
        state = replace(
            node().state, iptables=parse_save(_SENTRY + rules4, 4).xtables, ip6tables=parse_save(_SENTRY + rules6, 6).xtables,
            ipsets=parse_sets(sets), routes4=None, routes6=None,
        )  # fmt: skip
        self.emulated = Emulated(state)
        self._began = time.monotonic()
        self._wire = outside.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._seen = self._counters()

    def receive(self, frame: Any, **fields: Any) -> tuple[set[Place], set[Place]]:  # Any: scapy's
        """The rules that counted a packet: the kernel's, and the emulator's."""
        packet = replace(from_scapy(frame), **fields)
        self.emulated.kernel.now = time.monotonic() - self._began
        ethernet = scapy.Ether(src=MAC, dst=_mac_of(packet), type=0x0800 if packet.family == 4 else 0x86DD)
        self._wire.sendto(bytes(ethernet / frame), ("p0", 0))
        trace = self.emulated.receive(packet, "eth0", mac=int(MAC.replace(":", ""), 16))
        return self._counted(), {tuple(event.ref) for event in trace.rules()}  # type: ignore[misc]  # a Place

    def close(self) -> None:
        self._wire.close()

    def _counters(self) -> dict[Place, int]:
        found: dict[Place, int] = {}
        for family, tool in _TOOL.items():
            table, numbers = "", dict[str, int]()
            for line in self._inside.run(f"{tool}-legacy-save", "-c").splitlines():
                if line.startswith("*"):
                    table, numbers = line[1:], {}
                elif match := _COUNTED.match(line):
                    numbers[match[2]] = numbers.get(match[2], 0) + 1
                    found[family, table, match[2], numbers[match[2]]] = int(match[1])
        return found

    def _counted(self) -> set[Place]:
        """What has changed, once something has and nothing does any more."""
        now, last = self._counters(), dict[Place, int]()
        for _ in range(20):
            if now == last and any(now[family, "raw", "PREROUTING", 1] > self._seen[family, "raw", "PREROUTING", 1] for family in (4, 6)):
                break
            now, last = self._counters(), now
        before, self._seen = self._seen, now
        return {place for place, count in now.items() if count > before[place]}


def _mac_of(packet: Packet) -> str:
    if packet.family == 4 and packet.daddr >> 28 == 0xE:
        return f"01:00:5e:{packet.daddr >> 16 & 0x7F:02x}:{packet.daddr >> 8 & 0xFF:02x}:{packet.daddr & 0xFF:02x}"
    if packet.family == 6 and packet.daddr >> 120 == 0xFF:
        return "33:33:" + ":".join(f"{packet.daddr >> shift & 0xFF:02x}" for shift in (24, 16, 8, 0))
    return "ff:ff:ff:ff:ff:ff" if packet.daddr in (0xFFFFFFFF, 0xC0A800FF) and packet.family == 4 else "02:00:00:00:00:11"


_SETUP: Final = """link set lo up
link add eth0 address 02:00:00:00:00:11 type veth peer name p0 netns {path}
link add cni0 address 02:00:00:00:00:12 type veth peer name p1 netns {path}
link set eth0 up
link set cni0 up
addr add 192.168.0.11/24 brd + dev eth0
addr add 10.244.1.1/24 brd + dev cni0
addr add fd00::11/64 dev eth0 nodad
addr add fd00:10:244:1::1/64 dev cni0 nodad
"""


@contextmanager
def standing(rules4: str = "", rules6: str = "", sets: str = "") -> Iterator[Node]:
    with ExitStack() as stack:
        inside, outside = stack.enter_context(Netns()), stack.enter_context(Netns())
        with inside.inside():
            for key, value in (
                ("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1"), ("net.ipv6.conf.default.accept_dad", "0"),
                ("net.ipv6.conf.default.addr_gen_mode", "1"), ("net.ipv6.conf.default.router_solicitations", "0"),
            ):  # fmt: skip
                write_sysctl(key, value)
        with outside.inside():
            write_sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        inside.run("ip", "-batch", "-", text=_SETUP.format(path=outside.path))
        outside.run("ip", "-batch", "-", text="link set p0 up\nlink set p1 up\n")
        made = Node(inside, outside, rules4, rules6, sets)
        stack.callback(made.close)
        yield made


def agree(asked: tuple[set[Place], set[Place]], rules: Sequence[str], what: str) -> None:
    kernel, emulated = asked
    wrong = sorted(place for place in kernel ^ emulated if place[1] != "raw" and place[2] in ("PREROUTING", "FORWARD", "INPUT"))
    told = [f"{place}: {'kernel' if place in kernel else 'emulator'} only: {_rule_of(rules, place)}" for place in wrong]
    assert not wrong, "\n".join([what, *told])


def _rule_of(rules: Sequence[str], place: Place) -> str:
    return [rule for rule in rules if rule.startswith(f"-A {place[2]}")][place[3] - 1]


def table(rules: Sequence[str]) -> str:
    return "\n".join(["*mangle", *rules, "COMMIT", ""])


def readable(text: str, family: int) -> bool:
    """Whether the option table has rows for all of a rule, and the rule is one of this family."""
    try:
        matches = parse_rule(f"-A PREROUTING {text}", family)[0][1].matches
    except ParseError:
        return False
    return all(match.verbatim is None and match.name in MATCHES for match in matches)


# ---------------------------------------------------------------------- packets


def tcp(flags: str = "S", *, sport: int = 40000, dport: int = 80, **options: Any) -> Any:
    return scapy.TCP(sport=sport, dport=dport, flags=flags, **options)


def udp(dport: int = 53, *, sport: int = 40000) -> Any:
    return scapy.UDP(sport=sport, dport=dport)


def v4(layer: Any = None, *, src: str = "192.0.2.1", dst: str = "10.244.1.9", **fields: Any) -> Any:
    return scapy.IP(src=src, dst=dst, **fields) / (layer if layer is not None else tcp())


def v6(layer: Any = None, *, src: str = "2001:db8::1", dst: str = "fd00:10:244:1::9", **fields: Any) -> Any:
    return scapy.IPv6(src=src, dst=dst, **fields) / (layer if layer is not None else tcp())


def sctp(*chunks: int) -> Any:
    return scapy.SCTP(sport=40000, dport=9, tag=1) / scapy.Raw(b"".join(bytes((kind, 0, 0, 16)) + bytes(12) for kind in chunks))


def zoo4() -> Iterator[Any]:
    for flags in ("S", "SA", "FA", "FRA", "SEC", "", "A", "RA"):
        yield v4(tcp(flags))
    for port in (22, 53, 79, 81, 82, 443):
        yield v4(tcp(dport=port))
        yield v4(udp(port))
    yield v4(tcp(sport=40001))
    for options in ([("MSS", 1460)], [("MSS", 1420), ("WScale", 7)], [("Timestamp", (1, 0)), ("SAckOK", b"")], [(19, b"x" * 16)]):
        yield v4(tcp(options=options))
    for tos in (0x10, 0x50, 0xB8, 0xB9, 0xBA, 0xFF):
        yield v4(tos=tos)
    for ttl in (2, 63, 65, 255):
        yield v4(ttl=ttl)
    for size in (1, 20, 21, 100):
        yield v4(tcp("A") / (b"x" * size))
    for kind, code in ((8, 0), (0, 0), (3, 3), (3, 4), (13, 0), (5, 1)):
        yield v4(scapy.ICMP(type=kind, code=code))
    for chunks in ((1,), (10, 0), (10, 3), (10,), (0, 0), (193,), (3, 0, 10)):
        yield v4(sctp(*chunks))
    for source in ("192.0.2.9", "192.0.2.10", "192.0.3.1"):
        yield v4(src=source)
    for protocol in (33, 47, 50, 51, 136):
        yield v4(scapy.Raw(b"\x9c\x40\x00\x50" + b"\0\0\0\7" * 5), proto=protocol)
    yield v4(udp() / (b"x" * 40), flags="MF")
    yield v4(scapy.Raw(b"x" * 40), proto=17, frag=5)


def zoo6() -> Iterator[Any]:
    hop, destination = (kind(options=scapy.PadN(optdata=bytes(4))) for kind in (scapy.IPv6ExtHdrHopByHop, scapy.IPv6ExtHdrDestOpt))
    for flags in ("S", "SA", "A"):
        yield v6(tcp(flags))
    yield v6(tcp(dport=81))
    yield v6(udp())
    for kind in (128, 129, 1, 255):
        yield v6(scapy.ICMPv6Unknown(type=kind, code=0, msgbody=bytes(44)))
    for limit in (2, 63, 255):
        yield v6(hlim=limit)
    for tos in (0xB8, 0x03, 0x10):
        yield v6(tc=tos)
    yield v6(hop / tcp())
    yield v6(destination / tcp())
    yield v6(hop / destination / tcp())
    yield v6(scapy.IPv6ExtHdrFragment(offset=0, m=1, id=5, nh=17) / udp() / (b"x" * 32))
    yield v6(scapy.IPv6ExtHdrFragment(offset=5, m=0, id=10, nh=17) / scapy.Raw(b"x" * 32))
    yield v6(scapy.Raw(), nh=59)
    yield v6(src="2001:db8::aaaa")
    yield v6(scapy.Raw(b"\0\0\0\7" * 4), nh=50)


def more_of(frame: Any) -> dict[str, Any]:
    """What scapy's dissection does not tell of a packet, read from its bytes."""
    packet = from_scapy(frame)
    data = bytes(frame)[20 if packet.family == 4 else 40 :]
    if packet.fragment_offset:
        return {}
    if packet.protocol in (33, 136):
        return {"sport": 40000, "dport": 80}
    if packet.protocol in (50, 51):
        start = 0 if packet.protocol == 50 else 4
        return {"spi": int.from_bytes(data[start : start + 4], "big")}
    if packet.protocol == 132:
        return {"sctp_chunks": tuple(data[12::16])}
    if packet.protocol == 58:
        return {"icmp_type": data[0]}
    return {"tcp_options": TcpOptions(other=(19,))} if packet.protocol == 6 and data[20:21] == b"\x13" else {}


# ---------------------------------------------------------------------- headers, addresses


HEADERS: Final = [row[0] for row in (*test_matches_transport.ROWS, *test_matches_header.ROWS)]


@pytest.mark.parametrize("family", [4, 6])
def test_every_rule_of_the_unit_tests_meets_every_packet(family: int) -> None:
    rules = [f"-A PREROUTING {text}" for text in dict.fromkeys(HEADERS) if readable(text, family)]
    with standing(**{f"rules{family}": table(rules)}) as one:
        one.emulated.kernel.assume = True  # what a header has inside: --hbh-len, --rt-type
        for frame in zoo4() if family == 4 else zoo6():
            agree(one.receive(frame, **more_of(frame)), rules, frame.summary())


def test_later_fragments_of_tcp() -> None:
    """-m tcpmss and ecn would read the fragment's data."""
    chosen = [text for text in dict.fromkeys(HEADERS) if readable(text, 4) and not re.search("tcpmss|ecn-tcp", text)]
    rules = [f"-A PREROUTING {text}" for text in chosen]
    with standing(table(rules)) as one:
        for offset in (1, 2, 185):
            frame = v4(scapy.Raw(bytes(40)), proto=6, frag=offset)
            agree(one.receive(frame), rules, frame.summary())


@pytest.mark.parametrize(
    ("rule", "protocol"),
    [
        ("-p tcp -m tcp --dport 80", 6),
        ("-p udp -m udp --dport 80", 17),
        ("-p tcp -m multiport --dports 80", 6),
        ("-p sctp -m sctp --dport 80", 132),
        ("-p icmp -m icmp --icmp-type 8", 1),
    ],
)
def test_what_is_too_short_is_dropped_on_the_spot(rule: str, protocol: int) -> None:
    rules = [f"-A PREROUTING {rule}", "-A PREROUTING"]
    with standing(table(rules)) as one:
        for size in range(22):
            agree(one.receive(v4(scapy.Raw(bytes(size)), proto=protocol)), rules, f"{size} bytes")


@pytest.mark.parametrize("family", [4, 6])
def test_kinds_of_address(family: int) -> None:
    given = {row[0] for row in test_matches_origin.ADDRESSES if (":" in row[1]) == (family == 6)}
    names = ("LOCAL", "UNICAST", "MULTICAST", "ANYCAST", "UNREACHABLE", "UNSPEC", *(() if family == 6 else ("BROADCAST", "BLACKHOLE")))
    given |= {f"{bang}--{side}-type {name}" for bang in ("", "! ") for side in ("src", "dst") for name in names}
    rules = [f"-A {chain} -m addrtype {text}" for text in sorted(given) for chain in ("PREROUTING", "FORWARD", "INPUT")]
    rules = [rule for rule in rules if "limit-iface-out" not in rule or "FORWARD" in rule]
    ends4 = ("192.168.0.11", "192.168.0.12", "192.168.0.255", "192.168.0.0", "10.244.1.9", "10.244.1.255", "224.0.0.1", "255.255.255.255",
             "127.0.0.1", "198.51.100.1", "0.0.0.0", "240.0.0.1")  # fmt: skip
    ends6 = ("fd00::11", "fd00::12", "fd00::", "fd00:10:244:1::9", "fd00:10:244:1::", "ff02::1", "ff05::7", "::1", "2001:db8::9", "::",
             "::ffff:10.244.1.9", "fe80::1")  # fmt: skip
    make = v4 if family == 4 else v6
    with standing(**{f"rules{family}": table(rules)}) as one:
        for end in ends4 if family == 4 else ends6:
            for frame in (make(dst=end), make(src=end)):
                agree(one.receive(frame), rules, frame.summary())


def test_senders_and_kinds_of_packets() -> None:
    texts = (
        "-m mac --mac-source 02:00:00:00:00:01", "-m mac ! --mac-source 02:00:00:00:00:01", "-m mac --mac-source 02:00:00:00:00:02",
        *(f"-m pkttype {bang}--pkt-type {kind}" for bang in ("", "! ") for kind in ("unicast", "broadcast", "multicast")),
        *(f"-m physdev {bang}--physdev-{what}" for bang in ("", "! ") for what in ("in eth0", "is-in", "is-bridged")),
        "-m mark --mark 0", "-m mark ! --mark 0/0xff", "-m mark --mark 5",
        *(f"-m rpfilter {what}" for what in ("", "--loose", "--invert", "--accept-local", "--validmark --loose")),
    )  # fmt: skip
    rules = [f"-A PREROUTING {text}" for text in texts]
    with standing(table(rules)) as one:
        for end in ("10.244.1.9", "192.168.0.11", "192.168.0.255", "255.255.255.255", "224.0.0.1"):
            for source in ("192.0.2.1", "192.168.0.7", "10.244.1.7", "192.168.0.11", "0.0.0.0"):
                frame = v4(udp(), src=source, dst=end)
                agree(one.receive(frame), rules, frame.summary())

"""A node of which one packet asks a whole chain: rules without a target only count, and the counters tell which of them matched.

It has eth0 (192.168.0.11/24, fd00::11/64) and cni0 (10.244.1.1/24, fd00:10:244:1::1/64) and stands in a namespace and in the emulator
with the same rules and sets. Time runs by one clock in both. Knows nothing of particular matches.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from scapy.all import IP, SCTP, TCP, UDP, Ether, IPv6, Raw

from dataplane.adapters.lab.netns import Netns, write_sysctl
from dataplane.adapters.scapy import from_scapy
from dataplane.engine.netns import Netns as Emulated
from dataplane.errors import ParseError
from dataplane.packet import Packet
from dataplane.text.ipset import parse_save as parse_sets
from dataplane.text.iptables import parse_rule, parse_save
from tests.engine.lab import node

MAC: Final = "02:00:00:00:00:01"
Place = tuple[int, str, str, int]  # family, table, chain, number
_COUNTED: Final = re.compile(r"\[(\d+):\d+\] -A (\S+)")
_TOOL: Final = {4: "iptables", 6: "ip6tables"}
_MACS: Final = {"eth0": "02:00:00:00:00:11", "cni0": "02:00:00:00:00:12"}


class Node:
    """The node on the kernel and in the emulator, with the same rules and sets; time runs in both."""

    def __init__(self, inside: Netns, outside: Netns, rules4: str, rules6: str, sets: str) -> None:
        self._inside = inside
        if sets:
            inside.run("ipset", "restore", text=sets)
        texts = {family: _guarded(text) for family, text in ((4, rules4), (6, rules6))}
        for family, text in texts.items():
            inside.run(f"{_TOOL[family]}-legacy-restore", text=text)
        plain = node().state
        state = plain._replace(iptables=parse_save(texts[4], 4).xtables, ip6tables=parse_save(texts[6], 6).xtables, ipsets=parse_sets(sets),
            routes4=None, routes6=None, links=tuple(link._replace(mac=_MACS.get(link.name)) for link in plain.links),
        )  # fmt: skip
        self.emulated = Emulated(state)
        self._began = time.monotonic()
        self._wire = outside.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._moment = 0.0
        self._seen = self._counters()

    def receive(self, frame: Any, dev: str = "eth0", **fields: Any) -> tuple[set[Place], set[Place]]:  # Any: scapy's
        """The rules that counted a packet: the kernel's, and the emulator's."""
        packet = from_scapy(frame)._replace(**fields)
        self.emulated.kernel.now = self._moment or time.monotonic() - self._began
        ethernet = Ether(src=MAC, dst=_mac_of(packet, dev), type=0x0800 if packet.family == 4 else 0x86DD)
        self._wire.sendto(bytes(ethernet / frame), ("p0" if dev == "eth0" else "p1", 0))
        trace = self.emulated.receive(packet, dev, mac=int(MAC.replace(":", ""), 16))
        return self._counted(), {tuple(event.ref) for event in trace.rules()}  # type: ignore[misc]  # a Place

    def wait_until(self, moment: float) -> None:
        """Real time goes on to a moment (seconds since the node stands), at which virtual time then stays."""
        if self._moment == 0.0:
            self._began = time.monotonic()
        time.sleep(max(0.0, self._began + moment - time.monotonic()))
        self._moment = moment + 1e-9

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


def _guarded(rules: str) -> str:
    """The rules behind one that counts everything that arrives, so that it is known when the kernel has begun with it."""
    if "*raw\n" in rules:
        return rules.replace("*raw\n", "*raw\n-A PREROUTING\n")
    return f"*raw\n-A PREROUTING\nCOMMIT\n{rules}"


def _mac_of(packet: Packet, dev: str) -> str:
    if packet.family == 4 and packet.daddr >> 28 == 0xE:
        return f"01:00:5e:{packet.daddr >> 16 & 0x7F:02x}:{packet.daddr >> 8 & 0xFF:02x}:{packet.daddr & 0xFF:02x}"
    if packet.family == 6 and packet.daddr >> 120 == 0xFF:
        return "33:33:" + ":".join(f"{packet.daddr >> shift & 0xFF:02x}" for shift in (24, 16, 8, 0))
    if packet.daddr in (0xFFFFFFFF, 0xC0A800FF) and packet.family == 4:
        return "ff:ff:ff:ff:ff:ff"
    return _MACS[dev]


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
        rule = parse_rule(f"-A PREROUTING {text}", family)[0][1]
    except ParseError:
        return False
    return all(one is None or getattr(one, "verbatim", None) is None for one in (*rule.matches, rule.target))


# ---------------------------------------------------------------------- packets


def tcp(flags: str = "S", *, sport: int = 40000, dport: int = 80, **options: Any) -> Any:
    return TCP(sport=sport, dport=dport, flags=flags, **options)


def udp(dport: int = 53, *, sport: int = 40000) -> Any:
    return UDP(sport=sport, dport=dport)


def v4(layer: Any = None, *, src: str = "192.0.2.1", dst: str = "10.244.1.9", **fields: Any) -> Any:
    return IP(src=src, dst=dst, **fields) / (layer if layer is not None else tcp())


def v6(layer: Any = None, *, src: str = "2001:db8::1", dst: str = "fd00:10:244:1::9", **fields: Any) -> Any:
    return IPv6(src=src, dst=dst, **fields) / (layer if layer is not None else tcp())


def sctp(*chunks: int) -> Any:
    return SCTP(sport=40000, dport=9, tag=1) / Raw(b"".join(bytes((kind, 0, 0, 16)) + bytes(12) for kind in chunks))

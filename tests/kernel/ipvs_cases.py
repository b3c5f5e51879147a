"""Small nodes with virtual servers of every kind, and conversations with them: what the kernel is asked about IPVS."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.adapters.lab.lines import Packet
from dataplane.inet import parse_address
from dataplane.rules.iptables import Xtables
from dataplane.rules.network import Address, Link
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text.ipvsadm import parse_save

VIP, VIP6 = "10.96.0.20", "fd00:c::20"
CLIENT, CLIENT6 = "192.168.0.7", "fd00:a::7"


def link(index: int, name: str, *addresses: str, kind: str | None = None) -> Link:
    flags = ("BROADCAST", "NOARP") if kind else ("BROADCAST", "MULTICAST", "UP", "LOWER_UP")
    found = []
    for text in addresses:
        host, length = text.split("/")
        family, value = parse_address(host)
        found.append(Address(family, value, int(length)))
    return Link(index, name, flags, addresses=tuple(found), kind=kind, mac=f"02:00:00:00:00:{index:02x}")


LINKS = (
    LOOPBACK, link(2, "eth0", "192.168.0.11/24", "fd00:a::11/64"), link(3, "eth1", "10.244.1.1/24", "fd00:b::1/64"),
    link(4, "vs0", f"{VIP}/32", f"{VIP6}/128", kind="dummy"),
)  # fmt: skip
FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv6.conf.default.forwarding": "1"}


def node(servers: str, iptables: Xtables | None = None, **sysctls: str) -> NodeState:
    """A router between clients (eth0) and real servers (eth1), the virtual servers' addresses on a dummy that is down."""
    values = {**FORWARDING, **{f"net.ipv4.vs.{key}": value for key, value in sysctls.items()}}
    return NodeState(links=LINKS, ipvs=parse_save(servers), sysctls=values, iptables=iptables or Xtables(4))


def virtual(servers: int = 2, *, method: str = "-m", scheduler: str = "rr", kind: str = "-t", options: str = "", vip: str = VIP, port: int = 80) -> str:
    """One virtual server with real servers .5, .6 …"""
    bracket, prefix = (("[{}]", "fd00:b::") if ":" in vip else ("{}", "10.244.1."))
    address = bracket.format(vip)
    text = f"-A {kind} {address}:{port} -s {scheduler}{options}\n"
    real = 8080 if method == "-m" else port
    for number in range(servers):
        text += f"-a {kind} {address}:{port} -r {bracket.format(f'{prefix}{5 + number}')}:{real} {method} -w 1\n"
    return text


class Talk:
    """Packets with numbers of their own."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def say(self, **fields: object) -> int:
        """One packet; its number."""
        self.packets.append(Packet(id=len(self.packets) + 1, **fields))  # type: ignore[arg-type]
        return len(self.packets)

    def tcp(self, src: str, dst: str, sport: int, dport: int = 80, indev: str | None = "eth0", turns: str = "S SA A A F FA A R") -> int:
        """A connection's packets: the client's and, by turns, the real server's."""
        flags = turns.split()
        first = last = self.say(indev=indev, src=src, dst=dst, proto="tcp", sport=sport, dport=dport, flags=flags[0])
        for number, one in enumerate(flags[1:], 1):
            if number % 2:
                last = self.say(reply_to=first, flags=one)
            else:
                self.say(indev=indev, src=src, dst=dst, proto="tcp", sport=sport, dport=dport, flags=one)
        return last

    def ask(self, proto: str, src: str, dst: str, sport: int, dport: int = 80, indev: str | None = "eth0", **fields: object) -> int:
        """One packet and its answer."""
        first = self.say(indev=indev, src=src, dst=dst, proto=proto, sport=sport, dport=dport, **fields)
        self.say(reply_to=first)
        return first


def cases() -> Iterator[tuple[str, NodeState, list[Packet]]]:
    """Name, node, packets."""
    for conntrack in ("0", "1"):
        for method in ("-m", "-g", "-i"):
            talk = Talk()
            for sport in range(40000, 40003):
                talk.tcp(CLIENT, VIP, sport)
                talk.tcp("192.168.0.11", VIP, sport + 100, indev=None)
            talk.tcp(CLIENT, VIP, 40000, turns="S SA A")
            talk.say(indev="eth0", src=CLIENT, dst=VIP, proto="tcp", sport=40050, dport=80, flags="A")
            talk.say(indev="eth0", src=CLIENT, dst=VIP, proto="tcp", sport=40051, dport=81)
            talk.say(indev="eth0", src=CLIENT, dst=VIP, proto="icmp", sport=7)
            talk.say(indev=None, src="127.0.0.1", dst=VIP, proto="tcp", sport=40052, dport=80)
            yield f"tcp{method} conntrack={conntrack}", node(virtual(method=method), conntrack=conntrack), talk.packets

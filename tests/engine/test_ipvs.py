"""IPVS: a virtual server's requests and replies, its connections, and what the node does where there is no real server."""

from __future__ import annotations

import pytest

from dataplane.engine.choices import Scripted
from dataplane.engine.netns import Netns
from dataplane.inet import format_endpoint, parse_address
from dataplane.packet_text import parse_packet
from dataplane.rules.network import Address, Link
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text.ipvsadm import parse_save
from dataplane.trace import IPVSEvent, Trace

VIP = "10.96.0.20"


def link(index: int, name: str, *addresses: str, flags: tuple[str, ...] = ("UP", "LOWER_UP")) -> Link:
    found = []
    for text in addresses:
        host, length = text.split("/")
        family, value = parse_address(host)
        found.append(Address(family, value, int(length)))
    return Link(index, name, flags, addresses=tuple(found))


def node(servers: str, **sysctls: str) -> Netns:
    """A router between clients (eth0) and real servers (eth1) with the virtual servers' addresses on a dummy."""
    links = (
        LOOPBACK, link(2, "eth0", "192.168.0.11/24", "fd00:a::1/64"), link(3, "eth1", "10.244.1.1/24", "fd00:b::1/64"),
        link(4, "vs0", f"{VIP}/32", "fd00:c::1/128", flags=("BROADCAST", "NOARP")),
    )  # fmt: skip
    values = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", **{f"net.ipv4.vs.{key}": value for key, value in sysctls.items()}}
    return Netns(NodeState(links=links, ipvs=parse_save(servers), sysctls=values))


def walk(netns: Netns, packet: str, dev: str = "eth0") -> Trace:
    """The first alternative of each choice: rr begins at the head of the list, which is the real server added last."""
    return netns.receive(parse_packet(packet).packet, dev, choices=Scripted())


def came_to(trace: Trace) -> str:
    packet = trace.packet
    ends = (format_endpoint(packet.family, *end) for end in ((packet.saddr, packet.sport), (packet.daddr, packet.dport)))
    return f"{trace.verdict} {trace.oif} {' > '.join(ends)} ttl {packet.ttl}"


MASQ = f"-A -t {VIP}:80 -s rr\n-a -t {VIP}:80 -r 10.244.1.5:8080 -m -w 1\n-a -t {VIP}:80 -r 10.244.1.6:8080 -m -w 1\n"


@pytest.mark.parametrize("conntrack", ["0", "1"])
def test_a_request_goes_to_a_real_server_and_its_reply_comes_from_the_virtual_one(conntrack: str) -> None:
    netns = node(MASQ, conntrack=conntrack)
    assert came_to(walk(netns, f"tcp 192.168.0.7:40000 > {VIP}:80")) == "forward eth1 192.168.0.7:40000 > 10.244.1.6:8080 ttl 63"
    reply = walk(netns, "tcp 10.244.1.6:8080 > 192.168.0.7:40000 [flags SA]", "eth1")
    assert came_to(reply) == f"forward eth0 {VIP}:80 > 192.168.0.7:40000 ttl 63"
    assert came_to(walk(netns, f"tcp 192.168.0.7:40001 > {VIP}:80")) == "forward eth1 192.168.0.7:40001 > 10.244.1.5:8080 ttl 63"
    assert [str(conn) for conn in netns.ipvs.table] == [
        f"TCP SYN_RECV    192.168.0.7:40000 {VIP}:80 10.244.1.6:8080", f"TCP SYN_RECV    192.168.0.7:40001 {VIP}:80 10.244.1.5:8080",
    ]  # fmt: skip


def test_without_real_servers_the_client_is_told() -> None:
    trace = walk(node(f"-A -t {VIP}:80 -s rr\n"), f"tcp 192.168.0.7:40000 > {VIP}:80")
    assert trace.verdict == "reject"
    assert trace.reply is not None
    assert (trace.reply.icmp_type, trace.reply.icmp_code, trace.reply.saddr) == (3, 3, parse_address(VIP)[1])
    assert any(isinstance(event, IPVSEvent) and event.what == "refused" for event in trace.events)


def test_all_possible_real_servers_are_outcomes_and_leave_the_state_alone() -> None:
    netns = node(MASQ)
    packet = parse_packet(f"tcp 192.168.0.7:40000 > {VIP}:80").packet
    found = list(netns.outcomes(packet, "eth0"))
    assert [(str(probability), came_to(trace).split()[4]) for probability, trace in found] == [("1/2", "10.244.1.6:8080"), ("1/2", "10.244.1.5:8080")]
    assert list(netns.ipvs.table) == []
    other = netns.fork()
    walk(other, f"tcp 192.168.0.7:40000 > {VIP}:80")
    assert (len(list(other.ipvs.table)), len(list(netns.ipvs.table))) == (1, 0)

"""The packet path: where a packet ends, by which device it leaves, and what the node answers."""

import pytest

from dataplane.inet import format_address
from dataplane.trace import HookEvent
from tests.engine.lab import node, packet

FATES = [
    # (packet, in, verdict, out, answer)
    ("udp 192.168.0.50:1 > 10.244.1.5:53", "eth0", "forward", "cni0", None),
    ("udp 192.168.0.50:1 > 192.168.0.11:53", "eth0", "local", None, None),
    ("udp 192.168.0.50:1 > 10.244.1.1:53", "eth0", "local", None, None),
    ("udp 192.168.0.50:1 > 10.9.0.1:53", "eth0", "reject", None, ("192.168.0.11", 3, 1)),
    ("udp 192.168.0.50:1 > 10.8.0.1:53", "eth0", "reject", None, ("192.168.0.11", 3, 13)),
    ("udp 192.168.0.50:1 > 10.7.0.1:53", "eth0", "drop", None, None),
    ("udp 127.0.0.1:1 > 10.244.1.5:53", "eth0", "drop", None, None),
    ("udp 192.168.0.50:1 > 127.0.0.1:53", "eth0", "drop", None, None),
    ("udp 192.168.0.11:1 > 10.244.1.5:53", "eth0", "drop", None, None),
    ("udp 224.0.0.5:1 > 10.244.1.5:53", "eth0", "drop", None, None),
    ("udp 192.168.0.50:1 > 224.0.0.1:53", "eth0", "local", None, None),
    ("udp 192.168.0.50:1 > 192.168.0.255:53", "eth0", "local", None, None),
    ("udp 192.168.0.11:1 > 8.8.8.8:53", None, "forward", "eth0", None),
    ("udp 192.168.0.11:1 > 10.244.1.1:53", None, "local", None, None),
    ("udp 127.0.0.1:1 > 127.0.0.1:53", None, "local", None, None),
    ("udp 127.0.0.1:1 > 8.8.8.8:53", None, "drop", None, None),
    ("udp [fd00::50]:1 > [fd00:10:244:1::5]:53", "eth0", "forward", "cni0", None),
    ("udp [fd00::50]:1 > [fd00::11]:53", "eth0", "local", None, None),
    ("udp [::1]:1 > [fd00::11]:53", "eth0", "drop", None, None),
    ("udp [fe80::5]:1 > [fd00:10:244:1::5]:53", "eth0", "reject", None, ("fd00::11", 1, 2)),
]


@pytest.mark.parametrize(("text", "indev", "verdict", "out", "answer"), FATES)
def test_a_packet_ends_where_the_kernel_ends_it(text, indev, verdict, out, answer):
    lab = node(routes=("unreachable 10.9.0.0/16", "prohibit 10.8.0.0/16", "blackhole 10.7.0.0/16"))
    trace = lab.send(packet(text)) if indev is None else lab.receive(packet(text), indev)
    assert (trace.verdict, trace.oif) == (verdict, out), trace.reason
    if answer is None:
        assert trace.reply is None
    else:
        reply = trace.reply
        assert reply is not None
        assert (format_address(reply.family, reply.saddr), reply.icmp_type, reply.icmp_code)[1:] == answer[1:]


def test_ttl_is_counted_down_before_forward_and_its_end_is_told():
    assert node().receive(packet("udp 192.168.0.50:1 > 10.244.1.5:53", ttl=2), "eth0").packet.ttl == 1
    expired = node().receive(packet("udp 192.168.0.50:1 > 10.244.1.5:53", ttl=1), "eth0")
    assert expired.verdict == "reject"
    assert (expired.reply.icmp_type, expired.reply.icmp_code) == (11, 0)


@pytest.mark.parametrize(("forward", "verdict"), [("1", "forward"), ("0", "drop")])
def test_forwarding_is_a_switch(forward, verdict):
    lab = node(sysctls={"net.ipv4.ip_forward": forward})
    assert lab.receive(packet("udp 192.168.0.50:1 > 10.244.1.5:53"), "eth0").verdict == verdict


@pytest.mark.parametrize(("filter_", "verdict"), [("0", "forward"), ("1", "drop"), ("2", "forward")])
def test_rp_filter_asks_for_the_way_back(filter_, verdict):
    lab = node(sysctls={"net.ipv4.conf.eth0.rp_filter": filter_})
    assert lab.receive(packet("udp 10.244.1.9:1 > 8.8.8.8:53"), "eth0").verdict == verdict


@pytest.mark.parametrize(
    ("group", "verdict", "hooks"), [("ff00::1", "drop", []), ("ff60::5", "drop", []), ("ff01::1", "drop", []), ("ff02::1", "local", ["PREROUTING", "INPUT"])]
)
def test_multicast_of_no_scope_or_of_another_node_is_dropped_before_any_hook(group, verdict, hooks):
    """RFC 4291, 2.7; found by `verify`, whose kernel counted such packets nowhere."""
    trace = node().receive(packet(f"udp [fd00::50]:1 > [{group}]:53"), "eth0")
    assert (trace.verdict, [event.hook for event in trace.events if isinstance(event, HookEvent)]) == (verdict, hooks)


def test_route_localnet_lets_loopback_addresses_in():
    lab = node(sysctls={"net.ipv4.conf.all.route_localnet": "1"})
    assert lab.receive(packet("udp 192.168.0.50:1 > 127.0.0.1:10248"), "eth0").verdict == "local"


def test_a_mark_given_at_output_changes_the_route():
    
    from dataplane.engine.netns import Netns
    from dataplane.inet import parse_prefix
    from dataplane.rules.network import NextHop, Route, RoutingRule

    lab = node("*mangle\n-A OUTPUT -p udp -j MARK --set-mark 5\nCOMMIT\n")
    hop = Route(4, parse_prefix("0.0.0.0/0"), table=100, nexthops=(NextHop(dev="cni0"),))
    rules = (RoutingRule(4, 0, table=255), RoutingRule(4, 100, fwmark=5, fwmask=0xFFFFFFFF, table=100), RoutingRule(4, 32766, table=254))
    lab = Netns(lab.state._replace(routes4=(*lab.state.routes4, hop), rules4=rules))
    assert lab.send(packet("udp 192.168.0.11:1 > 8.8.8.8:53")).oif == "cni0"
    assert lab.send(packet("tcp 192.168.0.11:1 > 8.8.8.8:53")).oif == "eth0"


def test_after_a_new_route_filter_output_still_sees_the_first_device():
    rules = "*nat\n-A OUTPUT -p udp -j DNAT --to-destination 10.244.1.5\nCOMMIT\n*filter\n-A OUTPUT -o {} -j DROP\nCOMMIT\n"
    assert node(rules.format("eth0")).send(packet("udp 192.168.0.11:1 > 8.8.8.8:53")).verdict == "drop"
    assert node(rules.format("cni0")).send(packet("udp 192.168.0.11:1 > 8.8.8.8:53")).oif == "cni0"

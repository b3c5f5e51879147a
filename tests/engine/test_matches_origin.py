"""What -m addrtype, physdev, mac, pkttype, owner, mark, devgroup, realm and policy ask of a packet."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.hooks import Hook, HookState, Unknown
from dataplane.rules.network import Link
from tests.engine.lab import address, node
from tests.engine.rig import FORWARD, ICMP6, TCP, TCP6, answer, kernel, skb

YES, NO = True, False
INPUT = HookState(Hook.INPUT, "eth0", "")

ADDRESSES: list[tuple[str, str, bool]] = [
    # the node has 192.168.0.11/24 on eth0 and 10.244.1.1/24 on cni0
    ("--dst-type LOCAL", "192.168.0.11", YES),
    ("--dst-type LOCAL", "10.244.1.1", YES),
    ("--dst-type LOCAL", "127.0.0.1", YES),
    ("--dst-type LOCAL", "127.9.9.9", YES),
    ("--dst-type LOCAL", "192.168.0.12", NO),
    ("! --dst-type LOCAL", "192.168.0.12", YES),
    ("! --dst-type LOCAL", "192.168.0.11", NO),
    ("--dst-type UNICAST", "192.168.0.12", YES),
    ("--dst-type UNICAST", "192.168.0.11", NO),
    ("--dst-type UNICAST,LOCAL", "192.168.0.11", YES),
    ("--dst-type BROADCAST", "255.255.255.255", YES),
    ("--dst-type BROADCAST", "192.168.0.255", YES),
    ("--dst-type MULTICAST", "224.0.0.251", YES),
    ("--dst-type LOCAL --limit-iface-in", "192.168.0.11", YES),
    ("--dst-type LOCAL --limit-iface-in", "10.244.1.1", NO),
    ("--dst-type LOCAL --limit-iface-out", "10.244.1.1", YES),
    ("--src-type LOCAL", "192.168.0.11", NO),
    ("! --src-type LOCAL --dst-type LOCAL", "192.168.0.11", YES),
    # and fd00::11/64, fd00:10:244:1::1/64
    ("--dst-type LOCAL", "fd00::11", YES),
    ("--dst-type LOCAL", "::1", YES),
    ("--dst-type LOCAL", "fd00::12", NO),
    ("! --dst-type LOCAL", "fd00::12", YES),
    ("--dst-type UNICAST", "fd00::11", YES),
    ("--dst-type UNICAST", "::ffff:192.0.2.1", NO),
    ("--dst-type UNICAST", "ff02::1", NO),
    ("--dst-type MULTICAST", "ff02::1", YES),
    ("--dst-type UNSPEC", "::", YES),
    ("--dst-type UNICAST,MULTICAST", "fd00::12", NO),  # an address that is both
    ("--dst-type LOCAL,UNICAST", "fd00::12", NO),
    ("--dst-type LOCAL,UNICAST", "fd00::11", YES),
    ("--dst-type LOCAL --limit-iface-in", "fd00::11", YES),
    ("--dst-type LOCAL --limit-iface-in", "fd00:10:244:1::1", NO),
]


@pytest.mark.parametrize(("text", "destination", "expected"), ADDRESSES)
def test_kinds_of_address(text: str, destination: str, expected: bool) -> None:
    packet = skb(TCP6 if ":" in destination else TCP, daddr=address(destination))
    assert answer(f"-m addrtype {text}", packet) == expected


def test_an_ipv6_address_without_a_route_is_unreachable_and_nothing_else() -> None:
    machine = kernel(routes6=())
    packet = skb(TCP6)
    assert answer("-m addrtype --dst-type UNREACHABLE", packet, on=machine) is True
    assert answer("-m addrtype --dst-type LOCAL", packet, on=machine) is False


PORTS: list[tuple[str, str, str, bool]] = [
    # text, port in, port out, expected
    ("--physdev-in veth1", "veth1", "", YES),
    ("--physdev-in veth1", "veth2", "", NO),
    ("--physdev-in veth+", "veth2", "", YES),
    ("! --physdev-in veth1", "veth2", "", YES),
    ("--physdev-in veth1", "", "", NO),
    ("! --physdev-in veth1", "", "", YES),
    ("--physdev-out veth2", "veth1", "veth2", YES),
    ("--physdev-out veth2", "veth1", "", NO),
    ("! --physdev-out veth2", "veth1", "", NO),
    ("! --physdev-out veth2", "veth1", "veth3", YES),
    ("--physdev-is-in", "veth1", "", YES),
    ("--physdev-is-in", "", "", NO),
    ("! --physdev-is-in", "", "", YES),
    ("--physdev-is-bridged", "veth1", "veth2", YES),
    ("--physdev-is-bridged", "veth1", "", NO),
    ("! --physdev-is-bridged", "veth1", "", YES),
    ("! --physdev-is-bridged", "", "", YES),
    ("--physdev-is-out", "veth1", "veth2", YES),
    ("! --physdev-is-out", "veth1", "", YES),
]


@pytest.mark.parametrize(("text", "port_in", "port_out", "expected"), PORTS)
def test_bridge_ports(text: str, port_in: str, port_out: str, expected: bool) -> None:
    assert answer(f"-m physdev {text}", skb(TCP, physin=port_in, physout=port_out)) == expected


OWNERS: list[tuple[str, dict[str, Any], bool]] = [
    ("--uid-owner 0", {"has_socket": True, "uid": 0, "gid": 0}, YES),
    ("--uid-owner 1000-2000", {"has_socket": True, "uid": 1500, "gid": 0}, YES),
    ("--uid-owner 1000", {"has_socket": True, "uid": 0, "gid": 0}, NO),
    ("! --uid-owner 1000", {"has_socket": True, "uid": 0, "gid": 0}, YES),
    ("--gid-owner 7 --uid-owner 0", {"has_socket": True, "uid": 0, "gid": 7}, YES),
    ("--uid-owner 0", {}, NO),
    ("! --uid-owner 0", {}, YES),
    ("! --uid-owner 0 --gid-owner 0", {}, NO),
    ("--socket-exists", {"has_socket": True, "uid": 0, "gid": 0}, YES),
    ("--socket-exists", {}, NO),
    ("! --socket-exists", {}, YES),
    ("! --socket-exists", {"has_socket": True, "uid": 0, "gid": 0}, NO),
    ("--uid-owner 0", {"has_socket": True}, NO),
    ("! --uid-owner 0", {"has_socket": True}, YES),
    ("--gid-owner 5 --suppl-groups", {"has_socket": True, "uid": 0, "gid": 5}, YES),
]


@pytest.mark.parametrize(("text", "fields", "expected"), OWNERS)
def test_owners(text: str, fields: dict[str, Any], expected: bool) -> None:
    assert answer(f"-m owner {text}", skb(TCP, local=True, **fields)) == expected


def test_supplementary_groups_are_unknown() -> None:
    packet = skb(TCP, local=True, has_socket=True, uid=0, gid=4)
    with pytest.raises(Unknown, match="groups"):
        answer("-m owner --gid-owner 5 --suppl-groups", packet)


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("--mac-source 02:00:00:00:00:01", {"mac_source": 0x020000000001}, YES),
        ("--mac-source 02:00:00:00:00:01", {"mac_source": 0x020000000002}, NO),
        ("! --mac-source 02:00:00:00:00:01", {"mac_source": 0x020000000002}, YES),
        ("! --mac-source 02:00:00:00:00:01", {"local": True}, NO),
        ("! --mac-source 02:00:00:00:00:01", {"indev": "lo"}, NO),
    ],
)
def test_macs(text: str, fields: dict[str, Any], expected: bool) -> None:
    assert answer(f"-m mac {text}", skb(TCP, **fields)) == expected


def test_a_mac_that_nobody_told_is_unknown() -> None:
    with pytest.raises(Unknown, match="MAC"):
        answer("-m mac --mac-source 02:00:00:00:00:01", skb(TCP))


@pytest.mark.parametrize(
    ("text", "packet", "kind", "expected"),
    [
        ("--pkt-type unicast", TCP, "host", YES),
        ("--pkt-type broadcast", TCP, "host", NO),
        ("! --pkt-type broadcast", TCP, "host", YES),
        ("--pkt-type multicast", TCP, "multicast", YES),
        ("--pkt-type broadcast", TCP, "loopback", YES),
        ("--pkt-type multicast", ICMP6, "loopback", YES),
    ],
)
def test_packet_types(text: str, packet: str, kind: str, expected: bool) -> None:
    assert answer(f"-m pkttype {text}", skb(packet, pkttype=kind)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--src-group 5", YES),
        ("--src-group 0x4/0x6", YES),
        ("! --src-group 5", NO),
        ("--dst-group 0", YES),
        ("--src-group 5 --dst-group 1", NO),
    ],
)
def test_groups_of_devices(text: str, expected: bool) -> None:
    links = tuple(_grouped(link) for link in node().state.links)
    assert answer(f"-m devgroup {text}", skb(TCP), on=kernel(links=links)) == expected


def _grouped(link: Link) -> Link:
    return link._replace(rest=(("group", "5" if link.name == "eth0" else "default"),))


def test_no_packet_has_anything_to_do_with_ipsec() -> None:
    assert answer("-m policy --dir in --pol none", skb(TCP)) is True
    assert answer("-m policy --dir out --pol ipsec --proto esp", skb(TCP), state=FORWARD) is False


def test_a_route_without_realms_has_realm_0() -> None:
    assert answer("-m realm --realm 0", skb(TCP)) is True
    assert answer("-m realm --realm 0x5/0xff", skb(TCP)) is False
    assert answer("-m realm ! --realm 5", skb(TCP)) is True


@pytest.mark.parametrize("text", ["-m socket", "-m cpu --cpu 0"])
def test_what_no_packet_tells_is_unknown(text: str) -> None:
    with pytest.raises(Unknown, match="not modelled"):
        answer(text, skb(TCP), state=INPUT)

"""Is a packet in a set of this type, and what -j SET makes of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dataplane.engine.hooks import Hook, HookState, Unknown
from dataplane.engine.kernel import Kernel
from dataplane.inet import FULL_MASK, Prefix
from dataplane.rules.ipset import Entry, IPSet, IPSets
from tests.engine.lab import address
from tests.engine.rig import FORWARD, ICMP, ICMP6, SCTP, TCP, TCP6, UDP, UDP6, kernel, skb

YES, NO = True, False

# The packets go from 192.0.2.1:40000 (MAC 02:…:01) to 198.51.100.2:80, or from 2001:db8::1 to 2001:db8::2, by eth0 to cni0.
ROWS: list[tuple[str, str, str, str, dict[str, Any], bool]] = [
    # type and options, member, directions, packet, fields, expected
    ("hash:ip", "192.0.2.1", "src", TCP, {}, YES),
    ("hash:ip", "192.0.2.1", "dst", TCP, {}, NO),
    ("hash:ip", "198.51.100.2", "dst", UDP, {}, YES),
    ("hash:ip family inet6", "2001:db8::1", "src", TCP6, {}, YES),
    ("hash:ip family inet6", "2001:db8::1", "src", TCP, {}, NO),
    ("hash:ip", "192.0.2.1", "src", TCP6, {}, NO),
    ("hash:ip netmask 24", "192.0.2.9", "src", TCP, {}, YES),
    ("hash:ip netmask 24", "192.0.3.9", "src", TCP, {}, NO),
    ("hash:net", "192.0.2.0/24", "src", TCP, {}, YES),
    ("hash:net", "192.0.2.0/25", "src", TCP, {"saddr": address("192.0.2.200")}, NO),
    ("hash:net", "192.0.2.1", "src", TCP, {}, YES),
    ("hash:net family inet6", "2001:db8::/32", "dst", TCP6, {}, YES),
    ("hash:ip,port", "198.51.100.2,tcp:80", "dst,dst", TCP, {}, YES),
    ("hash:ip,port", "198.51.100.2,tcp:80", "dst,dst", UDP, {"dport": 80}, NO),
    ("hash:ip,port", "198.51.100.2,udp:53", "dst,dst", UDP, {}, YES),
    ("hash:ip,port", "198.51.100.2,tcp:40000", "dst,src", TCP, {}, YES),
    ("hash:ip,port", "198.51.100.2,tcp:80", "dst", TCP, {}, NO),
    ("hash:ip,port", "198.51.100.2,sctp:9", "dst,dst", SCTP, {}, YES),
    ("hash:ip,port", "198.51.100.2,icmp:echo-request", "dst,dst", ICMP, {}, YES),
    ("hash:ip,port", "198.51.100.2,icmp:3/4", "dst,src", ICMP, {"icmp_type": 3, "icmp_code": 4}, YES),
    ("hash:ip,port family inet6", "2001:db8::2,icmpv6:echo-request", "dst,dst", ICMP6, {}, YES),
    ("hash:ip,port", "198.51.100.2,47:0", "dst,dst", TCP, {"protocol": 47}, YES),
    ("hash:ip,port", "198.51.100.2,tcp:80", "dst,dst", TCP, {"fragment_offset": 1480}, NO),
    ("hash:ip,port", "198.51.100.2,47:0", "dst,dst", TCP, {"protocol": 47, "fragment_offset": 1480}, YES),
    ("hash:ip,port,ip", "198.51.100.2,tcp:80,192.0.2.1", "dst,dst,src", TCP, {}, YES),
    ("hash:ip,port,ip", "198.51.100.2,tcp:80,192.0.2.1", "dst,dst,dst", TCP, {}, NO),
    ("hash:ip,port,net", "198.51.100.2,tcp:80,192.0.2.0/24", "dst,dst,src", TCP, {}, YES),
    ("hash:ip,port,net", "198.51.100.2,tcp:80,192.0.3.0/24", "dst,dst,src", TCP, {}, NO),
    ("hash:net,port", "198.51.100.0/24,tcp:80", "dst,dst", TCP, {}, YES),
    ("hash:net,port", "198.51.100.0/24,udp:53", "dst,dst", TCP, {}, NO),
    ("hash:net,net", "192.0.2.0/24,198.51.100.0/24", "src,dst", TCP, {}, YES),
    ("hash:net,net", "192.0.2.0/24,198.51.100.0/24", "dst,src", TCP, {}, NO),
    ("hash:net,port,net", "192.0.2.0/24,tcp:80,198.51.0.0/16", "src,dst,dst", TCP, {}, YES),
    ("hash:net,port,net", "192.0.2.0/24,tcp:80,198.52.0.0/16", "src,dst,dst", TCP, {}, NO),
    ("hash:net,iface", "192.0.2.0/24,eth0", "src,src", TCP, {}, YES),
    ("hash:net,iface", "192.0.2.0/24,cni0", "src,dst", TCP, {}, YES),
    ("hash:net,iface", "192.0.2.0/24,cni0", "src,src", TCP, {}, NO),
    ("hash:net,iface", "192.0.2.0/24,eth wildcard", "src,src", TCP, {}, YES),
    ("hash:net,iface", "192.0.2.0/24,physdev:eth0", "src,src", TCP, {"physin": "eth0"}, NO),
    ("hash:ip,mark", "192.0.2.1,0x00000005", "src,src", TCP, {"mark": 5}, YES),
    ("hash:ip,mark markmask 0x0000000f", "192.0.2.1,0x00000005", "src,src", TCP, {"mark": 0xF5}, YES),
    ("hash:ip,mark", "192.0.2.1,0x00000005", "src,src", TCP, {"mark": 6}, NO),
    ("hash:mac", "02:00:00:00:00:01", "src", TCP, {}, YES),
    ("hash:mac", "02:00:00:00:00:01", "src", TCP6, {}, YES),
    ("hash:mac", "02:00:00:00:00:01", "src", TCP, {"local": True}, NO),
    ("hash:ip,mac", "192.0.2.1,02:00:00:00:00:01", "src,src", TCP, {}, YES),
    ("hash:ip,mac", "192.0.2.1,02:00:00:00:00:02", "src,src", TCP, {}, NO),
    ("bitmap:ip range 192.0.2.0/24", "192.0.2.1", "src", TCP, {}, YES),
    ("bitmap:ip range 192.0.2.0/24", "192.0.2.1", "dst", TCP, {}, NO),
    ("bitmap:ip range 192.0.0.0/16 netmask 24", "192.0.2.0", "src", TCP, {}, YES),
    ("bitmap:port range 0-1023", "80", "dst", TCP, {}, YES),
    ("bitmap:port range 0-1023", "80", "dst", TCP6, {}, YES),
    ("bitmap:port range 0-1023", "53", "dst", UDP6, {}, YES),
    ("bitmap:port range 0-1023", "9", "dst", SCTP, {}, NO),
    ("bitmap:ip,mac range 192.0.2.0/24", "192.0.2.1,02:00:00:00:00:01", "src,src", TCP, {}, YES),
    ("bitmap:ip,mac range 192.0.2.0/24", "192.0.2.1,02:00:00:00:00:02", "src,src", TCP, {}, NO),
    ("bitmap:ip,mac range 192.0.2.0/24", "192.0.2.1,02:00:00:00:00:01", "src,src", TCP, {"local": True}, NO),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "member", "directions", "packet", "fields", "expected"), ROWS)
def test_members(kind: str, member: str, directions: str, packet: str, fields: dict[str, Any], expected: bool) -> None:
    machine = kernel(f"create s {kind}\nadd s {member}\n")
    one = skb(packet, **{"mac_source": 0x020000000001, **fields})
    assert machine.sets.test("s", one, FORWARD, tuple(directions.split(","))) is expected


def asked(machine: Kernel, name: str = "s", directions: str = "src", *, nomatch: bool = False, **fields: Any) -> bool:
    return machine.sets.test(name, skb(TCP, **fields), FORWARD, tuple(directions.split(",")), nomatch=nomatch)


def added(machine: Kernel, timeout: int | None = None, *, exist: bool = False, directions: str = "src", **fields: Any) -> bool:
    return machine.sets.add("s", skb(TCP, **fields), FORWARD, tuple(directions.split(",")), timeout, exist=exist)


def removed(machine: Kernel, directions: str = "src", **fields: Any) -> bool:
    return machine.sets.remove("s", skb(TCP, **fields), FORWARD, tuple(directions.split(",")))


# ---------------------------------------------------------------------- nets


NETS = """create s hash:net
add s 192.0.0.0/16
add s 192.0.2.0/24 nomatch
add s 192.0.2.128/25
"""


@pytest.mark.parametrize(
    ("source", "member", "nomatch"),
    [("192.0.9.9", YES, NO), ("192.0.2.1", NO, YES), ("192.0.2.200", YES, NO), ("10.0.0.1", NO, NO)],
)
def test_the_longest_prefix_decides(source: str, member: bool, nomatch: bool) -> None:
    machine = kernel(NETS)
    assert asked(machine, saddr=address(source)) is member
    assert asked(machine, saddr=address(source), nomatch=True) is nomatch


def test_the_longest_prefix_with_any_interface_ends_the_search() -> None:
    machine = kernel("create s hash:net,iface\nadd s 192.0.0.0/16,eth0\nadd s 192.0.2.0/24,eth1\n")
    assert asked(machine, directions="src,src", saddr=address("192.0.3.1")) is True
    assert asked(machine, directions="src,src") is False


def test_an_interface_that_is_not_known_there_is_in_no_set() -> None:
    machine = kernel("create s hash:net,iface\nadd s 0.0.0.0/0,eth wildcard\n")
    assert machine.sets.test("s", skb(TCP), HookState(Hook.INPUT, "eth0", ""), ("src", "dst")) is False


def test_a_set_of_ip_addresses_has_no_zero() -> None:
    machine = kernel("create s hash:ip netmask 8\nadd s 10.0.0.0\n")
    assert asked(machine, saddr=address("0.1.2.3")) is False
    assert asked(machine, saddr=address("10.1.2.3")) is True


# ---------------------------------------------------------------------- lists


LISTS = """create a hash:ip
create b hash:ip,port
create c hash:ip family inet6
create s list:set
add a 192.0.2.1
add b 198.51.100.2,tcp:80
add c 2001:db8::1
add s a
add s b
add s c
"""


def test_a_list_is_its_sets_each_as_far_as_directions_and_family_go() -> None:
    machine = kernel(LISTS)
    assert asked(machine) is True
    assert asked(machine, saddr=1) is False
    assert asked(machine, directions="dst", saddr=1) is False
    assert asked(machine, directions="dst,dst", saddr=1) is True
    assert machine.sets.test("s", skb(TCP6), FORWARD, ("src",)) is True


def test_a_rule_adds_to_the_first_set_of_a_list_that_takes_it() -> None:
    machine = kernel(LISTS)
    assert added(machine, saddr=7) is True
    assert asked(machine, "a", saddr=7) is True
    assert removed(machine, saddr=7) is True
    assert asked(machine, "a", saddr=7) is False


# ---------------------------------------------------------------------- time


def test_members_expire() -> None:
    machine = kernel("create s hash:ip timeout 100\nadd s 192.0.2.1 timeout 10\nadd s 192.0.2.2 timeout 0\nadd s 192.0.2.3\n")
    machine.now = 10.0
    assert asked(machine) is True
    machine.now = 10.1
    assert [asked(machine, saddr=address(f"192.0.2.{last}")) for last in (1, 2, 3)] == [False, True, True]
    machine.now = 100.1
    assert asked(machine, saddr=address("192.0.2.3")) is False


def test_what_a_rule_adds_expires_after_its_own_time_or_the_sets() -> None:
    machine = kernel("create s hash:ip timeout 100\n")
    machine.now = 5.0
    added(machine)
    added(machine, 10, saddr=7)
    added(machine, 0, saddr=8)
    for moment, expected in ((15.0, [True, True, True]), (15.1, [True, False, True]), (105.1, [False, False, True])):
        machine.now = moment
        assert [asked(machine), asked(machine, saddr=7), asked(machine, saddr=8)] == expected


def test_only_exist_renews() -> None:
    machine = kernel("create s hash:ip timeout 10\n")
    assert [added(machine), added(machine), added(machine, exist=True)] == [True, False, True]
    machine.now = 8.0
    assert added(machine, exist=True) is True
    machine.now = 15.0
    assert asked(machine) is True
    machine.now = 30.0
    assert added(machine) is True  # its time was over


def test_a_set_without_timeouts_knows_none() -> None:
    machine = kernel("create s hash:ip\n")
    added(machine, 5)
    machine.now = 1000.0
    assert asked(machine) is True


# ---------------------------------------------------------------------- changes


def test_changes_are_forked() -> None:
    machine = kernel("create s hash:ip\nadd s 192.0.2.1\n")
    assert removed(machine) is True
    saved = {key: value.copy() for key, value in machine.memory.items()}
    added(machine, saddr=7)
    assert [asked(machine), asked(machine, saddr=7)] == [False, True]
    machine.memory = saved
    assert [asked(machine), asked(machine, saddr=7)] == [False, False]
    machine.memory = {}
    assert asked(machine) is True


def test_a_rule_adds_nets_of_the_longest_prefix_there_is() -> None:
    machine = kernel("create s hash:net\nadd s 10.0.0.0/8\nadd s 10.9.0.0/16\n")
    assert added(machine) is True
    assert asked(machine, saddr=address("192.0.77.77")) is True
    assert asked(machine, saddr=address("192.1.0.1")) is False
    assert removed(machine, saddr=address("10.9.1.1")) is True
    assert asked(machine, saddr=address("10.9.1.1")) is True  # by the /8
    empty = kernel("create s hash:net\n")
    added(empty)
    assert [asked(empty), asked(empty, saddr=address("192.0.2.2"))] == [True, False]


def test_a_full_set_takes_nothing_more() -> None:
    machine = kernel("create s hash:ip maxelem 2 timeout 10\nadd s 192.0.2.1\nadd s 192.0.2.2 timeout 3\n")
    assert added(machine, saddr=7) is False
    machine.now = 4.0
    assert added(machine, saddr=7) is True
    assert added(machine, saddr=8) is False
    with pytest.raises(Unknown, match="forceadd"):
        added(kernel("create s hash:ip maxelem 1 forceadd\nadd s 192.0.2.1\n"), saddr=7)


def test_ports_and_interfaces_are_added_too() -> None:
    machine = kernel("create s hash:ip,port\n")
    added(machine, directions="dst,dst")
    assert asked(machine, directions="dst,dst") is True
    assert asked(machine, directions="dst,dst", dport=81) is False
    machine = kernel("create s hash:net,iface\nadd s 192.0.2.0/24,eth1\n")
    assert added(machine, directions="src,src") is True
    assert added(machine, directions="src,src") is False
    assert asked(machine, directions="src,src", saddr=address("192.0.2.77")) is True
    assert removed(machine, directions="src,src") is True
    assert asked(machine, directions="src,src") is False


def test_outside_of_a_bitmaps_range_nothing_is_added() -> None:
    machine = kernel("create s bitmap:ip range 10.0.0.0/24\n")
    assert added(machine) is False
    assert added(machine, saddr=address("10.0.0.9")) is True


def test_a_bitmap_learns_the_mac_it_was_not_told() -> None:
    machine = kernel("create s bitmap:ip,mac range 192.0.2.0/24 timeout 10\nadd s 192.0.2.1\n")
    machine.now = 50.0  # its time has not begun
    first, other = ({"directions": "src,src", "mac_source": mac} for mac in (0x020000000001, 0x020000000002))
    assert [asked(machine, **first), asked(machine, **first), asked(machine, **other)] == [True, True, False]
    machine.now = 60.1
    assert asked(machine, **first) is False


# ---------------------------------------------------------------------- what is not known, and what it costs


def test_a_set_that_is_not_there_is_unknown() -> None:
    with pytest.raises(Unknown, match="the set nosuch is not in the node's state"):
        asked(kernel(), "nosuch")


def test_a_mac_that_nobody_told_is_unknown() -> None:
    with pytest.raises(Unknown, match="source MAC"):
        asked(kernel("create s hash:mac\nadd s 02:00:00:00:00:01\n"))


def test_a_large_set_is_read_once() -> None:
    entries = tuple(Entry((Prefix(4, number, FULL_MASK[4]),)) for number in range(65536))
    machine = kernel(ipsets=IPSets({"s": IPSet("s", "hash:ip", 4, (), entries)}))
    began = time.process_time()
    assert asked(machine, saddr=65535) is True
    reading, began = time.process_time() - began, time.process_time()
    assert asked(machine, saddr=65536) is False
    assert time.process_time() - began < reading / 10

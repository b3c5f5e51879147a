"""What each target without NAT does to a packet."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.conntrack import Conn, inverse, tuple_of
from dataplane.engine.fib import Destination
from dataplane.engine.hooks import ACCEPT, Drop, Unknown
from dataplane.engine.skb import CT_NEW, CT_UNTRACKED, Skb
from dataplane.packet import CWR, ECE, SYN
from tests.engine.rig import FORWARD, TCP, TCP6, UDP, act, kernel, options, skb

# text, packet, fields before, fields after (all that are not named stay as they are)
ROWS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("-j MARK --set-xmark 0x4000/0x4000", TCP, {"mark": 0x1}, {"mark": 0x4001}),
    ("-j MARK --set-mark 0x5/0xf", TCP, {"mark": 0xFA}, {"mark": 0xF5}),
    ("-j MARK --and-mark 0xf0", TCP, {"mark": 0xFFFF}, {"mark": 0xF0}),
    ("-j MARK --or-mark 0xf0", TCP, {"mark": 0xF}, {"mark": 0xFF}),
    ("-j MARK --xor-mark 0xff", TCP, {"mark": 0xF}, {"mark": 0xF0}),
    ("-j TTL --ttl-set 9", TCP, {}, {"ttl": 9}),
    ("-j TTL --ttl-inc 9", TCP, {"ttl": 250}, {"ttl": 255}),
    ("-j TTL --ttl-dec 9", TCP, {"ttl": 5}, {"ttl": 0}),
    ("-j HL --hl-dec 1", TCP6, {"ttl": 5}, {"ttl": 4}),
    ("-j TOS --set-tos 0x10/0x3f", TCP, {"tos": 0xFF}, {"tos": 0xD0}),
    ("-j TOS --xor-tos 0x0f", TCP, {"tos": 0xFF}, {"tos": 0xF0}),
    ("-j DSCP --set-dscp 46", TCP, {"tos": 0x03}, {"tos": 0xBB}),
    ("-j DSCP --set-dscp-class CS1", TCP6, {"tos": 0x03}, {"tos": 0x23}),
    ("-p tcp -j ECN --ecn-tcp-remove", TCP, {"tcp_flags": SYN | ECE | CWR}, {"tcp_flags": SYN}),
    ("-j ECN --ecn-ip-ect 2", TCP, {"tos": 0x11}, {"tos": 0x12}),
    ("-j CLASSIFY --set-class 1:2f", TCP, {}, {"priority": 0x1002F}),
    ("-j TRACE", TCP, {}, {"traced": True}),
    # MSS: lowered, never raised; added where there is none and no data
    ("-p tcp --syn -j TCPMSS --set-mss 1400", TCP, {"tcp_options": options(mss=1460)}, {"tcp_options": options(mss=1400)}),
    ("-p tcp --syn -j TCPMSS --set-mss 1400", TCP, {"tcp_options": options(mss=536)}, {}),
    ("-p tcp --syn -j TCPMSS --set-mss 1400", TCP, {}, {"tcp_options": options(mss=536), "length": 44}),
    ("-p tcp --syn -j TCPMSS --set-mss 400", TCP, {}, {"tcp_options": options(mss=400), "length": 44}),
    ("-p tcp --syn -j TCPMSS --set-mss 1400", TCP6, {}, {"tcp_options": options(mss=1220), "length": 64}),
    ("-p tcp --syn -j TCPMSS --set-mss 1400", TCP, {"payload": 10}, {}),
    ("-p tcp --syn -j TCPMSS --set-mss 1400", TCP, {"fragment_offset": 8}, {}),
    ("-p tcp -j TCPOPTSTRIP --strip-options timestamp,19", TCP,
     {"tcp_options": options(mss=9, timestamp=True, other=(19, 30))}, {"tcp_options": options(mss=9, other=(30,))}),
    ("-p tcp -j TCPOPTSTRIP --strip-options mss", TCP, {}, {}),
    # RFC 6296: the word behind the prefix takes up the difference of the sums
    ("-j SNPT --src-pfx 2001:db8::/64 --dst-pfx fd00::/64", TCP6, {}, {"saddr": 0xFD00 << 112 | 0x30B8 << 48 | 1}),
    # these tell somebody, and the packet goes on
    ("-j LOG --log-prefix x", TCP, {}, {}),
    ("-j NFLOG --nflog-group 5", TCP, {}, {}),
    ("-j AUDIT --type accept", TCP, {}, {}),
    ("-j CHECKSUM --checksum-fill", UDP, {}, {}),
    ("-j IDLETIMER --timeout 5 --label x", TCP, {}, {}),
    ("-j TEE --gateway 192.0.2.9", TCP, {}, {}),
]  # fmt: skip

_SLOTS = tuple(name for name in Skb.__slots__ if name != "dst")


@pytest.mark.parametrize(("text", "packet", "before", "after"), ROWS)
def test_the_packet_is_changed_and_goes_on(text: str, packet: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    one, expected = skb(packet, **before), skb(packet, **{**before, **after})
    assert act(text, one) is None
    assert {name: getattr(one, name) for name in _SLOTS} == {name: getattr(expected, name) for name in _SLOTS}


# ---------------------------------------------------------------------- connections


def tracked(conn_mark: int = 0, **fields: Any) -> Skb:
    packet = skb(TCP, **fields)
    packet.conn = Conn(4, tuple_of(packet), inverse(tuple_of(packet)))
    packet.conn.mark, packet.ctinfo = conn_mark, CT_NEW
    return packet


@pytest.mark.parametrize(
    ("options_", "conn_mark", "packet_mark", "conn_after", "packet_after"),
    [
        ("--set-xmark 0x4000/0x4000", 1, 0, 0x4001, 0),
        ("--save-mark", 1, 0x55, 0x55, 0x55),
        ("--save-mark --nfmask 0xf0 --ctmask 0xff", 0xF01, 0x55, 0xF50, 0x55),
        ("--restore-mark", 0x55, 1, 0x55, 0x55),
        ("--restore-mark --nfmask 0xff --ctmask 0xf", 0x55, 0xFF00, 0x55, 0xFF05),
        ("--restore-mark --left-shift-mark 8", 0x55, 0, 0x55, 0x5500),
        ("--save-mark --right-shift-mark 4", 0, 0x55, 0x5, 0x55),
    ],
)
def test_connmark(options_: str, conn_mark: int, packet_mark: int, conn_after: int, packet_after: int) -> None:
    packet = tracked(conn_mark, mark=packet_mark)
    assert act(f"-j CONNMARK {options_}", packet) is None
    assert packet.conn is not None
    assert (packet.conn.mark, packet.mark) == (conn_after, packet_after)


def test_connmark_without_a_connection_does_nothing() -> None:
    packet = skb(TCP, mark=5)
    assert act("-j CONNMARK --restore-mark", packet) is None
    assert packet.mark == 5


@pytest.mark.parametrize("text", ["-j CT --notrack", "-j NOTRACK"])
def test_notrack(text: str) -> None:
    packet = skb(TCP)
    assert act(text, packet) is None
    assert (packet.ctinfo, packet.conn) == (CT_UNTRACKED, None)


def test_only_the_first_word_about_tracking_counts() -> None:
    packet = skb(TCP)
    act("-j CT --zone 5", packet)
    act("-j CT --zone 6", packet)
    act("-j CT --notrack", packet)
    assert (packet.template_zone, packet.ctinfo) == (5, CT_NEW)
    packet = tracked()
    act("-j CT --zone 5", packet)
    assert packet.template_zone == 0


def test_zones_by_mark_and_for_one_direction() -> None:
    packet = skb(TCP, mark=7)
    act("-j CT --zone mark", packet)
    assert packet.template_zone == 7
    with pytest.raises(Unknown, match="one direction"):
        act("-j CT --zone-orig 5", skb(TCP))


def test_a_timeout_policy_is_noted() -> None:
    machine = kernel()
    act("-j CT --timeout fast", skb(TCP), on=machine)
    assert machine.notes == ["mangle FORWARD rule 1: the timeouts of policy fast are not known; the usual ones count"]


# ---------------------------------------------------------------------- sets


def test_set_adds_and_removes() -> None:
    machine = kernel("create s hash:ip timeout 100\n")

    def there() -> bool:
        return machine.sets.test("s", skb(TCP), FORWARD, ("src",))

    act("-j SET --add-set s src --timeout 10", skb(TCP), on=machine)
    assert there()
    machine.now = 5.0
    act("-j SET --add-set s src --timeout 10", skb(TCP), on=machine)
    machine.now = 10.5
    assert not there()
    act("-j SET --add-set s src", skb(TCP), on=machine)
    act("-j SET --add-set s src --exist --timeout 200", skb(TCP), on=machine)
    machine.now = 150.0
    assert there()
    act("-j SET --del-set s src", skb(TCP), on=machine)
    assert not there()


def test_what_a_set_maps_is_unknown() -> None:
    with pytest.raises(Unknown, match="map-set"):
        act("-j SET --map-set s src --map-mark", skb(TCP), on=kernel("create s hash:ip skbinfo\n"))


# ---------------------------------------------------------------------- MSS by path MTU


def routed(mtu: int, **fields: Any) -> Skb:
    return skb(TCP, dst=Destination("UNICAST", "cni0", mtu=mtu), **fields)


@pytest.mark.parametrize(("mtu", "mss"), [(1400, 1360), (9000, 1460), (576, 536)])
def test_the_smaller_mtu_of_both_ways_counts(mtu: int, mss: int) -> None:
    packet = routed(mtu, tcp_options=options(mss=8960))
    assert act("-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", packet) is None
    assert packet.tcp_options is not None
    assert packet.tcp_options.mss == mss


def test_an_impossible_mtu_drops() -> None:
    verdict = act("-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", routed(40, tcp_options=options(mss=8960)))
    assert isinstance(verdict, Drop)
    assert "MTU of 40" in verdict.reason


# ---------------------------------------------------------------------- user space


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-j NFQUEUE --queue-num 5", "NFQUEUE: no program is taken to listen on queue 5"),
        ("-j QUEUE", "QUEUE: no program is taken to listen on queue 0"),
    ],
)
def test_a_queue_that_nobody_reads_drops(text: str, reason: str) -> None:
    verdict = act(text, skb(TCP))
    assert isinstance(verdict, Drop)
    assert verdict.reason == reason


def test_a_queue_that_may_be_bypassed_accepts() -> None:
    machine = kernel()
    assert act("-j NFQUEUE --queue-num 5 --queue-bypass", skb(TCP), on=machine) == ACCEPT
    assert "no program is taken to listen on queue 5" in machine.notes[0]


def test_tproxy_depends_on_a_socket_but_for_fragments() -> None:
    text = "-p tcp -j TPROXY --on-port 3128"
    with pytest.raises(Unknown, match="on port 3128"):
        act(text, skb(TCP))
    assert isinstance(act(text, skb(TCP, more_fragments=True)), Drop)


@pytest.mark.parametrize("text", ["-p tcp -j SYNPROXY", "-j HMARK --hmark-tuple src --hmark-mod 2 --hmark-rnd 1"])
def test_a_target_without_a_model_is_unknown(text: str) -> None:
    with pytest.raises(Unknown, match="not modelled"):
        act(text, skb(TCP))

"""Scapy packets: what is read of them, and that what comes back is whole, with checksums made anew."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Raw

from dataplane.adapters.scapy import from_scapy, source_mac, to_scapy
from dataplane.errors import InputError
from dataplane.node import load
from dataplane.packet import Packet, TcpOptions
from tests.test_rulesets import RULESETS

V4, V6 = {"src": "10.0.0.1", "dst": "10.0.0.2"}, {"src": "2001:db8::1", "dst": "2001:db8::2"}
ENDS4, ENDS6 = (4, 0x0A000001, 0x0A000002), (6, 0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 2)
QUOTED = Packet(4, 0x0A000002, 0x0A000001, 6, 80, 40000, length=40, ip_id=1, window=8192, tcp_flags=2, tcp_options=TcpOptions())

READ = [
    (
        IP(**V4, ttl=9, id=7, flags="DF") / TCP(sport=1, dport=2, flags="SA", seq=3, ack=4, options=[("MSS", 1460), ("WScale", 7)]) / b"abc",
        Packet(
            *ENDS4, 6, 1, 2, ttl=9, ip_id=7, dont_fragment=True, length=51, payload=3, tcp_flags=0x12, seq=3, ack=4, window=8192,
            tcp_options=TcpOptions(mss=1460, wscale=7),
        ),
    ),
    (Ether() / IP(**V4, tos=16) / UDP(sport=5, dport=53) / b"12", Packet(*ENDS4, 17, 5, 53, ip_id=1, tos=16, length=30, payload=2)),
    (IP(**V4) / ICMP(id=77), Packet(*ENDS4, 1, icmp_type=8, icmp_id=77, ip_id=1, length=28)),
    (IP(**V4, frag=185, flags="MF", proto=17) / Raw(b"x" * 8), Packet(*ENDS4, 17, ip_id=1, more_fragments=True, fragment_offset=1480, length=28, payload=8)),
    (IPv6(**V6, hlim=3) / ICMPv6EchoRequest(id=9), Packet(*ENDS6, 58, icmp_type=128, icmp_id=9, ttl=3, length=48, dont_fragment=True)),
    (
        IPv6(**V6) / IPv6ExtHdrFragment(m=1, id=5) / UDP(sport=1, dport=2),
        Packet(*ENDS6, 17, 1, 2, length=56, ip_id=5, more_fragments=True, dont_fragment=True),
    ),
    (IP(**V4) / SCTP(sport=1, dport=2, tag=3) / SCTPChunkInit(), Packet(*ENDS4, 132, 1, 2, ip_id=1, length=52, payload=20, vtag=3, sctp_chunks=(1,))),
    (
        IP(**V4) / ICMP(type=3, code=4, nexthopmtu=1400) / IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=80, dport=40000),
        Packet(*ENDS4, 1, icmp_type=3, icmp_code=4, icmp_info=1400, ip_id=1, length=68, payload=40, inner=QUOTED),
    ),
    (IP(**V4, proto=47) / Raw(b"1234"), Packet(*ENDS4, 47, ip_id=1, length=24, payload=4)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "packet"), READ, ids=lambda value: value.summary() if hasattr(value, "summary") else "")
def test_a_scapy_packet_is_read(given, packet):
    assert from_scapy(given) == packet


@pytest.mark.parametrize("given", [given for given, _ in READ], ids=lambda value: value.summary())
def test_what_is_written_back_unchanged_is_the_same_packet(given):
    layer = given[IP] if given.haslayer(IP) else given[IPv6]
    assert bytes(to_scapy(from_scapy(given), given)) == bytes(layer)


@pytest.mark.parametrize("given", [given for given, _ in READ], ids=lambda value: value.summary())
def test_a_packet_made_of_nothing_but_its_fields_reads_the_same_where_it_ends_up(given):
    packet = from_scapy(given)
    again = from_scapy(to_scapy(packet, None))
    assert (again.saddr, again.sport, again.daddr, again.dport) == (packet.saddr, packet.sport, packet.daddr, packet.dport) or packet.fragment_offset


def test_the_frames_source_is_known():
    assert source_mac(Ether(src="02:00:00:00:00:0a") / IP()) == 0x02000000000A
    assert source_mac(IP()) is None


@pytest.mark.parametrize("given", [object(), 7, Ether()])
def test_a_thing_without_an_ip_layer_is_refused(given):
    with pytest.raises(InputError, match=r"scapy packet|IPv6 layer"):
        from_scapy(given)
    with pytest.raises(InputError, match=r"scapy packet|IPv6 layer"):
        load(RULESETS / "external-ip").node("node-a").send(given)


def test_a_node_gives_back_a_scapy_packet_with_new_addresses_and_checksums():
    node = load(RULESETS / "external-ip").node("node-a")
    given = Ether(src="02:00:00:00:00:09") / IP(src="203.0.113.7", dst="198.51.100.10") / TCP(sport=40000, dport=80) / b"hello"
    result = node.receive(given, iface="eth0")
    assert result.packet[IP].dst in {"10.244.1.5", "10.244.2.5"}
    assert (result.packet[TCP].dport, bytes(result.packet[TCP].payload), result.packet[IP].ttl) == (8080, b"hello", 63)
    fresh = result.packet.copy()
    del fresh[IP].chksum, fresh[TCP].chksum
    assert bytes(fresh) == bytes(result.packet)
    assert given[IP].dst == "198.51.100.10"


def test_a_reject_comes_back_as_an_icmp_error_about_the_packet():
    node = load(RULESETS / "no-endpoints").node("node-a")
    reply = node.receive(IP(src="10.244.1.9", dst="10.96.0.20") / TCP(sport=40000, dport=80), iface="cni0").reply
    assert (reply[IP].dst, reply[ICMP].type, reply[ICMP].code) == ("10.244.1.9", 3, 3)
    assert (reply[IPerror].dst, reply[TCPerror].dport) == ("10.96.0.20", 80)
    assert not reply.haslayer(ICMPerror)


def test_an_icmpv6_error_is_of_scapys_own_class():
    packet = Packet(*ENDS6, 58, icmp_type=1, icmp_code=4, length=96, inner=Packet(6, ENDS6[2], ENDS6[1], 17, 1, 2, length=48))
    assert to_scapy(packet, None)[ICMPv6DestUnreach].code == 4

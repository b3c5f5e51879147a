"""Packets are made from what the rules say: the same seed makes the same, and conversations refer to what was sent before."""

from dataclasses import fields

from dataplane.adapters.lab.lines import Packet, read_packets, write_packets
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.verify.aim import packets_for
from dataplane.verify.plausible import completed

RULES = "*filter\n-A FORWARD -s 10.1.2.0/24 -d 10.9.8.7/32 -i cni0 -p tcp -m tcp --dport 4242 -j DROP\n-A INPUT -p sctp -j DROP\nCOMMIT\n"
PACKETS = packets_for(completed(Snapshot(iptables=RULES)), 4000, 7)


def test_the_same_seed_makes_the_same_packets():
    assert packets_for(completed(Snapshot(iptables=RULES)), 4000, 7) == PACKETS
    assert packets_for(completed(Snapshot(iptables=RULES)), 4000, 8) != PACKETS


def test_every_match_of_a_rule_is_met_together():
    assert any((one.indev, one.dst, one.proto, one.dport) == ("cni0", "10.9.8.7", "tcp", 4242) and one.src.startswith("10.1.2.") for one in PACKETS if one.src)


def test_every_kind_of_packet_is_there():
    assert {one.proto for one in PACKETS} == {"tcp", "udp", "sctp", "icmp", None}
    for field in ("again", "shift", "fragment", "length", "tos", "type", "flags"):
        assert any(getattr(one, field) for one in PACKETS), field


def test_replies_name_earlier_packets():
    known = set()
    for one in PACKETS:
        assert one.reply_to is None or one.reply_to in known
        known.add(one.id)


def test_packets_written_are_read_as_they_were():
    assert read_packets(write_packets(PACKETS)) == PACKETS
    assert {field.name for field in fields(Packet)} >= {"wait", "code"}

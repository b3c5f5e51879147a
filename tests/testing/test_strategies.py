"""What the strategies make is what the rest takes; and two laws that hold for all of it."""

from hypothesis import HealthCheck, given, settings

from dataplane.node import Node, load
from dataplane.packet import Packet, describe
from dataplane.packet_text import parse_packet
from dataplane.rules.nodestate import NodeState
from dataplane.testing import strategies
from dataplane.text.iptables import parse_save, print_save

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(strategies.packets() | strategies.packets(family=6) | strategies.packets(openings=False))
def test_a_packet_is_described_as_it_is_written(packet):
    again = parse_packet(f"{describe(packet)} [ttl {packet.ttl}]").packet
    assert (describe(again), again.ttl) == (describe(packet), packet.ttl)


@few
@given(strategies.clusters(), strategies.packets(sources=["10.244.1.9"], destinations=["10.96.0.20", "192.168.0.11"]))
def test_the_probabilities_of_all_outcomes_add_up_to_one(cluster, packet):
    node = load(cluster).node("node-a")
    assert sum(result.probability for result in node.outcomes(packet, "cni0")) == 1


@few
@given(strategies.clusters(), strategies.packets(sources=["203.0.113.9"], destinations=["192.168.0.11"]))
def test_the_same_seed_gives_the_same_walk(cluster, packet):
    node = load(cluster).node("node-b")
    assert node.fork().receive(packet, "eth0", seed=3).text() == node.fork().receive(packet, "eth0", seed=3).text()


@few
@given(strategies.rule_sets())
def test_print_then_parse_is_identity(text):
    xtables = parse_save(text, 4).xtables
    assert parse_save(print_save(xtables), 4).xtables == xtables


@few
@given(strategies.rule_sets(), strategies.packets())
def test_a_rule_set_lets_a_packet_through_or_ends_it(text, packet: Packet):
    node = Node(NodeState(iptables=parse_save(text, 4).xtables))
    assert node.receive(packet, "lo").verdict in ("forward", "local", "drop", "reject")

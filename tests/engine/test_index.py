"""The index of long chains is an optimisation only: it and the linear walk agree in everything."""

from hypothesis import given, settings

from dataplane.testing.strategies import packets, rule_sets
from tests.engine.lab import node


@settings(max_examples=150, deadline=None)
@given(rules=rule_sets(), packet=packets(sources=("10.1.2.3", "192.168.0.50"), destinations=("10.96.0.20", "10.244.1.5", "8.8.8.8"), ports=(53, 80, 1000, 2000)))
def test_index_agrees_with_linear_walk(rules, packet):
    fast, slow = node(rules).receive(packet, "eth0"), node(rules, linear=True).receive(packet, "eth0")
    assert (fast.verdict, fast.by, fast.visited, fast.packet) == (slow.verdict, slow.by, slow.visited, slow.packet)
    assert list(fast.rules()) == list(slow.rules())

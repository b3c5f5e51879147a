"""Graceful termination: what becomes of a real server that is no longer wanted, sync by sync and minute by minute."""

from __future__ import annotations


import pytest

from dataplane.inet import SCTP, TCP, UDP
from dataplane.proxy.ipvs_graceful import Name, Termination, advance, check
from dataplane.rules.ipvs import RealServer, VirtualServer


def service(*ends: int, protocol: int = TCP) -> VirtualServer:
    return VirtualServer(4, protocol, 1, 80, scheduler="rr", servers=tuple(RealServer(4, end, 8080) for end in ends))


def name(end: int, protocol: int = TCP) -> Name:
    return service(protocol=protocol).key, (4, end, 8080)


def weights(state: Termination) -> dict[int, int]:
    """Weight by real server, in the order of the kernel's list."""
    return {end.address: end.weight for one in state.servers for end in one.servers}


START = Termination((service(1, 2, 3),), next_check=60.0)


@pytest.mark.parametrize(
    ("protocol", "connections", "left"),
    [(TCP, 5, {1: 1, 2: 0}), (TCP, 0, {1: 1}), (UDP, 5, {1: 1}), (SCTP, 5, {1: 1})],
)
def test_only_tcp_real_servers_with_connections_are_drained(protocol: int, connections: int, left: dict[int, int]) -> None:
    before = Termination((service(1, 2, protocol=protocol),))
    after = advance(before, [service(1, protocol=protocol)], {name(2, protocol): connections}, 1.0)
    assert weights(after) == left
    assert after.draining == ({name(2)} if 0 in left.values() else frozenset())


def test_it_is_deleted_by_the_first_check_that_finds_no_connections() -> None:
    drained = advance(START, [service(1, 3)], {name(2): 5}, 10.0)
    assert weights(drained) == {1: 1, 2: 0, 3: 1}
    assert check(drained, {}, 59.9) == drained
    busy = check(drained, {name(2): 1}, 60.0)
    assert (weights(busy), busy.next_check) == ({1: 1, 2: 0, 3: 1}, 120.0)
    idle = check(busy, {}, 200.0)
    assert (weights(idle), idle.draining, idle.next_check) == ({1: 1, 3: 1}, frozenset(), 240.0)


def test_syncs_meanwhile_leave_it_alone() -> None:
    drained = advance(START, [service(1, 3)], {name(2): 5}, 10.0)
    assert advance(drained, [service(1, 3)], {}, 20.0) == drained


def test_one_that_comes_back_is_added_anew_behind_the_others() -> None:
    drained = advance(START, [service(1, 3)], {name(2): 5}, 10.0)
    back = advance(drained, [service(1, 2, 3)], {name(2): 5}, 20.0)
    assert list(weights(back).items()) == [(1, 1), (3, 1), (2, 1)]
    assert back.draining == frozenset()


def test_a_new_process_knows_nothing_of_the_list_and_gives_weight_back() -> None:
    drained = advance(START, [service(1, 3)], {name(2): 5}, 10.0)
    assert list(weights(advance(drained, [service(1, 2, 3)], {}, 20.0, first=True)).items()) == [(1, 1), (2, 1), (3, 1)]
    again = advance(drained, [service(1, 3)], {name(2): 5}, 20.0, first=True)
    assert (weights(again), again.draining) == ({1: 1, 2: 0, 3: 1}, {name(2)})


def test_a_virtual_server_that_is_not_wanted_goes_with_all_its_connections() -> None:
    other = service(7)._replace(port=81)
    drained = advance(START, [service(1, 3)], {name(2): 5}, 10.0)
    after = advance(drained, [other], {name(2): 5}, 20.0)
    assert (after.servers, after.draining) == ((other,), frozenset())

"""The schedulers of IPVS without a kernel: case tables and laws. The same choices as the kernel's: tests/kernel/test_ipvs_schedulers.py."""

from __future__ import annotations

import socket
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.choices import Seeded
from dataplane.engine.ipvs_dest import Dest, PacketKey, Service
from dataplane.engine.ipvs_hashing import folded, hash_32, hsiphash
from dataplane.engine.ipvs_schedulers import make_scheduler
from dataplane.rules.ipvs import SCHEDULERS

DAY = 24 * 3600.0


def service(name: str, *dests: Dest, flags: frozenset[str] = frozenset()) -> Service:
    """The first one given is the list's first."""
    made = Service(socket.AF_INET, socket.IPPROTO_TCP, 1, 80, scheduler=name, flags=flags)
    for dest in reversed(dests):
        made.add(dest)
    return made


def dest(number: int, weight: int = 1, active: int = 0, inactive: int = 0, overloaded: bool = False) -> Dest:
    return Dest(socket.AF_INET, number, 80, weight=weight, active=active, inactive=inactive, overloaded=overloaded)


def key(saddr: int = 1, daddr: int = 1, sport: int = 1000) -> PacketKey:
    return PacketKey(socket.AF_INET, socket.IPPROTO_TCP, saddr, daddr, sport, 80)


def chosen(scheduler: object, of: Service, packet: PacketKey | None = None, now: float = 0.0) -> int | None:
    found = scheduler.schedule(of, packet or key(), now, Seeded(0))  # type: ignore[attr-defined]
    return found.address if found else None


def run(of: Service, times: int) -> list[int | None]:
    scheduler = make_scheduler(of.scheduler, of)
    return [chosen(scheduler, of) for _ in range(times)]


@pytest.mark.parametrize(
    ("name", "dests", "expected"),
    [
        ("rr", [dest(1), dest(2), dest(3)], [1, 2, 3, 1]),
        ("rr", [dest(1, 0), dest(2), dest(3, overloaded=True)], [2, 2, 2]),
        ("wrr", [dest(1, 1), dest(2, 3)], [2, 2, 1, 2, 2, 2, 1, 2]),
        ("wrr", [dest(1, 2), dest(2, 4)], [2, 1, 2, 2, 1, 2]),
        ("wrr", [dest(1, 5, overloaded=True), dest(2, 1)], [2, 2]),
        ("wrr", [dest(1, 0), dest(2, 0)], [None]),
        ("lc", [dest(1, active=1), dest(2, 9, inactive=255), dest(3, 0)], [2]),
        ("lc", [dest(1, inactive=1), dest(2, 99, inactive=1)], [1]),
        ("wlc", [dest(1, 1, inactive=1), dest(2, 3, inactive=2)], [2]),
        ("wlc", [dest(1, 1, inactive=1), dest(2, 2, inactive=2)], [1]),
        ("wlc", [dest(1, 1, inactive=1, overloaded=True), dest(2, 1, active=9)], [2]),
        ("sed", [dest(1, 1), dest(2, 3, active=1)], [2]),
        ("sed", [dest(1, 1), dest(2, 2, active=1)], [1]),
        ("nq", [dest(1, 3, active=1), dest(2, 1)], [2]),
        ("nq", [dest(1, 1, active=1), dest(2, 3, active=1)], [2]),
        ("fo", [dest(1, 2), dest(2, 9, overloaded=True), dest(3, 2)], [1]),
        ("ovf", [dest(1, 2, active=3), dest(2, 1, active=1)], [2]),
        ("ovf", [dest(1, 2, active=2), dest(2, 1)], [1]),
    ],
)
def test_choices(name: str, dests: list[Dest], expected: list[int | None]) -> None:
    assert run(service(name, *[dest(d.address, d.weight, d.active, d.inactive, d.overloaded) for d in dests]), len(expected)) == expected


@pytest.mark.parametrize(("removed", "following"), [(1, 3), (2, 3), (3, 1)])
def test_rr_goes_on_where_it_was_when_one_is_removed(removed: int, following: int) -> None:
    of = service("rr", dest(1), dest(2), dest(3))
    scheduler = make_scheduler("rr", of)
    assert [chosen(scheduler, of) for _ in range(2)] == [1, 2]
    gone = next(one for one in of.dests if one.address == removed)
    of.dests.remove(gone)
    scheduler.dest_removed(of, gone)
    assert chosen(scheduler, of) == following


def test_rr_comes_to_an_added_one_when_the_list_starts_again() -> None:
    of = service("rr", dest(1), dest(2))
    scheduler = make_scheduler("rr", of)
    assert chosen(scheduler, of) == 1
    of.add(dest(3))
    scheduler.dest_added(of, of.dests[0])
    assert [chosen(scheduler, of) for _ in range(3)] == [2, 3, 1]


@pytest.mark.parametrize(("name", "flag"), [("sh", "sh-fallback"), ("mh", "mh-fallback")])
def test_a_quiesced_ones_clients_have_none_but_with_a_fallback(name: str, flag: str) -> None:
    for flags, given_none in ((frozenset[str](), True), (frozenset({flag}), False)):
        of = service(name, dest(1), dest(2), flags=flags)
        scheduler = make_scheduler(name, of)
        before = [chosen(scheduler, of, key(saddr)) for saddr in range(200)]
        of.dests[0].edit(0, 0, 0)
        scheduler.dest_changed(of, of.dests[0])
        after = [chosen(scheduler, of, key(saddr)) for saddr in range(200)]
        assert (None in after) is given_none
        assert 1 not in after
        if name == "mh":
            assert all(then == 2 for then, first in zip(after, before, strict=True) if first == 2)


def test_lblc_forgets_an_address_unused_for_a_day_at_a_full_check() -> None:
    for later, expected in ((DAY, 1), (DAY + 1800, 2)):
        of = service("lblc", dest(1), dest(2))
        scheduler = make_scheduler("lblc", of)
        assert chosen(scheduler, of, now=1.0) == 1
        of.dests[0].count(inactive=1)
        assert chosen(scheduler, of, now=later) == expected


def test_lblcr_takes_one_more_when_the_set_is_too_busy_and_one_less_after_a_day() -> None:
    of = service("lblcr", dest(1, 2), dest(2, 2))
    scheduler = make_scheduler("lblcr", of)
    assert chosen(scheduler, of) == 1
    of.dests[0].count(active=3)
    assert chosen(scheduler, of) == 2
    of.dests[0].count(active=-3)
    of.dests[1].count(active=1)
    assert chosen(scheduler, of, now=DAY / 2) == 1
    assert chosen(scheduler, of, now=DAY + 1) == 1  # and the other one, the busier, goes
    of.dests[0].count(active=2)
    assert chosen(scheduler, of, now=DAY + 2) == 1


def test_an_overload_begins_at_the_upper_threshold_and_ends_below_the_lower_one() -> None:
    one = Dest(socket.AF_INET, 1, 80, upper=4, lower=2)
    told = []
    for count, tell in ((3, one.bound), (4, one.bound), (3, one.unbound), (2, one.unbound), (1, one.unbound)):
        one.count(inactive=count - one.inactive)
        tell()
        told.append(one.overloaded)
    assert told == [False, True, True, True, False]
    one.edit(1, 0, 0)
    assert not one.overloaded


def test_hashes() -> None:
    assert hash_32(1, 8) == 0x61
    assert folded(socket.AF_INET6, 0x00000001_00000002_00000004_00000008) == 15
    assert 0 <= hsiphash(1, 2654435761) < 1 << 32


@given(st.sampled_from(sorted(SCHEDULERS)), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=8), st.data())
def test_a_copy_chooses_as_the_original_and_no_one_that_may_not_be_chosen(name: str, figures: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    of = service(name, *[dest(at, weight, active, overloaded=over) for at, (weight, active, over) in enumerate(figures)])
    scheduler = make_scheduler(name, of)
    for _ in range(data.draw(st.integers(0, 5))):
        chosen(scheduler, of)
    twin = of.copy()
    copied = scheduler.copy(twin)
    for saddr in data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=5)):
        found = scheduler.schedule(of, key(saddr), 0.0, Seeded(0))
        assert chosen(copied, twin, key(saddr)) == (found.address if found else None)
        assert found is None or (found.weight > 0 and not found.overloaded and found in of.dests)
        if found:
            twin_of = next(one for one in twin.dests if one.address == found.address)
            found.count(inactive=1)
            twin_of.count(inactive=1)


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**20), st.integers(0, 2**20), st.booleans()), max_size=8))
def test_kept_loads_choose_as_cross_products_do(figures: list[tuple[int, int, int, bool]]) -> None:
    of = service("wlc", *[dest(at, weight, overloaded=over) for at, (weight, _, _, over) in enumerate(figures)])
    for one, (_, active, inactive, _) in zip(of.dests, figures, strict=True):
        one.count(active, inactive)
    for name, cost in (("wlc", lambda one: one.active * 256 + one.inactive), ("sed", lambda one: one.active + 1)):
        takes = [one for one in of.dests if one.weight and not one.overloaded]
        least = min(takes, key=lambda one: Fraction(cost(one), one.weight), default=None)  # noqa: B023
        assert chosen(make_scheduler(name, of), of) == (least.address if least else None)

"""The matches that remember: statistic, recent, quota, connlimit, nfacct; and time."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from dataplane.engine.bind import HotDrop
from dataplane.engine.choices import Scripted, explore
from dataplane.engine.conntrack import Conn, inverse, tuple_of
from dataplane.engine.hooks import Hook, HookState, Unknown
from dataplane.engine.kernel import Kernel
from dataplane.engine.skb import CT_NEW, Skb
from dataplane.rules.network import Connection, Tuple
from tests.engine.lab import address
from tests.engine.rig import TCP, TCP6, Matcher, kernel, skb

# ---------------------------------------------------------------------- statistic


@pytest.mark.parametrize(("bang", "expected"), [("", Fraction(1, 4)), ("! ", Fraction(3, 4))])
def test_random_has_its_exact_probability(bang: str, expected: Fraction) -> None:
    asks = Matcher(f"-m statistic --mode random {bang}--probability 0.25")

    def walk(choices: object) -> bool:
        asks.kernel.choices = choices  # type: ignore[assignment]  # explore's own
        return asks()

    assert sum(probability for probability, hit in explore(walk) if hit) == expected


def test_certainty_asks_nobody() -> None:
    asks = Matcher("-m statistic --mode random --probability 1")
    asks.kernel.choices = choices = Scripted()
    assert asks() is True
    assert choices.asked == []


@pytest.mark.parametrize(
    ("options", "hits"),
    [
        ("--every 3 --packet 0", "X..X..X"),
        ("--every 3 --packet 2", "..X..X."),
        ("--every 1 --packet 0", "XXXXXXX"),
        ("--every 10 --packet 6", "......X"),
    ],
)
def test_every_nth_packet(options: str, hits: str) -> None:
    asks = Matcher(f"-m statistic --mode nth {options}")
    assert "".join(".X"[asks()] for _ in hits) == hits


def test_two_rules_count_apart_and_forks_too() -> None:
    machine = kernel()
    first = Matcher("-m statistic --mode nth --every 2 --packet 0", on=machine)
    second = Matcher("-m statistic --mode nth --every 2 --packet 0", on=machine, number=2)
    assert (first(), second()) == (True, True)
    saved = {key: value.copy() for key, value in machine.memory.items()}
    assert (first(), first()) == (False, True)
    machine.memory = saved
    assert first() is False


# ---------------------------------------------------------------------- recent


def _asks(machine: Kernel, options: str, number: int = 1, family: int = 4) -> Matcher:
    return Matcher(f"-m recent {options}", on=machine, number=number, family=family)


def test_affinity_as_kube_proxy_writes_it() -> None:
    machine = kernel()
    check = _asks(machine, "--name SEP --rcheck --seconds 10800 --reap --rsource")
    put = _asks(machine, "--name SEP --set --rsource", 2)
    assert check(at=0) is False
    assert put() is True
    assert check(at=10800) is True
    assert check(at=10800.004) is False
    assert check(at=0) is False  # reaped


@pytest.mark.parametrize(
    ("options", "bang_less"),
    [("--set", True), ("--rcheck", False), ("--update", False), ("--remove", False)],
)
def test_an_address_never_seen(options: str, bang_less: bool) -> None:
    assert _asks(kernel(), options)() is bang_less
    assert _asks(kernel(), f"! {options}")() is not bang_less


def test_lists_are_shared_by_name_and_by_both_families() -> None:
    machine = kernel()
    assert _asks(machine, "--name A --set")() is True
    assert _asks(machine, "--name A --rcheck", 2)() is True
    assert _asks(machine, "--name B --rcheck", 3)() is False
    assert _asks(machine, "--name A --rcheck", 4, 6)(TCP6) is False


def test_source_and_destination_and_masks() -> None:
    machine = kernel()
    _asks(machine, "--name A --set --rdest")()
    assert _asks(machine, "--name A --rcheck --rsource", 2)(saddr=address("198.51.100.2")) is True
    masked = _asks(machine, "--name M --set --mask 255.255.255.0", 3)
    masked(saddr=address("192.0.2.77"))
    assert _asks(machine, "--name M --rcheck --mask 255.255.255.0", 4)(saddr=address("192.0.2.5")) is True
    assert _asks(machine, "--name M --rcheck", 5)(saddr=address("192.0.2.5")) is True  # the first rule's mask is the list's


def test_hits_within_seconds() -> None:
    machine = kernel()
    put = _asks(machine, "--name A --set")
    often = _asks(machine, "--name A --rcheck --seconds 10 --hitcount 3", 2)
    for moment in (0, 4, 8):
        put(at=moment)
    assert often(at=8) is True
    assert often(at=10) is True
    assert often(at=10.1) is False
    put(at=12)
    assert often(at=14) is True


def test_update_renews_only_when_it_matches() -> None:
    machine = kernel()
    _asks(machine, "--name A --set")(at=0)
    update = _asks(machine, "--name A --update --seconds 5", 2)
    assert [update(at=moment) for moment in (4, 8, 12, 18)] == [True, True, True, False]


def test_remove_forgets() -> None:
    machine = kernel()
    _asks(machine, "--name A --set")()
    remove = _asks(machine, "--name A --remove", 2)
    assert [remove(), remove()] == [True, False]


def test_rttl_wants_the_same_ttl_as_it_came_in() -> None:
    machine = kernel()
    prerouting = HookState(Hook.PREROUTING, "eth0", "")
    _asks(machine, "--name A --set")(TCP, prerouting, ttl=60)
    check = _asks(machine, "--name A --rcheck --rttl", 2)
    assert check(TCP, prerouting, ttl=60) is True
    assert check(TCP, prerouting, ttl=59) is False
    assert check(TCP, ttl=59) is True  # FORWARD: one hop later


def test_the_hundred_and_first_address_puts_out_the_one_longest_not_seen() -> None:
    machine = kernel()
    put, check = _asks(machine, "--name A --set"), _asks(machine, "--name A --rcheck", 2)
    for last in range(100):
        put(saddr=last)
    put(saddr=0)
    put(saddr=1000)
    assert check(saddr=0) is True
    assert check(saddr=1) is False
    assert check(saddr=2) is True


# ---------------------------------------------------------------------- quota, nfacct


def test_quota_ends_with_the_first_packet_that_does_not_fit() -> None:
    asks = Matcher("-m quota --quota 100")
    assert [asks(length=60), asks(length=60), asks(length=20)] == [True, False, False]
    inverted = Matcher("-m quota ! --quota 100")
    assert [inverted(length=60), inverted(length=60)] == [False, True]


def test_nfacct_always_matches() -> None:
    assert Matcher("-m nfacct --nfacct-name all")() is True


# ---------------------------------------------------------------------- connlimit


def _opening(port: int, machine: Kernel, *, confirm: bool = True) -> Skb:
    packet = skb(TCP, sport=port)
    packet.conn = Conn(4, tuple_of(packet), inverse(tuple_of(packet)))
    packet.conn.packets[0] = 1
    packet.conn.timeout = 100.0
    packet.ctinfo = CT_NEW
    if confirm:
        machine.conntrack.insert(packet.conn, machine.now)
    return packet


def test_connlimit_counts_the_connections_it_has_seen() -> None:
    machine = kernel()
    above = Matcher("-m connlimit --connlimit-above 2", on=machine)
    upto = Matcher("-m connlimit --connlimit-upto 2", on=machine, number=2)
    packets = [_opening(port, machine) for port in (1001, 1002, 1003)]
    assert [above(packet) for packet in packets] == [False, False, True]
    assert [upto(packet) for packet in packets] == [True, True, False]
    assert above(packets[0]) is True  # counted once


def test_connlimit_forgets_what_was_dropped_or_is_over() -> None:
    machine = kernel()
    above = Matcher("-m connlimit --connlimit-above 1", on=machine)
    above(_opening(1001, machine, confirm=False))
    assert above(_opening(1002, machine)) is False
    assert above(_opening(1003, machine)) is True
    machine.now = 200.0
    assert above(_opening(1004, machine)) is False


def test_connlimit_by_net_and_destination() -> None:
    machine = kernel()
    by_net = Matcher("-m connlimit --connlimit-above 1 --connlimit-mask 24", on=machine)
    by_net(_opening(1001, machine))
    other = _opening(1002, machine)
    other.saddr = address("192.0.2.99")
    assert by_net(other) is True
    by_address = Matcher("-m connlimit --connlimit-above 1 --connlimit-daddr", on=machine, number=2)
    assert [by_address(_opening(port, machine)) for port in (1003, 1004)] == [False, True]


def test_connlimit_drops_what_has_no_connection() -> None:
    with pytest.raises(HotDrop):
        Matcher("-m connlimit --connlimit-above 1")()


def test_whether_the_rule_has_seen_a_snapshots_connection_is_unknown_where_it_matters() -> None:
    old = Tuple(address("192.0.2.1"), address("198.51.100.2"), 6, 999, 80)
    machine = kernel(connections=(Connection(4, 6, old, inverse(old), 1000, "ESTABLISHED"),))
    assert Matcher("-m connlimit --connlimit-above 5", on=machine)(_opening(1001, machine)) is False
    with pytest.raises(Unknown, match="snapshot"):
        Matcher("-m connlimit --connlimit-above 1", on=machine, number=2)(_opening(1001, machine))


# ---------------------------------------------------------------------- time


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("options", "moment", "expected"),
    [
        ("--timestart 09:00 --timestop 17:00", "2026-11-23T09:00:00", True),
        ("--timestart 09:00 --timestop 17:00", "2026-11-23T17:00:00", True),
        ("--timestart 09:00 --timestop 17:00", "2026-11-23T17:00:01", False),
        ("--timestart 22:00 --timestop 02:00", "2026-11-23T23:00:00", True),
        ("--timestart 22:00 --timestop 02:00", "2026-11-23T03:00:00", False),
        ("--weekdays Mon", "2026-11-23T12:00:00", True),
        ("--weekdays Tue,Wed", "2026-11-23T12:00:00", False),
        ("! --weekdays Tue,Wed", "2026-11-23T12:00:00", True),
        ("--monthdays 22,23", "2026-11-23T12:00:00", True),
        ("--monthdays 24", "2026-11-23T12:00:00", False),
        ("--timestart 22:00 --timestop 02:00 --weekdays Mon", "2026-11-24T01:00:00", False),
        ("--timestart 22:00 --timestop 02:00 --weekdays Mon --contiguous", "2026-11-24T01:00:00", True),
        ("--datestart 2026-11-23 --datestop 2026-11-23T12", "2026-11-23T12:00:00", True),
        ("--datestart 2026-11-23 --datestop 2026-11-23T12", "2026-11-23T12:00:01", False),
        ("--datestart 2027", "2026-11-23T12:00:00", False),
    ],
)
def test_times(options: str, moment: str, expected: bool) -> None:
    asks = Matcher(f"-m time {options}", on=kernel(wall=_at(moment) - 60))
    assert asks(at=60) is expected


@pytest.mark.parametrize("options", ["--timestart 09:00 --kerneltz", "--timestart 09:00"])
def test_a_time_nobody_told_is_unknown(options: str) -> None:
    with pytest.raises(Unknown):
        Matcher(f"-m time {options}")()

"""Token buckets: -m limit and -m hashlimit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dataplane.engine.bind import HotDrop
from tests.engine.lab import address
from tests.engine.rig import TCP, TCP6, Matcher, kernel


def hits(asks: Matcher, moments: Sequence[float], **fields: int) -> str:
    return "".join(".X"[asks(at=moment, **fields)] for moment in moments)


@pytest.mark.parametrize(
    ("options", "moments", "expected"),
    [
        ("", [0] * 6, "XXXXX."),  # 3 an hour, 5 at once
        ("--limit 1/s --limit-burst 3", [0, 0, 0, 0, 0.9, 1.0, 1.5, 2.0], "XXX..X.X"),
        ("--limit 1/s --limit-burst 2", [0, 0, 0, 10, 10, 10], "XX.XX."),
        ("--limit 10/s --limit-burst 1", [0, 0.05, 0.1, 0.15, 0.2], "X.X.X"),
        ("--limit 1/m --limit-burst 1", [0, 59.9, 60], "X.X"),
        ("--limit 2/d --limit-burst 1", [0, 43199, 43200], "X.X"),
    ],
)
def test_limit(options: str, moments: Sequence[float], expected: str) -> None:
    assert hits(Matcher(f"-m limit {options}"), moments) == expected


def test_each_rule_has_its_own_limit() -> None:
    machine = kernel()
    asks = [Matcher("-m limit --limit 1/h --limit-burst 1", on=machine, number=number) for number in (1, 2)]
    assert [one() for one in (*asks, *asks)] == [True, True, False, False]


def test_a_bucket_can_be_forked() -> None:
    machine = kernel()
    asks = Matcher("-m limit --limit 1/h --limit-burst 2", on=machine)
    asks()
    saved = {key: value.copy() for key, value in machine.memory.items()}
    assert [asks(), asks()] == [True, False]
    machine.memory = saved
    assert asks() is True


HASH = "--hashlimit-mode srcip --hashlimit-name t"


@pytest.mark.parametrize(
    ("options", "moments", "expected"),
    [
        (f"--hashlimit-upto 1/s --hashlimit-burst 3 {HASH}", [0, 0, 0, 0, 0.9, 1.0], "XXX..X"),
        (f"--hashlimit-above 1/s --hashlimit-burst 3 {HASH}", [0, 0, 0, 0, 0.9, 1.0], "...XX."),
        (f"! --hashlimit-upto 1/s --hashlimit-burst 3 {HASH}", [0, 0, 0, 0], "...X"),
        (f"--hashlimit-upto 1/m {HASH}", [0] * 6, "XXXXX."),
        # an idle entry is forgotten after a unit of its rate, and begins anew with a full burst
        (f"--hashlimit-upto 1/s --hashlimit-burst 2 {HASH}", [0, 0, 0, 0.5, 1.0, 1.0, 3.0, 3.0], "XX..X.XX"),
        (f"--hashlimit-upto 1/s --hashlimit-burst 2 --hashlimit-htable-expire 9000 {HASH}", [0, 0, 0, 1.5, 1.5], "XX.X."),
    ],
)
def test_hashlimit(options: str, moments: Sequence[float], expected: str) -> None:
    assert hits(Matcher(f"-m hashlimit {options}"), moments) == expected


def test_hashlimit_counts_apart_what_its_mode_tells_apart() -> None:
    asks = Matcher("-m hashlimit --hashlimit-upto 1/h --hashlimit-burst 1 --hashlimit-mode srcip,dstport --hashlimit-name t")
    assert hits(asks, [0, 0]) == "X."
    assert hits(asks, [0, 0], dport=81) == "X."
    assert hits(asks, [0, 0], saddr=address("192.0.2.2")) == "X."
    assert hits(asks, [0], sport=7) == "."


def test_hashlimit_by_net() -> None:
    options = "--hashlimit-upto 1/h --hashlimit-burst 1 --hashlimit-mode srcip --hashlimit-srcmask 24 --hashlimit-name t"
    asks = Matcher(f"-m hashlimit {options}")
    assert hits(asks, [0]) == "X"
    assert hits(asks, [0], saddr=address("192.0.2.77")) == "."
    assert hits(asks, [0], saddr=address("192.0.3.1")) == "X"


def test_tables_are_shared_by_name_within_a_family() -> None:
    machine = kernel()
    options = f"-m hashlimit --hashlimit-upto 1/h --hashlimit-burst 1 {HASH}"
    assert Matcher(options, on=machine)() is True
    assert Matcher(options, on=machine, number=2)() is False
    assert Matcher(options, on=machine, number=3, family=6)(TCP6) is True


def test_hashlimit_by_port_drops_a_fragment_without_ports() -> None:
    asks = Matcher("-m hashlimit --hashlimit-upto 1/h --hashlimit-mode srcport --hashlimit-name t")
    with pytest.raises(HotDrop):
        asks(TCP, fragment_offset=1480)


def test_a_full_table_drops() -> None:
    sizes = "--hashlimit-htable-size 2 --hashlimit-htable-max 2"
    asks = Matcher(f"-m hashlimit --hashlimit-upto 1/h {sizes} {HASH}")
    for last in (1, 2):
        assert asks(saddr=last) is True
    with pytest.raises(HotDrop):
        asks(saddr=3)
    assert asks(saddr=1) is True


def test_a_rate_in_bytes() -> None:
    """1000-byte packets at 16 kB a second: 16 of them in the first second, then as many as flow in again."""
    asks = Matcher(f"-m hashlimit --hashlimit-upto 16kb/s {HASH}")
    first = hits(asks, [0] * 20, length=1000)
    assert first.count("X") in (15, 16)
    assert first.rstrip(".") == "X" * first.count("X")
    assert hits(asks, [0.5] * 10, length=1000).count("X") in (7, 8)


def test_a_burst_in_bytes_is_so_many_seconds_more() -> None:
    asks = Matcher(f"-m hashlimit --hashlimit-upto 16kb/s --hashlimit-burst 32kb {HASH}")
    assert 44 <= hits(asks, [0] * 60, length=1000).count("X") <= 50


def test_rate_match_counts_whole_windows() -> None:
    options = "--hashlimit-upto 5/s --hashlimit-rate-match --hashlimit-rate-interval 1 --hashlimit-htable-expire 9000"
    asks = Matcher(f"-m hashlimit {options} {HASH}")
    moments = [0.0] * 12 + [1.0] * 2 + [2.0] * 2
    assert hits(asks, moments) == "XXXXXXXXXX.." + ".." + "XX"

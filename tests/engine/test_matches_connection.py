"""What -m conntrack, state, connmark, connbytes, connlabel and helper ask of a packet's connection."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.conntrack import Conn
from dataplane.engine.hooks import Unknown
from dataplane.engine.skb import CT_NEW, CT_RELATED_REPLY, CT_UNTRACKED
from dataplane.rules.network import Tuple
from tests.engine.lab import address
from tests.engine.rig import TCP, Matcher, answer, kernel, skb

YES, NO = True, False
ORIGINAL = Tuple(address("192.0.2.1"), address("198.51.100.2"), 6, 40000, 80)


def conn(**fields: Any) -> Conn:
    """A connection whose destination is translated to 10.244.1.9:8080."""
    reply = Tuple(address("10.244.1.9"), address("192.0.2.1"), 6, 8080, 40000)
    made = Conn(4, ORIGINAL, reply, 0)
    made.dnat = True
    for name, value in fields.items():
        setattr(made, name, value)
    return made


STATES: list[tuple[str, int | None, bool, bool]] = [
    # match, ctinfo, with a connection, expected
    ("--ctstate NEW", CT_NEW, True, YES),
    ("--ctstate NEW", 0, True, NO),
    ("--ctstate ESTABLISHED", 0, True, YES),
    ("--ctstate ESTABLISHED", 3, True, YES),
    ("--ctstate RELATED,ESTABLISHED", 4, True, YES),
    ("--ctstate RELATED,ESTABLISHED", CT_NEW, True, NO),
    ("! --ctstate RELATED,ESTABLISHED", CT_NEW, True, YES),
    ("--ctstate INVALID", None, False, YES),
    ("--ctstate INVALID", CT_NEW, True, NO),
    ("! --ctstate INVALID", None, False, NO),
    ("--ctstate UNTRACKED", CT_UNTRACKED, False, YES),
    ("--ctstate INVALID", CT_UNTRACKED, False, NO),
    ("--ctstate DNAT", CT_NEW, True, YES),
    ("--ctstate SNAT", CT_NEW, True, NO),
    ("! --ctstate DNAT", CT_NEW, True, NO),
    ("--ctstate DNAT", None, False, NO),
    ("--ctstate NEW", CT_NEW, False, YES),  # a template of -j CT
]


@pytest.mark.parametrize(("text", "ctinfo", "with_conn", "expected"), STATES)
def test_states(text: str, ctinfo: int | None, with_conn: bool, expected: bool) -> None:
    packet = skb(TCP, ctinfo=ctinfo, conn=conn() if with_conn else None)
    assert answer(f"-m conntrack {text}", packet) == expected
    if "DNAT" not in text and "SNAT" not in text:
        assert answer(f"-m state {text.replace('ctstate', 'state')}", packet) == expected


TUPLES: list[tuple[str, bool]] = [
    ("--ctproto tcp", YES),
    ("! --ctproto tcp", NO),
    ("--ctorigsrc 192.0.2.0/24", YES),
    ("--ctorigdst 198.51.100.2", YES),
    ("--ctorigdst 10.244.1.9", NO),
    ("--ctreplsrc 10.244.0.0/16", YES),
    ("! --ctreplsrc 10.244.0.0/16", NO),
    ("--ctrepldst 192.0.2.1", YES),
    ("--ctorigsrcport 40000", YES),
    ("--ctorigdstport 79:81", YES),
    ("--ctorigdstport 81:90", NO),
    ("--ctreplsrcport 8080", YES),
    ("--ctrepldstport 40000", YES),
    ("! --ctrepldstport 40000", NO),
    ("--ctdir ORIGINAL", YES),
    ("--ctdir REPLY", NO),
    ("--ctstate NEW --ctproto udp", NO),
    ("--ctstate NEW --ctorigdstport 80 --ctdir ORIGINAL", YES),
]


@pytest.mark.parametrize(("text", "expected"), TUPLES)
def test_tuples(text: str, expected: bool) -> None:
    assert answer(f"-m conntrack {text}", skb(TCP, ctinfo=CT_NEW, conn=conn())) == expected


def test_replies_are_told_by_ctdir() -> None:
    assert answer("-m conntrack --ctdir REPLY", skb(TCP, ctinfo=CT_RELATED_REPLY, conn=conn())) is True


@pytest.mark.parametrize("text", ["--ctproto tcp", "! --ctproto udp", "! --ctstatus ASSURED", "--ctdir ORIGINAL"])
def test_without_a_connection_nothing_but_the_state_holds(text: str) -> None:
    assert answer(f"-m conntrack {text}", skb(TCP, ctinfo=None)) is False
    assert answer(f"-m conntrack --ctstate INVALID {text}", skb(TCP, ctinfo=None)) is True


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("--ctstatus SEEN_REPLY", {"seen_reply": True}, YES),
        ("--ctstatus ASSURED,EXPECTED", {"seen_reply": True}, NO),
        ("--ctstatus CONFIRMED", {"confirmed": True}, YES),
        ("! --ctstatus CONFIRMED", {"confirmed": True}, NO),
        ("--ctstatus NONE", {}, NO),
        ("! --ctstatus NONE", {}, YES),
        ("--ctexpire 29:30", {"timeout_at": 30.5}, YES),
        ("--ctexpire 31", {"timeout_at": 30.5}, NO),
        ("--ctexpire 0", {}, YES),
    ],
)
def test_status_and_time_left(text: str, fields: dict[str, Any], expected: bool) -> None:
    assert answer(f"-m conntrack {text}", skb(TCP, ctinfo=CT_NEW, conn=conn(**fields))) == expected


@pytest.mark.parametrize(
    ("text", "mark", "expected"),
    [("0x4000/0x4000", 0x4001, YES), ("0x4000", 0x4001, NO), ("0x1/0x1", 0x4000, NO)],
)
def test_marks_of_connection_and_packet(text: str, mark: int, expected: bool) -> None:
    packet = skb(TCP, ctinfo=CT_NEW, conn=conn(mark=mark), mark=mark)
    assert answer(f"-m connmark --mark {text}", packet) == expected
    assert answer(f"-m connmark ! --mark {text}", packet) != expected
    assert answer(f"-m mark --mark {text}", packet) == expected
    assert answer(f"-m mark ! --mark {text}", packet) != expected


def test_no_connection_has_no_mark_not_even_another() -> None:
    assert answer("-m connmark ! --mark 1", skb(TCP)) is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--connbytes 10:20 --connbytes-dir original --connbytes-mode packets", YES),
        ("--connbytes 11:20 --connbytes-dir original --connbytes-mode packets", NO),
        ("! --connbytes 11:20 --connbytes-dir original --connbytes-mode packets", YES),
        ("--connbytes 15: --connbytes-dir both --connbytes-mode packets", YES),
        ("--connbytes :500 --connbytes-dir reply --connbytes-mode bytes", YES),
        ("--connbytes 100 --connbytes-dir both --connbytes-mode avgpkt", YES),
        ("--connbytes 101 --connbytes-dir both --connbytes-mode avgpkt", NO),
        ("! --connbytes 10:10 --connbytes-dir original --connbytes-mode packets", YES),  # an empty inversion is none
    ],
)
def test_counters(text: str, expected: bool) -> None:
    packet = skb(TCP, ctinfo=0, conn=conn(packets=[10, 5], bytes=[1000, 500]))
    assert answer(f"-m connbytes {text}", packet) == expected
    assert answer(f"-m connbytes {text}", skb(TCP)) is False


def test_labels_are_set_and_asked() -> None:
    packet = skb(TCP, ctinfo=CT_NEW, conn=conn())
    assert answer("-m connlabel --label 3", packet) is False
    assert answer("-m connlabel ! --label 3", packet) is True
    assert answer("-m connlabel --label 3 --set", packet) is True
    assert answer("-m connlabel --label 3", packet) is True
    assert answer("-m connlabel ! --label 3", skb(TCP)) is True


def test_a_label_by_name_is_unknown() -> None:
    with pytest.raises(Unknown, match='"gold"'):
        answer("-m connlabel --label gold", skb(TCP, ctinfo=CT_NEW, conn=conn()))


def test_a_cluster_divides_the_sources() -> None:
    """Exactly one of the nodes answers a source; which, the kernel's own tests tell."""
    packet = skb(TCP, ctinfo=CT_NEW, conn=conn())
    text = "-m cluster --cluster-total-nodes 4 --cluster-hash-seed 7 --cluster-local-node"
    assert sum(answer(f"{text} {node}", packet) for node in range(1, 5)) == 1
    assert answer("-m cluster --cluster-total-nodes 4 --cluster-hash-seed 7 ! --cluster-local-nodemask 0xf", packet) is False
    assert answer(f"{text} 1", skb(TCP)) is False


def test_a_connection_nobody_expected_has_no_helper() -> None:
    assert answer('-m helper --helper "ftp"', skb(TCP, ctinfo=CT_NEW, conn=conn(helper="ftp"))) is False
    assert answer('-m helper ! --helper "ftp"', skb(TCP, ctinfo=CT_NEW, conn=conn())) is True
    with pytest.raises(Unknown, match="expected"):
        answer('-m helper --helper "ftp"', skb(TCP, ctinfo=CT_NEW, conn=conn(expected=True)))


def test_what_is_assumed_is_noted() -> None:
    machine = kernel(assume=True)
    asks = Matcher('-m helper --helper "ftp"', on=machine)
    assert asks(TCP, ctinfo=CT_NEW, conn=conn(expected=True)) is True
    assert machine.notes == [
        "filter FORWARD rule 1: -m helper: which helper expected the connection is not known; assumed to match"
    ]

"""Packets as JSON lines: numbers that fit, answers to what a packet became, and every mistake with its file and line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.cli import packets
from dataplane.cli.dialogue import Dialogue
from dataplane.cli.packet_json import read_line
from dataplane.errors import ParseError
from dataplane.node import load
from dataplane.packet import ACK, FIN, SYN
from tests.test_rulesets import RULESETS

ASK = {"id": 1, "in": "cni0", "src": "10.244.1.9", "dst": "10.96.0.20", "proto": "tcp", "sport": 40000, "dport": 80}


def answered(lines, tmp_path, capsys, case="cluster-ip", **options):
    file = tmp_path / "packets.jsonl"
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    packets.run(load(RULESETS / case).node("node-a"), str(file), everything=options.get("everything", False), seed=0)
    return {record["id"]: record["outcomes"] for record in map(json.loads, capsys.readouterr().out.splitlines())}


def test_a_whole_conversation_stays_in_the_window(tmp_path, capsys):
    lines = [
        ASK, {"id": 2, "reply_to": 1}, {**ASK, "id": 3, "flags": "A"}, {**ASK, "id": 4, "flags": "PA", "length": 500},
        {"id": 5, "reply_to": 4, "length": 1000}, {**ASK, "id": 6, "flags": "FA"}, {"id": 7, "reply_to": 6, "flags": "FA"},
        {**ASK, "id": 8, "flags": "A"},
    ]  # fmt: skip
    found = answered(lines, tmp_path, capsys)
    assert {outcomes[0]["verdict"] for outcomes in found.values()} == {"forward"}
    assert {found[number][0]["packet"]["src"] for number in (2, 5, 7)} == {"10.96.0.20"}
    assert len({found[number][0]["packet"]["dst"] for number in (1, 3, 4, 6, 8)}) == 1


def test_with_all_each_packet_starts_afresh(tmp_path, capsys):
    found = answered([ASK, {**ASK, "id": 2}], tmp_path, capsys, everything=True)
    assert [one["probability"] for one in found[1]] == ["1/2", "1/2"]
    assert found[1] == found[2]


def test_an_answer_to_nothing_comes_to_nothing(tmp_path, capsys):
    found = answered([{**ASK, "proto": "udp"}, {**ASK, "id": 2}, {"id": 3, "reply_to": 2}, {"id": 4, "reply_to": 3}], tmp_path, capsys, "no-endpoints")
    assert found[2][0]["verdict"] == "reject"
    assert found[2][0]["reply"] == {"src": "10.244.1.1", "dst": "10.244.1.9", "proto": "icmp", "type": 3, "code": 3}
    assert found[3] == found[4] == []


def test_what_was_delivered_is_answered_by_the_node_itself(tmp_path, capsys):
    ask = {"id": "a", "in": "eth0", "src": "203.0.113.9", "dst": "192.168.0.11", "proto": "icmp", "sport": 77}
    found = answered([ask, {"id": "b", "reply_to": "a"}], tmp_path, capsys)
    assert (found["a"][0]["verdict"], found["b"][0]["verdict"], found["b"][0]["oif"]) == ("local", "forward", "eth0")
    assert found["b"][0]["packet"] == {
        "src": "192.168.0.11", "dst": "203.0.113.9", "proto": "icmp", "sport": 77, "dport": None, "ttl": 64, "mark": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("at", "verdict"), [(119, "forward"), (121, "drop")])
def test_the_virtual_clock_lets_a_connection_expire(at, verdict, tmp_path, capsys):
    assert answered([ASK, {"id": 2, "reply_to": 1, "at": at}], tmp_path, capsys)[2][0]["verdict"] == verdict


WRONG = [
    ("{", "2:2: invalid JSON: Expecting property name enclosed in double quotes"),
    ("[1]", '2: expected an object such as {"id": 1, "in": "eth0", …}, got [1]'),
    ("[" * 100_000, "2: invalid JSON: too deep, or a number too long"),
    ({**ASK, "colour": 1}, '2: unknown field "colour": expected some of id, in, src, dst, proto, sport'),
    ({**ASK, "sport": 65536}, "2: sport: expected a number from 0 to 65535, got 65536"),
    ({**ASK, "sport": True}, "2: sport: expected a number from 0 to 65535, got true"),
    ({**ASK, "sport": "80"}, '2: sport: expected a number from 0 to 65535, got "80"'),
    ({**ASK, "src": "web"}, '2: src: expected an IP address, got "web"'),
    ({**ASK, "src": "::1"}, "2: src is IPv6, dst IPv4"),
    ({**ASK, "src": None}, "2: src is needed where there is no reply_to"),
    ({**ASK, "proto": "tpc"}, '2: proto: expected tcp, udp, sctp or icmp, got "tpc"'),
    ({**ASK, "flags": "SX"}, '2: flags: expected letters of FSRPAUEC, got "SX"'),
    ({**ASK, "id": [1]}, "2: id: expected a number or a string, got [1]"),
    ({**ASK, "in": 3}, "2: in: expected a string, got 3"),
    ({**ASK, "in": "eth9"}, '2: no interface "eth9" on this node: it has lo, eth0, cni0'),
    ({"id": 3, "reply_to": 99}, "2: reply_to: no packet with id 99 before this line"),
    ({**ASK, "at": -1}, "2: at: expected seconds on the virtual clock, got -1"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_line_is_named(line, message, tmp_path, capsys):
    with pytest.raises(ParseError) as raised:
        answered([ASK, line if isinstance(line, str) else json.dumps(line)], tmp_path, capsys)
    assert str(raised.value).startswith(f"{tmp_path}/packets.jsonl:{message}")


def test_bytes_that_are_no_text_are_named(tmp_path):
    file = tmp_path / "packets.jsonl"
    file.write_bytes(b'{"id": 1}\n\xff\xfe\n')
    with pytest.raises(ParseError, match=r"packets\.jsonl:\d: not UTF-8"):
        packets.run(load(RULESETS / "cluster-ip").node("node-a"), str(file), everything=False, seed=0)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.sampled_from([*ASK, "mac", "at"]), inner)).map(json.dumps))
def test_any_line_is_read_or_refused(text):
    try:
        read_line(text, "f", 1)
    except ParseError as error:
        assert str(error).startswith("f:1")


def test_numbers_go_on_from_what_was_given():
    dialogue = Dialogue()
    assert dialogue.numbers(0, SYN, 0, None, None) == (1000, 0)
    assert dialogue.numbers(1, SYN | ACK, 0, 0xFFFFFFFF, None) == (0xFFFFFFFF, 1001)
    assert dialogue.numbers(0, ACK, 10, None, None) == (1001, 0)
    assert dialogue.numbers(0, ACK | FIN, 0, None, None) == (1011, 0)
    assert dialogue.numbers(1, ACK, 0, None, None) == (0, 1012)

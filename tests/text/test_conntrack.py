"""``conntrack -L -o extended``: identity with the real command, the model's fields, bad input, arbitrary input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import parse_address
from dataplane.rules.network import Connection, Tuple
from dataplane.text.conntrack import parse_connections, print_connections
from tests.text.referee import in_netns, sample

SAVED = sample("conntrack.txt")
CONNECTIONS = """
ip link set lo up
sysctl -q -w net.netfilter.nf_conntrack_acct=$ACCT net.netfilter.nf_conntrack_timestamp=$ACCT
c() { conntrack -I -t 100 "$@" > /dev/null 2>&1; }
E="-s 10.0.0.1 -d 10.0.0.2"
c -p tcp $E --sport 1000 --dport 80 --state ESTABLISHED -u ASSURED,SEEN_REPLY
c -p tcp $E --sport 1001 --dport 80 --state SYN_SENT
c -p tcp $E --sport 1003 --dport 80 --state TIME_WAIT -u SEEN_REPLY -m 0x55
c -p tcp -s fd00::1 -d fd00::2 --sport 1000 --dport 80 --state ESTABLISHED -u ASSURED,SEEN_REPLY
c -p udp $E --sport 1003 --dport 80 -u SEEN_REPLY,ASSURED -m 5
c -p udp $E --sport 1004 --dport 80 -w 7
c -p udp $E --sport 1005 --dport 80 --orig-zone 8
c -p udp $E --sport 1005 --dport 80 --reply-zone 9
c -p udp $E --sport 1006 --dport 80 --dst-nat 1.2.3.4:99
c -p icmp $E --icmp-type 8 --icmp-code 0 --icmp-id 77
S="--reply-port-src 6 --reply-port-dst 5 --orig-vtag 10 --reply-vtag 20"
c -p sctp $E --orig-port-src 5 --orig-port-dst 6 $S --state ESTABLISHED
c -p udplite $E --orig-port-src 5 --orig-port-dst 6
c -p gre $E --orig-key-src 5 --orig-key-dst 6
c -p 89 $E
c -p 200 $E
iptables -t raw -A OUTPUT -p tcp --dport 21 -j CT --helper ftp
python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 21)); s.listen(); c = socket.create_connection(("127.0.0.1", 21))'
"""


TCP = "ipv4     2 tcp      6 99 ESTABLISHED "
REPLY = "src=2.2.2.2 dst=1.1.1.1 sport=6 dport=5"
WHERE = "[ipv4 2] tcp 6 TIMEOUT [STATE] src=… dst=… … src=… dst=… …"
ONE, TWO = 0x01010101, 0x02020202


def one(line: str) -> Connection:
    """The connection of one line."""
    return parse_connections(line)[0]


def test_print_then_parse_is_identity() -> None:
    assert print_connections(parse_connections(SAVED)) == SAVED


@pytest.mark.parametrize("accounting", ["0", "1"])
def test_real_connections_print_back_byte_for_byte(accounting: str) -> None:
    text = in_netns(
        f"ACCT={accounting}\n{CONNECTIONS}\nconntrack -L -o extended 2>/dev/null", "conntrack", "iptables", "python3"
    )
    assert print_connections(parse_connections(text)) == text
    assert text.count("\n") >= 15


def test_all_listings_of_one_table_are_the_same() -> None:
    script = (
        f"ACCT=0\n{CONNECTIONS}\nconntrack -L -o extended 2>&1\necho ---\nconntrack -L\necho ---\ncat /proc/net/nf_conntrack"
    )
    listings = in_netns(script, "conntrack", "iptables", "python3").split("---\n")
    first, *others = (
        {c._replace(timeout=None) for c in parse_connections(text) if c.protocol not in (33,)} for text in listings
    )
    assert others == [first, first]
    assert len(first) >= 15


def test_what_was_made_prints_as_the_command_prints_it() -> None:
    ends = "src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=5"
    for tail in ("[ASSURED] mark=0 use=1", "mark=5 zone=7 use=1"):
        line = f"ipv4     2 tcp      6 99 ESTABLISHED {ends} {tail}\n"
        assert print_connections([one(line)._replace(rest=())]) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.96.0.1 sport=40000 dport=443 "
            "src=10.244.0.5 dst=10.0.0.1 sport=6443 dport=40000 [ASSURED] mark=85 zone=3 use=1",
            Connection(
                4, 6, Tuple(0x0A000001, 0x0A600001, 6, 40000, 443), Tuple(0x0AF40005, 0x0A000001, 6, 6443, 40000), 431999,
                "ESTABLISHED", ("ASSURED",), 85, 3,
            ),
        ),
        (
            "udp      17 20 src=fd00::1 dst=fd00::2 sport=5 dport=53 [UNREPLIED] "
            "src=fd00::2 dst=fd00::1 sport=53 dport=5 use=1",
            Connection(
                6, 17, Tuple(parse_address("fd00::1")[1], parse_address("fd00::2")[1], 17, 5, 53),
                Tuple(parse_address("fd00::2")[1], parse_address("fd00::1")[1], 17, 53, 5), 20, None, ("UNREPLIED",),
            ),
        ),
        (
            "icmp     1 29 src=1.1.1.1 dst=2.2.2.2 type=8 code=0 id=7 src=2.2.2.2 dst=1.1.1.1 type=0 code=0 id=7 mark=0 use=1",
            Connection(4, 1, Tuple(ONE, TWO, 1, 7, 0x800), Tuple(TWO, ONE, 1, 7, 0), 29),
        ),
        (
            "tcp      6 src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 src=2.2.2.2 dst=1.1.1.1 sport=6 dport=5 [OFFLOAD] mark=0 use=2",
            Connection(4, 6, Tuple(ONE, TWO, 6, 5, 6), Tuple(TWO, ONE, 6, 6, 5), flags=("OFFLOAD",)),
        ),
        (
            "unknown  2 599 src=1.1.1.1 dst=2.2.2.2 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 mark=0 use=1",
            Connection(4, 2, Tuple(ONE, TWO, 2, 0, 0), Tuple(TWO, ONE, 2, 0, 0), 599, None, ("UNREPLIED",)),
        ),
    ],
)  # fmt: skip
def test_a_connection_has_the_fields_of_the_line(line: str, expected: Connection) -> None:
    assert one(line) == expected


def test_what_has_no_field_is_kept_by_name() -> None:
    line = next(line for line in SAVED.splitlines() if "zone-orig" in line)
    assert one(line).rest == (
        ("original.zone-orig", "8"), ("original.packets", "0"), ("original.bytes", "0"), ("reply.packets", "0"),
        ("reply.bytes", "0"), ("mark", ""), ("delta-time", "0"), ("use", "1"),
    )  # fmt: skip


def test_changed_fields_are_printed_in_their_places() -> None:
    line = next(line for line in SAVED.splitlines() if "helper=ftp" in line)
    assert " mark=7 zone=5 helper=ftp use=1" in print_connections([one(line)._replace(mark=7, zone=5)])


def test_odd_words_are_kept_as_they_are() -> None:
    line = f"{TCP}src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 {REPLY} mark=0 [start=Mon Nov 23] [x= y= z [FOO=] use=1\n"
    assert print_connections(parse_connections(line)) == line


def test_the_number_of_connections_is_no_connection() -> None:
    head, tail = SAVED[:100], SAVED[100:]  # error output in the same file, as 2>&1 mixes it in
    mixed = f"{head}conntrack v1.4.7 (conntrack-tools): 23 flow entries have been shown.\n{tail}"
    assert parse_connections(mixed) == parse_connections(SAVED)


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("nonsense", None, f"expected a line of `conntrack -L -o extended`: {WHERE}, got 'nonsense'"),
        (
            f"{TCP}src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 mark=0",
            84,
            "expected a line of `conntrack -L -o extended`: the reply's src=… dst=… is missing",
        ),
        (f"{TCP}src=1.1.1.1 dst=2.2.2 sport=5 dport=6 {REPLY}", 54, "expected an IPv4 address, got '2.2.2'"),
        (f"{TCP}src=1.1.1.1 dst=2.2.2.2 src=2.2.2.2 dst=::1", 78, "expected an IPv4 address, got '::1'"),
        (f"{TCP}src=1.1.1.1 dst=2.2.2.2 sport=5 dport=65536 {REPLY}", 76, "expected a port up to 65535"),
        (
            f"icmp 1 9 src=1.1.1.1 dst=2.2.2.2 type=256 code=0 id=1 {REPLY}",
            39,
            "expected a type and code up to 255 and an id up to 65535",
        ),
        (f"gre 47 9 src=1.1.1.1 dst=2.2.2.2 srckey=0x1 dstkey=0x10000 {REPLY}", 52, "expected a key up to 0xffff"),
        ("x 256 9 src=1.1.1.1 dst=2.2.2.2 src=2.2.2.2 dst=1.1.1.1 use=1", 3, "expected a protocol's number up to 255, got 256"),
        ("x 2 9 src=1.1.1.1 dst=2.2.2.2 src=2.2.2.2 dst=1.1.1.1 mark=x", 54, "expected mark=NUMBER and zone=NUMBER"),
        ("    [NEW] tcp      6 120 SYN_SENT src=1.1.1.1", 1, "this is an event of `conntrack -E`, not a line of a listing"),
        ("-A -t 99 -u UNSET", 1, "this is `-o save` output; expected the output of `conntrack -L -o extended`"),
        ('<?xml version="1.0"?>', 1, "this is XML; expected the output of `conntrack -L -o extended`"),
    ],
)  # fmt: skip
def test_bad_input_is_told_with_its_place(line: str, column: int | None, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_connections(f"\n{line}\n", file="f")
    caret = f"\n    {line}\n    {' ' * (column - 1)}^" if column is not None else ""
    assert str(caught.value) == f"f:2:{f'{column}:' if column is not None else ''} {message}{caret}"


WORDS = st.sampled_from(
    [*{word for line in SAVED.splitlines() for word in line.split()}, "mark=x", "[", "src=", "=", "[start=x y]"]
)


@settings(deadline=None)
@given(st.text() | st.lists(st.lists(WORDS).map(" ".join)).map("\n".join))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    try:
        connections = parse_connections(text)
    except DataplaneError:
        return
    assert parse_connections(print_connections(connections)) == connections


@settings(deadline=None)
@given(st.data())
def test_damaged_lines_are_read_or_refused(data: st.DataObject) -> None:
    line = data.draw(st.sampled_from(SAVED.splitlines()))
    start = data.draw(st.integers(0, len(line)))
    damaged = line[:start] + data.draw(st.text(max_size=3)) + line[start + data.draw(st.integers(0, 12)) :]
    try:
        connections = parse_connections(damaged)
    except DataplaneError:
        return
    assert parse_connections(print_connections(connections)) == connections

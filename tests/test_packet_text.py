"""Packet expressions: what is read, and where the caret stands under what cannot be."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.errors import ParseError
from dataplane.packet import Packet, TcpOptions, describe
from dataplane.packet_text import Described, parse_packet

A4, B4 = 0xCB007107, 0xC633640A  # 203.0.113.7, 198.51.100.10
A6, B6 = 0x20010DB8 << 96 | 7, 0x20010DB8 << 96 | 1
SYN = {"tcp_flags": 2, "seq": 1000, "tcp_options": TcpOptions(), "length": 40}

READ = [
    ("tcp 203.0.113.7:40000 > 198.51.100.10:80", Described(Packet(4, A4, B4, 6, 40000, 80, **SYN))),
    ("TCP 203.0.113.7:40000>198.51.100.10:80", Described(Packet(4, A4, B4, 6, 40000, 80, **SYN))),
    (
        "tcp [2001:db8::7]:40000 > [2001:db8::1]:80 [mark 0x1] [ttl 3]",
        Described(Packet(6, A6, B6, 6, 40000, 80, ttl=3, **{**SYN, "length": 60}), mark=1),
    ),
    (
        "tcp 203.0.113.7:80 > 198.51.100.10:40000 [flags SA]",
        Described(Packet(4, A4, B4, 6, 80, 40000, tcp_flags=0x12, seq=5000, ack=1001, tcp_options=TcpOptions(), length=40)),
    ),
    (
        "tcp 203.0.113.7:1 > 198.51.100.10:2 [flags PA] [seq 7] [ack 8] [win 9] [len 10] [tos 0x10]",
        Described(Packet(4, A4, B4, 6, 1, 2, tcp_flags=0x18, seq=7, ack=8, window=9, payload=10, length=50, tos=16)),
    ),
    ("tcp 203.0.113.7:1 > 198.51.100.10:2 [flags .]", Described(Packet(4, A4, B4, 6, 1, 2, seq=1001, length=40))),
    ("udp 203.0.113.7:5353 > 198.51.100.10:53", Described(Packet(4, A4, B4, 17, 5353, 53, length=28))),
    ("sctp 203.0.113.7:1 > 198.51.100.10:2", Described(Packet(4, A4, B4, 132, 1, 2, sctp_chunks=(1,), length=52))),
    ("icmp 203.0.113.7 > 198.51.100.10", Described(Packet(4, A4, B4, 1, icmp_type=8, icmp_id=1, length=28))),
    (
        "icmp 203.0.113.7 > 198.51.100.10 [type 13/1] [id 77]",
        Described(Packet(4, A4, B4, 1, icmp_type=13, icmp_code=1, icmp_id=77, length=28)),
    ),
    ("icmp 2001:db8::7 > 2001:db8::1", Described(Packet(6, A6, B6, 58, icmp_type=128, icmp_id=1, length=48))),
    ("icmp [2001:db8::7] > 2001:db8::1", Described(Packet(6, A6, B6, 58, icmp_type=128, icmp_id=1, length=48))),
    ("gre 203.0.113.7 > 198.51.100.10", Described(Packet(4, A4, B4, 47, length=20))),
    ("89 203.0.113.7 > 198.51.100.10", Described(Packet(4, A4, B4, 89, length=20))),
    (
        "udp 203.0.113.7:1 > 198.51.100.10:2 [uid 33] [gid 44] [mac 02:00:00:00:00:0a] [physin veth0]",
        Described(Packet(4, A4, B4, 17, 1, 2, length=28), uid=33, gid=44, mac=0x02000000000A, physin="veth0"),
    ),
]

REFUSED = [
    ("", "^", "expected PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] [flags SA] [ttl 64] [mark 0x1] …"),
    ("tcp", "   ^", "expected a source address"),
    ("tpc 1.2.3.4:1 > 5.6.7.8:2", "^", "unknown protocol 'tpc': expected tcp, udp, sctp, icmp, another's name, or a number to 255"),
    ("256 1.2.3.4 > 5.6.7.8", "^", "unknown protocol '256': expected tcp, udp, sctp, icmp, another's name, or a number to 255"),
    ("tcp 1.2.3.4:1 5.6.7.8:2", "              ^", "expected '>' between source and destination"),
    ("tcp 1.2.3.4:1 >", "               ^", "expected a destination address"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:99999", "                        ^", "expected a port from 0 to 65535, got '99999'"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:http", "                        ^", "expected a port from 0 to 65535, got 'http'"),
    ("tcp 1.2.3.4:1 > 5.6.7.8", "                       ^", "expected a port: 5.6.7.8:PORT"),
    ("tcp 2001:db8::1 > [::2]:1", "               ^", "expected a port: [2001:db8::1]:PORT"),
    ("tcp 1.2.3.4.5:1 > 5.6.7.8:2", "    ^", "expected an IP address, got '1.2.3.4.5'"),
    ("tcp web:1 > 5.6.7.8:2", "    ^", "expected an IP address, got 'web'"),
    ("tcp 1.2.3.4:1 > [::1]:2", "                ^", "the source is IPv4, but this is IPv6"),
    ("icmp 1.2.3.4 > 5.6.7.8:80", "                      ^", "this protocol has no ports"),
    ("icmpv6 1.2.3.4 > 5.6.7.8", "^", "ICMPv6 between IPv4 addresses: expected icmp"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 flags S", "                          ^", "expected an option in brackets such as [flags SA] or [ttl 3]"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [flags SX]", "                                  ^", "unknown TCP flag 'X': expected letters of FSRPAUEC, or . for none"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [ttl 256]", "                               ^", "ttl: expected a number from 0 to 255, got '256'"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [ttl]", "                              ^", "expected a value: [ttl …]"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [ttl 3", "                                ^", "expected ']'"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [ttl 3] [ttl 4]", "                                   ^", "ttl is given twice"),
    ("udp 1.2.3.4:1 > 5.6.7.8:2 [flags S]", "                           ^", "flags belongs to tcp packets"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [id 3]", "                           ^", "id belongs to icmp packets"),
    ("tcp 1.2.3.4:1 > 5.6.7.8:2 [mac 02:00]", "                               ^", "expected a MAC address such as 02:00:00:00:00:01, got '02:00'"),
    ("icmp 1.2.3.4 > 5.6.7.8 [type 8/300]", "                               ^", "code: expected a number from 0 to 255, got '300'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "described"), READ, ids=lambda value: value if isinstance(value, str) else "")
def test_an_expression_is_read(text, described):
    assert parse_packet(text) == described


def test_options_are_listed_where_one_is_misspelt():
    with pytest.raises(ParseError, match="unknown option 'flag': expected one of flags, type, mac"):
        parse_packet("tcp 1.2.3.4:1 > 5.6.7.8:2 [flag S]")


@pytest.mark.parametrize(("text", "caret", "message"), REFUSED, ids=lambda value: value or "empty")
def test_the_caret_stands_under_what_is_wrong(text, caret, message):
    with pytest.raises(ParseError) as raised:
        parse_packet(text)
    assert str(raised.value) == f"packet:{len(caret)}: {message}\n    {text}\n    {caret}"


@pytest.mark.parametrize(("text", "described"), READ, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_printed_can_be_read_again(text, described):  # noqa: ARG001 - one table for two tests
    again = parse_packet(describe(described.packet)).packet
    assert describe(again) == describe(described.packet)


@given(st.text("tcpudimshg0123456789.:[] >flasSA/\x00ü", max_size=60) | st.text(max_size=40))
@example("tcp 1.1.1.1:٣ > 1.1.1.1:1")
def test_any_text_is_read_or_refused(text):
    try:
        parse_packet(text)
    except ParseError as error:
        assert str(error).startswith("packet:")

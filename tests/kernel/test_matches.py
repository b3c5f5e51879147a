"""Headers, addresses and senders: which rules count a packet on the kernel, and which ones match in the emulator's walk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

pytest.importorskip("scapy.all")

import scapy.all as scapy

from dataplane.adapters.scapy import from_scapy
from dataplane.packet import TcpOptions
from tests.engine import test_matches_header, test_matches_origin, test_matches_transport
from tests.kernel.counting import agree, readable, sctp, standing, table, tcp, udp, v4, v6

pytestmark = pytest.mark.usefixtures("kernel")


def zoo4() -> Iterator[Any]:
    for flags in ("S", "SA", "FA", "FRA", "SEC", "", "A", "RA"):
        yield v4(tcp(flags))
    for port in (22, 53, 79, 81, 82, 443):
        yield v4(tcp(dport=port))
        yield v4(udp(port))
    yield v4(tcp(sport=40001))
    for options in ([("MSS", 1460)], [("MSS", 1420), ("WScale", 7)], [("Timestamp", (1, 0)), ("SAckOK", b"")], [(19, b"x" * 16)]):
        yield v4(tcp(options=options))
    for tos in (0x10, 0x50, 0xB8, 0xB9, 0xBA, 0xFF):
        yield v4(tos=tos)
    for ttl in (2, 63, 65, 255):
        yield v4(ttl=ttl)
    for size in (1, 20, 21, 100):
        yield v4(tcp("A") / (b"x" * size))
    for kind, code in ((8, 0), (0, 0), (3, 3), (3, 4), (13, 0), (5, 1)):
        yield v4(scapy.ICMP(type=kind, code=code))
    for chunks in ((1,), (10, 0), (10, 3), (10,), (0, 0), (193,), (3, 0, 10)):
        yield v4(sctp(*chunks))
    for source in ("192.0.2.9", "192.0.2.10", "192.0.3.1"):
        yield v4(src=source)
    for protocol in (33, 47, 50, 51, 136):
        yield v4(scapy.Raw(b"\x9c\x40\x00\x50" + b"\0\0\0\7" * 5), proto=protocol)
    yield v4(udp() / (b"x" * 40), flags="MF")
    yield v4(scapy.Raw(b"x" * 40), proto=17, frag=5)


def zoo6() -> Iterator[Any]:
    hop, destination = (kind(options=scapy.PadN(optdata=bytes(4))) for kind in (scapy.IPv6ExtHdrHopByHop, scapy.IPv6ExtHdrDestOpt))
    for flags in ("S", "SA", "A"):
        yield v6(tcp(flags))
    yield v6(tcp(dport=81))
    yield v6(udp())
    for kind in (128, 129, 1, 255):
        yield v6(scapy.ICMPv6Unknown(type=kind, code=0, msgbody=bytes(44)))
    for limit in (2, 63, 255):
        yield v6(hlim=limit)
    for tos in (0xB8, 0x03, 0x10):
        yield v6(tc=tos)
    yield v6(hop / tcp())
    yield v6(destination / tcp())
    yield v6(hop / destination / tcp())
    yield v6(scapy.IPv6ExtHdrFragment(offset=0, m=1, id=5, nh=17) / udp() / (b"x" * 32))
    yield v6(scapy.IPv6ExtHdrFragment(offset=5, m=0, id=10, nh=17) / scapy.Raw(b"x" * 32))
    yield v6(scapy.Raw(), nh=59)
    yield v6(src="2001:db8::aaaa")
    yield v6(scapy.Raw(b"\0\0\0\7" * 4), nh=50)


def more_of(frame: Any) -> dict[str, Any]:
    """What scapy's dissection does not tell of a packet, read from its bytes."""
    packet = from_scapy(frame)
    data = bytes(frame)[20 if packet.family == 4 else 40 :]
    if packet.fragment_offset:
        return {}
    if packet.protocol in (33, 136):
        return {"sport": 40000, "dport": 80}
    if packet.protocol in (50, 51):
        start = 0 if packet.protocol == 50 else 4
        return {"spi": int.from_bytes(data[start : start + 4], "big")}
    if packet.protocol == 132:
        return {"sctp_chunks": tuple(data[12::16])}
    if packet.protocol == 58:
        return {"icmp_type": data[0]}
    return {"tcp_options": TcpOptions(other=(19,))} if packet.protocol == 6 and data[20:21] == b"\x13" else {}


# ---------------------------------------------------------------------- headers, addresses


HEADERS: Final = [row[0] for row in (*test_matches_transport.ROWS, *test_matches_header.ROWS)]


@pytest.mark.parametrize("family", [4, 6])
def test_every_rule_of_the_unit_tests_meets_every_packet(family: int) -> None:
    assumed_wrongly = "! --hbh-len"  # what is not known is assumed to match, and 8 bytes is what the header here has
    rules = [f"-A PREROUTING {text}" for text in dict.fromkeys(HEADERS) if readable(text, family) and assumed_wrongly not in text]
    with standing(**{f"rules{family}": table(rules)}) as one:
        one.emulated.kernel.assume = True  # what a header has inside: --hbh-len, --rt-type
        for frame in zoo4() if family == 4 else zoo6():
            agree(one.receive(frame, **more_of(frame)), rules, frame.summary())


def test_later_fragments_of_tcp() -> None:
    """-m tcpmss and ecn would read the fragment's data."""
    chosen = [text for text in dict.fromkeys(HEADERS) if readable(text, 4) and not re.search("tcpmss|ecn-tcp", text)]
    rules = [f"-A PREROUTING {text}" for text in chosen]
    with standing(table(rules)) as one:
        for offset in (1, 2, 185):
            frame = v4(scapy.Raw(bytes(40)), proto=6, frag=offset)
            agree(one.receive(frame), rules, frame.summary())


@pytest.mark.parametrize(
    ("rule", "protocol"),
    [
        ("-p tcp -m tcp --dport 80", 6),
        ("-p udp -m udp --dport 80", 17),
        ("-p tcp -m multiport --dports 80", 6),
        ("-p sctp -m sctp --dport 80", 132),
        ("-p icmp -m icmp --icmp-type 8", 1),
    ],
)
def test_what_is_too_short_is_dropped_on_the_spot(rule: str, protocol: int) -> None:
    rules = [f"-A PREROUTING {rule}", "-A PREROUTING"]
    with standing(table(rules)) as one:
        for size in range(22):
            agree(one.receive(v4(scapy.Raw(bytes(size)), proto=protocol)), rules, f"{size} bytes")


@pytest.mark.parametrize("family", [4, 6])
def test_kinds_of_address(family: int) -> None:
    given = {row[0] for row in test_matches_origin.ADDRESSES if (":" in row[1]) == (family == 6)}
    names = ("LOCAL", "UNICAST", "MULTICAST", "ANYCAST", "UNREACHABLE", "UNSPEC", *(() if family == 6 else ("BROADCAST", "BLACKHOLE")))
    given |= {f"{bang}--{side}-type {name}" for bang in ("", "! ") for side in ("src", "dst") for name in names}
    rules = [f"-A {chain} -m addrtype {text}" for text in sorted(given) for chain in ("PREROUTING", "FORWARD", "INPUT")]
    rules = [rule for rule in rules if "limit-iface-out" not in rule or "FORWARD" in rule]
    ends4 = ("192.168.0.11", "192.168.0.12", "192.168.0.255", "192.168.0.0", "10.244.1.9", "10.244.1.255", "224.0.0.1", "255.255.255.255",
             "127.0.0.1", "198.51.100.1", "0.0.0.0", "240.0.0.1")  # fmt: skip
    ends6 = ("fd00::11", "fd00::12", "fd00::", "fd00:10:244:1::9", "fd00:10:244:1::", "ff02::1", "ff05::7", "::1", "2001:db8::9", "::",
             "::ffff:10.244.1.9", "fe80::1")  # fmt: skip
    make = v4 if family == 4 else v6
    with standing(**{f"rules{family}": table(rules)}) as one:
        for end in ends4 if family == 4 else ends6:
            for frame in (make(dst=end), make(src=end)):
                agree(one.receive(frame), rules, frame.summary())


def test_senders_and_kinds_of_packets() -> None:
    texts = (
        "-m mac --mac-source 02:00:00:00:00:01", "-m mac ! --mac-source 02:00:00:00:00:01", "-m mac --mac-source 02:00:00:00:00:02",
        *(f"-m pkttype {bang}--pkt-type {kind}" for bang in ("", "! ") for kind in ("unicast", "broadcast", "multicast")),
        *(f"-m physdev {bang}--physdev-{what}" for bang in ("", "! ") for what in ("in eth0", "is-in", "is-bridged")),
        "-m mark --mark 0", "-m mark ! --mark 0/0xff", "-m mark --mark 5",
        *(f"-m rpfilter {what}" for what in ("", "--loose", "--invert", "--accept-local", "--validmark --loose")),
    )  # fmt: skip
    rules = [f"-A PREROUTING {text}" for text in texts]
    with standing(table(rules)) as one:
        for end in ("10.244.1.9", "192.168.0.11", "192.168.0.255", "255.255.255.255", "224.0.0.1"):
            for source in ("192.0.2.1", "192.168.0.7", "10.244.1.7", "192.168.0.11", "0.0.0.0"):
                frame = v4(udp(), src=source, dst=end)
                agree(one.receive(frame), rules, frame.summary())

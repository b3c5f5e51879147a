"""Bytes of packets: read as scapy reads them, rewritten with checksums that fit, and wrong ones stay wrong."""

from __future__ import annotations


import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrHopByHop, IPv6ExtHdrFragment
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Raw

from dataplane.adapters.scapy import from_scapy
from dataplane.captures import wire
from dataplane.inet import parse_address

V4, V6 = IP(src="192.0.2.1", dst="198.51.100.1", id=7, tos=4), IPv6(src="2001:db8::1", dst="2001:db8::2", tc=4)
TO4, TO6 = parse_address("10.244.1.5")[1], parse_address("fd00:10::5")[1]
PACKETS = {
    "tcp": V4 / TCP(sport=40000, dport=80, flags="S", seq=9, options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]),
    "tcp with data": V4 / TCP(sport=40000, dport=80, flags="PA", seq=9, ack=10) / Raw(b"hello"),
    "udp": V4 / UDP(sport=5353, dport=53) / Raw(b"odd"),
    "udp without checksum": V4 / UDP(sport=5353, dport=53, chksum=0) / Raw(b"data"),
    "icmp": V4 / ICMP(id=5, seq=1) / Raw(b"x" * 9),
    "icmp error": V4 / ICMP(type=3, code=4, nexthopmtu=1400) / IP(src="198.51.100.1", dst="192.0.2.1", id=3) / TCP(sport=80, dport=40000),
    "fragment": IP(src="192.0.2.1", dst="198.51.100.1", flags="MF", frag=3, proto=17) / Raw(b"z" * 16),
    "sctp": V4 / SCTP(sport=1, dport=2, tag=0) / SCTPChunkInit(init_tag=77),
    "tcp6": V6 / TCP(sport=40000, dport=80, flags="S"),
    "udp6": V6 / UDP(sport=1, dport=2) / Raw(b"abc"),
    "echo6": V6 / ICMPv6EchoRequest(id=4) / Raw(b"q"),
    "error6": V6 / ICMPv6DestUnreach(code=4) / IPv6(src="2001:db8::2", dst="2001:db8::1") / UDP(sport=2, dport=1) / Raw(b"abc"),
    "hop by hop": V6 / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2),
    "fragment6": V6 / IPv6ExtHdrFragment(offset=0, m=1, id=9, nh=17) / UDP(sport=1, dport=2) / Raw(b"12345678"),
}


@pytest.mark.parametrize("name", PACKETS)
def test_bytes_are_read_as_scapy_reads_them(name: str) -> None:
    data = bytes(PACKETS[name])
    ours, theirs = wire.read(data), from_scapy(PACKETS[name].__class__(data))
    same = {field: getattr(theirs, field) for field in ("sctp_chunks", "tcp_options", "init_tag", "inner")}
    assert ours._replace(**same) == theirs
    if name == "tcp":
        assert ours.tcp_options == theirs.tcp_options
    if ours.inner is not None and theirs.inner is not None:
        assert (ours.inner.saddr, ours.inner.daddr, ours.inner.sport, ours.inner.dport) == (theirs.inner.saddr, theirs.inner.daddr, theirs.inner.sport, theirs.inner.dport)


@pytest.mark.parametrize("name", PACKETS)
def test_a_rewritten_packet_has_checksums_that_fit(name: str) -> None:
    data = bytes(PACKETS[name])
    before = wire.read(data)
    target = TO4 if before.family == 4 else TO6
    after = before._replace(daddr=target, ttl=before.ttl - 1, dport=8080 if before.dport else 0, sport=1234 if before.sport else 0)
    if before.inner is not None:
        after = after._replace(inner=before.inner._replace(saddr=target, sport=8080))
    changed = wire.rewritten(data, before, after)
    again = PACKETS[name].__class__(changed)
    fresh = again.copy()
    for layer in (IP, TCP, UDP, ICMP):
        if fresh.haslayer(layer) and not (layer is UDP and fresh[UDP].chksum == 0):
            del fresh[layer].chksum
    for kind in (ICMPv6EchoRequest, ICMPv6DestUnreach):
        if fresh.haslayer(kind):
            del fresh[kind].cksum
    if before.inner is None and name not in ("fragment", "fragment6", "sctp"):
        assert bytes(fresh) == changed
    assert not wire.checksum_is_wrong(changed, wire.read(changed))
    read = wire.read(changed)
    assert (read.daddr, read.ttl, read.dport, read.sport) == (after.daddr, after.ttl, after.dport, after.sport)
    if name == "sctp":
        assert wire.crc32c(changed[20:28] + bytes(4) + changed[32:]) == int.from_bytes(changed[28:32], "little")
    assert wire.rewritten(changed, read, before if before.inner is None else read._replace(saddr=before.saddr, daddr=before.daddr, ttl=before.ttl, sport=before.sport, dport=before.dport, inner=before.inner)) == data


@pytest.mark.parametrize("name", ["tcp", "udp", "icmp", "tcp6", "udp6", "echo6"])
def test_a_checksum_that_was_wrong_stays_wrong(name: str) -> None:
    data = bytearray(bytes(PACKETS[name]))
    data[-1] ^= 0x55
    before = wire.read(bytes(data))
    assert wire.checksum_is_wrong(bytes(data), before)
    changed = wire.rewritten(bytes(data), before, before._replace(daddr=TO4 if before.family == 4 else TO6))
    assert wire.checksum_is_wrong(changed, wire.read(changed))


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "no bytes"), (b"\x45\0", "IPv4 header of 2 bytes"), (b"\x41" + bytes(30), "header of 4 bytes"), (b"\x60" + bytes(10), "IPv6 header"), (b"\x95" * 40, "IP version 9")],
)
def test_what_is_no_packet_is_told(data: bytes, words: str) -> None:
    with pytest.raises(wire.Malformed, match=words):
        wire.read(data)

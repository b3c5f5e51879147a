"""Captures are read as they stand, whatever their format; what is broken is told and never a traceback; what is written reads back."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.captures import pcap, pcapng, wire
from dataplane.captures.frames import ETHERNET, LOOP, NULL, RAW, SLL, SLL2, locate
from dataplane.captures.records import Capture, Interface, Record, opened
from dataplane.errors import InputError, ParseError
from tests.shared import cases, needs_shared

IP = bytes.fromhex("450000140001000040110000c0000201c6336401")


def read(data: bytes) -> tuple[list[Record], Capture]:
    capture = Capture(io.BytesIO(data), "x")
    return list(capture), capture


def old(order: str, magic: int, packets: list[tuple[int, int, bytes]]) -> bytes:
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, RAW) + b"".join(
        struct.pack(f"{order}IIII", seconds, part, len(data), len(data) + 5) + data for seconds, part, data in packets
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "tick"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_both_byte_orders_and_clocks(order: str, magic: int, tick: int) -> None:
    records, capture = read(old(order, magic, [(1, 7, IP), (2, 8, b"")]))
    assert [(one.time, one.data, one.length) for one in records] == [(10**9 + 7 * tick, IP, 25), (2 * 10**9 + 8 * tick, b"", 5)]
    assert capture.interfaces[0].linktype == RAW and not capture.warnings


def sample(comments: tuple[str, ...] = ("a", "b")) -> bytes:
    stream = io.BytesIO()
    writer = pcapng.Writer(stream)
    interfaces = [Interface(ETHERNET, "eth0"), Interface(RAW, "any")]
    writer.write(Record(1_700_000_000_123_456_789, b"abcde", 9, 1, comments), interfaces[1])
    writer.write(Record(5, b"", 0, 0), interfaces[0])
    return stream.getvalue()


def test_pcapng_reads_back_with_comments_and_interfaces() -> None:
    records, capture = read(sample())
    assert [(one.time, one.data, one.length, one.comments) for one in records] == [(1_700_000_000_123_456_789, b"abcde", 9, ("a", "b")), (5, b"", 0, ())]
    assert [(capture.interfaces[one.interface].linktype, capture.interfaces[one.interface].name) for one in records] == [(RAW, "any"), (ETHERNET, "eth0")]


def test_sections_have_interfaces_of_their_own_and_unknown_blocks_are_passed_over() -> None:
    unknown = struct.pack("<III", 0x0BAD, 16, 1) + struct.pack("<I", 16)
    records, capture = read(sample() + unknown + sample(()))
    assert [one.interface for one in records] == [0, 1, 2, 3] and len(capture.interfaces) == 4 and not capture.warnings


@pytest.mark.parametrize("whole", [old("<", 0xA1B2C3D4, [(1, 2, IP)]), sample()], ids=["pcap", "pcapng"])
def test_cut_anywhere_is_a_warning_or_one_clear_error(whole: bytes) -> None:
    full, _ = read(whole)
    between = {24, 40, 60} if whole[:4] != b"\n\r\r\n" else set(block_ends(whole))
    for end in range(len(whole)):
        try:
            records, capture = read(whole[:end])
        except ParseError:
            assert end < 28
            continue
        assert records == full[: len(records)]
        assert len(records) == len(full) or capture.warnings or end in between, end


def block_ends(whole: bytes) -> list[int]:
    found = [0]
    while found[-1] < len(whole):
        found.append(found[-1] + int.from_bytes(whole[found[-1] + 4 : found[-1] + 8], "little"))
    return found


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([b"", old("<", 0xA1B2C3D4, [(1, 2, IP)]), sample()]), st.integers(0, 200))
def test_no_bytes_make_more_than_an_error(noise: bytes, base: bytes, place: int) -> None:
    data = base[:place] + noise + base[place + len(noise) :]
    try:
        records, capture = read(data)
    except ParseError:
        return
    for one in records:
        frame = locate(capture.interfaces[one.interface].linktype, one.data)
        assert frame.offset >= 0 or frame.why


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04zip", b"\0" * 100])
def test_what_is_no_capture_is_told(data: bytes) -> None:
    with pytest.raises(ParseError, match="no capture: expected pcap or pcapng"):
        read(data)


def test_packed_captures_are_unpacked(tmp_path: Path) -> None:
    whole = old("<", 0xA1B2C3D4, [(1, 2, IP)])
    (tmp_path / "a").write_bytes(gzip.compress(whole))
    packed = {"a"}
    try:
        (tmp_path / "b").write_bytes(subprocess.run(["zstd", "-c"], input=whole, capture_output=True, check=True).stdout)
        packed.add("b")
    except FileNotFoundError:
        (tmp_path / "c").write_bytes(b"\x28\xb5\x2f\xfd")
        with pytest.raises(InputError, match="zstd"), opened(str(tmp_path / "c")):
            pass
    for name in sorted(packed):
        with opened(str(tmp_path / name)) as capture:
            assert [one.data for one in capture] == [IP]


@pytest.mark.parametrize(
    ("linktype", "head", "vlans"),
    [
        (ETHERNET, bytes(12) + b"\x08\x00", ()), (ETHERNET, bytes(12) + b"\x81\x00\x00\x05\x08\x00", (5,)),
        (ETHERNET, bytes(12) + b"\x88\xa8\x00\x07\x81\x00\x00\x05\x08\x00", (7, 5)), (RAW, b"", ()), (NULL, b"\x02\0\0\0", ()), (NULL, b"\0\0\0\x02", ()),
        (LOOP, b"\0\0\0\x02", ()), (SLL, bytes(14) + b"\x08\x00", ()), (SLL2, b"\x08\x00" + bytes(18), ()), (9, b"\xff\x03\x00\x21", ()), (9, b"\x00\x21", ()),
    ],
)  # fmt: skip
def test_ip_is_found_in_every_link_type(linktype: int, head: bytes, vlans: tuple[int, ...]) -> None:
    frame = locate(linktype, head + IP)
    assert (frame.offset, frame.family, frame.vlans) == (len(head), 4, vlans)


def test_other_link_types_are_named() -> None:
    assert locate(239, b"x").why == "link type NFLOG is not understood"
    assert locate(ETHERNET, bytes(12) + b"\x08\x06").why == "ethertype 0x0806 is no IP"


@needs_shared
@pytest.mark.parametrize("path", [path for path in cases("corpus/pcaps/*.pcap*") if path.suffix != ".md"], ids=lambda path: path.name)
def test_every_capture_of_the_corpus_opens_and_its_packets_are_read_or_explained(path: Path) -> None:
    with opened(str(path)) as capture:
        for one in capture:
            frame = locate(capture.interfaces[one.interface].linktype, one.data)
            if frame.offset < 0:
                assert frame.why
                continue
            try:
                packet = wire.read(one.data[frame.offset :])
            except wire.Malformed as error:
                assert str(error)
                continue
            data = one.data[frame.offset :]
            assert wire.rewritten(data, packet, packet) == data
        assert not capture.warnings


def test_old_captures_are_written_as_fine_as_they_were() -> None:
    stream = io.BytesIO()
    writer = pcap.Writer(stream, Interface(RAW, resolution=10**9))
    writer.write(Record(3_000_000_001, IP, 20, 0))
    assert [one.time for one in read(stream.getvalue())[0]] == [3_000_000_001]

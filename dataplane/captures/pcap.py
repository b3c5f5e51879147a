"""The pcap format, read and written: both byte orders, microseconds and nanoseconds. Source: draft-ietf-opsawg-pcap, pcap-savefile(5)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Final

from dataplane.captures.records import MAX_LENGTH, Interface, Record, read_exactly
from dataplane.errors import ParseError, Problem

if TYPE_CHECKING:
    from dataplane.captures.records import Capture

#: First bytes: byte order and ticks a second. The modified format of old Linux patches has longer record headers.
MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000_000), b"\xa1\xb2\xc3\xd4": (">", 1_000_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1_000_000_000), b"\xa1\xb2\x3c\x4d": (">", 1_000_000_000),
}  # fmt: skip
_SECOND: Final = 1_000_000_000


def records(capture: Capture, stream: IO[bytes], magic: bytes) -> Iterator[Record]:
    """The packets; what is cut short ends with a warning. ParseError for a file header that makes no sense."""
    order, ticks = MAGICS[magic]
    header = read_exactly(stream, 20)
    if len(header) < 20:
        raise ParseError(Problem(f"a pcap file whose header ends after {4 + len(header)} of 24 bytes", capture.name))
    major, _, _, _, snaplen, network = struct.unpack(f"{order}HHiIII", header)
    if major != 2:
        raise ParseError(Problem(f"pcap version {major}: expected 2", capture.name))
    capture.interfaces.append(Interface(network & 0x0FFFFFFF, "", ticks, 0, snaplen))
    return _packets(capture, stream, struct.Struct(f"{order}IIII"), _SECOND // ticks)


def _packets(capture: Capture, stream: IO[bytes], head: struct.Struct, tick: int) -> Iterator[Record]:
    number = 0
    while header := read_exactly(stream, 16):
        number += 1
        if len(header) < 16:
            capture.warn(f"packet {number}: the file ends within its header")
            return
        seconds, fraction, kept, length = head.unpack(header)
        if kept > MAX_LENGTH:
            capture.warn(f"packet {number}: {kept} bytes cannot be; nothing behind it is read")
            return
        data = read_exactly(stream, kept)
        if len(data) < kept:
            capture.warn(f"packet {number}: {len(data)} of its {kept} bytes are there, then the file ends")
            return
        yield Record(seconds * _SECOND + fraction * tick, data, length, 0)


class Writer:
    """Writes one interface's packets, times as fine as that interface's."""

    def __init__(self, stream: IO[bytes], interface: Interface) -> None:
        self._stream, self._nano = stream, interface.resolution > 1_000_000
        stream.write(struct.pack("<IHHiIII", 0xA1B23C4D if self._nano else 0xA1B2C3D4, 2, 4, 0, 0, interface.snaplen, interface.linktype))

    def write(self, record: Record) -> None:
        """Adds a packet."""
        seconds, rest = divmod(record.time, _SECOND)
        self._stream.write(struct.pack("<IIII", seconds & 0xFFFFFFFF, rest if self._nano else rest // 1000, len(record.data), record.length) + record.data)

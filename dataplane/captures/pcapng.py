"""The pcapng format, read and written: sections, interfaces of their own link types and clocks, packets with comments.

Other blocks are passed over. Source: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Final

from dataplane.captures.records import MAX_LENGTH, PCAPNG_MAGIC, Interface, Record, read_exactly

if TYPE_CHECKING:
    from dataplane.captures.records import Capture

_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_SECOND: Final = 1_000_000_000
_COMMENT, _NAME, _RESOLUTION, _OFFSET = 1, 2, 9, 14


class _Section:
    """What the blocks of one section share."""

    def __init__(self, capture: Capture) -> None:
        self.capture, self.order = capture, "<"
        self.first = 0  # the number of its first interface among all of the file
        self.last = 0


def records(capture: Capture, stream: IO[bytes]) -> Iterator[Record]:
    """The packets of all sections; what is cut short or makes no sense ends with a warning."""
    section, head, place = _Section(capture), PCAPNG_MAGIC, 0
    while len(head) == 4:
        place += 1
        body = _block(section, stream, head, place)
        if body is None:
            return
        kind = struct.unpack(f"{section.order}I", head)[0]
        if kind == _INTERFACE:
            capture.interfaces.append(_interface(section, body))
        elif kind in (_PACKET, _ENHANCED, _SIMPLE):
            record = _record(section, kind, body, place)
            if record is not None:
                yield record
        head = read_exactly(stream, 4)
    if head:
        capture.warn(f"block {place + 1}: the file ends within its header")


def _block(section: _Section, stream: IO[bytes], head: bytes, place: int) -> bytes | None:
    """A block's body; None where the file ends."""
    capture, rest = section.capture, read_exactly(stream, 4)
    begun = b""
    if head == PCAPNG_MAGIC:
        begun = read_exactly(stream, 4)
        if begun not in _ORDERS:
            capture.warn(f"block {place}: a section whose byte order cannot be told ({begun.hex(' ')})")
            return None
        section.order, section.first = _ORDERS[begun], len(capture.interfaces)
    if len(rest) < 4:
        capture.warn(f"block {place}: the file ends within its header")
        return None
    length = struct.unpack(f"{section.order}I", rest)[0]
    if length < 12 + len(begun) or length % 4 or length > MAX_LENGTH:
        capture.warn(f"block {place}: {length} bytes cannot be; nothing behind it is read")
        return None
    body = read_exactly(stream, length - 8 - len(begun))
    if len(body) < length - 8 - len(begun):
        capture.warn(f"block {place}: the file ends within it")
        return None
    if body[-4:] != rest:
        capture.warn(f"block {place}: its two lengths differ")
    return begun + body[:-4]


def _interface(section: _Section, body: bytes) -> Interface:
    if len(body) < 8:
        section.capture.warn("an interface description that is too short")
        return Interface(-1)
    linktype, _, snaplen = struct.unpack_from(f"{section.order}HHI", body)
    options = _options(section, body, 8)
    told = options.get(_RESOLUTION, [b"\x06"])[0][:1] or b"\x06"
    resolution = 2 ** (told[0] & 0x7F) if told[0] & 0x80 else 10 ** min(told[0], 30)
    offset = options.get(_OFFSET, [b""])[0]
    seconds = int(struct.unpack(f"{section.order}q", offset)[0]) if len(offset) == 8 else 0
    return Interface(linktype, options.get(_NAME, [b""])[0].decode(errors="replace"), resolution, seconds, snaplen or 262144)


def _record(section: _Section, kind: int, body: bytes, place: int) -> Record | None:
    capture, order = section.capture, section.order
    try:
        if kind == _SIMPLE:
            number, ticks, (length,) = 0, 0, struct.unpack_from(f"{order}I", body)
            kept, start = min(length, len(body) - 4), 4
        elif kind == _ENHANCED:
            number, high, low, kept, length = struct.unpack_from(f"{order}IIIII", body)
            ticks, start = high << 32 | low, 20
        else:
            number, _, high, low, kept, length = struct.unpack_from(f"{order}HHIIII", body)
            ticks, start = high << 32 | low, 20
    except struct.error:
        capture.warn(f"block {place}: a packet that is too short")
        return None
    number += section.first
    if number >= len(capture.interfaces) or start + kept > len(body):
        capture.warn(f"block {place}: {'its interface was not described' if number >= len(capture.interfaces) else f'{kept} bytes are not there'}; passed over")
        return None
    interface = capture.interfaces[number]
    time = ticks * _SECOND // interface.resolution + interface.offset * _SECOND
    comments = _options(section, body, start + kept + (-kept) % 4).get(_COMMENT, ()) if kind != _SIMPLE else ()
    return Record(time, body[start : start + kept], length, number, tuple(one.decode(errors="replace") for one in comments))


def _options(section: _Section, body: bytes, place: int) -> Mapping[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    while place + 4 <= len(body):
        code, length = struct.unpack_from(f"{section.order}HH", body, place)
        if code == 0:
            break
        found.setdefault(code, []).append(body[place + 4 : place + 4 + length])
        place += 4 + length + (-length) % 4
    return found


class Writer:
    """Writes packets of any interfaces, each described when its first packet comes; comments stay with their packets."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._numbers: dict[int, tuple[int, int]] = {}
        stream.write(_written(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))

    def write(self, record: Record, interface: Interface) -> None:
        """Adds a packet that came by an interface; times are kept to the nanosecond."""
        if record.interface not in self._numbers:
            self._numbers[record.interface] = len(self._numbers), 0
            options = [(_NAME, interface.name.encode())] if interface.name else []
            body = struct.pack("<HHI", interface.linktype, 0, interface.snaplen) + _packed([*options, (_RESOLUTION, b"\x09")])
            self._stream.write(_written(_INTERFACE, body))
        number, time = self._numbers[record.interface][0], record.time
        head = struct.pack("<IIIII", number, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, len(record.data), record.length)
        comments = _packed([(_COMMENT, one.encode()) for one in record.comments])
        self._stream.write(_written(_ENHANCED, head + record.data + bytes(-len(record.data) % 4) + comments))


def _packed(options: list[tuple[int, bytes]]) -> bytes:
    if not options:
        return b""
    return b"".join(struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in options) + bytes(4)


def _written(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length

"""Packets of a capture as they stand in the file, and the door to both formats: whatever a path holds, told by its first bytes."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO, Final, NamedTuple

from dataplane.errors import InputError, ParseError, Problem

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
PCAPNG_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
#: Nobody captures more of a packet (libpcap's MAXIMUM_SNAPLEN is a quarter of a mebibyte; USB and D-Bus captures have more).
MAX_LENGTH: Final = 128 << 20


class Interface(NamedTuple):
    """Where packets were captured: the link type (LINKTYPE_*), the name if it is told, ticks a second, seconds to add, the most bytes kept."""

    linktype: int
    name: str = ""
    resolution: int = 1_000_000
    offset: int = 0
    snaplen: int = 262144


class Record(NamedTuple):
    """One packet: ``time`` in nanoseconds since 1970, the bytes that were kept, how long it was on the wire, its interface's number."""

    time: int
    data: bytes
    length: int
    interface: int
    comments: tuple[str, ...] = ()


class Capture:
    """An open capture: iterate over it once. ``interfaces`` grows as the file tells them, ``warnings`` as something is amiss."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        from dataplane.captures import pcap, pcapng  # each knows the other's records only

        self.name = name
        self.interfaces: list[Interface] = []
        self.warnings: list[str] = []
        magic = _exactly(stream, 4)
        if magic == PCAPNG_MAGIC:
            self._records = pcapng.records(self, stream)
        elif magic in pcap.MAGICS:
            self._records = pcap.records(self, stream, magic)
        else:
            what = "it is empty" if not magic else f"it begins with {magic.hex(' ')}"
            raise ParseError(Problem(f"no capture: expected pcap or pcapng, but {what}", name))

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def warn(self, text: str) -> None:
        """Something is amiss, but reading goes on (or ends here, with all that came before)."""
        self.warnings.append(f"{self.name}: {text}")


@contextmanager
def opened(path: str) -> Iterator[Capture]:
    """A capture by its path, ``-`` for standard input; gzip and zstd are unpacked. InputError for what cannot be, ParseError for no capture."""
    name = "standard input" if path == "-" else path
    stream = _buffered(sys.stdin.buffer if path == "-" else Path(path).open("rb"))
    try:
        magic = stream.peek(4)[:4]
        if magic[:2] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield Capture(io.BufferedReader(unpacked), name)
        elif magic == ZSTD_MAGIC:
            with _unzstd(stream, name) as plain:
                yield Capture(plain, name)
        else:
            yield Capture(stream, name)
    except gzip.BadGzipFile as error:
        raise ParseError(Problem(f"broken gzip: {error}", name)) from None
    finally:
        if path != "-":
            stream.close()


def _buffered(stream: IO[bytes]) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[arg-type]  # a raw stream


@contextmanager
def _unzstd(stream: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Through the zstd command: a library for it is not worth a dependency."""
    try:
        process = subprocess.Popen(["zstd", "-dc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise InputError(Problem("packed by zstd, and the zstd command is not installed (Debian: zstd)", name)) from None
    assert process.stdin is not None and process.stdout is not None
    feeder = Thread(target=_feed, args=(stream, process.stdin), daemon=True)
    feeder.start()
    try:
        yield io.BufferedReader(process.stdout)  # type: ignore[type-var]  # a pipe
    finally:
        process.kill()
        process.wait()
        feeder.join()


def _feed(stream: IO[bytes], into: IO[bytes]) -> None:
    with suppress(OSError, ValueError), into:
        while part := stream.read(1 << 16):
            into.write(part)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """That many bytes, or fewer at the end."""
    found = stream.read(size)
    while len(found) < size:
        more = stream.read(size - len(found))
        if not more:
            break
        found += more
    return found


read_exactly = _exactly

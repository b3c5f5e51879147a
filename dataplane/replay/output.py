"""Captures that a replay writes: finished under another name first, so that no half of a file is ever taken for the whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from dataplane.captures import pcap, pcapng
from dataplane.captures.records import Interface, Record
from dataplane.render.text import service_of
from dataplane.replay.walk import Replayed
from dataplane.trace import Trace


class Output:
    """One capture to be written: pcapng where its name ends so, else pcap of the first packet's link type; ``-`` is standard output.

    ``close`` puts it in its place; ``abandon`` removes what was written. What is there and is no plain file (a device, a pipe) is written
    to as it is.
    """

    def __init__(self, path: str, interfaces: Sequence[Interface]) -> None:
        self.path, self._interfaces = path, interfaces
        self._ng = path.endswith(".pcapng")
        self._target = Path(path).resolve() if path != "-" else None
        plain = self._target is not None and (self._target.is_file() or not self._target.exists())
        self._partial = Path(f"{self._target}.partial-{os.getpid()}") if plain else None
        opened = self._partial or self._target
        self._stream: IO[bytes] = opened.open("wb") if opened is not None else sys.stdout.buffer
        self._writer: pcap.Writer | None = None
        self._rich = pcapng.Writer(self._stream) if self._ng else None
        self._linktype = -1
        self.left_out = 0

    def write(self, record: Record, comments: Iterable[str] = ()) -> None:
        """Adds a packet. What has another link type than the first cannot stand in a pcap file: counted in ``left_out``."""
        interface = self._interfaces[record.interface]
        if self._rich is not None:
            self._rich.write(record._replace(comments=(*record.comments, *comments)), interface)
            return
        if self._writer is None:
            self._writer, self._linktype = pcap.Writer(self._stream, interface), interface.linktype
        if interface.linktype != self._linktype:
            self.left_out += 1
            return
        self._writer.write(record)

    def close(self) -> None:
        """The file is whole."""
        if self._writer is None and self._rich is None:
            self._writer = pcap.Writer(self._stream, self._interfaces[0] if self._interfaces else Interface(1))
        self._stream.flush()
        if self._target is not None:
            self._stream.close()
        if self._partial is not None and self._target is not None:
            self._partial.rename(self._target)

    def abandon(self) -> None:
        """Nothing of it stays."""
        if self._target is not None:
            with suppress(OSError):
                self._stream.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)


def write_text(path: str, text: str) -> None:
    """A whole text file, or none. OSError where it cannot be written."""
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    partial = Path(f"{target}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.rename(target)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def comment(trace: Trace) -> str:
    """Verdict, deciding rule and Service, as a packet's comment."""
    service = service_of(trace)
    by = f" by {trace.oif}" if trace.verdict == "forward" and trace.oif else f": {trace.reason}" if trace.verdict != "forward" and trace.reason else ""
    rule = f" ({trace.by})" if trace.by is not None and trace.verdict != "forward" else ""
    return f"dataplane: {trace.verdict}{by}{rule}{f'; Service {service}' if service else ''}"


def record_of(one: Replayed, data: bytes) -> Record:
    """The packet's record with other bytes; the length on the wire changes as much."""
    return one.record._replace(data=data, length=one.record.length + len(data) - len(one.record.data))

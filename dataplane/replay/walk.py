"""Each packet of a capture through the engine, at its time on the virtual clock, all of them on one connection table.

The definition: whatever is faster must say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from dataplane.captures import wire
from dataplane.captures.frames import locate
from dataplane.captures.records import Interface, Record
from dataplane.engine.choices import Choices, Seeded
from dataplane.engine.fib import Flow
from dataplane.engine.netns import Netns
from dataplane.errors import InputError, Problem
from dataplane.packet import Packet
from dataplane.trace import Trace

_SECOND: Final = 1_000_000_000


class Replayed(NamedTuple):
    """One packet of the capture: ``number`` from 1; ``trace`` None for what was not understood, and then ``why``.

    ``offset`` is where IP begins in the frame; ``indev`` None: the node itself sent it. ``out`` is the frame as it left or was delivered.
    """

    number: int
    record: Record
    packet: Packet | None = None
    indev: str | None = None
    trace: Trace | None = None
    out: bytes = b""
    offset: int = -1
    why: str = ""
    bad_checksum: bool = False

    def replies(self) -> Iterator[bytes]:
        """IP packets that the node sent by itself because of this one, as they left it."""
        for reply in self.trace.replies if self.trace is not None else ():
            if reply.verdict in ("forward", "local"):
                yield wire.made(reply.packet, self.record.data[self.offset :])


class Entrances:
    """By which of the node's devices packets come in. ``given`` maps an interface's number or name to a device, "" stands for all.

    An interface of the capture that is called like a device of the node is that one. Else the way back to the source decides; what has one of the
    node's own addresses is sent by the node.
    """

    def __init__(self, netns: Netns, given: Mapping[str, str]) -> None:
        self._netns, self._given = netns, given
        links = netns.kernel.links
        for name in given.values():
            if name not in links:
                raise InputError(Problem(f'--in: no interface "{name}" on this node: it has {", ".join(links)}'))

    def device(self, number: int, interface: Interface, packet: Packet) -> str | None:
        """The device, or None for the node's own packets."""
        for key in (str(number), interface.name, ""):
            if key in self._given:
                return self._given[key]
        if interface.name in self._netns.kernel.links:
            return interface.name
        fib = self._netns.kernel.fib
        if fib.owner(packet.family, packet.saddr) is not None:
            return None
        back = fib.lookup(Flow(packet.family, packet.saddr))
        if back.error is not None or back.local or not back.dev:
            raise wire.Malformed("no route leads back to its source: say by which interface it comes (--in)")
        return back.dev


class Clock:
    """The capture's time as seconds since its first packet. It never goes backward: a packet that is older comes at the time of the last one."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._first: int | None = None
        self._last = 0
        self._warn = warn
        self._warned = False

    def at(self, time: int, number: int) -> float:
        """Seconds of the virtual clock."""
        if self._first is None:
            self._first = self._last = time
        if time < self._last and not self._warned:
            self._warned = True
            self._warn(f"packet {number}: time goes backward; such packets come at the time of the one before")
        self._last = max(self._last, time)
        return (self._last - self._first) / _SECOND


def replay(
    netns: Netns, records: Iterable[Record], interfaces: list[Interface], entrances: Entrances, clock: Clock, *,
    choices: Choices | None = None, verify_checksums: bool = False,
) -> Iterator[Replayed]:  # fmt: skip
    """Every record, in order. With ``verify_checksums`` a wrong one makes a packet INVALID, as it does where no card has checked it before."""
    chosen = choices or Seeded(0)
    for number, record in enumerate(records, 1):
        netns.kernel.now = clock.at(record.time, number)
        yield _one(netns, number, record, interfaces[record.interface], entrances, chosen, verify_checksums)


def _one(netns: Netns, number: int, record: Record, interface: Interface, entrances: Entrances, choices: Choices, verify: bool) -> Replayed:
    frame = locate(interface.linktype, record.data)
    if frame.offset < 0:
        return Replayed(number, record, why=frame.why)
    data = record.data[frame.offset :]
    try:
        packet = wire.read(data)
        indev = entrances.device(record.interface, interface, packet)
    except wire.Malformed as error:
        return Replayed(number, record, offset=frame.offset, why=str(error))
    wrong = wire.checksum_is_wrong(data, packet)
    if wrong and verify:
        packet = packet._replace(bad_checksum=True)
    trace = netns.send(packet, choices=choices) if indev is None else netns.receive(packet, indev, choices=choices)
    out = b""
    if trace.verdict in ("forward", "local"):
        out = record.data[: frame.offset] + wire.rewritten(data, packet, trace.packet)
    return Replayed(number, record, packet, indev, trace, out, frame.offset, bad_checksum=wrong)

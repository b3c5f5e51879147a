"""Sends packets through a node and says what its kernel did with each, in the form in which the emulator says it.

Packets from outside are put on the far end of an interface (AF_PACKET, with the node's MAC); the node's own go through a raw
socket bound to their source. Everything runs on one CPU, where the kernel is done with a packet, and with what loops over
lo, before a later sentinel comes by; so the log up to the sentinel is the whole story, and in the order in which it happened.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dataplane.adapters.lab import wire
from dataplane.adapters.lab.dialogue import Script, Sent
from dataplane.adapters.lab.fresh import batches_of, forget
from dataplane.adapters.lab.lines import Line, Outcome, Packet, Seen, outcome
from dataplane.adapters.lab.node import Node
from dataplane.adapters.lab.observer import INPUT, OUTPUT, POSTROUTING, PREROUTING, Event
from dataplane.adapters.lab.wire import Header
from dataplane.errors import LabError

Mode = Literal["sequence", "fresh"]

OUTSIDE_MAC: Final = bytes.fromhex("02005e005301")
_CHUNK: Final = 128  # packets before the log is read
_ROUNDS: Final = 3  # sentinels: a packet may pass lo, and so may the answer to it
_LO: Final = 1
_MAX_SOCKETS: Final = 512
_SOL_IPV6: Final = 41
_IP_FREEBIND, _IP_HDRINCL, _IPV6_HDRINCL, _IPV6_FREEBIND = 15, 3, 36, 78


@dataclass(slots=True)
class _Watched:
    """A packet that was sent, and what has been seen of it."""

    sent: Sent
    tag: int
    at: float
    until: float = 0.0
    last: Event | None = None  # where it was delivered or left, if it was
    answers: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None


class Referee:
    """One node's kernel, to be asked about packets. ``close`` closes its sockets."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wire = node.outside.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._lo = node.inside.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._raw: dict[tuple[str, int], socket.socket] = {}
        self._tag = 0
        self._script = Script()
        self._watched: dict[int, _Watched] = {}
        self._started = time.monotonic()

    def close(self) -> None:
        """Closes the sockets."""
        for one in (self._wire, self._lo, *self._raw.values()):
            one.close()

    def clock(self) -> float:
        """Seconds since this referee began, the clock of ``at`` and ``until``."""
        return time.monotonic() - self._started

    def send(self, packets: Iterable[Packet], mode: Mode = "sequence") -> list[Line]:
        """What the kernel did with each packet.

        ``sequence``: one after the other, each with what the earlier ones left behind. ``fresh``: each, with the replies to
        it, from the state of the snapshot. A reply to what was neither forwarded nor delivered is not sent: no outcomes.
        """
        everything = list(packets)
        with _one_cpu():
            if mode == "sequence":
                self._run(everything)
            else:
                for batch in batches_of(everything, self._node.snapshot):
                    forget(self._node)
                    self._script = Script()
                    self._run(batch)
        return [self._line(packet) for packet in everything]

    def _line(self, packet: Packet) -> Line:
        watched = self._watched.get(packet.id)
        if watched is None or watched.outcome is None:
            return {"id": packet.id, "outcomes": []}
        return {"id": packet.id, "outcomes": [watched.outcome], "at": watched.at, "until": watched.until}

    # ------------------------------------------------------------------ sending

    def _run(self, packets: list[Packet]) -> None:
        chunk: dict[int, _Watched] = {}
        for packet in packets:
            waits = packet.reply_to is not None and any(one.sent.packet.id == packet.reply_to for one in chunk.values())
            if chunk and (waits or len(chunk) >= _CHUNK):
                self._watch(chunk)
                chunk = {}
            if packet.wait:
                time.sleep(packet.wait)
            sent = self._derived(packet)
            if sent is None:
                self._watched.pop(packet.id, None)
                continue
            tag = self._tag_of(packet)
            data = wire.build(sent.src, sent.dst, sent.segment, ttl=sent.ttl, tag=tag, tos=sent.tos)
            if packet.fragment:
                data = wire.fragments(data, packet.fragment)[packet.again]
            watched = self._watched[packet.id] = _Watched(sent, tag, self.clock())
            chunk[tag] = watched
            self._put(sent, data)
            watched.until = self.clock()
        if chunk:
            self._watch(chunk)

    def _derived(self, packet: Packet) -> Sent | None:
        if packet.reply_to is None:
            return self._script.opening(packet)
        cause = self._watched.get(packet.reply_to)
        if cause is None or cause.outcome is None:
            return None
        return self._script.reply(packet, cause.sent, cause.outcome)

    def _next_tag(self) -> int:
        self._tag = self._tag % wire.MAX_TAG + 1
        return self._tag

    def _tag_of(self, packet: Packet) -> int:
        """Fragments of one packet have one identification."""
        if packet.fragment and packet.again and packet.reply_to is not None:
            return self._watched[packet.reply_to].tag
        return self._next_tag()

    def _put(self, sent: Sent, data: bytes) -> None:
        if sent.indev is None:
            self._send_from_node(sent, data)
        else:
            self._send_from_outside(sent.indev, sent, data)

    def _send_from_outside(self, indev: str, sent: Sent, data: bytes) -> None:
        if indev not in self._node.macs:
            raise LabError(f'no interface "{indev}" on this node: it has {", ".join(self._node.macs)}')
        mac = _group_mac(sent, self._node.broadcasts.get(indev, ())) or self._node.macs[indev]
        ethertype = b"\x86\xdd" if sent.family == 6 else b"\x08\x00"
        frame = mac + (bytes(6) if indev == "lo" else OUTSIDE_MAC) + ethertype + data
        try:
            if indev == "lo":
                self._lo.sendto(frame, ("lo", 0))
            else:
                self._wire.sendto(frame, (f"p{self._index(indev)}", 0))
        except OSError as error:
            raise LabError(f"packet by {indev}: {error}") from error

    def _index(self, name: str) -> int:
        return next(index for index, known in self._node.links.items() if known == name)

    def _send_from_node(self, sent: Sent, data: bytes) -> None:
        """An error of the call is one of the kernel's verdicts (no route, a drop): the log tells how far the packet got."""
        protocol = wire.NUMBERS.get(sent.segment.proto, wire.ICMP if sent.family == 4 else wire.ICMPV6)
        scope = self._scope_of(sent) if sent.family == 6 else 0
        try:
            raw = self._raw_socket(sent, protocol, scope)
            raw.sendto(data, (sent.dst, 0, 0, scope) if sent.family == 6 else (sent.dst, 0))
        except OSError:
            return

    def _raw_socket(self, sent: Sent, protocol: int, scope: int) -> socket.socket:
        key = (sent.src, protocol)
        if key not in self._raw:
            if len(self._raw) >= _MAX_SOCKETS:
                self._raw.pop(next(iter(self._raw))).close()
            raw = self._node.inside.socket(socket.AF_INET6 if sent.family == 6 else socket.AF_INET, socket.SOCK_RAW, protocol)
            try:
                _prepare(raw, sent, scope)
            except OSError:
                raw.close()
                raise
            self._raw[key] = raw
        return self._raw[key]

    def _scope_of(self, sent: Sent) -> int:
        """The interface of a link-local address: the one that has the source."""
        target = wire.packed(sent.dst)
        if target[:1] != b"\xff" and (target[0] != 0xFE or target[1] & 0xC0 != 0x80):
            return 0
        for link in self._node.snapshot.links or []:
            if any(entry["local"] == sent.src for entry in link.get("addr_info", ())):
                return int(link["ifindex"])
        return 0

    # ------------------------------------------------------------------ watching

    def _watch(self, chunk: dict[int, _Watched]) -> None:
        for _ in range(_ROUNDS):
            number = self._next_tag()
            self._lo.sendto(bytes(12) + b"\x08\x00" + wire.sentinel(number), ("lo", 0))
            self._read(chunk, number)
        for watched in chunk.values():
            watched.outcome = self._outcome(watched)

    def _read(self, chunk: dict[int, _Watched], number: int) -> None:
        """Give every event to its packet: by tag, or, for a RST, to the packet at which the kernel was just then."""
        current: _Watched | None = None
        resets: dict[tuple[Any, ...], _Watched] = {}
        for event in self._node.observer.events(number):
            owner = chunk.get(event.header.tag)
            if event.header.error is not None and event.header.about in chunk:
                owner = chunk[event.header.about]
                if not _is_redirect(event.header):
                    _note_answer(owner, event)
            elif owner is not None:
                _note(owner, event)
                current = owner if event.hook in (PREROUTING, OUTPUT) else current
            elif "R" in event.header.flags:
                owner = resets.get(_ends(event.header)) if event.indev else current
                if owner is not None:
                    resets[_ends(event.header)] = owner
                    _note_answer(owner, event)

    def _outcome(self, watched: _Watched) -> Outcome:
        event = watched.last
        if event is not None:
            seen = _seen(event)
            if event.hook == INPUT:
                return outcome("local", packet=seen)
            return outcome("forward", oif=self._node.links.get(event.outdev), packet=seen)
        if watched.answers:
            return outcome("reject", reply=_reply(watched.answers[-1].header))
        return outcome("drop")


def _note(watched: _Watched, event: Event) -> None:
    if _is_final(event):
        watched.last = event


def _note_answer(watched: _Watched, event: Event) -> None:
    if _is_final(event):
        watched.answers.append(event)


def _is_final(event: Event) -> bool:
    """Delivered, or gone by a device that is not lo."""
    return event.hook == INPUT or (event.hook == POSTROUTING and event.outdev != _LO)


def _is_redirect(header: Header) -> bool:
    """An ICMP redirect (now and then, when a packet goes back where it came from) says "next time", not "no"."""
    return header.family == 4 and header.error is not None and header.error[0] == 5


def _seen(event: Event) -> Seen:
    header = event.header
    return {
        "src": header.src, "dst": header.dst, "proto": header.proto, "sport": header.sport, "dport": header.dport,
        "ttl": header.ttl, "mark": event.mark, "tos": header.tos, "length": header.length, "valid": wire.valid(event.data),
    }  # fmt: skip


def _reply(header: Header) -> dict[str, Any]:
    base: dict[str, Any] = {"src": header.src, "dst": header.dst, "proto": header.proto}  # Any: JSON
    if header.error is None:
        return {**base, "flags": header.flags}
    return {**base, "type": header.error[0], "code": header.error[1]}


def _ends(header: Header) -> tuple[Any, ...]:
    return header.src, header.dst, header.proto, header.sport, header.dport


def _group_mac(sent: Sent, broadcasts: Collection[str]) -> bytes | None:
    """The MAC of a multicast address (RFC 1112, 2464) or of a broadcast on that link, None for one host's."""
    if sent.family == 6:
        packed = socket.inet_pton(socket.AF_INET6, sent.dst)
        return b"\x33\x33" + packed[12:] if packed[0] == 0xFF else None
    packed = socket.inet_aton(sent.dst)
    if packed == b"\xff\xff\xff\xff" or sent.dst in broadcasts:
        return b"\xff" * 6
    return b"\x01\x00\x5e" + bytes((packed[1] & 0x7F,)) + packed[2:] if packed[0] >> 4 == 14 else None


def _prepare(raw: socket.socket, sent: Sent, scope: int) -> None:
    """Bound, so that the first route lookup sees the source too, as that of a real socket would; to any address at all."""
    if sent.family == 6:
        raw.setsockopt(_SOL_IPV6, _IPV6_HDRINCL, 1)
        raw.setsockopt(_SOL_IPV6, _IPV6_FREEBIND, 1)
        raw.bind((sent.src, 0, 0, scope))
        return
    raw.setsockopt(socket.IPPROTO_IP, _IP_HDRINCL, 1)
    raw.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    raw.bind((sent.src, 0))


@contextmanager
def _one_cpu() -> Iterator[None]:
    """The queue between two devices is per CPU; on one CPU it is in order."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

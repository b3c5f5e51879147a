"""The machine form of packets and outcomes: one JSON object a line, the same that the emulator reads and prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NotRequired, TypedDict

from dataplane.errors import ParseError, Problem

Verdict = Literal["forward", "local", "drop", "reject", "unknown"]

PROTOCOLS: Final = ("tcp", "udp", "sctp", "icmp")
_NAMES: Final = {"in": "indev"}


class Seen(TypedDict):
    """A packet as it left or was delivered. ICMP echo has its id in ``sport`` and no ``dport``; None: any port.

    ``length`` is the whole packet's in bytes, ``valid`` whether its checksums are right.
    """

    src: str
    dst: str
    proto: str
    sport: int | None
    dport: int | None
    ttl: int
    mark: int
    tos: int
    length: int
    valid: bool


class Outcome(TypedDict):
    """What became of a packet, or could have. ``reply`` has src, dst, proto and type and code (icmp) or flags (tcp)."""

    probability: str
    verdict: Verdict
    oif: str | None
    packet: Seen | None
    reply: dict[str, Any] | None  # Any: JSON
    by: dict[str, Any] | None  # Any: JSON


class Line(TypedDict):
    """``at`` and ``until`` bound when a packet was sent, in seconds of the lab's clock, for rules that count per second."""

    id: int
    outcomes: list[Outcome]
    at: NotRequired[float]
    until: NotRequired[float]


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet to be sent; ``indev`` None: by the node itself. What is None is derived from the one that ``reply_to`` names.

    ``length`` is the bytes of payload. ``shift`` is added to TCP's sequence number, as it would be. ``again`` sends the packet that
    ``reply_to`` names once more. ``type`` (and ``code``) makes it an ICMP error about what that packet became. ``fragment`` is the
    bytes of payload of its first fragment: the rest follows in the packet that says ``again``. ``wait`` is seconds before it is sent.
    """

    id: int
    indev: str | None = None
    src: str | None = None
    dst: str | None = None
    proto: str | None = None
    sport: int | None = None
    dport: int | None = None
    flags: str | None = None
    ttl: int = 64
    reply_to: int | None = None
    tos: int = 0
    length: int = 0
    shift: int = 0
    again: bool = False
    type: int | None = None
    code: int = 0
    fragment: int = 0
    wait: float = 0.0

    def __post_init__(self) -> None:
        if self.proto is not None and self.proto not in PROTOCOLS:
            raise ValueError(f"packet {self.id}: proto {self.proto!r} is none of {', '.join(PROTOCOLS)}")
        if self.reply_to is None and (self.src is None or self.dst is None or self.proto is None):
            raise ValueError(f"packet {self.id}: src, dst and proto are needed where there is no reply_to")

    def line(self) -> str:
        """The packet as a line of JSON, without what is None."""
        values: dict[str, Any] = {"id": self.id, "in": self.indev, "src": self.src, "dst": self.dst, "proto": self.proto, "sport": self.sport}
        values |= {"dport": self.dport, "flags": self.flags, "ttl": self.ttl, "reply_to": self.reply_to, "type": self.type}
        more = {"tos": self.tos, "length": self.length, "shift": self.shift, "again": self.again, "code": self.code}
        values |= {key: value for key, value in more.items() if value}
        values |= {key: value for key, value in (("fragment", self.fragment), ("wait", self.wait)) if value}
        keep_null = "in" if self.reply_to is None else ""
        return json.dumps({key: value for key, value in values.items() if value is not None or key == keep_null})


def read_packets(text: str, file: str = "-") -> list[Packet]:
    """Packets, one a line; blank lines are left out. ParseError with file and line for what is not one."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = {_NAMES.get(key, key): value for key, value in json.loads(line).items()}
            found.append(Packet(**{"id": number, **fields}))
        except (TypeError, ValueError, AttributeError) as error:
            raise ParseError(Problem(f"not a packet: {error}", file, number)) from None
    return found


def write_packets(packets: Iterable[Packet]) -> str:
    """A line each."""
    return "".join(packet.line() + "\n" for packet in packets)


def outcome(
    verdict: Verdict, *, oif: str | None = None, packet: Seen | None = None, reply: dict[str, Any] | None = None
) -> Outcome:
    """An outcome that is certain, as what a kernel did always is."""
    return {"probability": "1", "verdict": verdict, "oif": oif, "packet": packet, "reply": reply, "by": None}

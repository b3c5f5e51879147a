"""One flow and its tracker, without a table of connections; and scenes: packets as text, each with what becomes of it.

A scene is a title (parameters in brackets) and lines ``DIRECTION WHAT KEY=VALUE… | CLASS STATE TIMEOUT PACKETS [ASSURED]``;
``>`` comes from the client. WHAT is the flags of TCP (``SA``; ``.`` for none), the chunks of SCTP (``COOKIE_ECHO+DATA``;
``ABORT*`` with its T flag) or a protocol; ``t`` is the time in seconds, ``wrong=1`` a wrong checksum. What stands on the right
was said by a kernel, which is asked again by tests/kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dataplane.engine import conntrack_other as other
from dataplane.engine import conntrack_sctp as sctp
from dataplane.engine import conntrack_tcp as tcp
from dataplane.engine.conntrack_tracker import INVALID, KILL, REPEAT, Result
from dataplane.engine.skb import Skb
from dataplane.inet import ICMP, PROTOCOL_NUMBERS, SCTP, TCP, UDP, UDPLITE
from dataplane.packet import FLAG_LETTERS, Packet, TcpOptions
from dataplane.rules.sysctls import Sysctls

CLIENT, SERVER = 0x0A000001, 0x0A000101
SERVER_PORT = 80

CHUNKS = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "SHUTDOWN_COMPLETE": 14,
}  # fmt: skip


class SctpSkb(Skb):
    """A Skb that knows its INIT's tag and its chunks' flags."""

    __slots__ = ("init_tag", "sctp_flags")
    init_tag: int
    sctp_flags: tuple[int, ...]


@dataclass(frozen=True)
class Sent:
    """A packet, and what Packet does not say of SCTP."""

    packet: Packet
    init_tag: int = 0
    chunk_flags: tuple[int, ...] = ()

    def skb(self) -> Skb:
        if self.packet.protocol != SCTP:
            return Skb(self.packet)
        skb = SctpSkb(self.packet)
        skb.init_tag, skb.sctp_flags = self.init_tag, self.chunk_flags
        return skb


class OneFlow:
    """What a table of connections would hold of this flow. ``left`` is None where it holds nothing."""

    def __init__(self, sysctls: Sysctls) -> None:
        self.sysctls = sysctls
        self.tracking: tcp.TcpTracking | sctp.SctpTracking | other.OtherTracking | None = None
        self.backwards = self.seen_reply = self.assured = False
        self.timeout_at = 0.0
        self.packets = [0, 0]
        self.reason = ""

    def left(self, now: float) -> float | None:
        return None if self.tracking is None else self.timeout_at - now

    @property
    def state(self) -> str | None:
        return getattr(self.tracking, "state", None)

    def send(self, sent: Sent, now: float) -> str:
        """The class of the packet, as rules see it."""
        skb = sent.skb()
        if self.tracking is not None and self.timeout_at <= now:
            self.tracking = None
        fresh = self.tracking is None
        if fresh:
            started = self._start(skb, now)
            if isinstance(started, str):
                self.reason = started
                return "INVALID"
            self.tracking, self.backwards, self.packets = started, sent.packet.saddr == SERVER, [0, 0]
            self.seen_reply = self.assured = False
        reply = (sent.packet.saddr == SERVER) != self.backwards
        result = self._advance(skb, reply, now, 0.0 if fresh else self.timeout_at - now)
        self.reason = result.reason
        if result.timeout is not None:
            self.timeout_at = now + result.timeout
        self.assured = self.assured or result.assured
        if result.verdict == REPEAT:
            self.tracking = None
            return self.send(sent, now)
        if result.verdict == INVALID:
            if fresh:
                self.tracking = None
            return "INVALID"
        self.packets[reply] += result.counted
        known = reply or self.seen_reply
        self.seen_reply = known
        if result.verdict == KILL:
            self.tracking = None
        return "ESTABLISHED" if known else "NEW"

    def _start(self, skb: Skb, now: float) -> tcp.TcpTracking | sctp.SctpTracking | other.OtherTracking | str:
        if skb.protocol == TCP:
            return tcp.start(skb, self.sysctls)
        return sctp.start(skb) if skb.protocol == SCTP else other.start(skb, now)

    def _advance(self, skb: Skb, reply: bool, now: float, left: float) -> Result:
        match self.tracking:
            case tcp.TcpTracking() as tracking:
                return tcp.advance(tracking, skb, reply, self.seen_reply, self.assured, self.sysctls, left)
            case sctp.SctpTracking() as tracking:
                return sctp.advance(tracking, skb, reply, self.assured, self.sysctls)
            case other.OtherTracking() as tracking:
                return other.advance(tracking, skb, self.seen_reply, self.assured, self.sysctls, now)
        raise AssertionError("no tracking")


class Step(NamedTuple):
    line: str
    sent: Sent
    time: float
    expected: str


class Scene(NamedTuple):
    title: str
    sysctls: dict[str, int]
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return self.title


def parse_scenes(text: str, protocol: str, sport: int = 1000) -> list[Scene]:
    """Scenes are separated by empty lines; each has a client port of its own."""
    scenes = []
    for number, block in enumerate(text.strip().split("\n\n")):
        title, *lines = block.splitlines()
        title, _, parameters = title.partition(" [")
        pairs = (pair.split("=") for pair in parameters.rstrip("]").split())
        sysctls = {f"nf_conntrack_{name}": int(value) for name, value in pairs}
        scenes.append(Scene(title, sysctls, tuple(_step(line, protocol, sport + number) for line in lines)))
    return scenes


def said(kind: str, state: str | None, left: float | None, packets: tuple[int, int], assured: bool) -> str:
    """What became of a packet, in a scene's words; ``left`` is None where there is no entry."""
    if left is None:
        return f"{kind} -"
    words = [kind, state or "", str(round(left)), f"{packets[0]}/{packets[1]}", "ASSURED" if assured else ""]
    return " ".join(word for word in words if word)


def play(scene: Scene) -> list[str]:
    """What the trackers say of each packet."""
    flow = OneFlow(Sysctls({f"net.netfilter.{key}": str(value) for key, value in scene.sysctls.items()}))
    answers = []
    for step in scene.steps:
        kind = flow.send(step.sent, step.time)
        answers.append(said(kind, flow.state, flow.left(step.time), (flow.packets[0], flow.packets[1]), flow.assured))
    return answers


def _step(line: str, protocol: str, sport: int) -> Step:
    given, _, expected = line.partition("|")
    direction, what, *pairs = given.split()
    fields = dict(pair.split("=") for pair in pairs)
    time = float(fields.pop("t", "0"))
    maker = {"tcp": _tcp, "sctp": _sctp}.get(protocol, _other)
    return Step(line, maker(direction == "<", what, fields, sport), time, " ".join(expected.split()))


def _tcp(back: bool, letters: str, fields: dict[str, str], sport: int) -> Sent:
    options = _options(fields)
    number = {key: int(value) for key, value in fields.items()}
    packet = Packet(
        4, *_ends(back), TCP, *_ports(back, sport),
        tcp_flags=sum(1 << FLAG_LETTERS.index(letter) for letter in letters if letter != "."),
        seq=number.get("seq", 0), ack=number.get("ack", 0), window=number.get("win", 1000), payload=number.get("len", 0),
        tcp_options=options, length=40 + number.get("len", 0), bad_checksum="wrong" in number,
    )  # fmt: skip
    return Sent(packet)


def _options(fields: dict[str, str]) -> TcpOptions | None:
    scale, sack_ok, sack = fields.pop("wscale", None), fields.pop("sackok", None), fields.pop("sack", None)
    if scale is None and sack_ok is None and sack is None:
        return None
    blocks = [block.split("-") for block in sack.split(",")] if sack else []
    edges = tuple((int(left), int(right)) for left, right in blocks)
    return TcpOptions(wscale=None if scale is None else int(scale), sack_permitted=bool(sack_ok), sack=edges)


def _sctp(back: bool, names: str, fields: dict[str, str], sport: int) -> Sent:
    chunks = tuple(CHUNKS[name.rstrip("*")] for name in names.split("+"))
    flags = tuple(int(name.endswith("*")) for name in names.split("+"))
    tag, init = int(fields.get("tag", "0")), int(fields.get("init", "0"))
    packet = Packet(4, *_ends(back), SCTP, *_ports(back, sport), sctp_chunks=chunks, vtag=tag, length=100)
    return Sent(packet, init, flags)


def _other(back: bool, name: str, fields: dict[str, str], sport: int) -> Sent:
    protocol, wrong = PROTOCOL_NUMBERS[name], "wrong" in fields
    if protocol == ICMP:
        kind, code = int(fields.get("type", "8")), int(fields.get("code", "0"))
        return Sent(Packet(4, *_ends(back), ICMP, icmp_type=kind, icmp_code=code, icmp_id=sport, length=28, bad_checksum=wrong))
    ports = _ports(back, sport) if protocol in (UDP, UDPLITE) else (0, 0)
    return Sent(Packet(4, *_ends(back), protocol, *ports, length=40, bad_checksum=wrong))


def _ends(back: bool) -> tuple[int, int]:
    return (SERVER, CLIENT) if back else (CLIENT, SERVER)


def _ports(back: bool, sport: int) -> tuple[int, int]:
    return (SERVER_PORT, sport) if back else (sport, SERVER_PORT)

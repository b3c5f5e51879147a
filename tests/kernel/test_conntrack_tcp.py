"""TCP's tracker against the kernel: the frozen scenes once more, and thousands of segments that no endpoint would send.

After every segment its class and the kernel's entry (state, timeout, ASSURED, counters, flags and scales of both sides) must be
the tracker's. The parameters give every state a timeout of its own, so that the right one is told from the others.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import pytest

from dataplane.engine import conntrack_tcp as tcp
from dataplane.inet import TCP
from dataplane.packet import ACK, FIN, PSH, RST, SYN, URG, Packet, TcpOptions
from dataplane.rules.sysctls import Sysctls
from tests.engine.one_flow import CLIENT, SERVER, SERVER_PORT, OneFlow, Scene, Sent, parse_scenes
from tests.engine.test_conntrack_tcp import SCENES
from tests.kernel.conntrack_lab import Entry, Lab, answers, wire

pytestmark = pytest.mark.usefixtures("kernel")

_TIMED = ("syn_sent", "syn_recv", "fin_wait", "max_retrans", "close_wait", "last_ack", "unacknowledged", "time_wait", "close")
TIMEOUTS = {f"nf_conntrack_tcp_timeout_{name}": 110 + 100 * number for number, name in enumerate(_TIMED)}
TIMEOUTS["nf_conntrack_tcp_timeout_established"] = 5000
SHORT = {f"nf_conntrack_tcp_timeout_{name}": 100 for name in ("fin_wait", "close_wait", "last_ack", "time_wait", "close")}
PARAMETERS = {
    "defaults": {},
    "liberal": {"nf_conntrack_tcp_be_liberal": 1},
    "not loose": {"nf_conntrack_tcp_loose": 0},
    "any RST": {"nf_conntrack_tcp_ignore_invalid_rst": 1},
    "one copy": {"nf_conntrack_tcp_max_retrans": 1, "nf_conntrack_tcp_timeout_max_retrans": 50},
    "short": {"nf_conntrack_tcp_timeout_unacknowledged": 60, **SHORT},
}
M = 0xFFFFFFFF
Weights = tuple[float, float, float, float]  # of ACK, FIN, RST, SYN


@pytest.mark.parametrize("scene", parse_scenes(SCENES, "tcp"), ids=str)
def test_the_kernel_plays_the_scene_alike(scene: Scene) -> None:
    with Lab(scene.sysctls) as lab:
        answers(lab, scene)


@pytest.mark.parametrize("name", PARAMETERS)
def test_random_segments(name: str) -> None:
    sysctls = TIMEOUTS | PARAMETERS[name]
    with Lab(sysctls) as lab:
        for seed in range(150):
            _follow(lab, OneFlow(_parameters(sysctls)), random.Random(seed), 1000 + seed)


@pytest.mark.parametrize("state", [state for state in tcp.STATES if state != "NONE"])
def test_random_segments_of_a_restored_connection(state: str) -> None:
    with Lab(TIMEOUTS) as lab:
        for seed in range(30):
            flow = OneFlow(_parameters(TIMEOUTS))
            flow.tracking = restored = tcp.restore(state)
            flow.seen_reply = flow.assured = True
            lab.make_tcp(1000 + seed, SERVER_PORT, state, restored.sides[0].flags, 500)
            flow.timeout_at = time.monotonic() + 500
            _follow(lab, flow, random.Random(seed), 1000 + seed, 12)


def test_an_acknowledgement_copied_256_times_counts_from_0_again() -> None:
    sysctls = {"nf_conntrack_tcp_timeout_max_retrans": 200}
    copies = "\n".join(["> A seq=101 ack=501 |"] * 262)
    text = f"copies\n> S seq=100 |\n< SA seq=500 ack=101 |\n{copies}"
    (scene,) = parse_scenes(text, "tcp")
    flow = OneFlow(_parameters(sysctls))
    with Lab(sysctls) as lab:
        for step in scene.steps:
            _compare(lab, flow, step.sent, [])


def _parameters(sysctls: dict[str, int]) -> Sysctls:
    return Sysctls({f"net.netfilter.{name}": str(value) for name, value in sysctls.items()})


def _follow(lab: Lab, flow: OneFlow, choose: random.Random, sport: int, length: int = 25) -> None:
    talk = Talk(choose, sport)
    told: list[str] = []
    for _ in range(length):
        _compare(lab, flow, Sent(talk.next()), told)


def _compare(lab: Lab, flow: OneFlow, sent: Sent, told: list[str]) -> None:
    """Sends a packet to both; on a difference, tells the flow so far."""
    packet = sent.packet
    client = packet.dport if packet.saddr == SERVER else packet.sport
    kind, entry = lab.send(wire(sent)), lab.entry(TCP, client, SERVER_PORT)
    now = time.monotonic()
    expected, held = flow.send(sent, now), _held(flow, now)
    numbers = f"seq {packet.seq} ack {packet.ack} win {packet.window} len {packet.payload}"
    told.append(f"{packet} {numbers} {packet.tcp_options}: {flow.reason}")
    story = "\n".join(told[-6:])
    assert kind == expected, story
    if entry and held and abs(entry.timeout - held.timeout) <= 2:
        held = held._replace(timeout=entry.timeout)
    assert entry == held, story


def _held(flow: OneFlow, now: float) -> Entry | None:
    left = flow.left(now)
    if left is None or not isinstance(flow.tracking, tcp.TcpTracking):
        return None
    one, other = flow.tracking.sides
    return Entry(
        flow.backwards, flow.state, flow.seen_reply, flow.assured, round(left), (flow.packets[0], flow.packets[1]),
        (one.flags, other.flags), (one.scale, other.scale),
    )  # fmt: skip


@dataclass
class Talk:
    """Two ends that know roughly what they do: mostly the next number, sometimes one beside it, rarely anything."""

    choose: random.Random
    sport: int
    count: int = 0
    ends: list[int] = field(default_factory=list)  # the next number of the client, the server
    windows: list[int] = field(default_factory=lambda: [1000, 1000])
    last: Packet | None = None

    def __post_init__(self) -> None:
        choose = self.choose
        self.ends = [choose.choice((0, 1000, (1 << 31) - 50, (1 << 32) - 50, choose.randrange(1 << 32))) for _ in range(2)]
        self.sanity = choose.choice((3, 10, 50))
        self.repeats = choose.choice((0, 0.1, 0.5))
        self.answers = choose.choice((0, 0.3, 0.8, 0.95))
        self.weights: Weights = choose.choice(((10, 1, 0.3, 0.3), (5, 3, 0.5, 0.5), (5, 1, 2, 2), (20, 0.5, 0.1, 0.1)))

    def next(self) -> Packet:
        if self.last is not None and self.choose.random() < self.repeats:
            packet = self.last
        elif self.last is not None and self.choose.random() < self.answers:
            packet = self._answer(self.last)
        else:
            packet = self._anything()
        self.count += 1
        self.last = packet
        side = int(packet.saddr == SERVER)
        if (_end(packet) - self.ends[side]) & M < 200000 or self.count < 3:
            self.ends[side] = _end(packet)
        return packet

    def _pick(self, *weighted: tuple[int, float]) -> int:
        return self.choose.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]

    def _anything(self) -> Packet:
        side, flags = self._flags()
        choose, me, you = self.choose, self.ends[side], self.ends[1 - side]
        if choose.random() < 0.5:
            self.windows[side] = self._pick((0, 0.6), (1, 0.5), (100, 1), (1000, 3), (65535, 1))
        seq = 0 if flags & RST and choose.random() < 0.2 else self._near(me, side)
        ack = self._near(you, side) if flags & ACK else self._pick((0, 5), (you, 1), (choose.randrange(1 << 32), 0.2))
        ack = 0 if flags & RST and choose.random() < 0.2 else ack
        payload = self._pick((0, 6), (1, 1), (100, 1), (1000, 1), (1400, 0.5))
        payload = 0 if flags & (SYN | RST) and choose.random() < 0.9 else payload
        packet = self._segment(side, flags, seq, ack, payload, self._options(flags, you, side))
        return packet._replace(bad_checksum=choose.random() < 0.003)

    def _flags(self) -> tuple[int, int]:
        choose = self.choose
        if self.count < 3 and choose.random() < 0.85:
            first, second = ((SYN, 8), (ACK, 2), (SYN | ACK, 0.3)), ((SYN | ACK, 8), (SYN, 1), (ACK, 1), (RST | ACK, 1))
            return self.count % 2, self._pick(*(first, second, ((ACK, 1),))[self.count])
        ack, fin, rst, syn = self.weights
        odd = ((0, 0.2), (FIN, 0.2), (SYN | FIN, 0.1), (ACK | URG, 0.2), (choose.randrange(256), 0.2))
        usual = ((ACK, ack), (ACK | PSH, 2), (FIN | ACK, fin), (RST, rst), (RST | ACK, rst), (SYN, syn), (SYN | ACK, syn))
        return choose.randrange(2), self._pick(*usual, *odd)

    def _near(self, number: int, side: int) -> int:
        choose, window = self.choose, self.windows[1 - side]
        far = choose.choice((65535, 65536, 66000, 66001, 66002, 70000, 1 << 20, (1 << 31) - 1, 1 << 31))
        sign = choose.choice((-1, 1))
        steps = (
            (0, self.sanity), (1, 0.7), (-1, 0.7), (2, 0.2), (choose.randrange(-2000, 2000), 0.5), (sign * window, 0.5),
            (sign * (window + 1), 0.5), (sign * far, 0.5), (choose.randrange(1 << 32), 0.2),
        )  # fmt: skip
        return (number + self._pick(*steps)) & M

    def _options(self, flags: int, you: int, side: int) -> TcpOptions | None:
        choose = self.choose
        stamp = choose.random() < 0.3
        if flags & SYN:
            if choose.random() < 0.3:
                return None
            mss, scale = choose.choice((None, 1460)), choose.choice((None, 0, 1, 3, 7, 14, 15))
            return TcpOptions(mss=mss, wscale=scale, sack_permitted=choose.random() < 0.6, timestamp=stamp)
        if choose.random() < 0.75:
            return None
        blocks = tuple((self._near(you, side), self._near(you, side)) for _ in range(choose.choice((0, 1, 2))))
        return TcpOptions(timestamp=stamp, sack=blocks)

    def _answer(self, to: Packet) -> Packet:
        """What the other end might say to a segment: joining, refusing, acknowledging, closing, or beginning anew."""
        choose, side = self.choose, int(to.saddr != SERVER)
        options, seq = None, choose.choice((self.ends[side], self.ends[side], to.ack))
        if to.tcp_flags & RST:
            flags = choose.choice((SYN, RST, ACK, FIN | ACK))
        elif to.tcp_flags & SYN and not to.tcp_flags & ACK:
            flags = self._pick((SYN | ACK, 5), (RST | ACK, 2), (ACK, 2), (SYN, 1))
            seq = choose.choice((0 if flags & RST else choose.randrange(1 << 32), self.ends[side]))
            if flags & SYN:
                options = TcpOptions(wscale=choose.choice((None, 2, 14)), sack_permitted=choose.random() < 0.5)
        else:
            flags = self._pick((ACK, 6), (FIN | ACK, 3), (RST, 2), (RST | ACK, 1), (SYN, 1))
        payload = choose.choice((0, 0, 0, 100, 1400)) if flags == ACK else 0
        return self._segment(side, flags, seq, _end(to) if flags & ACK else 0, payload, options)

    def _segment(self, side: int, flags: int, seq: int, ack: int, payload: int, options: TcpOptions | None) -> Packet:
        ends = (SERVER, CLIENT, TCP, SERVER_PORT, self.sport) if side else (CLIENT, SERVER, TCP, self.sport, SERVER_PORT)
        packet = Packet(4, *ends, tcp_flags=flags, seq=seq, ack=ack, window=self.windows[side], payload=payload)
        packet = packet._replace(tcp_options=options)
        return packet._replace(length=len(wire(Sent(packet))))


def _end(packet: Packet) -> int:
    return (packet.seq + packet.payload + bool(packet.tcp_flags & SYN) + bool(packet.tcp_flags & FIN)) & M

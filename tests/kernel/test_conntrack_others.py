"""The trackers of SCTP, UDP, ICMP and the rest against the kernel: the frozen scenes, random chunks, every ICMP type."""

from __future__ import annotations

import random
import struct
import time
from dataclasses import replace

import pytest

from dataplane.engine import conntrack_other as other
from dataplane.engine import conntrack_sctp as sctp
from dataplane.engine.hooks import Hook
from dataplane.engine.skb import Skb
from dataplane.inet import ICMP, ICMPV6, SCTP
from dataplane.packet import Packet
from dataplane.rules.sysctls import Sysctls
from tests.engine import test_conntrack_other, test_conntrack_sctp
from tests.engine.one_flow import CLIENT, SERVER, SERVER_PORT, OneFlow, Scene, Sent, parse_scenes
from tests.kernel.conntrack_lab import CLIENT6, SERVER6, Entry, Lab, answers, summed, wire

pytestmark = pytest.mark.usefixtures("kernel")

SCENES = [*parse_scenes(test_conntrack_sctp.SCENES, "sctp"), *parse_scenes(test_conntrack_other.SCENES, "other")]
TIMEOUTS = {f"nf_conntrack_sctp_timeout_{state.lower()}": 100 + 20 * n for n, state in enumerate(sctp.STATES) if n}
OPENING = ((0, sctp.INIT), (1, sctp.INIT_ACK), (0, sctp.COOKIE_ECHO), (1, sctp.COOKIE_ACK))
#: Chunk types and how often they are sent; 3 is SACK, 130 nothing that the kernel knows.
CHUNKS = {0: 4, 3: 2, 1: 1.5, 2: 1, 4: 2, 5: 2, 6: 0.5, 7: 1, 8: 1, 9: 0.7, 10: 1, 11: 1, 14: 0.8, 130: 0.2}


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_the_kernel_plays_the_scene_alike(scene: Scene) -> None:
    with Lab(scene.sysctls) as lab:
        answers(lab, scene)


@pytest.mark.parametrize("seed", range(4))
def test_random_chunks(seed: int) -> None:
    choose = random.Random(seed)
    sysctls = Sysctls({f"net.netfilter.{name}": str(value) for name, value in TIMEOUTS.items()})
    with Lab(TIMEOUTS) as lab:
        for sport in range(1000, 1100):
            flow, talk = OneFlow(sysctls), Talk(choose, sport)
            told: list[str] = []
            for _ in range(25):
                sent = talk.next()
                kind, entry = lab.send(wire(sent)), lab.entry(SCTP, sport, SERVER_PORT)
                now = time.monotonic()
                expected, held = flow.send(sent, now), _held(flow, now)
                told.append(f"{sent}: {flow.reason}")
                assert kind == expected, "\n".join(told[-8:])
                if entry and held and abs(entry.timeout - held.timeout) <= 2:
                    held = held._replace(timeout=entry.timeout)
                assert entry == held, "\n".join(told[-8:])


def _held(flow: OneFlow, now: float) -> Entry | None:
    left = flow.left(now)
    if left is None or not isinstance(flow.tracking, sctp.SctpTracking):
        return None
    tags = tuple(tag for tag in flow.tracking.tags if tag is not None)
    packets = (flow.packets[0], flow.packets[1])
    return Entry(
        flow.backwards, flow.state, flow.seen_reply, flow.assured, round(left), packets, (0, 0), (0, 0), (tags[0], tags[1])
    )


class Talk:
    """Two ends that mostly begin an association and mostly know its tags."""

    def __init__(self, choose: random.Random, sport: int) -> None:
        self._choose, self._sport = choose, sport
        self._count, self._tags = 0, [0, 0]
        self._orderly = choose.random() < 0.8

    def next(self) -> Sent:
        choose, count = self._choose, self._count
        self._count += 1
        side, how_many = choose.randrange(2), choose.choice((1, 1, 1, 2, 3))
        chunks = tuple(choose.choices(list(CHUNKS), list(CHUNKS.values()), k=how_many))
        if self._orderly and count < len(OPENING) and choose.random() < 0.9:
            side, chunks = OPENING[count][0], (OPENING[count][1],)
        init = choose.choice((111, 222, 333, 0)) if choose.random() < 0.5 else 111 + side
        tag = 0 if sctp.INIT in chunks else self._tags[side]
        if choose.random() < 0.15:
            tag = choose.choice((0, 111, 112, 222, 333, *self._tags))
        if chunks[0] in (sctp.INIT, sctp.INIT_ACK):
            self._tags[1 - side] = init
        ends = (SERVER, CLIENT, SCTP, SERVER_PORT, self._sport) if side else (CLIENT, SERVER, SCTP, self._sport, SERVER_PORT)
        packet = Packet(4, *ends, sctp_chunks=chunks, vtag=tag, bad_checksum=choose.random() < 0.003)
        sent = Sent(packet, init, tuple(int(choose.random() < 0.25) for _ in chunks))
        return replace(sent, packet=packet._replace(length=len(wire(sent))))


@pytest.mark.parametrize("family", [4, 6])
def test_every_icmp_type(family: int) -> None:
    protocol, source, target = (ICMP, CLIENT, SERVER) if family == 4 else (ICMPV6, CLIENT6, SERVER6)
    with Lab() as lab:
        for kind in range(256):
            for wrong in (False, True):
                packet = Packet(family, source, target, protocol, icmp_type=kind, icmp_id=kind, bad_checksum=wrong, length=48)
                body = struct.pack(">BBHHH", kind, 0, 0, kind, 0)
                assert lab.send(summed(protocol, source, target, body, 2, wrong=wrong)) == _class_of_icmp(packet), (kind, wrong)


def _class_of_icmp(packet: Packet) -> str:
    """A first packet's, as the table of connections asks the tracker (an error about nothing is INVALID, too)."""
    skb = Skb(packet)
    if other.icmp_problem(skb, Sysctls(), Hook.PREROUTING) is not None:
        return "INVALID"
    if other.untracked_icmp(skb):
        return "UNTRACKED"
    return "INVALID" if isinstance(other.start(skb, 0.0), str) else "NEW"

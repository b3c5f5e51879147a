"""The trackers without states, scene by scene. The kernel plays the same in tests/kernel/test_conntrack_others.py."""

from __future__ import annotations

import pytest

from dataplane.engine import conntrack_other as other
from dataplane.engine.conntrack_tracker import ACCEPT, INVALID
from dataplane.engine.hooks import Hook
from dataplane.engine.skb import Skb
from dataplane.inet import ESP, ICMP, ICMPV6, UDP, UDPLITE
from dataplane.packet import Packet
from dataplane.rules.sysctls import Sysctls
from tests.engine.one_flow import Scene, parse_scenes, play

SCENES = """
a UDP answer, and two seconds later a stream
> udp       | NEW 30 1/0
< udp       | ESTABLISHED 30 1/1
> udp t=1   | ESTABLISHED 30 2/1
> udp t=2.5 | ESTABLISHED 120 3/1 ASSURED
< udp t=2.5 | ESTABLISHED 120 3/2 ASSURED

a UDP flow without answer stays short, however long it lasts
> udp       | NEW 30 1/0
> udp t=2.5 | NEW 30 2/0
< udp t=2.5 | ESTABLISHED 30 2/1
> udp t=2.5 | ESTABLISHED 120 3/1 ASSURED

wrong checksums
> udp wrong=1         | INVALID -
> icmp wrong=1        | INVALID -
> icmp                | NEW 30 1/0
< icmp type=0 wrong=1 | INVALID 30 1/0
< icmp type=0         | ESTABLISHED 30 1/1

no checksum is verified where nf_conntrack_checksum is 0 [checksum=0]
> udp wrong=1 | NEW 30 1/0
< udp wrong=1 | ESTABLISHED 30 1/1

UDP-Lite with a right checksum is invalid on the way in
> udplite | INVALID -
< udplite | INVALID -

UDP-Lite does not wait for a stream [checksum=0]
> udplite | NEW 30 1/0
< udplite | ESTABLISHED 30 1/1
> udplite | ESTABLISHED 120 2/1 ASSURED

an echo and its answer
> icmp        | NEW 30 1/0
> icmp        | NEW 30 2/0
< icmp type=0 | ESTABLISHED 30 2/1
< icmp type=0 | ESTABLISHED 30 2/2

types that begin no flow
> icmp type=0  | INVALID -
> icmp type=9  | INVALID -
> icmp type=10 | INVALID -
> icmp type=14 | INVALID -
> icmp type=18 | INVALID -
> icmp type=42 | INVALID -

a timestamp request
> icmp type=13 | NEW 30 1/0
< icmp type=14 | ESTABLISHED 30 1/1

an information request
> icmp type=15 | NEW 30 1/0
< icmp type=16 | ESTABLISHED 30 1/1

an address mask request
> icmp type=17 | NEW 30 1/0
< icmp type=18 | ESTABLISHED 30 1/1

GRE becomes assured
> gre | NEW 30 1/0
< gre | ESTABLISHED 30 1/1
> gre | ESTABLISHED 180 2/1 ASSURED

protocols without a tracker
> esp | NEW 600 1/0
< esp | ESTABLISHED 600 1/1
> esp | ESTABLISHED 600 2/1

DCCP has no tracker any more
> dccp | NEW 600 1/0
< dccp | ESTABLISHED 600 1/1
> dccp | ESTABLISHED 600 2/1
"""

DEFAULTS = Sysctls()


@pytest.mark.parametrize("scene", parse_scenes(SCENES, "other"), ids=str)
def test_scene(scene: Scene) -> None:
    assert play(scene) == [step.expected for step in scene.steps]


@pytest.mark.parametrize("family", [4, 6])
def test_only_requests_begin_an_icmp_flow(family: int) -> None:
    protocol, requests = (ICMP, {8, 13, 15, 17}) if family == 4 else (ICMPV6, {128, 139})
    begins = {kind for kind in range(256) if not isinstance(other.start(icmp(family, protocol, kind), 0.0), str)}
    assert begins == requests


def test_neighbours_routers_and_listeners_are_not_tracked() -> None:
    untracked = {kind for kind in range(256) if other.untracked_icmp(icmp(6, ICMPV6, kind))}
    assert untracked == {*range(130, 137), 143, 151, 152}
    assert not other.untracked_icmp(icmp(4, ICMP, 133))


def icmp(family: int, protocol: int, kind: int, **fields: int) -> Skb:
    return Skb(Packet(family, 1, 2, protocol, icmp_type=kind, **fields))  # type: ignore[arg-type]  # all ints


@pytest.mark.parametrize(("family", "protocol"), [(6, ICMP), (4, ICMPV6)])
def test_icmp_of_the_other_ip_version_begins_nothing(family: int, protocol: int) -> None:
    assert other.start(icmp(family, protocol, 8), 0.0) == "ICMP of the other IP version"


@pytest.mark.parametrize(
    ("skb", "problem"),
    [
        (icmp(4, ICMP, 8), None),
        (icmp(4, ICMP, 18), None),
        (icmp(4, ICMP, 42), "ICMP type 42 is unknown"),
        (icmp(6, ICMPV6, 200), None),
        (icmp(6, ICMPV6, 135, bad_checksum=True), "bad checksum"),
        (icmp(4, ICMP, 3, length=27), "truncated packet"),
    ],
)
def test_what_is_wrong_with_an_icmp_packet_is_told(skb: Skb, problem: str | None) -> None:
    assert other.icmp_problem(skb, DEFAULTS, Hook.PREROUTING) == problem


@pytest.mark.parametrize(
    ("protocol", "hook", "wrong", "verdict"),
    [
        (UDP, Hook.PREROUTING, False, ACCEPT),
        (UDP, Hook.PREROUTING, True, INVALID),
        (UDP, Hook.OUTPUT, True, ACCEPT),
        (UDPLITE, Hook.PREROUTING, False, INVALID),
        (UDPLITE, Hook.OUTPUT, False, ACCEPT),
    ],
)
def test_checksums_are_verified_on_the_way_in_only(protocol: int, hook: Hook, wrong: bool, verdict: int) -> None:
    skb = Skb(Packet(4, 1, 2, protocol, 5, 6, length=40, bad_checksum=wrong))
    assert other.advance(other.OtherTracking(), skb, False, False, DEFAULTS, 0.0, hook).verdict == verdict


def test_a_restored_udp_flow_with_answers_is_a_stream() -> None:
    skb = Skb(Packet(4, 1, 2, UDP, 5, 6))
    assert other.advance(other.restore(), skb, True, False, DEFAULTS, 0.0)[:3] == (ACCEPT, 120.0, True)


def test_timeouts_follow_the_parameters() -> None:
    slow = Sysctls({"net.netfilter.nf_conntrack_udp_timeout": "7", "net.netfilter.nf_conntrack_generic_timeout": "8"})
    skbs = [Skb(Packet(4, 1, 2, UDP)), Skb(Packet(4, 1, 2, ESP))]
    assert [other.advance(other.OtherTracking(), skb, False, False, slow, 0.0).timeout for skb in skbs] == [7.0, 8.0]

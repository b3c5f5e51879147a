"""SCTP's tracker, scene by scene. The kernel plays the same scenes in tests/kernel/test_conntrack_others.py."""

from __future__ import annotations

import pytest

from dataplane.engine import conntrack_sctp as sctp
from dataplane.engine.conntrack_tracker import ACCEPT, INVALID
from dataplane.engine.skb import Skb
from dataplane.inet import SCTP
from dataplane.packet import Packet
from dataplane.rules.sysctls import Sysctls
from tests.engine.one_flow import CLIENT, SERVER, Scene, parse_scenes, play

SCENES = """
an association from INIT to SHUTDOWN COMPLETE
> INIT init=11             | NEW CLOSED 10 1/0
< INIT_ACK tag=11 init=22  | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO+DATA tag=22  | ESTABLISHED COOKIE_ECHOED 3 2/1
< COOKIE_ACK+DATA tag=11   | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
> SACK tag=22              | ESTABLISHED ESTABLISHED 210 3/2 ASSURED
< HEARTBEAT tag=11         | ESTABLISHED ESTABLISHED 210 3/3 ASSURED
> HEARTBEAT_ACK tag=22     | ESTABLISHED ESTABLISHED 210 4/3 ASSURED
> SHUTDOWN tag=22          | ESTABLISHED SHUTDOWN_SENT 3 5/3 ASSURED
< SHUTDOWN_ACK tag=11      | ESTABLISHED SHUTDOWN_ACK_SENT 3 5/4 ASSURED
> SHUTDOWN_COMPLETE tag=22 | ESTABLISHED CLOSED 10 6/4 ASSURED

the server shuts down
> INIT init=11             | NEW CLOSED 10 1/0
< INIT_ACK tag=11 init=22  | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=22       | ESTABLISHED COOKIE_ECHOED 3 2/1
< COOKIE_ACK tag=11        | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
< SHUTDOWN tag=11          | ESTABLISHED SHUTDOWN_RECD 3 2/3 ASSURED
> SHUTDOWN_ACK tag=22      | ESTABLISHED SHUTDOWN_ACK_SENT 3 3/3 ASSURED
< SHUTDOWN_COMPLETE tag=11 | ESTABLISHED CLOSED 10 3/4 ASSURED

chunks that begin no association
> DATA tag=5              | INVALID -
> SACK tag=5              | INVALID -
> ABORT tag=5             | INVALID -
> SHUTDOWN_COMPLETE tag=5 | INVALID -
> COOKIE_ACK tag=5        | INVALID -
> INIT tag=5 init=11      | INVALID -
> INIT_ACK tag=5 init=11  | INVALID -
> COOKIE_ECHO tag=5       | INVALID -
> HEARTBEAT+DATA tag=5    | INVALID -

an out-of-the-blue SHUTDOWN ACK expects a SHUTDOWN COMPLETE
> SHUTDOWN_ACK tag=5      | NEW SHUTDOWN_ACK_SENT 3 1/0
< SHUTDOWN_COMPLETE tag=5 | ESTABLISHED CLOSED 10 1/1

a second path begins with a heartbeat
> HEARTBEAT tag=5     | NEW HEARTBEAT_SENT 30 1/0
< HEARTBEAT_ACK tag=7 | ESTABLISHED ESTABLISHED 210 1/1 ASSURED
> DATA tag=5          | ESTABLISHED ESTABLISHED 210 2/1 ASSURED
< DATA tag=7          | ESTABLISHED ESTABLISHED 210 2/2 ASSURED

nothing but the heartbeat's answer belongs to a second path
> HEARTBEAT tag=5 | NEW HEARTBEAT_SENT 30 1/0
< DATA tag=7      | INVALID HEARTBEAT_SENT 30 1/0
< INIT init=9     | INVALID HEARTBEAT_SENT 30 1/0
< HEARTBEAT tag=7 | ESTABLISHED HEARTBEAT_SENT 30 1/1
> DATA tag=5      | ESTABLISHED HEARTBEAT_SENT 30 2/1

chunks in a wrong place
> INIT init=11                  | NEW CLOSED 10 1/0
< INIT_ACK+DATA tag=11 init=22  | INVALID CLOSED 10 1/0
< INIT_ACK tag=11 init=22       | ESTABLISHED COOKIE_WAIT 3 1/1
> DATA+COOKIE_ECHO tag=22       | INVALID COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=22            | ESTABLISHED COOKIE_ECHOED 3 2/1
< DATA+COOKIE_ACK tag=11        | INVALID COOKIE_ECHOED 3 2/1
< SHUTDOWN_COMPLETE+DATA tag=11 | INVALID COOKIE_ECHOED 3 2/1

wrong tags
> INIT init=11            | NEW CLOSED 10 1/0
< INIT_ACK tag=12 init=22 | INVALID CLOSED 10 1/0
< INIT_ACK tag=11 init=22 | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=23      | INVALID COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=22      | ESTABLISHED COOKIE_ECHOED 3 2/1
< COOKIE_ACK tag=12       | INVALID COOKIE_ECHOED 3 2/1
< COOKIE_ACK tag=11       | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
> DATA tag=11             | INVALID ESTABLISHED 210 2/2 ASSURED
> ABORT tag=11            | INVALID ESTABLISHED 210 2/2 ASSURED
> SHUTDOWN tag=21         | INVALID ESTABLISHED 210 2/2 ASSURED
> SHUTDOWN_ACK tag=1      | ESTABLISHED ESTABLISHED 210 3/2 ASSURED

the T flag says that an ABORT carries its sender's own tag
> INIT init=11            | NEW CLOSED 10 1/0
< INIT_ACK tag=11 init=22 | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=22      | ESTABLISHED COOKIE_ECHOED 3 2/1
< COOKIE_ACK tag=11       | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
> ABORT* tag=22           | INVALID ESTABLISHED 210 2/2 ASSURED
> ABORT* tag=11           | ESTABLISHED CLOSED 10 3/2 ASSURED

a heartbeat with a wrong tag renews nothing; its answer brings new tags
> INIT init=11            | NEW CLOSED 10 1/0
< INIT_ACK tag=11 init=22 | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=22      | ESTABLISHED COOKIE_ECHOED 3 2/1
< COOKIE_ACK tag=11       | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
> HEARTBEAT tag=99        | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
> HEARTBEAT_ACK tag=99    | INVALID ESTABLISHED 210 2/2 ASSURED
< HEARTBEAT_ACK tag=98    | ESTABLISHED ESTABLISHED 210 2/3 ASSURED
< DATA tag=98             | ESTABLISHED ESTABLISHED 210 2/4 ASSURED
> HEARTBEAT tag=97        | ESTABLISHED ESTABLISHED 210 3/4 ASSURED
> DATA tag=97             | ESTABLISHED ESTABLISHED 210 4/4 ASSURED

an INIT that is sent again renews nothing
> INIT init=11                | NEW CLOSED 10 1/0
> INIT init=11 t=4            | NEW CLOSED 6 1/0
< INIT_ACK tag=11 init=22 t=5 | ESTABLISHED COOKIE_WAIT 3 1/1
> INIT init=11 t=6            | ESTABLISHED COOKIE_WAIT 3 2/1

both sides begin at once
> INIT init=11            | NEW CLOSED 10 1/0
< INIT init=22            | ESTABLISHED CLOSED 10 1/0
< INIT_ACK tag=11 init=22 | ESTABLISHED COOKIE_WAIT 3 1/1
> INIT_ACK tag=22 init=11 | ESTABLISHED COOKIE_WAIT 3 2/1
> COOKIE_ECHO tag=22      | ESTABLISHED COOKIE_ECHOED 3 3/1
< COOKIE_ECHO tag=11      | ESTABLISHED COOKIE_ECHOED 3 3/2
< COOKIE_ACK tag=11       | ESTABLISHED ESTABLISHED 210 3/3 ASSURED

an INIT ACK with another tag than the first
> INIT init=11            | NEW CLOSED 10 1/0
< INIT_ACK tag=11 init=22 | ESTABLISHED COOKIE_WAIT 3 1/1
< INIT_ACK tag=11 init=33 | ESTABLISHED COOKIE_WAIT 3 1/2
> COOKIE_ECHO tag=33      | ESTABLISHED COOKIE_ECHOED 3 2/2
< COOKIE_ACK tag=11       | ESTABLISHED ESTABLISHED 210 2/3 ASSURED
< INIT_ACK tag=11 init=44 | INVALID ESTABLISHED 210 2/3 ASSURED

a stale cookie
> INIT init=11            | NEW CLOSED 10 1/0
< INIT_ACK tag=11 init=22 | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO tag=22      | ESTABLISHED COOKIE_ECHOED 3 2/1
< ERROR tag=11            | ESTABLISHED CLOSED 10 2/2
> INIT init=33            | ESTABLISHED CLOSED 10 2/2

no tags at all, as in packets written by hand
> INIT              | NEW CLOSED 10 1/0
< INIT_ACK          | ESTABLISHED COOKIE_WAIT 3 1/1
> COOKIE_ECHO       | ESTABLISHED COOKIE_ECHOED 3 2/1
< COOKIE_ACK        | ESTABLISHED ESTABLISHED 210 2/2 ASSURED
> DATA              | ESTABLISHED ESTABLISHED 210 3/2 ASSURED
< SACK              | ESTABLISHED ESTABLISHED 210 3/3 ASSURED
> SHUTDOWN          | ESTABLISHED SHUTDOWN_SENT 3 4/3 ASSURED
< SHUTDOWN_ACK      | ESTABLISHED SHUTDOWN_ACK_SENT 3 4/4 ASSURED
> SHUTDOWN_COMPLETE | ESTABLISHED CLOSED 10 5/4 ASSURED
"""

DEFAULTS = Sysctls()


def chunks(*types: int, tag: int = 0, **fields: int) -> Skb:
    packet = Packet(4, CLIENT, SERVER, SCTP, 1000, 80, sctp_chunks=types, vtag=tag, **fields)  # type: ignore[arg-type]  # all ints
    return Skb(packet)


def begun(skb: Skb) -> sctp.SctpTracking:
    tracking = sctp.start(skb)
    assert not isinstance(tracking, str)
    return tracking


@pytest.mark.parametrize("scene", parse_scenes(SCENES, "sctp"), ids=str)
def test_scene(scene: Scene) -> None:
    assert play(scene) == [step.expected for step in scene.steps]


def test_an_initiate_tag_that_the_packet_does_not_tell_fits_any() -> None:
    tracking = begun(chunks(sctp.INIT))
    tellings = [(chunks(sctp.INIT), False), (chunks(sctp.INIT_ACK, tag=77), True), (chunks(sctp.COOKIE_ECHO, tag=99), False)]
    results = [sctp.advance(tracking, skb, reply, False, DEFAULTS) for skb, reply in tellings]
    assert [result.verdict for result in results] == [ACCEPT, ACCEPT, ACCEPT]
    assert tracking.state == "COOKIE_ECHOED"


def test_a_restored_association_takes_any_tag() -> None:
    tracking = sctp.restore("ESTABLISHED")
    assert sctp.advance(tracking, chunks(sctp.DATA, tag=5), False, True, DEFAULTS).verdict == ACCEPT
    assert sctp.advance(tracking, chunks(sctp.ABORT, tag=6), True, True, DEFAULTS).verdict == ACCEPT
    assert tracking.state == "CLOSED"


def test_a_copy_goes_its_own_way() -> None:
    first = begun(chunks(sctp.INIT))
    sctp.advance(first, chunks(sctp.INIT), False, False, DEFAULTS)
    second = first.copy()
    sctp.advance(second, chunks(sctp.INIT_ACK), True, False, DEFAULTS)
    assert (first.state, second.state) == ("CLOSED", "COOKIE_WAIT")
    assert first.inits is not second.inits


def test_what_stood_before_a_refused_chunk_has_had_its_effect() -> None:
    tracking = sctp.SctpTracking("COOKIE_ECHOED")
    tracking.tags = [22, 11]
    result = sctp.advance(tracking, chunks(sctp.COOKIE_ACK, sctp.ABORT, tag=99), True, False, DEFAULTS)
    assert result.verdict == INVALID
    assert tracking.state == "ESTABLISHED"
    assert result.assured


@pytest.mark.parametrize(
    ("skb", "reason"),
    [
        (chunks(), "an SCTP packet without chunks"),
        (chunks(sctp.DATA), "an association does not begin with chunk 0"),
        (chunks(sctp.INIT, tag=1), "INIT with a verification tag"),
        (chunks(sctp.INIT, sctp.DATA), "an INIT, INIT ACK or SHUTDOWN COMPLETE chunk that is not alone"),
        (chunks(sctp.DATA, sctp.COOKIE_ECHO), "a COOKIE ECHO or COOKIE ACK chunk that is not the first"),
        (chunks(sctp.ABORT), "an association does not begin with ABORT, SHUTDOWN COMPLETE or COOKIE ACK"),
    ],
)
def test_what_begins_no_association_is_told(skb: Skb, reason: str) -> None:
    assert sctp.start(skb) == reason

"""TCP's tracker, scene by scene. The kernel plays the same scenes in tests/kernel/test_conntrack_tcp.py."""

from __future__ import annotations

import pytest

from dataplane.engine import conntrack_tcp as tcp
from dataplane.engine.conntrack_tracker import ACCEPT, INVALID, REPEAT
from dataplane.engine.hooks import Hook
from dataplane.engine.skb import Skb
from dataplane.inet import TCP
from dataplane.packet import ACK, FIN, RST, SYN, Packet
from dataplane.rules.sysctls import Sysctls
from tests.engine.one_flow import CLIENT, SERVER, Scene, parse_scenes, play

SCENES = """
handshake, data, orderly close from the client
> S seq=100                 | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101        | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501         | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> PA seq=101 ack=501 len=50 | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
< A seq=501 ack=151         | ESTABLISHED ESTABLISHED 432000 3/2 ASSURED
> FA seq=151 ack=501        | ESTABLISHED FIN_WAIT 120 4/2 ASSURED
< A seq=501 ack=152         | ESTABLISHED CLOSE_WAIT 60 4/3 ASSURED
< FA seq=501 ack=152        | ESTABLISHED LAST_ACK 30 4/4 ASSURED
> A seq=152 ack=502         | ESTABLISHED TIME_WAIT 120 5/4 ASSURED

close from both sides at once
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> FA seq=101 ack=501 | ESTABLISHED FIN_WAIT 120 3/1 ASSURED
< FA seq=501 ack=101 | ESTABLISHED LAST_ACK 30 3/2 ASSURED
> A seq=102 ack=502  | ESTABLISHED TIME_WAIT 120 4/2 ASSURED
< A seq=502 ack=102  | ESTABLISHED TIME_WAIT 120 4/3 ASSURED

close from the server, in one segment with the acknowledgement
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< FA seq=501 ack=101 | ESTABLISHED FIN_WAIT 120 2/2 ASSURED
> FA seq=101 ack=502 | ESTABLISHED LAST_ACK 30 3/2 ASSURED
< A seq=502 ack=102  | ESTABLISHED TIME_WAIT 120 3/3 ASSURED

a SYN that is sent again renews nothing
> S seq=100              | NEW SYN_SENT 120 1/0
> S seq=100 t=5          | NEW SYN_SENT 115 1/0
< SA seq=500 ack=101 t=6 | ESTABLISHED SYN_RECV 60 1/1

the server refuses: a RST before any answer takes the entry away
> S seq=100        | NEW SYN_SENT 120 1/0
< RA seq=0 ack=101 | ESTABLISHED -

the client gives up before any answer
> S seq=100 | NEW SYN_SENT 120 1/0
> R seq=101 | NEW -

flags that no segment has
> S seq=100    | NEW SYN_SENT 120 1/0
> SF seq=100   | INVALID SYN_SENT 120 1/0
> SFPA seq=100 | INVALID SYN_SENT 120 1/0
> . seq=101    | INVALID SYN_SENT 120 1/0
> F seq=101    | INVALID SYN_SENT 120 1/0
> SR seq=100   | INVALID SYN_SENT 120 1/0
> FR seq=100   | INVALID SYN_SENT 120 1/0
> SAU seq=100  | INVALID SYN_SENT 120 1/0
> RU seq=100   | INVALID SYN_SENT 120 1/0
> SPEC seq=100 | NEW SYN_SENT 120 1/0
> SU seq=100   | NEW SYN_SENT 120 1/0

a wrong checksum
> S seq=100 wrong=1          | INVALID -
> S seq=100                  | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 wrong=1 | INVALID SYN_SENT 120 1/0

no connection begins with an answer, a FIN or a RST
> SA seq=100 ack=1 | INVALID -
> FA seq=100 ack=1 | INVALID -
> R seq=100        | INVALID -
> RA seq=100 ack=1 | INVALID -
> A seq=100 ack=1  | NEW ESTABLISHED 300 1/0

the middle of a connection is picked up
> A seq=100 ack=500         | NEW ESTABLISHED 300 1/0
> A seq=100 ack=500 len=100 | NEW ESTABLISHED 300 2/0
< A seq=500 ack=200         | ESTABLISHED ESTABLISHED 300 2/1
> A seq=200 ack=500         | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
< A seq=900000 ack=200      | ESTABLISHED ESTABLISHED 300 3/2 ASSURED
< FA seq=900000 ack=200     | ESTABLISHED FIN_WAIT 120 3/3 ASSURED

the middle of a connection is not picked up where loose is 0 [tcp_loose=0]
> A seq=100 ack=500 | INVALID -
< A seq=500 ack=100 | INVALID -

both sides open at once
> S seq=100          | NEW SYN_SENT 120 1/0
< S seq=500          | ESTABLISHED SYN_SENT2 120 1/0
> SA seq=100 ack=501 | ESTABLISHED SYN_RECV 60 2/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 2/0
< A seq=501 ack=101  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 3/1 ASSURED

both sides open at once, the answer's ACK completes it
> S seq=100 win=2000 | NEW SYN_SENT 120 1/0
< S seq=500          | ESTABLISHED SYN_SENT2 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
< A seq=501 ack=101  | ESTABLISHED ESTABLISHED 432000 1/2 ASSURED

an ACK to a SYN is ignored, and the RST that answers it is trusted
> S seq=100           | NEW SYN_SENT 120 1/0
< A seq=7777 ack=9999 | ESTABLISHED SYN_SENT 120 1/0
> R seq=9999          | ESTABLISHED CLOSE 10 2/0

an ACK to a SYN is ignored; a RST that answers neither is not trusted
> S seq=100           | NEW SYN_SENT 120 1/0
< A seq=7777 ack=9999 | ESTABLISHED SYN_SENT 120 1/0
< RA seq=1 ack=5      | ESTABLISHED CLOSE 10 1/1

a new SYN in an old connection: its SYN-ACK makes the tracker join
> S seq=100 wscale=7 sackok=1              | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 wscale=7 sackok=1     | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501                        | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> S seq=70000 wscale=2                     | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< SA seq=90000 ack=70001 wscale=3 sackok=1 | ESTABLISHED SYN_RECV 60 2/2 ASSURED
> A seq=70001 ack=90001                    | ESTABLISHED ESTABLISHED 432000 3/2 ASSURED
< PA seq=90001 ack=70001 len=1000          | ESTABLISHED ESTABLISHED 300 3/3 ASSURED

a new SYN in an old connection: the server's RST shows that the old one is dead
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> S seq=70000        | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< RA seq=0 ack=70001 | ESTABLISHED CLOSE 10 2/2 ASSURED
> S seq=70000        | ESTABLISHED CLOSE 10 2/2 ASSURED

a new SYN in an old connection: the challenge ACK, then the client's RST
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> S seq=70000        | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< A seq=501 ack=101  | ESTABLISHED ESTABLISHED 432000 2/2 ASSURED
> R seq=101          | ESTABLISHED CLOSE 10 3/2 ASSURED

a challenge ACK in LAST_ACK is not the last ACK
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> FA seq=101 ack=501 | ESTABLISHED FIN_WAIT 120 3/1 ASSURED
< FA seq=501 ack=102 | ESTABLISHED LAST_ACK 30 3/2 ASSURED
> S seq=70000        | ESTABLISHED LAST_ACK 30 3/2 ASSURED
< A seq=502 ack=102  | ESTABLISHED LAST_ACK 30 3/2 ASSURED
> A seq=102 ack=502  | ESTABLISHED TIME_WAIT 120 4/2 ASSURED

a SYN reopens a connection in TIME_WAIT
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> FA seq=101 ack=501 | ESTABLISHED FIN_WAIT 120 3/1 ASSURED
< FA seq=501 ack=102 | ESTABLISHED LAST_ACK 30 3/2 ASSURED
> A seq=102 ack=502  | ESTABLISHED TIME_WAIT 120 4/2 ASSURED
> S seq=5000         | NEW SYN_SENT 120 1/0

the server may reopen it, too
> S seq=100            | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101   | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501    | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> FA seq=101 ack=501   | ESTABLISHED FIN_WAIT 120 3/1 ASSURED
< FA seq=501 ack=102   | ESTABLISHED LAST_ACK 30 3/2 ASSURED
> A seq=102 ack=502    | ESTABLISHED TIME_WAIT 120 4/2 ASSURED
< S seq=5000           | NEW SYN_SENT 120 1/0
> SA seq=6000 ack=5001 | ESTABLISHED SYN_RECV 60 1/1

after the client's RST its own SYN reopens
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> R seq=101          | ESTABLISHED CLOSE 10 3/1 ASSURED
> S seq=5000         | NEW SYN_SENT 120 1/0

after the server's RST the client's SYN is let through only
> S seq=100            | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101   | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501    | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< R seq=501            | ESTABLISHED CLOSE 10 2/2 ASSURED
> S seq=5000           | ESTABLISHED CLOSE 10 2/2 ASSURED
< SA seq=6000 ack=5001 | ESTABLISHED SYN_RECV 60 2/3 ASSURED
> A seq=5001 ack=6001  | ESTABLISHED ESTABLISHED 432000 3/3 ASSURED

segments outside the window
> S seq=100 win=1000          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 win=1000 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501 win=1000  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> A seq=1101 ack=501 len=1    | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
> A seq=1102 ack=501 len=1    | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
> A seq=1200 ack=501 len=1000 | INVALID ESTABLISHED 300 3/1 ASSURED
> A seq=5000 ack=501 len=1    | INVALID ESTABLISHED 300 3/1 ASSURED
> A seq=101 ack=501 len=0     | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
> A seq=101 ack=502 len=0     | INVALID ESTABLISHED 300 3/1 ASSURED
< A seq=501 ack=99999 len=0   | INVALID ESTABLISHED 300 3/1 ASSURED
< A seq=501 ack=101 len=0     | ESTABLISHED ESTABLISHED 300 3/2 ASSURED

a segment from before the last window is ignored
> S seq=100                  | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101         | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501 len=900  | ESTABLISHED ESTABLISHED 300 2/1 ASSURED
< A seq=501 ack=1001         | ESTABLISHED ESTABLISHED 432000 2/2 ASSURED
> A seq=1001 ack=501 len=900 | ESTABLISHED ESTABLISHED 300 3/2 ASSURED
> A seq=101 ack=501 len=10   | ESTABLISHED ESTABLISHED 300 3/2 ASSURED
> A seq=900 ack=501 len=1    | ESTABLISHED ESTABLISHED 300 4/2 ASSURED

an acknowledgement older than 66000 bytes is ignored
> S seq=100 win=60000                     | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 win=60000            | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501 win=60000 len=50000   | ESTABLISHED ESTABLISHED 300 2/1 ASSURED
< A seq=501 ack=50101 win=60000           | ESTABLISHED ESTABLISHED 432000 2/2 ASSURED
> A seq=50101 ack=501 win=60000 len=50000 | ESTABLISHED ESTABLISHED 300 3/2 ASSURED
< A seq=501 ack=34101 win=60000           | ESTABLISHED ESTABLISHED 300 3/3 ASSURED
< A seq=501 ack=34100 win=60000           | ESTABLISHED ESTABLISHED 300 3/3 ASSURED

window scales count when both SYNs have them
> S seq=100 win=1000 wscale=7          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 win=1000 wscale=7 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501 win=1000           | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< A seq=120000 ack=101 len=100         | ESTABLISHED ESTABLISHED 300 2/2 ASSURED
> A seq=129100 ack=501 len=1           | ESTABLISHED ESTABLISHED 300 2/2 ASSURED

and count for nothing when one has not
> S seq=100 win=1000 wscale=7  | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 win=1000  | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501 win=1000   | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< A seq=120000 ack=101 len=100 | INVALID ESTABLISHED 432000 2/1 ASSURED

a SACK counts as an acknowledgement
> S seq=100 sackok=1               | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 sackok=1      | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501                | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< A seq=601 ack=101 len=100        | ESTABLISHED ESTABLISHED 300 2/2 ASSURED
> A seq=101 ack=501 sack=601-701   | ESTABLISHED ESTABLISHED 300 3/2 ASSURED
< A seq=1600 ack=101 len=50        | ESTABLISHED ESTABLISHED 300 3/3 ASSURED
> A seq=101 ack=501 sack=601-99999 | INVALID ESTABLISHED 300 3/3 ASSURED

be_liberal lets everything but the flags pass [tcp_be_liberal=1]
> S seq=100                | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101       | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501        | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> A seq=900000 ack=1 len=1 | ESTABLISHED ESTABLISHED 432000 3/1 ASSURED
< FA seq=700000 ack=800000 | ESTABLISHED FIN_WAIT 120 3/2 ASSURED
> SF seq=1                 | INVALID FIN_WAIT 120 3/2 ASSURED
< R seq=501                | ESTABLISHED CLOSE 10 3/3 ASSURED

a RST with exactly the next number closes
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< R seq=501          | ESTABLISHED CLOSE 10 2/2 ASSURED

a RST above the next number leaves the state, for the time of CLOSE
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< R seq=600          | ESTABLISHED ESTABLISHED 10 2/2 ASSURED
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 300 3/2 ASSURED

a RST below the next number is invalid
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< R seq=500          | INVALID ESTABLISHED 432000 2/1 ASSURED

unless ignore_invalid_rst is set [tcp_ignore_invalid_rst=1]
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< R seq=500          | ESTABLISHED ESTABLISHED 10 2/2 ASSURED

a RST at the end of a train closes
> S seq=100                 | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101        | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501         | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< A seq=501 ack=101 len=100 | ESTABLISHED ESTABLISHED 300 2/2 ASSURED
< R seq=601                 | ESTABLISHED CLOSE 10 2/3 ASSURED

FINs outside the window from both sides shorten the timeout
> S seq=100             | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101    | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501     | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> FA seq=900000 ack=501 | INVALID ESTABLISHED 432000 2/1 ASSURED
< FA seq=900000 ack=101 | INVALID ESTABLISHED 300 2/1 ASSURED
> A seq=101 ack=501     | ESTABLISHED ESTABLISHED 432000 3/1 ASSURED

data that are not acknowledged shorten the timeout
> S seq=100                 | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101        | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501         | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> PA seq=101 ack=501 len=10 | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
< A seq=501 ack=111         | ESTABLISHED ESTABLISHED 432000 3/2 ASSURED

so does a window of 0
> S seq=100                  | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101         | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501          | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
< A seq=501 ack=101 win=0    | ESTABLISHED ESTABLISHED 300 2/2 ASSURED
< A seq=501 ack=101 win=1000 | ESTABLISHED ESTABLISHED 432000 2/3 ASSURED

and the third copy of an ACK [tcp_timeout_max_retrans=200]
> S seq=100          | NEW SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 3/1 ASSURED
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 4/1 ASSURED
> A seq=101 ack=501  | ESTABLISHED ESTABLISHED 200 5/1 ASSURED
> A seq=102 ack=501  | ESTABLISHED ESTABLISHED 300 6/1 ASSURED

a FIN before the handshake is over
> S seq=100          | NEW SYN_SENT 120 1/0
> FA seq=101 ack=1   | INVALID SYN_SENT 120 1/0
< FA seq=500 ack=101 | INVALID SYN_SENT 120 1/0
< SA seq=500 ack=101 | ESTABLISHED SYN_RECV 60 1/1
< FA seq=501 ack=101 | ESTABLISHED FIN_WAIT 120 1/2

sequence numbers wrap around
> S seq=4294967290                 | NEW SYN_SENT 120 1/0
< SA seq=4294967295 ack=4294967291 | ESTABLISHED SYN_RECV 60 1/1
> A seq=4294967291 ack=0           | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> PA seq=4294967291 ack=0 len=100  | ESTABLISHED ESTABLISHED 300 3/1 ASSURED
< A seq=0 ack=95                   | ESTABLISHED ESTABLISHED 432000 3/2 ASSURED
< FA seq=0 ack=95                  | ESTABLISHED FIN_WAIT 120 3/3 ASSURED
> FA seq=95 ack=1                  | ESTABLISHED LAST_ACK 30 4/3 ASSURED

a keepalive after the middle was picked up
> A seq=100 ack=500 | NEW ESTABLISHED 300 1/0
< A seq=500 ack=101 | ESTABLISHED ESTABLISHED 300 1/1
> A seq=101 ack=500 | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED

URG, PSH, ECE and CWR do not matter
> SEC seq=100          | NEW SYN_SENT 120 1/0
< SAE seq=500 ack=101  | ESTABLISHED SYN_RECV 60 1/1
> AUP seq=101 ack=501  | ESTABLISHED ESTABLISHED 432000 2/1 ASSURED
> FAUP seq=101 ack=501 | ESTABLISHED FIN_WAIT 120 3/1 ASSURED
"""

DEFAULTS = Sysctls()


def segment(flags: int, *, seq: int = 100, ack: int = 0, **fields: int) -> Skb:
    return Skb(Packet(4, CLIENT, SERVER, TCP, 1000, 80, tcp_flags=flags, seq=seq, ack=ack, **fields))  # type: ignore[arg-type]  # all ints


def begun(skb: Skb) -> tcp.TcpTracking:
    tracking = tcp.start(skb, DEFAULTS)
    assert not isinstance(tracking, str)
    return tracking


@pytest.mark.parametrize("scene", parse_scenes(SCENES, "tcp"), ids=str)
def test_scene(scene: Scene) -> None:
    assert play(scene) == [step.expected for step in scene.steps]


def test_every_state_knows_every_kind_of_segment_in_both_directions() -> None:
    for rows in tcp.TRANSITIONS:
        for kind, sentences in rows.items():
            named = [state for sentence in sentences for state in sentence.partition(" > ")[0].split()]
            assert "*" in named or set(named) == set(tcp.STATES), kind


def test_a_copy_goes_its_own_way() -> None:
    first = begun(segment(SYN))
    tcp.advance(first, segment(SYN), False, False, False, DEFAULTS)
    second = first.copy()
    tcp.advance(second, segment(SYN | ACK, seq=500, ack=101), True, False, False, DEFAULTS)
    assert (first.state, second.state) == ("SYN_SENT", "SYN_RECV")
    assert first.sides[1].max_window == 0


def test_a_segment_shorter_than_its_header_is_invalid() -> None:
    short = segment(SYN, length=39)
    result = tcp.advance(begun(short), short, False, False, False, DEFAULTS)
    assert (result.verdict, result.reason) == (INVALID, "truncated packet")


@pytest.mark.parametrize(("hook", "verdict"), [(Hook.PREROUTING, INVALID), (Hook.OUTPUT, ACCEPT)])
def test_checksums_are_verified_on_the_way_in_only(hook: Hook, verdict: int) -> None:
    skb = segment(SYN, bad_checksum=True)
    assert tcp.advance(begun(skb), skb, False, False, False, DEFAULTS, hook=hook).verdict == verdict


@pytest.mark.parametrize("state", [state for state in tcp.STATES if state not in ("NONE", "SYN_SENT", "SYN_SENT2")])
def test_a_restored_connection_takes_any_acknowledgement(state: str) -> None:
    assert tcp.advance(tcp.restore(state), segment(ACK, seq=7, ack=9), False, True, True, DEFAULTS).verdict == ACCEPT


@pytest.mark.parametrize("state", ["TIME_WAIT", "CLOSE"])
def test_a_restored_connection_that_is_over_can_be_opened_anew(state: str) -> None:
    assert tcp.advance(tcp.restore(state), segment(SYN), False, True, True, DEFAULTS).verdict == REPEAT


@pytest.mark.parametrize(("left", "timeout"), [(432000, 300), (301, 300), (300, None), (100, None)])
def test_fins_outside_the_window_only_ever_shorten_the_timeout(left: float, timeout: float | None) -> None:
    tracking = begun(segment(SYN))
    tcp.advance(tracking, segment(SYN), False, False, False, DEFAULTS)
    tcp.advance(tracking, segment(SYN | ACK, seq=500, ack=101), True, False, False, DEFAULTS)
    tcp.advance(tracking, segment(ACK, seq=101, ack=501), False, True, False, DEFAULTS)
    strays = [(segment(FIN | ACK, seq=900000, ack=501), False), (segment(FIN | ACK, seq=900000, ack=101), True)]
    results = [tcp.advance(tracking, skb, reply, True, True, DEFAULTS, left) for skb, reply in strays]
    assert [(result.verdict, result.timeout) for result in results] == [(INVALID, None), (INVALID, timeout)]


@pytest.mark.parametrize(
    ("skb", "reason"),
    [
        (segment(SYN | ACK), "no connection begins with flags SA"),
        (segment(RST), "no connection begins with flags R"),
        (segment(0), "no connection begins with flags ."),
    ],
)
def test_what_begins_no_connection_is_told(skb: Skb, reason: str) -> None:
    assert tcp.start(skb, DEFAULTS) == reason


def test_the_reason_of_a_breach_names_the_numbers() -> None:
    tracking = begun(segment(SYN, window=1000))
    tcp.advance(tracking, segment(SYN), False, False, False, DEFAULTS)
    tcp.advance(tracking, segment(SYN | ACK, seq=500, ack=101, window=1000), True, False, False, DEFAULTS)
    result = tcp.advance(tracking, segment(ACK, seq=5000, ack=501), False, True, False, DEFAULTS)
    assert result.reason == "out of window: seq 5000 is above 1101, which the receiver offered"

"""What follows a first packet: answers, handshakes with data and their end, and what goes wrong on the way.

Retransmissions, segments outside of the window, RSTs in and out of order, ICMP errors about the flow, fragments, ports that are used
again, and packets that come when the entry has expired. Everything but the opening is derived from what became of earlier packets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from dataplane.adapters.lab.lines import Packet

_ERRORS: Final = {4: ((3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (12, 0)), 6: ((1, 0), (1, 1), (1, 3), (1, 4), (2, 0), (3, 0))}
_SHIFTS: Final = (-1, 1, -2000, 100, 70000, 1 << 20, 1 << 31, -(1 << 30))
_MOST_SECONDS: Final = 2.0
_UDP_TIMEOUT: Final = "net.netfilter.nf_conntrack_udp_timeout"


@dataclass(slots=True)
class Patience:
    """Waits that are left until flows expire; none where the node's timeout of an unanswered UDP flow is long."""

    seconds: float
    left: int = 3

    @classmethod
    def of(cls, sysctls: Mapping[str, str]) -> Patience:
        """By the snapshot's own timeout."""
        timeout = float(sysctls.get(_UDP_TIMEOUT, "30"))
        return cls(timeout + 1.3, 3 if timeout <= _MOST_SECONDS else 0)


def conversation(opening: Packet, random: Random, patience: Patience) -> Iterator[Packet]:
    """The packets after ``opening``, with ids that follow its own."""
    number = opening.id
    script = random.choices(_SCRIPTS, _WEIGHTS)[0]
    for packet in script(opening, random):
        number += 1
        cause = packet.reply_to
        wait = 0.0
        if patience.left and opening.proto == "udp" and random.random() < 0.05:
            patience.left -= 1
            wait = patience.seconds
        yield replace(packet, id=number, reply_to=opening.id + cause if cause is not None else None, wait=wait)


# Each script gives packets whose ``reply_to`` counts from the opening, which is 0; their ids are set later.


def _reply(to: int, **fields: object) -> Packet:
    return Packet(0, reply_to=to, **fields)  # type: ignore[arg-type]  # the fields of a Packet


def _plain(opening: Packet, random: Random) -> Iterator[Packet]:
    """The answer, mostly a third packet, sometimes the end."""
    yield _reply(0)
    if random.random() < 0.7:
        yield _reply(1)
        if opening.proto == "tcp" and random.random() < 0.4:
            yield _reply(2, flags=random.choice(("FA", "R", "RA", "A")))
            yield _reply(3, flags=random.choice(("A", "FA")))


def _whole(opening: Packet, random: Random) -> Iterator[Packet]:
    """A handshake, data both ways, and one of the ways to end."""
    tcp = opening.proto == "tcp"
    yield _reply(0)
    yield _reply(1)
    yield _reply(2, **_data(opening, random))
    yield _reply(3, **_data(opening, random))
    if tcp:
        yield _reply(4, flags=random.choice(("FA", "FA", "R", "RA")))
        yield _reply(5, flags=random.choice(("FA", "A", "R")))
        yield _reply(6, flags="A")
    if random.random() < 0.5:
        yield replace(opening, flags="S" if tcp else opening.flags)  # the same ports again


def _repeated(opening: Packet, random: Random) -> Iterator[Packet]:
    """Whatever was sent is sent again, before and after the answer; of UDP twice as often."""
    for _ in range(random.randint(1, 8 if opening.proto == "udp" else 4)):
        yield _reply(0, again=True)
    yield _reply(0)
    yield _reply(random.choice((0, 1)), again=True)


def _outside(opening: Packet, random: Random) -> Iterator[Packet]:
    """Segments outside of the window, in either direction, and what follows them."""
    yield _reply(0)
    yield _reply(1)
    yield _reply(2, shift=random.choice(_SHIFTS), flags=random.choice(("A", "PA", "FA", "R", "RA", "S", "SA")) if opening.proto == "tcp" else None)
    yield _reply(1, **_data(opening, random))
    yield _reply(2, shift=random.choice(_SHIFTS), flags="R" if opening.proto == "tcp" else None)
    yield _reply(2)


def _erring(opening: Packet, random: Random) -> Iterator[Packet]:
    """An ICMP error about the opening or the answer, from its destination or from a router, then the flow goes on."""
    errors = _ERRORS[6 if ":" in (opening.dst or "") else 4]
    kind, code = random.choice(errors)
    yield _reply(0, type=kind, code=code)
    yield _reply(0)
    kind, code = random.choice(errors)
    yield _reply(2, type=kind, code=code)
    yield _reply(2)


def _fragmented(opening: Packet, random: Random) -> Iterator[Packet]:
    """An answer, then the next packet in two fragments, which come one after the other or only in part."""
    yield _reply(0)
    if ":" in (opening.dst or "") or opening.proto in ("sctp", "icmp"):
        return
    size = random.choice((24, 32, 40))
    yield _reply(1, length=48, fragment=size)
    if random.random() < 0.8:
        yield _reply(2, length=48, fragment=size, again=True)
        yield _reply(3)


def _data(opening: Packet, random: Random) -> dict[str, object]:
    length = random.choice((1, 20, 64)) if opening.proto in ("tcp", "udp") else 0
    return {"length": length, "flags": "PA" if opening.proto == "tcp" else None}


_SCRIPTS: Final[tuple[Callable[[Packet, Random], Iterator[Packet]], ...]] = (_plain, _whole, _repeated, _outside, _erring, _fragmented)
_WEIGHTS: Final = (6, 2, 1, 1.5, 2, 1)

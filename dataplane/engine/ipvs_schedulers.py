"""The schedulers of IPVS that keep at most a place in the list: rr, wrr, lc, wlc, sed, nq, fo, ovf; ``make_scheduler`` knows all thirteen.

Real servers are looked at in the list's order, newest first, and of equals the first one seen wins. A weight of 0 means quiesced: no new
connection. Source: net/netfilter/ipvs/ip_vs_NAME.c of Linux 6.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Final

from dataplane.engine.choices import Choices
from dataplane.engine.ipvs_dest import Dest, PacketKey, Scheduler, Service
from dataplane.engine.ipvs_hashing import DestinationHashing, MaglevHashing, SourceHashing
from dataplane.engine.ipvs_load import least_connections, least_delay, least_overhead, never_queue
from dataplane.engine.ipvs_locality import Locality, ReplicatedLocality


def make_scheduler(name: str, service: Service, now: float = 0.0) -> Scheduler:
    """A scheduler that has just been bound to the service; ``now`` in seconds. Raises KeyError for a name that Linux has not."""
    if name in _STATELESS:
        return Stateless(_STATELESS[name])
    return _STATEFUL[name](service, now)


@dataclass(slots=True)
class Stateless:
    """One whose choice follows from the real servers alone."""

    choose: Callable[[list[Dest]], Dest | None]

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The real server that the list gives now."""
        return self.choose(service.dests)

    def dest_added(self, service: Service, dest: Dest) -> None:
        """Nothing is kept."""

    dest_removed = dest_changed = dest_added

    def copy(self, service: Service) -> Stateless:  # noqa: ARG002
        """Itself."""
        return self


def _former_place(service: Service, dest: Dest) -> int:
    """Where in the list a removed real server was."""
    return sum(other.index > dest.index for other in service.dests)


class RoundRobin:
    """rr: the next one after the last one chosen. ``_at`` is its place, -1 is the list's head; removed, the one before it takes its part."""

    __slots__ = ("_at",)

    def __init__(self, service: Service, now: float = 0.0, at: int = -1) -> None:  # noqa: ARG002
        self._at = at

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The next one that takes connections."""
        dests, after = service.dests, self._at + 1
        for places in (range(after, len(dests)), range(after)):
            for at in places:
                dest = dests[at]
                if dest.weight > 0 and not dest.overloaded:
                    self._at = at
                    return dest
        return None

    def dest_added(self, service: Service, dest: Dest) -> None:  # noqa: ARG002
        """All others move one place down."""
        self._at += self._at >= 0

    def dest_removed(self, service: Service, dest: Dest) -> None:
        """What came after it moves up."""
        self._at -= self._at >= _former_place(service, dest)

    def dest_changed(self, service: Service, dest: Dest) -> None:
        """A weight is looked at when choosing."""

    def copy(self, service: Service) -> RoundRobin:
        """The same place."""
        return RoundRobin(service, at=self._at)


class WeightedRoundRobin:
    """wrr: rounds for a required weight that falls from the greatest one by the greatest common divisor, then starts again.

    Every change of the real servers starts the round again at the list's head, the required weight rounded to the new steps.
    The lowest step is 1, not the divisor: so a weight lowered meanwhile is still seen.
    """

    __slots__ = ("_at", "_greatest", "_required", "_step")

    def __init__(self, service: Service, now: float = 0.0) -> None:  # noqa: ARG002
        self._required = 0
        self.dest_added(service, None)

    def dest_added(self, service: Service, dest: Dest | None) -> None:  # noqa: ARG002
        """Find the steps anew."""
        weights = [dest.weight for dest in service.dests]
        self._at, self._step = -1, gcd(*weights) or 1
        self._greatest = max(weights, default=0) - (self._step - 1)
        if self._required > self._greatest or not self._required:
            self._required = self._greatest
        elif self._step > 1:
            self._required = self._required // self._step * self._step + 1

    dest_removed = dest_changed = dest_added

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The next one that has the required weight. Ends when all have been asked for a weight of 1."""
        if self._greatest == 0:
            return None
        last, stop, last_pass, restarted = self._at, -1, False, False
        while True:
            dest = self._rest_of_round(service.dests, stop)
            if dest or self._at >= 0:
                return dest
            self._required -= self._step
            if self._required <= 0:
                self._required = self._greatest
                if last_pass or last < 0:
                    return None
                restarted = True
            last_pass = self._required <= self._step
            if last_pass and restarted:
                stop = last

    def _rest_of_round(self, dests: list[Dest], stop: int) -> Dest | None:
        """The next one, up to and with ``stop``; the place is then the one found, stop's, or the head's at the end of the list."""
        required = self._required
        for at in range(self._at + 1, len(dests)):
            dest = dests[at]
            if dest.weight >= required and not dest.overloaded:
                self._at = at
                return dest
            if at == stop:
                self._at = at
                return None
        self._at = -1
        return None

    def copy(self, service: Service) -> WeightedRoundRobin:
        """The same place and weights."""
        copied = WeightedRoundRobin(service)
        copied._at, copied._greatest, copied._required, copied._step = self._at, self._greatest, self._required, self._step
        return copied


def failover(dests: list[Dest]) -> Dest | None:
    """fo: the greatest weight takes all."""
    greatest, weight = None, 0
    for dest in dests:
        if dest.weight > weight and not dest.overloaded:
            greatest, weight = dest, dest.weight
    return greatest


def overflow(dests: list[Dest]) -> Dest | None:
    """ovf: the greatest weight of those with no more active connections than their weight."""
    greatest, weight = None, 0
    for dest in dests:
        if dest.weight > weight and dest.active <= dest.weight and not dest.overloaded:
            greatest, weight = dest, dest.weight
    return greatest


_STATELESS: Final[dict[str, Callable[[list[Dest]], Dest | None]]] = {
    "lc": least_connections, "wlc": least_overhead, "sed": least_delay, "nq": never_queue, "fo": failover, "ovf": overflow,
}  # fmt: skip
_STATEFUL: Final[dict[str, Callable[[Service, float], Scheduler]]] = {
    "rr": RoundRobin, "wrr": WeightedRoundRobin, "lblc": Locality, "lblcr": ReplicatedLocality,
    "sh": SourceHashing, "dh": DestinationHashing, "mh": MaglevHashing,
}  # fmt: skip

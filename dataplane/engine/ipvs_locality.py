"""The schedulers that remember which real servers a destination address had: lblc (one) and lblcr (a set). For clusters of caches.

An entry unused for a day goes at a full check, every half hour; beyond 16,384 entries those unused for six minutes go each minute, bucket
after bucket, until the goal is reached. The kernel's timer is caught up with before each choice.
Source: net/netfilter/ipvs/ip_vs_{lblc,lblcr}.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Generic, Protocol, TypeVar

from dataplane.engine.choices import Choices
from dataplane.engine.ipvs_dest import Dest, PacketKey, Service
from dataplane.engine.ipvs_hashing import folded, hash_32
from dataplane.engine.ipvs_load import least_overhead

EXPIRATION: Final = 24 * 3600.0  # seconds; sysctls lblc_expiration, lblcr_expiration
_CHECK: Final = 60.0
_CHECKS_TO_FULL: Final = 30
_ENTRY_TIMEOUT: Final = 360.0
_BUCKET_BITS: Final = 10
_MOST: Final = 16 << _BUCKET_BITS


class _Used(Protocol):
    lastuse: float


Entry = TypeVar("Entry", bound=_Used)


class _Table(Generic[Entry]):
    """Entries by address, and the timer that clears them."""

    __slots__ = ("_counter", "_next_check", "_rover", "entries")

    def __init__(self, now: float) -> None:
        self.entries: dict[int, Entry] = {}
        self._counter, self._rover, self._next_check = 1, 0, now + _CHECK

    def catch_up(self, now: float) -> None:
        """Run the timer's checks that were due."""
        while now >= self._next_check:
            if not self.entries:
                self._skip(int((now - self._next_check) // _CHECK) + 1)
                return
            self._check(self._next_check)
            self._next_check += _CHECK

    def _skip(self, checks: int) -> None:
        """Checks of an empty table: only the counter goes round."""
        self._counter = (self._counter - 1 + checks) % _CHECKS_TO_FULL + 1
        self._next_check += checks * _CHECK

    def _check(self, now: float) -> None:
        if self._counter % _CHECKS_TO_FULL == 0:
            self.entries = {address: entry for address, entry in self.entries.items() if now < entry.lastuse + EXPIRATION}
            self._counter = 1
        elif len(self.entries) <= _MOST:
            self._counter += 1
        else:
            self._shrink(now, min((len(self.entries) - _MOST) * 4 // 3, _MOST // 2))

    def _shrink(self, now: float, goal: int) -> None:
        buckets: dict[int, list[int]] = {}
        for address, entry in self.entries.items():
            if now >= entry.lastuse + _ENTRY_TIMEOUT:
                buckets.setdefault(hash_32(folded_key(address), _BUCKET_BITS), []).append(address)
        for _ in range(1 << _BUCKET_BITS):
            self._rover = (self._rover + 1) % (1 << _BUCKET_BITS)
            for address in buckets.get(self._rover, ()):
                del self.entries[address]
                goal -= 1
            if goal <= 0:
                return

    def copied_into(self, other: _Table[Entry], entries: dict[int, Entry]) -> None:
        """Give another table the timer's state and these entries."""
        other._counter, other._rover, other._next_check, other.entries = self._counter, self._rover, self._next_check, entries


def folded_key(address: int) -> int:
    """An address's 32 bits; a service has one family, and an IPv4 address folds to itself."""
    return folded(0, address)


def _too_busy(dest: Dest, dests: list[Dest]) -> bool:
    """More active connections than its weight, while another has fewer than half of its own."""
    return dest.active > dest.weight and True in [other.spare for other in dests]


class _Twins:
    """Copies of real servers: those of the copied service, and of removed ones a copy each."""

    def __init__(self, old: Service, new: Service) -> None:
        self._of = {id(mine): its for mine, its in zip(old.dests, new.dests, strict=True)}

    def __call__(self, dest: Dest) -> Dest:
        if id(dest) not in self._of:
            self._of[id(dest)] = replace(dest)
        return self._of[id(dest)]


@dataclass(slots=True)
class _One:
    dest: Dest
    lastuse: float


class Locality:
    """lblc: the one that the address had, unless it is gone, quiesced or too busy; else the least overhead by weight."""

    __slots__ = ("_service", "_table")

    def __init__(self, service: Service, now: float = 0.0) -> None:
        self._service = service
        self._table: _Table[_One] = _Table(now)

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The remembered one, or the one that is remembered from now on. An overloaded one is still taken."""
        self._table.catch_up(now)
        entry = self._table.entries.get(packet_key.daddr)
        if entry:
            entry.lastuse = now
            if entry.dest.available and entry.dest.weight > 0 and not _too_busy(entry.dest, service.dests):
                return entry.dest
        dest = least_overhead(service.dests)
        if dest and not (entry and entry.dest is dest):
            self._table.entries[packet_key.daddr] = _One(dest, now)
        return dest

    def dest_added(self, service: Service, dest: Dest) -> None:
        """Nothing: entries say themselves whether they still hold."""

    dest_removed = dest_changed = dest_added

    def copy(self, service: Service) -> Locality:
        """The same entries of the copied real servers; one that was removed is copied, too."""
        twin = _Twins(self._service, service)
        copied = Locality(service)
        entries = {address: _One(twin(one.dest), one.lastuse) for address, one in self._table.entries.items()}
        self._table.copied_into(copied._table, entries)
        return copied


@dataclass(slots=True)
class _Set:
    lastuse: float
    lastmod: float
    dests: list[Dest] = field(default_factory=list)

    def insert(self, dest: Dest, now: float) -> None:
        if dest not in self.dests:
            self.dests.insert(0, dest)
            self.lastmod = now

    def least(self) -> Dest | None:
        return least_overhead([dest for dest in self.dests if dest.available])

    def most(self) -> Dest | None:
        most: Dest | None = None
        for dest in self.dests:
            if dest.weight > 0 and (most is None or most.overhead * dest.weight < dest.overhead * most.weight):
                most = dest
        return most


class ReplicatedLocality:
    """lblcr: the least loaded of those that the address had; when it is too busy, one more; after a day without change, one less."""

    __slots__ = ("_service", "_table")

    def __init__(self, service: Service, now: float = 0.0) -> None:
        self._service = service
        self._table: _Table[_Set] = _Table(now)

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The set's least loaded one, or one that is in the set from now on."""
        self._table.catch_up(now)
        entry = self._table.entries.get(packet_key.daddr)
        if entry:
            entry.lastuse = now
            least = entry.least()
            if len(entry.dests) > 1 and now > entry.lastmod + EXPIRATION and (most := entry.most()):
                entry.dests.remove(most)
                entry.lastmod = now
            if least and not _too_busy(least, service.dests):
                return least
        dest = least_overhead(service.dests)
        if dest:
            if not entry:
                entry = self._table.entries[packet_key.daddr] = _Set(now, now)
            entry.insert(dest, now)
        return dest

    def dest_added(self, service: Service, dest: Dest) -> None:
        """Nothing: entries say themselves whether they still hold."""

    dest_removed = dest_changed = dest_added

    def copy(self, service: Service) -> ReplicatedLocality:
        """The same sets of the copied real servers; one that was removed is copied, too."""
        twin = _Twins(self._service, service)
        copied = ReplicatedLocality(service)
        entries = {address: replace(one, dests=[twin(dest) for dest in one.dests]) for address, one in self._table.entries.items()}
        self._table.copied_into(copied._table, entries)
        return copied

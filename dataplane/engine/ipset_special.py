"""The two set types whose members are not found by equality alone: hash:net,iface with wildcards, bitmap:ip,mac that learns.

Source: net/netfilter/ipset/ip_set_hash_netiface.c, ip_set_bitmap_ipmac.c, ip_set_bitmap_gen.h.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dataplane.engine.ipset_members import MATCH, NO_MEMBER, NOMATCH, Changes, Key, Members
from dataplane.engine.ipset_values import Value
from dataplane.inet import FULL_MASK, Prefix
from dataplane.rules.ipset import Entry


class Interface(NamedTuple):
    """One interface of a net; with ``wildcard`` the name is a beginning."""

    name: str
    wildcard: bool
    nomatch: bool
    expires: float | None

    def alive(self, now: float) -> bool:
        """Whether its time is not over."""
        return self.expires is None or now <= self.expires

    def covers(self, name: str) -> bool:
        """Whether it is this interface, or its name begins so."""
        return name.startswith(self.name) if self.wildcard else name == self.name


class InterfaceMembers(Members):
    """hash:net,iface: interfaces by net, in the order in which they were added.

    The longest prefix that has any interface ends the search, even if the packet's is not among them. Members on bridge ports
    (physdev:) are there, but iptables has no way to ask for them.
    """

    def _put_base(self, entry: Entry) -> None:
        net, name = entry.elements
        assert isinstance(net, Prefix) and isinstance(name, str)
        self._lengths[0][net.mask] += 1
        if name.startswith("physdev:"):
            return
        wildcard = any(option == "wildcard" for option, _ in entry.options)
        key = ((net.address, net.mask),)
        made = Interface(name, wildcard, entry.nomatch, self._expiry(entry))
        self._base[key] = (*self._base.get(key, ()), made)

    def test(self, values: tuple[Value, ...]) -> int:
        """MATCH, NO_MEMBER or NOMATCH."""
        changes = self.kernel.memory.get(self._memory)
        now, name = self.kernel.now, str(values[1])
        for key in self._keys(values[:1], changes):
            others = False
            for one in self._get(key, changes.members if changes is not None else {}) or ():
                if not one.covers(name):
                    others = True
                elif one.alive(now):
                    return NOMATCH if one.nomatch else MATCH
                else:
                    others = False
            if others:
                break
        return NO_MEMBER

    def add(self, values: tuple[Value, ...], timeout: int | None, *, exist: bool) -> bool:
        """-j SET --add-set: the packet's interface at its net."""
        changes, key, kept, known = self._found(values)
        if known is not None and not exist and known.alive(self.kernel.now):
            return False
        if known is None and not self._has_room(changes):
            return False
        if known is None:
            self._count(changes, key, 1)
            changes.members[key] = (*kept, Interface(str(values[1]), False, False, self._until(timeout)))
        else:
            fresh = known._replace(nomatch=False, expires=self._until(timeout))
            changes.members[key] = tuple(fresh if one is known else one for one in kept)
        return True

    def remove(self, values: tuple[Value, ...]) -> bool:
        """-j SET --del-set."""
        changes, key, kept, known = self._found(values)
        if known is None or not known.alive(self.kernel.now):
            return False
        self._count(changes, key, -1)
        changes.members[key] = tuple(one for one in kept if one is not known) or None
        return True

    def _found(self, values: tuple[Value, ...]) -> tuple[Changes, Key, tuple[Interface, ...], Interface | None]:
        changes = self._changes()
        mask = max(+changes.lengths[0], default=FULL_MASK[self.one.family])
        assert isinstance(values[0], int)
        key: Key = ((values[0] & mask, mask),)
        kept = self._get(key, changes.members) or ()
        return changes, key, kept, next((one for one in kept if one.covers(str(values[1]))), None)

    def _changes(self) -> Changes:
        changes = super()._changes()
        changes.size = sum(changes.lengths[0].values())
        return changes


class Station(NamedTuple):
    """One address and the MAC that goes with it; None until the first packet shows it, which also starts the ``timeout``."""

    mac: int | None
    timeout: int
    expires: float | None

    def alive(self, now: float) -> bool:
        """Whether its time is not over."""
        return self.expires is None or now <= self.expires


class StationMembers(Members):
    """bitmap:ip,mac: a test of an address whose MAC is missing learns it, and matches."""

    def _put_base(self, entry: Entry) -> None:
        address = entry.elements[0]
        mac = entry.elements[1] if len(entry.elements) > 1 else None
        assert isinstance(address, Prefix) and (mac is None or isinstance(mac, int))
        expires = self._expiry(entry)
        self._base[(address.address,)] = Station(mac, int(expires or 0), None if mac is None else expires)

    def test(self, values: tuple[Value, ...]) -> int:
        """MATCH or NO_MEMBER."""
        station = self._station(values)
        if station is None:
            return NO_MEMBER
        if station.mac is None:
            self._learn(values, station)
            return MATCH
        return MATCH if station.mac == values[1] and station.alive(self.kernel.now) else NO_MEMBER

    def add(self, values: tuple[Value, ...], timeout: int | None, *, exist: bool) -> bool:
        """-j SET --add-set: the address with its MAC; a known MAC changes only with --exist."""
        station = self._station(values)
        if station is not None and station.mac is None:
            self._learn(values, station)
            return True
        if station is not None and not exist and station.alive(self.kernel.now):
            return False
        mac = values[1] if station is None or exist else station.mac
        assert mac is None or isinstance(mac, int)
        self._changes().members[values[:1]] = Station(mac, 0, self._until(timeout))
        return True

    def remove(self, values: tuple[Value, ...]) -> bool:
        """-j SET --del-set: whatever its MAC is."""
        station = self._station(values)
        if station is None:
            return False
        self._changes().members[values[:1]] = None
        return bool(station.alive(self.kernel.now))

    def _station(self, values: tuple[Value, ...]) -> Any:  # Any: a Station or None, from a dict of any members
        changes = self.kernel.memory.get(self._memory)
        return self._get(values[:1], changes.members if changes is not None else {})

    def _learn(self, values: tuple[Value, ...], station: Station) -> None:
        mac = values[1]
        assert isinstance(mac, int)
        expires = self.kernel.now + station.timeout if self.timed and station.timeout else None
        self._changes().members[values[:1]] = Station(mac, 0, expires)

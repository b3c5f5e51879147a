"""The members of one ip set, made to be found: a dict from what a packet is to what is known of the member.

A set of nets is asked once for each prefix length that occurs in it, the longest first; the first member found decides, even
when it says *nomatch*. What rules add or remove lies over the snapshot's members in ``Kernel.memory``, where it can be forked.
Source: net/netfilter/ipset/ip_set_hash_gen.h (mtype_test_cidrs, mtype_add, mtype_del), ip_set_bitmap_gen.h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dataplane.engine.hooks import Unknown
from dataplane.engine.ipset_values import Value
from dataplane.inet import FULL_MASK, Prefix
from dataplane.rules.ipset import Entry, IPSet

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

Key = tuple[Any, ...]  # a Value a dimension; (address, mask) for a net

MATCH: Final = 1
NO_MEMBER: Final = 0
NOMATCH: Final = -1  # a member that says that what it covers is not in the set


class Member(NamedTuple):
    """``expires`` is on the virtual clock, None for never."""

    expires: float | None = None
    nomatch: bool = False

    def alive(self, now: float) -> bool:
        """Whether its time is not over."""
        return self.expires is None or now <= self.expires


_PLAIN: Final = Member()
_UNCHANGED: Final = object()


class Changes:
    """What rules have changed: members by key (None: removed), how many there are of each prefix length, and in all."""

    __slots__ = ("lengths", "members", "size")

    def __init__(self, members: dict[Key, Any], lengths: tuple[Counter[int], ...], size: int) -> None:
        self.members = members
        self.lengths = lengths
        self.size = size

    def copy(self) -> Changes:
        """An independent copy."""
        return Changes(dict(self.members), tuple(Counter(one) for one in self.lengths), self.size)


class Members:
    """The members of one set of any type but list:set."""

    def __init__(self, one: IPSet, kernel: Kernel) -> None:
        self.one = one
        self.kernel = kernel
        self.nets = tuple(number for number, dimension in enumerate(one.dimensions) if dimension == "net")
        self.options = dict(one.options)
        default = self.options.get("timeout")
        self.timed = default is not None
        self.default = int(default or "0")
        self._memory = ("ipset", one.name)
        self._base: dict[Key, Any] = {}
        self._lengths: tuple[Counter[int], ...] = tuple(Counter() for _ in self.nets)
        for entry in one.entries:
            self._put_base(entry)
        self._orders = tuple(sorted(lengths, reverse=True) for lengths in self._lengths)

    def _put_base(self, entry: Entry) -> None:
        key: Key = tuple(map(_plain, entry.elements))
        for lengths, number in zip(self._lengths, self.nets, strict=True):
            net = entry.elements[number]
            assert isinstance(net, Prefix)
            lengths[net.mask] += 1
            key = (*key[:number], (net.address, net.mask), *key[number + 1 :])
        self._base[key] = _PLAIN if not entry.options and not self.timed else Member(self._expiry(entry), entry.nomatch)

    def _expiry(self, entry: Entry) -> float | None:
        if not self.timed:
            return None
        seconds = next((int(value or "0") for name, value in entry.options if name == "timeout"), self.default)
        return float(seconds) if seconds else None

    # ------------------------------------------------------------------ asking

    def test(self, values: tuple[Value, ...]) -> int:
        """MATCH, NO_MEMBER or NOMATCH."""
        changes = self.kernel.memory.get(self._memory)
        members = changes.members if changes is not None else None
        for key in self._keys(values, changes):
            member = self._base.get(key) if members is None else self._get(key, members)
            if member is not None and member.alive(self.kernel.now):
                return NOMATCH if member.nomatch else MATCH
        return NO_MEMBER

    def _keys(self, values: tuple[Value, ...], changes: Changes | None) -> Iterator[Key]:
        """What a member that covers the packet can look like, in the order in which the kernel asks."""
        if not self.nets:
            yield values
            return
        orders = self._orders if changes is None else tuple(sorted(+lengths, reverse=True) for lengths in changes.lengths)
        first = self.nets[0]
        for mask in orders[0]:
            key = (*values[:first], _net(values[first], mask), *values[first + 1 :])
            if len(self.nets) == 1:
                yield key
                continue
            second = self.nets[1]
            for other in orders[1]:
                yield (*key[:second], _net(values[second], other), *key[second + 1 :])

    def _get(self, key: Key, members: dict[Key, Any]) -> Any:  # Any: a subclass keeps members of its own kind
        member = members.get(key, _UNCHANGED)
        return self._base.get(key) if member is _UNCHANGED else member

    # ------------------------------------------------------------------ changing

    def add(self, values: tuple[Value, ...], timeout: int | None, *, exist: bool) -> bool:
        """-j SET --add-set: False where it is there already (without --exist) or the set is full."""
        changes = self._changes()
        key = self._own_key(values, changes)
        member = self._get(key, changes.members)
        known = member is not None
        if known and not exist and member.alive(self.kernel.now):
            return False
        if not known and not self._has_room(changes):
            return False
        changes.members[key] = Member(self._until(timeout))
        if not known:
            self._count(changes, key, 1)
        return True

    def remove(self, values: tuple[Value, ...]) -> bool:
        """-j SET --del-set: False where it is not there."""
        changes = self._changes()
        key = self._own_key(values, changes)
        member = self._get(key, changes.members)
        if member is None or not member.alive(self.kernel.now):
            return False
        changes.members[key] = None
        self._count(changes, key, -1)
        return True

    def _changes(self) -> Changes:
        return self.kernel.memory_of(
            self._memory, lambda: Changes({}, tuple(Counter(one) for one in self._lengths), len(self._base))
        )

    def _own_key(self, values: tuple[Value, ...], changes: Changes) -> Key:
        """A rule adds and removes nets of the longest prefix that the set has just then; in an empty one, single addresses."""
        key: Key = values
        for lengths, number in zip(changes.lengths, self.nets, strict=True):
            mask = max(+lengths, default=FULL_MASK[self.one.family])
            key = (*key[:number], _net(values[number], mask), *key[number + 1 :])
        return key

    def _until(self, timeout: int | None) -> float | None:
        seconds = timeout if timeout is not None else self.default
        return self.kernel.now + seconds if self.timed and seconds else None

    def _has_room(self, changes: Changes) -> bool:
        most = int(self.options.get("maxelem") or "65536")
        if not self.one.type.startswith("hash:") or changes.size < most:
            return True
        now = self.kernel.now
        kept = {**self._base, **changes.members}
        for key in [key for key, member in kept.items() if isinstance(member, Member) and not member.alive(now)]:
            changes.members[key] = None
            self._count(changes, key, -1)
        if changes.size < most:
            return True
        if "forceadd" not in self.options:
            return False
        raise Unknown(f"the set {self.one.name} is full: which member --forceadd puts out is not known")

    def _count(self, changes: Changes, key: Key, step: int) -> None:
        changes.size += step
        for lengths, number in zip(changes.lengths, self.nets, strict=True):
            lengths[key[number][1]] += step


def _net(address: Value, mask: int) -> tuple[int, int]:
    assert isinstance(address, int)
    return address & mask, mask


def _plain(element: object) -> Value:
    if isinstance(element, Prefix):
        return element.address
    assert isinstance(element, int | str | tuple)
    return element

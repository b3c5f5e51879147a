"""IP sets in use: is a packet's (address, port, …) in a set, and what -j SET adds or removes.

The members of a set become an index when a packet first asks for it (ipset_members, ipset_special); what the packet is in each
dimension of a set is read by ipset_values. Here is what holds for sets of every type: a set of another family, or of more
dimensions than the rule names directions, has no member; a list:set is its sets, one after the other.
Source: net/netfilter/ipset/ip_set_core.c (ip_set_test, ip_set_add, ip_set_del), ip_set_list_set.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.ipset_members import MATCH, NOMATCH, Members
from dataplane.engine.ipset_special import InterfaceMembers, StationMembers
from dataplane.engine.ipset_values import Reader, Value, readers
from dataplane.engine.skb import Skb
from dataplane.rules.ipset import IPSet

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

_OF_ANY_FAMILY: Final = frozenset(("bitmap:port", "hash:mac", "list:set"))
_SPECIAL: Final[Mapping[str, type[Members]]] = {"hash:net,iface": InterfaceMembers, "bitmap:ip,mac": StationMembers}


class Sets:
    """All sets of a namespace."""

    def __init__(self, kernel: Kernel, sets: Mapping[str, IPSet]) -> None:
        self._kernel = kernel
        self._sets = sets
        self._members: dict[str, Members] = {}
        self._readers: dict[tuple[str, Sequence[str]], tuple[Reader, ...]] = {}

    def test(self, name: str, skb: Skb, state: HookState, directions: Sequence[str], *, nomatch: bool = False) -> bool:
        """Whether the packet is in the set; with ``nomatch``, whether a nomatch member covers it (of a set that can have some).

        Raises Unknown for a set that is not in the node's state, and for a packet of which too little is known.
        """
        one = self._set(name)
        if not _fits(one, skb, directions):
            return False
        if one.type == "list:set":
            return any(self.test(member, skb, state, directions, nomatch=nomatch) for member in self._listed(one))
        values = self._values(one, skb, state, directions)
        if values is None:
            return False
        return self._of(one).test(values) == (NOMATCH if nomatch and "net" in one.dimensions else MATCH)

    def add(
        self, name: str, skb: Skb, state: HookState, directions: Sequence[str], timeout: int | None = None, *,
        exist: bool = False,
    ) -> bool:  # fmt: skip
        """-j SET --add-set; ``timeout`` in seconds, the set's own where it is None. Whether anything was added or renewed.

        A list:set hands the packet to the first of its sets that takes it.
        """
        one = self._set(name)
        if not _fits(one, skb, directions):
            return False
        if one.type == "list:set":
            return any(self.add(member, skb, state, directions, timeout, exist=exist) for member in self._listed(one))
        values = self._values(one, skb, state, directions)
        return values is not None and self._of(one).add(values, timeout, exist=exist)

    def remove(self, name: str, skb: Skb, state: HookState, directions: Sequence[str]) -> bool:
        """-j SET --del-set. Whether anything was removed."""
        one = self._set(name)
        if not _fits(one, skb, directions):
            return False
        if one.type == "list:set":
            return any(self.remove(member, skb, state, directions) for member in self._listed(one))
        values = self._values(one, skb, state, directions)
        return values is not None and self._of(one).remove(values)

    def _set(self, name: str) -> IPSet:
        one = self._sets.get(name)
        if one is None:
            raise Unknown(f"the set {name} is not in the node's state")
        return one

    def _of(self, one: IPSet) -> Members:
        members = self._members.get(one.name)
        if members is None:
            members = self._members[one.name] = _SPECIAL.get(one.type, Members)(one, self._kernel)
        return members

    def _values(self, one: IPSet, skb: Skb, state: HookState, directions: Sequence[str]) -> tuple[Value, ...] | None:
        wanted = self._readers.get((one.name, directions))
        if wanted is None:
            wanted = self._readers[one.name, directions] = readers(one, directions, self._kernel.links)
        values = tuple(read(skb, state) for read in wanted)
        return None if None in values else values  # type: ignore[return-value]  # None is not among them

    def _listed(self, one: IPSet) -> Iterator[str]:
        """The sets of a list whose time in it is not over."""
        timed = "timeout" in dict(one.options)
        for entry in one.entries:
            seconds = next((float(value or 0) for option, value in entry.options if option == "timeout"), 0.0)
            if not timed or not seconds or self._kernel.now <= seconds:
                yield str(entry.elements[0])


def _fits(one: IPSet, skb: Skb, directions: Sequence[str]) -> bool:
    return len(directions) >= len(one.dimensions) and (one.type in _OF_ANY_FAMILY or one.family == skb.family)

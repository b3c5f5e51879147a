"""IP sets in use: is a packet's (address, port, …) in a set, and what -j SET adds or removes.

Each set becomes an index when it is first asked: exact tuples in a dict, nets by their prefix lengths, longest first. What rules add at
run time lies over it in the kernel's memory. Source: net/netfilter/ipset/ip_set_core.c, ip_set_hash_*.c, ip_set_getport.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.skb import Skb
from dataplane.inet import FULL_MASK, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Prefix
from dataplane.rules.ipset import Entry, IPSet, PortElement

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

_PORTS: Final = frozenset((TCP, UDP, SCTP, UDPLITE))
_SUPPORTED: Final = frozenset(("ip", "net", "port", "mac", "iface", "mark"))

Key = tuple[Any, ...]


@dataclass(slots=True)
class _Added:
    """What -j SET changed: key -> expiry on the virtual clock (None: never; -1: removed)."""

    keys: dict[Key, float | None] = field(default_factory=dict)

    def copy(self) -> _Added:
        return _Added(dict(self.keys))


class _Index:
    """One set's members: for each combination of masks a dict from masked key to nomatch and expiry."""

    def __init__(self, one: IPSet) -> None:
        self.dimensions = one.dimensions
        self.groups: list[tuple[tuple[int | None, ...], dict[Key, tuple[bool, float | None]]]] = []
        found: dict[tuple[int | None, ...], dict[Key, tuple[bool, float | None]]] = {}
        for entry in one.entries:
            for masks, key in _expanded(entry, one.dimensions):
                found.setdefault(masks, {})[key] = (entry.nomatch, _timeout(entry))
        self.groups = sorted(found.items(), key=lambda item: [-(mask or 0).bit_count() for mask in item[0]])


def _timeout(entry: Entry) -> float | None:
    value = dict(entry.options).get("timeout")
    return float(value) if value and value != "0" else None


def _expanded(entry: Entry, dimensions: Sequence[str]) -> Iterable[tuple[tuple[int | None, ...], Key]]:
    masks: list[int | None] = []
    key: list[Any] = []
    for element in entry.elements[: len(dimensions)]:
        if isinstance(element, Prefix):
            masks.append(element.mask)
            key.append(element.address)
        else:
            masks.append(None)
            key.append(tuple(element) if isinstance(element, PortElement) else element)
    yield tuple(masks), tuple(key)


class Sets:
    """All sets of a namespace."""

    def __init__(self, kernel: Kernel, sets: Mapping[str, IPSet]) -> None:
        self._kernel = kernel
        self._sets = sets
        self._indexes: dict[str, _Index] = {}

    def test(self, name: str, skb: Skb, state: HookState, directions: Sequence[str]) -> bool:
        """Whether the packet is in the set. Raises Unknown for a set that is not in the node's state."""
        one = self._sets.get(name)
        if one is None:
            raise Unknown(f"the set {name} is not in the node's state")
        if one.type == "list:set":
            members = (entry.elements[0] for entry in one.entries)
            return any(self.test(str(member), skb, state, directions) for member in members if str(member) in self._sets)
        if not one.type.startswith("bitmap:port") and one.family != skb.family:
            return False
        index = self._index(name, one)
        values = self._values(one, skb, state, directions)
        if values is None:
            return False
        changed = self._kernel.memory.get(("ipset", name))
        if changed is not None and values in changed.keys:
            until = changed.keys[values]
            if until != -1:
                return until is None or until > self._kernel.now
        elif changed is None or values not in changed.keys:
            return self._member(index, values)
        return False

    def _member(self, index: _Index, values: Key) -> bool:
        for masks, members in index.groups:
            key = tuple(value if mask is None else value & mask for value, mask in zip(values, masks, strict=False))
            found = members.get(key)
            if found is not None:
                nomatch, until = found
                if until is None or until > self._kernel.now:
                    return not nomatch
        return False

    def _index(self, name: str, one: IPSet) -> _Index:
        index = self._indexes.get(name)
        if index is None:
            index = self._indexes[name] = _Index(one)
        return index

    def _values(self, one: IPSet, skb: Skb, state: HookState, directions: Sequence[str]) -> Key | None:
        values: list[Any] = []
        dimensions = one.dimensions
        options = dict(one.options)
        if len(directions) < len(dimensions):
            return None
        for number, dimension in enumerate(dimensions):
            source = directions[number] == "src"
            if dimension not in _SUPPORTED:
                raise Unknown(f"sets of type {one.type} are not modelled")
            if dimension in ("ip", "net"):
                address = skb.saddr if source else skb.daddr
                mask = options.get("netmask")
                if dimension == "ip" and mask:
                    bits = 32 if skb.family == 4 else 128
                    address &= FULL_MASK[skb.family] ^ ((1 << (bits - int(mask))) - 1)
                values.append(address)
            elif dimension == "port":
                port = self._port(skb, source)
                if port is None:
                    return None
                values.append(port[1] if one.type == "bitmap:port" else port)
            elif dimension == "mark":
                values.append(skb.mark & int(options.get("markmask") or "0xffffffff", 0))
            elif dimension == "iface":
                values.append(state.indev if source else state.outdev)
            elif skb.mac_source is None or not source:
                return None
            else:
                values.append(skb.mac_source)
        return tuple(values)

    def _port(self, skb: Skb, source: bool) -> tuple[int, int] | None:
        if skb.fragment_offset:
            return None
        if skb.protocol in _PORTS:
            return skb.protocol, skb.sport if source else skb.dport
        if skb.protocol in (ICMP, ICMPV6):
            return skb.protocol, skb.icmp_type << 8 | skb.icmp_code
        return skb.protocol, 0

    def add(
        self, name: str, skb: Skb, state: HookState, directions: Sequence[str], timeout: int | None, *, exist: bool
    ) -> None:  # fmt: skip
        """-j SET --add-set."""
        values, one = self._change(name, skb, state, directions)
        if values is None:
            return
        table = self._kernel.memory_of(("ipset", name), _Added).keys
        if not exist and table.get(values, -1) != -1:
            return
        default = dict(one.options).get("timeout")
        seconds = timeout if timeout is not None else int(default) if default else None
        table[values] = self._kernel.now + seconds if seconds else None

    def remove(self, name: str, skb: Skb, state: HookState, directions: Sequence[str]) -> None:
        """-j SET --del-set."""
        values, _ = self._change(name, skb, state, directions)
        if values is not None:
            self._kernel.memory_of(("ipset", name), _Added).keys[values] = -1

    def _change(self, name: str, skb: Skb, state: HookState, directions: Sequence[str]) -> tuple[Key | None, IPSet]:
        one = self._sets.get(name)
        if one is None:
            raise Unknown(f"the set {name} is not in the node's state")
        if one.type == "list:set":
            raise Unknown("-j SET on a list:set is not modelled")
        return self._values(one, skb, state, directions), one

"""The schedulers that hash an address into a table of real servers: sh, dh, mh.

The tables are filled anew whenever the real servers change; sh and mh may take the port too, and with a fallback they look on when the
chosen one is quiesced or overloaded, else there is none. Source: net/netfilter/ipvs/ip_vs_{sh,dh,mh}.c, hash_32 (include/linux/hash.h),
hsiphash as on 64-bit machines, SipHash-1-3 (lib/siphash.c).
"""

from __future__ import annotations

import socket
from functools import lru_cache
from math import gcd
from typing import Final, TypeVar

from dataplane.engine.choices import Choices
from dataplane.engine.ipvs_dest import Dest, PacketKey, Service

_GOLDEN: Final = 0x61C88647
_MASK_32: Final = (1 << 32) - 1
_MASK_64: Final = (1 << 64) - 1
_SOURCE_BITS: Final = 8
_MAGLEV_SIZE: Final = 4093  # CONFIG_IP_VS_MH_TAB_INDEX=12: the fifth prime of ten
_MAGLEV_WEIGHT_BITS: Final = 6  # and half of 12: a greater weight is shifted down to it
_OFFSET_KEY: Final = 2654435761
_SKIP_KEY: Final = 2654446892
_WITH_PORTS: Final = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP})

Table = TypeVar("Table", bound="_Hashing")


def folded(family: int, address: int) -> int:
    """32 bits of an address: an IPv6 one's four words, added without carry."""
    if family == socket.AF_INET:
        return address
    address ^= address >> 64
    return (address ^ address >> 32) & _MASK_32


def hash_32(value: int, bits: int) -> int:
    """The kernel's multiplicative hash: the product's highest bits."""
    return (value * _GOLDEN & _MASK_32) >> (32 - bits)


class _Hashing:
    """A table of places for real servers."""

    __slots__ = ("_table",)

    def __init__(self, service: Service, now: float = 0.0) -> None:  # noqa: ARG002
        self._table: list[Dest] = []
        self.dest_added(service, None)

    def dest_added(self, service: Service, dest: Dest | None) -> None:  # noqa: ARG002
        """Fill the table anew."""
        self._table = self._filled(service)

    def dest_removed(self, service: Service, dest: Dest) -> None:
        """Fill the table anew."""
        self.dest_added(service, dest)

    def dest_changed(self, service: Service, dest: Dest) -> None:
        """Fill the table anew."""
        self.dest_added(service, dest)

    def copy(self: Table, service: Service) -> Table:
        """The same table of other real servers: it follows from them."""
        return type(self)(service)

    def _filled(self, service: Service) -> list[Dest]:
        raise NotImplementedError


def _takes(dest: Dest) -> bool:
    return dest.weight > 0 and not dest.overloaded


class DestinationHashing(_Hashing):
    """dh: the destination address into 256 places, which go round by turns whatever the weights."""

    __slots__ = ()

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The one at the address's place."""
        if not self._table:
            return None
        dest = self._table[hash_32(folded(packet_key.family, packet_key.daddr), _SOURCE_BITS)]
        return dest if _takes(dest) and dest.available else None

    def _filled(self, service: Service) -> list[Dest]:
        dests = service.dests
        return [dests[place % len(dests)] for place in range(1 << _SOURCE_BITS)] if dests else []


class SourceHashing(_Hashing):
    """sh: the source address into 256 places, each real server having as many together as it has weight, at least one."""

    __slots__ = ()

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The one at the address's place; with ``sh-fallback`` the first able one at twice the place and on."""
        table = self._table
        if not table:
            return None
        port = packet_key.sport if "sh-port" in service.flags and packet_key.protocol in _WITH_PORTS else 0
        first = hash_32(folded(packet_key.family, packet_key.saddr) + port, _SOURCE_BITS)
        if _takes(table[first]):
            return table[first]
        if "sh-fallback" in service.flags:
            # The offset already starts at the hash, and the hash is added to it again.
            for offset in range(len(table)):
                dest = table[(2 * first + offset) % len(table)]
                if _takes(dest):
                    return dest
        return None

    def _filled(self, service: Service) -> list[Dest]:
        size = 1 << _SOURCE_BITS
        turn: list[Dest] = []
        for dest in service.dests:
            turn += [dest] * min(max(dest.weight, 1), size)
            if len(turn) >= size:
                break
        return (turn * (size // len(turn) + 1))[:size] if turn else []


class MaglevHashing(_Hashing):
    """mh: the source address into 4093 places that the real servers take by turns, each along its own permutation.

    A quiesced one keeps the places of its last weight, so that the others' stay.
    """

    __slots__ = ()

    def dest_changed(self, service: Service, dest: Dest) -> None:
        """Fill the table anew."""
        dest.last_weight = dest.weight or dest.last_weight
        self.dest_added(service, dest)

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:  # noqa: ARG002
        """The one at the address's place; with ``mh-fallback`` the first able one at the places of the address and an offset."""
        table = self._table
        if not table:
            return None
        value = folded(packet_key.family, packet_key.saddr)
        if "mh-port" in service.flags and packet_key.protocol in _WITH_PORTS:
            value += packet_key.sport
        first = hsiphash(value & _MASK_32, _OFFSET_KEY) % _MAGLEV_SIZE
        if _takes(table[first]):
            return table[first]
        if "mh-fallback" in service.flags and any(map(_takes, service.dests)):
            for offset in range(_MAGLEV_SIZE):
                place = hsiphash(value + (first + offset) % _MAGLEV_SIZE & _MASK_32, _OFFSET_KEY) % _MAGLEV_SIZE
                if _takes(table[place]):
                    return table[place]
        return None

    def _filled(self, service: Service) -> list[Dest]:
        weights = [dest.last_weight for dest in service.dests]
        divisor = gcd(*weights)
        if not divisor:
            return []
        shift = max((max(weights) // divisor).bit_length() - _MAGLEV_WEIGHT_BITS, 0)
        walks = [_Walk(dest, (weight // divisor >> shift) or 1) for dest, weight in zip(service.dests, weights, strict=True) if weight]
        table: list[Dest | None] = [None] * _MAGLEV_SIZE
        left = _MAGLEV_SIZE
        while left:
            for walk in walks:
                left -= walk.take(table, min(walk.turns, left))
        return [dest for dest in table if dest]


class _Walk:
    """A real server's way through all places: from ``at`` in steps of ``skip``."""

    __slots__ = ("at", "dest", "skip", "turns")

    def __init__(self, dest: Dest, turns: int) -> None:
        value = folded(dest.family, dest.address) + dest.port & _MASK_32
        self.at = hsiphash(value, _OFFSET_KEY) % _MAGLEV_SIZE
        self.skip = hsiphash(value, _SKIP_KEY) % (_MAGLEV_SIZE - 1) + 1
        self.dest, self.turns = dest, turns

    def take(self, table: list[Dest | None], places: int) -> int:
        """Take the next free places; returns how many: all that are asked for, as there are so many."""
        at, skip = self.at, self.skip
        for _ in range(places):
            while table[at] is not None:
                at = (at + skip) % _MAGLEV_SIZE
            table[at] = self.dest
        self.at = at
        return places


@lru_cache(maxsize=1 << 14)
def hsiphash(value: int, key: int) -> int:
    """SipHash-1-3 of four bytes, both halves of the key ``key``; its low 32 bits."""
    v0, v1, v2, v3 = key ^ 0x736F6D6570736575, key ^ 0x646F72616E646F6D, key ^ 0x6C7967656E657261, key ^ 0x7465646279746573
    last = 4 << 56 | value
    v3 ^= last
    for turn in range(4):
        v0 = v0 + v1 & _MASK_64
        v1 = (v1 << 13 & _MASK_64 | v1 >> 51) ^ v0
        v0 = v0 << 32 & _MASK_64 | v0 >> 32
        v2 = v2 + v3 & _MASK_64
        v3 = (v3 << 16 & _MASK_64 | v3 >> 48) ^ v2
        v0 = v0 + v3 & _MASK_64
        v3 = (v3 << 21 & _MASK_64 | v3 >> 43) ^ v0
        v2 = v2 + v1 & _MASK_64
        v1 = (v1 << 17 & _MASK_64 | v1 >> 47) ^ v2
        v2 = v2 << 32 & _MASK_64 | v2 >> 32
        if turn == 0:
            v0 ^= last
            v2 ^= 0xFF
    return (v0 ^ v1 ^ v2 ^ v3) & _MASK_32

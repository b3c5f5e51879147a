"""The smallest sequence of packets that shows a disagreement.

First what the packet depends on for certain is tried alone: itself and what it replies to. Then everything up to it, of which ever
smaller parts are left out as long as the same kind of disagreement remains (ddmin: Zeller and Hildebrandt, 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from dataplane.adapters.lab.lines import Packet
from dataplane.adapters.lab.node import Flavour
from dataplane.adapters.lab.referee import Mode
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.errors import DataplaneError
from dataplane.verify.run import Disagreement, verify

_MOST_TRIES: Final = 60

_Shows = Callable[[Sequence[Packet]], Disagreement | None]


def shrunk(
    snapshot: Snapshot, packets: Sequence[Packet], one: Disagreement, *, mode: Mode = "sequence", flavour: Flavour | None = None
) -> tuple[list[Packet], Disagreement]:
    """The packets, and the disagreement as they show it; all packets up to it where fewer do not show it."""

    def shows(fewer: Sequence[Packet]) -> Disagreement | None:
        found = verify(snapshot, fewer, mode=mode, flavour=flavour).disagreements
        return next((other for other in found if other.kind == one.kind), None)

    upto = list(packets if one.packet is None else packets[: one.packet + 1])
    if one.kind == "chance":
        return upto, one
    if one.packet is not None:
        alone = _chain(upto)
        again = shows(alone)
        if again is not None:
            return alone, again
    return _fewer(upto, shows, one)


def fewer_rules(
    snapshot: Snapshot, packets: Sequence[Packet], one: Disagreement, *, mode: Mode = "sequence", flavour: Flavour | None = None
) -> tuple[Snapshot, Disagreement]:
    """The snapshot with as few rules as still show the disagreement, and the disagreement as they show it."""
    for family in ("iptables", "ip6tables"):
        lines = getattr(snapshot, family).splitlines(keepends=True)
        size, tries = max(1, len(lines) // 2), 0
        while tries < _MOST_TRIES:
            for start in range(0, len(lines), size):
                fewer = [line for place, line in enumerate(lines) if not (start <= place < start + size and "-A " in line)]
                if len(fewer) == len(lines):
                    continue
                tries += 1
                text = "".join(fewer)
                smaller = replace(snapshot, iptables=text) if family == "iptables" else replace(snapshot, ip6tables=text)
                again = _same_kind(smaller, packets, one, mode, flavour)
                if again is not None:
                    lines, snapshot, one = fewer, smaller, again
                    break
            else:
                if size == 1:
                    break
                size = max(1, size // 2)
    return snapshot, one


def _same_kind(
    snapshot: Snapshot, packets: Sequence[Packet], one: Disagreement, mode: Mode, flavour: Flavour | None
) -> Disagreement | None:
    """A disagreement of the same kind over these rules; None where there is none, or the tools refuse them."""
    try:
        found = verify(snapshot, packets, mode=mode, flavour=flavour).disagreements
    except DataplaneError:
        return None
    return next((other for other in found if other.kind == one.kind), None)


def _chain(packets: Sequence[Packet]) -> list[Packet]:
    """The last packet and what it replies to, directly or not."""
    by_id = {packet.id: packet for packet in packets}
    chain, packet = [packets[-1]], packets[-1]
    while packet.reply_to is not None:
        packet = by_id[packet.reply_to]
        chain.insert(0, packet)
    return chain


def _fewer(packets: list[Packet], shows: _Shows, one: Disagreement) -> tuple[list[Packet], Disagreement]:
    groups = _conversations(packets)
    parts, tries = 2, 0
    while len(groups) > 1 and tries < _MOST_TRIES:
        size = max(1, len(groups) // parts)
        for start in range(0, len(groups), size):
            rest = groups[:start] + groups[start + size :]
            tries += 1
            again = shows(_flat(rest)) if rest else None
            if again is not None:
                groups, one, parts = rest, again, max(2, parts - 1)
                break
            if tries >= _MOST_TRIES:
                break
        else:
            if size == 1:
                break
            parts = min(len(groups), parts * 2)
    return _flat(groups), one


def _conversations(packets: Sequence[Packet]) -> list[list[Packet]]:
    """Openings, each with the replies to it."""
    roots: dict[int, int] = {}
    groups: dict[int, list[Packet]] = {}
    for packet in packets:
        roots[packet.id] = packet.id if packet.reply_to is None else roots.get(packet.reply_to, packet.id)
        groups.setdefault(roots[packet.id], []).append(packet)
    return list(groups.values())


def _flat(groups: Sequence[Sequence[Packet]]) -> list[Packet]:
    return sorted((packet for group in groups for packet in group), key=lambda packet: packet.id)

"""Packets that each start from the snapshot's own state: which can share a batch, and how the state is put back.

Packets of one batch are sent without forgetting between them, so no two of them may meet in one connection nor compete for
one port. Where rules remember packets by other means than connections, a batch is one packet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dataplane.adapters.lab import connections
from dataplane.adapters.lab.lines import Packet
from dataplane.adapters.lab.node import Node, load_rules, unload_rules
from dataplane.adapters.lab.snapshot import Snapshot

_BATCH: Final = 512
_REMEMBERS: Final = re.compile(
    r"-m (recent|limit|hashlimit|quota|statistic --mode nth|rateest|connlimit)\b|-j (SET|RATEEST|IDLETIMER)\b|--add-set"
)
_ONLY_LOGS: Final = re.compile(r"-j (LOG|NFLOG|ULOG|AUDIT)\b|-m recent --rcheck .*-j LOG")
_RECENT: Final = Path("/proc/thread-self/net/xt_recent")


def remembering_rules(snapshot: Snapshot) -> list[str]:
    """The rules that keep something of one packet for the next, other than its connection; not those that only log."""
    lines = (snapshot.iptables + "\n" + snapshot.ip6tables).splitlines()
    return [line for line in lines if _REMEMBERS.search(line) and not _ONLY_LOGS.search(line)]


def batches_of(packets: list[Packet], snapshot: Snapshot) -> Iterator[list[Packet]]:
    """Every packet with the replies to it, in batches whose members cannot disturb each other."""
    groups = list(_groups(packets).values())
    if remembering_rules(snapshot):
        yield from groups
        return
    while groups:
        batch: list[Packet] = []
        later: list[list[Packet]] = []
        sources: set[tuple[str | None, int | None]] = set()
        targets: set[tuple[str | None, int | None]] = set()
        for group in groups:
            first = group[0]
            source, target = (first.proto, first.sport), (first.proto, first.dport)
            if len(batch) >= _BATCH or source in sources or source in targets or target in sources:
                later.append(group)
                continue
            sources.add(source)
            targets.add(target)
            batch += group
        yield _by_turn(batch)
        groups = later


def forget(node: Node) -> None:
    """Back to the state of the snapshot: no connections but its own, and rules that have seen nothing.

    Loading the same rules again is not enough: lists (recent) and buckets (hashlimit) have names, by which new rules find
    the old ones.
    """
    connections.flush(node.inside)
    rules = remembering_rules(node.snapshot)
    if all("-m recent" in rule for rule in rules):
        with node.inside.inside():
            for path in _RECENT.glob("*") if rules else ():
                path.write_text("/\n")
    else:
        unload_rules(node)
        load_rules(node)
    connections.load(node.inside, node.snapshot.conntrack)


def _groups(packets: list[Packet]) -> dict[int, list[Packet]]:
    """Packets by the one that everything in the group is a reply to, directly or not."""
    roots: dict[int, int] = {}
    groups: dict[int, list[Packet]] = {}
    for packet in packets:
        roots[packet.id] = packet.id if packet.reply_to is None else roots.get(packet.reply_to, packet.id)
        groups.setdefault(roots[packet.id], []).append(packet)
    return groups


def _by_turn(batch: list[Packet]) -> list[Packet]:
    """First all that are no replies, then the replies to these and so on: few waits."""
    turns: dict[int, int] = {}
    for packet in batch:
        turns[packet.id] = turns.get(packet.reply_to, -1) + 1 if packet.reply_to is not None else 0
    return sorted(batch, key=lambda packet: turns[packet.id])

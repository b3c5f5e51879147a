"""Emulator against kernel over the same packets: ``python -m tests.kernel.duel PATH... [-n PACKETS] [--seed N]``.

PATH is a snapshot's directory, a golden's directory or a save file; without a network it gets a plausible one. ``--invent N``
takes N invented rule sets instead, from the seed on. Where both differ, ``--keep DIR`` leaves snapshot and packets behind.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel import emulator
from tests.kernel.aim import packets_for
from tests.kernel.compare import compare
from tests.kernel.corpus import snapshot_of
from tests.kernel.invent import invented
from tests.kernel.lines import Line, Packet, write_packets
from tests.kernel.node import Flavour, standing
from tests.kernel.referee import Mode, Referee
from tests.kernel.snapshot import Snapshot, write
from tests.kernel.world import RefereeError


@dataclass(slots=True)
class Result:
    """``differences`` are texts ready to be read; ``verdicts`` counts the kernel's, "unsent" included."""

    differences: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    unknown: int = 0


def kernel_lines(
    snapshot: Snapshot, packets: Sequence[Packet], mode: Mode = "sequence", flavour: Flavour | None = None
) -> list[Line]:
    """What the kernel does with packets on a node made for them alone."""
    with standing(snapshot, flavour=flavour) as node:
        referee = Referee(node)
        try:
            return referee.send(packets, mode)
        finally:
            referee.close()


def judge(packets: Sequence[Packet], emulated: Sequence[Line], kernel: Sequence[Line]) -> Result:
    """Packet by packet: is what the kernel did among what the emulator says could happen?"""
    said = {line["id"]: line["outcomes"] for line in emulated}
    result = Result()
    for packet, line in zip(packets, kernel, strict=True):
        did = line["outcomes"][0] if line["outcomes"] else None
        result.verdicts[did["verdict"] if did else "unsent"] += 1
        outcomes = said.get(packet.id, [])
        result.unknown += any(one["verdict"] == "unknown" for one in outcomes)
        difference = compare(outcomes, did)
        if difference:
            result.differences.append(f"{packet.line()}\n{_history(packet, packets)}  {difference}")
    return result


def _history(packet: Packet, packets: Sequence[Packet]) -> str:
    """The packets that this one is a reply to, or nothing would be clear."""
    by_id = {one.id: one for one in packets}
    lines: list[str] = []
    cause = by_id.get(packet.reply_to) if packet.reply_to is not None else None
    while cause is not None and len(lines) < 8:
        lines.insert(0, f"  after {cause.line()}\n")
        cause = by_id.get(cause.reply_to) if cause.reply_to is not None else None
    return "".join(lines)


def main() -> int:
    options = _options()
    mode: Mode = "fresh" if options.fresh or options.command else "sequence"
    failed = 0
    for name, snapshot, seed in _subjects(options):
        packets = packets_for(snapshot, options.n, seed, replies=not (options.no_replies or options.command))
        try:
            kernel = kernel_lines(snapshot, packets, mode, options.flavour)
            said = emulator.ask(snapshot, packets) if options.command else emulator.follow(snapshot, packets, kernel, mode)
        except (RefereeError, emulator.EmulatorError) as error:
            print(f"{name}: {type(error).__name__}: {error}")
            failed += 1
            continue
        result = judge(packets, said, kernel)
        failed += bool(result.differences)
        _print(name, result, options.show)
        if result.differences and options.keep:
            write(options.keep / name.replace("/", "_"), snapshot)
            (options.keep / name.replace("/", "_") / "packets.jsonl").write_text(write_packets(packets))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.duel", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--invent", type=int, default=0, metavar="N", help="N invented rule sets")
    parser.add_argument("-n", type=int, default=500, help="packets for each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="each conversation from the snapshot's own state")
    parser.add_argument("--flavour", choices=("legacy", "nft"))
    parser.add_argument("--no-replies", action="store_true", help="single packets only")
    parser.add_argument("--show", type=int, default=10, help="differences to print for each")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where to leave snapshots and packets that differ")
    parser.add_argument("--command", action="store_true", help="ask `dataplane trace` itself: implies --fresh and --no-replies")
    return parser.parse_args()


def _subjects(options: argparse.Namespace) -> Iterator[tuple[str, Snapshot, int]]:
    """Name, snapshot and the seed of its packets."""
    for path in options.paths:
        yield str(path), snapshot_of(path), options.seed
    for seed in range(options.seed, options.seed + options.invent):
        yield f"invented {seed}", invented(seed), seed


def _print(name: str, result: Result, show: int) -> None:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(result.verdicts.items()))
    print(f"{name}: {len(result.differences)} differences, {result.unknown} unknown; the kernel: {counts}")
    for difference in result.differences[:show]:
        print(difference)


if __name__ == "__main__":
    raise SystemExit(main())

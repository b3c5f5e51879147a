"""The long run: ``python -m tests.kernel.referee 1000000`` (``make referee N=1000000``).

Every rule set that is at hand (rulesets/, goldens and dumps of ../shared) and as many invented ones, over and over with new packets,
until so many were sent. Prints each disagreement with its reproduction, and the totals. Exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count, zip_longest
from pathlib import Path

from dataplane.adapters.lab.requirements import missing
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.errors import DataplaneError
from dataplane.verify import report
from dataplane.verify.aim import packets_for
from dataplane.verify.run import verify
from dataplane.verify.shrink import fewer_rules, shrunk
from tests.kernel import corpus
from tests.kernel.invent import invented


def known() -> list[tuple[str, Snapshot]]:
    """Every rule set that somebody wrote, with a name."""
    paths = [*corpus.rulesets(), *corpus.goldens(), *(path for path in corpus.dumps() if path.name not in corpus.BROKEN)]
    return [(path.name, corpus.snapshot_of(path)) for path in paths]


def cases(seed: int, only: str) -> Iterator[tuple[str, Snapshot, int]]:
    """Name, rule set and seed, without end."""
    written = [] if only == "invented" else known()
    for turn in count(seed):
        for number, one in enumerate(zip_longest(written, () if only == "known" else range(len(written) or 50))):
            if one[0] is not None:
                yield (*one[0], turn)
            if one[1] is not None:
                name = turn * 1000 + number
                yield f"invented-{name}", invented(name), turn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.referee", description=__doc__)
    parser.add_argument("packets", type=int, nargs="?", default=100_000)
    parser.add_argument("--each", type=int, default=1500, help="packets for each rule set in a turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("known", "invented", ""), default="")
    parser.add_argument("--match", default="", help="only rule sets whose name has this in it")
    parser.add_argument("--keep", type=Path, default=Path("/tmp/dataplane-referee"), help="where reproductions go")
    options = parser.parse_args()
    if reason := missing():
        print(f"referee: {reason}", file=sys.stderr)
        return 1
    totals, kinds, began = Counter[str](), Counter[str](), time.monotonic()
    for name, snapshot, seed in cases(options.seed, options.only):
        if totals["packets"] >= options.packets:
            break
        if options.match in name:
            _one(name, snapshot, seed, options, totals, kinds)
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()) or "0"
    minutes = (time.monotonic() - began) / 60
    print(f"{totals['packets']} packets, {totals['unsent']} of them answers to what never arrived, {totals['unknown']} unknown;")
    print(f"{totals['sets']} rule sets with {totals['rules']} rules, {totals['met']} met; {minutes:.1f} minutes; disagreements: {told}")
    return 1 if kinds else 0


def _one(name: str, snapshot: Snapshot, seed: int, options: argparse.Namespace, totals: Counter[str], kinds: Counter[str]) -> None:
    packets = packets_for(snapshot, options.each, seed)
    try:
        result = verify(snapshot, packets)
    except DataplaneError as error:
        kinds["error"] += 1
        print(f"{name}: {error}", flush=True)
        return
    totals.update(packets=result.packets, sets=1, rules=result.rules, met=result.reached, unknown=result.unknown, unsent=result.verdicts["unsent"])
    kinds.update(one.kind for one in result.disagreements)
    if result.disagreements:
        small, first = shrunk(snapshot, packets, result.disagreements[0])
        snapshot, first = fewer_rules(snapshot, small, first)
        command = report.reproduction(options.keep / f"{name}-{seed}", snapshot, small, first)
        print(f"\n{name}, seed {seed}: {len(result.disagreements)} disagreements, {len(small)} packets show it\n{first.kind}: {first.text}\n{command}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""``python bench/verify.py``: packets a second through the kernel and the emulator, each and together, on rule sets of several sizes. Needs root."""

from __future__ import annotations

import sys
from pathlib import Path

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.requirements import missing
from dataplane.text.snapshot import print_snapshot
from dataplane.proxy.compile import compile_node
from dataplane.verify.aim import packets_for
from dataplane.verify.plausible import with_network
from dataplane.verify.run import verify

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench.run import CONFIG, cluster_of  # noqa: E402

PACKETS = 20_000


def main() -> None:
    if reason := missing():
        sys.exit(reason)
    print(f"{'rules':>8}  {'kernel':>9}  {'emulator':>9}  {'together':>9}  packets a second, {PACKETS} packets with their answers")
    for services in (1, 100, 1000):
        cluster = cluster_of(services, 3)
        state = compile_node(cluster, cluster.nodes[0], configuration=CONFIG).state
        snapshot = with_network(files.parse(print_snapshot(state)))
        result = verify(snapshot, packets_for(snapshot, PACKETS, 1))
        kernel, emulator = result.seconds_kernel, result.seconds_emulator
        rates = "  ".join(f"{PACKETS / seconds:>9,.0f}" for seconds in (kernel, emulator, kernel + emulator))
        print(f"{result.rules:>8}  {rates}  {len(result.disagreements)} disagreements")


if __name__ == "__main__":
    main()

"""What this machine's kernel does with packets, a JSON line each: ``python -m tests.kernel.ask SNAPSHOT_DIR PACKETS.jsonl``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dataplane.adapters.lab.lines import read_packets
from dataplane.adapters.lab.node import standing
from dataplane.adapters.lab.referee import Referee
from dataplane.errors import LabError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.ask", description=__doc__)
    parser.add_argument("snapshot", type=Path, help="directory of a snapshot")
    parser.add_argument("packets", help='packets, one JSON object a line; "-" reads them from standard input')
    parser.add_argument("--fresh", action="store_true", help="each conversation from the snapshot's own state")
    parser.add_argument("--flavour", choices=("legacy", "nft"), help="which iptables loads the rules")
    parser.add_argument("--sysctl", action="append", default=[], metavar="KEY=VALUE", help="over what the snapshot says")
    options = parser.parse_args()
    text = sys.stdin.read() if options.packets == "-" else Path(options.packets).read_text()
    sysctls = dict(pair.split("=", 1) for pair in options.sysctl)
    try:
        with standing(options.snapshot, flavour=options.flavour, sysctls=sysctls) as node:
            if node.unset:
                print(f"not taken by this kernel: {', '.join(node.unset)}", file=sys.stderr)
            referee = Referee(node)
            for line in referee.send(read_packets(text), "fresh" if options.fresh else "sequence"):
                print(json.dumps({"id": line["id"], "outcomes": line["outcomes"]}))
            referee.close()
    except (LabError, ValueError, OSError) as error:
        print(f"ask: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What a run is told as: text for people, JSON for machines, and a directory from which a disagreement can be run again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.lines import Packet, write_packets
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.render.text import render
from dataplane.rules.nodestate import NodeState
from dataplane.text.iptables import print_rule
from dataplane.trace import RuleRef
from dataplane.verify.run import Disagreement, Result

_SHOWN: Final = 20


def summary(result: Result) -> str:
    """One paragraph: how many packets, what the kernel did, rules, disagreements by kind, speed."""
    verdicts = ", ".join(f"{count} {name}" for name, count in sorted(result.verdicts.items()))
    rate = result.packets / max(result.seconds_kernel + result.seconds_emulator, 1e-9)
    kinds = Counter(one.kind for one in result.disagreements)
    told = ", ".join(f"{count} {name}" for name, count in kinds.most_common()) or "none"
    unknown = f", {result.unknown} of which the emulator claims nothing" if result.unknown else ""
    return (
        f"{result.packets} packets ({verdicts}{unknown}), {rate:,.0f} packets/s\n"
        f"rules met: {result.reached} of {result.rules}\n"
        f"disagreements: {told}"
    )


def unreached(result: Result, state: NodeState, *, limit: int | None = _SHOWN) -> Iterator[str]:
    """The rules that no packet met, as iptables prints them."""
    for ref in result.unreached[:limit]:
        yield f"{'ip6tables' if ref.family == 6 else 'iptables'} -t {ref.table} {_rule(ref, state)}"
    if limit is not None and len(result.unreached) > limit:
        yield f"… and {len(result.unreached) - limit} more"


def disagreement_text(one: Disagreement) -> str:
    """The difference, and the emulator's walk."""
    return f"{one.kind}: {one.text}" + (f"\n{render(one.trace)}" if one.trace is not None else "")


def as_json(result: Result, state: NodeState, reproductions: Sequence[str] = ()) -> dict[str, Any]:  # Any: JSON
    """Everything that the text tells."""
    return {
        "packets": result.packets,
        "verdicts": dict(sorted(result.verdicts.items())),
        "unknown": result.unknown,
        "seconds": {"kernel": round(result.seconds_kernel, 3), "emulator": round(result.seconds_emulator, 3)},
        "rules": {"all": result.rules, "met": result.reached, "unmet": list(unreached(result, state, limit=None))},
        "disagreements": [{"kind": one.kind, "packet": one.packet, "text": one.text} for one in result.disagreements],
        "reproductions": list(reproductions),
    }


def reproduction(directory: Path, snapshot: Snapshot, packets: Sequence[Packet], one: Disagreement, kernel: str = "") -> str:
    """Writes what shows the disagreement and gives the command that does."""
    files.write(directory / "snapshot", snapshot)
    (directory / "packets.jsonl").write_text(write_packets(packets))
    (directory / "disagreement.txt").write_text(disagreement_text(one) + "\n" + (f"\nThe kernel's TRACE:\n{kernel}" if kernel else ""))
    where = [shlex.quote(str(directory / name)) for name in ("snapshot", "packets.jsonl")]
    return f"dataplane verify --snapshot {where[0]} --replay {where[1]}"


def _rule(ref: RuleRef, state: NodeState) -> str:
    table = state.xtables(ref.family).tables.get(ref.table)
    if table is None or ref.number is None or ref.chain not in table.chains:
        return f"{ref.chain} rule {ref.number}"
    return f"-A {ref.chain} {print_rule(table.chains[ref.chain].rules[ref.number - 1], ref.family)}"

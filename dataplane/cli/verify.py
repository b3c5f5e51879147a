"""``dataplane verify``: the emulator against this machine's kernel."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import click

from dataplane.cli.source import Source, manifest_options, state_of
from dataplane.errors import LabError


@click.command("verify")
@click.option("--snapshot", metavar="DIR", help="A node's dumps, instead of manifests.")
@manifest_options
@click.option("--packets", "count", type=click.IntRange(1), default=10_000, show_default=True, help="How many packets to send.")
@click.option("--seed", default=1, show_default=True, help="Seed of the packets.")
@click.option("--replay", metavar="FILE", help="Send the packets of a file (JSON lines) instead.")
@click.option("--flavour", type=click.Choice(["legacy", "nft"]), help="Which iptables loads the rules.  [default: the one that saved them]")
@click.option("--fresh", is_flag=True, help="Every conversation from the state as given, instead of one after the other.")
@click.option("--keep", metavar="DIR", help="Where reproductions go.  [default: a new temporary directory]")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    snapshot: str | None, files: tuple[str, ...], recursive: bool, node: str | None, config: str | None, network: str | None,
    families: str | None, mode: str, **asked: Any,
) -> int:  # fmt: skip
    """Send packets through the rules on this machine's kernel and through the emulator, and compare.

    The rules stand in network namespaces of their own; nothing else on this machine is touched. Needs root. A node with virtual servers
    stands in user-mode-linux where the running kernel has no ip_vs.

    \b
    sudo dataplane verify --snapshot DIR --packets 10000 --seed 7
    sudo dataplane verify -f manifests/ --node node-a

    Packets are aimed at the rules: openings, answers, whole conversations, retransmissions, segments outside of the window, ICMP errors
    and fragments. Compared are verdict, device, header fields, ICMP errors and RSTs, rule counters, connections, and how often random
    choices fall. Exit code 1 where something differs; the smallest packets that show it are written down for --replay.
    """
    from dataplane.adapters.lab.requirements import missing

    source = Source(files, snapshot, node, config, network, families, recursive, mode)
    state = state_of(source)
    reason = missing()
    if reason is not None:
        raise LabError(f"verify: {reason}; `dataplane trace` works without")
    return _verify(state, snapshot, **asked)


def _verify(state: Any, directory: str | None, *, count: int, seed: int, replay: str | None, flavour: Any, fresh: bool, keep: str | None, output: str) -> int:
    from dataplane.adapters.lab import snapshot as lab_files
    from dataplane.adapters.lab.asking import missing_for
    from dataplane.adapters.lab.lines import read_packets
    from dataplane.adapters.lab.tracing import kernel_trace
    from dataplane.text.snapshot import print_snapshot
    from dataplane.verify import report
    from dataplane.verify.aim import packets_for
    from dataplane.verify.plausible import with_network
    from dataplane.verify.run import verify
    from dataplane.verify.shrink import shrunk

    plain = lab_files.read(Path(directory)) if directory is not None else lab_files.parse(print_snapshot(state))
    given = with_network(plain)
    if reason := missing_for(given):
        raise LabError(f"verify: {reason}; `dataplane trace` works without")
    packets = read_packets(Path(replay).read_text(encoding="utf-8"), replay) if replay is not None else packets_for(given, count, seed)
    mode: Literal["fresh", "sequence"] = "fresh" if fresh else "sequence"
    result = verify(given, packets, mode=mode, flavour=flavour, state=state if given is plain else None)
    commands, traced = [], ""
    first = result.disagreements[0] if result.disagreements else None
    if first is not None:
        small, first = shrunk(given, packets, first, mode=mode, flavour=flavour)
        traced = kernel_trace(given, small)
        target = Path(keep) if keep is not None else Path(tempfile.mkdtemp(prefix="dataplane-verify-"))
        commands.append(report.reproduction(target, given, small, first, traced))
    if output == "json":
        click.echo(json.dumps(report.as_json(result, state, commands), indent=2))
    else:
        _tell(result, state, first, traced, commands)
    return 1 if result.disagreements else 0


def _tell(result: Any, state: Any, first: Any, traced: str, commands: list[str]) -> None:
    from dataplane.verify import report

    for line in report.unreached(result, state):
        click.echo(f"not met: {line}")
    for one in result.disagreements[1:10]:
        click.echo(f"{one.kind}: {one.text}\n")
    if first is not None:
        click.echo(report.disagreement_text(first))
        if traced:
            click.echo(f"The kernel's TRACE (raw's rules count from 2):\n{traced}", nl=False)
        click.echo(f"again: {commands[0]}")
    click.echo(report.summary(result))
    sys.stdout.flush()

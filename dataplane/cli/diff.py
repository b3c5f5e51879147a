"""``dataplane diff``: what differs between two nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dataplane.rules.nodestate import NodeState


@click.command("diff")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("-o", "--output", type=click.Choice(["text", "restore", "json"]), default="text", show_default=True, help="restore: input for the batch tools.")
def command(old: str, new: str, output: str) -> int:
    """What changed from one snapshot directory to another: rules, sets, virtual servers, links, addresses, routes, sysctls.

    \b
    dataplane diff before/ after/
    dataplane diff before/ after/ -o restore | sudo iptables-restore --noflush

    Rules are compared without their counters. With -o restore: the smallest input for ``iptables-restore --noflush`` that leads from OLD to
    NEW, then, behind a comment each, those for ip6tables-restore and ipset. Exit code 0 where nothing differs, 1 where something does.
    """
    from dataplane.text.difference import differences

    before, after = _read(old), _read(new)
    found = list(differences(before, after))
    if output == "json":
        click.echo(json.dumps([one._asdict() for one in found], indent=2))
    elif output == "restore":
        click.echo(_restore(before, after), nl=False)
    else:
        for one in found:
            click.echo(f"@@ {one.section} @@")
            click.echo("".join([*(f"-{line}\n" for line in one.removed), *(f"+{line}\n" for line in one.added)]), nl=False)
    return 1 if found else 0


def _restore(before: NodeState, after: NodeState) -> str:
    from dataplane.text.difference import restore_input, set_inputs

    first, last = set_inputs(before.ipsets, after.ipsets)
    parts = (
        ("# ipset restore -exist, before the rules", first), ("", restore_input(before.iptables, after.iptables)),
        ("# ip6tables-restore --noflush", restore_input(before.ip6tables, after.ip6tables)), ("# ipset restore, after the rules", last),
    )  # fmt: skip
    return "".join(f"{head}\n{text}" if head else text for head, text in parts if text)


def _read(directory: str) -> NodeState:
    from dataplane.text.snapshot import read_snapshot

    state, warnings = read_snapshot(directory)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    return state

"""``dataplane apply``: the same state in a real network namespace."""

from __future__ import annotations

import sys
from functools import partial

import click

from dataplane.cli.source import Source, compiled, manifest_options, state_of


@click.command("apply")
@click.option("--snapshot", metavar="DIR", help="A node's dumps, instead of manifests.")
@manifest_options
@click.option("--netns", "name", metavar="NAME", required=True, help="The network namespace to make, or to change where apply made it.")
@click.option("--dry-run", is_flag=True, help="Print every operation and do nothing.")
def command(
    snapshot: str | None, files: tuple[str, ...], recursive: bool, node: str | None, config: str | None, network: str | None,
    families: str | None, mode: str, name: str, dry_run: bool,
) -> int:  # fmt: skip
    """Make a network namespace what a node's state says: links, addresses, routes, sysctls, sets and rules.

    \b
    sudo dataplane apply -f manifests/ --node node-a --netns lab
    sudo dataplane apply --snapshot DIR --netns lab
    sudo ip netns exec lab iptables-save
    sudo dataplane cleanup --netns lab

    Links are veth pairs into a second namespace, NAME-outside. A second apply sends the difference only: counters and connections live on.
    Where anything fails, the namespace is led back to what it was, or removed if it is new.
    """
    from dataplane.adapters.apply import apply
    from dataplane.proxy.conntrack_cleanup import stale

    source = Source(files, snapshot, node, config, network, families, recursive, mode)
    made = compiled(source) if files and snapshot is None else None
    frontends = made.frontends if made is not None else ()
    state = made.state if made is not None else state_of(source)
    done = apply(state, name, dry_run=dry_run, stale=partial(stale, frontends) if frontends else None, say=_Progress())
    for warning in done.warnings:
        click.echo(f"warning: {warning}", err=True)
    if dry_run:
        for step in done.steps:
            click.echo(f"{step.text} <<" if step.given else step.text)
            click.echo("".join(f"    {line}\n" for line in step.given.splitlines()), nl=False)
    elif not done.steps:
        click.echo(f"{name}: nothing to change")
    else:
        click.echo(f"{name}: {'made' if done.made else 'changed'} in {len(done.steps)} steps")
    return 0


class _Progress:
    """Tells what is being done once it takes longer than a second."""

    def __init__(self) -> None:
        from dataplane.adapters.lab.clock import now

        self._now, self._since = now, now()

    def __call__(self, text: str) -> None:
        if self._now() - self._since > 1 and sys.stderr.isatty():
            click.echo(f"{text.splitlines()[0][:100]} …", err=True)

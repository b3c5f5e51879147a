"""``dataplane apply``: the same state in a real network namespace."""

from __future__ import annotations

import sys
from functools import partial

import click

from dataplane.cli.source import Source, compiled, manifest_options, state_of


@click.command("apply")
@click.option("--snapshot", metavar="DIR", help="A node's dumps, instead of manifests.")
@manifest_options
@click.option("--netns", "name", metavar="NAME", help="The network namespace to make, or to change where apply made it.")
@click.option("--host", is_flag=True, help="This host itself: only kube-proxy's own chains, jumps and sets are exchanged. Needs --yes.")
@click.option("--yes", is_flag=True, help="Yes, change this host's own rules.")
@click.option("--dry-run", is_flag=True, help="Print every operation and do nothing.")
def command(
    snapshot: str | None, files: tuple[str, ...], recursive: bool, node: str | None, config: str | None, network: str | None,
    families: str | None, mode: str, name: str | None, host: bool, yes: bool, dry_run: bool,
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
    from dataplane.adapters.apply import apply, apply_host
    from dataplane.proxy.conntrack_cleanup import stale

    source = Source(files, snapshot, node, config, network, families, recursive, mode)
    made = compiled(source) if files and snapshot is None else None
    frontends = made.frontends if made is not None else ()
    state = made.state if made is not None else state_of(source)
    check_place(name, host=host, yes=yes or dry_run)
    done = apply_host(state, dry_run=dry_run, say=_Progress()) if name is None else apply(state, name, dry_run=dry_run, stale=partial(stale, frontends) if frontends else None, say=_Progress())
    name = name or "this host"
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


def check_place(name: str | None, *, host: bool, yes: bool) -> None:
    """Either a namespace, or the host, which somebody must want twice."""
    if (name is None) != host:
        raise click.UsageError("say where: --netns NAME, or --host")
    if host and not yes:
        raise click.UsageError("--host changes this machine's own rules: say --yes, too (--dry-run prints what would be done)")


class _Progress:
    """Tells what is being done once it takes longer than a second."""

    def __init__(self) -> None:
        from dataplane.adapters.lab.clock import now

        self._now, self._since = now, now()

    def __call__(self, text: str) -> None:
        if self._now() - self._since > 1 and sys.stderr.isatty():
            click.echo(f"{text.splitlines()[0][:100]} …", err=True)

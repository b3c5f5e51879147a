"""``dataplane cleanup``: what apply made is taken away."""

from __future__ import annotations

import click


@click.command("cleanup")
@click.option("--netns", "name", metavar="NAME", help="The namespace that apply made.")
@click.option("--host", is_flag=True, help="This host: kube-proxy's chains, jumps and sets. Needs --yes.")
@click.option("--yes", is_flag=True, help="Yes, change this host's own rules.")
def command(name: str | None, host: bool, yes: bool) -> int:
    """Remove the network namespace that ``dataplane apply`` made, and the one that stands for its outside.

    \b
    sudo dataplane cleanup --netns lab
    sudo dataplane cleanup --host --yes      # kube-proxy's chains, jumps and sets on this host; other rules stay
    """
    from dataplane.adapters.apply import apply_host, cleanup
    from dataplane.cli.apply import check_place

    check_place(name, host=host, yes=yes)
    if name is None:
        apply_host(None, say=lambda text: click.echo(text, err=True))
        return 0
    cleanup(name, say=lambda text: click.echo(text, err=True))
    return 0

"""``dataplane cleanup``: what apply made is taken away."""

from __future__ import annotations

import click


@click.command("cleanup")
@click.option("--netns", "name", metavar="NAME", required=True, help="The namespace that apply made.")
def command(name: str) -> int:
    """Remove the network namespace that ``dataplane apply`` made, and the one that stands for its outside.

    \b
    sudo dataplane cleanup --netns lab
    """
    from dataplane.adapters.apply import cleanup

    cleanup(name, say=lambda text: click.echo(text, err=True))
    return 0

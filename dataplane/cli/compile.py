"""``dataplane compile``: Services in, one node's rules out."""

from __future__ import annotations

from typing import Any

import click

from dataplane.cli.source import Source, compiled, manifest_options


@click.command("compile")
@manifest_options
@click.option(
    "-o", "--output", type=click.Choice(["restore", "save"]),
    help="restore: what kube-proxy feeds iptables-restore. save: what iptables-save prints afterwards.  [default: save, without --out]",
)  # fmt: skip
@click.option("--out", metavar="DIR", help="Write the whole node as a snapshot directory.")
def command(output: str | None, out: str | None, **options: Any) -> None:  # Any: the fields of Source
    """Compile Services into the rules that kube-proxy 1.36 programs on a node.

    What the manifests leave out (cluster addresses, node ports, Pods' addresses, EndpointSlices) is filled in as the control plane
    would, and said on stderr.

    \b
    dataplane compile -f bookinfo.yaml --node node-a --out state/
    kubectl get svc,endpointslices,nodes -A -o json | dataplane compile -f - --node node-a -o save
    """
    made = compiled(Source(**options))
    if out is not None:
        from dataplane.text.snapshot import write_snapshot

        write_snapshot(made.state, out)
        click.echo(f"note: snapshot written to {out}", err=True)
    if output == "restore":
        click.echo("".join(made.restore[family] for family in sorted(made.restore)), nl=False)
    elif output == "save" or out is None:
        from dataplane.text.iptables import print_save

        click.echo("".join(print_save(made.state.xtables(family)) for family in sorted(made.restore)), nl=False)

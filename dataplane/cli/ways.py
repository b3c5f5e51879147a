"""``dataplane ways``: all ways to reach each Service, side by side, measured."""

from __future__ import annotations

import json

import click

from dataplane.cli.source import Source, compiled, objects_of


@click.command("ways")
@click.option("-f", "--filename", "files", multiple=True, metavar="PATH", help="Manifest file, directory, or - for standard input; repeatable.")
@click.option("-R", "--recursive", is_flag=True, help="Read directories recursively.")
@click.option("--config", metavar="FILE", help="KubeProxyConfiguration (else the one among the manifests, else defaults).")
@click.option("--modes", default="iptables,ipvs", show_default=True, help="kube-proxy's modes to measure.")
@click.option("--service", metavar="NAMESPACE/NAME", help="This Service only.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(files: tuple[str, ...], recursive: bool, config: str | None, modes: str, service: str | None, output: str) -> int:
    """Measure every way to reach each Service: who gets through, which nodes answer, what the pod sees.

    \b
    dataplane ways -f rulesets/external-ip/
    dataplane ways -f manifests/ --service shop/web -o json

    Each line is many walks through the whole cluster, there and back. ClusterIP, NodePort, LoadBalancer and externalIPs, in each mode.
    """
    from dataplane.cluster.topology import Topology, topology
    from dataplane.cluster.ways import ways

    source = Source(files, None, None, config, None, None, recursive, "iptables")
    objects = objects_of(source)
    names = [one.name for one in objects.nodes]
    chosen = [one.strip() for one in modes.split(",") if one.strip()]
    if not chosen or any(one not in ("iptables", "ipvs") for one in chosen):
        raise click.UsageError(f"--modes: expected iptables, ipvs or both, got {modes!r}")
    known = {f"{one.namespace}/{one.name}": one for one in objects.services}
    if service is not None and service not in known:
        raise click.UsageError(f"--service: no Service {service!r}: there are {', '.join(known) or 'none'}")
    found = []
    for mode in chosen:
        states = {name: compiled(source._replace(node=name, mode=mode), objects).state for name in names}

        def make(via: str, states: dict = states) -> Topology:  # type: ignore[type-arg]  # NodeState by name
            return topology(objects, states, [via] if via else names[:1])

        for name, one in known.items():
            if service in (None, name):
                found += list(ways(make, one, mode))
    if output == "json":
        click.echo(json.dumps([way._asdict() for way in found], indent=2))
        return 0
    heads = ("service", "way", "mode", "address", "answers for", "nodes", "pods", "source kept", "nodes passed", "NATs")
    rows = [
        (
            way.service, way.kind, way.mode, way.frontend, ", ".join(way.reached_from) or "nobody", ", ".join(way.nodes) or "-", str(len(way.endpoints)),
            {None: "-", True: "yes", False: "no"}[way.source_kept], str(way.most_nodes), str(way.most_nats),
        )
        for way in found
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0

"""``dataplane compare``: one node in several modes; which packets change their fate."""

from __future__ import annotations

import json
from typing import Any

import click

from dataplane.cli.source import Source, compiled, families_of, manifest_options, objects_of

_MODES = ("iptables", "ipvs")


@click.command("compare")
@manifest_options
@click.option("--modes", default="iptables,ipvs", show_default=True, help="Which to compare, the first with all others.")
@click.option("--service", metavar="NAMESPACE/NAME", help="Only differences of this Service.")
@click.option("-o", "--output", type=click.Choice(["text", "wide", "json"]), default="text", show_default=True, help="wide: every packet.")
def command(
    files: tuple[str, ...], recursive: bool, node: str | None, config: str | None, network: str | None, families: str | None, mode: str,
    modes: str, service: str | None, output: str,
) -> int:  # fmt: skip
    """Show which packets end differently when kube-proxy runs in another mode.

    \b
    dataplane compare -f manifests/ --node node-a --modes iptables,ipvs
    dataplane compare -f rulesets/external-ip/ --node node-a -o wide

    From every vantage (a client outside, a LAN host, pods here and elsewhere, the endpoint itself, the node, its loopback) to every
    frontend (ClusterIP, NodePort on every address, externalIPs, load balancer addresses), to ports beside them, and by ping. Compared are
    verdict, endpoint, source address, and whether the endpoint's answer comes back. Exit code 0 where nothing differs, else 1.
    """
    from dataplane.compare import report
    from dataplane.compare.probes import subjects
    from dataplane.compare.run import Variant, compare, netns_of
    from dataplane.kube.load import node_of

    chosen = _modes(modes)
    source = Source(files, None, node, config, network, families, recursive, mode)
    cluster = objects_of(source)
    for note in cluster.notes:
        click.echo(f"note: {note}", err=True)
    states = {name: compiled(source._replace(mode=name), cluster).state for name in chosen}
    variants = [Variant(name, name, netns_of(state)) for name, state in states.items()]
    subject = node_of(cluster, node)
    found = compare(variants, list(subjects(cluster, subject, states[chosen[0]], families_of(source, subject))))
    if service is not None:
        _narrow(found, service)
    if output == "json":
        click.echo(json.dumps(report.as_json(found), indent=2))
    else:
        for line in report.text(found, every=output == "wide"):
            click.echo(line)
    return 1 if found.differences else 0


def _modes(text: str) -> list[str]:
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in found if name not in _MODES]
    if unknown or len(found) < 2:
        raise click.UsageError(f"--modes: expected two of {', '.join(_MODES)}, got {text!r}")
    return found


def _narrow(found: Any, service: str) -> None:
    found.differences = [one for one in found.differences if one.probe.frontend.service.partition(":")[0] == service]

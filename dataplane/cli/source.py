"""Where a command's node comes from: manifests to be compiled, or a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from dataplane.rules.nodestate import NodeState

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """The options that say what node is meant."""

    files: tuple[str, ...] = ()
    snapshot: str | None = None
    node: str | None = None
    config: str | None = None
    network: str | None = None
    families: str | None = None
    recursive: bool = False
    mode: str = "iptables"


def manifest_options(function: F) -> F:
    """-f, -R, --node, --config, --network, --families, --mode."""
    for option in reversed((
        click.option("-f", "--filename", "files", multiple=True, metavar="PATH", help="Manifest file, directory, or - for standard input; repeatable."),
        click.option("-R", "--recursive", is_flag=True, help="Read directories recursively."),
        click.option("--node", metavar="NAME", help="The node; may be left out where there is only one."),
        click.option("--config", metavar="FILE", help="KubeProxyConfiguration (else the one among the manifests, else defaults)."),
        click.option("--network", metavar="DIR", help="Snapshot directory with the node's ip-addr.json and what else describes its network."),
        click.option("--families", metavar="LIST", help="ipv4, ipv6 or ipv4,ipv6 (default: those the node has addresses in)."),
        click.option("--mode", default="iptables", show_default=True, type=click.Choice(["iptables", "ipvs", "nftables"]), help="kube-proxy's mode."),
    )):  # fmt: skip
        function = option(function)
    return function


def compiled(source: Source) -> Any:  # proxy.compile.Compiled, imported late
    """The node of the manifests, compiled; notes go to stderr."""
    from dataplane.errors import UnsupportedError
    from dataplane.kube.load import load, node_of
    from dataplane.proxy.compile import compile_node

    if source.mode != "iptables":
        raise UnsupportedError(f"mode {source.mode} is not built yet: only iptables is")
    if not source.files:
        raise click.UsageError("say what to read: -f PATH" + (" or --snapshot DIR" if source.snapshot is None else ""))
    cluster = load(source.files, recursive=source.recursive, config=source.config)
    node = node_of(cluster, source.node)
    network, links = None, None
    if source.network is not None:
        network, links = _network(source.network)
    made = compile_node(cluster, node, links=links, network=network, families=_families(source.families))
    for note in (*cluster.notes, *made.notes):
        click.echo(f"note: {note}", err=True)
    return made


def _network(directory: str) -> tuple[NodeState | None, Any]:
    """A whole network where the snapshot has routes; else its links only."""
    from dataplane.text.snapshot import read_snapshot

    state, _ = read_snapshot(directory)
    whole = state.routes4 is not None or state.routes6 is not None or bool(state.sysctls)
    return (state if whole else None), state.links


def _families(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    names = {"ipv4": 4, "4": 4, "ipv6": 6, "6": 6}
    found = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not found or any(name not in names for name in found):
        raise click.UsageError(f"--families: expected ipv4, ipv6 or ipv4,ipv6, got {text!r}")
    return tuple(sorted({names[name] for name in found}))


def state_of(source: Source) -> NodeState:
    """The node's state from a snapshot or from manifests."""
    if source.snapshot is None:
        state: NodeState = compiled(source).state
        return state
    if source.files:
        raise click.UsageError("--snapshot and -f exclude each other")
    from dataplane.text.snapshot import read_snapshot

    state, warnings = read_snapshot(source.snapshot)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    return state

"""Where a command's node comes from: manifests to be compiled, or a snapshot."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from dataplane.kube.objects import Cluster, Node
    from dataplane.proxy.compile import Compiled
    from dataplane.rules.nodestate import NodeState

F = TypeVar("F", bound=Callable[..., Any])  # any click command

_FAMILIES: Final = {"ipv4": 4, "4": 4, "ipv6": 6, "6": 6}
_MODES: Final = ("iptables", "ipvs", "nftables")
_OPTIONS: Final = (
    click.option(
        "-f", "--filename", "files", multiple=True, metavar="PATH", help="Manifest file, directory, or - for standard input; repeatable."
    ),
    click.option("-R", "--recursive", is_flag=True, help="Read directories recursively."),
    click.option("--node", metavar="NAME", help="The node; may be left out where there is only one."),
    click.option("--config", metavar="FILE", help="KubeProxyConfiguration (else the one among the manifests, else defaults)."),
    click.option("--network", metavar="DIR", help="Snapshot directory with the node's ip-addr.json and what else tells its network."),
    click.option("--families", metavar="LIST", help="ipv4, ipv6 or ipv4,ipv6  [default: those the node has addresses in]"),
    click.option("--mode", default="iptables", show_default=True, type=click.Choice(_MODES), help="kube-proxy's mode."),
)  # fmt: skip


class Source(NamedTuple):
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
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def objects_of(source: Source) -> Cluster:
    """The objects of the manifests."""
    from dataplane.kube.load import load

    if not source.files:
        raise click.UsageError("say what to read: -f PATH")
    found = load(source.files, recursive=source.recursive, config=source.config)
    gc.freeze()  # they stay: no collection need go over them again
    return found


def compiled(source: Source, objects: Cluster | None = None) -> Compiled:
    """The node of the manifests, compiled; what was filled in or passed over goes to stderr."""
    from dataplane.kube.load import node_of
    from dataplane.proxy.compile import compile_node

    cluster = objects if objects is not None else objects_of(source)
    node = node_of(cluster, source.node)
    network = _network(source.network) if source.network is not None else None
    whole = network is not None and _tells_routes(network)
    made = compile_node(
        cluster, node, links=network.links if network is not None else None, network=network if whole else None, families=_families(source.families),
        mode=source.mode,
    )  # fmt: skip
    for note in dict.fromkeys((*(cluster.notes if objects is None else ()), *made.notes)):
        click.echo(f"note: {note}", err=True)
    return made


def families_of(source: Source, node: Node) -> tuple[int, ...]:
    """The families that were asked for, else those that the node has addresses in."""
    from dataplane.proxy.compile import node_families

    return _families(source.families) or node_families(node)


def state_of(source: Source) -> NodeState:
    """The node's state from a snapshot or from manifests."""
    if source.snapshot is not None and source.files:
        raise click.UsageError("--snapshot and -f exclude each other")
    if source.snapshot is None and not source.files:
        raise click.UsageError("say which node: -f PATH for manifests, or --snapshot DIR")
    if source.snapshot is None:
        return compiled(source).state
    for name in ("node", "config", "network", "families"):
        if getattr(source, name) is not None:
            raise click.UsageError(f"--{name} says how to compile manifests; a snapshot is one node as it is")
    return _network(source.snapshot)


def _network(directory: str) -> NodeState:
    from dataplane.text.snapshot import read_snapshot

    state, warnings = read_snapshot(directory)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    return state


def _tells_routes(state: NodeState) -> bool:
    """Whether a snapshot tells the whole network rather than the links alone (routes are then made up to fit)."""
    return state.routes4 is not None or state.routes6 is not None or bool(state.sysctls)


def _families(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    found = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not found or any(name not in _FAMILIES for name in found):
        raise click.UsageError(f"--families: expected ipv4, ipv6 or ipv4,ipv6, got {text!r}")
    return tuple(sorted({_FAMILIES[name] for name in found}))

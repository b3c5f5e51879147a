"""``dataplane path``: through a whole cluster, hop by hop, there and back."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import click

from dataplane.cli.source import Source, compiled, objects_of

_EXAMPLE = "tcp 198.51.100.10:80"
_SCHEMES = {"http": ("tcp", 80), "https": ("tcp", 443), "tcp": ("tcp", 0), "udp": ("udp", 0), "sctp": ("sctp", 0)}


@click.command("path")
@click.argument("target")
@click.option("-f", "--filename", "files", multiple=True, metavar="PATH", help="Manifest file, directory, or - for standard input; repeatable.")
@click.option("-R", "--recursive", is_flag=True, help="Read directories recursively.")
@click.option("--config", metavar="FILE", help="KubeProxyConfiguration (else the one among the manifests, else defaults).")
@click.option("--mode", default="iptables", show_default=True, type=click.Choice(["iptables", "ipvs"]), help="kube-proxy's mode, on all nodes.")
@click.option("--from", "sender", default="client", show_default=True, metavar="WHO", help="client, lan, pod[:NODE], node[:NODE]")
@click.option("--via", metavar="NODE", help="The node that outside addresses are routed to.  [default: the first]")
@click.option("--seed", default=0, show_default=True, help="Seed of the random choices.")
@click.option("-v", "--verbose", is_flag=True, help="Every node's trace, rule by rule.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    target: str, files: tuple[str, ...], recursive: bool, config: str | None, mode: str, sender: str, via: str | None, seed: int, verbose: bool, output: str
) -> int:  # fmt: skip
    """Walk a packet through every node that it passes, and the answer back to whoever asked.

    \b
    dataplane path -f rulesets/external-ip/ --from client http://198.51.100.10/cart
    dataplane path -f rulesets/node-port/ --from lan 'tcp 192.168.0.12:30080'
    dataplane path -f rulesets/cluster-ip/ --from pod:node-b tcp://10.96.0.20:80

    TARGET is a URL or PROTOCOL ADDRESS:PORT. Outside addresses (externalIPs, balancers') are routed to one node, for Kubernetes routes none
    of them. Exit code 0 where the answer is accepted, else 1.
    """
    from dataplane.cluster.path import walk
    from dataplane.cluster.topology import topology
    from dataplane.engine.choices import Seeded

    protocol, family, address, port = _target(target)
    source = Source(files, None, None, config, None, None, recursive, mode)
    objects = objects_of(source)
    names = [one.name for one in objects.nodes]
    if via is not None and via not in names:
        raise click.UsageError(f"--via: no node {via!r}: there are {', '.join(names)}")
    states = {name: compiled(source._replace(node=name), objects).state for name in names}
    world = topology(objects, states, [via] if via is not None else names[:1])
    place, saddr = _sender(world, sender, family, address, names)
    packet = _packet(protocol, family, saddr, address, port)
    found = walk(world, packet, place, Seeded(seed))
    if output == "json":
        click.echo(json.dumps(_as_json(found, packet), indent=2))
    else:
        _tell(found, packet, place, verbose=verbose)
    return 0 if found.accepted else 1


def _target(text: str) -> tuple[str, int, int, int]:
    from dataplane.inet import parse_address

    url = text if "://" in text else text.strip().replace(" ", "://", 1)
    try:
        parts = urlsplit(url)
        protocol, standard = _SCHEMES[parts.scheme]
        family, address = parse_address(parts.hostname or "")
        port = parts.port or standard
    except (KeyError, ValueError):
        raise click.UsageError(f"which target? Expected a URL or PROTOCOL ADDRESS:PORT, for example {_EXAMPLE!r}, got {text!r}") from None
    if not port:
        raise click.UsageError(f"{text!r}: say which port")
    return protocol, family, address, port


def _sender(world: Any, sender: str, family: int, address: int, names: list[str]) -> tuple[str, int]:
    """The place and the source address of whoever asks."""
    from dataplane.cluster.topology import CLIENT, free_pod
    from dataplane.engine.fib import Flow
    from dataplane.inet import parse_address

    kind, _, name = sender.partition(":")
    name = name or names[0]
    if kind not in ("client", "lan", "pod", "node") or name not in names:
        raise click.UsageError(f"--from: expected client, lan, pod[:NODE] or node[:NODE] with one of {', '.join(names)}, got {sender!r}")
    if kind == "client":
        return "client", parse_address(CLIENT[family])[1]
    if kind == "lan":
        found = world.lan_host(family)
    elif kind == "pod":
        found = free_pod(world.node_of(name), family)
    else:
        flow = Flow(family, address)
        fib = world.nodes[name].kernel.fib
        found = fib.source_address(flow, fib.lookup(flow))
    if found is None:
        raise click.UsageError(f"--from {sender}: it has no address of that family")
    return (kind if kind == "lan" else f"{kind}:{name}"), found


def _packet(protocol: str, family: int, saddr: int, address: int, port: int) -> Any:
    from dataplane.inet import PROTOCOL_NUMBERS
    from dataplane.packet_text import make_packet

    return make_packet(PROTOCOL_NUMBERS[protocol], family, saddr, address, 40000, port)


def _tell(found: Any, packet: Any, place: str, *, verbose: bool) -> None:
    from dataplane.packet import describe

    click.echo(f"{place} asks: {describe(packet)}")
    for name, way in (("there", found.request), ("back", found.reply)):
        if way is not None:
            click.echo(f"{name}:")
            _tell_way(way, verbose=verbose)
    hops = len(found.request.nodes)
    click.echo(f"seen by whoever got it as coming from {found.seen_source}; {hops} node{'' if hops == 1 else 's'} there, {found.request.nats} NATs")
    click.echo("accepted: the answer comes back as from the address that was asked" if found.accepted else f"not accepted: {found.why}")


def _tell_way(way: Any, *, verbose: bool) -> None:
    from dataplane.packet import describe
    from dataplane.render.text import render, service_of
    from dataplane.trace import NatEvent

    for number, hop in enumerate(way.hops, 1):
        if hop.trace is None:
            click.echo(f"  {number}. {hop.place} {hop.note}")
            continue
        service = service_of(hop.trace)
        entry = f"by {hop.trace.indev}" if hop.trace.indev else "its own"
        click.echo(f"  {number}. {hop.place} ({entry}): {hop.trace.verdict}{f' by {hop.trace.oif}' if hop.trace.oif else ''}{f'; Service {service}' if service else ''}")
        for event in hop.trace.events:
            if isinstance(event, NatEvent) and event.old != event.new:
                click.echo(f"       nat: {event}")
        if verbose:
            click.echo("\n".join(f"       {line}".rstrip() for line in render(hop.trace).splitlines()))
    click.echo(f"  {'arrives as' if way.arrived else 'ends:'} {describe(way.packet) if way.arrived else way.why}")


def _as_json(found: Any, packet: Any) -> dict[str, Any]:
    from dataplane.packet import describe
    from dataplane.render.json import outcome

    def way(one: Any) -> dict[str, Any] | None:
        if one is None:
            return None
        hops = [{"place": hop.place, "note": hop.note, **({"trace": outcome(hop.trace, None)} if hop.trace is not None else {})} for hop in one.hops]
        return {"arrived": one.arrived, "place": one.place, "packet": describe(one.packet), "why": one.why or None, "nats": one.nats, "nodes": one.nodes, "hops": hops}

    return {
        "asked": describe(packet), "accepted": found.accepted, "why": found.why or None, "seen_source": found.seen_source,
        "request": way(found.request), "reply": way(found.reply),
    }  # fmt: skip

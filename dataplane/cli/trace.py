"""``dataplane trace``: a packet's way through a node."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from typing import Any

import click

from dataplane.cli.source import Source, manifest_options, state_of
from dataplane.engine.choices import Seeded
from dataplane.errors import ParseError
from dataplane.inet import format_endpoint
from dataplane.node import Node
from dataplane.packet_text import Described, parse_packet
from dataplane.trace import Trace


@click.command("trace")
@click.argument("expressions", nargs=-1, metavar="PACKET…")
@click.option("--snapshot", metavar="DIR", help="A node's dumps instead of manifests.")
@manifest_options
@click.option("--in", "indev", metavar="IFACE", help="The packet comes in by this interface (default: the one that leads to its source).")
@click.option("--local", is_flag=True, help="The node itself sends the packet.")
@click.option("--all", "everything", is_flag=True, help="Every possible outcome with its exact probability.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random decisions.")
@click.option("--expect", metavar="WHAT", help="forward, local, drop, reject or IP:PORT: exit code 1 where it turns out otherwise.")
@click.option("--assume-match/--assume-no-match", "assume", default=None, help="What matches without a model do (default: the answer is unknown).")
@click.option("-v", "--verbose", is_flag=True, help="Also the rules that did not match, and why.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "jsonl", "trace"]), default="text", show_default=True, help="trace: the kernel's own TRACE lines.")
@click.option("--packets", metavar="FILE", help="Packets as JSON lines (- for standard input); see the README.")
def command(
    expressions: tuple[str, ...], snapshot: str | None, indev: str | None, local: bool, everything: bool, seed: int, expect: str | None,
    assume: bool | None, verbose: bool, output: str, packets: str | None, **options: Any,
) -> int:  # fmt: skip
    """Show what a node does with a packet, rule by rule.

    \b
    dataplane trace -f rulesets/external-ip/ --node node-a 'tcp 203.0.113.7:40000 > 198.51.100.10:80'
    dataplane trace --snapshot DIR --in eth0 --all 'udp [2001:db8::7]:5353 > [2001:db8::1]:53'
    PACKET: PROTOCOL SRC[:PORT] > DST[:PORT] [flags SA] [ttl 3] [mark 0x1]; IPv6 with ports in brackets.
    """
    if indev is not None and local:
        raise click.UsageError("--in and --local exclude each other")
    if packets is None and not expressions:
        raise click.UsageError("say which packet, for example 'tcp 203.0.113.7:40000 > 10.96.0.10:80'")
    given = [_parsed(text) for text in expressions]
    node = Node(state_of(Source(snapshot=snapshot, **options)), assume=assume, verbose=verbose)
    if packets is not None:
        from dataplane.cli.packets import run

        run(node, packets, everything=everything, seed=seed)
        return 0
    choices = Seeded(seed)
    held = True
    for described in given:
        way = _way(node, described, indev, local)
        outcomes = _outcomes(node, described, way, everything, choices)
        _print(outcomes, output, verbose=verbose, guessed=way if indev is None and not local else "")
        if expect is not None:
            held = all(_holds(trace, expect) for _, trace in outcomes) and held
    if not held:
        click.echo(f"error: expected {expect}, but it turned out otherwise", err=True)
    return 0 if held else 1


def _parsed(text: str) -> Described:
    try:
        return parse_packet(text)
    except ParseError as error:
        raise click.UsageError(str(error)) from None


def _way(node: Node, described: Described, indev: str | None, local: bool) -> str | None:
    if local:
        return None
    return indev if indev is not None else node.way_in(described.packet)


def _outcomes(node: Node, one: Described, way: str | None, everything: bool, choices: Seeded) -> list[tuple[Fraction | None, Trace]]:
    netns = node.netns
    if everything:
        return list(netns.outcomes(one.packet, way, mark=one.mark, uid=one.uid, gid=one.gid, mac=one.mac, physin=one.physin))
    if way is None:
        return [(None, netns.send(one.packet, mark=one.mark, uid=one.uid, gid=one.gid, choices=choices))]
    return [(None, netns.receive(one.packet, way, mark=one.mark, choices=choices, mac=one.mac, physin=one.physin))]


def _print(outcomes: list[tuple[Fraction | None, Trace]], output: str, *, verbose: bool, guessed: str | None) -> None:
    if output in ("json", "jsonl"):
        from dataplane.cli.render_json import render_json

        click.echo(render_json(outcomes, indent=2 if output == "json" else None))
        return
    if output == "trace":
        from dataplane.cli.render_trace import render_trace

        for _, trace in outcomes:
            click.echo(render_trace(trace), nl=False)
        return
    from dataplane.cli.render_text import render

    colour = sys.stdout.isatty() and not _no_colour()
    for number, (probability, trace) in enumerate(outcomes, 1):
        if probability is not None:
            click.echo(f"Outcome {number} of {len(outcomes)}, probability {_chance(probability)}:")
        click.echo(render(trace, verbose=verbose, colour=colour, guessed=guessed != ""))


def _chance(probability: Fraction) -> str:
    near = probability.limit_denominator(1000)
    exact = f"{probability.numerator}/{probability.denominator}" if probability.denominator != 1 else f"{probability.numerator}"
    return exact if near == probability else f"{exact} (about {near})"


def _no_colour() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def _holds(trace: Trace, expect: str) -> bool:
    if expect in ("forward", "local", "drop", "reject", "unknown"):
        return trace.verdict == expect
    packet = trace.packet
    if trace.verdict not in ("forward", "local"):
        return False
    if expect[:1].isdigit() or expect.startswith("["):
        return format_endpoint(packet.family, packet.daddr, packet.dport) == expect
    raise click.UsageError(f"--expect: expected forward, local, drop, reject or IP:PORT, got {expect!r}")

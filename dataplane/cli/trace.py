"""``dataplane trace``: a packet's way through a node."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

import click

from dataplane.cli.source import Source, manifest_options, state_of
from dataplane.engine.choices import Seeded
from dataplane.errors import ParseError
from dataplane.inet import format_address, format_endpoint, parse_address
from dataplane.node import Node
from dataplane.packet_text import Described, parse_packet
from dataplane.trace import Trace

_VERDICTS: Final = ("forward", "local", "drop", "reject", "unknown")
_EXAMPLE: Final = "'tcp 203.0.113.7:40000 > 10.96.0.10:80'"

Outcomes = Sequence[tuple[Fraction | None, Trace]]


class _Question(NamedTuple):
    """What was asked: packets, where they come in, and how the answer is wanted."""

    indev: str | None
    local: bool
    everything: bool
    seed: int
    expect: str | None
    verbose: bool
    output: str


@click.command("trace")
@click.argument("expressions", nargs=-1, metavar="PACKET…")
@click.option("--snapshot", metavar="DIR", help="A node's dumps, instead of manifests.")
@manifest_options
@click.option("--in", "indev", metavar="IFACE", help="The interface by which it comes in.  [default: the one that leads to its source]")
@click.option("--local", is_flag=True, help="The node itself sends it.")
@click.option("--all", "everything", is_flag=True, help="Every possible outcome with its exact probability.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random decisions.")
@click.option("--expect", metavar="WHAT", help="forward, local, drop, reject or IP:PORT: exit code 1 where it turns out otherwise.")
@click.option(
    "--assume-match/--assume-no-match", "assume", default=None, help="What matches without a model do.  [default: the answer is unknown]"
)
@click.option("-v", "--verbose", is_flag=True, help="Also the rules that did not match, each with the first reason.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "jsonl", "trace"]), help="trace: the kernel's own TRACE lines.  [default: text]"
)
@click.option("--packets", metavar="FILE", help="Packets as JSON lines (- for standard input), answered as JSON lines.")
def command(
    expressions: tuple[str, ...], snapshot: str | None, assume: bool | None, packets: str | None, output: str | None,
    files: tuple[str, ...], recursive: bool, node: str | None, config: str | None, network: str | None, families: str | None,
    mode: str, **asked: Any,
) -> int:  # fmt: skip
    """Show what a node does with a packet, rule by rule.

    \b
    dataplane trace -f rulesets/external-ip/ --node node-a 'tcp 203.0.113.7:40000 > 198.51.100.10:80'
    dataplane trace --snapshot DIR --in eth0 --all 'udp [2001:db8::7]:5353 > [2001:db8::1]:53'
    dataplane trace --snapshot DIR --packets FILE.jsonl

    PACKET is PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT] and options in brackets: [flags SA] [ttl 3] [mark 0x1] [seq N] [ack N]
    [len N] [tos N] [type N] [code N] [id N] [uid N] [gid N] [mac M] [physin IFACE]. IPv6 addresses with a port stand in brackets.
    Several packets share the node's connections in the order given (with --all each starts afresh).
    """
    question = _Question(**asked, output=output or "text")
    _check(question, expressions, packets, output)
    described = [_parsed(text) for text in expressions]
    source = Source(files, snapshot, node, config, network, families, recursive, mode)
    made = Node(state_of(source), assume=assume, verbose=question.verbose)
    if packets is not None:
        from dataplane.cli.packets import run

        run(made, packets, everything=question.everything, seed=question.seed)
        return 0
    return _answer(made, described, question)


def _check(question: _Question, expressions: Sequence[str], packets: str | None, output: str | None) -> None:
    if question.indev is not None and question.local:
        raise click.UsageError("--in and --local exclude each other")
    if packets is None and not expressions:
        raise click.UsageError(f"say which packet, for example {_EXAMPLE}")
    if packets is not None and (expressions or question.indev is not None or question.local or question.expect is not None):
        raise click.UsageError("--packets says all of a packet itself: leave out PACKET, --in, --local and --expect")
    if packets is not None and output not in (None, "jsonl"):
        raise click.UsageError(f"--packets is answered as JSON lines: -o jsonl, not {output}")
    if question.expect is not None and question.expect not in _VERDICTS and _endpoint(question.expect) is None:
        raise click.UsageError(f"--expect: expected forward, local, drop, reject or IP:PORT, got {question.expect!r}")


def _parsed(text: str) -> Described:
    try:
        return parse_packet(text)
    except ParseError as error:
        raise click.UsageError(str(error)) from None


def _answer(node: Node, packets: Sequence[Described], question: _Question) -> int:
    choices = Seeded(question.seed)
    held = True
    for number, one in enumerate(packets):
        guessed = question.indev is None and not question.local
        way = node.way_in(one.packet) if guessed else question.indev
        outcomes: Outcomes = (
            [(result.probability, result.trace) for result in node.outcomes(one, way, local=way is None)]
            if question.everything else [(None, node.walk(one, way, choices))]
        )  # fmt: skip
        if number and question.output == "text":
            click.echo()
        _print(outcomes, question, guessed=guessed)
        if question.expect is not None:
            held = _as_expected(outcomes, question.expect) and held
    return 0 if held else 1


def _print(outcomes: Outcomes, question: _Question, *, guessed: bool) -> None:
    if question.output in ("json", "jsonl"):
        from dataplane.render.json import render_json

        click.echo(render_json(outcomes, indent=2 if question.output == "json" else None))
    elif question.output == "trace":
        from dataplane.render.kernel import render_trace

        for _, trace in outcomes:
            click.echo(render_trace(trace), nl=False)
    else:
        from dataplane.render.text import render

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        for number, (probability, trace) in enumerate(outcomes, 1):
            if probability is not None:
                click.echo(f"{'' if number == 1 else chr(10)}Outcome {number} of {len(outcomes)}, probability {_chance(probability)}:")
            click.echo(render(trace, verbose=question.verbose, colour=colour, guessed=guessed), color=colour)


def _chance(probability: Fraction) -> str:
    """The exact fraction; a long one with a short neighbour."""
    near = probability.limit_denominator(1000)
    return str(probability) if near == probability else f"{probability} (about {near})"


def _as_expected(outcomes: Outcomes, expect: str) -> bool:
    failed = [trace for _, trace in outcomes if not _holds(trace, expect)]
    for trace in failed[:1]:
        click.echo(f"error: expected {expect}, got {_came_to(trace)}", err=True)
    return not failed


def _holds(trace: Trace, expect: str) -> bool:
    if expect in _VERDICTS:
        return trace.verdict == expect
    packet = trace.packet
    return trace.verdict in ("forward", "local") and _endpoint(expect) == (packet.family, packet.daddr, packet.dport)


def _came_to(trace: Trace) -> str:
    packet = trace.packet
    if trace.verdict not in ("forward", "local"):
        return f"{trace.verdict} ({trace.reason})"
    there = format_endpoint(packet.family, packet.daddr, packet.dport) if packet.dport else format_address(packet.family, packet.daddr)
    return f"{trace.verdict} to {there}"


def _endpoint(text: str) -> tuple[int, int, int] | None:
    """``IP:PORT`` or ``[IP]:PORT`` (or an address alone, port 0); None for anything else."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "0")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        return None
    try:
        family, address = parse_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return family, address, int(port)

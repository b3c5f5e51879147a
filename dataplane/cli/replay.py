"""``dataplane replay``: a capture in, what the node would have done with it out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import click

from dataplane.cli.source import Source, manifest_options, state_of

_WRITES = {"forward": "written", "local": "write_local", "drop": "write_drop"}


@click.command("replay")
@click.argument("capture")
@click.option("--snapshot", metavar="DIR", help="A node's dumps, instead of manifests.")
@manifest_options
@click.option("--in", "entrances", multiple=True, metavar="[N|NAME=]IFACE", help="The node's device by which packets come in; or of one interface of the capture.")
@click.option("-w", "written", metavar="FILE", help="What leaves the node goes into this capture (pcapng where it is called so: with comments).")
@click.option("--write-local", metavar="FILE", help="What is delivered to the node itself.")
@click.option("--write-drop", metavar="FILE", help="What ends there (dropped, rejected), as it came.")
@click.option("--write-replies", metavar="FILE", help="ICMP errors and RSTs that the node sends itself (raw IP).")
@click.option("--against", metavar="MODE|DIR", help="Also through this mode, or another snapshot: only packets that end differently are told.")
@click.option("--report", metavar="FILE", help="An HTML page of the summary.")
@click.option("--flows", is_flag=True, help="With -o jsonl or csv: a line a flow instead of a line a packet.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random choices.")
@click.option("--verify-checksums", is_flag=True, help="A wrong checksum makes a packet INVALID (else it is taken for one that a card had yet to fill in).")
@click.option("-o", "--output", type=click.Choice(["text", "json", "jsonl", "csv"]), default="text", show_default=True)
def command(
    capture: str, snapshot: str | None, files: tuple[str, ...], recursive: bool, node: str | None, config: str | None, network: str | None,
    families: str | None, mode: str, **asked: Any,
) -> int:  # fmt: skip
    """Walk every packet of a capture through a node, at its own time, and tell what became of them.

    \b
    dataplane replay traffic.pcap --snapshot node-a/ --in eth0 -w after.pcap
    dataplane replay traffic.pcapng -f manifests/ --node node-a --mode ipvs --against iptables
    tcpdump -w - | dataplane replay - --snapshot node-a/ -o jsonl

    pcap and pcapng, plain, gzip or zstd; - is standard input. Packets share one connection table. Without --in an interface of the capture
    that is called like one of the node's is that one; else the way back to the source decides, and the node's own addresses send from it.
    With --against exit code 1 where something differs.
    """
    from dataplane.captures.records import opened

    source = Source(files, snapshot, node, config, network, families, recursive, mode)
    state = state_of(source)
    other = _other(source, asked["against"])
    with opened(capture) as records, ExitStack() as stack:
        return _Run(records, state, other, stack, **asked).result(mode if snapshot is None else snapshot)


def _other(source: Source, against: str | None) -> Any:
    if against is None:
        return None
    if against in ("iptables", "ipvs") and source.snapshot is None:
        return state_of(source._replace(mode=against))
    return state_of(Source(snapshot=against))


def _entrances(given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        key, equals, device = one.rpartition("=")
        if (equals and not key) or not device:
            raise click.UsageError(f"--in: expected IFACE, N=IFACE or NAME=IFACE, got {one!r}")
        found[key] = device
    return found


class _Run:
    """One replay with all that it writes."""

    def __init__(self, capture: Any, state: Any, other: Any, stack: ExitStack, **asked: Any) -> None:
        from dataplane.engine.netns import Netns
        from dataplane.replay.summary import Summary
        from dataplane.replay.walk import Clock, Entrances

        self.capture, self.asked, self.stack = capture, asked, stack
        self.entrances = _entrances(asked["entrances"])
        self.nodes = [Netns(one) for one in (state, other) if one is not None]
        self.ways = [Entrances(netns, self.entrances) for netns in self.nodes]
        self.clocks = [Clock(capture.warn if number == 0 else lambda text: None) for number in range(len(self.nodes))]
        self.summary = Summary()
        self.outputs: dict[str, Any] = {}

    def result(self, name: str) -> int:
        """The exit code."""
        from dataplane.replay import against

        stopped = False
        try:
            if len(self.nodes) == 2:
                found = against.changes(self._pairs())
            else:
                self._each()
        except KeyboardInterrupt:
            if len(self.nodes) == 2:
                raise
            stopped = True
        except BaseException:
            for output in self.outputs.values():
                output.abandon()
            raise
        if len(self.nodes) == 2:
            names = (name, str(self.asked["against"]))
            for line in against.text(found, names, self.summary.packets):
                click.echo(line)
            return 1 if found else 0
        self._close()
        self._tell()
        return 130 if stopped else 0

    # ------------------------------------------------------------------ walking

    def _replayed(self, number: int, records: Any) -> Iterator[Any]:
        from dataplane.engine.choices import Seeded
        from dataplane.replay.walk import replay

        return replay(
            self.nodes[number], records, self.capture.interfaces, self.ways[number], self.clocks[number], choices=Seeded(self.asked["seed"]),
            verify_checksums=self.asked["verify_checksums"],
        )  # fmt: skip

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        from itertools import tee

        one, other = tee(self.capture)
        for pair in zip(self._replayed(0, one), self._replayed(1, other), strict=True):
            self.summary.packets += 1
            yield pair

    def _each(self) -> None:
        told = _lines(self.asked["output"]) if not self.asked["flows"] else None
        progress = _Progress()
        for one in self._replayed(0, self.capture):
            self.summary.add(one)
            self._write(one)
            if told is not None:
                told(one)
            progress(self.summary)
        progress.end()

    # ------------------------------------------------------------------ writing

    def _write(self, one: Any) -> None:
        from dataplane.replay.output import comment, record_of

        if one.trace is None:
            return
        verdict = "drop" if one.trace.verdict == "reject" else one.trace.verdict
        target = self.asked.get(_WRITES.get(verdict, ""))
        if target:
            data = one.out if verdict in ("forward", "local") else one.record.data
            self._output(target, self.capture.interfaces).write(record_of(one, data), [comment(one.trace)])
        if self.asked["write_replies"]:
            from dataplane.captures.records import Interface, Record

            output = self._output(self.asked["write_replies"], [Interface(101, resolution=1_000_000_000)])
            for data in one.replies():
                output.write(Record(one.record.time, data, len(data), 0))

    def _output(self, path: str, interfaces: Any) -> Any:
        from dataplane.replay.output import Output

        if path not in self.outputs:
            self.outputs[path] = Output(path, interfaces)
        return self.outputs[path]

    def _close(self) -> None:
        for target in [self.asked[key] for key in (*_WRITES.values(), "write_replies") if self.asked[key]]:
            output = self._output(target, self.capture.interfaces)
            output.close()
            if output.left_out:
                self.capture.warn(f"{output.left_out} packets of other link types do not fit into {target}: pcapng holds them")

    def _tell(self) -> None:
        from dataplane.replay import summary as telling

        if self.asked["report"]:
            from dataplane.replay.output import write_text
            from dataplane.replay.page import page

            write_text(self.asked["report"], page(self.summary, self.capture.name, self.capture.warnings))
        output = self.asked["output"]
        to_stdout = "-" in (self.asked[key] for key in (*_WRITES.values(), "write_replies"))
        if self.asked["flows"] and output in ("jsonl", "csv"):
            told = _rows(output)
            for row in telling.flow_rows(self.summary):
                told(row)
        if output == "json":
            click.echo(json.dumps(telling.as_json(self.summary, self.capture.warnings), indent=2), err=to_stdout)
            return
        for line in telling.text(self.summary, self.capture.warnings):
            click.echo(line, err=output != "text" or to_stdout)


def _lines(output: str) -> Callable[[Any], None] | None:
    if output not in ("jsonl", "csv"):
        return None
    told = _rows(output)

    def tell(one: Any) -> None:
        from dataplane.packet import describe
        from dataplane.render.json import outcome
        from dataplane.render.text import service_of

        row: dict[str, Any] = {"number": one.number, "time": one.record.time / 1e9, "in": one.indev}
        if one.trace is None:
            row |= {"verdict": None, "why": one.why}
        else:
            said = outcome(one.trace, None)
            said.pop("probability", None)
            row |= {"asked": describe(one.packet), **said, "service": service_of(one.trace) or None}
        told(row)

    return tell


def _rows(output: str) -> Callable[[dict[str, Any]], None]:
    if output == "jsonl":
        return lambda row: click.echo(json.dumps(row))
    writer: list[Any] = []
    names = ("number", "time", "in", "asked", "verdict", "oif", "packet", "reply", "by", "service", "why")

    def tell(row: dict[str, Any]) -> None:
        if not writer:
            writer.append(csv.DictWriter(sys.stdout, names if "number" in row else list(row), extrasaction="ignore"))
            writer[0].writeheader()
        writer[0].writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()})

    return tell


class _Progress:
    """A line on a terminal while it takes longer than a second."""

    def __init__(self) -> None:
        from dataplane.adapters.lab.clock import now

        self._now, self._began, self._shown = now, now(), False

    def __call__(self, summary: Any) -> None:
        if summary.packets % 1000 or not sys.stderr.isatty() or self._now() - self._began < 1:
            return
        self._shown = True
        rate = summary.packets / (self._now() - self._began)
        click.echo(f"\r{summary.packets} packets, {summary.octets >> 20} MiB, {rate:,.0f} packets/s ", err=True, nl=False)

    def end(self) -> None:
        """Leaves the line."""
        if self._shown:
            click.echo("", err=True)

"""A trace for people: numbered steps, the flow after each rewrite, and at the end what it came to.

Reads events only, in the manner of Open vSwitch's ofproto/trace. Rules that did not match are shown where they were recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from dataplane.inet import format_endpoint
from dataplane.packet import Packet, describe
from dataplane.rules.iptables import Rule
from dataplane.text.iptables import print_rule
from dataplane.trace import (
    ChangeEvent,
    ChoiceEvent,
    ConntrackEvent,
    Event,
    HookEvent,
    IPVSEvent,
    NatEvent,
    NoMatchEvent,
    NoteEvent,
    PolicyEvent,
    RouteEvent,
    RuleEvent,
    TableEvent,
    TableLeft,
    Trace,
)

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _OFF = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m", "\033[0m"
_VERDICT_COLOURS: Final = {"forward": _GREEN, "local": _GREEN, "drop": _RED, "reject": _RED, "unknown": _YELLOW}
_SERVICE: Final = re.compile(r"([a-z0-9.-]+/[a-z0-9.-]+(?::[a-z0-9.-]+)?)")
_TOLD_BY: Final = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL", "KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-SEP-", "KUBE-FW-")


def render(trace: Trace, *, verbose: bool = False, colour: bool = False, guessed: bool = False) -> str:
    """The whole text of a trace, without a final newline. ``guessed``: the way in was not given by the user."""
    original = trace.original
    lines = [f"Packet: {describe(original)} [ttl {original.ttl}]", _entry(trace, guessed), ""]
    steps = _Steps(original, verbose)
    for event in trace.events:
        lines += steps.lines(event)
    lines += ["", *summary(trace)] if steps.number else summary(trace)
    for reply in trace.replies:
        lines += ["", "What the node answers:"]
        lines += [f"    {line}".rstrip() for line in render(reply, verbose=verbose).splitlines()]
    return "\n".join(_coloured(line, trace) for line in lines) if colour else "\n".join(lines)


def summary(trace: Trace) -> Iterator[str]:
    """What it came to: the final packet, the Service, the rules visited, the verdict and who decided it."""
    packet = trace.packet
    if trace.verdict in ("forward", "local"):
        same = describe(packet) == describe(trace.original)
        mark = f" [mark {trace.mark:#x}]" if trace.mark else ""
        yield f"Final packet: {'unchanged' if same else describe(packet)} [ttl {packet.ttl}]{mark}"
        if trace.random_sport or trace.random_dport:
            yield f"  (the kernel picks its {'source' if trace.random_sport else 'destination'} port at random)"
    service = service_of(trace)
    if service:
        yield f"Service: {service}"
    yield f"Rules visited by the kernel: {trace.visited}"
    verdict = f"Verdict: {trace.verdict}" + (f" by {trace.oif}" if trace.oif and trace.verdict == "forward" else "")
    if trace.reason and trace.verdict != "forward":
        verdict += f": {trace.reason}"
    if trace.by is not None and trace.verdict in ("drop", "reject", "unknown"):
        verdict += f" (decided by {trace.by})"
    yield verdict
    if trace.reply is not None:
        yield f"Reply: {describe(trace.reply)}"


def service_of(trace: Trace) -> str:
    """``namespace/name:port -> ip:port`` by the comments of kube-proxy's chains, "" where none was met."""
    name, endpoint = "", ""
    for event in trace.rules():
        comment = _comment(event.rule)
        if not event.ref.chain.startswith(_TOLD_BY) or not comment:
            continue
        found = _SERVICE.match(comment)
        name = found.group(1) if found else name
        for lack in ("no local endpoints", "no endpoints"):
            if lack in comment:
                return f"{name} (has {lack})"
    for change in trace.events:
        if isinstance(change, IPVSEvent):
            return f"{change.service} -> {change.server} (IPVS)" if change.server else f"{change.service} (IPVS: {change.why})"
        if isinstance(change, NatEvent) and change.kind == "DNAT" and not change.why:
            endpoint = format_endpoint(change.family, *change.new)
    return f"{name} -> {endpoint}" if name and endpoint else name


def _comment(rule: Rule) -> str:
    match = rule.match("comment")
    return str(match.options[0].value) if match is not None and match.options else ""


def _entry(trace: Trace, guessed: bool) -> str:
    if trace.indev is None:
        return "Sent by the node itself" + (" (a guess: its source is the node's own address; --in says otherwise)" if guessed else "")
    return f"Enters by {trace.indev}" + (" (a guess: it leads back to the source; --in says otherwise)" if guessed else "")


class _Steps:
    """The lines of one event after another; remembers the flow as rewritten so far and how deep the last rule stood."""

    def __init__(self, flow: Packet, verbose: bool) -> None:
        self.flow = flow
        self.verbose = verbose
        self.number = self.depth = 0
        self.heading = ""  # of a table in which nothing was shown yet
        self.chance = ""  # of the rule that comes next

    def lines(self, event: Event) -> Iterator[str]:
        """What one event adds."""
        match event:
            case HookEvent():
                self.number += 1
                devices = "".join(f"  {name}={dev}" for name, dev in (("in", event.indev), ("out", event.outdev)) if dev)
                yield f"{self.number:2}. {event.hook}{devices}"
            case TableEvent():
                self.heading, self.depth = f"    {event.table} {event.chain}", 0
            case RuleEvent() | NoMatchEvent() | PolicyEvent():
                yield from self._rule(event)
            case ChoiceEvent():
                odds = Fraction(event.weight, event.total)
                near = odds.limit_denominator(1000)
                self.chance = f"{near}" if near == odds else f"about {near}"
            case IPVSEvent():
                server = f" -> {event.server} ({event.method})" if event.server else ""
                chance, self.chance = f"    (chance {self.chance})" if self.chance else "", ""
                yield f"    ipvs: {event.what}: {event.service}{server}: {event.why}{chance}"
            case ConntrackEvent() | RouteEvent() | NoteEvent() | ChangeEvent() | NatEvent():
                yield from self._other(event)
            case TableLeft():
                self.heading, self.depth = "", 0

    def _rule(self, event: RuleEvent | NoMatchEvent | PolicyEvent) -> Iterator[str]:
        if isinstance(event, PolicyEvent):
            if event.policy == "ACCEPT" and not self.verbose:
                return
            yield from self._headed()
            yield f"      {event.ref.chain} policy: {event.policy}"
            return
        if isinstance(event, NoMatchEvent) and not self.verbose:
            return
        yield from self._headed()
        self.depth = event.depth
        text = f"{event.ref.chain} {event.ref.number}: {print_rule(event.rule, event.ref.family)}"
        if isinstance(event, NoMatchEvent):
            yield f"{self._pad()}. {text}    (no match: {event.reason})"
            return
        yield f"{self._pad()}{text}" + (f"    (chance {self.chance})" if self.chance else "")
        self.chance = ""
        if event.action in ("drop", "reject"):
            yield f"{self._pad()}  => {event.action}"

    def _other(self, event: ConntrackEvent | RouteEvent | NoteEvent | ChangeEvent | NatEvent) -> Iterator[str]:
        match event:
            case ConntrackEvent():
                yield f"    conntrack: {event.state}" + (f" ({event.detail})" if event.detail else "")
            case RouteEvent():
                odds = f"    (chance {self.chance})" if self.chance else ""
                self.chance = ""
                yield f"    {event.what}: {event.decision}{odds}"
            case NoteEvent():
                yield f"    note: {event.text}"
            case ChangeEvent():
                old, new = (hex(event.old), hex(event.new)) if event.field in ("mark", "tos") else (event.old, event.new)
                yield f"{self._pad()}  => {event.field} {old} -> {new}" if self.depth else f"    {event.field} {old} -> {new}"
            case NatEvent():
                yield f"    nat: {event}" if event.old != event.new else f"    nat: {event.kind}, nothing to change"
                yield from self._rewritten(event)

    def _rewritten(self, event: NatEvent) -> Iterator[str]:
        if event.kind == "SNAT":
            self.flow = self.flow._replace(saddr=event.new[0], sport=event.new[1] if self.flow.sport else 0)
        else:
            self.flow = self.flow._replace(daddr=event.new[0], dport=event.new[1] if self.flow.dport else 0)
        yield f"    Flow now: {describe(self.flow)}"

    def _headed(self) -> Iterator[str]:
        if self.heading:
            yield self.heading
            self.heading = ""

    def _pad(self) -> str:
        return "      " + "  " * self.depth


def _coloured(line: str, trace: Trace) -> str:
    if line.startswith("Verdict:"):
        return f"{_VERDICT_COLOURS[trace.verdict]}{line}{_OFF}"
    if re.match(r"(Packet|Final packet|Service):| *\d+\. [A-Z]", line):
        return f"{_BOLD}{line}{_OFF}"
    if re.match(r" +\. ", line):
        return f"{_DIM}{line}{_OFF}"
    return line

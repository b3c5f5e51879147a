"""A trace for people: numbered steps, the flow after each rewrite, and at the end what it came to.

Reads events only, in the manner of Open vSwitch's ofproto/trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from dataplane.inet import format_endpoint
from dataplane.packet import describe
from dataplane.text.iptables import print_rule
from dataplane.trace import (
    ChangeEvent,
    ChoiceEvent,
    ConntrackEvent,
    EndEvent,
    HookEvent,
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
_VERDICT_COLOURS = {"forward": _GREEN, "local": _GREEN, "drop": _RED, "reject": _RED, "unknown": _YELLOW}
_SERVICE = re.compile(r"([a-z0-9.-]+/[a-z0-9.-]+(?::[a-z0-9.-]+)?)")


def render(trace: Trace, *, verbose: bool = False, colour: bool = False, guessed: bool = False, indent: str = "") -> str:
    """The whole text of a trace, without a final newline."""
    lines = [f"Packet: {describe(trace.original)} [ttl {trace.original.ttl}]", _entry(trace, guessed), ""]
    lines += list(_steps(trace, verbose))
    lines += ["", *_summary(trace)]
    for reply in trace.replies:
        lines += ["", "The node answers:", render(reply, verbose=verbose, indent=indent + "    ")]
    text = "\n".join(indent + line if line and not line.startswith(indent + "    Packet") else line for line in lines)
    return _coloured(text, trace) if colour else text


def _entry(trace: Trace, guessed: bool) -> str:
    if trace.indev is None:
        return "Sent by the node itself" + (" (its source is the node's own address)" if guessed else "")
    return f"Enters by {trace.indev}" + (" (the way back to its source)" if guessed else "")


def _steps(trace: Trace, verbose: bool) -> Iterator[str]:
    number = 0
    family = trace.original.family
    open_table = ""
    for event in trace.events:
        if isinstance(event, HookEvent):
            number += 1
            devices = " ".join(f"{name}={dev}" for name, dev in (("in", event.indev), ("out", event.outdev)) if dev)
            yield f"{number:2}. {event.hook}{f'  {devices}' if devices else ''}"
        elif isinstance(event, TableEvent):
            open_table = f"    {event.table} {event.chain}"
        elif isinstance(event, RuleEvent | NoMatchEvent | PolicyEvent):
            if isinstance(event, NoMatchEvent) and not verbose:
                continue
            if isinstance(event, PolicyEvent) and event.policy == "ACCEPT" and not verbose:
                continue
            if open_table:
                yield open_table
                open_table = ""
            yield from _rule(event, family)
        else:
            yield from _other(event)


def _rule(event: RuleEvent | NoMatchEvent | PolicyEvent, family: int) -> Iterator[str]:
    if isinstance(event, PolicyEvent):
        yield f"      policy of {event.ref.chain}: {event.policy}"
        return
    pad = "      " + "  " * event.depth
    text = print_rule(event.rule, family)
    if isinstance(event, NoMatchEvent):
        yield f"{pad}. {event.ref.chain} {event.ref.number}: {text}    [no: {event.reason}]"
        return
    yield f"{pad}{event.ref.chain} {event.ref.number}: {text}"
    if event.action in ("drop", "reject"):
        yield f"{pad}  => {event.action}"


def _other(event: object) -> Iterator[str]:
    if isinstance(event, ConntrackEvent):
        yield f"    conntrack: {event.state}" + (f" ({event.detail})" if event.detail else "")
    elif isinstance(event, NatEvent):
        yield f"    nat: {event}" if event.old[1] or event.new[1] else f"    nat: {event.kind} ({event.why})"
    elif isinstance(event, RouteEvent):
        yield f"    {event.what}: {event.decision}"
    elif isinstance(event, ChangeEvent):
        shown = (hex(event.old), hex(event.new)) if event.field == "mark" else (event.old, event.new)
        yield f"        {event.field} {shown[0]} -> {shown[1]}" if event.field != "ttl" else f"    ttl {event.old} -> {event.new}"
    elif isinstance(event, ChoiceEvent):
        near = Fraction(event.weight, event.total).limit_denominator(1000)
        yield f"          random: taken with probability {near}"
    elif isinstance(event, NoteEvent):
        yield f"    note: {event.text}"
    elif isinstance(event, TableLeft | EndEvent):
        return


def _summary(trace: Trace) -> Iterator[str]:
    packet, original = trace.packet, trace.original
    if trace.verdict in ("forward", "local"):
        same = describe(packet) == describe(original)
        yield "Final packet: " + ("unchanged" if same else describe(packet)) + f" [ttl {packet.ttl}]" + (f" [mark {trace.mark:#x}]" if trace.mark else "")
        if trace.random_sport:
            yield "  (its source port is chosen at random by the kernel)"
    service = service_of(trace)
    if service:
        yield f"Service: {service}"
    yield f"Rules visited by the kernel: {trace.visited}"
    verdict = f"Verdict: {trace.verdict}"
    if trace.oif:
        verdict += f" by {trace.oif}"
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
        comment = event.rule.match("comment")
        if event.ref.chain.startswith("KUBE-") and comment is not None:
            found = _SERVICE.match(str(comment.options[0].value)) if comment.options else None
            text = str(comment.options[0].value) if comment.options else ""
            if found and "/" in found.group(1) and (event.ref.chain.startswith(("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-S", "KUBE-EXTERNAL"))):
                name = found.group(1)
            if "no endpoints" in text or "no local endpoints" in text:
                return f"{name} (has {'no local endpoints' if 'local' in text else 'no endpoints'})"
    for step in trace.events:
        if isinstance(step, NatEvent) and step.kind == "DNAT" and not step.why:
            endpoint = format_endpoint(step.family, *step.new)
    return f"{name} -> {endpoint}" if name and endpoint else name


def _coloured(text: str, trace: Trace) -> str:
    colour = _VERDICT_COLOURS[trace.verdict]
    text = re.sub(r"(?m)^(Packet:|Final packet:|Service:)", rf"{_BOLD}\1{_OFF}", text)
    text = re.sub(r"(?m)^(Verdict: .*)$", rf"{colour}\1{_OFF}", text)
    text = re.sub(r"(?m)^( *\d+\. [A-Z]+.*)$", rf"{_BOLD}\1{_OFF}", text)
    return re.sub(r"(?m)^( +\. .*)$", rf"{_DIM}\1{_OFF}", text)

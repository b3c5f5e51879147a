"""What becomes of one probe on one variant of the node: every outcome with its answer, and the steps that decided it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dataplane.compare.probes import NODE, Probe
from dataplane.engine.choices import Choices, Seeded
from dataplane.engine.fib import Flow
from dataplane.engine.netns import Netns
from dataplane.inet import format_address, format_endpoint
from dataplane.packet import Packet, answer_to
from dataplane.text.iptables import print_rule
from dataplane.trace import EndEvent, HookEvent, IPVSEvent, NatEvent, PolicyEvent, RouteEvent, RuleEvent, Trace


class Fate(NamedTuple):
    """One outcome. ``kind`` is it in general words, ``where`` its address and device; ``answer`` tells of an answer that does not arrive."""

    kind: str
    where: str
    source: str
    answer: str

    def __str__(self) -> str:
        return ", ".join(part for part in (f"{self.kind}{f' {self.where}' if self.where else ''}", self.source, self.answer) if part)

    @property
    def general(self) -> str:
        """The fate without the addresses of this packet."""
        return ", ".join(part for part in (self.kind, _words(self.source), self.answer.partition(":")[0]) if part)


def _words(source: str) -> str:
    return "" if source.startswith("from ") else source.partition(" to ")[0]


class Step(NamedTuple):
    """Something that decides: where it happens, what it is; ``choice`` where it is one endpoint of several."""

    hook: str
    what: str
    choice: bool = False

    def __str__(self) -> str:
        return f"{self.hook}: {self.what}" if self.hook else self.what


class Outcome(NamedTuple):
    """A fate and the trace that led to it."""

    fate: Fate
    trace: Trace


def outcomes(netns: Netns, probe: Probe) -> list[Outcome]:
    """Everything that can become of a probe on a node, whose state stays as it is."""
    packet = _with_source(netns, probe)
    if packet is None:
        end = Trace(probe.packet, None, [], "drop", "no route to it", lambda: probe.packet, 0, None)
        return [Outcome(Fate("not sent: no route", "", "", ""), end)]
    state = netns.kernel.conntrack, netns.kernel.memory
    found: dict[Fate, Outcome] = {}
    try:
        for one in list(netns.possibilities(lambda choices: _walk(netns, packet, probe.indev, choices))):
            netns.kernel.conntrack, netns.kernel.memory = one.conntrack, one.memory
            fate = _fate(netns, one.trace)
            found.setdefault(fate, Outcome(fate, one.trace))
    finally:
        netns.kernel.conntrack, netns.kernel.memory = state
    return list(found.values())


def _with_source(netns: Netns, probe: Probe) -> Packet | None:
    """The node's own packet has the source that its kernel would choose."""
    packet = probe.packet
    if probe.vantage != NODE:
        return packet
    flow = Flow(packet.family, packet.daddr)
    found = netns.kernel.fib.lookup(flow)
    source = netns.kernel.fib.source_address(flow, found) if found.error is None else None
    return packet._replace(saddr=source) if source is not None else None


def _walk(netns: Netns, packet: Packet, indev: str | None, choices: Choices) -> Trace:
    return netns.send(packet, choices=choices) if indev is None else netns.receive(packet, indev, choices=choices)


# ---------------------------------------------------------------------- fates


def fate_of(trace: Trace) -> Fate:
    """A fate without what becomes of its answer."""
    packet, original = trace.packet, trace.original
    if trace.verdict == "unknown":
        return Fate("unknown", trace.reason, "", "")
    if trace.verdict == "drop":
        return Fate("dropped", "", "", "")
    if trace.verdict == "reject":
        return Fate(f"refused{_refusal(trace.reply)}", "", "", "")
    there = format_endpoint(packet.family, packet.daddr, packet.dport) if packet.dport else format_address(packet.family, packet.daddr)
    moved = (packet.daddr, packet.dport) != (original.daddr, original.dport)
    if trace.verdict == "local":
        kind = "sent to an endpoint on the node itself" if moved else "delivered to the node itself"
        where = there if moved else ""
    else:
        kind = "sent to an endpoint" if moved else f"sent on by {trace.oif}"
        where = f"{there} by {trace.oif}" if moved else ""
    return Fate(kind, where, _source(trace, packet) if moved or packet.saddr != original.saddr else "", "")


def _fate(netns: Netns, trace: Trace) -> Fate:
    fate = fate_of(trace)
    packet, original = trace.packet, trace.original
    changed = (packet.saddr, packet.daddr, packet.dport) != (original.saddr, original.daddr, original.dport)
    return fate._replace(answer=_answer(netns, trace)) if changed and trace.verdict in ("forward", "local") else fate


def _source(trace: Trace, packet: Packet) -> str:
    """Who the other side takes the sender for. What the node itself sends has one of its addresses, by whatever rule."""
    address = format_address(packet.family, packet.saddr)
    if trace.indev is None:
        return f"from {address}"
    return "source kept" if packet.saddr == trace.original.saddr else f"masqueraded to {address}"


def _refusal(reply: Packet | None) -> str:
    if reply is None:
        return ""
    return f" (ICMP {reply.icmp_type}/{reply.icmp_code})" if reply.is_icmp else " (RST)"


def _answer(netns: Netns, trace: Trace) -> str:
    """"" where the answer comes back as from the address that was asked; else why it does not."""
    packet, original = trace.packet, trace.original
    if trace.verdict == "local":
        back = netns.send(answer_to(packet), choices=Seeded(0))
    elif _comes_by(netns, trace):
        assert trace.oif is not None
        back = netns.receive(answer_to(packet), trace.oif, choices=Seeded(0))
    else:
        return "answer lost: the endpoint's node sends it past this one, with the endpoint's address as its source"
    end = back.packet
    if back.verdict not in ("forward", "local"):
        return f"answer lost: {back.reason}"
    if (end.saddr, end.sport, end.daddr, end.dport) != (original.daddr, original.dport, original.saddr, original.sport):
        return f"answer lost: it comes from {format_endpoint(end.family, end.saddr, end.sport)}"
    return ""


def _comes_by(netns: Netns, trace: Trace) -> bool:
    """Whether the endpoint's answer passes this node: it is here, the packet has an address of this node, or the client is behind it."""
    packet, fib = trace.packet, netns.kernel.fib
    if trace.gateway is None and trace.oif != trace.indev:
        return True
    if fib.owner(packet.family, packet.saddr) is not None:
        return True
    back = fib.lookup(Flow(packet.family, packet.saddr))
    return back.error is None and back.gateway is None and back.dev != trace.oif


# ---------------------------------------------------------------------- steps


def steps(trace: Trace) -> Iterator[Step]:
    """What decided, in order; ports that are picked at random are left out."""
    hook = ""
    for event in trace.events:
        match event:
            case HookEvent():
                hook = event.hook
            case NatEvent() if event.old != event.new:
                if event.kind == "DNAT":
                    yield Step(hook, f"nat: destination {format_endpoint(event.family, *event.new)}", choice=True)
                elif event.old[0] != event.new[0]:
                    yield Step(hook, f"nat: source {format_address(event.family, event.new[0])}")
            case IPVSEvent():
                yield Step(hook, f"ipvs: {event.what}: {event.service}{f' -> {event.server}' if event.server else ''}: {event.why}", choice=bool(event.server))
            case RouteEvent():
                yield Step(hook, f"{event.what}: {event.decision}")
            case RuleEvent() if event.action in ("drop", "reject"):
                yield Step(hook, f"{event.ref.table} {event.ref.chain} {event.ref.number}: {print_rule(event.rule, event.ref.family)}")
            case PolicyEvent() if event.policy == "DROP":
                yield Step(hook, f"{event.ref.table} {event.ref.chain} policy: DROP")
            case EndEvent():
                yield Step(hook, event.reason)


def parting(one: Trace, other: Trace) -> tuple[Step | None, Step | None]:
    """The first steps that differ; None of a walk that has ended before."""
    left, right = list(steps(one)), list(steps(other))
    for place in range(max(len(left), len(right))):
        a, b = (steps_of[place] if place < len(steps_of) else None for steps_of in (left, right))
        if a != b and not (a and b and a.choice and b.choice and a.hook == b.hook and a.what[:4] == b.what[:4]):
            return a, b
    return None, None

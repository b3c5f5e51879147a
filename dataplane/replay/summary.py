"""What a replay came to: counts by verdict, Service and endpoint, rule, flow; what was not understood, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dataplane.inet import format_address
from dataplane.packet import Packet, describe
from dataplane.render.text import service_of
from dataplane.replay.walk import Replayed
from dataplane.trace import ConntrackEvent, RuleRef, Trace

_SHOWN: Final = 10


class FlowKey(NamedTuple):
    """A flow as its first packet had it."""

    family: int
    protocol: int
    saddr: int
    sport: int
    daddr: int
    dport: int

    def __str__(self) -> str:
        return describe(Packet(self.family, self.saddr, self.daddr, self.protocol, self.sport, self.dport)).partition(" [")[0]


@dataclass(slots=True)
class FlowCount:
    """Packets and bytes both ways, the verdict of its first packet, and the Service it was, if one."""

    verdict: str
    service: str
    packets: int = 0
    octets: int = 0
    first: int = 0  # nanoseconds
    last: int = 0


@dataclass(slots=True)
class Summary:
    """Counts of packets and bytes (of the frames as captured)."""

    packets: int = 0
    octets: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    verdict_octets: Counter[str] = field(default_factory=Counter)
    services: dict[str, Counter[str]] = field(default_factory=dict)  # Service -> endpoint -> flows
    service_packets: Counter[str] = field(default_factory=Counter)
    service_octets: Counter[str] = field(default_factory=Counter)
    rules: Counter[RuleRef] = field(default_factory=Counter)
    flows: dict[FlowKey, FlowCount] = field(default_factory=dict)
    not_understood: Counter[str] = field(default_factory=Counter)
    bad_checksums: int = 0
    replies: int = 0
    first: int = 0
    last: int = 0

    def add(self, one: Replayed) -> None:
        """Counts a packet."""
        octets = len(one.record.data)
        self.packets += 1
        self.octets += octets
        self.first = self.first or one.record.time
        self.last = max(self.last, one.record.time)
        if one.trace is None or one.packet is None:
            self.not_understood[one.why] += 1
            return
        trace = one.trace
        self.bad_checksums += one.bad_checksum
        self.verdicts[trace.verdict] += 1
        self.verdict_octets[trace.verdict] += octets
        self.replies += len(trace.replies)
        if trace.by is not None and trace.verdict != "forward":
            self.rules[trace.by] += 1
        self._flow(one, trace, one.packet, octets)

    def _flow(self, one: Replayed, trace: Trace, packet: Packet, octets: int) -> None:
        key = flow_of(trace, packet)
        flow = self.flows.get(key)
        if flow is None:
            service = service_of(trace)
            flow = self.flows[key] = FlowCount(trace.verdict, service, first=one.record.time)
            if service:
                name, _, endpoint = service.partition(" -> ")
                self.services.setdefault(name, Counter())[endpoint or trace.verdict] += 1
        flow.packets += 1
        flow.octets += octets
        flow.last = one.record.time
        if flow.service:
            name = flow.service.partition(" -> ")[0]
            self.service_packets[name] += 1
            self.service_octets[name] += octets


def flow_of(trace: Trace, packet: Packet) -> FlowKey:
    """The connection that the packet belongs to, as its first packet had it; without one, the packet's own ends."""
    for event in trace.events:
        if isinstance(event, ConntrackEvent):
            if event.original is not None:
                one = event.original
                return FlowKey(packet.family, one.protocol, one.src, one.sport, one.dst, one.dport)
            break
    return FlowKey(packet.family, packet.protocol, packet.saddr, packet.sport, packet.daddr, packet.dport)


# ---------------------------------------------------------------------- telling


def text(summary: Summary, warnings: Iterable[str] = ()) -> Iterator[str]:
    """For people."""
    seconds = (summary.last - summary.first) / 1e9
    yield f"{summary.packets} packets, {summary.octets} bytes, over {seconds:.3f} s of capture"
    for verdict, count in summary.verdicts.most_common():
        yield f"  {verdict:<8} {count:>9} packets {summary.verdict_octets[verdict]:>12} bytes"
    if summary.replies:
        yield f"  the node sent {summary.replies} ICMP errors and RSTs itself"
    if summary.bad_checksums:
        yield f"  {summary.bad_checksums} packets had wrong checksums already (a capture of what a card was still to finish has them)"
    for why, count in summary.not_understood.most_common(_SHOWN):
        yield f"  not understood: {count} packets: {why}"
    if summary.services:
        yield "Services (flows by endpoint):"
    for name in sorted(summary.services):
        shares = summary.services[name]
        flows = sum(shares.values())
        yield f"  {name}: {flows} flows, {summary.service_packets[name]} packets, {summary.service_octets[name]} bytes"
        for endpoint, count in shares.most_common():
            yield f"    {endpoint:<40} {count:>6} flows {100 * count / flows:5.1f} %"
    if summary.rules:
        yield "Decided by rules:"
    for ref, count in summary.rules.most_common(_SHOWN):
        yield f"  {count:>9} packets  {'ip6tables' if ref.family == 6 else 'iptables'} {ref}"
    top = sorted(summary.flows.items(), key=lambda item: -item[1].octets)[:_SHOWN]
    if top:
        yield f"Top flows (of {len(summary.flows)}):"
    for key, flow in top:
        yield f"  {flow.packets:>7} packets {flow.octets:>10} bytes  {key}  {flow.verdict}{f'  {flow.service}' if flow.service else ''}"
    for warning in warnings:
        yield f"warning: {warning}"


def as_json(summary: Summary, warnings: Iterable[str] = ()) -> dict[str, Any]:  # Any: JSON
    """For programs."""
    return {
        "packets": summary.packets, "bytes": summary.octets, "first": summary.first / 1e9, "last": summary.last / 1e9,
        "verdicts": {name: {"packets": count, "bytes": summary.verdict_octets[name]} for name, count in summary.verdicts.items()},
        "services": {
            name: {"packets": summary.service_packets[name], "bytes": summary.service_octets[name], "endpoints": dict(shares)}
            for name, shares in summary.services.items()
        },
        "rules": [{"family": ref.family, "table": ref.table, "chain": ref.chain, "rule": ref.number, "packets": count} for ref, count in summary.rules.most_common()],
        "flows": len(summary.flows), "replies": summary.replies, "bad_checksums": summary.bad_checksums,
        "not_understood": dict(summary.not_understood), "warnings": list(warnings),
    }  # fmt: skip


def flow_rows(summary: Summary) -> Iterator[dict[str, Any]]:  # Any: JSON
    """A row a flow."""
    for key, flow in summary.flows.items():
        yield {
            "family": key.family, "protocol": key.protocol, "src": format_address(key.family, key.saddr), "sport": key.sport,
            "dst": format_address(key.family, key.daddr), "dport": key.dport, "verdict": flow.verdict, "service": flow.service or None,
            "packets": flow.packets, "bytes": flow.octets, "first": flow.first / 1e9, "last": flow.last / 1e9,
        }  # fmt: skip

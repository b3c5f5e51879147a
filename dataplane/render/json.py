"""Traces as JSON: the outcome record that machines read, and the whole walk for ``-o json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from dataplane.inet import PROTOCOL_NAMES, format_address
from dataplane.packet import Packet, describe, flag_letters
from dataplane.text.iptables import print_rule
from dataplane.trace import NoMatchEvent, RuleEvent, Trace


def protocol_name(packet: Packet) -> str:
    """``icmp`` for both families' ICMP, else the protocol's name or number."""
    return "icmp" if packet.is_icmp else PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol))


def outcome(trace: Trace, probability: Fraction | None) -> dict[str, Any]:
    """One outcome in the form of the packets interface."""
    gone = trace.verdict in ("forward", "local")
    by = trace.by
    return {
        "probability": str(probability) if probability is not None else "1",
        "verdict": trace.verdict,
        "oif": trace.oif,
        "packet": _packet(trace) if gone else None,
        "reply": _reply(trace.reply),
        "by": {"table": by.table, "chain": by.chain, "rule": by.number} if by is not None else None,
    }


def _packet(trace: Trace) -> dict[str, Any]:
    packet = trace.packet
    sport: int | None = packet.icmp_id if packet.is_icmp else packet.sport
    dport: int | None = None if packet.is_icmp else packet.dport
    if trace.random_sport:
        sport = None
    if trace.random_dport:
        dport = None
    return {
        "src": format_address(packet.family, packet.saddr), "dst": format_address(packet.family, packet.daddr),
        "proto": protocol_name(packet), "sport": sport, "dport": dport, "ttl": packet.ttl, "mark": trace.mark,
    }  # fmt: skip


def _reply(packet: Packet | None) -> dict[str, Any] | None:
    if packet is None:
        return None
    ends = {"src": format_address(packet.family, packet.saddr), "dst": format_address(packet.family, packet.daddr)}
    if packet.is_icmp:
        return {**ends, "proto": "icmp", "type": packet.icmp_type, "code": packet.icmp_code}
    ports = {"sport": packet.sport, "dport": packet.dport}
    return {**ends, "proto": protocol_name(packet), **ports, "flags": flag_letters(packet.tcp_flags)}


def merged(outcomes: Sequence[tuple[Fraction, Trace]]) -> list[dict[str, Any]]:
    """Outcomes that look the same become one, with the sum of their probabilities."""
    found: dict[str, tuple[Fraction, dict[str, Any]]] = {}
    for probability, trace in outcomes:
        record = outcome(trace, None)
        key = json.dumps(record, sort_keys=True)
        found[key] = (found[key][0] + probability if key in found else probability, record)
    return [{**record, "probability": str(probability)} for probability, record in found.values()]


def render_json(outcomes: Sequence[tuple[Fraction | None, Trace]], *, indent: int | None) -> str:
    """All outcomes with their walks."""
    made = [
        {**outcome(trace, probability), "reason": trace.reason, "visited": trace.visited, "steps": _steps(trace)}
        for probability, trace in outcomes
    ]
    first = outcomes[0][1]
    return json.dumps({"packet": describe(first.original), "in": first.indev, "outcomes": made}, indent=indent)


def _steps(trace: Trace) -> list[dict[str, Any]]:
    steps = []
    for event in trace.events:
        record: dict[str, Any] = {"event": type(event).__name__.removesuffix("Event").lower()}
        for name, value in event._asdict().items():
            if name == "rule" and isinstance(event, RuleEvent | NoMatchEvent):
                record[name] = print_rule(value, event.ref.family)
            else:
                record[name] = value._asdict() if hasattr(value, "_asdict") else value
        steps.append(record)
    return steps

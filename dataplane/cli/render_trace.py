"""A trace in the kernel's own TRACE form (xt_TRACE through the log): table:chain:kind:number and the packet's fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dataplane.inet import PROTOCOL_NAMES, format_address
from dataplane.packet import FLAG_LETTERS, Packet
from dataplane.trace import ChangeEvent, HookEvent, NatEvent, PolicyEvent, RuleEvent, Trace

_FLAG_NAMES = {"C": "CWR", "E": "ECE", "U": "URG", "A": "ACK", "P": "PSH", "R": "RST", "S": "SYN", "F": "FIN"}


def render_trace(trace: Trace) -> str:
    """A line for every rule that matched and every policy that was reached."""
    lines = []
    indev = outdev = ""
    packet, mark = trace.original, 0
    for event in trace.events:
        if isinstance(event, HookEvent):
            indev, outdev = event.indev, event.outdev
        elif isinstance(event, NatEvent):
            ends: dict[str, Any] = {"saddr": event.new[0], "sport": event.new[1]} if event.kind == "SNAT" else {"daddr": event.new[0], "dport": event.new[1]}
            packet = replace(packet, **ends)
        elif isinstance(event, ChangeEvent):
            mark = event.new if event.field == "mark" else mark
            packet = replace(packet, ttl=event.new) if event.field == "ttl" else packet
        elif isinstance(event, RuleEvent):
            kind = "return" if event.action == "return" else "rule"
            lines.append(_line(event.ref.table, event.ref.chain, kind, event.ref.number or 0, indev, outdev, packet, mark))
        elif isinstance(event, PolicyEvent):
            lines.append(_line(event.ref.table, event.ref.chain, "policy", 0, indev, outdev, packet, mark))
    return "".join(lines)


def _line(table: str, chain: str, kind: str, number: int, indev: str, outdev: str, packet: Packet, mark: int) -> str:
    source, target = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    name = "ICMP" if packet.is_icmp else PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol)).upper()
    parts = [
        f"TRACE: {table}:{chain}:{kind}:{number} IN={indev} OUT={outdev} SRC={source} DST={target} LEN={packet.length} TOS=0x{packet.tos:02X}",
        f"TTL={packet.ttl} ID={packet.ip_id} PROTO={name}",
    ]  # fmt: skip
    if packet.is_icmp:
        parts.append(f"TYPE={packet.icmp_type} CODE={packet.icmp_code} ID={packet.icmp_id}")
    elif packet.sport or packet.dport:
        parts.append(f"SPT={packet.sport} DPT={packet.dport}")
    if name == "TCP":
        flags = " ".join(_FLAG_NAMES[letter] for letter in reversed(FLAG_LETTERS) if packet.tcp_flags >> FLAG_LETTERS.index(letter) & 1)
        parts.append(f"SEQ={packet.seq} ACK={packet.ack} WINDOW={packet.window} {flags}")
    if mark:
        parts.append(f"MARK=0x{mark:x}")
    return " ".join(parts) + "\n"

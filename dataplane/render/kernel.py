"""A trace in the kernel's own TRACE form (xt_TRACE through the log): table:chain:kind:number and the packet's fields.

Printed as nf_log_ipv4 and nf_log_ipv6 do, without what depends on the machine (MAC=). A rule's number counts from 1; a policy
has the number after the last rule, and so has the end of a user's chain, which the kernel calls "return".
"""

from __future__ import annotations

from typing import Final

from dataplane.inet import PROTOCOL_NAMES, format_address
from dataplane.packet import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Packet
from dataplane.trace import ChangeEvent, HookEvent, NatEvent, PolicyEvent, RuleEvent, RuleRef, Trace

_FLAG_NAMES: Final = (
    (CWR, "CWR"), (ECE, "ECE"), (URG, "URG"), (ACK, "ACK"), (PSH, "PSH"), (RST, "RST"), (SYN, "SYN"), (FIN, "FIN"),
)  # fmt: skip
_NAMES: Final = {1: "ICMP", 58: "ICMPv6"}


def render_trace(trace: Trace) -> str:
    """A line for every rule that matched and every policy that was reached."""
    lines = []
    devices = ("", "")
    packet, mark = trace.original, 0
    for event in trace.events:
        if isinstance(event, HookEvent):
            devices = event.indev, event.outdev
        elif isinstance(event, NatEvent):
            packet = _rewritten(packet, event)
        elif isinstance(event, ChangeEvent) and event.field == "mark":
            mark = event.new
        elif isinstance(event, ChangeEvent) and event.field == "ttl":
            packet = packet._replace(ttl=event.new)
        elif isinstance(event, RuleEvent):
            lines.append(_line(event.ref, "rule", devices, packet, mark))
        elif isinstance(event, PolicyEvent):
            lines.append(_line(event.ref, "policy", devices, packet, mark))
    return "".join(lines)


def _rewritten(packet: Packet, event: NatEvent) -> Packet:
    if event.kind == "SNAT":
        return packet._replace(saddr=event.new[0], sport=event.new[1])
    return packet._replace(daddr=event.new[0], dport=event.new[1])


def _line(ref: RuleRef, kind: str, devices: tuple[str, str], packet: Packet, mark: int) -> str:
    source, target = format_address(packet.family, packet.saddr), format_address(packet.family, packet.daddr)
    place = f"TRACE: {ref.table}:{ref.chain}:{kind}:{ref.number if ref.number is not None else 1}"
    head = f"{place} IN={devices[0]} OUT={devices[1]} SRC={source} DST={target} LEN={packet.length}"
    if packet.family == 4:
        fragment = " DF" if packet.dont_fragment else ""
        head += f" TOS=0x{packet.tos & 0x1E:02X} PREC=0x{packet.tos & 0xE0:02X} TTL={packet.ttl} ID={packet.ip_id}{fragment}"
    else:
        head += f" TC={packet.tos} HOPLIMIT={packet.ttl} FLOWLBL=0"
    name = _NAMES.get(packet.protocol) or PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol)).upper()
    parts = [head, f"PROTO={name}", *_transport(packet, name)]
    if mark:
        parts.append(f"MARK=0x{mark:x}")
    return " ".join(parts) + "\n"


def _transport(packet: Packet, name: str) -> list[str]:
    if packet.is_icmp:
        echo = [f"ID={packet.icmp_id} SEQ=0"] if packet.inner is None else []
        return [f"TYPE={packet.icmp_type} CODE={packet.icmp_code}", *echo]
    if name == "TCP":
        flags = " ".join(word for bit, word in _FLAG_NAMES if packet.tcp_flags & bit)
        numbers = f"SEQ={packet.seq} ACK={packet.ack} WINDOW={packet.window} RES=0x00"
        return [f"SPT={packet.sport} DPT={packet.dport}", numbers, *([flags] if flags else []), "URGP=0"]
    ports = [f"SPT={packet.sport} DPT={packet.dport}"] if packet.sport or packet.dport else []
    return ports + ([f"LEN={8 + packet.payload}"] if name == "UDP" else [])

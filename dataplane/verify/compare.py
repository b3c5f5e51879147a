"""Holds what the emulator says could happen against what the kernel did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, cast

from dataplane.adapters.lab.lines import Outcome
from dataplane.render.json import outcome
from dataplane.trace import Trace

_ADDRESSES: Final = ("src", "dst")
_HEADERS: Final = ("src", "dst", "proto", "sport", "dport", "ttl", "mark", "tos", "length")
_ANSWER: Final = ("src", "dst", "proto", "type", "code", "flags")


def agrees(trace: Trace, kernel: Outcome) -> bool:
    """Whether the kernel's outcome is the one of a walk (a walk that is unknown claims nothing)."""
    if trace.verdict != kernel["verdict"]:
        return trace.verdict == "unknown"
    return compare([said(trace)], kernel) is None


def said(trace: Trace) -> Outcome:
    """The outcome of a walk in the lab's form."""
    record = outcome(trace, None)
    if record["packet"] is not None:
        packet = trace.packet
        record["packet"] |= {"tos": packet.tos, "length": packet.length, "valid": True}
    return cast(Outcome, record)  # the same JSON, and what it does not tell


def compare(emulator: Sequence[Outcome], kernel: Outcome | None) -> str | None:
    """None if the kernel's outcome is one of the emulator's, else how it differs from the nearest of them.

    ``kernel`` None: the packet was a reply to one that never arrived, so nothing was sent. A port that is null in the
    emulator's outcome may be any. Where the emulator says "unknown" it claims nothing.
    """
    if kernel is None:
        return None
    if not emulator:
        return f"the emulator says nothing; the kernel: {tell(kernel)}"
    if any(one["verdict"] == "unknown" for one in emulator):
        return None
    differences = [_differences(one, kernel) for one in emulator]
    nearest = min(range(len(emulator)), key=lambda i: (emulator[i]["verdict"] != kernel["verdict"], len(differences[i])))
    if not differences[nearest]:
        return None
    among = f" (nearest of {len(emulator)})" if len(emulator) > 1 else ""
    return f"{'; '.join(differences[nearest])}\n  emulator{among}: {tell(emulator[nearest])}\n  kernel: {tell(kernel)}"


def kind_of(difference: str) -> str:
    """The word by which differences are counted: verdict, oif, reply, or the header field's name."""
    word = re.match(r"\w+", difference)
    return word[0] if word else "other"


def tell(one: Outcome) -> str:
    """An outcome in one line."""
    parts: list[str] = [one["verdict"]]
    if one["oif"]:
        parts.append(f"by {one['oif']}")
    packet, reply, rule = one["packet"], one["reply"], one["by"]
    if packet:
        ends = f"{packet['src']} {packet['sport']} > {packet['dst']} {packet['dport']}"
        parts.append(f"{packet['proto']} {ends} ttl {packet['ttl']} mark {packet['mark']:#x} tos {packet['tos']:#x} length {packet['length']}")
    if reply:
        parts.append("reply " + " ".join(f"{key} {reply[key]}" for key in _ANSWER if key in reply))
    if rule:
        parts.append(f"[{rule.get('table')} {rule.get('chain')} {rule.get('rule')}]")
    return " ".join(parts)


def _differences(emulator: Outcome, kernel: Outcome) -> list[str]:
    """What differs, most telling first; after a different verdict nothing else is worth telling."""
    if emulator["verdict"] != kernel["verdict"]:
        return [f"verdict: the emulator says {emulator['verdict']}, the kernel {kernel['verdict']}"]
    found = []
    if emulator["oif"] != kernel["oif"]:
        found.append(f"oif: the emulator says {emulator['oif']}, the kernel {kernel['oif']}")
    found += _fields("", emulator["packet"], kernel["packet"], _HEADERS)
    if kernel["packet"] is not None and not kernel["packet"]["valid"]:
        found.append("checksum: the kernel's packet has a wrong one")
    found += _fields("reply ", emulator["reply"], kernel["reply"], _ANSWER)
    return found


def _fields(
    prefix: str, emulator: Mapping[str, Any] | None, kernel: Mapping[str, Any] | None, names: Sequence[str]
) -> list[str]:  # Any: JSON
    if (emulator is None) != (kernel is None):
        return [f"{prefix or 'packet '}: the emulator says {emulator}, the kernel {kernel}"]
    if emulator is None or kernel is None:
        return []
    icmp = kernel.get("proto") == "icmp"
    names = [name for name in names if not (icmp and name == "dport")]
    pairs = [(name, emulator.get(name), kernel.get(name)) for name in names]
    return [f"{prefix}{name}: the emulator says {a}, the kernel {b}" for name, a, b in pairs if not _same(name, a, b)]


def _same(name: str, emulator: Any, kernel: Any) -> bool:  # Any: JSON
    if name in ("sport", "dport") and emulator is None:
        return True
    if name in _ADDRESSES and emulator is not None and kernel is not None:
        return ip_address(emulator) == ip_address(kernel)
    return bool(emulator == kernel)

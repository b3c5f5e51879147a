"""The types of ICMP and ICMPv6 by name and number. Source: libxt_icmp.h of iptables 1.8.9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dataplane.text import xtables_kinds as k
from dataplane.text.xtables_kinds import Kind

_ICMP_NAMES: Final = {
    "any": (255, 0, 255), "echo-reply": (0, 0, 255), "pong": (0, 0, 255), "destination-unreachable": (3, 0, 255),
    "network-unreachable": (3, 0, 0), "host-unreachable": (3, 1, 1), "protocol-unreachable": (3, 2, 2), "port-unreachable": (3, 3, 3),
    "fragmentation-needed": (3, 4, 4), "source-route-failed": (3, 5, 5), "network-unknown": (3, 6, 6), "host-unknown": (3, 7, 7),
    "network-prohibited": (3, 9, 9), "host-prohibited": (3, 10, 10), "TOS-network-unreachable": (3, 11, 11),
    "TOS-host-unreachable": (3, 12, 12), "communication-prohibited": (3, 13, 13), "host-precedence-violation": (3, 14, 14),
    "precedence-cutoff": (3, 15, 15), "source-quench": (4, 0, 255), "redirect": (5, 0, 255), "network-redirect": (5, 0, 0),
    "host-redirect": (5, 1, 1), "TOS-network-redirect": (5, 2, 2), "TOS-host-redirect": (5, 3, 3), "echo-request": (8, 0, 255),
    "ping": (8, 0, 255), "router-advertisement": (9, 0, 255), "router-solicitation": (10, 0, 255), "time-exceeded": (11, 0, 255),
    "ttl-exceeded": (11, 0, 255), "ttl-zero-during-transit": (11, 0, 0), "ttl-zero-during-reassembly": (11, 1, 1),
    "parameter-problem": (12, 0, 255), "ip-header-bad": (12, 0, 0), "required-option-missing": (12, 1, 1),
    "timestamp-request": (13, 0, 255), "timestamp-reply": (14, 0, 255), "address-mask-request": (17, 0, 255),
    "address-mask-reply": (18, 0, 255),
}  # fmt: skip
_ICMP6_NAMES: Final = {
    "destination-unreachable": (1, 0, 255), "no-route": (1, 0, 0), "communication-prohibited": (1, 1, 1), "beyond-scope": (1, 2, 2),
    "address-unreachable": (1, 3, 3), "port-unreachable": (1, 4, 4), "failed-policy": (1, 5, 5), "reject-route": (1, 6, 6),
    "packet-too-big": (2, 0, 255), "time-exceeded": (3, 0, 255), "ttl-exceeded": (3, 0, 255), "ttl-zero-during-transit": (3, 0, 0),
    "ttl-zero-during-reassembly": (3, 1, 1), "parameter-problem": (4, 0, 255), "bad-header": (4, 0, 0), "unknown-header-type": (4, 1, 1),
    "unknown-option": (4, 2, 2), "echo-request": (128, 0, 255), "ping": (128, 0, 255), "echo-reply": (129, 0, 255), "pong": (129, 0, 255),
    "router-solicitation": (133, 0, 255), "router-advertisement": (134, 0, 255), "neighbour-solicitation": (135, 0, 255),
    "neighbor-solicitation": (135, 0, 255), "neighbour-advertisement": (136, 0, 255), "neighbor-advertisement": (136, 0, 255),
    "redirect": (137, 0, 255),
}  # fmt: skip


def _icmp(table: Mapping[str, tuple[int, int, int]], *, anything: bool) -> Kind:
    def parse(words: Sequence[str], family: int) -> tuple[int, int, int]:  # noqa: ARG001
        text = words[0]
        wanted = text.lower()
        found = [name for name in table if name.lower().startswith(wanted)]
        exact = [name for name in found if name.lower() == wanted]
        if len(exact or found) == 1:
            return table[(exact or found)[0]]
        if found:
            raise ValueError(f"ambiguous ICMP type {text!r}: {found[0]} or {found[1]}?")
        kind, slash, code = text.partition("/")
        try:
            number = k.number(kind, 0, 255)
            one = k.number(code, 0, 255) if slash else None
        except ValueError:
            raise ValueError(f"invalid ICMP type {text!r}") from None
        if anything and number == 255:
            return table["any"]
        return (number, 0, 255) if one is None else (number, one, one)

    def show(value: tuple[int, int, int], family: int) -> str:  # noqa: ARG001
        if anything and value == (255, 0, 255):
            return "any"
        return f"{value[0]}" if (value[1], value[2]) == (0, 255) else f"{value[0]}/{value[1]}"

    return Kind("icmp", 1, parse, show)


ICMP_TYPE: Final = _icmp(_ICMP_NAMES, anything=True)
ICMP6_TYPE: Final = _icmp(_ICMP6_NAMES, anything=False)

"""Addresses and ports of the NAT targets: --to-source, --to-destination, --to-ports. Source: libxt_NAT.c of iptables 1.8.9."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from dataplane.inet import format_address, parse_address
from dataplane.rules.iptables import NatRange
from dataplane.text.xtables_kinds import Kind, number_decimal, port

_PORT_SPAN: Final = re.compile(r"([0-9]+)(?:-([0-9]+)(?:/([0-9]+))?)?")


def _nat_ports(text: str) -> tuple[int, int, int | None]:
    """``PORT[-PORT[/BASE]]`` or the name of a service."""
    found = _PORT_SPAN.fullmatch(text)
    if not found:
        return port(text), port(text), None
    low, high, base = found.groups()
    first = number_decimal(low, 65535)
    last = number_decimal(high, 65535) if high else first
    if last < first:
        raise ValueError(f"port range {text!r} is backwards")
    return first, last, number_decimal(base, 65535) if base else None


def _split_endpoint(text: str, family: int) -> tuple[str, str | None]:
    """Addresses and ports; in IPv6 an address before ports stands in brackets."""
    if family == 4:
        addresses, colon, ports = text.partition(":")
        return addresses, ports if colon else None
    if text.startswith("["):
        addresses, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"a bracket is not closed in {text!r}")
        if rest.startswith("-"):
            raise ValueError(f"a range of addresses stands in one pair of brackets, got {text!r}")
        return addresses, rest[1:] if rest.startswith(":") else None
    return ("", text[1:]) if text.startswith(":") and text.count(":") == 1 else (text, None)


def _nat_range(words: Sequence[str], family: int) -> NatRange:
    text = words[0]
    addresses, ports = _split_endpoint(text, family)
    if not addresses and ports is None:
        raise ValueError(f"expected ADDRESS[-ADDRESS][:PORT[-PORT]], got {text!r}")
    low, dash, high = addresses.partition("-")
    try:
        first = parse_address(low, family)[1] if addresses else None
        last = parse_address(high, family)[1] if dash else first
    except ValueError:
        raise ValueError(f"bad IP address in {text!r}") from None
    return NatRange(first, last, *(_nat_ports(ports) if ports is not None else ()))


def _show_nat_range(value: NatRange, family: int) -> str:
    text = ""
    if value.low is not None:
        text = format_address(family, value.low)
        if value.high is not None and value.high != value.low:
            text += f"-{format_address(family, value.high)}"
    if value.port_low is None:
        return text
    if family == 6 and text:
        text = f"[{text}]"
    text += f":{value.port_low}"
    if value.port_high != value.port_low:
        text += f"-{value.port_high}"
    return text + (f"/{value.port_base}" if value.port_base is not None else "")


def _port_span(words: Sequence[str], family: int) -> NatRange:  # noqa: ARG001
    low, high, _ = _nat_ports(words[0].partition("/")[0])
    return NatRange(port_low=low, port_high=high)


def _show_port_span(value: NatRange, family: int) -> str:  # noqa: ARG001
    return f"{value.port_low}" if value.port_low == value.port_high else f"{value.port_low}-{value.port_high}"


NATRANGE: Final = Kind("endpoint", 1, _nat_range, _show_nat_range)
PORTSPAN: Final = Kind("endpoint", 1, _port_span, _show_port_span)

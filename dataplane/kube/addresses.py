"""The API server's judgement of an address or CIDR in its textual form (strict since 1.36).

Source: k8s.io/apimachinery/pkg/util/validation/ip.go.
"""

from __future__ import annotations

import ipaddress
import re

_NO_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_NO_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def strict_problems(text: str, *, cidr: bool, stored: bool) -> str | None:
    """What is wrong with an address (or CIDR), or None; ``stored`` objects may be sloppy."""
    host, slash, length = text.partition("/")
    if cidr != bool(slash):
        return _NO_CIDR if cidr else _NO_ADDRESS
    plain = re.sub(r"(^|(?<=[.:]))0+(?=[0-9]+(\.|$))", "", host) if "." in host else host
    try:
        address = ipaddress.ip_address(plain)
        if cidr:
            ipaddress.ip_network(f"{plain}/{int(length)}", strict=False)
    except ValueError:
        return _NO_CIDR if cidr else _NO_ADDRESS
    if stored:
        return None
    if plain != host or (cidr and str(int(length)) != length):
        return "must not have leading 0s in IP or prefix length" if cidr else "must not have leading 0s"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return "must not have an IPv4-mapped IPv6 address" if cidr else "must not be an IPv4-mapped IPv6 address"
    if cidr and ipaddress.ip_network(text, strict=False).network_address != address:
        return "must not have bits set beyond the prefix length"
    return None

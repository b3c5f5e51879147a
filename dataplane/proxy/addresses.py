"""Addresses as kube-proxy reads them: sloppily in, canonical out.

Leading zeros of IPv4 octets are decimal, IPv4-mapped IPv6 becomes IPv4. Source: k8s.io/utils/net ParseIPSloppy, ParseCIDRSloppy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from socket import AF_INET6, inet_aton, inet_pton
from struct import unpack

from dataplane.inet import FULL_MASK, Prefix, format_address, mask_of, parse_address

_DOTTED = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")


@lru_cache(maxsize=65536)
def sloppy_address(text: str) -> tuple[int, int] | None:
    """Family and value, or None for what is no address."""
    if _DOTTED.fullmatch(text):
        octets = [int(part) for part in text.split(".")]
        if max(octets) > 255:
            return None
        return 4, octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3]
    try:
        head, dot, _ = text.rpartition(":")
        tail = text[len(head) + 1 :]
        if dot and _DOTTED.fullmatch(tail):
            text = f"{head}:{'.'.join(str(int(part)) for part in tail.split('.'))}"
        family, value = parse_address(text)
    except ValueError:
        return None
    if family == 6 and value >> 32 == 0xFFFF:
        return 4, value & 0xFFFFFFFF
    return family, value


def canonical(text: str, family: int) -> str | None:
    """The address as it is printed in rules, or None where it is none of this family."""
    found = sloppy_address(text)
    return format_address(*found) if found is not None and found[0] == family else None


def sloppy_cidr(text: str) -> Prefix | None:
    """A masked prefix, or None for what is none."""
    host, slash, length = text.partition("/")
    found = sloppy_address(host)
    if found is None or not slash or not re.fullmatch(r"[0-9]+", length):
        return None
    family, bits = found[0], int(length)
    if family == 4 and ":" in host:
        bits -= 96
    if not 0 <= bits <= (32 if family == 4 else 128):
        return None
    mask = mask_of(family, bits)
    return Prefix(family, found[1] & mask, mask)


def canonical_values(texts: Sequence[str], family: int) -> Sequence[int]:
    """The values of many addresses in canonical text, faster than one by one."""
    if family == 4:
        return unpack(f">{len(texts)}I", b"".join(map(inet_aton, texts)))
    return [int.from_bytes(inet_pton(AF_INET6, text), "big") for text in texts]


def host_prefix(family: int, address: int) -> Prefix:
    """The prefix that holds one address only."""
    return Prefix(family, address, FULL_MASK[family])

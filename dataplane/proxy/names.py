"""Chain names: a prefix and 16 base32 characters of a SHA-256, as kube-proxy makes them.

A large cluster has a hundred thousand of them, so ten bits at a time are looked up instead of five. Source: pkg/proxy/iptables/proxier.go (portProtoHash, servicePortEndpointChainName).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # RFC 4648
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)


def _base32(digest: bytes) -> str:
    """The first 80 bits of a digest."""
    bits, pairs = int.from_bytes(digest[:10], "big"), _PAIRS
    return (
        f"{pairs[bits >> 70]}{pairs[bits >> 60 & 1023]}{pairs[bits >> 50 & 1023]}{pairs[bits >> 40 & 1023]}"
        f"{pairs[bits >> 30 & 1023]}{pairs[bits >> 20 & 1023]}{pairs[bits >> 10 & 1023]}{pairs[bits & 1023]}"
    )


def service_hash(port_name: str, protocol: str) -> str:
    """What KUBE-SVC-, KUBE-SVL-, KUBE-FW- and KUBE-EXT- are followed by."""
    return _base32(sha256(f"{port_name}{protocol}".encode()).digest())


def endpoint_chains(port_name: str, protocol: str, endpoints: Iterable[str]) -> dict[str, str]:
    """The KUBE-SEP- chain of each endpoint (``ip:port``) of a service port."""
    common, pairs, number, made = f"{port_name}{protocol}", _PAIRS, int.from_bytes, {}
    for endpoint in endpoints:
        bits = number(sha256(f"{common}{endpoint}".encode()).digest()[:10], "big")
        made[endpoint] = (
            f"KUBE-SEP-{pairs[bits >> 70]}{pairs[bits >> 60 & 1023]}{pairs[bits >> 50 & 1023]}{pairs[bits >> 40 & 1023]}"
            f"{pairs[bits >> 30 & 1023]}{pairs[bits >> 20 & 1023]}{pairs[bits >> 10 & 1023]}{pairs[bits & 1023]}"
        )
    return made

"""Chain names: a prefix and 16 base32 characters of a SHA-256, as kube-proxy makes them.

Source: pkg/proxy/iptables/proxier.go (portProtoHash, servicePortEndpointChainName).
"""

from __future__ import annotations

from base64 import b32encode
from hashlib import sha256


def service_hash(port_name: str, protocol: str) -> str:
    """What KUBE-SVC-, KUBE-SVL-, KUBE-FW- and KUBE-EXT- are followed by."""
    return b32encode(sha256(f"{port_name}{protocol}".encode()).digest()[:10]).decode()


def endpoint_chain(port_name: str, protocol: str, endpoint: str) -> str:
    """The KUBE-SEP- chain of an endpoint (``ip:port``) of a service port."""
    return "KUBE-SEP-" + b32encode(sha256(f"{port_name}{protocol}{endpoint}".encode()).digest()[:10]).decode()

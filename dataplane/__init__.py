"""dataplane: what kube-proxy programs and what the kernel then does to a packet, without root and without a cluster."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
_API = ("Cluster", "Node", "Result", "load", "load_snapshot")
__all__ = ["Cluster", "Node", "Result", "__version__", "load", "load_snapshot"]


def __getattr__(name: str) -> Any:
    if name in _API:
        from dataplane import node

        return getattr(node, name)
    raise AttributeError(f"module 'dataplane' has no attribute {name!r}")

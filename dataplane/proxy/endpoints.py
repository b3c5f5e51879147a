"""The endpoints map: EndpointSlices merged into a sorted list for each service port.

Source: pkg/proxy/endpointslicecache.go, endpoint.go of Kubernetes 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dataplane.inet import format_endpoint
from dataplane.kube.objects import Endpoint as SliceEndpoint
from dataplane.kube.objects import EndpointSlice
from dataplane.proxy.addresses import sloppy_address

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


class Endpoint(NamedTuple):
    """``text`` is ``ip:port`` (IPv6 in brackets), ``ip`` without them. A named tuple: large clusters have very many."""

    text: str
    ip: str
    port: int
    local: bool
    ready: bool
    serving: bool
    terminating: bool
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ADDRESS4: Final = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
_CANONICAL4: Final = re.compile(rf"{_ADDRESS4}(?: {_ADDRESS4})*")

PortKey = tuple[str, str, str, str]  # namespace, service, port name, protocol (lower case)


def endpoints_map(slices: Iterable[EndpointSlice], family: int, node_name: str) -> dict[PortKey, tuple[Endpoint, ...]]:
    """Endpoints of each service port, sorted by their text byte by byte."""
    merged: dict[PortKey, dict[str, Endpoint]] = {}
    wanted, new = f"IPv{family}", tuple.__new__
    for one in slices:
        service = one.labels.get(SERVICE_NAME_LABEL, "")
        if one.address_type != wanted or not service or HEADLESS_LABEL in one.labels:
            continue
        for port in one.ports:
            if port.name is None or not port.port:
                continue
            key = (one.namespace, service, port.name, (port.protocol or "TCP").lower())
            into = merged.setdefault(key, {})
            number = port.port
            for endpoint, (text, ip) in zip(one.endpoints, _texts(one.endpoints, number), strict=True):
                if text and (endpoint.terminating is not True or text not in into):
                    into[text] = new(Endpoint, (
                        text, ip, number, endpoint.node_name == node_name != "", endpoint.ready is not False, endpoint.serving is not False,
                        endpoint.terminating is True, endpoint.hint_zones, endpoint.hint_nodes,
                    ))  # fmt: skip
    return {key: tuple([into[text] for text in sorted(into)]) for key, into in merged.items()}


def _texts(endpoints: Sequence[SliceEndpoint], port: int) -> list[tuple[str, str]]:
    """``ip:port`` and ``ip`` of each endpoint, empty where its address is none."""
    addresses = [one.addresses[0] if one.addresses else "" for one in endpoints]
    if _CANONICAL4.fullmatch(" ".join(addresses)):
        return [(f"{ip}:{port}", ip) for ip in addresses]
    return [_text(ip, port) for ip in addresses]


def _text(address: str, port: int) -> tuple[str, str]:
    found = sloppy_address(address)
    if found is None:
        return "", ""
    text = format_endpoint(*found, port)
    return text, text[: -len(f":{port}")].strip("[]")

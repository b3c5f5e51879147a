"""The endpoints map: EndpointSlices merged into a sorted list for each service port.

Source: pkg/proxy/endpointslicecache.go, endpoint.go of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dataplane.inet import format_endpoint
from dataplane.kube.objects import EndpointSlice
from dataplane.proxy.addresses import sloppy_address

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``text`` is ``ip:port`` (IPv6 in brackets), ``ip`` without them."""

    text: str
    ip: str
    port: int
    local: bool
    ready: bool
    serving: bool
    terminating: bool
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


PortKey = tuple[str, str, str, str]  # namespace, service, port name, protocol (lower case)


def endpoints_map(slices: Iterable[EndpointSlice], family: int, node_name: str) -> dict[PortKey, tuple[Endpoint, ...]]:
    """Endpoints of each service port, sorted by their text byte by byte."""
    merged: dict[PortKey, dict[str, Endpoint]] = {}
    texts: dict[tuple[str, int], tuple[str, str] | None] = {}
    wanted = f"IPv{family}"
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
            for endpoint in one.endpoints:
                if not endpoint.addresses:
                    continue
                place = (endpoint.addresses[0], number)
                known = texts[place] if place in texts else texts.setdefault(place, _texts(*place))
                if known is None:
                    continue
                text, ip = known
                made = Endpoint(
                    text, ip, number, endpoint.node_name == node_name and node_name != "", endpoint.ready is not False,
                    endpoint.serving is not False, bool(endpoint.terminating), endpoint.hint_zones, endpoint.hint_nodes,
                )  # fmt: skip
                if text not in into or not made.terminating:
                    into[text] = made
    return {key: tuple(into[text] for text in sorted(into)) for key, into in merged.items()}


def _texts(address: str, port: int) -> tuple[str, str] | None:
    found = sloppy_address(address)
    if found is None:
        return None
    text = format_endpoint(*found, port)
    return text, text[: -len(f":{port}")].strip("[]")

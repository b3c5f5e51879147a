"""kube-proxy's IPVS mode: the virtual servers, the members of the ip sets and the addresses to bind, service port by service port.

Each function is one section of the sync and notes what it wants in a Wanted. Source: pkg/proxy/ipvs/proxier.go of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from typing import Final

from dataplane.inet import PROTOCOL_NUMBERS, Prefix, parse_address
from dataplane.proxy.addresses import canonical_values, sloppy_cidr
from dataplane.proxy.endpoints import Endpoint
from dataplane.proxy.ipvs_rules import BarredNode, Settings
from dataplane.proxy.ipvs_sets import Member, Members, no_members
from dataplane.proxy.serviceport import ServicePort
from dataplane.proxy.topology import Categorized
from dataplane.rules.ipvs import IPVS, NO_FLAGS, RealServer, SchedulerFlags, VirtualServer

_Key = tuple[int, int, int, int, int]  # VirtualServer.key


@dataclass(slots=True)
class Wanted:
    """What a sync wants the kernel to hold, as far as it has got. ``bound`` are addresses of kube-ipvs0."""

    servers: dict[_Key, VirtualServer] = field(default_factory=dict)
    members: Members = field(default_factory=no_members)
    bound: dict[str, None] = field(default_factory=dict)
    barred: list[BarredNode] = field(default_factory=list)


#: The fields of a real server that are always alike.
_PLAIN: Final = tuple(map(repeat, RealServer(4, 0, 0)[3:]))


def sync(
    ports: Sequence[ServicePort], endpoints: Mapping[int, Sequence[Endpoint]], categorized: Mapping[int, Categorized], settings: Settings
) -> Wanted:
    """One full sync: all endpoints of each port, and the categorized ones, by its position.

    Where two service ports want the same virtual server the later one wins; kube-proxy's order is random.
    """
    wanted = Wanted()
    for index, port in enumerate(ports):
        _service_port(wanted, port, endpoints[index], categorized[index], settings)
    wanted.members["IPVS-IPS"] = {(address, "", 0, ""): None for address in wanted.bound}
    return wanted


def kept(before: IPVS, wanted: Wanted, family: int, exclude: Sequence[str]) -> list[VirtualServer]:
    """The virtual servers of one family afterwards: others stay only inside ``excludeCIDRs``.

    One by mark stays, too: kube-proxy tries to delete it by an address, which it has not.
    """
    cidrs = [cidr for text in exclude if (cidr := sloppy_cidr(text)) is not None and cidr.family == family]
    stay = [one for one in before.servers if one.family == family and one.key not in wanted.servers and (one.fwmark or _excluded(one, cidrs))]
    return [*stay, *wanted.servers.values()]


def _excluded(one: VirtualServer, cidrs: Sequence[Prefix]) -> bool:
    return any(one.address in cidr for cidr in cidrs)


def _service_port(wanted: Wanted, port: ServicePort, endpoints: Sequence[Endpoint], ends: Categorized, settings: Settings) -> None:
    _loopback(wanted, port, endpoints)
    cluster = real_servers(ends.cluster, settings.family)
    local = real_servers(ends.local, settings.family) if ends.local else cluster
    _cluster_ip(wanted, port, local if port.internal_local else cluster, settings)
    outside = local if port.external_local else cluster
    for address in port.external_ips:
        _external_ip(wanted, port, address, outside, settings)
    for address in port.vips:
        _load_balancer(wanted, port, address, outside, settings)
    if port.node_port:
        if not settings.nodeport_ips:
            return  # kube-proxy's loop goes on to the next service port, health check or not
        _node_port(wanted, port, outside, settings)
    if port.health_check_node_port:
        wanted.members["HEALTH-CHECK-NODE-PORT"]["", "", port.health_check_node_port, ""] = None


def real_servers(endpoints: Sequence[Endpoint], family: int) -> tuple[RealServer, ...]:
    """Masqueraded real servers of weight 1, in the order of the endpoints."""
    values = canonical_values([one.ip for one in endpoints], family)
    made = zip(repeat(family), values, [one.port for one in endpoints], *_PLAIN, strict=False)
    return tuple(map(tuple.__new__, repeat(RealServer), made))


def _loopback(wanted: Wanted, port: ServicePort, endpoints: Sequence[Endpoint]) -> None:
    """A pod that reaches itself through its Service needs another source address: every local endpoint, ready or not."""
    protocol = port.protocol
    wanted.members["LOOP-BACK"].update(dict.fromkeys([(one.ip, protocol, one.port, one.ip) for one in endpoints if one.local]))


def _cluster_ip(wanted: Wanted, port: ServicePort, servers: tuple[RealServer, ...], settings: Settings) -> None:
    wanted.members["CLUSTER-IP"][_portal(port, port.cluster_ip)] = None
    wanted.bound[port.cluster_ip] = None
    _virtual_server(wanted, port, port.cluster_ip, port.port, servers, settings)


def _external_ip(wanted: Wanted, port: ServicePort, address: str, servers: tuple[RealServer, ...], settings: Settings) -> None:
    wanted.members["EXTERNAL-IP-LOCAL" if port.external_local else "EXTERNAL-IP"][_portal(port, address)] = None
    _bind(wanted, address, settings)
    _virtual_server(wanted, port, address, port.port, servers, settings)


def _load_balancer(wanted: Wanted, port: ServicePort, address: str, servers: tuple[RealServer, ...], settings: Settings) -> None:
    portal = _portal(port, address)
    wanted.members["LOAD-BALANCER"][portal] = None
    if port.external_local:
        wanted.members["LOAD-BALANCER-LOCAL"][portal] = None
    if port.sources:
        _source_ranges(wanted, port, address, settings)
    _bind(wanted, address, settings)
    _virtual_server(wanted, port, address, port.port, servers, settings)


def _source_ranges(wanted: Wanted, port: ServicePort, address: str, settings: Settings) -> None:
    """The node itself reaches the address with the address as its source, so it is let in by a set or barred by a rule."""
    members, portal = wanted.members, _portal(port, address)
    members["LOAD-BALANCER-FW"][portal] = None
    node_allowed = False
    for source in port.sources:
        members["LOAD-BALANCER-SOURCE-CIDR"][(*portal[:3], source)] = None
        cidr = sloppy_cidr(source)
        node_allowed = node_allowed or (cidr is not None and settings.node_ip is not None and settings.node_ip in cidr)
    if node_allowed:
        members["LOAD-BALANCER-SOURCE-IP"][(*portal[:3], address)] = None
    else:
        wanted.barred.append(BarredNode(address, port.protocol, port.port))


def _node_port(wanted: Wanted, port: ServicePort, servers: tuple[RealServer, ...], settings: Settings) -> None:
    names = [f"NODE-PORT-{port.protocol.upper()}"] + ([f"NODE-PORT-LOCAL-{port.protocol.upper()}"] if port.external_local else [])
    for name in names:
        if port.protocol == "sctp":
            wanted.members[f"{name}-HASH"].update({(address, "sctp", port.node_port, ""): None for address in settings.nodeport_ips})
        else:
            wanted.members[name]["", "", port.node_port, ""] = None
    for address in settings.nodeport_ips:
        _virtual_server(wanted, port, address, port.node_port, servers, settings)


def _portal(port: ServicePort, address: str) -> Member:
    return address, port.protocol, port.port, ""


def _bind(wanted: Wanted, address: str, settings: Settings) -> None:
    """An address that another interface has is not taken over: that would break the interface's own traffic."""
    if address not in settings.node_addresses:
        wanted.bound[address] = None


def _virtual_server(wanted: Wanted, port: ServicePort, address: str, number: int, servers: tuple[RealServer, ...], settings: Settings) -> None:
    flags = SchedulerFlags.FLAG_2 if settings.scheduler == "mh" else NO_FLAGS  # mh-port
    made = VirtualServer(
        settings.family, PROTOCOL_NUMBERS[port.protocol], _value(address), number, 0, settings.scheduler, flags, port.affinity, servers=servers
    )
    wanted.servers[made.key] = made


@lru_cache(maxsize=65536)
def _value(address: str) -> int:
    return parse_address(address)[1]

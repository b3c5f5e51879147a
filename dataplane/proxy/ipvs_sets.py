"""The ip sets of kube-proxy's IPVS mode: which there are, and as frozen data what is in them.

All of them always exist, in each family that is proxied. Source: pkg/proxy/ipvs/ipset.go, proxier.go (ipsetInfo) of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from dataplane.inet import FULL_MASK, PROTOCOL_NUMBERS, Prefix, parse_prefix
from dataplane.proxy.addresses import canonical_values
from dataplane.rules.ipset import Element, Entry, IPSet, PortElement

_MAX_NAME: Final = 31
#: What one set can hold (maxelem); the kernel refuses more, kube-proxy logs that and goes on.
MAX_ELEMENTS: Final = 65536


class SetKind(NamedTuple):
    """``comment`` is only ever used in the rules that match the set."""

    type: str
    comment: str


#: By the name without KUBE-, in the order of the source.
KINDS: Final[Mapping[str, SetKind]] = {
    "LOOP-BACK": SetKind("hash:ip,port,ip", "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    "CLUSTER-IP": SetKind("hash:ip,port", "Kubernetes service cluster ip + port for masquerade purpose"),
    "EXTERNAL-IP": SetKind("hash:ip,port", "Kubernetes service external ip + port for masquerade and filter purpose"),
    "EXTERNAL-IP-LOCAL": SetKind("hash:ip,port", "Kubernetes service external ip + port with externalTrafficPolicy=local"),
    "LOAD-BALANCER": SetKind("hash:ip,port", "Kubernetes service lb portal"),
    "LOAD-BALANCER-FW": SetKind("hash:ip,port", "Kubernetes service load balancer ip + port for load balancer with sourceRange"),
    "LOAD-BALANCER-LOCAL": SetKind("hash:ip,port", "Kubernetes service load balancer ip + port with externalTrafficPolicy=local"),
    "LOAD-BALANCER-SOURCE-IP": SetKind("hash:ip,port,ip", "Kubernetes service load balancer ip + port + source IP for packet filter purpose"),
    "LOAD-BALANCER-SOURCE-CIDR": SetKind("hash:ip,port,net", "Kubernetes service load balancer ip + port + source cidr for packet filter purpose"),
    "NODE-PORT-TCP": SetKind("bitmap:port", "Kubernetes nodeport TCP port for masquerade purpose"),
    "NODE-PORT-LOCAL-TCP": SetKind("bitmap:port", "Kubernetes nodeport TCP port with externalTrafficPolicy=local"),
    "NODE-PORT-UDP": SetKind("bitmap:port", "Kubernetes nodeport UDP port for masquerade purpose"),
    "NODE-PORT-LOCAL-UDP": SetKind("bitmap:port", "Kubernetes nodeport UDP port with externalTrafficPolicy=local"),
    "NODE-PORT-SCTP-HASH": SetKind("hash:ip,port", "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'"),
    "NODE-PORT-LOCAL-SCTP-HASH": SetKind("hash:ip,port", "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'"),
    "HEALTH-CHECK-NODE-PORT": SetKind("bitmap:port", "Kubernetes health check node port"),
    "IPVS-IPS": SetKind("hash:ip", "Addresses on the ipvs interface"),
}

#: A member as kube-proxy thinks of it: address, protocol, port, and a second address or a CIDR; what a type has not is empty.
Member = tuple[str, str, int, str]
#: The members of each set, by the names of KINDS; as keys, since a member is in a set once.
Members = dict[str, dict[Member, None]]


def no_members() -> Members:
    """Every set, with nothing in it."""
    return {name: {} for name in KINDS}


def set_name(name: str, family: int) -> str:
    """``KUBE-CLUSTER-IP``, ``KUBE-6-CLUSTER-IP``: cut to what ipset allows."""
    return f"KUBE-{'6-' if family == 6 else ''}{name}"[:_MAX_NAME]


def ip_sets(members: Members, family: int) -> dict[str, IPSet]:
    """The sets as the kernel holds them, by their names; members in order."""
    return {set_name(name, family): _made(set_name(name, family), kind, family, list(members[name])) for name, kind in KINDS.items()}


def overfull(members: Members) -> list[str]:
    """The names of sets that have more members than fit."""
    return [name for name, some in members.items() if len(some) > MAX_ELEMENTS]


def _made(name: str, kind: SetKind, family: int, members: list[Member]) -> IPSet:
    if kind.type == "bitmap:port":
        ports = tuple([Entry((port,)) for port in sorted(member[2] for member in members)])
        return IPSet(name, kind.type, 4, (("range", "0-65535"),), ports)
    entries = tuple(map(Entry, _elements(kind.type, members[:MAX_ELEMENTS], family)))
    return IPSet(name, kind.type, family, (("hashsize", "1024"), ("maxelem", str(MAX_ELEMENTS))), entries)


def _elements(kind: str, members: list[Member], family: int) -> Iterable[tuple[Element, ...]]:
    """The members' elements, column by column: large clusters have very many."""
    if not members:
        return ()
    addresses, protocols, ports, others = zip(*members, strict=True)
    first = [Prefix(family, value, FULL_MASK[family]) for value in canonical_values(addresses, family)]
    if kind == "hash:ip":
        return zip(first, strict=True)
    where = map(_port_element, protocols, ports)
    if not any(others):
        return zip(first, where, strict=True)
    second = first if others == addresses else [parse_prefix(other, family) for other in others]
    return zip(first, where, second, strict=True)


@lru_cache(maxsize=65536)
def _port_element(protocol: str, port: int) -> PortElement:
    return PortElement(PROTOCOL_NUMBERS[protocol], port)

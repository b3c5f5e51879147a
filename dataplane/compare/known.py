"""Differences between modes that somebody has met before: a table of what was reported, and how to tell it.

The numbers are issues and pull requests of kubernetes/kubernetes, where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from dataplane.compare.fates import Outcome
from dataplane.compare.probes import (
    CLIENT,
    CLUSTER_IP,
    ENDPOINT,
    EXTERNAL_IP,
    LAN,
    LOAD_BALANCER,
    LOOPBACK,
    NODE,
    NODE_PORT,
    NODE_PORT_ON_VIP,
    OTHER_NODE_PORT,
    OTHER_POD,
    PING,
    POD,
    WRONG_PORT,
    Probe,
)
from dataplane.proxy.serviceport import ServicePort


class Case(NamedTuple):
    """One probe that differs: its Service's port, and by the variant's mode what became of it."""

    probe: Probe
    port: ServicePort | None
    outcomes: Mapping[str, Sequence[Outcome]]
    node_addresses: frozenset[int]

    def ends(self, mode: str, *words: str) -> bool:
        """Whether some outcome in that mode has one of the words in it."""
        return any(word in str(one.fate) for one in self.outcomes.get(mode, ()) for word in words)

    def decided(self, mode: str, chain: str) -> bool:
        """Whether in that mode a rule or policy of a chain was the end."""
        return any(one.trace.by is not None and one.trace.by.chain == chain for one in self.outcomes.get(mode, ()))


class Known(NamedTuple):
    """``applies`` decides from a case; ``text`` is one sentence and where it was reported."""

    text: str
    applies: Callable[[Case], bool]


def known_issue(case: Case) -> str:
    """The first that applies, or ""."""
    return next((one.text for one in KNOWN if one.applies(case)), "")


def _of(*kinds: str) -> Callable[[Case], bool]:
    return lambda case: case.probe.frontend.kind in kinds


def _takes_a_nodes_address(case: Case) -> bool:
    frontend = case.probe.frontend
    taken = frontend.kind == OTHER_NODE_PORT or (frontend.of in (EXTERNAL_IP, LOAD_BALANCER) and frontend.address in case.node_addresses)
    return taken and case.ends("iptables", "sent on") and case.ends("ipvs", "delivered to the node itself", "refused")


def _internal_policy_ignored(case: Case) -> bool:
    port = case.port
    return port is not None and port.internal_local and case.probe.frontend.kind == CLUSTER_IP and case.ends("iptables", "dropped") and case.ends("ipvs", "sent to")


def _hairpin(case: Case) -> bool:
    return case.probe.vantage == ENDPOINT and not case.ends("ipvs", "dropped", "refused")


def _local_policy_from_inside(case: Case) -> bool:
    port = case.port
    inside = case.probe.vantage in (POD, ENDPOINT, NODE, OTHER_POD)
    return port is not None and port.external_local and inside and case.probe.frontend.kind in (EXTERNAL_IP, LOAD_BALANCER, NODE_PORT)


def _answer_lost_from_outside(case: Case) -> bool:
    return case.port is not None and case.port.external_local and case.probe.vantage in (CLIENT, LAN) and case.ends("ipvs", "answer lost")


def _no_local_endpoint(case: Case) -> bool:
    local = case.port is not None and (case.port.internal_local or case.port.external_local)
    return local and case.ends("iptables", "dropped") and case.ends("ipvs", "refused")


def _two_owners(case: Case) -> bool:
    def ends(mode: str) -> set[str]:
        return {one.fate.where for one in case.outcomes.get(mode, ()) if one.fate.kind.startswith("sent to an endpoint")}

    return case.probe.frontend.kind in (EXTERNAL_IP, LOAD_BALANCER) and bool(ends("iptables")) and bool(ends("ipvs")) and not ends("iptables") & ends("ipvs")


def _source_ranges(case: Case) -> bool:
    return case.port is not None and bool(case.port.sources) and case.probe.frontend.of == LOAD_BALANCER and case.probe.frontend.kind == LOAD_BALANCER


KNOWN: Final = (
    Known(
        "IPVS binds every Service address to kube-ipvs0: a node's address that a Service takes is then local on every other node, which cannot reach "
        "that node any more (#127410, #104679, #93175)", _takes_a_nodes_address,
    ),
    Known("the node's INPUT chain decides: in IPVS mode Services are met behind it, in iptables mode they never pass it (#98465, #97225)",
          lambda case: case.decided("ipvs", "INPUT") and not case.decided("iptables", "INPUT")),
    Known("ping: in IPVS mode Service addresses are the node's own, and KUBE-IPVS-FILTER refuses what is not served (before it was there, the node "
          "answered); in iptables mode nobody has them (#72236)", _of(PING)),
    Known("a port that no Service has: in IPVS mode the address is the node's own, and KUBE-IPVS-FILTER refuses what is not served; "
          "in iptables mode the packet is routed on (#72236)", _of(WRONG_PORT)),
    Known("NodePorts on other addresses of the node: iptables mode serves every local address, IPVS mode those of the node's interfaces only "
          "(#47723, #111863, #75443)", _of(NODE_PORT_ON_VIP)),
    Known("externalTrafficPolicy Local without a local endpoint: iptables mode drops, so that balancers look elsewhere; IPVS mode sends the packet to "
          "another node's endpoint with the client's address, and the answer goes past this node (#71596, #66062)", _answer_lost_from_outside),
    Known("a Local policy without a local endpoint: iptables mode drops, IPVS mode has a virtual server without real servers and refuses "
          "(#121371, #119131)", _no_local_endpoint),
    Known("internalTrafficPolicy Local without a local endpoint: iptables mode drops; IPVS mode, where externalTrafficPolicy is Local too, has real "
          "servers on other nodes", _internal_policy_ignored),
    Known("two Services claim the same address and port: in iptables mode the first in the order of names has it, in IPVS mode the last that was "
          "written (#69599)", _two_owners),
    Known("127.0.0.1:nodePort and [::1]:nodePort: only iptables mode answers, over IPv4, with route_localnet and localhostNodePorts (#90236, #96879, "
          "#67730, #56320)", lambda case: case.probe.vantage == LOOPBACK),
    Known("externalTrafficPolicy Local asked from inside: iptables mode takes endpoints anywhere, IPVS mode has local ones only (#75262, #93456)",
          _local_policy_from_inside),
    Known("loadBalancerSourceRanges: IPVS mode knows them as sets that are looked at elsewhere (#119656, #62638)", _source_ranges),
    Known("NodePort: in IPVS mode it is a virtual server on each of the node's own addresses (#75443, #93674)", _of(NODE_PORT)),
    Known("an endpoint that asks its own Service is masqueraded in both modes, by the endpoint's own rule or by KUBE-LOOP-BACK: to which address may differ "
          "(#53775, #85877)", _hairpin),
    Known("the node itself asks: in IPVS mode its source is the Service's address on kube-ipvs0 until it is masqueraded (#65158)",
          lambda case: case.probe.vantage == NODE and case.probe.frontend.kind in (CLUSTER_IP, EXTERNAL_IP, LOAD_BALANCER)),
    Known("in IPVS mode a client outside reaches ClusterIPs that are routed to a node, in iptables mode too, by other rules",
          lambda case: case.probe.vantage in (CLIENT, LAN) and case.probe.frontend.kind == CLUSTER_IP),
)  # fmt: skip

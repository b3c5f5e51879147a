"""kube-proxy's own unit tests of IPVS mode: after each sync the virtual servers, ip sets and bound addresses that upstream's fakes held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataplane.inet import PROTOCOL_NUMBERS, format_address, parse_address
from dataplane.kube import convert
from dataplane.kube.fields import Fields, Problems
from dataplane.kube.manifest import Document
from dataplane.kube.objects import Cluster, KubeProxyConfiguration, Origin
from dataplane.proxy.compile import compile_node
from dataplane.proxy.network import plain_network
from dataplane.rules.ipvs import VirtualServer
from dataplane.rules.network import Address, Link
from dataplane.rules.nodestate import NodeState
from dataplane.text.ipset import format_member
from tests.proxy.test_upstream_flows import links_of
from tests.shared import cases, needs_shared

CASES = cases("upstream-flows/ipvs/*.json")
NAMES = {number: name.upper() for name, number in PROTOCOL_NUMBERS.items()}


def network_links(case: dict[str, Any]) -> tuple[Link, ...]:
    """Upstream has two fakes of one network: what it lists for CIDRs, and what it lists by interface."""
    links = links_of(case["config"])
    known = {one.local for link in links for one in link.addresses}
    made = []
    for name, texts in case["ipvs"]["addresses"].items():
        found = [parse_address(text) for text in texts or [] if name != "kube-ipvs0"]
        made += [Address(family, local, 32 if family == 4 else 128) for family, local in found if local not in known]
    return (*links, Link(len(links) + 1, "more", addresses=tuple(made))) if made else links


def state_of(case: dict[str, Any]) -> NodeState:
    config = case["config"]
    cluster = Cluster(**{
        field: tuple(convert.SIMPLE[kind](Fields(one, "", Problems(Document("", 1, one))), Origin("")) for one in case[key] or [])
        for field, kind, key in (("services", "Service", "services"), ("endpoint_slices", "EndpointSlice", "endpointSlices"), ("nodes", "Node", "nodes"))
    })  # as fed to the proxier: no API server has defaulted or judged them
    node = next(one for one in cluster.nodes if one.name == config["nodeName"])
    settings = KubeProxyConfiguration(
        nodeport_addresses=tuple(config["nodePortAddresses"] or ()), hostname_override=config["nodeName"], bind_address=config["nodeIP"],
        iptables_masquerade_all=config["masqueradeAll"], random_fully=config["randomFully"], ipvs_scheduler=config["ipvsScheduler"],
    )  # fmt: skip
    family = 6 if config["ipFamily"] == "IPv6" else 4
    network = plain_network(node, (node,), network_links(case))
    return compile_node(cluster, node, configuration=settings, network=network, families=[family], mode="ipvs").state


def shown(one: VirtualServer) -> dict[str, Any]:
    """A virtual server in upstream's words; the flags are the kernel's bits."""
    ends = [{"address": format_address(end.family, end.address), "port": end.port, "weight": end.weight} for end in one.servers]
    return {
        "address": format_address(one.family, one.address), "port": one.port, "protocol": NAMES[one.protocol], "scheduler": one.scheduler,
        "flags": (one.persistence is not None) | one.flags, "timeout": one.persistence or 0, "realServers": ends,
    }  # fmt: skip


def in_order(servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for one in servers:
        one["realServers"] = sorted(one["realServers"] or [], key=str)
    return sorted(servers, key=str)


def short(name: str) -> str:
    """Upstream's fakes give the IPv6 proxier sets with the names of IPv4, and so without the cut."""
    return name.replace("KUBE-6-", "KUBE-")[:29]


@needs_shared
def test_there_are_cases() -> None:
    assert len(CASES) >= 58


@needs_shared
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_sync_leaves_what_upstream_holds(path: Path) -> None:
    case = json.loads(path.read_text())
    state, held = state_of(case), case["ipvs"]
    assert in_order([shown(one) for one in state.ipvs.servers]) == in_order(held["virtualServers"] or [])
    sets = {short(one.name): sorted(format_member(one, entry) for entry in one.entries) for one in state.ipsets.sets.values()}
    assert sets == {short(one["name"]): sorted(one["entries"]) for one in held["ipsets"]}
    device = next(link for link in state.links if link.name == "kube-ipvs0")
    assert sorted(format_address(one.family, one.local) for one in device.addresses) == sorted(held["addresses"].get("kube-ipvs0") or [])

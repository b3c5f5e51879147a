"""kube-proxy's own packet-flow cases in iptables mode, walked through the whole engine instead of through a regex.

Upstream's tracer takes every packet through PREROUTING; here packets with a source of the node's own are sent by the node, the others
come in by eth0 or, from a pod's address, as well.
"""

import json

import pytest

from dataplane.engine.netns import Netns
from dataplane.inet import PROTOCOL_NUMBERS, format_endpoint, parse_address, parse_prefix
from dataplane.kube import convert
from dataplane.kube.fields import Fields, Problems
from dataplane.kube.manifest import Document
from dataplane.kube.objects import Cluster, KubeProxyConfiguration, Origin
from dataplane.packet_text import make_packet
from dataplane.proxy import compile as proxy
from dataplane.proxy.network import plain_network
from dataplane.rules.network import Address, Link, NextHop, Route
from tests.shared import cases, needs_shared

CASES = [path for path in cases("upstream-flows/iptables/*.json") if json.loads(path.read_text()).get("flows")]


def links_of(config):
    links = []
    for number, one in enumerate(config["networkInterfaces"], 1):
        addresses = []
        for text in one["addresses"]:
            try:
                family, local = parse_address(text.partition("/")[0])
            except ValueError:
                continue
            addresses.append(Address(family, local, int(text.partition("/")[2])))
        flags = ("LOOPBACK", "UP", "LOWER_UP") if one["name"] == "lo" else ("UP", "LOWER_UP")
        links.append(Link(number, one["name"], flags, addresses=tuple(addresses)))
    return tuple(links)


def node_of(case):
    config = case["config"]
    cluster = Cluster(**{
        field: tuple(convert.SIMPLE[kind](Fields(one, "", Problems(Document("", 1, one))), Origin("")) for one in case[key] or [])
        for field, kind, key in (("services", "Service", "services"), ("endpoint_slices", "EndpointSlice", "endpointSlices"), ("nodes", "Node", "nodes"))
    })  # as fed to the proxier: no API server has defaulted or judged them
    node = next(one for one in cluster.nodes if one.name == config["nodeName"])
    settings = KubeProxyConfiguration(
        cluster_cidr=config.get("clusterCIDR", "") if config["localDetector"] == "clusterCIDR" else "",
        nodeport_addresses=tuple(config["nodePortAddresses"] or ()), iptables_masquerade_all=config["masqueradeAll"],
        iptables_localhost_node_ports=config["localhostNodePorts"], hostname_override=config["nodeName"],
        random_fully=config["randomFully"], bind_address=config["nodeIP"],
    )  # fmt: skip
    family = 6 if config["ipFamily"] == "IPv6" else 4
    links = links_of(config)
    base = plain_network(node, (node,), links)
    hop = (NextHop(dev="eth0"),)
    routes = {4: (*base.routes4, Route(4, parse_prefix("0.0.0.0/0"), nexthops=hop)), 6: (*base.routes6, Route(6, parse_prefix("::/0"), nexthops=hop))}


    localnet = {"net.ipv4.conf.all.route_localnet": str(int(settings.iptables_localhost_node_ports))}
    network = base._replace(routes4=routes[4], routes6=routes[6], sysctls={**base.sysctls, **localnet})
    return Netns(proxy.compile_node(cluster, node, configuration=settings, network=network, families=[family]).state)


def walk(netns, case, flow):
    family, saddr = parse_address(flow["sourceIP"])
    daddr = parse_address(flow["destIP"])[1]
    protocol = PROTOCOL_NUMBERS[(flow["protocol"] or "TCP").lower()]
    packet = make_packet(protocol, family, saddr, daddr, 40000, flow["destPort"])
    local = flow["sourceIP"] in case["tracerLocalIPs"]
    return [trace for _, trace in netns.outcomes(packet, None if local else "eth0")], packet


@needs_shared
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_flows_end_where_upstream_says(path):
    case = json.loads(path.read_text())
    netns = node_of(case)
    wrong = []
    for flow in case["flows"]:
        traces, packet = walk(netns, case, flow)
        got, masqueraded = set(), False
        for trace in traces:
            final = trace.packet
            if trace.verdict in ("drop", "reject"):
                got.add(trace.verdict.upper())
            elif (final.daddr, final.dport) != (packet.daddr, packet.dport):
                got.add(format_endpoint(final.family, final.daddr, final.dport))
                masqueraded = masqueraded or any(getattr(one.rule.target, "name", "") == "MASQUERADE" for one in trace.rules())
            else:
                accepted = any(event.action == "accept" and event.ref.chain == "KUBE-NODEPORTS" for event in trace.rules())
                got.add("ACCEPT" if accepted else "")
        wanted = set((flow["output"] or "").split(", "))
        if got != wanted or (flow["masq"] != masqueraded and not wanted & {"DROP", "REJECT", "ACCEPT", ""}):
            reason = {trace.reason for trace in traces}
            wrong.append(f"{flow['name']}: {flow['sourceIP']} > {flow['destIP']}:{flow['destPort']}: wanted {wanted} masq={flow['masq']}, got {got} masq={masqueraded} {reason}")
    assert not wrong, "\n".join(wrong)



"""IPVS mode beyond the goldens: what kube-proxy was configured with, what was there before, what is claimed twice."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.netns import Netns
from dataplane.errors import UnsupportedError
from dataplane.inet import TCP, format_address, parse_address
from dataplane.kube.objects import (
    Cluster,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    KubeProxyConfiguration,
    LoadBalancerIngress,
    Node,
    NodeAddress,
    Service,
    ServicePort,
)
from dataplane.packet_text import parse_packet
from dataplane.proxy.compile import Compiled, compile_node
from dataplane.proxy.network import plain_network
from dataplane.rules.ipvs import IPVS, Timeouts, VirtualServer
from dataplane.rules.nodestate import NodeState
from dataplane.text.ipset import format_member
from dataplane.text.ipvsadm import parse_save, print_save
from dataplane.text.snapshot import parse_snapshot, print_snapshot

NODE = Node("node-a", {}, {}, ("10.244.1.0/24", "fd00:244:1::/64"), (NodeAddress("InternalIP", "192.168.0.11"), NodeAddress("InternalIP", "fd00:192::11")))
SLICE = EndpointSlice(
    "default", "web-1", "IPv4", (EndpointPort("http", "TCP", 8080),),
    (Endpoint(("10.244.1.9",), True, True, False, "node-a"), Endpoint(("10.244.2.5",), True, True, False, "node-b")),
    {"kubernetes.io/service-name": "web"},
)  # fmt: skip


def web(name: str = "web", **options: Any) -> Service:
    base = Service("default", name, cluster_ip="10.96.0.20", cluster_ips=("10.96.0.20",), ip_families=("IPv4",), ports=(ServicePort(80, "http"),))
    return base._replace(**options)


def compiled(*services: Service, network: NodeState | None = None, **config: Any) -> Compiled:
    settings = KubeProxyConfiguration(cluster_cidr="10.244.0.0/16", **config)
    cluster = Cluster(services or (web(),), (SLICE,), (NODE,))
    return compile_node(cluster, NODE, configuration=settings, network=network, families=[4], mode="ipvs")


def lines(made: Compiled) -> list[str]:
    return print_save(made.state.ipvs).splitlines()


def members(made: Compiled, name: str) -> list[str]:
    one = made.state.ipsets.sets[name]
    return [format_member(one, entry) for entry in one.entries]


def test_real_servers_stand_in_the_order_of_their_coming_and_are_printed_in_that_of_the_command() -> None:
    ends = tuple(Endpoint((f"10.244.2.{n}",), True, True, False, "node-b") for n in (9, 10))
    made = compile_node(Cluster((web(),), (SLICE._replace(endpoints=ends),), (NODE,)), NODE, families=[4], mode="ipvs")
    assert [format_address(4, end.address) for end in made.state.ipvs.servers[0].servers] == ["10.244.2.10", "10.244.2.9"]
    assert print_snapshot(made.state)["ipvsadm-save.txt"].splitlines()[1:] == [
        "-a -t 10.96.0.20:80 -r 10.244.2.9:8080 -m -w 1", "-a -t 10.96.0.20:80 -r 10.244.2.10:8080 -m -w 1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({}, "-A -t 10.96.0.20:80 -s rr"),
        ({"ipvs_scheduler": "mh"}, "-A -t 10.96.0.20:80 -s mh -b mh-port"),
        ({"ipvs_scheduler": "sh"}, "-A -t 10.96.0.20:80 -s sh"),
        ({"ipvs_tcp_timeout": 100.0, "ipvs_udp_timeout": 30.0}, "--set 100 120 30"),
    ],
)
def test_the_configuration_decides_schedulers_flags_and_timeouts(config: dict[str, Any], line: str) -> None:
    assert lines(compiled(**config))[0] == line


@pytest.mark.parametrize(("strict", "arp"), [(True, ("1", "2")), (False, (None, None))])
def test_strict_arp_is_two_sysctls(strict: bool, arp: tuple[str | None, str | None]) -> None:
    sysctls = compiled(ipvs_strict_arp=strict).state.sysctls
    assert (sysctls.get("net.ipv4.conf.all.arp_ignore"), sysctls.get("net.ipv4.conf.all.arp_announce")) == arp
    assert [sysctls[f"net.ipv4.vs.{name}"] for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template")] == ["1", "1", "1"]
    assert "net.ipv4.conf.all.route_localnet" not in sysctls


def test_old_virtual_servers_go_unless_they_are_excluded_marked_or_of_another_family() -> None:
    before = "-A -t 10.96.9.9:80 -s wlc\n-A -t 172.16.5.5:80 -s wlc\n-A -f 7 -s wlc\n-A -t [fd00::1]:80 -s wlc\n"
    network = plain_network(NODE, (NODE,))._replace(ipvs=parse_save(before))
    made = compiled(network=network, ipvs_exclude_cidrs=("172.16.0.0/12", "bad", "fd00::/8"))
    assert sorted(line for line in lines(made) if line.startswith("-A")) == [
        "-A -f 7 -s wlc", "-A -t 10.96.0.20:80 -s rr", "-A -t 172.16.5.5:80 -s wlc", "-A -t [fd00::1]:80 -s wlc",
    ]  # fmt: skip


def test_an_address_of_the_node_is_served_but_not_bound() -> None:
    made = compiled(web(external_ips=("192.168.0.11", "203.0.113.5")))
    device = next(link for link in made.state.links if link.name == "kube-ipvs0")
    assert [format_address(4, one.local) for one in device.addresses] == ["10.96.0.20", "203.0.113.5"]
    assert "-A -t 192.168.0.11:80 -s rr" in lines(made)
    assert members(made, "KUBE-EXTERNAL-IP") == ["192.168.0.11,tcp:80", "203.0.113.5,tcp:80"]
    assert members(made, "KUBE-IPVS-IPS") == ["10.96.0.20", "203.0.113.5"]


def test_every_bound_address_is_local_though_the_device_is_down() -> None:
    state = compiled(web(external_ips=("203.0.113.5",))).state
    for given in (state, parse_snapshot(print_snapshot(state))[0], state._replace(routes4=None)):
        netns = Netns(given)
        for address in ("203.0.113.5", "10.96.0.20"):
            owner = netns.kernel.fib.owner(4, parse_address(address)[1])
            assert owner is not None
            assert owner.name == "kube-ipvs0"
        trace = netns.receive(parse_packet("icmp 203.0.113.7 > 203.0.113.5").packet, "eth0")
        assert trace.verdict != "forward"


def test_source_ranges_bar_the_node_that_they_leave_out() -> None:
    balancer = web(type="LoadBalancer", ingress=(LoadBalancerIngress("198.51.100.9"),), load_balancer_source_ranges=("203.0.113.0/24",))
    barred, allowed = compiled(balancer), compiled(balancer._replace(load_balancer_source_ranges=("192.168.0.0/16",)))
    rule = "-A KUBE-IPVS-OUT-FILTER -s 198.51.100.9 -m ipvs --vaddr 198.51.100.9 --vproto tcp --vport 80 -j DROP"
    assert rule in barred.restore[4].splitlines()
    assert rule not in allowed.restore[4].splitlines()
    assert members(barred, "KUBE-LOAD-BALANCER-SOURCE-IP") == []
    assert members(allowed, "KUBE-LOAD-BALANCER-SOURCE-IP") == ["198.51.100.9,tcp:80,198.51.100.9"]


def test_without_a_node_port_address_the_health_check_port_is_forgotten() -> None:
    balancer = web(
        type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=32000, ingress=(LoadBalancerIngress("198.51.100.9"),),
        ports=(ServicePort(80, "http", node_port=30080),),
    )  # fmt: skip
    assert members(compiled(balancer), "KUBE-HEALTH-CHECK-NODE-PORT") == ["32000"]
    assert members(compiled(balancer, nodeport_addresses=("172.30.0.0/16",)), "KUBE-HEALTH-CHECK-NODE-PORT") == []


def test_two_claims_of_one_virtual_server_are_told() -> None:
    made = compiled(web(external_ips=("203.0.113.5",)), web("other", cluster_ip="10.96.0.21", cluster_ips=("10.96.0.21",), external_ips=("203.0.113.5",)))
    assert "203.0.113.5:80/tcp is claimed by default/other:http and by default/web:http: which one gets the traffic is left to chance in IPVS mode" in made.notes


def test_a_set_holds_no_more_than_the_kernel_lets_it() -> None:
    ports = tuple(ServicePort(port, f"p{port}") for port in range(1, 65536))
    made = compiled(web(ports=ports), web("more", cluster_ip="10.96.0.21", cluster_ips=("10.96.0.21",), ports=ports[:2]))
    assert len(members(made, "KUBE-CLUSTER-IP")) == 65536
    assert "IPv4: the ip set of CLUSTER-IP is full: kube-proxy could not add all its members" in made.notes


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="mode nftables is not built yet: only iptables and ipvs are"):
        compile_node(Cluster((web(),), (SLICE,), (NODE,)), NODE, mode="nftables")


def test_what_was_there_of_ipvs_is_nothing_on_a_fresh_node() -> None:
    assert NodeState().ipvs == IPVS((), Timeouts(900, 120, 300))
    assert VirtualServer(4, TCP, 1, 80).key == (4, TCP, 1, 80, 0)

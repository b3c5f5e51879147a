"""kube-proxy's iptables mode: the text that it feeds to iptables-restore, section by section, and the jumps into its chains.

The rule text is the product, as it is kube-proxy's; the rules that the engine walks are read from it. Each function is one section of
the sync and adds lines to a Buffers; ``sync`` puts them in kube-proxy's order, services in the canonical one.
Source: pkg/proxy/iptables/proxier.go of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from dataplane.proxy.addresses import sloppy_address, sloppy_cidr
from dataplane.proxy.endpoints import Endpoint
from dataplane.proxy.names import endpoint_chains, service_hash
from dataplane.proxy.nodeport_addresses import LocalDetector
from dataplane.proxy.serviceport import ServicePort
from dataplane.proxy.topology import Categorized

LARGE_CLUSTER = 1000  # endpoints; more drop the comments of endpoint rules

#: table, chain jumped to, from, what is matched, comment ("" for none): each is put first, in this order.
JUMPS: Sequence[tuple[str, str, str, str, str]] = (
    ("filter", "KUBE-EXTERNAL-SERVICES", "INPUT", "NEW", "kubernetes externally-visible service portals"),
    ("filter", "KUBE-EXTERNAL-SERVICES", "FORWARD", "NEW", "kubernetes externally-visible service portals"),
    ("filter", "KUBE-NODEPORTS", "INPUT", "", "kubernetes health check service ports"),
    ("filter", "KUBE-SERVICES", "FORWARD", "NEW", "kubernetes service portals"),
    ("filter", "KUBE-SERVICES", "OUTPUT", "NEW", "kubernetes service portals"),
    ("filter", "KUBE-FORWARD", "FORWARD", "", "kubernetes forwarding rules"),
    ("filter", "KUBE-PROXY-FIREWALL", "INPUT", "NEW", "kubernetes load balancer firewall"),
    ("filter", "KUBE-PROXY-FIREWALL", "OUTPUT", "NEW", "kubernetes load balancer firewall"),
    ("filter", "KUBE-PROXY-FIREWALL", "FORWARD", "NEW", "kubernetes load balancer firewall"),
    ("nat", "KUBE-SERVICES", "OUTPUT", "", "kubernetes service portals"),
    ("nat", "KUBE-SERVICES", "PREROUTING", "", "kubernetes service portals"),
    ("nat", "KUBE-POSTROUTING", "POSTROUTING", "", "kubernetes postrouting rules"),
    ("filter", "KUBE-FIREWALL", "INPUT", "", ""),
    ("filter", "KUBE-FIREWALL", "OUTPUT", "", ""),
)
CANARY = "KUBE-PROXY-CANARY"
CANARY_TABLES = ("filter", "mangle", "nat")


class Settings(NamedTuple):
    """What one family's proxier was started with. ``mark`` is its text; ``nodeport_ips`` None means every local address."""

    family: int
    mark: str = "0x00004000"
    masquerade_all: bool = False
    detector: LocalDetector | None = None
    localhost_nodeports: bool = True
    nodeport_ips: Sequence[str] | None = None
    node_ip: int | None = None
    nfacct: bool = True
    random_fully: bool = True
    conntrack_tcp_be_liberal: bool = False


class Buffers:
    """The four growing texts of a sync, as lists of lines."""

    def __init__(self) -> None:
        self.filter_chains: list[str] = []
        self.filter_rules: list[str] = []
        self.nat_chains: list[str] = []
        self.nat_rules: list[str] = []

    def text(self) -> str:
        """The whole restore input."""
        return "\n".join([
            "*filter", *self.filter_chains, *self.filter_rules, "COMMIT", "*nat", *self.nat_chains, *self.nat_rules, "COMMIT", "",
        ])  # fmt: skip


def mark_text(bit: int) -> str:
    """The masquerade mark as Go's %#08x prints it: eight digits."""
    return f"0x{1 << bit:08x}"


def sync(
    ports: Sequence[ServicePort], categorized: Mapping[int, Categorized], settings: Settings, *, large: bool
) -> Buffers:
    """One full sync: ``categorized`` holds the endpoints of each port by its position."""
    out = Buffers()
    _fixed_chains(out, settings)
    for index, port in enumerate(ports):
        _service_port(out, port, categorized[index], settings, large=large)
    _nodeport_tail(out, settings)
    _forward(out, settings)
    return out


def _fixed_chains(out: Buffers, settings: Settings) -> None:
    mark = settings.mark
    names = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"]
    if settings.localhost_nodeports:
        names.append("KUBE-FIREWALL")
        out.filter_rules.append(
            '-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8'
            " -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
        )
    out.filter_chains += [f":{name} - [0:0]" for name in names]
    out.nat_chains += [f":{name} - [0:0]" for name in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")]
    out.nat_rules += [
        f"-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN",
        f"-A KUBE-POSTROUTING -j MARK --xor-mark {mark}",
        '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE'
        + (" --random-fully" if settings.random_fully else ""),
        f"-A KUBE-MARK-MASQ -j MARK --or-mark {mark}",
    ]


def _service_port(out: Buffers, port: ServicePort, ends: Categorized, settings: Settings, *, large: bool) -> None:
    name, protocol = port.name, port.protocol
    suffix = service_hash(name, protocol)
    cluster, local = f"KUBE-SVC-{suffix}", f"KUBE-SVL-{suffix}"
    internal_chain = local if port.internal_local else cluster
    policy_chain = local if port.external_local else cluster
    has_internal = ends.has_any and not (port.internal_local and not ends.local)
    has_external = ends.has_any and not (port.external_local and not ends.local)
    uses_external = ends.has_any and port.externally_accessible
    uses_firewall = ends.has_any and bool(port.vips) and bool(port.sources)
    _dispatch(out, port, ends, settings, suffix, internal_chain, has_internal, has_external, uses_firewall)
    nat_rules = out.nat_rules
    if has_internal:
        matched = f'-A {internal_chain} -m comment --comment "{name} cluster IP" -m {protocol} -p {protocol} -d {port.cluster_ip} --dport {port.port}'
        if settings.masquerade_all:
            nat_rules.append(f"{matched} -j KUBE-MARK-MASQ")
        elif settings.detector is not None:
            nat_rules.append(f"{matched} {settings.detector.if_not_local} -j KUBE-MARK-MASQ")
    if uses_external:
        _external_chain(out, port, settings, f"KUBE-EXT-{suffix}", cluster, policy_chain if has_external else None)
    if uses_firewall:
        _firewall_chain(out, port, settings, suffix)
    chains = endpoint_chains(name, protocol, [one.text for one in ends.reachable] + [one.text for one in ends.local])
    if ends.cluster and port.uses_cluster_endpoints:
        _balance(out, cluster, port, ends.cluster, chains, large=large)
    if ends.local and port.uses_local_endpoints:
        _balance(out, local, port, ends.local, chains, large=large)
    _endpoint_chains(out, port, ends.reachable, chains, large=large)


def _dispatch(
    out: Buffers, port: ServicePort, ends: Categorized, settings: Settings, suffix: str, internal_chain: str,
    has_internal: bool, has_external: bool, uses_firewall: bool,
) -> None:  # fmt: skip
    """From the addresses and ports of a service to its chains, or to their refusal."""
    name, protocol = port.name, port.protocol
    matched = f"-m {protocol} -p {protocol} -d"
    nat_rules, filter_rules = out.nat_rules, out.filter_rules
    external_chain = f"KUBE-EXT-{suffix}"
    refused, verb = (f'"{name} has no local endpoints"', "DROP") if ends.has_any else (f'"{name} has no endpoints"', "REJECT")
    if has_internal:
        nat_rules.append(
            f'-A KUBE-SERVICES -m comment --comment "{name} cluster IP" {matched} {port.cluster_ip} --dport {port.port} -j {internal_chain}'
        )
    else:
        filter_rules.append(f"-A KUBE-SERVICES -m comment --comment {refused} {matched} {port.cluster_ip} --dport {port.port} -j {verb}")
    for address in port.external_ips:
        if ends.has_any:
            nat_rules.append(
                f'-A KUBE-SERVICES -m comment --comment "{name} external IP" {matched} {address} --dport {port.port} -j {external_chain}'
            )
        if not has_external:
            filter_rules.append(f"-A KUBE-EXTERNAL-SERVICES -m comment --comment {refused} {matched} {address} --dport {port.port} -j {verb}")
    for address in port.vips:
        if ends.has_any:
            target = f"KUBE-FW-{suffix}" if uses_firewall else external_chain
            nat_rules.append(
                f'-A KUBE-SERVICES -m comment --comment "{name} loadbalancer IP" {matched} {address} --dport {port.port} -j {target}'
            )
        if uses_firewall:
            filter_rules.append(
                f'-A KUBE-PROXY-FIREWALL -m comment --comment "{name} traffic not accepted by KUBE-FW-{suffix}"'
                f" {matched} {address} --dport {port.port} -j DROP"
            )
    if not has_external:
        filter_rules.extend(
            f"-A KUBE-EXTERNAL-SERVICES -m comment --comment {refused} {matched} {address} --dport {port.port} -j {verb}"
            for address in port.vips
        )
    if port.node_port:
        _nodeport(out, port, ends, settings, external_chain, refused if not has_external else "", verb)
    if port.health_check_node_port:
        filter_rules.append(
            f'-A KUBE-NODEPORTS -m comment --comment "{name} health check node port" -m tcp -p tcp --dport {port.health_check_node_port} -j ACCEPT'
        )


def _nodeport(out: Buffers, port: ServicePort, ends: Categorized, settings: Settings, chain: str, refused: str, verb: str) -> None:
    name, protocol = port.name, port.protocol
    if ends.has_any:
        if settings.localhost_nodeports and settings.nfacct:
            out.nat_rules.append(
                f"-A KUBE-NODEPORTS -m comment --comment {name} -m {protocol} -p {protocol} -d 127.0.0.0/8 --dport {port.node_port}"
                f" -m nfacct --nfacct-name localhost_nps_accepted_pkts -j {chain}"
            )
        out.nat_rules.append(f"-A KUBE-NODEPORTS -m comment --comment {name} -m {protocol} -p {protocol} --dport {port.node_port} -j {chain}")
    if refused:
        out.filter_rules.append(
            f"-A KUBE-EXTERNAL-SERVICES -m comment --comment {refused} -m addrtype --dst-type LOCAL"
            f" -m {protocol} -p {protocol} --dport {port.node_port} -j {verb}"
        )


def _external_chain(out: Buffers, port: ServicePort, settings: Settings, chain: str, cluster: str, policy_chain: str | None) -> None:
    """KUBE-EXT: what comes from outside is masqueraded (policy Cluster), or short-circuited for pods and the node itself (Local)."""
    name, rules = port.name, out.nat_rules
    out.nat_chains.append(f":{chain} - [0:0]")
    if not port.external_local:
        rules.append(f'-A {chain} -m comment --comment "masquerade traffic for {name} external destinations" -j KUBE-MARK-MASQ')
    else:
        if settings.detector is not None:
            rules.append(f'-A {chain} -m comment --comment "pod traffic for {name} external destinations" {settings.detector.if_local} -j {cluster}')
        rules.append(
            f'-A {chain} -m comment --comment "masquerade LOCAL traffic for {name} external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ'
        )
        rules.append(f'-A {chain} -m comment --comment "route LOCAL traffic for {name} external destinations" -m addrtype --src-type LOCAL -j {cluster}')
    if policy_chain is not None:
        rules.append(f"-A {chain} -j {policy_chain}")


def _firewall_chain(out: Buffers, port: ServicePort, settings: Settings, suffix: str) -> None:
    """KUBE-FW: only the source ranges go on; the rest falls through to KUBE-PROXY-FIREWALL."""
    chain, external, rules = f"KUBE-FW-{suffix}", f"KUBE-EXT-{suffix}", out.nat_rules
    comment = f'-m comment --comment "{port.name} loadbalancer IP"'
    out.nat_chains.append(f":{chain} - [0:0]")
    admits_node = False
    for source in port.sources:
        rules.append(f"-A {chain} {comment} -s {source} -j {external}")
        cidr = sloppy_cidr(source)
        admits_node = admits_node or (cidr is not None and settings.node_ip in cidr)
    if admits_node:
        rules.extend(f"-A {chain} {comment} -s {address} -j {external}" for address in port.vips)
    rules.append(f'-A {chain} -m comment --comment "other traffic to {port.name} will be dropped by KUBE-PROXY-FIREWALL"')


def _balance(
    out: Buffers, chain: str, port: ServicePort, endpoints: Sequence[Endpoint], chains: Mapping[str, str], *, large: bool
) -> None:
    """KUBE-SVC or KUBE-SVL: remembered clients first, then an even choice by falling probabilities."""
    out.nat_chains.append(f":{chain} - [0:0]")
    name, rules, count = port.name, out.nat_rules, len(endpoints)
    for one in endpoints if port.affinity is not None else ():
        comment = "" if large else f' -m comment --comment "{name} -> {one.text}"'
        target = chains[one.text]
        rules.append(f"-A {chain}{comment} -m recent --name {target} --rcheck --seconds {port.affinity} --reap -j {target}")
    for index, one in enumerate(endpoints):
        comment = "" if large else f' -m comment --comment "{name} -> {one.text}"'
        rules.append(f"-A {chain}{comment}{_chance(count - index)} -j {chains[one.text]}")


@cache
def _chance(left: int) -> str:
    """The match that takes one of ``left`` endpoints; nothing for the last."""
    return "" if left == 1 else f" -m statistic --mode random --probability {1.0 / left:.10f}"


def _endpoint_chains(out: Buffers, port: ServicePort, endpoints: Sequence[Endpoint], chains: Mapping[str, str], *, large: bool) -> None:
    """KUBE-SEP: hairpin traffic is masqueraded, the client remembered, the destination rewritten."""
    comment = "" if large else f" -m comment --comment {port.name}"
    matched = f"-m {port.protocol} -p {port.protocol}"
    named = [(chains[one.text], one.ip, one.text) for one in endpoints]
    out.nat_chains += [f":{chain} - [0:0]" for chain, _, _ in named]
    if port.affinity is None:
        out.nat_rules += [
            f"-A {chain}{comment} -s {ip} -j KUBE-MARK-MASQ\n-A {chain}{comment} {matched} -j DNAT --to-destination {end}" for chain, ip, end in named
        ]
    else:
        out.nat_rules += [
            f"-A {chain}{comment} -s {ip} -j KUBE-MARK-MASQ\n"
            f"-A {chain}{comment} -m recent --name {chain} --set {matched} -j DNAT --to-destination {end}"
            for chain, ip, end in named
        ]


def _nodeport_tail(out: Buffers, settings: Settings) -> None:
    comment = '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    if settings.nodeport_ips is None:
        extra = " ! -d ::1/128" if settings.family == 6 else "" if settings.localhost_nodeports else " ! -d 127.0.0.0/8"
        out.nat_rules.append(f"{comment} -m addrtype --dst-type LOCAL{extra} -j KUBE-NODEPORTS")
        return
    for text in settings.nodeport_ips:
        found = sloppy_address(text)
        loopback = found is not None and (found[1] == 1 if settings.family == 6 else found[1] >> 24 == 127)
        if loopback and not settings.localhost_nodeports:
            continue
        out.nat_rules.append(f"{comment} -d {text} -j KUBE-NODEPORTS")


def _forward(out: Buffers, settings: Settings) -> None:
    mark = settings.mark
    if not settings.conntrack_tcp_be_liberal:
        counted = " -m nfacct --nfacct-name ct_state_invalid_dropped_pkts" if settings.nfacct else ""
        out.filter_rules.append(f"-A KUBE-FORWARD -m conntrack --ctstate INVALID{counted} -j DROP")
    out.filter_rules += [
        f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT',
        '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
    ]


def jump_commands() -> str:
    """The jumps and canaries as restore input for an empty kernel: what the ``iptables -N/-I`` calls leave behind."""
    lines: list[str] = []
    for table in CANARY_TABLES:
        lines += [f"*{table}", f":{CANARY} - [0:0]"]
        own = [jump for jump in JUMPS if jump[0] == table]
        lines += [f":{chain} - [0:0]" for chain in dict.fromkeys(jump[1] for jump in own)]
        for _, chain, source, state, comment in own:
            words = (" -m conntrack --ctstate NEW" if state else "") + (f' -m comment --comment "{comment}"' if comment else "")
            lines.append(f"-I {source}{words} -j {chain}")
        lines.append("COMMIT")
    return "\n".join([*lines, ""])

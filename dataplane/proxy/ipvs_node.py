"""What IPVS mode leaves behind in a node's kernel beside rules: kube-ipvs0 and its addresses, local routes, sysctls, timeouts.

Source: pkg/proxy/ipvs/proxier.go (NewProxier, cleanLegacyBindAddr), netlink_linux.go of Kubernetes 1.36; the kernel for the routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dataplane.engine.fib_defaults import kernel_routes4, kernel_routes6
from dataplane.errors import Problem, SpecError
from dataplane.inet import FULL_MASK, Prefix, format_address, parse_address
from dataplane.kube.objects import KubeProxyConfiguration, Node
from dataplane.proxy.ipvs import Wanted, kept
from dataplane.proxy.ipvs_rules import Settings, jump_commands, restore_text
from dataplane.proxy.ipvs_sets import ip_sets, overfull
from dataplane.proxy.nodeport_addresses import local_detector, node_addresses, nodeport_addresses
from dataplane.rules.ipset import IPSets
from dataplane.rules.iptables import Xtables
from dataplane.rules.ipvs import IPVS, SCHEDULERS, Timeouts, VirtualServer
from dataplane.rules.network import Address, Link, Route
from dataplane.rules.nodestate import NodeState
from dataplane.text.iptables import apply_restore

DEVICE: Final = "kube-ipvs0"
_LOOPBACK: Final = {4: Prefix(4, 127 << 24, 255 << 24), 6: Prefix(6, 1, FULL_MASK[6])}
_LINK_LOCAL6: Final = Prefix(6, 0xFE80 << 112, 0xFFC0 << 112)


def settings_of(config: KubeProxyConfiguration, node: Node, links: Sequence[Link], family: int) -> Settings:
    """What one family's proxier is started with on this node. SpecError where the kernel has no such scheduler."""
    scheduler = config.ipvs_scheduler or "rr"
    if scheduler not in SCHEDULERS:
        file, line = config.origin or (None, None)
        message = f"unknown scheduler {scheduler!r}: kube-proxy does not start; there are {', '.join(SCHEDULERS)}"
        raise SpecError(Problem(message, file, line, path="KubeProxyConfiguration.ipvs.scheduler"))
    own = node_addresses(node, config)
    there = _interface_addresses(links, family)
    wanted = nodeport_addresses(config, family, own)
    nodeports = sorted(there) if wanted.everywhere else [ip for ip in wanted.matching(links) if parse_address(ip)[1] not in _LOOPBACK[family]]
    return Settings(
        family, f"0x{1 << config.iptables_masquerade_bit:08x}", config.iptables_masquerade_all, local_detector(config, node, family),
        config.random_fully, scheduler, tuple(nodeports), frozenset(there), own.get(family),
    )  # fmt: skip


def _interface_addresses(links: Sequence[Link], family: int) -> set[str]:
    """Addresses of every interface but kube-ipvs0, without loopback and IPv6 link-local ones."""
    return {
        format_address(family, one.local) for link in links if link.name != DEVICE for one in link.addresses
        if one.family == family and one.local not in _LOOPBACK[family] and not (family == 6 and one.local in _LINK_LOCAL6)
    }  # fmt: skip


def written_sysctls(config: KubeProxyConfiguration) -> dict[str, str]:
    """What kube-proxy writes at its start, on kernels from 5.9 (older ones: conn_reuse_mode=0, too)."""
    written = {
        "net.ipv4.vs.conntrack": "1", "net.ipv4.vs.expire_nodest_conn": "1", "net.ipv4.vs.expire_quiescent_template": "1", "net.ipv4.ip_forward": "1",
    }  # fmt: skip
    if config.ipvs_strict_arp:
        written |= {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}
    if config.conntrack_tcp_be_liberal:
        written["net.netfilter.nf_conntrack_tcp_be_liberal"] = "1"
    return written


def node_text(wanted: Wanted, settings: Settings) -> str:
    """The restore input of one family."""
    return restore_text(lambda name: bool(wanted.members[name]), wanted.barred, settings)


def xtables_of(text: str, family: int) -> Xtables:
    """The rule set that the jumps and a restore input leave behind in an empty kernel."""
    jumps = apply_restore(None, jump_commands(), family, file="kube-proxy's jumps")
    return apply_restore(jumps, text, family, noflush=True, file="kube-proxy's restore input")


def programmed(base: NodeState, config: KubeProxyConfiguration, wanted: dict[int, Wanted], texts: dict[int, str]) -> NodeState:
    """The node's state after the first sync of each family."""
    links = with_device(base.links, {family: list(one.bound) for family, one in wanted.items()})
    sets = dict(base.ipsets.sets)
    servers: list[VirtualServer] = [one for one in base.ipvs.servers if one.family not in wanted]
    for family, one in wanted.items():
        sets |= ip_sets(one.members, family)
        servers += kept(base.ipvs, one, family, config.ipvs_exclude_cidrs)
    return base._replace(links=links, ipsets=IPSets(sets), ipvs=IPVS(tuple(servers), _timeouts(config, base.ipvs.timeouts)),
        routes4=_with_routes(base.routes4, links, 4), routes6=_with_routes(base.routes6, links, 6),
        iptables=xtables_of(texts[4], 4) if 4 in texts else base.iptables,
        ip6tables=xtables_of(texts[6], 6) if 6 in texts else base.ip6tables,
        sysctls={**base.sysctls, **written_sysctls(config)},
    )  # fmt: skip


def with_device(links: Sequence[Link], bound: dict[int, list[str]]) -> tuple[Link, ...]:
    """The links with kube-ipvs0: a dummy that is never set up, and so all the more answers for its addresses."""
    old = next((link for link in links if link.name == DEVICE), None)
    index = max((link.index for link in links), default=0) + 1
    device = old or Link(index, DEVICE, ("BROADCAST", "NOARP"), kind="dummy")
    addresses = [one for one in device.addresses if one.family not in bound]
    for family in sorted(bound):
        values = sorted({parse_address(text)[1] for text in bound[family]})
        label = DEVICE if family == 4 else None
        addresses += [Address(family, value, 32 if family == 4 else 128, label=label) for value in values]
    made = device._replace(addresses=tuple(addresses))
    return (*(link for link in links if link.name != DEVICE), made)


def set_notes(wanted: Wanted, family: int) -> list[str]:
    """A sentence for each set that is too small for its members."""
    return [f"IPv{family}: the ip set of {name} is full: kube-proxy could not add all its members" for name in overfull(wanted.members)]


def _with_routes(routes: tuple[Route, ...] | None, links: Sequence[Link], family: int) -> tuple[Route, ...] | None:
    if routes is None:
        return None
    device = [link for link in links if link.name == DEVICE]
    others = [route for route in routes if not any(hop.dev == DEVICE for hop in route.nexthops)]
    return (*others, *(kernel_routes4(device) if family == 4 else kernel_routes6(device, forwarding=True)))


def _timeouts(config: KubeProxyConfiguration, before: Timeouts) -> Timeouts:
    """0 keeps what there is (seconds, as the kernel counts them)."""
    given = (config.ipvs_tcp_timeout, config.ipvs_tcp_fin_timeout, config.ipvs_udp_timeout)
    return Timeouts(*(int(new) or old for new, old in zip(given, before, strict=True)))

"""The iptables rules around IPVS: the text that kube-proxy feeds to iptables-restore, and the jumps into its chains.

Almost nothing here names a Service: the rules match ip sets. Each function is one section and gives its lines.
Source: pkg/proxy/ipvs/proxier.go (writeIptablesRules, createAndLinkKubeChain) of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dataplane.proxy.ipvs_sets import KINDS, set_name
from dataplane.proxy.nodeport_addresses import LocalDetector

NAT_CHAINS: Final = ("KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-MARK-MASQ")
FILTER_CHAINS: Final = (
    "KUBE-FORWARD", "KUBE-NODE-PORT", "KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
)  # fmt: skip
#: Table, from, to, comment: each is put first, in this order.
JUMPS: Final = (
    ("nat", "OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules"),
    ("filter", "FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
    ("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
)


class _SetRule(NamedTuple):
    """A rule that is there when its set has members."""

    set: str
    table: str
    chain: str
    target: str
    match: str
    protocol: str = ""


_SET_RULES: Final = (
    _SetRule("LOOP-BACK", "nat", "KUBE-POSTROUTING", "MASQUERADE", "dst,dst,src"),
    _SetRule("LOAD-BALANCER", "nat", "KUBE-SERVICES", "KUBE-LOAD-BALANCER", "dst,dst"),
    _SetRule("LOAD-BALANCER-LOCAL", "nat", "KUBE-LOAD-BALANCER", "RETURN", "dst,dst"),
    _SetRule("NODE-PORT-LOCAL-TCP", "nat", "KUBE-NODE-PORT", "RETURN", "dst", "tcp"),
    _SetRule("NODE-PORT-TCP", "nat", "KUBE-NODE-PORT", "KUBE-MARK-MASQ", "dst", "tcp"),
    _SetRule("NODE-PORT-LOCAL-UDP", "nat", "KUBE-NODE-PORT", "RETURN", "dst", "udp"),
    _SetRule("NODE-PORT-UDP", "nat", "KUBE-NODE-PORT", "KUBE-MARK-MASQ", "dst", "udp"),
    _SetRule("NODE-PORT-LOCAL-SCTP-HASH", "nat", "KUBE-NODE-PORT", "RETURN", "dst,dst", "sctp"),
    _SetRule("NODE-PORT-SCTP-HASH", "nat", "KUBE-NODE-PORT", "KUBE-MARK-MASQ", "dst,dst", "sctp"),
    _SetRule("LOAD-BALANCER-FW", "filter", "KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL", "dst,dst"),
    _SetRule("LOAD-BALANCER-SOURCE-CIDR", "filter", "KUBE-SOURCE-RANGES-FIREWALL", "RETURN", "dst,dst,src"),
    _SetRule("LOAD-BALANCER-SOURCE-IP", "filter", "KUBE-SOURCE-RANGES-FIREWALL", "RETURN", "dst,dst,src"),
)


class BarredNode(NamedTuple):
    """A load balancer's address whose source ranges leave the node itself out."""

    vip: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What one family's proxier was started with. ``mark`` is its text; ``scheduler`` is never empty.

    ``nodeport_ips`` are the addresses that take NodePorts, ``node_addresses`` those on any interface but kube-ipvs0 (neither loopback
    nor link-local): what is there already is not bound to kube-ipvs0.
    """

    family: int
    mark: str = "0x00004000"
    masquerade_all: bool = False
    detector: LocalDetector | None = None
    random_fully: bool = True
    scheduler: str = "rr"
    nodeport_ips: Sequence[str] = ()
    node_addresses: frozenset[str] = frozenset()
    node_ip: int | None = None


def restore_text(filled: Callable[[str], bool], barred: Sequence[BarredNode], settings: Settings) -> str:
    """The whole restore input; ``filled`` tells whether a set has members. nat comes first in this mode."""
    return "\n".join([
        "*nat", *(f":{chain} - [0:0]" for chain in NAT_CHAINS), *_nat(filled, settings), "COMMIT",
        "*filter", *(f":{chain} - [0:0]" for chain in FILTER_CHAINS), *_filter(filled, barred, settings), "COMMIT", "",
    ])  # fmt: skip


def jump_commands() -> str:
    """The jumps as restore input for an empty kernel: what the ``iptables -N/-I`` calls leave behind."""
    lines: list[str] = []
    for table, chains in (("filter", FILTER_CHAINS), ("nat", NAT_CHAINS)):
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in chains)]
        lines += [f'-I {source} -m comment --comment "{comment}" -j {chain}' for own, source, chain, comment in JUMPS if own == table]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def _nat(filled: Callable[[str], bool], settings: Settings) -> list[str]:
    family, mark = settings.family, settings.mark
    return [
        f"-A KUBE-SERVICES -s {'127.0.0.0/8' if family == 4 else '::1/128'} -j RETURN",
        *_set_rules("nat", filled, family),
        *_cluster_ip(filled, settings),
        *_external_ip(filled, family),
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
        "-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ",
        *(
            f"-A KUBE-SERVICES -m set --match-set {set_name(name, family)} dst,dst -j ACCEPT"
            for name in ("CLUSTER-IP", "LOAD-BALANCER") if filled(name)
        ),
        f"-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN",
        f"-A KUBE-POSTROUTING -j MARK --xor-mark {mark}",
        '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE'
        + (" --random-fully" if settings.random_fully else ""),
        f"-A KUBE-MARK-MASQ -j MARK --or-mark {mark}",
    ]  # fmt: skip


def _filter(filled: Callable[[str], bool], barred: Sequence[BarredNode], settings: Settings) -> list[str]:
    family, mark = settings.family, settings.mark
    health = set_name("HEALTH-CHECK-NODE-PORT", family)
    return [
        *_set_rules("filter", filled, family),
        "-A KUBE-SOURCE-RANGES-FIREWALL -j DROP",
        *(f"-A KUBE-IPVS-OUT-FILTER -s {vip} -m ipvs --vaddr {vip} --vproto {protocol} --vport {port} -j DROP" for vip, protocol, port in barred),
        f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT',
        '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
        f'-A KUBE-NODE-PORT -m comment --comment "{KINDS["HEALTH-CHECK-NODE-PORT"].comment}" -m set --match-set {health} dst -j ACCEPT',
        *(
            f"-A KUBE-IPVS-FILTER -m set --match-set {set_name(name, family)} dst,dst -j RETURN"
            for name in ("LOAD-BALANCER", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL")
        ),
        f"-A KUBE-IPVS-FILTER -m set --match-set {health} dst -j RETURN",
        f"-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {set_name('IPVS-IPS', family)} dst -j REJECT",
    ]  # fmt: skip


def _set_rules(table: str, filled: Callable[[str], bool], family: int) -> list[str]:
    return [
        f"-A {one.chain}{f' -p {one.protocol}' if one.protocol else ''} -m comment --comment \"{KINDS[one.set].comment}\""
        f" -m set --match-set {set_name(one.set, family)} {one.match} -j {one.target}"
        for one in _SET_RULES if one.table == table and filled(one.set)
    ]  # fmt: skip


def _portal(name: str, family: int, match: str) -> str:
    return f'-A KUBE-SERVICES -m comment --comment "{KINDS[name].comment}" -m set --match-set {set_name(name, family)} {match}'


def _cluster_ip(filled: Callable[[str], bool], settings: Settings) -> list[str]:
    """What goes to a ClusterIP from outside the cluster is masqueraded; where that cannot be told, what comes from a ClusterIP."""
    if not filled("CLUSTER-IP"):
        return []
    if settings.masquerade_all:
        return [f"{_portal('CLUSTER-IP', settings.family, 'dst,dst')} -j KUBE-MARK-MASQ"]
    if settings.detector is not None:
        return [f"{_portal('CLUSTER-IP', settings.family, 'dst,dst')} {settings.detector.if_not_local} -j KUBE-MARK-MASQ"]
    return [f"{_portal('CLUSTER-IP', settings.family, 'src,dst')} -j KUBE-MARK-MASQ"]


def _external_ip(filled: Callable[[str], bool], family: int) -> list[str]:
    lines: list[str] = []
    if filled("EXTERNAL-IP"):
        lines.append(f"{_portal('EXTERNAL-IP', family, 'dst,dst')} -j KUBE-MARK-MASQ")
    for name in ("EXTERNAL-IP", "EXTERNAL-IP-LOCAL"):
        if filled(name):
            lines.append(f"{_portal(name, family, 'dst,dst')} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT")
            lines.append(f"{_portal(name, family, 'dst,dst')} -m addrtype --dst-type LOCAL -j ACCEPT")
    return lines

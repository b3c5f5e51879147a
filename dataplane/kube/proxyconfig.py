"""KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1): read, defaulted and validated as kube-proxy does at start.

Source: pkg/proxy/apis/config/v1alpha1/defaults.go, apis/config/validation/validation.go of Kubernetes 1.36.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from dataplane.errors import Problem
from dataplane.kube.addresses import strict_problems
from dataplane.kube.fields import Fields, Problems
from dataplane.kube.objects import KubeProxyConfiguration, Origin

_ROOT: Final = "KubeProxyConfiguration"
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: Any) -> float | None:
    """Seconds of a Go duration (``1m30s``), or None where it is none."""
    if text == "0" or text == 0:
        return 0.0
    if not isinstance(text, str) or not re.fullmatch(r"-?([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+", text):
        return None
    total = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)", text))
    return -total if text.startswith("-") else total


def _seconds(one: Fields, name: str, default: float) -> float:
    value = one.value.get(name)
    if value is None:
        return default
    seconds = duration(value)
    if seconds is None:
        one.problems.invalid(one.at(name), value, "must be a duration such as 30s")
        return default
    return seconds


def _cluster_cidr(one: Fields) -> str:
    value = one.value.get("clusterCIDR")
    return ",".join(one.texts("clusterCIDR")) if isinstance(value, list) else one.text("clusterCIDR")


def configuration(one: Fields, origin: Origin) -> KubeProxyConfiguration:
    """The configuration with kube-proxy's defaults; problems are noted under kube-proxy's paths."""
    iptables, ipvs, nftables, local = (one.fields(name) for name in ("iptables", "ipvs", "nftables", "detectLocal"))
    linux = one.fields("linux")
    gates = {name: value for name, value in one.fields("featureGates").value.items() if isinstance(value, bool)}
    bit, nft_bit = iptables.number("masqueradeBit"), nftables.number("masqueradeBit")
    localhost = iptables.flag("localhostNodePorts")
    made = KubeProxyConfiguration(
        mode=one.text("mode"), hostname_override=one.text("hostnameOverride"), bind_address=one.text("bindAddress"),
        cluster_cidr=_cluster_cidr(one), detect_local_mode=one.text("detectLocalMode"), bridge_interface=local.text("bridgeInterface"),
        interface_name_prefix=local.text("interfaceNamePrefix"), nodeport_addresses=one.texts("nodePortAddresses"),
        config_sync_period=_seconds(one, "configSyncPeriod", 900.0),
        conntrack_tcp_be_liberal=bool(one.fields("conntrack").flag("tcpBeLiberal") or linux.fields("conntrack").flag("tcpBeLiberal")),
        iptables_masquerade_all=iptables.flag("masqueradeAll") or linux.flag("masqueradeAll") or False,
        iptables_masquerade_bit=14 if bit is None else bit, iptables_localhost_node_ports=True if localhost is None else localhost,
        iptables_sync_period=_seconds(iptables, "syncPeriod", 30.0), iptables_min_sync_period=_seconds(iptables, "minSyncPeriod", 1.0),
        ipvs_scheduler=ipvs.text("scheduler"), ipvs_strict_arp=ipvs.flag("strictARP") or False, ipvs_exclude_cidrs=ipvs.texts("excludeCIDRs"),
        ipvs_tcp_timeout=_seconds(ipvs, "tcpTimeout", 0.0), ipvs_tcp_fin_timeout=_seconds(ipvs, "tcpFinTimeout", 0.0),
        ipvs_udp_timeout=_seconds(ipvs, "udpTimeout", 0.0), ipvs_sync_period=_seconds(ipvs, "syncPeriod", 30.0),
        ipvs_min_sync_period=_seconds(ipvs, "minSyncPeriod", 0.0), nftables_masquerade_all=nftables.flag("masqueradeAll") or False,
        nftables_masquerade_bit=14 if nft_bit is None else nft_bit, nftables_sync_period=_seconds(nftables, "syncPeriod", 30.0),
        nftables_min_sync_period=_seconds(nftables, "minSyncPeriod", 1.0), feature_gates=gates, origin=origin,
    )  # fmt: skip
    _validate(made, one.problems)
    return made


def _validate(made: KubeProxyConfiguration, problems: Problems) -> None:
    def invalid(path: str, value: Any, detail: str) -> None:
        problems.found.append(_problem(problems, path, value, detail))

    for name, bit in (("KubeProxyIPTablesConfiguration", made.iptables_masquerade_bit), ("KubeProxyNFTablesConfiguration", made.nftables_masquerade_bit)):
        if not 0 <= bit <= 31:
            invalid(f"{name}.MasqueradeBit", bit, "must be within the range [0, 31]")
    if made.mode not in ("", "iptables", "ipvs", "nftables"):
        words = "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently iptables])"
        invalid("Mode", made.mode, words)
    modes = ("BridgeInterface", "ClusterCIDR", "InterfaceNamePrefix", "NodeCIDR")
    if made.detect_local_mode and made.detect_local_mode not in modes:
        invalid("DetectLocalMode", made.detect_local_mode, f"must be one of {', '.join(modes)} or blank")
    if made.detect_local_mode == "BridgeInterface" and not made.bridge_interface:
        invalid("DetectLocal.BridgeInterface", "", "must not be empty")
    if made.detect_local_mode == "InterfaceNamePrefix" and not made.interface_name_prefix:
        invalid("DetectLocal.InterfaceNamePrefix", "", "must not be empty")
    cidrs = [text.strip() for text in made.cluster_cidr.split(",") if text.strip()]
    for index, text in enumerate(cidrs):
        if strict_problems(text, cidr=True, stored=True):
            invalid(f"ClusterCIDRs[{index}]", text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
    if len(cidrs) > 2 or (len(cidrs) == 2 and (":" in cidrs[0]) == (":" in cidrs[1])):
        invalid("ClusterCIDRs", made.cluster_cidr, "must be a either a single CIDR or dual-stack pair of CIDRs")
    for index, text in enumerate(made.ipvs_exclude_cidrs):
        if strict_problems(text, cidr=True, stored=True):
            invalid(f"KubeProxyIPVSConfiguration.ExcludeCIDRs[{index}]", text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
    for name, seconds in (("TCPTimeout", made.ipvs_tcp_timeout), ("TCPFinTimeout", made.ipvs_tcp_fin_timeout), ("UDPTimeout", made.ipvs_udp_timeout)):
        if seconds < 0:
            invalid(f"KubeProxyIPVSConfiguration.{name}", f"{seconds:g}s", "must be greater than or equal to 0")
    for index, text in enumerate(made.nodeport_addresses):
        if text == "primary":
            if len(made.nodeport_addresses) > 1:
                invalid(f"NodePortAddresses[{index}]", text, "can't use both 'primary' and CIDRs")
        elif strict_problems(text, cidr=True, stored=True):
            invalid(f"NodePortAddresses[{index}]", text, "must be a valid CIDR")


def _problem(problems: Problems, path: str, value: Any, detail: str) -> Problem:
    document = problems.document
    return Problem(f"Invalid value: {json.dumps(value)}: {detail}", document.file, document.line, None, None, f"{_ROOT}.{path}")

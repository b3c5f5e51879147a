"""KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1): read, defaulted and validated as kube-proxy does at start.

Of its many fields those are kept that change what is programmed; the others are known, so that a misspelt one is noticed.
kube-proxy itself goes on after an unknown field (strict decoding, then lenient), and so does this file: with a note.
Source: k8s.io/kube-proxy/config/v1alpha1/types.go, pkg/proxy/apis/config/{v1alpha1/defaults,validation/validation}.go (1.36).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dataplane.kube.addresses import sloppy_address, sloppy_cidr
from dataplane.kube.fielderrors import Violation, invalid, not_supported
from dataplane.kube.objects import KubeProxyConfiguration, Origin
from dataplane.kube.reading import Fields, Reader

API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
MODES: Final = ("iptables", "ipvs", "nftables")
LOCAL_MODES: Final = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
PRIMARY: Final = "primary"
_ROOT: Final = "KubeProxyConfiguration"

_SYNC: Final = frozenset(("minSyncPeriod", "syncPeriod"))
_MASQUERADE: Final = _SYNC | {"masqueradeAll", "masqueradeBit"}
_KNOWN: Final[Mapping[str, frozenset[str] | None]] = {
    "apiVersion": None, "kind": None, "metadata": None, "featureGates": None, "clientConnection": None, "logging": None,
    "hostnameOverride": None, "bindAddress": None, "healthzBindAddress": None, "metricsBindAddress": None,
    "bindAddressHardFail": None, "enableProfiling": None, "showHiddenMetricsForVersion": None, "mode": None,
    "iptables": _MASQUERADE | {"localhostNodePorts", "snatNodeInternalIP"},
    "ipvs": _SYNC | {"excludeCIDRs", "scheduler", "strictARP", "tcpFinTimeout", "tcpTimeout", "udpTimeout"},
    "nftables": _MASQUERADE, "winkernel": None, "detectLocalMode": None,
    "detectLocal": frozenset(("bridgeInterface", "interfaceNamePrefix")),
    "clusterCIDR": None, "nodePortAddresses": None, "oomScoreAdj": None,
    "conntrack": frozenset((
        "max", "maxPerCore", "min", "tcpBeLiberal", "tcpCloseWaitTimeout", "tcpEstablishedTimeout", "udpStreamTimeout",
        "udpTimeout",
    )),
    "configSyncPeriod": None, "portRange": None, "windowsRunAsService": None, "udpIdleTimeout": None, "resourceContainer": None,
}  # fmt: skip
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Durations are 64-bit nanoseconds.
_LONGEST: Final = 9223372036.0
_DURATION_PART: Final = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")
_DUAL_STACK: Final = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"


def configuration(fields: Fields, reader: Reader, origin: Origin | None = None) -> KubeProxyConfiguration:
    """The configuration with kube-proxy's defaults, what is wrong with it in ``reader``."""
    _note_unknown(fields, reader)
    iptables, ipvs = reader.mapping(fields, "iptables", ""), reader.mapping(fields, "ipvs", "")
    nftables, local = reader.mapping(fields, "nftables", ""), reader.mapping(fields, "detectLocal", "")
    localhost = reader.boolean(iptables, "localhostNodePorts", "iptables")
    made = KubeProxyConfiguration(
        mode=reader.text(fields, "mode", ""),
        hostname_override=reader.text(fields, "hostnameOverride", ""),
        bind_address=reader.text(fields, "bindAddress", ""),
        cluster_cidr=_cluster_cidr(fields, reader),
        detect_local_mode=reader.text(fields, "detectLocalMode", ""),
        bridge_interface=reader.text(local, "bridgeInterface", "detectLocal"),
        interface_name_prefix=reader.text(local, "interfaceNamePrefix", "detectLocal"),
        nodeport_addresses=reader.texts(fields, "nodePortAddresses", ""),
        config_sync_period=_seconds(fields, "configSyncPeriod", "", reader) or 900.0,
        conntrack_tcp_be_liberal=_flag(reader.mapping(fields, "conntrack", ""), "tcpBeLiberal", "conntrack", reader),
        iptables_masquerade_all=_flag(iptables, "masqueradeAll", "iptables", reader),
        iptables_masquerade_bit=_bit(iptables, "iptables", reader),
        iptables_localhost_node_ports=True if localhost is None else localhost,
        iptables_sync_period=_seconds(iptables, "syncPeriod", "iptables", reader) or 30.0,
        iptables_min_sync_period=_seconds(iptables, "minSyncPeriod", "iptables", reader) or 1.0,
        ipvs_scheduler=reader.text(ipvs, "scheduler", "ipvs"),
        ipvs_strict_arp=_flag(ipvs, "strictARP", "ipvs", reader),
        ipvs_exclude_cidrs=reader.texts(ipvs, "excludeCIDRs", "ipvs"),
        ipvs_tcp_timeout=_seconds(ipvs, "tcpTimeout", "ipvs", reader),
        ipvs_tcp_fin_timeout=_seconds(ipvs, "tcpFinTimeout", "ipvs", reader),
        ipvs_udp_timeout=_seconds(ipvs, "udpTimeout", "ipvs", reader),
        ipvs_sync_period=_seconds(ipvs, "syncPeriod", "ipvs", reader) or 30.0,
        ipvs_min_sync_period=_seconds(ipvs, "minSyncPeriod", "ipvs", reader),
        nftables_masquerade_all=_flag(nftables, "masqueradeAll", "nftables", reader),
        nftables_masquerade_bit=_bit(nftables, "nftables", reader),
        nftables_sync_period=_seconds(nftables, "syncPeriod", "nftables", reader) or 30.0,
        nftables_min_sync_period=_seconds(nftables, "minSyncPeriod", "nftables", reader) or 1.0,
        feature_gates=_feature_gates(fields, reader),
        origin=origin,
    )
    if not reader.violations:
        reader.violations.extend(check_configuration(made))
    return made


def _note_unknown(fields: Fields, reader: Reader) -> None:
    reader.known(fields, frozenset(_KNOWN), "")
    for key, names in _KNOWN.items():
        value = fields.get(key)
        if names is not None and isinstance(value, Mapping):
            reader.known(value, names, key)


def _cluster_cidr(fields: Fields, reader: Reader) -> str:
    """A text with a comma between two, or a list of them."""
    if isinstance(fields.get("clusterCIDR"), list | tuple):
        return ",".join(reader.texts(fields, "clusterCIDR", ""))
    return reader.text(fields, "clusterCIDR", "")


def _flag(fields: Fields, key: str, at: str, reader: Reader) -> bool:
    return reader.boolean(fields, key, at) or False


def _bit(fields: Fields, at: str, reader: Reader) -> int:
    bit = reader.optional_integer(fields, "masqueradeBit", at)
    return 14 if bit is None else bit


def _feature_gates(fields: Fields, reader: Reader) -> Mapping[str, bool]:
    gates = reader.mapping(fields, "featureGates", "")
    return {str(name): _flag(gates, name, "featureGates", reader) for name in gates}


def _seconds(fields: Fields, key: str, at: str, reader: Reader) -> float:
    """A Go duration such as ``1m30s``; 0 where there is none."""
    value = fields.get(key)
    try:
        if isinstance(value, str) or value is None:
            return duration(value) if value else 0.0
        detail = "must be a duration, such as 30s or 1m"
    except ValueError as error:
        detail = str(error)
    reader.violations.append(invalid(f"{at}.{key}" if at else key, value, detail))
    return 0.0


def duration(text: str) -> float:
    """Seconds of a duration as Go's time.ParseDuration reads it. Raises ValueError in its words."""
    rest = text[1:] if text.startswith(("+", "-")) else text
    if rest == "0":
        return 0.0
    total = 0.0
    while rest:
        match = _DURATION_PART.match(rest)
        number, unit = (match[1], match[2]) if match else ("", "")
        if number in ("", "."):
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _UNITS[unit]
        rest = rest[len(number) + len(unit) :]
    if total > _LONGEST or rest == text == "":
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def check_configuration(made: KubeProxyConfiguration) -> Iterator[Violation]:
    """What kube-proxy would refuse to start with; the paths are its own, the places those of the file."""
    for section, bit, place in (
        ("KubeProxyIPTablesConfiguration", made.iptables_masquerade_bit, "iptables"),
        ("KubeProxyNFTablesConfiguration", made.nftables_masquerade_bit, "nftables"),
    ):
        if not 0 <= bit <= 31:
            yield _invalid(f"{section}.MasqueradeBit", bit, "must be within the range [0, 31]", f"{place}.masqueradeBit")
    if made.mode == "ipvs":
        yield from _check_ipvs(made)
    if made.mode and made.mode not in MODES:
        detail = f"must be {', '.join(MODES)} or blank (blank means the best-available proxy [currently iptables])"
        yield _invalid("Mode.ProxyMode", made.mode, detail, "mode")
    yield from _check_periods(made)
    if made.bind_address and sloppy_address(made.bind_address) is None:
        yield _invalid("BindAddress", made.bind_address, "not a valid textual representation of an IP address", "bindAddress")
    yield from _check_nodeport_addresses(made.nodeport_addresses)
    if made.detect_local_mode not in ("", *LOCAL_MODES):
        supported = (*LOCAL_MODES, "")
        yield not_supported(f"{_ROOT}.DetectLocalMode", made.detect_local_mode, supported)._replace(place="detectLocalMode")
    yield from _check_detect_local(made)


def _invalid(path: str, value: object, detail: str, place: str) -> Violation:
    return invalid(f"{_ROOT}.{path}", value, detail)._replace(place=place)


def _check_ipvs(made: KubeProxyConfiguration) -> Iterator[Violation]:
    section = "KubeProxyIPVSConfiguration"
    for name, seconds, place in (
        ("TCPTimeout", made.ipvs_tcp_timeout, "ipvs.tcpTimeout"),
        ("TCPFinTimeout", made.ipvs_tcp_fin_timeout, "ipvs.tcpFinTimeout"),
        ("UDPTimeout", made.ipvs_udp_timeout, "ipvs.udpTimeout"),
    ):
        if seconds < 0:
            yield _invalid(f"{section}.{name}", duration_text(seconds), "must be greater than or equal to 0", place)
    for index, text in enumerate(made.ipvs_exclude_cidrs):
        if sloppy_cidr(text) is None:
            yield _invalid(f"{section}.ExcludeCidrs[{index}]", text, "must be a valid CIDR", f"ipvs.excludeCIDRs[{index}]")


def _check_periods(made: KubeProxyConfiguration) -> Iterator[Violation]:
    """Those of the mode that is used (iptables where none is said)."""
    if made.config_sync_period <= 0:
        yield _invalid("ConfigSyncPeriod", duration_text(made.config_sync_period), "must be greater than 0", "configSyncPeriod")
    mode = made.mode if made.mode in MODES else "iptables"
    period, least = {
        "iptables": (made.iptables_sync_period, made.iptables_min_sync_period),
        "ipvs": (made.ipvs_sync_period, made.ipvs_min_sync_period),
        "nftables": (made.nftables_sync_period, made.nftables_min_sync_period),
    }[mode]
    if period <= 0:
        yield _invalid("SyncPeriod", duration_text(period), "must be greater than 0", f"{mode}.syncPeriod")
    if least < 0:
        yield _invalid("MinSyncPeriod", duration_text(least), "must be greater than or equal to 0", f"{mode}.minSyncPeriod")
    if least > period:
        detail = f"must be greater than or equal to {_ROOT}.MinSyncPeriod"
        yield _invalid("SyncPeriod", duration_text(least), detail, f"{mode}.syncPeriod")


def _check_nodeport_addresses(addresses: Sequence[str]) -> Iterator[Violation]:
    for index, text in enumerate(addresses):
        place = f"nodePortAddresses[{index}]"
        if text == PRIMARY:
            if len(addresses) > 1:
                yield _invalid(f"NodePortAddresses[{index}]", text, "can't use both 'primary' and CIDRs", place)
            return
        if sloppy_cidr(text) is None:
            yield _invalid(f"NodePortAddresses[{index}]", text, "must be a valid CIDR", place)


def _check_detect_local(made: KubeProxyConfiguration) -> Iterator[Violation]:
    section = "DetectLocalConfiguration"
    if made.detect_local_mode == "BridgeInterface" and not made.bridge_interface:
        yield _invalid(f"{section}.InterfaceName", "", "must not be empty", "detectLocal.bridgeInterface")
    elif made.detect_local_mode == "InterfaceNamePrefix" and not made.interface_name_prefix:
        yield _invalid(f"{section}.InterfacePrefix", "", "must not be empty", "detectLocal.interfaceNamePrefix")
    elif made.detect_local_mode in ("ClusterCIDR", "") and made.cluster_cidr:
        cidrs, path = made.cluster_cidr.split(","), f"{section}.ClusterCIDRs"
        found = [sloppy_cidr(text) for text in cidrs]
        if len(cidrs) > 2:
            yield _invalid(path, cidrs, _DUAL_STACK, "clusterCIDR")
            return
        for index, text in enumerate(cidrs):
            if found[index] is None:
                detail = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
                yield _invalid(f"{path}[{index}]", text, detail, "clusterCIDR")
        families = [cidr.address.family for cidr in found if cidr is not None]
        if len(families) == 2 and families[0] == families[1]:
            yield _invalid(path, cidrs, _DUAL_STACK, "clusterCIDR")


def duration_text(seconds: float) -> str:
    """A duration as Go prints it (``1m30s``)."""
    if seconds == 0:
        return "0s"
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    for unit, size in (("ns", 1e-6), ("µs", 1e-3), ("ms", 1.0)):
        if seconds < size:
            return f"{sign}{seconds / _UNITS[unit]:g}{unit}"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{rest:.9g}s"

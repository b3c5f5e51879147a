"""Kernel parameters that decide where packets go, and what they are when nobody has set them.

The defaults are those of a new network namespace, read from kernels 6.1 and 6.18 (a test reads them again from the machine it
runs on). Only what has a bearing on packets is in the table. Which of "all" and an interface's own value wins is a rule of
each parameter (IN_DEV_ORCONF, IN_DEV_MAXCONF …), so it belongs to the engine. Knows nothing about the text of ``sysctl -a``.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dataplane.errors import InputError, Problem

_PLAIN: Final[Mapping[str, str]] = {
    "net.bridge.bridge-nf-call-arptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-filter-pppoe-tagged": "0",
    "net.bridge.bridge-nf-filter-vlan-tagged": "0",
    "net.bridge.bridge-nf-pass-vlan-input-dev": "0",
    "net.ipv4.fib_multipath_hash_fields": "7",
    "net.ipv4.fib_multipath_hash_policy": "0",
    "net.ipv4.fib_multipath_use_neigh": "0",
    "net.ipv4.fwmark_reflect": "0",
    "net.ipv4.icmp_echo_enable_probe": "0",
    "net.ipv4.icmp_echo_ignore_all": "0",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    "net.ipv4.icmp_errors_use_inbound_ifaddr": "0",
    "net.ipv4.icmp_ignore_bogus_error_responses": "1",
    "net.ipv4.ip_default_ttl": "64",
    "net.ipv4.ip_early_demux": "1",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.ip_forward_update_priority": "1",
    "net.ipv4.ip_forward_use_pmtu": "0",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "net.ipv4.ip_local_reserved_ports": "",
    "net.ipv4.ip_no_pmtu_disc": "0",
    "net.ipv4.ip_nonlocal_bind": "0",
    "net.ipv4.ip_unprivileged_port_start": "1024",
    "net.ipv4.ipfrag_high_thresh": "4194304",
    "net.ipv4.ipfrag_low_thresh": "3145728",
    "net.ipv4.ipfrag_max_dist": "64",
    "net.ipv4.ipfrag_time": "30",
    "net.ipv4.route.min_adv_mss": "256",
    "net.ipv4.route.min_pmtu": "552",
    "net.ipv4.route.mtu_expires": "600",
    "net.ipv4.tcp_early_demux": "1",
    "net.ipv4.tcp_fwmark_accept": "0",
    "net.ipv4.tcp_l3mdev_accept": "0",
    "net.ipv4.udp_early_demux": "1",
    "net.ipv4.udp_l3mdev_accept": "0",
    "net.ipv4.vs.cache_bypass": "0",
    "net.ipv4.vs.conn_reuse_mode": "1",
    "net.ipv4.vs.conntrack": "0",
    "net.ipv4.vs.drop_entry": "0",
    "net.ipv4.vs.drop_packet": "0",
    "net.ipv4.vs.expire_nodest_conn": "0",
    "net.ipv4.vs.expire_quiescent_template": "0",
    "net.ipv4.vs.ignore_tunneled": "0",
    "net.ipv4.vs.nat_icmp_send": "0",
    "net.ipv4.vs.pmtu_disc": "1",
    "net.ipv4.vs.schedule_icmp": "0",
    "net.ipv4.vs.secure_tcp": "0",
    "net.ipv4.vs.sloppy_sctp": "0",
    "net.ipv4.vs.sloppy_tcp": "0",
    "net.ipv4.vs.snat_reroute": "1",
    "net.ipv6.anycast_src_echo_reply": "0",
    "net.ipv6.bindv6only": "0",
    "net.ipv6.fib_multipath_hash_fields": "7",
    "net.ipv6.fib_multipath_hash_policy": "0",
    "net.ipv6.fwmark_reflect": "0",
    "net.ipv6.icmp.echo_ignore_all": "0",
    "net.ipv6.icmp.echo_ignore_anycast": "0",
    "net.ipv6.icmp.echo_ignore_multicast": "0",
    "net.ipv6.ip6frag_high_thresh": "4194304",
    "net.ipv6.ip6frag_low_thresh": "3145728",
    "net.ipv6.ip6frag_time": "60",
    "net.ipv6.ip_nonlocal_bind": "0",
    "net.ipv6.route.min_adv_mss": "1220",
    "net.ipv6.route.mtu_expires": "600",
    "net.netfilter.nf_conntrack_acct": "0",
    "net.netfilter.nf_conntrack_checksum": "1",
    "net.netfilter.nf_conntrack_frag6_high_thresh": "4194304",
    "net.netfilter.nf_conntrack_frag6_low_thresh": "3145728",
    "net.netfilter.nf_conntrack_frag6_timeout": "60",
    "net.netfilter.nf_conntrack_generic_timeout": "600",
    "net.netfilter.nf_conntrack_gre_timeout": "30",
    "net.netfilter.nf_conntrack_gre_timeout_stream": "180",
    "net.netfilter.nf_conntrack_icmp_timeout": "30",
    "net.netfilter.nf_conntrack_icmpv6_timeout": "30",
    "net.netfilter.nf_conntrack_log_invalid": "0",
    "net.netfilter.nf_conntrack_max": "262144",  # of a machine with some memory; it follows the size of the hash table
    "net.netfilter.nf_conntrack_sctp_timeout_closed": "10",
    "net.netfilter.nf_conntrack_sctp_timeout_cookie_echoed": "3",
    "net.netfilter.nf_conntrack_sctp_timeout_cookie_wait": "3",
    "net.netfilter.nf_conntrack_sctp_timeout_established": "210",
    "net.netfilter.nf_conntrack_sctp_timeout_heartbeat_sent": "30",
    "net.netfilter.nf_conntrack_sctp_timeout_shutdown_ack_sent": "3",
    "net.netfilter.nf_conntrack_sctp_timeout_shutdown_recd": "3",
    "net.netfilter.nf_conntrack_sctp_timeout_shutdown_sent": "3",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "0",
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": "0",
    "net.netfilter.nf_conntrack_tcp_loose": "1",
    "net.netfilter.nf_conntrack_tcp_max_retrans": "3",
    "net.netfilter.nf_conntrack_tcp_timeout_close": "10",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "60",
    "net.netfilter.nf_conntrack_tcp_timeout_established": "432000",
    "net.netfilter.nf_conntrack_tcp_timeout_fin_wait": "120",
    "net.netfilter.nf_conntrack_tcp_timeout_last_ack": "30",
    "net.netfilter.nf_conntrack_tcp_timeout_max_retrans": "300",
    "net.netfilter.nf_conntrack_tcp_timeout_syn_recv": "60",
    "net.netfilter.nf_conntrack_tcp_timeout_syn_sent": "120",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "120",
    "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged": "300",
    "net.netfilter.nf_conntrack_timestamp": "0",
    "net.netfilter.nf_conntrack_udp_timeout": "30",
    "net.netfilter.nf_conntrack_udp_timeout_stream": "120",
    "net.netfilter.nf_hooks_lwtunnel": "0",
}

#: net.ipv4.conf.INTERFACE.KEY and net.ipv6.conf.INTERFACE.KEY; the exceptions of "all" and "lo" are in _CONF_EXCEPTIONS.
_CONF: Final[Mapping[str, Mapping[str, str]]] = {
    "ipv4": {
        "accept_local": "0", "accept_redirects": "1", "accept_source_route": "1", "arp_accept": "0", "arp_announce": "0",
        "arp_evict_nocarrier": "1", "arp_filter": "0", "arp_ignore": "0", "arp_notify": "0", "bc_forwarding": "0",
        "bootp_relay": "0", "disable_policy": "0", "disable_xfrm": "0", "drop_gratuitous_arp": "0",
        "drop_unicast_in_l2_multicast": "0", "forwarding": "0", "ignore_routes_with_linkdown": "0", "log_martians": "0",
        "mc_forwarding": "0", "medium_id": "0", "promote_secondaries": "0", "proxy_arp": "0", "proxy_arp_pvlan": "0",
        "route_localnet": "0", "rp_filter": "0", "secure_redirects": "1", "send_redirects": "1", "shared_media": "1",
        "src_valid_mark": "0", "tag": "0",
    },
    "ipv6": {
        "accept_dad": "1", "accept_ra": "1", "accept_redirects": "1", "accept_source_route": "0", "addr_gen_mode": "0",
        "autoconf": "1", "disable_ipv6": "0", "disable_policy": "0", "drop_unicast_in_l2_multicast": "0",
        "force_forwarding": "0", "forwarding": "0", "hop_limit": "64", "ignore_routes_with_linkdown": "0",
        "keep_addr_on_down": "0", "mc_forwarding": "0", "mtu": "1280", "proxy_ndp": "0", "rpl_seg_enabled": "0",
        "seg6_enabled": "0", "use_oif_addrs_only": "0", "use_tempaddr": "0",
    },
}  # fmt: skip

_CONF_EXCEPTIONS: Final[Mapping[str, str]] = {
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv4.conf.lo.disable_policy": "1",
    "net.ipv4.conf.lo.disable_xfrm": "1",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.lo.accept_dad": "-1",
    "net.ipv6.conf.lo.mtu": "65536",
    "net.ipv6.conf.lo.use_tempaddr": "-1",
}


def _table() -> Mapping[str, str]:
    table = {**_PLAIN}
    for family, keys in _CONF.items():
        for scope in ("all", "default"):
            table.update({f"net.{family}.conf.{scope}.{key}": value for key, value in keys.items()})
    return MappingProxyType({**table, **_CONF_EXCEPTIONS})


#: What a new network namespace has, by name. Interfaces other than lo are not listed: they start from "default".
DEFAULTS: Final[Mapping[str, str]] = _table()

#: Two names of one variable.
_SAME: Final[Mapping[str, str]] = {
    "net.ipv4.ip_forward": "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.all.forwarding": "net.ipv4.ip_forward",
}

#: Writing conf.all.KEY writes every interface and "default" (devinet_sysctl_forward, addrconf_fixup_forwarding …).
_COPIED_FROM_ALL: Final[Mapping[str, frozenset[str]]] = {
    "ipv4": frozenset({"forwarding"}),
    "ipv6": frozenset({"forwarding", "force_forwarding", "disable_ipv6", "ignore_routes_with_linkdown", "addr_gen_mode"}),
}


class Sysctls:
    """Parameters by name (``net.ipv4.conf.eth0/100.rp_filter``: a dot inside an interface's name is a slash).

    A parameter that was not given has the kernel's default. Asking for a name that is in neither is a KeyError: our bug.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values: Mapping[str, str] = values if values is not None else {}
        # What was asked before: a packet asks a dozen times, and values never change.
        self._known: dict[str | tuple[builtins.int, str, str], builtins.int] = {}

    def get(self, name: str) -> str:
        """The value of one parameter as text."""
        value = self.values.get(name)
        if value is not None:
            return value
        others = _stand_ins(name)
        for other in others:
            if other in self.values:
                return self.values[other]
        return DEFAULTS[name] if name in DEFAULTS or not others else DEFAULTS[others[-1]]

    def conf(self, family: builtins.int, interface: str, key: str) -> builtins.int:
        """``net.ipvFAMILY.conf.INTERFACE.KEY`` of an interface as ``ip`` names it, or of "all" or "default"."""
        asked = family, interface, key
        number = self._known.get(asked)
        if number is None:
            number = self._known[asked] = self.int(f"net.ipv{family}.conf.{interface.replace('.', '/')}.{key}")
        return number

    def int(self, name: str) -> builtins.int:
        """The value of one parameter as a number; InputError where it was given as something else."""
        number = self._known.get(name)
        if number is not None:
            return number
        text = self.get(name)
        try:
            return self._known.setdefault(name, builtins.int(text))
        except ValueError:
            raise InputError(Problem(f"expected a number, got {text!r}", subject=f"sysctl {name}")) from None


def _stand_ins(name: str) -> list[str]:
    """The parameters that tell what ``name`` is where nobody has set it, nearest first."""
    if name in _SAME:
        return [_SAME[name]]
    net, _, rest = name.partition(".conf.")
    interface, _, key = rest.partition(".")
    family = net.removeprefix("net.")
    if not key or interface == "all" or family not in _CONF:
        return []
    others = []
    if key in _COPIED_FROM_ALL[family]:
        others.append(f"{net}.conf.all.{key}")
        others += _stand_ins(others[0])
    if interface != "default":
        others.append(f"{net}.conf.default.{key}")
    return others

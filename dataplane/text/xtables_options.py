"""The option table: one row a match or target extension, driving parser and printer alike.

The rows stand in xtables_matches, xtables_matches6 and xtables_targets, in the order in which iptables-save prints them. The value
types are those of the kinds (rules/iptables.py):

match tcp/udp/udplite/dccp/sctp sport, dport (low, high) · tcp: tcp-flags (mask, compare), tcp-option int · sctp: chunk-types str
dccp: dccp-types names, dccp-option int · multiport sports/dports/ports ((low, high), …) · esp espspi, ah ahspi, ipcomp ipcompspi (low, high)
icmp icmp-type, icmp6 icmpv6-type (type, code_low, code_high), type 255 any · tcpmss mss (low, high) · ecn ecn-tcp-ece/-cwr flag, ecn-ip-ect int
conntrack ctstate/ctstatus names, ctdir str, ctproto int, ctorigsrc/… Prefix, ctorigsrcport/… (low, high), ctexpire (low, high)
state state names · mark/connmark mark (value, mask) · addrtype src-type/dst-type names, limit-iface-in/-out flag
statistic mode "random"|"nth", probability int/2^31, every, packet int · recent set/rcheck/update/remove flag, seconds, hitcount int,
reap, rttl, rsource, rdest flag, name str, mask int · limit limit int (cost in 1/10000 s), limit-burst int · quota quota int
hashlimit hashlimit-upto/-above int (cost in 1/1000000 s) or ByteRate, hashlimit-burst int or ByteRate, hashlimit-mode/-name str, …
connlimit connlimit-upto/-above int, connlimit-mask int (length), connlimit-saddr/-daddr flag
set match-set (name, directions), packets-eq/-lt/-gt, bytes-eq/-lt/-gt int, update-counters, update-subcounters, return-nomatch flag
connbytes connbytes (low, high) (high 0: no bound), connbytes-mode, connbytes-dir str · connlabel label str, set flag
cluster cluster-local-nodemask, cluster-total-nodes, cluster-hash-seed int · policy dir, pol, proto, mode str, reqid, spi int, tunnel-src/-dst
Prefix, strict, next flag, elements one behind the other · time timestart/timestop int (seconds), datestart/datestop str (ISO 8601), monthdays
(int, …), weekdays names, kerneltz, contiguous flag · string string or hex-string bytes, algo str, from, to int, icase flag · u32 u32 str
physdev physdev-in/-out str, physdev-is-in/-is-out/-is-bridged flag · iprange src-range/dst-range (low, high) · bpf bytecode str
owner uid-owner/gid-owner (low, high), socket-exists flag · mac mac-source int · length length (low, high) · ttl ttl-eq/-lt/-gt int
hl hl-eq/-lt/-gt int · pkttype pkt-type str · rpfilter loose/validmark/accept-local/invert flag · nfacct nfacct-name str · tos tos (value, mask)
dscp dscp int · helper helper str · devgroup src-group/dst-group, realm realm (value, mask) · cpu cpu, cgroup cgroup int · osf genre str
IPv6: frag fragid (low, high) · hbh/dst hbh-len int, hbh-opts ((type, length or None), …) · rt rt-type, rt-len int, rt-segsleft (low, high),
rt-0-addrs (int, …) · ipv6header header names, soft flag · mh mh-type (low, high) · srh srh-… int or Prefix
target DNAT to-destination, SNAT to-source NatRange · MASQUERADE/REDIRECT to-ports NatRange · NETMAP to, SNPT/DNPT src-pfx, dst-pfx Prefix
random, random-fully, persistent flag · REJECT reject-with str · MARK set-xmark (value, mask)
CONNMARK set-xmark | save-mark, restore-mark flag with nfmask, ctmask int, left-shift-mark, right-shift-mark int
CT notrack flag, helper, timeout, zone, zone-orig, zone-reply str, ctevents, expevents names · SET add-set/del-set (name, directions), …
TPROXY on-port int, on-ip int, tproxy-mark (value, mask) · TCPMSS set-mss int, clamp-mss-to-pmtu flag · TCPOPTSTRIP strip-options (int, …)
LOG/NFLOG · NFQUEUE queue-num int, queue-balance (first, last) · TTL ttl-set/-dec/-inc, HL hl-set/-dec/-inc int · TOS set-tos (value, mask)
DSCP set-dscp int · ECN ecn-tcp-remove flag, ecn-tcp-ece/-cwr, ecn-ip-ect int · CLASSIFY set-class (major, minor) · TEE gateway int, oif str
HMARK hmark-… int · AUDIT type str · IDLETIMER timeout int, label str · RATEEST rateest-interval/-ewmalog int (microseconds) · SYNPROXY …

Anything without a row (rateest, ipvs, LED, CLUSTERIP, ULOG among what iptables 1.8.9 has) is kept verbatim.
"""

from __future__ import annotations

from dataplane.text.xtables_extension import Extension, Facts, Row, completed, of_family, spellings
from dataplane.text.xtables_matches import MATCHES
from dataplane.text.xtables_targets import TARGETS

__all__ = ["MATCHES", "TARGETS", "Extension", "Facts", "Row", "completed", "of_family", "spellings"]

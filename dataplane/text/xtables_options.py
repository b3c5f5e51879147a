"""The option table: one row a match or target extension, driving parser and printer alike.

Options stand in the order in which iptables-save prints them. The value types are those of the kinds (rules/iptables.py):

match tcp/udp/udplite/dccp sport, dport (low, high) · tcp: tcp-flags (mask, compare), tcp-option int · sctp: chunk-types str
multiport sports/dports/ports ((low, high), …) · icmp icmp-type, icmp6 icmpv6-type (type, code_low, code_high), type 255 any
conntrack ctstate/ctstatus/ctdir names, ctproto int, ctorigsrc/… Prefix, ctorigsrcport/… (low, high), ctexpire (low, high)
state state names · mark/connmark mark (value, mask) · addrtype src-type/dst-type names, limit-iface-in/-out flag
statistic mode "random"|"nth", probability int/2^31, every, packet int · recent set/rcheck/update/remove flag, seconds, hitcount int,
reap, rttl, rsource, rdest flag, name str, mask int · limit limit int (cost in 1/10000 s), limit-burst int
hashlimit hashlimit-upto/-above int (cost in 1/1000000 s) or str (bytes), hashlimit-burst int, hashlimit-mode str, hashlimit-name str, …
connlimit connlimit-upto/-above int, connlimit-mask int (length), connlimit-saddr/-daddr flag · set match-set (name, directions)
physdev physdev-in/-out str, physdev-is-in/-is-out/-is-bridged flag · iprange src-range/dst-range (low, high)
owner uid-owner/gid-owner (low, high), socket-exists flag · mac mac-source int · length length (low, high) · ttl ttl-eq/-lt/-gt int
hl hl-eq/-lt/-gt int · pkttype pkt-type str · rpfilter loose/validmark/accept-local/invert flag · nfacct nfacct-name str · tos tos (value, mask)
dscp dscp int · helper helper str
target DNAT to-destination, SNAT to-source NatRange · MASQUERADE/REDIRECT to-ports NatRange · NETMAP to Prefix · random, random-fully,
persistent flag · REJECT reject-with str · MARK set-xmark (value, mask) · CONNMARK set-xmark | save-mark, restore-mark flag with nfmask, ctmask int
CT notrack flag, helper str, zone str … · SET add-set/del-set (name, directions) · TPROXY on-port int, on-ip int, tproxy-mark (value, mask)
TCPMSS set-mss int, clamp-mss-to-pmtu flag · LOG/NFLOG · TTL ttl-set/-dec/-inc, HL hl-set/-dec/-inc int · TOS set-tos (value, mask)
DSCP set-dscp int · CLASSIFY set-class str. Anything without a row is kept verbatim.
"""

from __future__ import annotations

from dataplane.text.xtables_extension import Extension, Facts, Row, completed, of_family
from dataplane.text.xtables_matches import MATCHES
from dataplane.text.xtables_targets import TARGETS

__all__ = ["MATCHES", "TARGETS", "Extension", "Facts", "Row", "completed", "of_family"]

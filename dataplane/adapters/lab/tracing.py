"""The kernel's own account of a packet's way: the TRACE target, whose log lines come by netlink instead of the kernel's log.

A rule "-j TRACE" is put first in the table raw, so the numbers of raw's rules are one higher than in the rules as given. Only
iptables-legacy's tables tell their way so.
Source: nf_log_trace (nf_log.c), trace_packet (ip_tables.c), xt_TRACE.c.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from dataplane.adapters.lab.lines import Packet
from dataplane.adapters.lab.netlink import NETLINK_NETFILTER, attribute, attributes_of, messages_of, request
from dataplane.adapters.lab.netns import write_sysctl
from dataplane.adapters.lab.node import Node, standing
from dataplane.adapters.lab.referee import Referee
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.adapters.lab.wire import parse
from dataplane.errors import LabError

_PACKET, _CONFIG = 0x400, 0x401
_BIND, _MODE = 1, 2
_PAYLOAD, _PREFIX = 9, 10
_FAMILIES: Final = {socket.AF_INET: "iptables", socket.AF_INET6: "ip6tables"}
_QUIET: Final = 0.3  # seconds without a line: there are no more


def kernel_trace(snapshot: Snapshot, packets: Sequence[Packet]) -> str:
    """Of the last of the packets, the rules that its way touched, a line each; "" where this kernel cannot tell."""
    if "(nf_tables)" in snapshot.iptables + snapshot.ip6tables:
        return ""
    try:
        with standing(snapshot, flavour="legacy") as node:
            referee = Referee(node)
            try:
                referee.send(packets[:-1])
                with _log(node) as log:
                    for tool in _FAMILIES.values():
                        for chain in ("PREROUTING", "OUTPUT"):
                            node.inside.run(f"{tool}-legacy", "-t", "raw", "-I", chain, "-j", "TRACE")
                    referee.send(packets[-1:])
                    return "".join(f"{line}\n" for line in _lines(log))
            finally:
                referee.close()
    except LabError:
        return ""


def _log(node: Node) -> socket.socket:
    """A socket that hears what the namespace's rules log, at group 0."""
    log = node.inside.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    log.settimeout(_QUIET)
    head = struct.pack(">BBH", socket.AF_UNSPEC, 0, 0)
    request(log, _CONFIG, head + attribute(_BIND, b"\x01"), "NFLOG group 0")
    request(log, _CONFIG, head + attribute(_MODE, struct.pack(">IBx", 0xFFFF, 2)), "NFLOG group 0")
    with node.inside.inside():
        for family in _FAMILIES:
            if not write_sysctl(f"net.netfilter.nf_log.{int(family)}", "nfnetlink_log"):
                raise LabError("this kernel does not let a namespace log by netlink")
    return log


def _lines(log: socket.socket) -> Iterator[str]:
    while True:
        try:
            data = log.recv(65536)
        except TimeoutError:
            return
        for kind, body in messages_of(data):
            found = attributes_of(body[4:]) if kind == _PACKET else {}
            prefix = found.get(_PREFIX, b"").rstrip(b"\0").decode()
            header = parse(found.get(_PAYLOAD, b""))
            if prefix.startswith("TRACE:") and header is not None:
                ends = f"{header.proto} {header.src} {header.sport} > {header.dst} {header.dport}"
                yield f"{prefix.strip()} {ends}"

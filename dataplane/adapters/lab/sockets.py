"""Watches packets where the kernel has no nftables for it: what leaves is seen on the devices, what is delivered by raw sockets.

A packet socket on each device has what goes out there; a raw socket of each protocol has a copy of what was delivered, before the protocol
itself sees it. Both tell the mark (SO_RCVMARK, Linux 5.19). Two things must be kept from answering: neighbours are taken as known (arp off),
and a rule drops what TCP says to a port that nobody listens on, for that would change the connection. What ICMP says to such a datagram
comes after its delivery, and is not counted as its outcome. Source: net/packet/af_packet.c, net/ipv4/raw.c, net/netfilter/xt_owner.c.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dataplane.adapters.lab import wire
from dataplane.adapters.lab.netns import Netns, write_sysctl
from dataplane.adapters.lab.observer import INPUT, POSTROUTING, Event
from dataplane.adapters.lab.wire import ICMP, ICMPV6, SCTP, SENTINEL, TCP, UDP, Header, parse
from dataplane.errors import LabError

if TYPE_CHECKING:
    from dataplane.adapters.lab.node import Node

_SO_MARK, _SO_RCVMARK = 36, 75
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_SOL_IPV6: Final = 41
_IPV6_RECVPKTINFO, _IPV6_PKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 49, 50, 51, 52
_IPV6_FLOWINFO, _IPV6_RECVTCLASS, _IPV6_TCLASS = 11, 66, 67
GRE: Final = 47
GUE_PORT: Final = 6080  # taken for GUE wherever it is met
_TUNNELS: Final = {"4": "ipencap", "41": "ipv6", "47": "gre"}  # as /etc/protocols names them
_OUTGOING: Final = 4  # PACKET_OUTGOING
_LO: Final = 1
_BUFFER: Final = 16 << 20
_SNAPLEN: Final = 2048
#: What TCP itself sends: over IPv4 by a socket that is in no file, over IPv6 by none at all (which is so of packets that IPVS sends on, too).
_SILENCE: Final = {
    "iptables-legacy": "-p tcp -m owner --socket-exists -m owner ! --uid-owner 0-4294967294 -j DROP",
    "ip6tables-legacy": "-p tcp --tcp-flags RST RST -m owner ! --socket-exists -m addrtype --src-type LOCAL -j DROP",
}


class SocketObserver:
    """As ``observer.Observer``, but of packets that come in or are sent (not of those on their way) only by what became of them."""

    def __init__(self, netns: Netns) -> None:
        self._netns = netns
        self._taps: dict[int, socket.socket] = {}
        self._delivered = [self._raw(4, protocol) for protocol in (TCP, UDP, SCTP, ICMP)]
        self._delivered += [self._raw(6, protocol) for protocol in (TCP, UDP, SCTP, ICMPV6)]
        self._waiting = select.poll()
        self._watched = {raw.fileno(): (0, raw) for raw in self._delivered}  # with the device's index, 0 for none

    def close(self) -> None:
        """Closes the sockets."""
        for one in (*self._taps.values(), *self._delivered):
            one.close()

    def ready(self, node: Node) -> None:
        """To be called when the node stands: watches its devices, and keeps neighbours, TCP and echo silent."""
        for index, name in node.links.items():
            if index != _LO:
                self._netns.run("ip", "link", "set", name, "arp", "off")
            self._taps[index] = self._tap(name)
        self._taps[_LO].settimeout(5)
        self._watched |= {tap.fileno(): (index, tap) for index, tap in self._taps.items() if index != _LO}
        for number in self._watched:
            self._waiting.register(number, select.POLLIN)
        with self._netns.inside():
            for key in ("net.ipv4.icmp_echo_ignore_all", "net.ipv6.icmp.echo_ignore_all"):
                write_sysctl(key, "1")
        for command, rule in _SILENCE.items():
            self._netns.run(command, "-w", "60", "-t", "raw", "-I", "OUTPUT", *rule.split())

    def events(self, last: int) -> list[Event]:
        """What has been seen up to the sentinel with tag ``last``."""
        while True:
            try:
                data, address = self._taps[_LO].recvfrom(_SNAPLEN)
            except OSError as error:
                raise LabError(f"sentinel {last} did not come: {error}") from error
            header = parse(data)
            if header is not None and header.proto == str(SENTINEL) and header.tag == last and address[2] != _OUTGOING:
                break
        found: list[Event] = []
        for number, _ in self._waiting.poll(0):
            index, one = self._watched[number]
            found += self._left(index, one) if index else self._arrived(one)
        return found

    # ------------------------------------------------------------------ sockets

    def _tap(self, name: str) -> socket.socket:
        tap = self._netns.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        _prepare(tap)
        tap.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        tap.bind((name, 0x0003))
        return tap

    def _raw(self, family: int, protocol: int) -> socket.socket:
        raw = self._netns.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW, protocol)
        _prepare(raw)
        if family == 6:
            for option in (_IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_FLOWINFO, _IPV6_RECVTCLASS):
                raw.setsockopt(_SOL_IPV6, option, 1)
        return raw

    def _left(self, index: int, tap: socket.socket) -> list[Event]:
        found = []
        with suppress(OSError):  # no more, or a device that is down
            while True:
                data, ancillary, _, address = tap.recvmsg(_SNAPLEN, 256)
                if _unfinished(ancillary):
                    data = wire.finished(data)
                header = _tagged(data)
                if address[2] == _OUTGOING and header is not None:
                    found.append(Event(POSTROUTING, 0, index, _mark(ancillary), header, None, data))
        return found

    def _arrived(self, raw: socket.socket) -> list[Event]:
        found = []
        with suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = raw.recvmsg(_SNAPLEN, 256)
                if raw.family == socket.AF_INET6:
                    data = _whole6(data, ancillary, address[0], raw.proto)
                    data = wire.finished(data) if raw.proto == ICMPV6 else data  # what went over lo may never have got one
                header = parse(data)
                if header is not None:
                    found.append(Event(INPUT, 0, 0, _mark(ancillary), header, None, data))
        return found


_Ancillary = list[tuple[int, int, bytes]]


def _unfinished(ancillary: _Ancillary) -> bool:
    """Whether the device is to fill in the checksum (TP_STATUS_CSUMNOTREADY)."""
    return any(kind == _PACKET_AUXDATA and int.from_bytes(data[:4], "little") & 8 for level, kind, data in ancillary if level == _SOL_PACKET)


def _tagged(data: bytes) -> Header | None:
    """The header of a packet; a tunnel's packet has the tag of the one in it."""
    header = parse(data)
    if header is None:
        return None
    start = (data[0] & 15) * 4 if header.family == 4 else 40
    if header.proto == "udp" and header.dport == GUE_PORT:
        start += 12
    elif header.proto == str(GRE):
        start += 8 if data[start] & 0x80 else 4
    elif header.proto not in ("4", "41"):
        return header
    inner = parse(data[start:])
    return header._replace(tag=inner.tag, proto=_TUNNELS.get(header.proto, header.proto)) if inner is not None else header


def _prepare(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
    one.setsockopt(socket.SOL_SOCKET, _SO_RCVMARK, 1)
    one.setblocking(False)


def _mark(ancillary: _Ancillary) -> int:
    return next((int.from_bytes(data[:4], "little") for level, kind, data in ancillary if (level, kind) == (socket.SOL_SOCKET, _SO_MARK)), 0)


def _whole6(body: bytes, ancillary: _Ancillary, source: str, protocol: int) -> bytes:
    """The packet that a raw IPv6 socket tells in pieces."""
    told = {kind: data for level, kind, data in ancillary if level == _SOL_IPV6}
    label = int.from_bytes(told.get(_IPV6_FLOWINFO, bytes(4)), "big") & 0xFFFFF
    traffic, hops = (int.from_bytes(told.get(kind, bytes(4)), "little") for kind in (_IPV6_TCLASS, _IPV6_HOPLIMIT))
    head = struct.pack(">IHBB", 6 << 28 | traffic << 20 | label, len(body), protocol, hops)
    return head + socket.inet_pton(socket.AF_INET6, source.partition("%")[0]) + told[_IPV6_PKTINFO][:16] + body

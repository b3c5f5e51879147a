"""Watches packets in a namespace: where they enter, where they were delivered or leave, with headers and mark.

Four chains of an nftables table log to an NFLOG group that a netlink socket reads. Two run before everything else in the
namespace and tell that a packet has come in (prerouting) or is sent (output). Two run after everything else, at priority
INT_MAX behind conntrack's confirm; hooks of equal priority run in reverse order of registration (nf_hook_entries_grow puts a
new one before its equals), so the table has to be made before connection tracking begins in that namespace.

The last two also throw away what they saw (all but what goes on over lo). Nothing is lost by that: every rule has been passed
and the connection is confirmed. But no neighbour needs to be known, and no socket answers by itself: a packet to a closed
port makes no RST, a SYN-ACK that no socket waits for makes none either, and each would change the connection's state.
So what the kernel does send, REJECT and routing made. Redirects are taken away before rules see them: they say "next time", and are
sent at a rate that depends on what each neighbour was told before.

Source: net/netfilter/core.c, nfnetlink_log.c, include/uapi/linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.adapters.lab.netlink import NETLINK_NETFILTER, attribute, request
from dataplane.adapters.lab.netns import Netns
from dataplane.adapters.lab.wire import SENTINEL, Header, parse
from dataplane.errors import LabError

if TYPE_CHECKING:
    from dataplane.adapters.lab.node import Node

GROUP: Final = 55930
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)

_TABLE: Final = f"""
table inet referee {{
  chain comes_in {{
    type filter hook prerouting priority -2147483648;
    meta l4proto {SENTINEL} log group {GROUP} snaplen 64 drop
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} drop
    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} drop
    meta l4proto igmp drop
    log group {GROUP} snaplen 256
  }}
  chain is_sent {{
    type filter hook output priority -2147483648;
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} drop
    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} drop
    meta l4proto igmp drop
    icmp type redirect drop
    log group {GROUP} snaplen 256
  }}
  chain was_delivered {{
    type filter hook input priority 2147483647;
    log group {GROUP} snaplen 256 drop
  }}
  chain leaves {{
    type filter hook postrouting priority 2147483647;
    log group {GROUP} snaplen 256
    oifname != "lo" drop
  }}
}}
"""

# nfnetlink_log.h
_MSG_PACKET, _MSG_CONFIG = 0x400, 0x401
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5
_PACKET_HDR, _MARK, _INDEV, _OUTDEV, _PAYLOAD = 1, 2, 4, 5, 9
_BUFFER: Final = 64 << 20
_SENTINEL: Final = str(SENTINEL)


class Event(NamedTuple):
    """One packet at one hook. Interfaces are indexes, 0 for none; ``number`` is a sentinel's tag, else None."""

    hook: int
    indev: int
    outdev: int
    mark: int
    header: Header
    number: int | None
    data: bytes


class Observer:
    """Makes the table in a namespace and reads what it logs. To be made before any rule is loaded there."""

    def __init__(self, netns: Netns) -> None:
        self._socket = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
            self._socket.settimeout(5)
            netns.run("nft", "-f", "-", text=_TABLE)
            self._configure(attribute(_CFG_CMD, b"\x01"))  # bind
            self._configure(attribute(_CFG_MODE, struct.pack(">IBx", 0xFFFF, 2)))  # copy packets
            self._configure(attribute(_CFG_QTHRESH, struct.pack(">I", 1)))
        except BaseException:
            self.close()
            raise

    def ready(self, node: Node) -> None:
        """Nothing is left to be done when the node stands."""

    def close(self) -> None:
        """Closes the socket; the table goes with the namespace."""
        self._socket.close()

    def events(self, last: int) -> list[Event]:
        """What has been seen, in the kernel's order, up to the sentinel with tag ``last``."""
        found: list[Event] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise LabError(f"the kernel's log ended before sentinel {last}: {error}") from error
            for event in _events(data):
                if event.number == last:
                    return found
                if event.number is None:
                    found.append(event)

    def _configure(self, option: bytes) -> None:
        request(self._socket, _MSG_CONFIG, struct.pack(">BBH", socket.AF_UNSPEC, 0, GROUP) + option, f"NFLOG group {GROUP}")


_FRAME: Final = struct.Struct("=IH")
_ATTRIBUTE: Final = struct.Struct("=HH")


def _events(data: bytes) -> list[Event]:
    """The packets in one netlink datagram."""
    found, offset, end = [], 0, len(data)
    while offset + 16 <= end:
        length, kind = _FRAME.unpack_from(data, offset)
        if kind == _MSG_PACKET:
            event = _event(data, offset + 20, offset + length)
            if event is not None:
                found.append(event)
        offset += length + 3 & ~3
    return found


def _event(data: bytes, offset: int, end: int) -> Event | None:
    hook = indev = outdev = mark = 0
    payload = b""
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if kind == _PAYLOAD:
            payload = data[offset + 4 : offset + length]
        elif kind == _PACKET_HDR:
            hook = data[offset + 6]
        elif kind == _MARK:
            mark = int.from_bytes(data[offset + 4 : offset + 8], "big")
        elif kind == _INDEV:
            indev = int.from_bytes(data[offset + 4 : offset + 8], "big")
        elif kind == _OUTDEV:
            outdev = int.from_bytes(data[offset + 4 : offset + 8], "big")
        offset += length + 3 & ~3
    header = parse(payload)
    if header is None:
        return None
    return Event(hook, indev, outdev, mark, header, header.tag if header.proto == _SENTINEL else None, payload)

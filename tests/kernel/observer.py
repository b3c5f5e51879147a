"""Watches packets in a namespace: where they enter, where they were delivered or leave, with headers and mark.

Four chains of an nftables table log to an NFLOG group that a netlink socket reads. Two run before everything else in the
namespace and tell that a packet has come in (prerouting) or is sent (output). Two run after everything else, at priority
INT_MAX behind conntrack's confirm; hooks of equal priority run in reverse order of registration (nf_hook_entries_grow puts a
new one before its equals), so the table has to be made before connection tracking begins in that namespace.

The last two also throw away what they saw (all but what goes on over lo). Nothing is lost by that: every rule has been passed
and the connection is confirmed. But no neighbour needs to be known, and no socket answers by itself: a packet to a closed
port makes no RST, a SYN-ACK that no socket waits for makes none either, and each would change the connection's state.
So what the kernel does send, REJECT and routing made. (Of a broadcast that the node sends, the copy that comes back to the
node itself is thrown away too: what left counts.)

Source: net/netfilter/core.c, nfnetlink_log.c, include/uapi/linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from tests.kernel.netlink import NETLINK_NETFILTER, attribute, attributes_of, messages_of, request
from tests.kernel.wire import SENTINEL, Header, parse
from tests.kernel.world import Netns, RefereeError

GROUP: Final = 55930
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)

_TABLE: Final = f"""
table inet referee {{
  chain comes_in {{
    type filter hook prerouting priority -2147483648;
    meta l4proto {SENTINEL} log group {GROUP} snaplen 64 drop
    log group {GROUP} snaplen 256
  }}
  chain is_sent {{
    type filter hook output priority -2147483648;
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} drop
    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect }} drop
    meta l4proto igmp drop
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


class Event(NamedTuple):
    """One packet at one hook. Interfaces are indexes, 0 for none; ``number`` is a sentinel's tag, else None."""

    hook: int
    indev: int
    outdev: int
    mark: int
    header: Header
    number: int | None


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

    def close(self) -> None:
        self._socket.close()

    def events(self, last: int) -> list[Event]:
        """What has been seen, in the kernel's order, up to the sentinel with tag ``last``."""
        found: list[Event] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise RefereeError(f"the kernel's log ended before sentinel {last}: {error}") from error
            for event in _events(data):
                if event.number == last:
                    return found
                if event.number is None:
                    found.append(event)

    def _configure(self, option: bytes) -> None:
        request(self._socket, _MSG_CONFIG, struct.pack(">BBH", socket.AF_UNSPEC, 0, GROUP) + option, f"NFLOG group {GROUP}")


def _events(data: bytes) -> list[Event]:
    """The packets in one netlink datagram."""
    found = (_event(attributes_of(body[4:])) for kind, body in messages_of(data) if kind == _MSG_PACKET)
    return [event for event in found if event is not None]


def _event(found: dict[int, bytes]) -> Event | None:
    header = parse(found.get(_PAYLOAD, b""))
    if header is None:
        return None
    hook = found[_PACKET_HDR][2]
    indev, outdev, mark = (int.from_bytes(found.get(key, b""), "big") for key in (_INDEV, _OUTDEV, _MARK))
    return Event(hook, indev, outdev, mark, header, header.tag if header.proto == str(SENTINEL) else None)

"""One namespace with one TUN device: a packet written to it is tracked, forwarded and read back with its class in the DSCP field.

Everything is synchronous: when ``send`` returns, the kernel is done with the packet. ``entry`` asks ctnetlink for one connection
with what ``conntrack -L`` leaves out (flags and window scale of both sides). Addresses are IPv4; ports are the caller's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

CLASSES: Final = ("-", "INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
CLIENT, SERVER = 0x0A000001, 0x0A000101  # 10.0.0.1, 10.0.1.1
CLIENT6, SERVER6 = 0xFD << 120 | 1, 0xFD << 120 | 1 << 96 | 1  # fd00::1, fd00:0:1::1
SEEN_REPLY, ASSURED = 2, 4  # IPS_*

_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_TCP_STATES: Final = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
)  # fmt: skip
_SCTP_STATES: Final = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)  # fmt: skip


_SETUP: Final = (
    "ip link set lo up", "ip link set tun0 up", "ip addr add 10.255.255.254/32 dev tun0", "ip route add 10.0.0.0/8 dev tun0",
    "ip -6 route add fd00::/8 dev tun0",
)  # fmt: skip


class Entry(NamedTuple):
    """A connection as ctnetlink tells it. ``reversed`` is True when the server's packet came first."""

    reversed: bool
    state: str | None
    seen_reply: bool
    assured: bool
    timeout: int
    packets: tuple[int, int]
    flags: tuple[int, int] = (0, 0)
    scale: tuple[int, int] = (0, 0)
    vtags: tuple[int, int] = (0, 0)


def may_run() -> bool:
    """Root and a TUN device are here."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists()


@contextmanager
def own_namespace() -> Iterator[None]:
    """The body runs in a new network namespace, which lives on as long as sockets made in it do."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


class Lab:
    def __init__(self, sysctls: dict[str, int] | None = None) -> None:
        with own_namespace():
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN_NO_PI))
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
            _set("net.ipv4.ip_forward", 1)
            _set("net.ipv6.conf.all.forwarding", 1)
            for command in _SETUP:
                _run(command)
            for name in ("all", "tun0"):
                _set(f"net.ipv4.conf.{name}.rp_filter", 0)
                _set(f"net.ipv4.conf.{name}.send_redirects", 0)
            rules = [f"-A PREROUTING -m conntrack --ctstate {name} -j DSCP --set-dscp {n}" for n, name in enumerate(CLASSES) if n]
            for restore in ("iptables-restore", "ip6tables-restore"):
                _run(restore, text="\n".join(["*mangle", *rules, "COMMIT\n"]))
            _set("net.netfilter.nf_conntrack_acct", 1)
            for key, value in (sysctls or {}).items():
                _set(f"net.netfilter.{key}", value)
            self._paths = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def close(self) -> None:
        os.close(self.tun)
        os.close(self._paths)
        self._netlink.close()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run commands in the namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as home:
            libc.setns(self._paths, _CLONE_NEWNET)
            try:
                yield
            finally:
                libc.setns(home.fileno(), _CLONE_NEWNET)

    def set(self, key: str, value: int) -> None:
        with self.inside():
            _set(f"net.netfilter.{key}", value)

    def run(self, *commands: str) -> str:
        with self.inside():
            return _run(*commands)

    def send(self, packet: bytes) -> str:
        """The class of a packet, or "dropped"."""
        os.write(self.tun, packet)
        deadline = time.monotonic() + 0.2
        while True:
            try:
                answer = os.read(self.tun, 4096)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return "dropped"
                continue
            if packet[0] >> 4 == 4 and answer[0] >> 4 == 4 and answer[12:20] == packet[12:20]:
                return CLASSES[answer[1] >> 2]
            if packet[0] >> 4 == 6 and answer[0] >> 4 == 6 and answer[8:40] == packet[8:40]:
                return CLASSES[(answer[0] << 8 | answer[1]) >> 6 & 0x3F]

    def entry(self, protocol: int, sport: int, dport: int) -> Entry | None:
        """The connection between CLIENT:sport and SERVER:dport."""
        addresses = _attribute(1, struct.pack(">I", CLIENT)) + _attribute(2, struct.pack(">I", SERVER))
        ports = _attribute(1, bytes((protocol,))) + _attribute(2, struct.pack(">H", sport)) + _attribute(3, struct.pack(">H", dport))
        orig = _attribute(1 | 0x8000, _attribute(1 | 0x8000, addresses) + _attribute(2 | 0x8000, ports))
        body = struct.pack("BBH", socket.AF_INET, 0, 0) + orig
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), 0x101, 1, 1, 0) + body)  # IPCTNL_MSG_CT_GET
        answer = self._netlink.recv(65536)
        if struct.unpack_from("=H", answer, 4)[0] == 2:  # NLMSG_ERROR
            return None
        return _entry(protocol, _attributes(answer[20:]))


def _entry(protocol: int, found: dict[int, bytes]) -> Entry:
    status, timeout = struct.unpack(">I", found[3])[0], struct.unpack(">I", found[7])[0]
    source = _attributes(_attributes(found[1])[1])[1]
    counters = tuple(struct.unpack(">Q", _attributes(found[kind])[1])[0] if kind in found else 0 for kind in (9, 10))
    common = (source != struct.pack(">I", CLIENT), bool(status & SEEN_REPLY), bool(status & ASSURED), timeout, counters)
    state, flags, scale, vtags = None, (0, 0), (0, 0), (0, 0)
    info = _attributes(found[4]) if 4 in found else {}
    if 1 in info:
        tcp = _attributes(info[1])
        state, flags, scale = _TCP_STATES[tcp[1][0]], (tcp[4][0], tcp[5][0]), (tcp[2][0], tcp[3][0])
    if 3 in info:
        sctp = _attributes(info[3])
        state = _SCTP_STATES[sctp[1][0]]
        vtags = (struct.unpack(">I", sctp[2])[0], struct.unpack(">I", sctp[3])[0])
    return Entry(common[0], state, common[1], common[2], common[3], (counters[0], counters[1]), flags, scale, vtags)


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def _run(*commands: str, text: str | None = None) -> str:
    output = ""
    for command in commands:
        output += subprocess.run(command.split(), input=text, text=True, check=True, capture_output=True).stdout
    return output


def _set(name: str, value: int) -> None:
    Path("/proc/sys", *name.split(".")).write_text(str(value))


# ---------------------------------------------------------------------- packets


def ipv4(protocol: int, source: int, target: int, body: bytes) -> bytes:
    header = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, target)
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + body


def ipv6(protocol: int, source: int, target: int, body: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + source.to_bytes(16, "big") + target.to_bytes(16, "big") + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(protocol: int, source: int, target: int, segment: bytes, offset: int) -> bytes:
    """An IP packet whose transport checksum at ``offset`` is right; of IPv6 where the addresses are."""
    wide = source >> 32
    size = 16 if wide else 4
    pseudo = source.to_bytes(size, "big") + target.to_bytes(size, "big") + struct.pack(">II", len(segment), protocol)
    value = checksum((b"" if protocol == 1 else pseudo) + segment) or 0xFFFF
    body = segment[:offset] + struct.pack(">H", value) + segment[offset + 2 :]
    return ipv6(protocol, source, target, body) if wide else ipv4(protocol, source, target, body)

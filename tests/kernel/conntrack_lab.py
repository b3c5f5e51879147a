"""A namespace with one TUN device: a packet written to it is tracked, forwarded, and read back with its class in its DSCP.

When ``send`` returns, the kernel is done with the packet. ``entry`` asks ctnetlink for one connection, with what
``conntrack -L`` leaves out (flags and window scales of TCP, tags of SCTP). The only rules write the ctstate's number.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from typing import Final, NamedTuple

from dataplane.engine.conntrack_sctp import STATES as SCTP_STATES
from dataplane.engine.conntrack_tcp import STATES as TCP_STATES
from dataplane.inet import ICMP
from dataplane.packet import Packet, TcpOptions
from tests.engine.one_flow import Scene, Sent, said
from dataplane.adapters.lab.netlink import NETLINK_NETFILTER, attribute, attributes_of, nested, request
from dataplane.adapters.lab.netns import Netns, run, write_sysctl

CLASSES: Final = ("-", "INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
CLIENT, SERVER = 0x0A000001, 0x0A000101  # 10.0.0.1, 10.0.1.1
CLIENT6, SERVER6 = 0xFD << 120 | 1, 0xFD << 120 | 1 << 96 | 1  # fd00::1, fd00:1::1

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_SETUP: Final = (
    "ip link set lo up", "ip link set tun0 up", "ip addr add 10.255.255.254/32 dev tun0", "ip route add 10.0.0.0/8 dev tun0",
    "ip -6 route add fd00::/8 dev tun0",
)  # fmt: skip
_SYSCTLS: Final = {
    "net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.tun0.rp_filter": 0, "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.tun0.send_redirects": 0,
    "net.netfilter.nf_conntrack_acct": 1,
}  # fmt: skip
_MARK: Final = "-A PREROUTING -m conntrack --ctstate {} -j DSCP --set-dscp {}"
_RULES: Final = "\n".join(["*mangle", *(_MARK.format(name, n) for n, name in enumerate(CLASSES) if n), "COMMIT\n"])
_CT_GET, _CT_NEW = 0x101, 0x100
_SEEN_REPLY, _ASSURED, _CONFIRMED = 2, 4, 8
_REQUEST_OF: Final = {0: 8, 14: 13, 16: 15, 18: 17}
_PATIENCE: Final = 0.2  # seconds; a packet that has not come back by then was dropped


class Entry(NamedTuple):
    """A connection; ``backwards`` if the server's packet was the first. Pairs are original, reply."""

    backwards: bool
    state: str | None
    seen_reply: bool
    assured: bool
    timeout: int
    packets: tuple[int, int] = (0, 0)
    flags: tuple[int, int] = (0, 0)
    scales: tuple[int, int] = (0, 0)
    tags: tuple[int, int] = (0, 0)


class Lab:
    """``sysctls`` are parameters under net.netfilter. ``close`` gives everything back."""

    def __init__(self, sysctls: dict[str, int] | None = None) -> None:
        self._netns = Netns()
        with self._netns.inside():
            self._tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self._tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN_NO_PI))
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            for command in _SETUP:
                run(*command.split())
            for name, value in (_SYSCTLS | {f"net.netfilter.{key}": value for key, value in (sysctls or {}).items()}).items():
                assert write_sysctl(name, str(value)), name
            for restore in ("iptables-restore", "ip6tables-restore"):
                run(restore, text=_RULES)

    def close(self) -> None:
        os.close(self._tun)
        self._netlink.close()
        self._netns.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: str) -> str:
        return self._netns.run(*command.split())

    def send(self, packet: bytes) -> str:
        """The class of a packet, or "dropped"."""
        os.write(self._tun, packet)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = os.read(self._tun, 4096)
            except BlockingIOError:
                continue
            if packet[0] >> 4 == answer[0] >> 4 == 4 and answer[12:20] == packet[12:20]:
                return CLASSES[answer[1] >> 2]
            if packet[0] >> 4 == answer[0] >> 4 == 6 and answer[8:40] == packet[8:40]:
                return CLASSES[(answer[0] << 8 | answer[1]) >> 6 & 0x3F]
        return "dropped"

    def entry(self, protocol: int, sport: int, dport: int) -> Entry | None:
        """The connection between CLIENT:sport and SERVER:dport, whoever began it. ICMP: identifier, and type << 8 | code."""
        body = struct.pack("BBH", socket.AF_INET, 0, 0) + _tuple(1, protocol, CLIENT, SERVER, sport, dport)
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), _CT_GET, 1, 1, 0) + body)
        answer = self._netlink.recv(65536)
        return None if struct.unpack_from("=H", answer, 4)[0] == 2 else _entry(attributes_of(answer[20:]))

    def make_tcp(self, sport: int, dport: int, state: str, flags: int, timeout: int) -> None:
        """An assured TCP connection, as ``conntrack -I`` makes one."""
        sides = [attribute(kind, bytes((flags, 0xFF))) for kind in (4, 5)]
        body = struct.pack("BBH", socket.AF_INET, 0, 0)
        body += _tuple(1, 6, CLIENT, SERVER, sport, dport) + _tuple(2, 6, SERVER, CLIENT, dport, sport)
        body += attribute(3, struct.pack(">I", _SEEN_REPLY | _ASSURED | _CONFIRMED)) + attribute(7, struct.pack(">I", timeout))
        body += nested(4, nested(1, attribute(1, bytes((TCP_STATES.index(state),))), *sides))
        request(self._netlink, _CT_NEW, body, "a connection", 0x600)


def answers(lab: Lab, scene: Scene) -> None:
    """Holds the kernel to what a scene says of each packet; timeouts may be a second less, as they have been running."""
    begun = time.monotonic()
    for step in scene.steps:
        packet = step.sent.packet
        time.sleep(max(0.0, step.time - (time.monotonic() - begun)))
        kind = lab.send(wire(step.sent))
        sport, dport = (packet.dport, packet.sport) if packet.saddr == SERVER else (packet.sport, packet.dport)
        if packet.protocol == ICMP:
            sport, dport = packet.icmp_id, _REQUEST_OF.get(packet.icmp_type, packet.icmp_type) << 8 | packet.icmp_code
        entry = lab.entry(packet.protocol, sport, dport)
        said_by_kernel = [f"{kind} -"]
        if entry is not None:
            timeouts = (entry.timeout, entry.timeout + 1)
            said_by_kernel = [said(kind, entry.state, timeout, entry.packets, entry.assured) for timeout in timeouts]
        assert step.expected in said_by_kernel, step.line


def _tuple(kind: int, protocol: int, source: int, target: int, sport: int, dport: int) -> bytes:
    first, second = struct.pack(">H", sport), struct.pack(">H", dport)
    ports = [attribute(2, first), attribute(3, second)]
    if protocol == ICMP:
        ports = [attribute(4, first), attribute(5, second[:1]), attribute(6, second[1:])]
    addresses = nested(1, attribute(1, struct.pack(">I", source)), attribute(2, struct.pack(">I", target)))
    return nested(kind, addresses, nested(2, attribute(1, bytes((protocol,))), *ports))


def _entry(found: dict[int, bytes]) -> Entry:
    status, timeout = _number(found[3]), _number(found[7])
    backwards = attributes_of(attributes_of(found[1])[1])[1] != struct.pack(">I", CLIENT)
    original, reply = (_number(attributes_of(found[kind])[1]) for kind in (9, 10))
    info = attributes_of(found[4]) if 4 in found else {}
    entry = Entry(backwards, None, bool(status & _SEEN_REPLY), bool(status & _ASSURED), timeout, (original, reply))
    if 1 in info:
        tcp = attributes_of(info[1])
        return entry._replace(state=TCP_STATES[tcp[1][0]], flags=(tcp[4][0], tcp[5][0]), scales=(tcp[2][0], tcp[3][0]))
    if 3 in info:
        sctp = attributes_of(info[3])
        return entry._replace(state=SCTP_STATES[sctp[1][0]], tags=(_number(sctp[2]), _number(sctp[3])))
    return entry


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


# ---------------------------------------------------------------------- bytes of packets


def ip(protocol: int, source: int, target: int, body: bytes) -> bytes:
    """An IPv4 packet, or an IPv6 one where the addresses are."""
    if source >> 32:
        addresses = source.to_bytes(16, "big") + target.to_bytes(16, "big")
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + addresses + body
    header = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, target)
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + body


def summed(protocol: int, source: int, target: int, body: bytes, offset: int, *, wrong: bool = False) -> bytes:
    """The packet with its transport checksum, right or wrong, at ``offset``."""
    size = 16 if source >> 32 else 4
    pseudo = source.to_bytes(size, "big") + target.to_bytes(size, "big") + struct.pack(">II", len(body), protocol)
    value = (checksum((b"" if protocol == 1 else pseudo) + body) or 0xFFFF) ^ (0x5555 if wrong else 0)
    return ip(protocol, source, target, body[:offset] + struct.pack(">H", value) + body[offset + 2 :])


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C: Final = tuple(_crc32c_of(byte) for byte in range(256))


def wire(sent: Sent) -> bytes:
    """The bytes of a packet."""
    packet = sent.packet
    match packet.protocol:
        case 6:
            return _tcp(packet)
        case 132:
            return _sctp(sent)
        case 17 | 136:
            body, offset = struct.pack(">HHHH4x", packet.sport, packet.dport, 12, 0), 6
        case 1 | 58:
            body, offset = struct.pack(">BBHHH", packet.icmp_type, packet.icmp_code, 0, packet.icmp_id, 0), 2
        case _:
            return ip(packet.protocol, packet.saddr, packet.daddr, bytes(20))
    return summed(packet.protocol, packet.saddr, packet.daddr, body, offset, wrong=packet.bad_checksum)


def _tcp(packet: Packet) -> bytes:
    options = _tcp_options(packet.tcp_options)
    ports, numbers = struct.pack(">HH", packet.sport, packet.dport), struct.pack(">II", packet.seq, packet.ack)
    header = ports + numbers + struct.pack(">BBHHH", 20 + len(options) << 2, packet.tcp_flags, packet.window, 0, 0)
    return summed(6, packet.saddr, packet.daddr, header + options + bytes(packet.payload), 16, wrong=packet.bad_checksum)


def _tcp_options(options: TcpOptions | None) -> bytes:
    if options is None:
        return b""
    data = b"" if options.mss is None else struct.pack(">BBH", 2, 4, options.mss)
    data += b"" if options.wscale is None else bytes((1, 3, 3, options.wscale))
    data += bytes((1, 1, 4, 2)) if options.sack_permitted else b""
    data += bytes((1, 1)) + struct.pack(">BBII", 8, 10, 1, 2) if options.timestamp else b""
    edges = b"".join(struct.pack(">II", *block) for block in options.sack)
    data += bytes((1, 1, 5, 2 + len(edges))) + edges if edges else b""
    return data or bytes((1, 1, 1, 1))


def _sctp(sent: Sent) -> bytes:
    packet, body = sent.packet, b""
    for chunk, flags in zip(packet.sctp_chunks, sent.chunk_flags, strict=True):
        value = struct.pack(">IIHHI", sent.init_tag, 1000, 1, 1, 1) if chunk in (1, 2) else bytes(12)
        body += struct.pack(">BBH", chunk, flags, 4 + len(value)) + value
    header = struct.pack(">HHI", packet.sport, packet.dport, packet.vtag)
    total = crc32c(header + bytes(4) + body) ^ packet.bad_checksum
    return ip(132, packet.saddr, packet.daddr, header + struct.pack("<I", total) + body)

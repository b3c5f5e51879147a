"""Runs in a kernel of our own: plays histories given as JSON lines against real IPVS and prints the real server of each connection.

All addresses are local, so a real server is told by the address that the packet arrives at. A packet reaches its service by its mark.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

PORTS = (8000, 8001, 8002)
PKTINFO = {socket.AF_INET: (socket.IPPROTO_IP, 8), socket.AF_INET6: (socket.IPPROTO_IPV6, 49)}  # IP_PKTINFO, IPV6_RECVPKTINFO


def ipvsadm(*arguments: str) -> None:
    subprocess.run(["ipvsadm", *arguments], check=True)


class Servers:
    """Everything that listens, of one family."""

    def __init__(self, family: int) -> None:
        self.family, self.udp, self.tcp = family, {}, []
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        for port in PORTS:
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            datagrams.setsockopt(*PKTINFO[family], 1)
            stream = socket.socket(family, socket.SOCK_STREAM)
            for one in (datagrams, stream):
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((wildcard, port))
            stream.listen(64)
            self.udp[datagrams] = port
            self.tcp.append(stream)

    def client(self, kind: int, mark: int, saddr: str, sport: int) -> socket.socket:
        one = socket.socket(self.family, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        one.bind((saddr, sport))
        return one

    def send(self, mark: int, saddr: str, sport: int, daddr: str, dport: int) -> str:
        with self.client(socket.SOCK_DGRAM, mark, saddr, sport) as one:
            try:
                one.sendto(b"x", (daddr, dport))
            except PermissionError:  # dropped: there is no real server
                return "-"
            ready = select.select(list(self.udp), [], [], 0.05)[0]
            if not ready:
                return "-"
            _, data, _, _ = ready[0].recvmsg(16, 256)
            told = data[0][2]
            address = told[8:12] if self.family == socket.AF_INET else told[:16]
            return f"{socket.inet_ntop(self.family, address)} {self.udp[ready[0]]}"

    def connect(self, mark: int, saddr: str, sport: int, daddr: str, dport: int) -> tuple[str, list[socket.socket]]:
        one = self.client(socket.SOCK_STREAM, mark, saddr, sport)
        one.settimeout(0.5)
        try:
            one.connect((daddr, dport))
        except OSError:
            one.close()
            return "-", []
        ready = select.select(self.tcp, [], [], 2)[0]
        other, _ = ready[0].accept()
        address, port = other.getsockname()[:2]
        return f"{address} {port}", [one, other]


def play(servers: Servers, mark: int, history: list[list]) -> list[str]:
    found, sent, streams = [], [], []
    for what, *rest in history:
        if what == "ipvs":
            ipvsadm(*rest[0].split())
        elif what == "udp":
            sent.append(rest)
            found.append(servers.send(mark, *rest))
        elif what == "tcp":
            said, ends = servers.connect(mark, *rest)
            found.append(said)
            streams.append(ends)
        elif what == "close":
            for end in streams[rest[0]]:
                end.close()
        elif what == "expire":
            ipvsadm("--set", "0", "0", "1")
            for one in rest[0]:
                servers.send(mark, *sent[one])
            time.sleep(3)
            ipvsadm("--set", "0", "0", "300")
    for end in (end for ends in streams for end in ends):
        end.close()
    return found


def main() -> None:
    servers = {family: Servers(family) for family in (socket.AF_INET, socket.AF_INET6)}
    with Path(sys.argv[1]).open(encoding="utf-8") as lines:
        for line in lines:
            case = json.loads(line)
            ipvsadm("-C")
            print(json.dumps(play(servers[case["family"]], case["mark"], case["history"])), flush=True)


main()

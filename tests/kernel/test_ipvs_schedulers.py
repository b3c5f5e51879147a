"""The schedulers against real IPVS: random services and histories, one boot for all, the same real server for each connection."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path
from typing import Any

from dataplane.engine.choices import Seeded
from dataplane.engine.ipvs_dest import Dest, PacketKey, Service
from dataplane.engine.ipvs_schedulers import make_scheduler
from dataplane.rules.ipvs import SCHEDULERS
from tests.uml import in_uml

CASES_EACH = int(os.environ.get("DATAPLANE_IPVS_CASES", "1"))
STEPS = 60
MODULES = tuple(f"ip_vs_{name}" for name in SCHEDULERS)


def address_of(family: int, block: int, number: int) -> int:
    if family == socket.AF_INET:
        return 10 << 24 | block << 16 | number & 0xFFFF
    return 0xFD00 << 112 | block << 96 | number


def text_of(family: int, address: int) -> str:
    return socket.inet_ntop(family, address.to_bytes(4 if family == socket.AF_INET else 16, "big"))


class Case:
    """One service's history, made up step by step; ``expected`` replays it with the emulator."""

    def __init__(self, name: str, number: int) -> None:
        self.dice = random.Random(f"{name} {number}")
        self.name, self.mark = name, number + 1
        self.family = self.dice.choice((socket.AF_INET, socket.AF_INET, socket.AF_INET6))
        self.flags = [flag for flag in SCHEDULERS[name] if self.dice.random() < 0.5]
        self.one_packet = self.dice.random() < 0.15
        self.heaviest = self.dice.choice((1, 3, 10, 100, 5000))
        self.present: list[tuple[int, int]] = []
        self.steps: list[list[Any]] = []
        self.make()

    def make(self) -> None:
        for _ in range(self.dice.choice((1, 2, 3, 5, 8, 20))):
            self.add()
        streams = sent = 0
        for _ in range(STEPS):
            chance = self.dice.random()
            if chance < 0.08:
                self.edit()
            elif chance < 0.12:
                self.add()
            elif chance < 0.16 and self.present:
                self.steps.append(["remove", self.present.pop(self.dice.randrange(len(self.present)))])
            elif chance < 0.22 and streams:
                self.steps.append(["close", self.dice.randrange(streams)])
            elif chance < 0.225 and sent and not self.one_packet:
                self.steps.append(["expire", self.dice.sample(range(sent), sent // 2 + 1)])
            else:
                stream = not self.one_packet and self.dice.random() < 0.3
                self.connect("tcp" if stream else "udp")
                streams, sent = streams + stream, sent + (not stream)

    def figures(self) -> tuple[int, int, int]:
        weight = self.dice.choice((0, 1, self.dice.randint(0, self.heaviest), self.dice.randint(1, self.heaviest), self.dice.randint(1, self.heaviest)))
        upper = self.dice.choice((0, 0, 0, 0, 2, 5, 9))
        return weight, upper, self.dice.randint(0, upper // 2) if upper else 0

    def add(self) -> None:
        which = address_of(self.family, 2, self.dice.randint(1, 40)), self.dice.choice((8000, 8001, 8002))
        if which not in self.present:
            self.present.append(which)
            self.steps.append(["add", which, *self.figures()])

    def edit(self) -> None:
        if self.present:
            self.steps.append(["edit", self.dice.choice(self.present), *self.figures()])

    def connect(self, kind: str) -> None:
        wide = 16 if self.family == socket.AF_INET else 96
        saddr, daddr = address_of(self.family, 9, self.dice.getrandbits(wide)), address_of(self.family, 1, self.dice.randint(1, 8))
        self.steps.append([kind, saddr, self.dice.randint(2000, 7900), daddr, 1000 + self.mark])

    def as_json(self) -> str:
        """What the driver plays."""
        service = f"-f {self.mark}{' -6' if self.family == socket.AF_INET6 else ''}"
        history = [["ipvs", f"-A {service} -s {self.name}{' -b ' + ','.join(self.flags) if self.flags else ''}{' -o' if self.one_packet else ''}"]]
        for what, *rest in self.steps:
            if what in ("udp", "tcp"):
                history.append([what, text_of(self.family, rest[0]), rest[1], text_of(self.family, rest[2]), rest[3]])
            elif what in ("add", "edit", "remove"):
                address, port = rest[0]
                text = text_of(self.family, address)
                text = f"[{text}]:{port}" if self.family == socket.AF_INET6 else f"{text}:{port}"
                figures = f" -m -w {rest[1]} -x {rest[2]} -y {rest[3]}" if what != "remove" else ""
                history.append(["ipvs", f"-{what[0]} {service} -r {text}{figures}" if what != "remove" else f"-d {service} -r {text}"])
            else:
                history.append([what, *rest])
        return json.dumps({"family": self.family, "mark": self.mark, "history": history})

    def expected(self) -> list[str]:
        return Replay(self).run()


class Replay:
    """A history with the emulator's scheduler, and as much of the connection table as it takes to count connections."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.service = Service(case.family, 0, 0, 0, case.mark, case.name, frozenset(case.flags), one_packet=case.one_packet)
        self.scheduler = make_scheduler(case.name, self.service)
        self.dests: dict[tuple[int, int], Dest] = {}
        self.found: list[str] = []
        self.sent: list[Dest | None] = []
        self.streams: list[Dest | None] = []

    def run(self) -> list[str]:
        for what, *rest in self.case.steps:
            getattr(self, what)(*rest)
        return self.found

    def add(self, which: tuple[int, int], weight: int, upper: int, lower: int) -> None:
        """A real server that comes back soon is found in the kernel's trash with its connections."""
        dest = self.dests.setdefault(which, Dest(self.case.family, *which, weight=weight))
        dest.edit(weight, upper, lower)
        dest.available, dest.last_weight = True, weight
        self.service.add(dest)
        self.scheduler.dest_added(self.service, dest)

    def edit(self, which: tuple[int, int], weight: int, upper: int, lower: int) -> None:
        self.dests[which].edit(weight, upper, lower)
        self.scheduler.dest_changed(self.service, self.dests[which])

    def remove(self, which: tuple[int, int]) -> None:
        dest = self.dests[which]
        dest.available = False
        self.service.dests.remove(dest)
        self.scheduler.dest_removed(self.service, dest)

    def choose(self, protocol: int, saddr: int, sport: int, daddr: int, dport: int) -> Dest | None:
        key = PacketKey(self.case.family, protocol, saddr, daddr, sport, dport)
        dest = self.scheduler.schedule(self.service, key, 0.0, Seeded(0))
        self.found.append(f"{text_of(dest.family, dest.address)} {dest.port}" if dest else "-")
        if dest:
            dest.count(inactive=1)  # every connection starts so; one of UDP stays so
            dest.bound()
        return dest

    def udp(self, *fields: int) -> None:
        dest = self.choose(socket.IPPROTO_UDP, *fields)
        if dest and self.case.one_packet:
            dest.count(inactive=-1)
            dest.unbound()
        self.sent.append(dest)

    def tcp(self, *fields: int) -> None:
        dest = self.choose(socket.IPPROTO_TCP, *fields)
        if dest:
            dest.count(1, -1)
        self.streams.append(dest)

    def close(self, number: int) -> None:
        """What has been closed waits, inactive."""
        dest, self.streams[number] = self.streams[number], None
        if dest and dest.available:
            dest.count(-1, 1)

    def expire(self, numbers: list[int]) -> None:
        for number in numbers:
            dest = self.sent[number]
            if dest and dest.available:
                dest.count(inactive=-1)
                dest.unbound()
                self.sent[number] = None


def test_the_emulator_names_the_same_real_server_as_the_kernel() -> None:
    cases = [Case(name, at * CASES_EACH + number) for at, name in enumerate(SCHEDULERS) for number in range(CASES_EACH)]
    driver = (Path(__file__).parent / "ipvs_driver.py").read_text(encoding="utf-8")
    script = (
        "for n in 1 2 9; do ip route add local 10.$n.0.0/16 dev lo; ip -6 route add local fd00:$n::/32 dev lo; done\n"
        "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind; echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind\n"
        "python3 driver.py cases\n"
    )
    said = in_uml(script, "ipvsadm", "python3", files={"driver.py": driver, "cases": "".join(f"{case.as_json()}\n" for case in cases)}, load=("ip_vs", *MODULES), timeout=120 + 60 * CASES_EACH)
    answers = [json.loads(line) for line in said.splitlines()]
    assert len(answers) == len(cases)
    compared, different = 0, []
    for case, kernels in zip(cases, answers, strict=True):
        ours = case.expected()
        compared += len(kernels)
        for step, pair in enumerate(zip(ours, kernels, strict=True)):
            if pair[0] != pair[1]:
                different.append(f"{case.name} case {case.mark} choice {step} flags {case.flags} ops {case.one_packet}: ours {pair[0]}, kernel {pair[1]}")
                break
    print(f"{compared} choices compared in {len(cases)} histories, {len(different)} histories differ")
    assert not different, "\n".join(different)
    assert compared > len(cases) * STEPS // 2

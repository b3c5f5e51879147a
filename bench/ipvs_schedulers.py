"""What one choice of each IPVS scheduler costs, with 100 busy real servers and ever new clients: microseconds, the goal is 5."""

from __future__ import annotations

import random
import socket
import time

from dataplane.engine.choices import Seeded
from dataplane.engine.ipvs_dest import Dest, PacketKey, Service
from dataplane.engine.ipvs_schedulers import make_scheduler
from dataplane.rules.ipvs import SCHEDULERS

DESTS, CHOICES, GOAL = 100, 5000, 5.0


def cost(name: str) -> float:
    """Microseconds a choice, the best of three."""
    dice, best = random.Random(1), float("inf")
    service = Service(socket.AF_INET, socket.IPPROTO_TCP, 1, 80, scheduler=name)
    for number in range(DESTS):
        service.add(Dest(socket.AF_INET, 0x0A020000 + number, 80, weight=dice.randint(60, 100), active=dice.randint(1, 50), inactive=dice.randint(0, 9)))
    scheduler, choices = make_scheduler(name, service), Seeded(0)
    for _ in range(3):
        keys = [PacketKey(socket.AF_INET, 6, dice.getrandbits(32), dice.getrandbits(32), dice.getrandbits(16), 80) for _ in range(CHOICES)]
        start = time.perf_counter()
        for key in keys:
            scheduler.schedule(service, key, 0.0, choices)
        best = min(best, (time.perf_counter() - start) / CHOICES * 1e6)
    return best


if __name__ == "__main__":
    for scheduler_name in SCHEDULERS:
        took = cost(scheduler_name)
        print(f"{scheduler_name:5} {took:6.2f} us a choice with {DESTS} real servers{'' if took <= GOAL else f'  (goal {GOAL:.0f})'}")

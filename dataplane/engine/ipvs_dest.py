"""What an IPVS scheduler sees: a service, its real servers in the kernel's order, a packet's hashed fields. No scheduling, no connections.

Source: ``struct ip_vs_service``, ``struct ip_vs_dest`` (include/net/ip_vs.h), ``__ip_vs_update_dest`` (net/netfilter/ipvs/ip_vs_ctl.c).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from dataplane.engine.choices import Choices

# A cost by weight is kept as a whole number of 1/2^64. Two different quotients of weights below 2^31 (rules.ipvs.MAX_WEIGHT) are more than 1/2^62 apart, so
# rounding down leaves different ones different and equal ones equal: comparing them is the kernel's comparison of cross products.
_FRACTION: Final = 64
BEYOND: Final = 1 << 128  # the load of one that takes no connections: more than any other


class PacketKey(NamedTuple):
    """The fields of a packet that schedulers hash; addresses and ports as integers in host order."""

    family: int
    protocol: int
    saddr: int
    daddr: int
    sport: int = 0
    dport: int = 0


@dataclass(slots=True, eq=False)
class Dest:
    """One real server; two are the same only if they are one object, as the kernel compares pointers.

    ``last_weight`` belongs to scheduler mh. ``active`` and ``inactive`` are counts of connections, ``upper`` and ``lower`` thresholds (0: none).
    ``index`` counts additions to the service: the higher, the nearer to the head of its list. Counts, weight and overload change by the methods below
    alone, for what schedulers compare is kept beside them: ``cost`` (lc), ``load`` (wlc), ``delay`` (sed) and ``queue`` (nq), see ``ipvs_load``;
    ``spare``: fewer than half as many active connections as its weight (lblc, lblcr).
    """

    family: int
    address: int
    port: int
    method: str = "masq"  # masq, gate or ipip
    weight: int = 1
    last_weight: int = 0
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    upper: int = 0
    lower: int = 0
    overloaded: bool = False
    available: bool = True
    index: int = 0
    cost: int = field(init=False)
    load: int = field(init=False)
    delay: int = field(init=False)
    queue: int = field(init=False)
    spare: bool = field(init=False)

    def __post_init__(self) -> None:
        self.last_weight = self.last_weight or self.weight
        self._weigh()

    @property
    def overhead(self) -> int:
        """An active connection weighs as much as 256 inactive ones (``ip_vs_dest_conn_overhead``)."""
        return (self.active << 8) + self.inactive

    def _weigh(self) -> None:
        active, weight = self.active, self.weight
        self.spare = active * 2 < weight
        if weight <= 0 or self.overloaded:
            self.cost = self.load = self.delay = self.queue = BEYOND
            return
        self.cost = (active << 8) + self.inactive
        self.load = (self.cost << _FRACTION) // weight
        self.delay = (active + 1 << _FRACTION) // weight
        self.queue = self.delay if active else 0

    def count(self, active: int = 0, inactive: int = 0) -> None:
        """So many connections more, or fewer."""
        self.active += active
        self.inactive += inactive
        self._weigh()

    def edit(self, weight: int, upper: int, lower: int) -> None:
        """New weight and thresholds; only a higher upper one, or none, ends an overload at once (``__ip_vs_update_dest``)."""
        self.weight, self.last_weight = weight, weight or self.last_weight
        if upper == 0 or upper > self.upper:
            self.overloaded = False
        self.upper, self.lower = upper, lower
        self._weigh()

    def bound(self) -> None:
        """To be called when a connection has been counted (the end of ``ip_vs_bind_dest``)."""
        if self.upper and self.active + self.inactive >= self.upper:
            self.overloaded = True
            self._weigh()

    def unbound(self) -> None:
        """To be called when one is no longer counted (``ip_vs_dest_update_overload``): without a lower threshold 3/4 of the upper one stand for it."""
        total = self.active + self.inactive
        if (total < self.lower) if self.lower else (total * 4 < self.upper * 3 or not self.upper):
            self.overloaded = False
            self._weigh()


@dataclass(slots=True, eq=False)
class Service:
    """A virtual server; ``dests`` has the newest first, as ``list_add_rcu`` leaves them. ``timeout`` (persistence) is in seconds."""

    family: int
    protocol: int
    address: int
    port: int
    fwmark: int = 0
    scheduler: str = "wlc"
    flags: frozenset[str] = frozenset()
    timeout: int | None = None
    netmask: int | None = None
    one_packet: bool = False
    dests: list[Dest] = field(default_factory=list)

    def add(self, dest: Dest) -> None:
        """Put a real server at the head of the list, as the kernel does."""
        dest.index = self.dests[0].index + 1 if self.dests else 0
        self.dests.insert(0, dest)

    def copy(self) -> Service:
        """Another service with copies of the real servers, to be changed on its own."""
        return replace(self, dests=[replace(dest) for dest in self.dests])


class Scheduler(Protocol):
    """What a service asks for a real server. The three ``dest_*`` are told after ``service.dests`` has changed, as add_dest, del_dest, upd_dest are."""

    def schedule(self, service: Service, packet_key: PacketKey, now: float, choices: Choices) -> Dest | None:
        """The real server for a new connection, or None where no one may have it. ``now`` is in seconds."""

    def dest_added(self, service: Service, dest: Dest) -> None:
        """A real server is now at the head of the list."""

    def dest_removed(self, service: Service, dest: Dest) -> None:
        """A real server is no longer in the list."""

    def dest_changed(self, service: Service, dest: Dest) -> None:
        """A real server has been edited."""

    def copy(self, service: Service) -> Scheduler:
        """The same state over ``service``, a copy of this scheduler's own one."""

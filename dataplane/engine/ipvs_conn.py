"""IPVS's own connection table: what it remembers of each client, and for how long.

A connection has three ends: the client, the virtual server it asked, the real server it got. Requests are found by client and virtual
server, replies by real server (where it is masqueraded; else by virtual server) and client. A *template* stands for all connections of a
client's network (persistence): it controls them, and lives on while one of them does. Conntrack knows nothing of this table.
All of it lies in ``Kernel.memory``, so that a walk can be replayed, forked and thrown away.
Source: net/netfilter/ipvs/ip_vs_conn.c, struct ip_vs_conn (include/net/ip_vs.h).
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dataplane.engine.clock import HZ
from dataplane.engine.kernel import MemoryLayer
from dataplane.inet import SCTP, TCP, UDP, format_endpoint
from dataplane.rules.network import Tuple

if TYPE_CHECKING:
    from dataplane.engine.ipvs_dest import Dest
    from dataplane.engine.kernel import Kernel

#: Family, protocol, one end's address and port, the other's.
Ends = tuple[int, int, int, int, int, int]
ServiceKey = tuple[int, int, int, int, int]  # as VirtualServer.key
ServerKey = tuple[int, int, int]  # family, address, port

#: Seconds that a new connection, or one that still controls others, gets.
FIRST_TIMEOUT = 3.0
_CONTROL_TIMEOUT = 60.0
_WHEEL_LEVEL = 63  # jiffies of the first level of the timer wheel; each further one has 8 times as many
_NAMES = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", 0: "IP", 50: "ESP", 51: "AH"}


class RealServerRef(NamedTuple):
    """A real server by its virtual server and its own address and port."""

    service: ServiceKey
    server: ServerKey


@dataclass(slots=True, eq=False)
class IPVSConn:
    """``timeout`` (seconds) starts again with each packet; ``expires_at`` is on the virtual clock.

    ``method`` is masq, gate, ipip or bypass; ``no_output``: no reply was seen, and none is expected; ``nfct``: its packets keep their
    conntrack entry. ``control`` is the connection that controls this one, ``controlled`` counts those that it controls itself; ``turn`` and ``watched``
    are its timer's.
    """

    number: int
    family: int
    protocol: int
    client: tuple[int, int]
    virtual: tuple[int, int]
    real: tuple[int, int]
    real_family: int
    method: str
    dest: RealServerRef | None
    state: str = "NONE"
    timeout: float = FIRST_TIMEOUT
    expires_at: float = 0.0
    template: bool = False
    one_packet: bool = False
    no_output: bool = False
    inactive: bool = False
    nfct: bool = False
    control: int | None = None
    controlled: int = 0
    packets: int = 0
    turn: int = 0
    watched: float = 0.0

    def copy(self) -> IPVSConn:
        """An independent copy."""
        return copy.copy(self)

    @property
    def requests(self) -> Ends:
        """How its requests are found."""
        return self.family, self.protocol, *self.client, *self.virtual

    @property
    def replies(self) -> Ends:
        """How its replies are found."""
        return self.family, self.protocol, *(self.real if self.method == "masq" else self.virtual), *self.client

    def __str__(self) -> str:
        """The line of ``ipvsadm -Lnc`` without the time."""
        client, virtual = (format_endpoint(self.family, *end) for end in (self.client, self.virtual))
        return f"{_NAMES[self.protocol]:<3} {self.state:<11} {client} {virtual} {format_endpoint(self.real_family, *self.real)}"


@dataclass(slots=True)
class _Timers:
    """When connections may expire: earliest first; a time may be too early, never too late. ``number`` and ``turn`` are the last ones given.

    The kernel's timer wheel is coarse: timers that end in the same slot are run together, the one that was started last first. That
    decides whether a template still finds its connections when its own time is over.
    """

    heap: list[tuple[float, int, int]] = field(default_factory=list)
    number: int = 0
    turn: int = 0

    def copy(self) -> _Timers:
        return _Timers(list(self.heap), self.number, self.turn)

    def push(self, conn: IPVSConn) -> None:
        """Watch a connection."""
        slot = _slot(conn)
        conn.watched = slot[0]
        heapq.heappush(self.heap, slot)


def _slot(conn: IPVSConn) -> tuple[float, int, int]:
    """Where a connection's timer lies: the beginning of its slot, the latest started before the others (__mod_timer, calc_wheel_index)."""
    width, limit = 1, _WHEEL_LEVEL
    while conn.timeout * HZ >= limit:
        width, limit = width * 8, limit * 8
    return conn.expires_at * HZ // width * width / HZ, -conn.turn, conn.number


def connection(kernel: Kernel, number: int) -> IPVSConn | None:
    """A connection by its number."""
    found: IPVSConn | None = kernel.memory.get(("ipvs", "conn", number))
    return found


def connection_of_request(kernel: Kernel, ends: Ends) -> IPVSConn | None:
    """The connection of a packet from a client to a virtual server (``ip_vs_conn_in_get``)."""
    return _first(kernel, "requests", ends, template=False)


def connection_of_reply(kernel: Kernel, ends: Ends) -> IPVSConn | None:
    """The connection of a packet from a real server to a client (``ip_vs_conn_out_get``)."""
    return _first(kernel, "replies", ends, template=False)


def _first(kernel: Kernel, way: str, ends: Ends, *, template: bool) -> IPVSConn | None:
    for number in kernel.memory.get(("ipvs", way, ends), ()):
        conn = connection(kernel, number)
        if conn is not None and conn.template == template:
            return conn
    return None


class ConnectionTable:
    """All IPVS connections of a namespace. ``dest_of`` finds the counted real server of a connection, None for one that has none."""

    def __init__(self, kernel: Kernel, dest_of: Callable[[RealServerRef], Dest]) -> None:
        self._kernel = kernel
        self._dest_of = dest_of

    # ------------------------------------------------------------------ finding

    def get(self, number: int) -> IPVSConn | None:
        """A connection by its number."""
        return connection(self._kernel, number)

    def of_request(self, ends: Ends) -> IPVSConn | None:
        """``connection_of_request``."""
        return connection_of_request(self._kernel, ends)

    def of_reply(self, ends: Ends) -> IPVSConn | None:
        """``connection_of_reply``."""
        return connection_of_reply(self._kernel, ends)

    def template_of(self, ends: Ends) -> IPVSConn | None:
        """The template of a client's network, whose port is 0 (``ip_vs_ct_in_get``)."""
        return _first(self._kernel, "requests", ends, template=True)

    def __iter__(self) -> Iterator[IPVSConn]:
        """Every connection, in the order in which they were made."""
        self.expire()
        found = sorted(key[2] for key in _keys(self._kernel.memory) if isinstance(key, tuple) and key[:2] == ("ipvs", "conn"))
        return (conn for number in found if (conn := self.get(number)) is not None)

    # ------------------------------------------------------------------ changing

    def next_number(self) -> int:
        """The number of a connection that is to be made."""
        timers = self._timers()
        timers.number += 1
        return timers.number

    def add(self, conn: IPVSConn) -> None:
        """Put a connection in (one of a single packet is not found again) and count it at its real server."""
        memory = self._kernel.memory
        if conn.dest is not None:
            dest = self._dest_of(conn.dest)
            _count(dest, conn, 1)
            dest.bound()
        memory["ipvs", "conn", conn.number] = conn
        if not conn.one_packet:
            self._hash(conn)
            self.restart(conn)
            self._timers().push(conn)

    def control(self, conn: IPVSConn, template: IPVSConn) -> None:
        """From now on the template lives at least as long as the connection."""
        conn.control = template.number
        template.controlled += 1

    def assure(self, conn: IPVSConn) -> None:
        """A reply was seen, or the connection is established: its template is worth keeping."""
        template = self.get(conn.control) if conn.control is not None else None
        if template is not None and template.template:
            template.state = "ASSURED"

    def enter(self, conn: IPVSConn, state: str, timeout: float, *, active: bool) -> None:
        """A new state; its real server counts active and other connections apart."""
        conn.state, conn.timeout = state, timeout
        if conn.dest is None or active != conn.inactive:
            return
        dest = self._dest_of(conn.dest)
        conn.inactive = not active
        by = 1 if active else -1
        dest.count(by, -by)

    def restart(self, conn: IPVSConn) -> None:
        """A packet has passed: the timeout begins again."""
        timers = self._timers()
        timers.turn += 1
        conn.expires_at, conn.turn = self._kernel.now + conn.timeout, timers.turn
        if conn.one_packet:
            self.remove(conn)
        elif _slot(conn)[0] < conn.watched:
            timers.push(conn)

    def expire_now(self, conn: IPVSConn) -> None:
        """It ends at once, unless it controls others."""
        conn.expires_at = self._kernel.now
        self._timers().push(conn)
        self.expire()

    def invalidate(self, template: IPVSConn) -> None:
        """It is found no more; its connections and its time stay (``ip_vs_check_template``)."""
        if template.virtual[1] != 0xFFFF:
            self._unhash(template)
            template.client, template.virtual = (template.client[0], 0), (template.virtual[0], 0xFFFF)
            template.real = template.real[0], 0xFFFF
            self._hash(template)

    def expire(self) -> None:
        """Every timer that has run out by now, in its order (``ip_vs_conn_expire``)."""
        now = self._kernel.now
        timers: _Timers | None = self._kernel.memory.get(("ipvs", "timers"))
        if timers is None:
            return
        waiting = []
        while timers.heap and timers.heap[0][0] <= now:
            known = heapq.heappop(timers.heap)
            conn = self.get(known[2])
            if conn is None:
                continue
            if _slot(conn) != known:
                timers.push(conn)
            elif conn.expires_at > now:
                waiting.append(conn)
            elif conn.controlled:
                conn.timeout = _CONTROL_TIMEOUT
                conn.expires_at += _CONTROL_TIMEOUT
                timers.push(conn)
            else:
                self.remove(conn)
        for conn in waiting:
            timers.push(conn)

    def expire_without_server(self) -> None:
        """Connections whose real server was taken away, and what controlled only them (``ip_vs_expire_nodest_conn_flush``)."""
        for conn in tuple(self):
            if conn.controlled or conn.dest is None or self._dest_of(conn.dest).available or self.get(conn.number) is None:
                continue
            template = self.get(conn.control) if conn.control is not None else None
            self.remove(conn)
            if template is not None and not template.controlled:
                self.remove(template)

    def remove(self, conn: IPVSConn) -> None:
        """Take a connection out, and its conntrack entry with it."""
        memory = self._kernel.memory
        if not conn.one_packet:
            self._unhash(conn)
        del memory["ipvs", "conn", conn.number]
        template = self.get(conn.control) if conn.control is not None else None
        if template is not None:
            template.controlled -= 1
        if conn.nfct and not conn.one_packet:
            self._drop_conntrack(conn)
        if conn.dest is not None:
            dest = self._dest_of(conn.dest)
            _count(dest, conn, -1)
            dest.unbound()

    # ------------------------------------------------------------------ inside

    def _timers(self) -> _Timers:
        return self._kernel.memory_of(("ipvs", "timers"), _Timers)

    def _hash(self, conn: IPVSConn) -> None:
        for way, ends in (("requests", conn.requests), ("replies", conn.replies)):
            numbers: list[int] = self._kernel.memory_of(("ipvs", way, ends), list)
            numbers.insert(0, conn.number)

    def _unhash(self, conn: IPVSConn) -> None:
        for way, ends in (("requests", conn.requests), ("replies", conn.replies)):
            key = "ipvs", way, ends
            numbers: list[int] = self._kernel.memory_of(key, list)
            numbers.remove(conn.number)
            if not numbers:
                del self._kernel.memory[key]

    def _drop_conntrack(self, conn: IPVSConn) -> None:
        """``ip_vs_conn_drop_conntrack``: by the client's own tuple, in the default zone."""
        table = self._kernel.conntrack
        wanted = Tuple(conn.client[0], conn.virtual[0], conn.protocol, conn.client[1], conn.virtual[1])
        found = table.find(conn.family, 0, wanted, self._kernel.now)
        if found is not None:
            table.remove(found[0])


def _count(dest: Dest, conn: IPVSConn, by: int) -> None:
    if conn.template:
        dest.persistent += by
    elif conn.inactive:
        dest.count(inactive=by)
    else:
        dest.count(active=by)


def _keys(memory: dict) -> set:  # type: ignore[type-arg]  # keys and values are anybody's
    found = set(memory)
    if isinstance(memory, MemoryLayer):
        found |= _keys(memory.under)
    return found

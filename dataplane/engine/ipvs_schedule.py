"""A new connection's real server: by its client's template (persistence), or by the scheduler; and the entry that remembers it.

Source: net/netfilter/ipvs/ip_vs_core.c (``ip_vs_schedule``, ``ip_vs_sched_persist``), ip_vs_conn.c (``ip_vs_check_template``).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.engine.ipvs_conn import FIRST_TIMEOUT, ConnectionTable, IPVSConn, RealServerRef, ServiceKey
from dataplane.engine.ipvs_dest import Dest, PacketKey
from dataplane.engine.ipvs_services import FTP_DATA, Services, ServiceState, server_key
from dataplane.engine.ipvs_states import first_state
from dataplane.inet import FULL_MASK, UDP
from dataplane.rules.ipvs import FTP

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

_MOST_STEPS: Final = 1 << 17


class Request(NamedTuple):
    """Who asks which virtual server; ends are (address, port). ``mark`` is the packet's."""

    family: int
    protocol: int
    client: tuple[int, int]
    virtual: tuple[int, int]
    mark: int = 0


class Refused(NamedTuple):
    """There is no real server to be had."""

    reason: str


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What scheduling needs of a namespace."""

    kernel: Kernel
    services: Services
    table: ConnectionTable

    def connection(self, key: ServiceKey, request: Request, *, sent_here: bool) -> tuple[IPVSConn, str] | Refused | None:
        """A new connection and why it has its real server; None for what is to pass as if IPVS were not there."""
        if request.client[1] == FTP_DATA:
            return None  # active FTP's data connection, from the server
        state = self.services.state(key)
        if sent_here and self.table.of_request((request.family, request.protocol, *request.virtual, *request.client)) is not None:
            return None  # the reply of a real server on this node
        if state.service.timeout is not None:
            return self._persistent(key, state, request)
        if not key[4] and request.virtual[1] != state.service.port:
            return Refused("a virtual server without persistence has no other port")
        chosen = self._choose(state, request)
        if chosen is None:
            return Refused(_lack(state))
        dest, why = chosen
        return self._made(key, request, dest, (dest.address, dest.port or request.virtual[1])), why

    def _persistent(self, key: ServiceKey, state: ServiceState, request: Request) -> tuple[IPVSConn, str] | Refused:
        service = state.service
        network = request.client[0] & (service.netmask if service.netmask is not None else FULL_MASK[service.family])
        exact = request.virtual[1] == service.port
        if exact or not service.fwmark:
            asked = Request(service.family, request.protocol, (network, 0), (request.virtual[0], request.virtual[1] if exact and service.port != FTP else 0))
        else:
            asked = Request(service.family, 0, (network, 0), (service.fwmark, 0))
        template = self.table.template_of((asked.family, asked.protocol, *asked.client, *asked.virtual))
        if template is not None and self._holds(template):
            assert template.dest is not None
            dest, why = self.services.dest(template.dest), "its client's template"
        else:
            chosen = self._choose(state, request)
            if chosen is None:
                return Refused(_lack(state))
            dest, why = chosen
            template = self._made(key, asked, dest, (dest.address, dest.port if exact and service.port != FTP else 0), template=True)
            template.timeout = float(service.timeout or 0)
        conn = self._made(key, request, dest, (dest.address, dest.port if exact and dest.port else request.virtual[1]))
        self.table.control(conn, template)
        self.table.restart(template)
        return conn, why

    def _holds(self, template: IPVSConn) -> bool:
        """A template whose real server is gone, or quiesced where that is to count, is found no more."""
        dest = self.services.dest(template.dest) if template.dest is not None else None
        quiescent = bool(self.kernel.sysctls.int("net.ipv4.vs.expire_quiescent_template"))
        if dest is not None and dest.available and not (quiescent and dest.weight == 0):
            return True
        self.table.invalidate(template)
        return False

    def _made(self, key: ServiceKey, request: Request, dest: Dest, real: tuple[int, int], *, template: bool = False) -> IPVSConn:
        service = self.services.state(key).service
        conn = IPVSConn(
            self.table.next_number(), request.family, request.protocol, request.client, request.virtual, real, dest.family, dest.method,
            RealServerRef(key, server_key(dest)), "NONE" if template else first_state(request.protocol), FIRST_TIMEOUT, template=template,
            one_packet=service.one_packet and request.protocol == UDP and not template, no_output=dest.method != "masq",
            nfct=bool(self.kernel.sysctls.int("net.ipv4.vs.conntrack")),
        )  # fmt: skip
        self.table.add(conn)
        return conn

    # ------------------------------------------------------------------ the scheduler

    def _choose(self, state: ServiceState, request: Request) -> tuple[Dest, str] | None:
        service = state.service
        asked = PacketKey(request.family, request.protocol, request.client[0], request.virtual[0], request.client[1], request.virtual[1])
        why = f"scheduler {service.scheduler}"
        if not state.begun and service.scheduler in ("rr", "wrr"):
            state.begun = True
            self._take_turns(state, asked)
        dest = state.scheduler.schedule(service, asked, self.kernel.now, self.kernel.choices)
        return (dest, why) if dest is not None else None

    def _take_turns(self, state: ServiceState, asked: PacketKey) -> None:
        """Whose turn it is depends on all connections that ever were: who is next is a choice, by weight, and the scheduler goes on from there."""
        service, kernel = state.service, self.kernel
        waiting = [dest for dest in service.dests if dest.weight > 0 and not dest.overloaded]
        if len(waiting) < 2:
            return
        weights = [dest.weight if service.scheduler == "wrr" else 1 for dest in waiting]
        wanted = waiting[kernel.choice(weights, f"whose turn it is ({service.scheduler})")]
        for _ in range(min(sum(weights) // gcd(*weights), _MOST_STEPS)):
            ahead = state.scheduler.copy(service)
            if ahead.schedule(service, asked, kernel.now, kernel.choices) is wanted:
                return
            state.scheduler.schedule(service, asked, kernel.now, kernel.choices)


def _lack(state: ServiceState) -> str:
    dests = state.service.dests
    if not dests:
        return "the virtual server has no real server"
    if all(dest.weight == 0 for dest in dests):
        return "all its real servers have weight 0"
    return f"scheduler {state.service.scheduler} finds no real server that takes connections"

"""The virtual servers of a namespace as IPVS sees them: which one a packet belongs to, and what changes of them while packets walk.

What never changes is the state's table; what does (counts, a scheduler's place) is made of it when a packet first asks, and lies in
``Kernel.memory``. Source: net/netfilter/ipvs/ip_vs_ctl.c (``ip_vs_service_find``, ``ip_vs_trash_get_dest``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from dataplane.engine.ipvs_conn import RealServerRef, ServerKey, ServiceKey
from dataplane.engine.ipvs_dest import Dest, Scheduler, Service
from dataplane.engine.ipvs_schedulers import make_scheduler
from dataplane.inet import TCP, format_endpoint
from dataplane.rules.ipvs import FTP, SCHEDULERS, Forwarding, RealServer, SchedulerFlags, Tunnel, VirtualServer

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

FTP_DATA: Final = 20
_METHODS: Final = {Forwarding.MASQUERADING: "masq", Forwarding.DIRECT_ROUTING: "gate", Forwarding.TUNNEL: "ipip"}


@dataclass(slots=True, eq=False)
class ServiceState:
    """A virtual server at work. ``servers`` are all that it has or that connections still hold; ``begun``: its scheduler has chosen before."""

    service: Service
    scheduler: Scheduler
    servers: dict[ServerKey, Dest]
    tunnels: dict[ServerKey, Tunnel] = field(default_factory=dict)
    begun: bool = False

    def copy(self) -> ServiceState:
        """An independent copy."""
        service = self.service.copy()
        copies = {id(old): new for old, new in zip(self.service.dests, service.dests, strict=True)}
        servers = {key: copies.get(id(dest)) or replace(dest) for key, dest in self.servers.items()}
        return ServiceState(service, self.scheduler.copy(service), servers, self.tunnels, self.begun)


class Services:
    """All virtual servers; ``families`` are those that have any."""

    def __init__(self, kernel: Kernel, servers: Iterable[VirtualServer], *, fresh: bool) -> None:
        self._kernel, self._fresh = kernel, fresh
        self._list(servers)

    def _list(self, servers: Iterable[VirtualServer]) -> None:
        self._servers = {one.key: one for one in servers}
        self.families = frozenset(one.family for one in self._servers.values())
        self._ftp = frozenset(one.family for one in self._servers.values() if one.port == FTP)
        self._catch_all = frozenset(one.family for one in self._servers.values() if one.port == 0 and not one.fwmark)

    def find(self, family: int, mark: int, protocol: int, address: int, port: int) -> ServiceKey | None:
        """By mark, then by its exact end, then FTP's (for ports that a data connection may have), then the one for all ports."""
        for key in (
            (family, 0, 0, 0, mark) if mark else None,
            (family, protocol, address, port, 0),
            (family, TCP, address, FTP, 0) if protocol == TCP and family in self._ftp and self._data_port(port) else None,
            (family, protocol, address, 0, 0) if family in self._catch_all else None,
        ):
            if key is not None and key in self._servers:
                return key
        return None

    def _data_port(self, port: int) -> bool:
        return port == FTP_DATA or port >= self._kernel.sysctls.int("net.ipv4.ip_unprivileged_port_start")

    def state(self, key: ServiceKey) -> ServiceState:
        """A virtual server's state, made on first use."""
        found: ServiceState = self._kernel.memory_of(("ipvs", "service", key), lambda: self._made(self._servers[key]))
        return found

    def connections(self) -> dict[tuple[ServiceKey, ServerKey], int]:
        """How many connections, active and inactive, the real servers have that any has met."""
        memory = self._kernel.memory
        states = {key: memory.get(("ipvs", "service", key)) for key in self._servers}
        return {(key, end): dest.active + dest.inactive for key, state in states.items() if state is not None for end, dest in state.servers.items()}

    def program(self, servers: Iterable[VirtualServer]) -> None:
        """Other virtual and real servers from now on; what connections hold stays known to them, though it takes no new ones."""
        before = self._servers
        self._list(servers)
        for key in before.keys() | self._servers.keys():
            state: ServiceState | None = self._kernel.memory.get(("ipvs", "service", key))
            if state is not None and before.get(key) != self._servers.get(key):
                self._change(state, before.get(key), self._servers.get(key))

    def _change(self, state: ServiceState, before: VirtualServer | None, after: VirtualServer | None) -> None:
        """Removed ones first, then the others in their order (``ip_vs_del_dest``, ``ip_vs_edit_dest``, ``ip_vs_add_dest``)."""
        service = state.service
        wanted = {server_key(server): server for server in after.servers} if after is not None else {}
        for dest in [dest for dest in service.dests if server_key(dest) not in wanted]:
            service.dests.remove(dest)
            dest.available = False
            state.scheduler.dest_removed(service, dest)
        if after is None:
            return
        if before is None or (before.scheduler, before.flags) != (after.scheduler, after.flags):
            service.scheduler, service.flags, state.begun = after.scheduler, flag_names(after), True
            state.scheduler = make_scheduler(after.scheduler, service, self._kernel.now)
        service.timeout, service.netmask, service.one_packet = after.persistence, after.netmask, after.one_packet
        state.tunnels = {server_key(server): server.tunnel for server in after.servers if server.tunnel is not None}
        for key, server in wanted.items():
            self._put(state, key, server)

    def _put(self, state: ServiceState, key: ServerKey, server: RealServer) -> None:
        service, known = state.service, state.servers.get(key)
        if known is not None and known.available:
            if (known.weight, known.upper, known.lower, known.method) != (server.weight, server.upper, server.lower, _METHODS[server.forwarding]):
                known.edit(server.weight, server.upper, server.lower)
                known.method = _METHODS[server.forwarding]
                state.scheduler.dest_changed(service, known)
            return
        dest = known or _dest(server)
        dest.edit(server.weight, server.upper, server.lower)
        dest.available, dest.method = True, _METHODS[server.forwarding]
        state.servers[key] = dest
        service.add(dest)
        state.scheduler.dest_added(service, dest)

    def dest(self, ref: RealServerRef) -> Dest:
        """A real server that a connection holds."""
        return self.state(ref.service).servers[ref.server]

    def is_real_server(self, family: int, protocol: int, address: int, port: int) -> bool:
        """Whether a masqueraded real server has this end (``ip_vs_has_real_service``)."""
        return any(
            one.family == family and one.protocol in (protocol, 0)
            and any((server.address, server.port) == (address, port) and server.forwarding is Forwarding.MASQUERADING for server in one.servers)
            for one in self._servers.values()
        )  # fmt: skip

    def _made(self, one: VirtualServer) -> ServiceState:
        """Real servers are in the order of their coming: the last one is the head of the kernel's list."""
        service = Service(
            one.family, one.protocol, one.address, one.port, one.fwmark, one.scheduler, flag_names(one), one.persistence, one.netmask, one.one_packet
        )
        servers = {}
        for server in one.servers:
            dest = _dest(server)
            service.add(dest)
            servers[server_key(server)] = dest
        tunnels = {server_key(server): server.tunnel for server in one.servers if server.tunnel is not None}
        return ServiceState(service, make_scheduler(one.scheduler, service, self._kernel.now), servers, tunnels, self._fresh)


def _dest(server: RealServer) -> Dest:
    return Dest(server.family, server.address, server.port, _METHODS[server.forwarding], server.weight, upper=server.upper, lower=server.lower)


def server_key(server: RealServer | Dest) -> ServerKey:
    """What tells a real server from the others of its virtual server."""
    return server.family, server.address, server.port


def flag_names(one: VirtualServer) -> frozenset[str]:
    """The scheduler's flags by name (``sh-port``)."""
    names = SCHEDULERS.get(one.scheduler, ())
    return frozenset(name for name, flag in zip(names, SchedulerFlags, strict=False) if one.flags & flag)


def service_name(key: ServiceKey) -> str:
    """As ``ipvsadm -Ln`` names it: ``TCP 10.96.0.20:80``, ``FWM 5``."""
    family, protocol, address, port, mark = key
    if mark:
        return f"FWM {mark}"
    names = {6: "TCP", 17: "UDP", 132: "SCTP"}
    return f"{names.get(protocol, protocol)} {format_endpoint(family, address, port)}"

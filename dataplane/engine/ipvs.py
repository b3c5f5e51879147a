"""IPVS: what it does with a packet at each of its hooks. Requests to a virtual server get a real server; replies get its address back.

At LOCAL_IN and LOCAL_OUT IPVS takes a request away from the local stack and sends it anew from LOCAL_OUT. A packet that it is done with
carries ``ipvs_property`` and is left alone by later hooks. Replies of masqueraded real servers pass LOCAL_IN, LOCAL_OUT or FORWARD, and
get the virtual server's address as their source. Which virtual server and what changes of it is in ipvs_services, connections are in
ipvs_conn, sending is in ipvs_xmit, scheduling in ipvs_schedule. The SYN-flood defences, synchronisation and SIP are not modelled.
Source: net/netfilter/ipvs/ip_vs_core.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.engine import defrag, ipvs_xmit, reject
from dataplane.engine.fib import Destination
from dataplane.engine.hooks import ACCEPT, Accept, Drop, Hook, HookFunction, HookState, Priority, Verdict
from dataplane.engine.ipvs_conn import ConnectionTable, Ends, IPVSConn, ServiceKey
from dataplane.engine.ipvs_schedule import Refused, Request, Scheduling
from dataplane.engine.ipvs_services import Services, service_name
from dataplane.engine.ipvs_states import ACTIVE, Direction, next_state, timeout_of
from dataplane.engine.skb import Skb
from dataplane.inet import AH, ESP, SCTP, TCP, UDP, format_endpoint
from dataplane.packet import RST, SYN, Packet
from dataplane.rules.ipvs import FTP, IPVS
from dataplane.trace import IPVSEvent, NatEvent

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

_PROTOCOLS: Final = frozenset((TCP, UDP, SCTP, AH, ESP))
_ERRORS4: Final = frozenset((3, 4, 11))
_INIT: Final = 1
_ABORT: Final = 6
_ISAKMP: Final = 500


class _Header(NamedTuple):
    """What IPVS reads of a packet, or of the one that an ICMP error quotes (``inverse``: that one went the other way)."""

    family: int
    protocol: int
    source: tuple[int, int]
    target: tuple[int, int]
    fragment: bool
    inverse: bool = False
    error: bool = False

    @property
    def request(self) -> Ends:
        """As a request: by client and virtual server."""
        client, virtual = (self.target, self.source) if self.inverse else (self.source, self.target)
        return self.family, self.protocol, *client, *virtual


def _header(packet: Skb | Packet, *, quoted: bool = False) -> _Header:
    return _Header(
        packet.family, packet.protocol, (packet.saddr, packet.sport), (packet.daddr, packet.dport), packet.fragment_offset > 0, quoted, quoted
    )


class IPVSHooks:
    """IPVS of one namespace. ``reroute`` gives a packet of the node's own the route that fits it now.

    ``fresh``: nobody has asked a virtual server before, so that schedulers begin at the beginning; else whose turn it is is a choice.
    """

    def __init__(self, kernel: Kernel, given: IPVS, reroute: Callable[[Skb], Destination], *, fresh: bool = False) -> None:
        self._kernel, self._reroute = kernel, reroute
        self._timeouts = given.timeouts
        self.services = Services(kernel, given.servers, fresh=fresh)
        self.table = ConnectionTable(kernel, self.services.dest)
        self._scheduling = Scheduling(kernel, self.services, self.table)

    def functions(self) -> Iterator[tuple[Hook, int, HookFunction]]:
        """The hook functions of a family with their priorities (``ip_vs_ops4``, ``ip_vs_ops6``)."""
        yield Hook.INPUT, Priority.NAT_SRC - 2, self.reply
        yield Hook.INPUT, Priority.NAT_SRC - 1, self.request
        yield Hook.OUTPUT, Priority.NAT_DST + 1, self.reply
        yield Hook.OUTPUT, Priority.NAT_DST + 2, self.request
        yield Hook.FORWARD, Priority.NAT_SRC - 1, self.error_to_server
        yield Hook.FORWARD, Priority.NAT_SRC, self.reply

    def program(self, given: IPVS) -> None:
        """Virtual servers as given from now on, connections as they are."""
        self.table.expire()
        self._timeouts = given.timeouts
        self.services.program(given.servers)
        if self._flag("expire_nodest_conn"):
            self.table.expire_without_server()

    # ------------------------------------------------------------------ requests

    def request(self, skb: Skb, state: HookState) -> Verdict:
        """``ip_vs_in_hook``: a packet to a virtual server goes to its connection's real server, or to a newly chosen one."""
        received = state.hook != Hook.OUTPUT
        if skb.ipvs_property or skb.dst is None or (received and skb.pkttype != "host"):
            return ACCEPT
        if skb.is_icmp:
            verdict = self._error_in(skb, state)
            if verdict is not None:
                return verdict
        if skb.protocol not in _PROTOCOLS:
            skb.ipvs_property = skb.ipvs_property or self._flag("ignore_tunneled")
            return ACCEPT
        header = _header(skb)
        conn = self._known(skb, header)
        if isinstance(conn, Drop):
            return conn
        if conn is None:
            made = self._scheduled(skb, header)
            if not isinstance(made, IPVSConn):
                return made
            conn = made
        else:
            self._tell("request", conn, "its connection is known")
        conn.packets += 1
        self._advance(conn, Direction.REQUEST, skb)
        verdict = self._send(skb, conn, state)
        self.table.restart(conn)
        return verdict

    def _known(self, skb: Skb, header: _Header) -> IPVSConn | Drop | None:
        """The connection that the packet belongs to and may go on with."""
        conn = self._of_request(header)
        if conn is None:
            return None
        dest = self.services.dest(conn.dest) if conn.dest is not None else None
        tracked = skb.conn is not None and skb.conn.confirmed
        if not header.fragment and _is_first(skb):
            if dest is not None and dest.weight == 0 and self._flag("expire_nodest_conn"):
                return self._left(conn, tracked, "its real server is quiesced (expire_nodest_conn)")
            if self._reusable(conn) and not (conn.controlled and tracked):
                return self._left(conn, tracked, f"it is in {conn.state} (conn_reuse_mode)")
        if dest is not None and not dest.available:
            if not self._flag("expire_nodest_conn"):
                return Drop("the connection's real server is not there any more")
            return self._left(conn, tracked, "its real server is not there any more (expire_nodest_conn)")
        return conn

    def _left(self, conn: IPVSConn, tracked: bool, why: str) -> Drop | None:
        """The connection is over; what conntrack knows of it cannot go to another real server, so that packet is lost."""
        self._tell("end", conn, why)
        if not tracked:
            conn.nfct = False
        if not conn.controlled:
            self.table.expire_now(conn)
        return Drop(f"IPVS ends the connection that conntrack knows: {why}") if tracked else None

    def _reusable(self, conn: IPVSConn) -> bool:
        """Whether a SYN (INIT) on a connection that is over begins another one (``is_new_conn_expected``)."""
        mode = self._kernel.sysctls.int("net.ipv4.vs.conn_reuse_mode")
        if not mode or conn.control is not None:
            return False
        if conn.protocol == TCP:
            return conn.state in ("TIME_WAIT", "CLOSE") or (bool(mode & 2) and conn.state == "FIN_WAIT" and conn.no_output)
        return conn.protocol == SCTP and conn.state == "CLOSED"

    def _scheduled(self, skb: Skb, header: _Header) -> IPVSConn | Verdict:
        """``tcp_conn_schedule`` and the like: a new connection, or what becomes of the packet without one."""
        if header.fragment or header.protocol in (AH, ESP) or not (header.error or self._may_begin(skb)):
            return ACCEPT
        family, protocol, client, client_port, address, port = header.request
        key = self.services.find(family, skb.mark, protocol, address, port)
        if key is None:
            return ACCEPT
        sent_here = skb.indev == "" or "LOOPBACK" in self._kernel.links[skb.indev].flags
        made = self._scheduling.connection(key, Request(family, protocol, (client, client_port), (address, port), skb.mark), sent_here=sent_here)
        if made is None:
            return ACCEPT
        if isinstance(made, Refused):
            return self._leave(skb, key, port, made, error=header.error)
        conn, why = made
        self._tell("new connection", conn, why)
        return conn

    def _may_begin(self, skb: Skb) -> bool:
        if skb.protocol == TCP:
            return not skb.tcp_flags & RST and (bool(skb.tcp_flags & SYN) or self._flag("sloppy_tcp"))
        if skb.protocol == SCTP:
            return bool(skb.sctp_chunks) and skb.sctp_chunks[0] != _ABORT and (skb.sctp_chunks[0] == _INIT or self._flag("sloppy_sctp"))
        return True

    def _leave(self, skb: Skb, key: ServiceKey, port: int, refused: Refused, *, error: bool) -> Verdict:
        """``ip_vs_leave``: the client is told with ICMP port unreachable, whatever the protocol."""
        if self.services.state(key).service.port == FTP and port != FTP:
            return ACCEPT
        self._kernel.events.append(IPVSEvent("refused", service_name(key), "", "", refused.reason))
        if error:
            return Drop(refused.reason)
        reply = reject.icmp_error(self._kernel, skb, *((3, 3) if skb.family == 4 else (1, 4)))
        return Drop(refused.reason, replies=(reply,) if reply is not None else ())

    def _send(self, skb: Skb, conn: IPVSConn, state: HookState, *, error: bool = False) -> Verdict:
        tunnel = self.services.state(conn.dest.service).tunnels.get(conn.dest.server) if conn.dest is not None else None
        return ipvs_xmit.send(self._kernel, skb, conn, state, tunnel, error=error)

    # ------------------------------------------------------------------ replies

    def reply(self, skb: Skb, state: HookState) -> Verdict:
        """``ip_vs_out_hook``: a packet of a real server to a client comes from the virtual server."""
        if skb.ipvs_property or skb.dst is None:
            return ACCEPT
        if skb.is_icmp:
            verdict = self._error_out(skb, state)
            if verdict is not None:
                return verdict
        if skb.protocol not in _PROTOCOLS:
            return ACCEPT
        if skb.family == 4:
            waiting = defrag.gather(self._kernel, skb, state)
            if waiting is not ACCEPT:
                return waiting
        header = _header(skb)
        conn = None if header.fragment else self.table.of_reply(_as_reply(header))
        if conn is None:
            return self._unasked(skb, header)
        self._tell("reply", conn, "its connection is known")
        if conn.method == "masq":
            old = skb.saddr, skb.sport
            skb.saddr = conn.virtual[0]
            if skb.protocol in ipvs_xmit.PORTS:
                skb.sport = conn.virtual[1]
            self._kernel.events.append(NatEvent("SNAT", skb.family, old, (skb.saddr, skb.sport), "the virtual server's reply"))
            refused = self._routed_anew(skb, state)
            if refused is not None:
                return refused
        self._advance(conn, Direction.REPLY, skb)
        self._done_with_reply(skb, conn)
        self.table.restart(conn)
        return ACCEPT

    def _unasked(self, skb: Skb, header: _Header) -> Verdict:
        """What a real server sends to nobody who asked passes; with ``nat_icmp_send`` the server is told."""
        if not self._flag("nat_icmp_send") or skb.protocol not in ipvs_xmit.PORTS or header.fragment:
            return ACCEPT
        over = (skb.protocol == TCP and skb.tcp_flags & RST) or (skb.protocol == SCTP and skb.sctp_chunks[:1] == (_ABORT,))
        if over or not self.services.is_real_server(skb.family, skb.protocol, *header.source):
            return ACCEPT
        reply = reject.icmp_error(self._kernel, skb, *((3, 3) if skb.family == 4 else (1, 4)))
        return Drop("a real server's packet without a connection (nat_icmp_send)", replies=(reply,) if reply is not None else ())

    def _routed_anew(self, skb: Skb, state: HookState) -> Drop | None:
        """``ip_vs_route_me_harder``: the reply goes as if this node had sent it."""
        if not self._flag("snat_reroute") or state.hook == Hook.INPUT or skb.dst is None or skb.dst.local:
            return None
        found = self._reroute(skb)
        if found.error is not None:
            return Drop(f"no route for the reply: {found.type.lower()} ({found.error})")
        skb.dst = found
        return None

    def _done_with_reply(self, skb: Skb, conn: IPVSConn) -> None:
        skb.ipvs_property = True
        if conn.nfct:
            ipvs_xmit.expect_reply(skb, conn, request=False)
        else:
            ipvs_xmit.untrack(skb)

    # ------------------------------------------------------------------ ICMP errors

    def error_to_server(self, skb: Skb, state: HookState) -> Verdict:
        """``ip_vs_forward_icmp``: an error that is not for this node may yet be about a virtual server chosen by mark."""
        if not skb.is_icmp:
            return ACCEPT
        verdict = self._error_in(skb, state)
        return ACCEPT if verdict is None else verdict

    def _error_in(self, skb: Skb, state: HookState) -> Verdict | None:
        """An error about a virtual server's reply goes to the real server; None for no error at all."""
        header = _quoted(skb)
        if header is None or isinstance(header, Accept):
            return header
        conn = self._of_request(header)
        if conn is None:
            if not self._flag("schedule_icmp"):
                return ACCEPT
            made = self._scheduled(skb, header)
            if not isinstance(made, IPVSConn):
                return made
            conn = made
        if skb.family == 6 and state.hook == Hook.OUTPUT and conn.method != "masq":
            return ACCEPT
        self._tell("ICMP error about a reply", conn, "its connection is known")
        return self._send(skb, conn, state, error=True)

    def _error_out(self, skb: Skb, state: HookState) -> Verdict | None:
        """A real server's error about a request comes from the virtual server; None for no error at all.

        IPVS verifies checksums without the pseudo header: an ICMPv6 one is wrong to it unless conntrack has found it right before.
        """
        header = _quoted(skb)
        if header is None or isinstance(header, Accept):
            return header
        conn = self.table.of_reply(header.request) if not header.fragment else None
        if conn is None:
            return ACCEPT
        self._tell("ICMP error about a request", conn, "its connection is known")
        if conn.method == "masq":
            if skb.bad_checksum or (skb.family == 6 and not skb.checksum_known):
                return Drop("IPVS holds the checksum of an ICMP error for wrong")
            assert skb.inner is not None
            old = skb.saddr, 0
            skb.saddr = conn.virtual[0]
            port = conn.virtual[1] if skb.inner.protocol in ipvs_xmit.PORTS else skb.inner.dport
            skb.inner = skb.inner._replace(daddr=conn.virtual[0], dport=port)
            self._kernel.events.append(NatEvent("SNAT", skb.family, old, (skb.saddr, 0), "ICMP error and the packet quoted in it"))
            refused = self._routed_anew(skb, state)
            if refused is not None:
                return refused
        self._done_with_reply(skb, conn)
        return ACCEPT

    # ------------------------------------------------------------------ inside

    def _of_request(self, header: _Header) -> IPVSConn | None:
        if header.fragment:
            return None
        family, protocol, client, client_port, address, port = header.request
        if protocol in (AH, ESP):  # they belong to the key exchange
            protocol, client_port, port = UDP, _ISAKMP, _ISAKMP
        return self.table.of_request((family, protocol, client, client_port, address, port))

    def _advance(self, conn: IPVSConn, direction: Direction, skb: Skb) -> None:
        """The protocol's automaton; the first reply ends the belief that none is to be seen."""
        if direction is Direction.REPLY and conn.protocol in ACTIVE:
            conn.no_output = False
        elif conn.no_output:
            direction = Direction.REQUEST_ONLY
        state = next_state(conn.protocol, conn.state, direction, skb)
        if (conn.protocol in ACTIVE and state == "ESTABLISHED" != conn.state) or (conn.protocol == UDP and direction is Direction.REPLY):
            self.table.assure(conn)
        active = state in ACTIVE[conn.protocol] if conn.protocol in ACTIVE and state != conn.state else not conn.inactive
        self.table.enter(conn, state, timeout_of(conn.protocol, state, self._timeouts), active=active)

    def _tell(self, what: str, conn: IPVSConn, why: str) -> None:
        name = service_name(conn.dest.service) if conn.dest is not None else ""
        server = format_endpoint(conn.real_family, *conn.real)
        self._kernel.events.append(IPVSEvent(what, name, server, conn.method, why))

    def _flag(self, name: str) -> bool:
        return bool(self._kernel.sysctls.int(f"net.ipv4.vs.{name}"))


def _as_reply(header: _Header) -> Ends:
    """Found by real server and client, in the order of ``IPVSConn.replies``."""
    return header.family, header.protocol, *header.source, *header.target


def _is_first(skb: Skb) -> bool:
    """A SYN or an INIT (``is_new_conn``)."""
    return bool(skb.tcp_flags & SYN) if skb.protocol == TCP else skb.protocol == SCTP and skb.sctp_chunks[:1] == (_INIT,)


def _quoted(skb: Skb) -> _Header | Accept | None:
    """The packet that an ICMP error is about; None where it is no error, ACCEPT where it is none of IPVS's business."""
    if skb.icmp_type not in _ERRORS4 if skb.family == 4 else skb.icmp_type >= 128:
        return None
    inner = skb.inner
    if inner is None or inner.protocol not in _PROTOCOLS or inner.fragment_offset:
        return ACCEPT
    return _header(inner, quoted=True)

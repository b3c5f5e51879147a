"""Connection tracking: the table of flows, and what a packet is to it (NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED).

An entry (Conn) has two tuples: the packet as the initiator sends it, and the packet as the answer must look. NAT is nothing but a
change of the second one. An entry lives on the first packet alone until ``confirm`` (the last hook function of the walk) puts
both tuples into the table; a packet that is dropped on its way leaves no trace.
ICMP errors belong to the connection whose packet they quote. Per-protocol state (TCP windows, SCTP chunks, timeouts) is
in conntrack_tcp, conntrack_sctp and conntrack_other.
Source: net/netfilter/nf_conntrack_core.c, nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from dataplane.engine import conntrack_proto as proto
from dataplane.engine.hooks import ACCEPT, Drop, Hook, HookState, Verdict
from dataplane.engine.skb import (
    CT_ATTACHED,
    CT_ESTABLISHED,
    CT_ESTABLISHED_REPLY,
    CT_NEW,
    CT_RELATED,
    CT_RELATED_REPLY,
    CT_UNTRACKED,
    Skb,
)
from dataplane.inet import ICMP, ICMPV6
from dataplane.packet import Packet
from dataplane.rules.network import Connection, Tuple
from dataplane.trace import ConntrackEvent

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

STATE_NAMES: Final = {
    None: "INVALID", CT_ESTABLISHED: "ESTABLISHED", CT_RELATED: "RELATED", CT_NEW: "NEW", CT_ESTABLISHED_REPLY: "ESTABLISHED",
    CT_RELATED_REPLY: "RELATED", CT_UNTRACKED: "UNTRACKED",
}  # fmt: skip

_INVERSE_TYPES4: Final = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
_INVERSE_TYPES6: Final = {128: 129, 129: 128, 139: 140, 140: 139}
_ERROR_TYPES4: Final = frozenset((3, 4, 5, 11, 12))
_REDIRECT: Final = 5

_make_tuple: Final = tuple.__new__  # half the time of Tuple(…), which is made a dozen times a packet

Key = tuple[int, int, Tuple]  # family, zone, tuple
SourceKey = tuple[int, int, int, int, int]  # family, zone, source, port, protocol


def is_reply(ctinfo: int | None) -> bool:
    """The packet goes against the direction of the connection's first one."""
    return ctinfo is not None and CT_ESTABLISHED_REPLY <= ctinfo < CT_UNTRACKED


def tuple_of(packet: Skb | Packet) -> Tuple:
    """The tuple of a packet as it is on the wire."""
    if packet.is_icmp:
        return Tuple(packet.saddr, packet.daddr, packet.protocol, packet.icmp_id, packet.icmp_type << 8 | packet.icmp_code)
    return _make_tuple(Tuple, (packet.saddr, packet.daddr, packet.protocol, packet.sport, packet.dport))


def inverse(original: Tuple) -> Tuple:
    """The tuple of the answer to a packet."""
    src, dst, protocol, sport, dport = original
    if protocol != ICMP and protocol != ICMPV6:
        return _make_tuple(Tuple, (dst, src, protocol, dport, sport))
    inverses = _INVERSE_TYPES4 if protocol == ICMP else _INVERSE_TYPES6
    kind, code = dport >> 8, dport & 0xFF
    return Tuple(dst, src, protocol, sport, inverses.get(kind, kind) << 8 | code)


class Conn:
    """One connection. ``timeout`` is relative until it is confirmed, then ``timeout_at`` is on the virtual clock."""

    __slots__ = (
        "family", "original", "reply", "zone", "snat", "dnat", "src_done", "dst_done", "seen_reply", "assured", "confirmed",
        "expected", "mark", "timeout", "timeout_at", "helper", "labels", "secmark", "packets", "bytes", "tracking", "masq_dev",
        "random_source", "random_destination",
    )  # fmt: skip

    def __init__(self, family: int, original: Tuple, reply: Tuple, zone: int = 0) -> None:
        self.family = family
        self.original = original
        self.reply = reply
        self.zone = zone
        self.snat = self.dnat = self.src_done = self.dst_done = False
        self.seen_reply = self.assured = self.confirmed = self.expected = False
        self.mark = 0
        self.timeout = 0.0
        self.timeout_at: float | None = None
        self.helper: str | None = None
        self.labels = 0
        self.secmark = 0
        self.packets = [0, 0]
        self.bytes = [0, 0]
        self.tracking: proto.Tracking | None = None
        self.masq_dev: str | None = None
        self.random_source = self.random_destination = False

    @property
    def state(self) -> str | None:
        """TCP's or SCTP's state name, None for other protocols."""
        return getattr(self.tracking, "state", None)

    def copy(self) -> Conn:
        """An independent copy."""
        other = Conn.__new__(Conn)
        for name in Conn.__slots__:
            setattr(other, name, getattr(self, name))
        other.packets, other.bytes = list(self.packets), list(self.bytes)
        if self.tracking is not None:
            other.tracking = self.tracking.copy()
        return other


class ConnTable:
    """All confirmed connections of a namespace. ``base`` holds those of a snapshot, unpacked when first met.

    An *overlay* lies over another table: what a packet touches there is copied up first, so that the walk can be thrown away,
    or settled into the table below, at the cost of that packet's connections alone.
    """

    def __init__(self, base: Iterable[Connection] = (), under: ConnTable | None = None) -> None:
        self._under = under
        self._base: dict[Key, Connection] = {}
        for connection in base:
            for one in (connection.original, connection.reply):
                self._base.setdefault((connection.family, connection.zone, one), connection)
        self._alone = under is None and not self._base  # nothing below to look in
        self._entries: dict[Key, Conn | None] = {}  # None hides an entry of the base
        self._by_source: dict[SourceKey, list[Conn]] = {}

    def overlay(self) -> ConnTable:
        """A table over this one, which must not change while the overlay is in use."""
        return ConnTable(under=self)

    def changes(self) -> dict[Key, Conn | None]:
        """What an overlay has that the table below has not, or has otherwise; None for what was removed."""
        return self._entries

    def settle(self, onto: ConnTable | None = None) -> ConnTable:
        """Puts what changed in an overlay into the table below (or a fork of it, ``onto``), which is returned."""
        below = onto if onto is not None else self._under
        assert below is not None
        for key, conn in self._entries.items():
            if conn is not None or key in below._base:
                below._entries[key] = conn
            else:
                below._entries.pop(key, None)
        for source, conns in self._by_source.items():
            below._by_source[source] = conns
        return below

    def fork(self) -> ConnTable:
        """A table that changes independently of this one; the snapshot's entries are shared."""
        other = ConnTable(under=self._under)
        other._base, other._alone = self._base, self._alone
        copies: dict[int, Conn] = {}
        for key, conn in self._entries.items():
            other._entries[key] = None if conn is None else copies.setdefault(id(conn), conn.copy())
        for source, conns in self._by_source.items():
            other._by_source[source] = [copies[id(conn)] for conn in conns if id(conn) in copies]
        return other

    def entries(self, now: float = 0.0) -> Iterator[Conn]:
        """Every live connection once."""
        for key in self._below():
            if key not in self._entries:
                self._fetch(key)
        for (_, _, one), conn in list(self._entries.items()):
            if conn is not None and one == conn.original and not _expired(conn, now):
                yield conn

    def find(self, family: int, zone: int, wanted: Tuple, now: float) -> tuple[Conn, bool] | None:
        """The live connection with this tuple, and whether it is the reply's."""
        key = (family, zone, wanted)
        conn = self._entries.get(key)
        if conn is None:
            fetched = None if self._alone or key in self._entries else self._fetch(key)
            if fetched is None:
                return None
            conn = fetched
        if _expired(conn, now):
            self.remove(conn)
            return None
        return conn, wanted == conn.reply  # of what equals its own answer, the reply's entry is found first

    def taken(self, conn: Conn, reply: Tuple, now: float) -> bool:
        """Whether another connection than ``conn`` already owns the tuple ``reply`` (nf_conntrack_tuple_taken)."""
        found = self.find(conn.family, conn.zone, reply, now)
        return found is not None and found[0] is not conn and found[0].original != conn.original

    def insert(self, conn: Conn, now: float) -> bool:
        """Puts a connection into the table; False when one of its tuples is taken."""
        family, zone, original, reply = conn.family, conn.zone, conn.original, conn.reply
        if self.find(family, zone, original, now) is not None or self.find(family, zone, reply, now) is not None:
            return False
        self._entries[family, zone, original] = self._entries[family, zone, reply] = conn
        if conn.src_done:
            self._siblings(_source_key(conn)).append(conn)
        conn.confirmed = True
        conn.timeout_at = now + conn.timeout
        return True

    def remove(self, conn: Conn) -> None:
        """Takes a connection out of the table."""
        for one in (conn.original, conn.reply):
            key = (conn.family, conn.zone, one)
            if self._under is not None or key in self._base:
                self._entries[key] = None
            else:
                self._entries.pop(key, None)
        siblings = self._siblings(_source_key(conn))
        if conn in siblings:
            siblings.remove(conn)

    def same_source(self, conn: Conn, now: float) -> Iterator[Conn]:
        """Connections from the same address and port, the newest first (SNAT reuses their mapping, find_appropriate_src)."""
        for other in reversed(self._siblings(_source_key(conn))):
            if not _expired(other, now):
                yield other

    def _below(self) -> list[Key]:
        """The keys of what may not have been fetched yet."""
        return list(self._base) if self._under is None else [*self._under._entries, *self._under._below()]

    def _fetch(self, key: Key) -> Conn | None:
        """A connection of the table below, copied, or of the snapshot, unpacked; None where there is none."""
        if self._under is None:
            return self._unpack(key) if key in self._base else None
        below = self._under
        found = below._entries.get(key)
        if found is None:
            found = None if key in below._entries else below._fetch(key)
            if found is None:
                return None
        conn = found.copy()
        for one in (conn.original, conn.reply):
            self._entries[conn.family, conn.zone, one] = conn
        return conn

    def _siblings(self, source: SourceKey) -> list[Conn]:
        """The connections from one source, in a list that is this table's own."""
        own = self._by_source.get(source)
        if own is None:
            own = self._by_source[source] = [] if self._under is None else self._copied(self._under._siblings(source))
        return own

    def _copied(self, conns: Iterable[Conn]) -> list[Conn]:
        keys = [(conn.family, conn.zone, conn.original) for conn in conns]
        found = [self._entries[key] if key in self._entries else self._fetch(key) for key in keys]
        return [conn for conn in found if conn is not None]

    def _unpack(self, key: Key) -> Conn:
        given = self._base[key]
        conn = Conn(given.family, given.original, given.reply, given.zone)
        plain = inverse(given.original)
        conn.dnat = (given.reply.src, given.reply.sport) != (plain.src, plain.sport) and not _is_icmp(given.protocol)
        conn.dnat = conn.dnat or given.reply.src != plain.src
        conn.snat = given.reply.dst != plain.dst or (not _is_icmp(given.protocol) and given.reply.dport != plain.dport)
        conn.src_done = conn.dst_done = conn.confirmed = True
        conn.seen_reply = "UNREPLIED" not in given.flags
        conn.assured = "ASSURED" in given.flags
        conn.mark = given.mark
        conn.timeout_at = float(given.timeout) if given.timeout is not None else None
        conn.tracking = proto.restore(given.protocol, given.state)
        for one in (given.original, given.reply):
            self._entries[(given.family, given.zone, one)] = conn
        self._siblings(_source_key(conn)).append(conn)
        return conn


def _is_icmp(protocol: int) -> bool:
    return protocol in (ICMP, ICMPV6)


def _source_key(conn: Conn) -> SourceKey:
    return conn.family, conn.zone, conn.original.src, conn.original.sport, conn.original.protocol


def _expired(conn: Conn, now: float) -> bool:
    return conn.timeout_at is not None and conn.timeout_at <= now


# ---------------------------------------------------------------------- hook functions


def track(kernel: Kernel, skb: Skb, state: HookState) -> Verdict:
    """nf_conntrack_in: gives the packet its connection, at PREROUTING and OUTPUT."""
    if skb.conn is not None or skb.ctinfo == CT_UNTRACKED:
        return ACCEPT  # over the loopback device with its entry, or -j NOTRACK
    skb.ctinfo = None
    if skb.is_icmp:
        skb.checksum_known = state.hook == Hook.PREROUTING and not skb.bad_checksum and bool(kernel.sysctls.int("net.netfilter.nf_conntrack_checksum"))
        problem = proto.icmp_problem(skb, kernel.sysctls, state.hook)
        if problem is not None:
            return _told(kernel, skb, problem)
        if proto.untracked_icmp(skb):
            skb.ctinfo = CT_UNTRACKED
            return _told(kernel, skb, "not tracked by its type")
        if _is_error(skb):
            return _told(kernel, skb, _track_error(kernel, skb))
    detail = _resolve(kernel, skb, state)
    if detail is None:
        detail = _resolve(kernel, skb, state) or ""
    return _told(kernel, skb, detail)


def _told(kernel: Kernel, skb: Skb, detail: str) -> Verdict:
    conn = skb.conn
    kernel.events.append(
        ConntrackEvent(STATE_NAMES[skb.ctinfo], conn.original if conn else None, conn.reply if conn else None, detail)
    )
    return ACCEPT


def _is_error(skb: Skb) -> bool:
    return skb.icmp_type in _ERROR_TYPES4 if skb.family == 4 else skb.icmp_type < 128


def _track_error(kernel: Kernel, skb: Skb) -> str:
    if skb.inner is None:
        return "an ICMP error that quotes no packet"
    quoted = inverse(tuple_of(skb.inner))
    found = kernel.conntrack.find(skb.family, skb.template_zone, quoted, kernel.now)
    if found is None:
        return "an ICMP error about no known connection"
    conn, reply = found
    expected = (conn.reply if reply else conn.original).dst
    if skb.daddr != expected:
        return "an ICMP error whose destination is not the quoted packet's source"
    skb.conn = conn
    skb.ctinfo = CT_RELATED_REPLY if reply else CT_RELATED
    return "ICMP error about this connection"


def _resolve(kernel: Kernel, skb: Skb, state: HookState) -> str | None:
    """Finds or makes the entry and asks the protocol. Returns a remark, or None when tracking must start over (REPEAT)."""
    table = kernel.conntrack
    wanted = tuple_of(skb)
    found = table.find(skb.family, skb.template_zone, wanted, kernel.now)
    if found is None:
        started = proto.start(skb, kernel.sysctls, kernel.now)
        if isinstance(started, str):
            return started
        conn, reply = Conn(skb.family, wanted, inverse(wanted), skb.template_zone), False
        conn.tracking = started
        conn.helper = skb.helper
        ctinfo = CT_NEW
    else:
        conn, reply = found
        if reply:
            ctinfo = CT_ESTABLISHED_REPLY
        elif conn.seen_reply:
            ctinfo = CT_ESTABLISHED
        else:
            ctinfo = CT_RELATED if conn.expected else CT_NEW
    left = 0.0 if conn.timeout_at is None else conn.timeout_at - kernel.now
    result = proto.advance(conn.tracking, skb, reply, conn.seen_reply, conn.assured, kernel.sysctls, kernel.now, left, state.hook)
    if result.verdict == proto.REPEAT:
        table.remove(conn)
        return None
    if found is not None or result.verdict == proto.ACCEPT:
        _refresh(conn, result, kernel.now)
    if result.verdict == proto.KILL:
        table.remove(conn)
    elif result.verdict != proto.ACCEPT:
        return result.reason
    if reply:
        conn.seen_reply = True
    if result.counted:
        direction = int(reply)
        conn.packets[direction] += 1
        conn.bytes[direction] += skb.length
    skb.conn, skb.ctinfo = conn, ctinfo
    return result.reason


def _refresh(conn: Conn, result: proto.Result, now: float) -> None:
    if result.timeout is not None:
        conn.timeout = result.timeout
        if conn.confirmed:
            conn.timeout_at = now + result.timeout
    conn.assured = conn.assured or result.assured


def confirm(kernel: Kernel, skb: Skb, state: HookState) -> Verdict:
    """nf_conntrack_confirm: the walk is over, the entry becomes visible to other packets."""
    conn = skb.conn
    if conn is None or conn.confirmed or is_reply(skb.ctinfo):
        return ACCEPT
    if not kernel.conntrack.insert(conn, kernel.now):
        return Drop(f"another connection owns this tuple already (clash at {state.hook.name})")
    return ACCEPT


def set_closing(kernel: Kernel, skb: Skb) -> None:
    """nf_ct_set_closing: a connection that the node resets is closed, though conntrack does not look at that RST."""
    conn = skb.conn
    if conn is None or not conn.confirmed:
        return
    timeout = proto.close(conn.tracking, kernel.sysctls)
    if timeout is not None:
        conn.timeout_at = kernel.now + timeout


def attach(reply: Skb, cause: Skb) -> None:
    """nf_ct_attach: an answer that the node makes carries the connection of the packet that caused it."""
    reply.conn = cause.conn
    if cause.conn is None:
        reply.ctinfo = CT_ATTACHED
    else:
        reply.ctinfo = CT_RELATED if is_reply(cause.ctinfo) else CT_RELATED_REPLY

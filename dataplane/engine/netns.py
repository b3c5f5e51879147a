"""Netns: one node's kernel put together from a NodeState, ready to take packets.

It registers tables, conntrack, NAT and IPVS at their hooks by priority, feeds packets to the path, sends on what the node answers, and gives
back Traces. State (connections, recent lists, buckets) is shared between packets until ``fork`` or ``outcomes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from dataplane.engine import conntrack, defrag, nat
from dataplane.engine.choices import Choices, Seeded, explore
from dataplane.engine.conntrack import ConnTable, is_reply
from dataplane.engine.fib import Fib
from dataplane.engine.hooks import Hook, HookFunction, Priority
from dataplane.engine.iptables import TableWalk
from dataplane.engine.kernel import Kernel, MemoryLayer
from dataplane.engine.path import End, Hooks, Path
from dataplane.engine.skb import Skb
from dataplane.errors import InputError, Problem
from dataplane.packet import Packet
from dataplane.rules.iptables import BUILTIN_CHAINS, Table, Xtables
from dataplane.rules.ipvs import FTP, IPVS, Forwarding
from dataplane.rules.nodestate import NodeState
from dataplane.rules.sysctls import Sysctls
from dataplane.trace import EndEvent, Event, NoteEvent, Trace

if TYPE_CHECKING:
    from dataplane.engine.ipvs import IPVSHooks

_PRIORITIES: Final = {
    "raw": Priority.RAW, "mangle": Priority.MANGLE, "filter": Priority.FILTER, "security": Priority.SECURITY,
}  # fmt: skip
_TRACKING_MATCHES: Final = frozenset(
    ("conntrack", "state", "connmark", "connbytes", "connlimit", "connlabel", "helper", "cluster")
)
_TRACKING_TARGETS: Final = frozenset(("CONNMARK", "CONNSECMARK", "CT", "SYNPROXY", "CLUSTERIP", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"))


class Possibility(NamedTuple):
    """One way that a packet can go, and the state that it leaves, which lies over the state before."""

    probability: Fraction
    trace: Trace
    conntrack: ConnTable
    memory: MemoryLayer


class Netns:
    """One network namespace. ``assume`` says whether matches without a model match; None makes the answer *unknown*.

    ``verbose`` records every rule that did not match, with the reason; ``linear`` walks without the index (same meaning).
    ``fresh``: the node was programmed just now, so that IPVS's schedulers begin at the beginning; else whose turn it is is a choice.
    """

    def __init__(
        self, state: NodeState, *, assume: bool | None = None, verbose: bool = False, linear: bool = False, wall: float = 0.0,
        hears_itself: bool = True, fresh: bool = False,
    ) -> None:  # fmt: skip
        self.state = state
        self._verbose, self._linear, self._fresh = verbose, linear, fresh
        self.kernel = Kernel(
            fib=Fib(state), conntrack=ConnTable(state.connections), sysctls=Sysctls(state.sysctls),
            links={link.name: link for link in state.links}, ipsets=state.ipsets.sets, assume=assume, wall=wall, hears_itself=hears_itself,
        )  # fmt: skip
        self.hooks: Hooks = {}
        for family in (4, 6):
            self._register(family, state.xtables(family))
        self._path = Path(self.kernel, self.hooks)
        self._ipvs: IPVSHooks | None = None
        if state.ipvs.servers:
            self._register_ipvs(self.ipvs.services.families)

    @property
    def ipvs(self) -> IPVSHooks:
        """Virtual servers and their connections."""
        if self._ipvs is None:
            from dataplane.engine.ipvs import IPVSHooks  # most nodes have none, and it is a tenth of the command's start

            self._ipvs = IPVSHooks(self.kernel, self.state.ipvs, self._path.reroute, fresh=self._fresh)
        return self._ipvs

    # ------------------------------------------------------------------ packets

    def receive(
        self, packet: Packet, indev: str, *, mark: int = 0, choices: Choices | None = None, mac: int | None = None, physin: str = ""
    ) -> Trace:
        """A packet arrives by a device. Raises InputError for a device that the node does not have."""
        if indev not in self.kernel.links:
            names = ", ".join(self.kernel.links)
            raise InputError(Problem(f'no interface "{indev}" on this node: it has {names}'))
        self.kernel.choices = choices or Seeded(0)
        return self._received(packet, indev, mark, mac, physin)

    def send(
        self, packet: Packet, *, mark: int = 0, uid: int | None = 0, gid: int | None = 0, choices: Choices | None = None,
        scope: str = "",
    ) -> Trace:  # fmt: skip
        """The node itself sends a packet from a socket of user ``uid``.

        ``scope`` is the device of a link-local destination (``fe80::1%eth0``); without it that of a link-local source.
        """
        self.kernel.choices = choices or Seeded(0)
        return self._sent(packet, mark, uid, gid, scope)

    def possibilities(self, walk: Callable[[Choices], Trace], numbers: Sequence[int] = ()) -> Iterator[Possibility]:
        """Every way that a walk can go (a call of ``receive`` or ``send``) from the state as it is, which stays as it is.

        ``numbers`` answers what is drawn without changing a verdict (random ports), in order.
        """
        kernel = self.kernel
        conntrack_before, memory_before = kernel.conntrack, kernel.memory

        def once(choices: Choices) -> tuple[Trace, ConnTable, MemoryLayer]:
            kernel.conntrack = conntrack_before.overlay()
            memory = kernel.memory = MemoryLayer(memory_before)
            return walk(choices), kernel.conntrack, memory

        try:
            for probability, after in explore(once, numbers):
                yield Possibility(probability, *after)
        finally:
            kernel.conntrack, kernel.memory = conntrack_before, memory_before

    def settle(self, one: Possibility) -> None:
        """The state goes on from that possibility; all others that were drawn from the same state are void."""
        self.kernel.conntrack, self.kernel.memory = one.conntrack.settle(), one.memory.settle()

    def outcomes(
        self, packet: Packet, indev: str | None, *, mark: int = 0, uid: int | None = 0, gid: int | None = 0,
        mac: int | None = None, physin: str = "",
    ) -> Iterator[tuple[Fraction, Trace]]:  # fmt: skip
        """Every possible outcome of one packet from the state as it is, which stays as it is. ``indev`` None: sent by the node."""

        def walk(choices: Choices) -> Trace:
            if indev is None:
                return self.send(packet, mark=mark, uid=uid, gid=gid, choices=choices)
            return self.receive(packet, indev, mark=mark, choices=choices, mac=mac, physin=physin)

        return iter([(one.probability, one.trace) for one in self.possibilities(walk)])

    def fork(self) -> Netns:
        """A namespace of the same rules whose connections and counters change independently."""
        mine = self.kernel
        other = Netns(
            self.state, assume=mine.assume, verbose=self._verbose, linear=self._linear, wall=mine.wall, hears_itself=mine.hears_itself, fresh=self._fresh,
        )  # fmt: skip
        other.kernel.now = self.kernel.now
        other.kernel.conntrack = self.kernel.conntrack.fork()
        other.kernel.memory = {key: value.copy() for key, value in self.kernel.memory.items()}
        return other

    def program_ipvs(self, ipvs: IPVS) -> None:
        """Other virtual servers from now on, as if ipvsadm had been told of what changed; connections stay."""
        self.ipvs.program(ipvs)
        self.state = self.state._replace(ipvs=ipvs)
        self._register_ipvs(self.ipvs.services.families)

    # ------------------------------------------------------------------ walks

    def _received(self, packet: Packet, indev: str, mark: int, mac: int | None, physin: str) -> Trace:
        skb = Skb(packet, indev=indev, mark=mark)
        skb.mac_source, skb.physin = mac, physin
        skb.pkttype = self._packet_type(packet, indev)
        self._begin()
        return self._finish(packet, indev, skb, self._path.receive(skb))

    def _sent(self, packet: Packet, mark: int, uid: int | None, gid: int | None, scope: str) -> Trace:
        skb = Skb(packet, mark=mark)
        skb.scope = scope
        skb.local, skb.has_socket, skb.uid, skb.gid = True, uid is not None, uid, gid
        self._begin()
        return self._finish(packet, None, skb, self._path.send(skb))

    def _answer(self, packet: Packet, cause: Skb) -> Trace:
        skb = Skb(packet)
        skb.local, skb.scope = True, cause.indev
        conntrack.attach(skb, cause)
        self._begin()
        return self._finish(packet, None, skb, self._path.send(skb))

    def _begin(self) -> None:
        if self._ipvs is not None:
            self._ipvs.table.expire()
        self.kernel.events = []
        self.kernel.visited = 0
        self.kernel.notes.clear()

    def _finish(self, packet: Packet, indev: str | None, skb: Skb, end: End) -> Trace:
        events: list[Event] = self.kernel.events
        visited = self.kernel.visited
        if self.kernel.notes:
            events.extend(NoteEvent(note) for note in self.kernel.notes)
        verdict = end.verdict
        replies: tuple[Trace, ...] = ()
        if end.replies:
            replies = tuple(self._answer(reply, skb) for reply in end.replies)
            if any(reply.verdict in ("forward", "local") for reply in replies):
                verdict = "reject"
        events.append(EndEvent(verdict, end.reason))
        conn = skb.conn
        forth = conn is not None and not is_reply(skb.ctinfo) and verdict in ("forward", "local")
        return Trace(
            original=packet, indev=indev, events=events, verdict=verdict, reason=end.reason, make_packet=skb.packet, mark=skb.mark,
            oif=end.oif, by=end.by, replies=replies, random_sport=forth and conn is not None and conn.random_source,
            random_dport=forth and conn is not None and conn.random_destination, gateway=end.gateway,
            visited=visited,
        )  # fmt: skip

    def _packet_type(self, packet: Packet, indev: str) -> str:
        """How the frame was addressed: to all on the link only for a broadcast address of that very link."""
        if packet.family == 6:
            return "multicast" if packet.daddr >> 120 == 0xFF else "host"
        if packet.daddr & 0xF0000000 == 0xE0000000:
            return "multicast"
        fib = self.kernel.fib
        broadcast = packet.daddr == 0xFFFFFFFF or fib.address_type(4, packet.daddr, indev) == "BROADCAST"
        return "broadcast" if broadcast else "host"

    # ------------------------------------------------------------------ hooks

    def _register(self, family: int, xtables: Xtables) -> None:
        tables = xtables.tables
        for name, table in tables.items():
            if name != "nat":
                self._register_table(family, table)
        nat_table = tables.get("nat")
        if nat_table is not None:
            self._register_nat(family, nat_table)
        if any(_tracks(table) for table in sorted(tables.values(), key=lambda table: table.name != "nat")) or self._masquerades_ftp(family):
            kernel = self.kernel
            for hook in (Hook.PREROUTING, Hook.OUTPUT):
                self._add(family, hook, Priority.DEFRAG, "defrag", partial(defrag.gather, kernel))
                self._add(family, hook, Priority.CONNTRACK, "conntrack", partial(conntrack.track, kernel))
            for hook in (Hook.INPUT, Hook.POSTROUTING):
                self._add(family, hook, Priority.CONNTRACK_CONFIRM, "confirm", partial(conntrack.confirm, kernel))

    def _masquerades_ftp(self, family: int) -> bool:
        """IPVS itself asks for connection tracking for FTP's sake only (ip_vs_register_conntrack)."""
        return any(
            one.family == family and one.port == FTP and any(server.forwarding is Forwarding.MASQUERADING for server in one.servers)
            for one in self.state.ipvs.servers
        )  # fmt: skip

    def _register_table(self, family: int, table: Table) -> None:
        walk = self._walk(table, family)
        for name in BUILTIN_CHAINS.get(table.name, ()):
            if name in table.chains:
                self._add(family, Hook[name], _PRIORITIES[table.name], table.name, walk.hook_function(name))

    def _register_nat(self, family: int, table: Table) -> None:
        walk = self._walk(table, family)
        for name in BUILTIN_CHAINS["nat"]:
            hook = Hook[name]
            lookup = walk.hook_function(name) if name in table.chains else None
            priority = Priority.NAT_SRC if nat.is_source_hook(hook) else Priority.NAT_DST
            self._add(family, hook, priority, "nat", nat.hook_function(self.kernel, lookup))

    def _register_ipvs(self, families: Iterable[int]) -> None:
        """Its hooks are there in the families that have virtual servers, and go with the last one (ip_vs_register_hooks)."""
        for (family, hook), functions in self.hooks.items():
            self.hooks[family, hook] = [one for one in functions if one[1] != "ipvs"]
        for family in families:
            for hook, priority, function in self.ipvs.functions():
                self._add(family, hook, priority, "ipvs", function)

    def _walk(self, table: Table, family: int) -> TableWalk:
        return TableWalk(table, family, self.kernel, linear=self._linear, verbose=self._verbose)

    def _add(self, family: int, hook: Hook, priority: int, name: str, function: HookFunction) -> None:
        functions = self.hooks.setdefault((family, hook), [])
        functions.append((priority, name, function))
        functions.sort(key=lambda entry: entry[0])


def _tracks(table: Table) -> bool:
    """Whether a table makes the kernel track connections (nf_ct_netns_get)."""
    for name in table.chains:
        for rule in table.chains[name].rules:
            if any(match.name in _TRACKING_MATCHES for match in rule.matches):
                return True
            target = rule.target
            notrack = getattr(target, "name", "") == "CT" and target.option("notrack") is not None  # type: ignore[union-attr]
            if getattr(target, "name", "") in _TRACKING_TARGETS and not notrack:
                return True
    return False



"""A trace: the typed events of one packet's real walk through a node, and what became of it.

The engine appends events while the packet walks; text, JSON and kernel-TRACE renderings read them (render/). Events are named
tuples because a walk makes a dozen of them and they must cost little. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from dataplane.inet import format_endpoint
from dataplane.packet import Packet
from dataplane.rules.iptables import Rule
from dataplane.rules.network import Tuple

Verdict = Literal["forward", "local", "drop", "reject", "unknown"]


class RuleRef(NamedTuple):
    """A rule by its place: ``number`` counts from 1 in its chain; a policy has number None."""

    family: int
    table: str
    chain: str
    number: int | None

    def __str__(self) -> str:
        return f"{self.table} {self.chain} " + (f"rule {self.number}" if self.number is not None else "policy")


class HookEvent(NamedTuple):
    """The packet reaches a hook; ``visited`` of the tables follow as TableEvents."""

    hook: str
    indev: str
    outdev: str


class TableEvent(NamedTuple):
    """A table is entered at its base chain."""

    table: str
    chain: str


class RuleEvent(NamedTuple):
    """A rule matched. ``action`` says what it did: "jump X", "goto X", "accept", "drop", "return", "continue", "reject", "nat" …"""

    ref: RuleRef
    rule: Rule
    action: str
    depth: int


class NoMatchEvent(NamedTuple):
    """A rule was looked at and did not match (recorded only on request); ``reason`` is the first thing that failed."""

    ref: RuleRef
    rule: Rule
    reason: str
    depth: int


class PolicyEvent(NamedTuple):
    """The end of a base chain was reached, or RETURN from it."""

    ref: RuleRef
    policy: str


class TableLeft(NamedTuple):
    """``visited`` rules were looked at by the kernel in this table."""

    table: str
    visited: int


class ConntrackEvent(NamedTuple):
    """What connection tracking says of the packet: NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED; with the entry's tuples."""

    state: str
    original: Tuple | None
    reply: Tuple | None
    detail: str


class NatEvent(NamedTuple):
    """A rewrite: ``kind`` is SNAT or DNAT (of this packet), old and new are (address, port)."""

    kind: str
    family: int
    old: tuple[int, int]
    new: tuple[int, int]
    why: str

    def __str__(self) -> str:
        side = "source" if self.kind == "SNAT" else "destination"
        old, new = (format_endpoint(self.family, *end) for end in (self.old, self.new))
        return f"{side} {old} -> {new}" + (f" ({self.why})" if self.why else "")


class IPVSEvent(NamedTuple):
    """What IPVS does with a packet: ``what`` is request, reply, ICMP error, refused …; ``server`` is "" where there is none, ``why`` says by what.

    ``service`` and ``server`` are as ``ipvsadm -Ln`` names them; ``method`` is masq, gate, ipip or "".
    """

    what: str
    service: str
    server: str
    method: str
    why: str


class RouteEvent(NamedTuple):
    """A route decision, in the words of ``ip route get``."""

    what: str
    decision: str
    dev: str


class ChangeEvent(NamedTuple):
    """A field beside addresses and ports changed (mark, TTL, TOS …)."""

    field: str
    old: int
    new: int


class ChoiceEvent(NamedTuple):
    """A random decision; the alternative taken had ``weight`` of ``total``."""

    what: str
    weight: int
    total: int


class NoteEvent(NamedTuple):
    """Something that a reader should know: an assumption, a side effect."""

    text: str


#: What stands between these two happens to a copy of the packet, which the node sends to itself.
COPY_BEGINS = NoteEvent("a copy for this node itself leaves first, and comes back")
COPY_ENDS = NoteEvent("the packet itself goes on")


class EndEvent(NamedTuple):
    """The walk ended here, and why."""

    verdict: Verdict
    reason: str


Event: TypeAlias = (
    HookEvent | TableEvent | RuleEvent | NoMatchEvent | PolicyEvent | TableLeft | ConntrackEvent | NatEvent | IPVSEvent | RouteEvent
    | ChangeEvent | ChoiceEvent | NoteEvent | EndEvent
)  # fmt: skip


@dataclass(slots=True)
class Trace:
    """One packet's way. ``packet`` and ``mark`` are as it left or was delivered (or where it ended); ``packet`` is made when asked.

    ``random_sport``/``random_dport`` say that the kernel picks that port at random. ``replies`` are the traces of what the node
    sent back by itself (ICMP errors, RST). ``by`` is the rule that decided a drop, reject or unknown.
    """

    original: Packet
    indev: str | None
    events: list[Event]
    verdict: Verdict
    reason: str
    make_packet: Callable[[], Packet] = field(repr=False)
    mark: int
    oif: str | None
    by: RuleRef | None = None
    replies: tuple[Trace, ...] = ()
    random_sport: bool = False
    random_dport: bool = False
    visited: int = 0
    gateway: int | None = None

    @property
    def packet(self) -> Packet:
        """The header fields at the end of the walk."""
        return self.make_packet()

    @property
    def reply(self) -> Packet | None:
        """The ICMP error or RST that left the node, or None."""
        for reply in self.replies:
            if reply.verdict in ("forward", "local"):
                return reply.packet
        return None

    def rules(self) -> Iterator[RuleEvent]:
        """The rules that matched, in order."""
        return (event for event in self.events if isinstance(event, RuleEvent))

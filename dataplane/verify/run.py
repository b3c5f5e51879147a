"""One rule set, once through the kernel and once through the emulator, and everything in which they differ.

Packet by packet: is what the kernel did among what the emulator says could happen? At the end: do the rules' counters and the
connections agree? Knows nothing of where rule sets and packets come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.clock import now
from dataplane.adapters.lab.lines import Line, Packet
from dataplane.adapters.lab.listing import Place, connections_of, counters_of
from dataplane.adapters.lab.node import Flavour, standing
from dataplane.adapters.lab.referee import Mode, Referee
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.engine.netns import Netns
from dataplane.rules.nodestate import NodeState
from dataplane.text.snapshot import parse_snapshot
from dataplane.trace import Trace
from dataplane.verify.chances import Chances
from dataplane.verify.compare import compare, kind_of
from dataplane.verify.connections import connection_differences
from dataplane.verify.follow import Follower


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel did: a line a packet, then the rules' counters and ``conntrack -L``; ``at`` is when it was asked for these.

    ``seconds`` is how long it took, without setting up the node.
    """

    lines: list[Line]
    counters: dict[Place, int]
    connections: str
    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """``kind`` is verdict, device, a header field's name, reply, counter, connection or chance; ``packet`` None: of all together."""

    kind: str
    text: str
    packet: int | None = None
    trace: Trace | None = None


@dataclass(slots=True)
class Result:
    """``verdicts`` counts the kernel's, "unsent" included; ``unknown`` are packets of which the emulator claims nothing."""

    packets: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    rules: int = 0
    unreached: list[Place] = field(default_factory=list)
    seconds_kernel: float = 0.0
    seconds_emulator: float = 0.0

    @property
    def reached(self) -> int:
        """How many rules a packet met."""
        return self.rules - len(self.unreached)


def state_of(snapshot: Snapshot) -> NodeState:
    """The node as the emulator reads it. ParseError for what it cannot read."""
    return parse_snapshot(files.texts(snapshot))[0]


def ask_kernel(snapshot: Snapshot, packets: Sequence[Packet], mode: Mode = "sequence", flavour: Flavour | None = None) -> Kernel:
    """What the kernel does with packets on a node made for them alone. LabError where it cannot be asked."""
    with standing(snapshot, flavour=flavour) as node:
        referee = Referee(node)
        try:
            began = now()
            lines = referee.send(packets, mode)
            seconds = now() - began
            return Kernel(lines, counters_of(node), connections_of(node), referee.clock(), seconds)
        finally:
            referee.close()


def verify(
    snapshot: Snapshot, packets: Sequence[Packet], *, mode: Mode = "sequence", flavour: Flavour | None = None,
    state: NodeState | None = None,
) -> Result:  # fmt: skip
    """Sends the packets through both. ``state`` is the emulator's reading of the snapshot, where it was made already."""
    netns = Netns(state if state is not None else state_of(snapshot), hears_itself=False, fresh=True)  # the lab watches behind POSTROUTING
    return judge(netns, packets, ask_kernel(snapshot, packets, mode, flavour), mode)


def judge(netns: Netns, packets: Sequence[Packet], kernel: Kernel, mode: Mode = "sequence") -> Result:
    """The emulator's side of what the kernel has said."""
    follower, chances, result = Follower(netns, fresh=mode == "fresh"), Chances(), Result(len(packets))
    began = now()
    for number, (packet, line) in enumerate(zip(packets, kernel.lines, strict=True)):
        did = line["outcomes"][0] if line["outcomes"] else None
        result.verdicts[did["verdict"] if did else "unsent"] += 1
        followed = follower.follow(packet, line)
        if not followed.fits:
            difference = compare(followed.outcomes(), did)
            if difference is not None:
                trace = followed.traces[0] if followed.traces else None
                text = f"{packet.line()}\n{_history(number, packets)}  {difference}"
                result.disagreements.append(Disagreement(kind_of(difference), text, number, trace))
        result.unknown += followed.unknown
        chances.note(followed)
    result.seconds_kernel, result.seconds_emulator = kernel.seconds, now() - began
    result.disagreements += [Disagreement("chance", text) for text in chances.unlikely()]
    if mode == "sequence" and not result.disagreements and not result.unknown and not follower.lost:
        result.disagreements += _at_the_end(follower, kernel)
    _count_rules(result, kernel)
    return result


def _at_the_end(follower: Follower, kernel: Kernel) -> list[Disagreement]:
    """Counters and connections; once a packet went another way they say nothing new."""
    found = []
    met = {place: (follower.least[place], follower.most[place]) for place in follower.most}
    for place, count in kernel.counters.items():
        least, most = met.get(place, (0, 0))
        if not least <= count <= most:
            family, table, chain, number = place
            where = f"IPv{family} {table} {chain} {f'rule {number}' if number is not None else 'policy'}"
            said = str(least) if least == most else f"{least} to {most}"
            found.append(Disagreement("counter", f"{where}: the emulator counted {said} packets, the kernel {count}"))
    differences = [connection_differences(world.conntrack, kernel.connections, kernel.at) for world in follower.worlds]
    found += [Disagreement("connection", text) for text in min(differences, key=len)]
    return found


def _count_rules(result: Result, kernel: Kernel) -> None:
    rules = {place: count for place, count in kernel.counters.items() if place[3] is not None}
    result.rules = len(rules)
    result.unreached = [place for place, count in rules.items() if not count]


def _history(number: int, packets: Sequence[Packet]) -> str:
    """The packets that this one is a reply to, or nothing would be clear."""
    by_id = {one.id: one for one in packets[max(0, number - 64) : number]}
    lines: list[str] = []
    cause = by_id.get(packets[number].reply_to or -1)
    while cause is not None and len(lines) < 8:
        lines.insert(0, f"  after {cause.line()}\n")
        cause = by_id.get(cause.reply_to) if cause.reply_to is not None else None
    return "".join(lines)

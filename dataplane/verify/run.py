"""One rule set, once through the kernel and once through the emulator, and everything in which they differ.

Packet by packet: is what the kernel did among what the emulator says could happen? At the end: do the rules' counters and the
connections agree? Knows nothing of where rule sets and packets come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dataplane.adapters.lab import snapshot as files
from dataplane.adapters.lab.asking import Answer, Question, ask
from dataplane.adapters.lab.clock import now
from dataplane.adapters.lab.lines import Line, Packet
from dataplane.adapters.lab.listing import Place
from dataplane.adapters.lab.node import Flavour
from dataplane.adapters.lab.referee import Mode
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.engine.netns import Netns
from dataplane.rules.nodestate import NodeState
from dataplane.text.ipvsadm import parse_save
from dataplane.text.snapshot import parse_snapshot
from dataplane.trace import Trace
from dataplane.verify.chances import Chances
from dataplane.verify.compare import compare, kind_of
from dataplane.verify.connections import connection_differences, ipvs_differences
from dataplane.verify.follow import Follower


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


def verify(
    snapshot: Snapshot, packets: Sequence[Packet], *, mode: Mode = "sequence", flavour: Flavour | None = None,
    state: NodeState | None = None,
) -> Result:  # fmt: skip
    """Sends the packets through both. ``state`` is the emulator's reading of the snapshot, where it was made already. LabError where there is no kernel to ask."""
    question = Question(snapshot, list(packets), mode, flavour)
    return judge(netns_of(state if state is not None else state_of(snapshot)), question, ask(question))


def netns_of(state: NodeState) -> Netns:
    """The emulator of a node that stands in the lab: newly made, and watched behind POSTROUTING."""
    return Netns(state, hears_itself=False, fresh=True)


def judge(netns: Netns, question: Question, answer: Answer) -> Result:
    """The emulator's side of what the kernel has said."""
    everything = question.everything()
    follower, chances, result = Follower(netns, fresh=question.mode == "fresh"), Chances(), Result(len(everything))
    began, lines, number = now(), iter(answer.lines), 0
    for step, at in zip((None, *question.steps), (0.0, *answer.times), strict=True):
        if step is not None:
            follower.program(parse_save(step.servers), at)
        for _ in question.packets if step is None else step.packets:
            _judge_packet(follower, chances, result, everything, number, next(lines))
            number += 1
    result.seconds_kernel, result.seconds_emulator = answer.seconds, now() - began
    result.disagreements += [Disagreement("chance", text) for text in chances.unlikely()]
    if question.mode == "sequence" and not result.disagreements and not result.unknown and not follower.lost:
        result.disagreements += _at_the_end(follower, answer)
    _count_rules(result, follower, answer)
    return result


def _judge_packet(follower: Follower, chances: Chances, result: Result, packets: Sequence[Packet], number: int, line: Line) -> None:
    packet, did = packets[number], line["outcomes"][0] if line["outcomes"] else None
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


def _at_the_end(follower: Follower, answer: Answer) -> list[Disagreement]:
    """Counters and connections; once a packet went another way they say nothing new. Where rules count per time, a jiffy decides their counters."""
    found = []
    met = {place: (follower.least[place], follower.most[place]) for place in follower.most}
    for place, count in (answer.counters or {}).items():
        least, most = met.get(place, (0, 0))
        if not least <= count <= most and (place.family, place.table) not in follower.rated:
            family, table, chain, number = place
            where = f"IPv{family} {table} {chain} {f'rule {number}' if number is not None else 'policy'}"
            said = str(least) if least == most else f"{least} to {most}"
            found.append(Disagreement("counter", f"{where}: the emulator counted {said} packets, the kernel {count}"))
    differences = [
        [*connection_differences(netns.kernel.conntrack, answer.connections, answer.at), *ipvs_differences(netns, answer.ipvs, answer.at)]
        for netns in follower.netns_of_worlds()
    ]
    found += [Disagreement("connection", text) for text in min(differences, key=len)]
    return found


def _count_rules(result: Result, follower: Follower, answer: Answer) -> None:
    """Which rules were met, by the kernel's counters where it told them, else by the emulator's."""
    if answer.counters is not None:
        rules = {place: count for place, count in answer.counters.items() if place[3] is not None}
    else:
        rules = {place: follower.most[place] for place in places_of(follower.state)}
    result.rules = len(rules)
    result.unreached = [place for place, count in rules.items() if not count]


def places_of(state: NodeState) -> Iterator[Place]:
    """Every rule of a node."""
    for family in (4, 6):
        for table in state.xtables(family).tables.values():
            for name, chain in table.chains.items():
                yield from (Place(family, table.name, name, number) for number in range(1, len(chain.rules) + 1))


def _history(number: int, packets: Sequence[Packet]) -> str:
    """The packets that this one is a reply to, or nothing would be clear."""
    by_id = {one.id: one for one in packets[max(0, number - 64) : number]}
    lines: list[str] = []
    cause = by_id.get(packets[number].reply_to or -1)
    while cause is not None and len(lines) < 8:
        lines.insert(0, f"  after {cause.line()}\n")
        cause = by_id.get(cause.reply_to) if cause.reply_to is not None else None
    return "".join(lines)

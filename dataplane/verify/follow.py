"""The emulator's side: what could become of each packet, after what the kernel did with those before.

At every random decision the emulator goes on as the kernel did. Where the kernel's outcome does not tell which way it went (a packet
that is dropped behind a random choice), every state that fits is kept, until a later packet tells: these are the *worlds*. A clock
tick between sending and arriving is treated alike, where rules count per second.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any, Final, NamedTuple

from dataplane.adapters.lab.dialogue import Script, Sent
from dataplane.adapters.lab.lines import Line, Outcome, Packet
from dataplane.engine.choices import Choices
from dataplane.engine.conntrack import ConnTable
from dataplane.engine.netns import Netns, Possibility
from dataplane.packet import Packet as Modelled
from dataplane.rules.ipvs import IPVS
from dataplane.rules.nodestate import NodeState
from dataplane.text.iptables import written
from dataplane.trace import PolicyEvent, RuleEvent, RuleRef, Trace
from dataplane.verify.compare import agrees, said
from dataplane.verify.modelled import modelled

_MOST_WORLDS: Final = 16
_JIFFY: Final = 0.01  # seconds: the kernel's clock is as coarse as that, and nobody knows when it ticks
_RATES: Final = re.compile(r"-m (?:limit|hashlimit) ")
_STRIDE: Final = 7919  # every packet draws another port, as in the kernel: what is told apart there is told apart here
_ROUND: Final = 64512  # ports in the usual range: so many numbers further is the same port
_DRAWS: Final = 8  # random ports that one packet may ask for


class World(NamedTuple):
    """A state that agrees with everything that the kernel has done so far."""

    conntrack: ConnTable
    memory: dict[Hashable, Any]  # Any: values are Memory


class Followed(NamedTuple):
    """One packet: every way that it could go, with its chance, and those (``traces``) that the kernel may have gone.

    ``fits``: the kernel did something that the emulator holds possible. ``unknown``: the emulator claims nothing.
    """

    ways: tuple[tuple[Fraction, Trace], ...] = ()
    traces: tuple[Trace, ...] = ()
    fits: bool = True
    unknown: bool = False

    def outcomes(self) -> list[Outcome]:
        """The outcomes that the emulator holds possible; those that look the same are one."""
        found: dict[str, tuple[Fraction, Outcome]] = {}
        for chance, trace in self.ways:
            outcome = said(trace)
            key = repr(outcome)
            found[key] = (found[key][0] if key in found else Fraction(0)) + chance, outcome
        return [{**outcome, "probability": str(chance)} for chance, outcome in found.values()]


class _Cause(NamedTuple):
    sent: Sent
    outcome: Outcome


class _Walks(NamedTuple):
    """All ways that a packet could go, and those that the kernel may have gone."""

    everything: list[tuple[World, Possibility]]
    fitting: list[tuple[World, Possibility]]


class Follower:
    """``fresh``: every conversation, that is an opening and the replies to it, begins from the state as it was given."""

    def __init__(self, netns: Netns, *, fresh: bool = False) -> None:
        self._netns = netns
        self._fresh = fresh
        self._scripts: dict[int, Script] = {}
        self._roots: dict[int, int] = {}
        self._worlds: dict[int, list[World]] = {}
        #: Tables (family, name) with rules that count per time: there a jiffy decides which rule is met.
        self.rated = frozenset(place for place, text in _texts_of(netns.state) if _RATES.search(text))
        self._begin = World(netns.kernel.conntrack, netns.kernel.memory)
        self._causes: dict[int, _Cause] = {}
        #: How often each rule was met: at least, and at most (where the kernel's way is not known for certain).
        self.least: Counter[RuleRef] = Counter()
        self.most: Counter[RuleRef] = Counter()
        self._drawn = 0
        self.lost = False  # states had to be given up: what was counted says nothing any more

    @property
    def state(self) -> NodeState:
        """The node that is followed."""
        return self._netns.state

    def netns_of_worlds(self) -> Iterator[Netns]:
        """The namespace in each of the states that agree with everything so far, of a sequence."""
        for world in self._worlds.get(0, [self._begin]):
            self._netns.kernel.conntrack, self._netns.kernel.memory = world
            yield self._netns

    def program(self, ipvs: IPVS, now: float) -> None:
        """Other virtual servers from now on."""
        for netns in self.netns_of_worlds():
            netns.kernel.now = now
            netns.program_ipvs(ipvs)

    def follow(self, packet: Packet, kernel: Line) -> Followed:
        """What the emulator says of a packet of which the kernel's side is known."""
        root = self._root(packet)
        sent = self._sent(packet, self._scripts.setdefault(root, Script()))
        if sent is None or not kernel["outcomes"]:
            return Followed()
        worlds = self._worlds.get(root) or [_copy(self._begin) if self._fresh else self._begin]
        did = kernel["outcomes"][0]
        self._drawn = (self._drawn + _STRIDE) % 65536
        at = kernel.get("at", 0.0)
        moments = (at, kernel.get("until", at), *((at + _JIFFY, max(0.0, at - _JIFFY)) if self.rated else ()))
        for moment in dict.fromkeys(moments):
            before = self._walks(sent, worlds, moment, did)
            fitting = before.fitting
            if fitting:
                break
        chosen = fitting or before.everything[:1]
        self._worlds[root] = self._settled(chosen)
        self._count(chosen)
        first = chosen[0][1]
        fits = bool(fitting) and did["packet"] is not None and first.trace.verdict != "unknown"
        self._causes[packet.id] = _Cause(sent, _with_ports(first.trace) if fits else did)
        ways = tuple((one.probability / len(worlds), one.trace) for _, one in before.everything)
        unknown = any(trace.verdict == "unknown" for _, trace in ways)
        given_up = self.lost and not fitting  # it may well fit a state that was not kept
        return Followed(ways, tuple(one.trace for _, one in chosen), bool(fitting) or given_up, unknown or given_up)

    # ------------------------------------------------------------------ packets

    def _root(self, packet: Packet) -> int:
        if not self._fresh:
            return 0
        root = packet.id if packet.reply_to is None else self._roots.get(packet.reply_to, packet.id)
        self._roots[packet.id] = root
        return root

    def _sent(self, packet: Packet, script: Script) -> Sent | None:
        if packet.reply_to is None:
            return script.opening(packet)
        cause = self._causes.get(packet.reply_to)
        return script.reply(packet, cause.sent, cause.outcome) if cause is not None else None

    # ------------------------------------------------------------------ worlds

    def _walks(self, sent: Sent, worlds: Sequence[World], now: float, did: Outcome) -> _Walks:
        packet, indev, netns = modelled(sent), sent.indev, self._netns
        netns.kernel.now = now

        scope = self._scope(packet) if indev is None else ""

        def walk(choices: Choices) -> Trace:
            if indev is None:
                return netns.send(packet, choices=choices, scope=scope)
            return netns.receive(packet, indev, choices=choices)

        found, exactly = _Walks([], []), list[bool]()
        for world in worlds:
            netns.kernel.conntrack, netns.kernel.memory = world
            ways = list(netns.possibilities(walk, [self._drawn] * _DRAWS))
            found.everything.extend((world, one) for one in ways)
            for place, one in enumerate(ways):
                if agrees(one.trace, did):
                    drawn = self._as_drawn(walk, one, did, place)
                    found.fitting.append((world, drawn or one))
                    exactly.append(drawn is not None)
        if any(exactly):  # what has the kernel's own ports says more than what may have any
            found.fitting[:] = [fitting for fitting, exact in zip(found.fitting, exactly, strict=True) if exact]
        return found

    def _as_drawn(self, walk: Callable[[Choices], Trace], one: Possibility, did: Outcome, place: int) -> Possibility | None:
        """The possibility with the random ports that the kernel drew, where what came of them was seen; None where none leads there.

        Ports are counted from the start of their range, round and round: as many numbers further is as many ports further.
        """
        seen = did["packet"]
        if seen is None or not (one.trace.random_sport or one.trace.random_dport):
            return one
        sport, dport = _ports(one.trace)
        steps = [(seen["dport"] or 0) - dport] if one.trace.random_dport else []
        steps += [(seen["sport"] or 0) - sport] if one.trace.random_sport else []
        # A port that may be any need not have been drawn for this packet; and one that was drawn need not have stayed (of ICMP).
        for round_off, numbers in product((0, _ROUND, -_ROUND), (steps, steps[1:], [0, *steps])) if any(steps) else ():
            again = list(self._netns.possibilities(walk, [self._drawn + step + (round_off if step else 0) for step in numbers]))[place]
            if _ports(again.trace) == (seen["sport"], seen["dport"] if not again.trace.packet.is_icmp else 0):
                return again
        return None if any(steps) else one

    def _scope(self, packet: Modelled) -> str:
        """The lab sends to a link-local address by the device that has the source."""
        owner = self._netns.kernel.fib.owner(6, packet.saddr) if packet.family == 6 else None
        return owner.name if owner is not None else ""

    def _settled(self, chosen: Sequence[tuple[World, Possibility]]) -> list[World]:
        """The states after the packet, the likeliest first; one of each kind."""
        if len(chosen) == 1:
            return [self._settle(*chosen[0])]
        kinds: dict[object, tuple[World, Possibility]] = {}
        for world, one in sorted(chosen, key=lambda pair: -pair[1].probability):
            kinds.setdefault((id(world.conntrack), _kind(one)), (world, one))
        kept = list(kinds.values())[:_MOST_WORLDS]
        self.lost = self.lost or len(kinds) > _MOST_WORLDS
        left = Counter(id(world.conntrack) for world, _ in kept)
        settled = []
        for world, one in kept:
            left[id(world.conntrack)] -= 1
            settled.append(self._settle_copy(world, one) if left[id(world.conntrack)] else self._settle(world, one))
        return settled

    def _settle(self, world: World, one: Possibility) -> World:
        self._netns.kernel.conntrack, self._netns.kernel.memory = world
        self._netns.settle(one)
        return World(self._netns.kernel.conntrack, self._netns.kernel.memory)

    @staticmethod
    def _settle_copy(world: World, one: Possibility) -> World:
        """The state after the packet, while the state before is still needed."""
        conntrack, memory = _copy(world)
        return World(one.conntrack.settle(conntrack), one.memory.settle(memory))

    # ------------------------------------------------------------------ counters

    def _count(self, chosen: Iterable[tuple[World, Possibility]]) -> None:
        counts = [_rules(one.trace) for _, one in chosen]
        if len(counts) == 1:
            self.least.update(counts[0])
            self.most.update(counts[0])
            return
        least, most = counts[0].copy(), counts[0].copy()
        for count in counts[1:]:
            least &= count
            most |= count
        self.least.update(least)
        self.most.update(most)


def _texts_of(state: NodeState) -> Iterator[tuple[tuple[int, str], str]]:
    for xtables in (state.iptables, state.ip6tables):
        for table in xtables.tables.values():
            yield (xtables.family, table.name), written(xtables, table)


def _copy(world: World) -> World:
    return World(world.conntrack.fork(), {key: value.copy() for key, value in world.memory.items()})


def _kind(one: Possibility) -> object:
    """What tells the states after two possibilities apart; states that are told apart though equal cost time only."""
    return pickle.dumps((one.conntrack.changes(), dict(one.memory)))


def _rules(trace: Trace) -> Counter[RuleRef]:
    found = Counter(event.ref for event in trace.events if isinstance(event, RuleEvent | PolicyEvent))
    for reply in trace.replies:
        found.update(_rules(reply))
    return found


def _with_ports(trace: Trace) -> Outcome:
    """The outcome with the ports that the engine itself goes on with, where it says that they may be any."""
    outcome = said(trace)
    seen = outcome["packet"]
    assert seen is not None
    sport, dport = _ports(trace)
    return {**outcome, "packet": {**seen, "sport": sport, "dport": dport}}


def _ports(trace: Trace) -> tuple[int, int]:
    """The packet's ports at its end; of ICMP its identifier."""
    packet = trace.packet
    return (packet.icmp_id, 0) if packet.is_icmp else (packet.sport, packet.dport)

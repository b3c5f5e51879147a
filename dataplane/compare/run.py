"""Every probe on every variant; the differences, grouped by what they have in common. Knows no mode: a variant is a name and a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dataplane.compare.fates import Outcome, Step, outcomes, parting
from dataplane.compare.known import Case, known_issue
from dataplane.compare.probes import Probe, Subject, probes
from dataplane.engine.netns import Netns
from dataplane.proxy.network import addresses_of
from dataplane.rules.nodestate import NodeState


class Variant(NamedTuple):
    """``mode`` is by which the catalogue of known differences knows it, ``name`` what the user calls it."""

    name: str
    mode: str
    netns: Netns


class Difference(NamedTuple):
    """A probe with more than one fate: by variant's name all outcomes, and the first steps at which two walks part (by name, too)."""

    probe: Probe
    outcomes: Mapping[str, tuple[Outcome, ...]]
    parts: Mapping[str, Step | None]
    known: str


@dataclass(slots=True)
class Comparison:
    """Everything that was asked and everything that differs."""

    variants: tuple[str, ...]
    probes: int = 0
    services: int = 0
    differences: list[Difference] = field(default_factory=list)


def compare(variants: Sequence[Variant], subjects: Sequence[Subject]) -> Comparison:
    """Asks all of them. Every probe begins from the variants' states as they are, which stay so."""
    found = Comparison(tuple(one.name for one in variants))
    for subject in subjects:
        ports = {port.name: port for port in subject.ports}
        addresses = frozenset(address for node in subject.cluster.nodes for family, address in addresses_of(node) if family == subject.family)
        found.services += len({(port.namespace, port.service) for port in subject.ports})
        for probe in probes(subject):
            found.probes += 1
            seen = {one.name: tuple(outcomes(one.netns, probe)) for one in variants}
            if len({frozenset(outcome.fate for outcome in each) for each in seen.values()}) > 1:
                case = Case(probe, ports.get(probe.frontend.service), {one.mode: seen[one.name] for one in variants}, addresses)
                found.differences.append(Difference(probe, seen, _parts(seen), known_issue(case)))
    return found


def _parts(seen: Mapping[str, tuple[Outcome, ...]]) -> dict[str, Step | None]:
    """Of the first variant and the first other that differs from it: two walks to the same endpoint, if there are such."""
    names = list(seen)
    first = seen[names[0]]
    other = next(name for name in names[1:] if {one.fate for one in seen[name]} != {one.fate for one in first})
    pairs = [(a, b) for a in first for b in seen[other] if a.fate != b.fate]
    a, b = next((pair for pair in pairs if pair[0].fate.where == pair[1].fate.where), pairs[0])
    left, right = parting(a.trace, b.trace)
    return {names[0]: left, other: right}


class Group(NamedTuple):
    """Differences that are one to a reader: the same kind of frontend, the same fates in general words, the same known issue."""

    kind: str
    fates: Mapping[str, tuple[str, ...]]
    known: str
    differences: tuple[Difference, ...]


def groups(comparison: Comparison) -> list[Group]:
    """The groups, the largest of what no catalogue knows first."""
    found: dict[object, list[Difference]] = {}
    for one in comparison.differences:
        found.setdefault((one.probe.frontend.kind, one.known, tuple((name, _general(each)) for name, each in one.outcomes.items())), []).append(one)
    made = [
        Group(several[0].probe.frontend.kind, {name: _general(each) for name, each in several[0].outcomes.items()}, several[0].known, tuple(several))
        for several in found.values()
    ]  # fmt: skip
    return sorted(made, key=lambda group: (bool(group.known), -len(group.differences)))


def _general(several: tuple[Outcome, ...]) -> tuple[str, ...]:
    return tuple(sorted({one.fate.general for one in several}))


def netns_of(state: NodeState) -> Netns:
    """A node to be asked."""
    return Netns(state)

"""A comparison as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from dataplane.compare.probes import VANTAGES
from dataplane.compare.run import Comparison, Difference, Group, groups
from dataplane.packet import describe

_SHOWN: Final = 6


def text(comparison: Comparison, *, every: bool = False) -> Iterator[str]:
    """The table of differences for people; ``every``: all packets of each group instead of one."""
    names = comparison.variants
    width = max(map(len, names))
    count = len(comparison.differences)
    yield f"{_counted(comparison.probes, 'packet')} to {_counted(comparison.services, 'Service')}, {' against '.join(names)}: {count or 'none'} end differently"
    for number, group in enumerate(groups(comparison), 1):
        yield ""
        yield f"{number}. {group.kind}: {_counted(len(group.differences), 'packet')} from {_listed(_vantages(group))}"
        for name in names:
            yield f"   {name:<{width}}  {' | '.join(group.fates[name])}"
        yield f"   known: {group.known}" if group.known else "   known: no"
        for one in group.differences if every else group.differences[:1]:
            yield from _example(one, width)
        services = sorted({one.probe.frontend.service for one in group.differences})
        more = f" and {len(services) - _SHOWN} more" if len(services) > _SHOWN else ""
        yield f"   Services: {', '.join(services[:_SHOWN])}{more}"


def _example(one: Difference, width: int) -> Iterator[str]:
    yield f"   {describe(one.probe.packet) if one.probe.packet.saddr else f'{one.probe.frontend} sent by this node'} ({one.probe.frontend.service}, from {one.probe.vantage})"
    for name, several in one.outcomes.items():
        yield f"     {name:<{width}}  {' | '.join(str(outcome.fate) for outcome in several)}"
    yield "     they part at"
    for name, step in one.parts.items():
        yield f"     {name:<{width}}  {step if step is not None else 'its end, a step before'}"


def _vantages(group: Group) -> list[str]:
    seen = {one.probe.vantage for one in group.differences}
    return [vantage for vantage in VANTAGES if vantage in seen]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def as_json(comparison: Comparison) -> dict[str, Any]:  # Any: JSON
    """Everything, a difference an entry."""
    return {
        "variants": list(comparison.variants), "packets": comparison.probes, "services": comparison.services,
        "differences": [
            {
                "kind": one.probe.frontend.kind, "service": one.probe.frontend.service, "frontend": str(one.probe.frontend), "vantage": one.probe.vantage,
                "in": one.probe.indev, "packet": describe(one.probe.packet), "known": one.known or None,
                "outcomes": {name: [str(outcome.fate) for outcome in several] for name, several in one.outcomes.items()},
                "parts": {name: str(step) if step is not None else None for name, step in one.parts.items()},
            }
            for one in comparison.differences
        ],
    }  # fmt: skip

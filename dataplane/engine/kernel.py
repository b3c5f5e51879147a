"""Kernel: the part of a network namespace that matches and targets may ask or change.

The rule set itself never changes while packets walk; everything that does change is here and can be forked, so that a walk can
be replayed from the same state. ``memory`` belongs to the stateful matches (recent, limit, statistic nth, quota …): each keeps
one value under a key of its own, with a ``copy()`` method; ``memory_of`` makes it on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dataplane.engine.choices import Choices, Scripted
from dataplane.engine.ipset import Sets
from dataplane.trace import ChoiceEvent, Event

if TYPE_CHECKING:
    from dataplane.engine.conntrack import ConnTable
    from dataplane.engine.fib import Fib
    from dataplane.rules.ipset import IPSet
    from dataplane.rules.network import Link
    from dataplane.rules.sysctls import Sysctls


class Memory(Protocol):
    """What a stateful match remembers."""

    def copy(self) -> Any:  # Any: each match knows its own type
        """An independent copy."""


M = TypeVar("M", bound=Memory)


class MemoryLayer(dict[Hashable, Any]):  # Any: values are Memory; None hides what was forgotten
    """Memory over other memory, which stays as it is: a value is copied when it is first asked for. ``settle`` puts it down."""

    def __init__(self, under: dict[Hashable, Any]) -> None:
        super().__init__()
        self.under = under

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value, this layer's own copy."""
        if key not in self:
            below = self.under.get(key)
            if below is None:
                return default
            self[key] = below.copy()
        value = self[key]
        return default if value is None else value

    def __delitem__(self, key: Hashable) -> None:
        self[key] = None

    def settle(self, onto: dict[Hashable, Any] | None = None) -> dict[Hashable, Any]:
        """Puts what changed into the memory below (or a copy of it, ``onto``), which is returned."""
        below = onto if onto is not None else self.under
        for key, value in self.items():
            if value is not None:
                below[key] = value
            else:
                below.pop(key, None)
        return below


@dataclass(slots=True)
class Kernel:
    """``now`` is the virtual clock in seconds; ``wall`` the Unix time that ``now == 0`` stands for (-m time).

    ``hears_itself``: copies of the node's own broadcasts come back to it (not where a watching chain behind POSTROUTING takes them away).
    ``assume`` answers what is not modelled: True or False lets unknown matches match or not; None makes them Unknown.
    """

    fib: Fib
    conntrack: ConnTable
    sysctls: Sysctls
    links: Mapping[str, Link]
    ipsets: Mapping[str, IPSet]
    choices: Choices = field(default_factory=Scripted)
    now: float = 0.0
    wall: float = 0.0
    memory: dict[Hashable, Any] = field(default_factory=dict)  # values are Memory
    hears_itself: bool = True
    assume: bool | None = None
    notes: list[str] = field(default_factory=list)  # what was assumed on the way of the packet at hand
    events: list[Event] = field(default_factory=list)  # of the packet at hand
    sets: Sets = field(init=False)
    visited: int = 0  # rules that the kernel looked at for the packet at hand

    def __post_init__(self) -> None:
        self.sets = Sets(self, self.ipsets)

    def choice(self, weights: Sequence[int], what: str) -> int:
        """Asks ``choices`` and notes the answer among the events."""
        index = self.choices.pick(weights, what)
        self.events.append(ChoiceEvent(what, weights[index], sum(weights)))
        return index

    def memory_of(self, key: Hashable, make: Callable[[], M]) -> M:
        """The value under ``key``, made on first use."""
        value = self.memory.get(key)
        if value is None:
            value = self.memory[key] = make()
        return value

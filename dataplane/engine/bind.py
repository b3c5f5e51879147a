"""What a match or target is made with (Bind), and the shapes of the functions they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dataplane.engine.hooks import HookState, Verdict
from dataplane.engine.kernel import Kernel
from dataplane.engine.skb import Skb
from dataplane.trace import RuleRef

Matcher = Callable[[Skb, HookState], bool]
#: None means XT_CONTINUE: go on with the next rule.
TargetFunction = Callable[[Skb, HookState], Verdict | None]


class Bind(NamedTuple):
    """``rule`` is the key of per-rule memory; state is reached through ``kernel`` at call time, since it may be swapped."""

    kernel: Kernel
    family: int
    rule: RuleRef


class HotDrop(Exception):
    """A match drops the packet outright (par->hotdrop)."""

"""What the kernel does with packets on a node made for them alone."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.adapters.lab.asking import Question, ask
from dataplane.adapters.lab.lines import Line, Packet
from dataplane.adapters.lab.node import Flavour
from dataplane.adapters.lab.referee import Mode
from dataplane.adapters.lab.snapshot import Snapshot


def kernel_lines(snapshot: Snapshot, packets: Sequence[Packet], mode: Mode = "sequence", flavour: Flavour | None = None) -> list[Line]:
    return ask(Question(snapshot, list(packets), mode, flavour)).lines

"""The emulator against the kernel, over rule sets that nobody here wrote.

Every golden's iptables mode and every dump of the corpus gets a plain network and packets aimed at its rules. What the kernel
did must be among what the emulator says could happen. DATAPLANE_REFEREE_PACKETS says how many packets each rule set gets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import corpus, emulator
from tests.kernel.aim import packets_for
from tests.kernel.duel import judge, kernel_lines
from tests.kernel.snapshot import Snapshot
from tests.kernel.world import RefereeError

pytestmark = pytest.mark.usefixtures("kernel")

_COUNT: Final = int(os.environ.get("DATAPLANE_REFEREE_PACKETS", "400"))
_SHOWN: Final = 5
#: Dumps that the real tool does not load even when their line ends are repaired.
_BROKEN: Final = frozenset({"openwrt-aa.v4.save"})


def _cases(paths: list[Path]) -> list[object]:
    """One parameter a path, or one that skips with the reason."""
    if not paths:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no rule sets in {corpus.SHARED}"), id="none")]
    return [pytest.param(path, id=path.name) for path in paths]


@pytest.mark.parametrize("case", _cases(corpus.goldens()))
def test_golden(case: Path) -> None:
    _agree(corpus.snapshot_of(case), seed=1)


@pytest.mark.parametrize("dump", _cases(corpus.dumps()))
def test_dump(dump: Path) -> None:
    snapshot = corpus.snapshot_of(dump)
    if dump.name in _BROKEN:
        with pytest.raises(RefereeError):
            kernel_lines(snapshot, [])
        return
    _agree(snapshot, seed=1)


def _agree(snapshot: Snapshot, seed: int) -> None:
    packets = packets_for(snapshot, _COUNT, seed)
    kernel = kernel_lines(snapshot, packets)
    assert sum(bool(line["outcomes"]) for line in kernel) > _COUNT / 2
    if not emulator.exists():
        pytest.skip("the kernel has answered; there is no emulator yet to compare with")
    result = judge(packets, emulator.ask(snapshot, packets), kernel)
    assert not result.differences, f"{len(result.differences)} of {_COUNT}\n" + "\n".join(result.differences[:_SHOWN])

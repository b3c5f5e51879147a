"""The emulator against the kernel: what the kernel did must be among what the emulator says could happen.

Rule sets: the project's own, and, where ../shared is there, every golden's iptables mode and every dump of the corpus. Each gets
a plain network if it has none, and packets aimed at its rules. DATAPLANE_REFEREE_PACKETS says how many each rule set gets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import corpus
from dataplane.verify.aim import packets_for
from dataplane.verify.run import verify
from dataplane.verify.plausible import completed
from dataplane.adapters.lab.asking import Question, ask
from dataplane.adapters.lab.referee import Mode
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.errors import LabError

pytestmark = pytest.mark.usefixtures("kernel")

_COUNT: Final = int(os.environ.get("DATAPLANE_REFEREE_PACKETS", "400"))
_SHOWN: Final = 5
#: The shape of kube-proxy's rules: dispatch, a random choice, NAT both ways, a mark, a refusal.
_SMALL: Final = """*filter
:SERVICES - [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -j SERVICES
-A OUTPUT -j SERVICES
-A SERVICES -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*nat
:SERVICES - [0:0]
:ONE - [0:0]
:OTHER - [0:0]
-A PREROUTING -j SERVICES
-A OUTPUT -j SERVICES
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
-A SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.50000000000 -j ONE
-A SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j OTHER
-A ONE -j MARK --set-xmark 0x4000/0x4000
-A ONE -p tcp -j DNAT --to-destination 10.244.1.5:8080
-A OTHER -s 10.244.2.0/24 -i cni0 -j MARK --set-xmark 0x4000/0x4000
-A OTHER -p tcp -j DNAT --to-destination 10.244.2.5:8080
COMMIT
"""


def _cases(paths: list[Path], where: Path) -> list[object]:
    """One parameter a path, or one that skips with the reason."""
    if not paths:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no rule sets in {where.name}/"), id="none")]
    return [pytest.param(path, id=str(path.relative_to(where))) for path in paths]


@pytest.mark.parametrize("mode", ["sequence", "fresh"])
def test_small(mode: Mode) -> None:
    _agree(completed(Snapshot(iptables=_SMALL)), mode)


@pytest.mark.parametrize("directory", _cases(corpus.rulesets(), corpus.RULESETS))
def test_ruleset(directory: Path) -> None:
    _agree(corpus.snapshot_of(directory))


@pytest.mark.parametrize("case", _cases(corpus.goldens(), corpus.SHARED))
def test_golden(case: Path) -> None:
    _agree(corpus.snapshot_of(case))


@pytest.mark.parametrize("dump", _cases(corpus.dumps(), corpus.SHARED))
def test_dump(dump: Path) -> None:
    snapshot = corpus.snapshot_of(dump)
    if dump.name in corpus.BROKEN:
        with pytest.raises(LabError):
            ask(Question(snapshot, []))
        return
    _agree(snapshot)


def _agree(snapshot: Snapshot, mode: Mode = "sequence", seed: int = 1) -> None:
    result = verify(snapshot, packets_for(snapshot, _COUNT, seed), mode=mode)
    assert result.verdicts["unsent"] < _COUNT / 2
    texts = [f"{one.kind}: {one.text}" for one in result.disagreements]
    assert not texts, f"{len(texts)} of {_COUNT}\n" + "\n".join(texts[:_SHOWN])

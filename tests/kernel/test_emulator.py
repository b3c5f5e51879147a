"""The emulator against the kernel: what the kernel did must be among what the emulator says could happen.

Rule sets: the project's own, and, where ../shared is there, every golden's iptables mode and every dump of the corpus. Each
gets a plain network if it has none, and packets aimed at its rules; DATAPLANE_REFEREE_PACKETS says how many. And rule sets
that are invented: DATAPLANE_REFEREE_INVENTED says how many.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import corpus, emulator
from tests.kernel.aim import packets_for
from tests.kernel.duel import judge, kernel_lines
from tests.kernel.invent import invented
from tests.kernel.plausible import completed
from tests.kernel.referee import Mode
from tests.kernel.snapshot import Snapshot
from tests.kernel.world import RefereeError

pytestmark = pytest.mark.usefixtures("kernel")

_COUNT: Final = int(os.environ.get("DATAPLANE_REFEREE_PACKETS", "400"))
_INVENTED: Final = int(os.environ.get("DATAPLANE_REFEREE_INVENTED", "20"))
_SHOWN: Final = 5
#: Dumps that the real tool does not load even when what publishing did to them is undone.
_BROKEN: Final = frozenset({"openwrt-aa.v4.save"})
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


def test_the_command_says_what_the_engine_says() -> None:
    snapshot = completed(Snapshot(iptables=_SMALL))
    packets = packets_for(snapshot, _COUNT, 2, replies=False)
    kernel = kernel_lines(snapshot, packets, "fresh")
    _need_emulator()
    result = judge(packets, emulator.ask(snapshot, packets), kernel)
    assert not result.differences, "\n".join(result.differences[:_SHOWN])


@pytest.mark.parametrize("seed", range(1, _INVENTED + 1))
def test_invented(seed: int) -> None:
    _agree(invented(seed), seed=seed)


@pytest.mark.parametrize("directory", _cases(corpus.rulesets(), corpus.RULESETS))
def test_ruleset(directory: Path) -> None:
    _agree(corpus.snapshot_of(directory))


@pytest.mark.parametrize("case", _cases(corpus.goldens(), corpus.SHARED))
def test_golden(case: Path) -> None:
    _agree(corpus.snapshot_of(case))


@pytest.mark.parametrize("dump", _cases(corpus.dumps(), corpus.SHARED))
def test_dump(dump: Path) -> None:
    snapshot = corpus.snapshot_of(dump)
    if dump.name in _BROKEN:
        with pytest.raises(RefereeError):
            kernel_lines(snapshot, [])
        return
    _agree(snapshot)


def _agree(snapshot: Snapshot, mode: Mode = "sequence", seed: int = 1) -> None:
    packets = packets_for(snapshot, _COUNT, seed)
    kernel = kernel_lines(snapshot, packets, mode)
    assert sum(bool(line["outcomes"]) for line in kernel) > _COUNT / 2
    _need_emulator()
    result = judge(packets, emulator.follow(snapshot, packets, kernel, mode), kernel)
    assert not result.differences, f"{len(result.differences)} of {_COUNT}\n" + "\n".join(result.differences[:_SHOWN])


def _need_emulator() -> None:
    if not emulator.exists():
        pytest.skip("the kernel has answered; there is no emulator yet to compare with")

"""What a machine must have to ask its kernel, and what to do where it has not: skip, or fail if somebody insists."""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import Final

import pytest

from tests.kernel.lines import Packet
from tests.kernel.node import standing
from tests.kernel.referee import Referee
from tests.kernel.snapshot import Snapshot
from tests.kernel.world import RefereeError

INSIST: Final = "DATAPLANE_REQUIRE_REFEREE"
_TOOLS: Final = (
    "ip", "nft", "ipset", "nfacct", "iptables-legacy-restore", "ip6tables-legacy-restore", "iptables-nft-restore",
    "ip6tables-nft-restore",
)  # fmt: skip
_RULES: Final = """*nat
-A OUTPUT -p udp -j DNAT --to-destination 127.0.0.2
COMMIT
*filter
-A INPUT -m conntrack --ctstate NEW -j ACCEPT
COMMIT
"""


@cache
def missing() -> str | None:
    """Why this machine's kernel cannot be asked, or None."""
    if os.geteuid():
        return "the kernel is only asked by root"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    try:
        with standing(Snapshot(iptables=_RULES)) as node:
            referee = Referee(node)
            (line,) = referee.send([Packet(1, None, "127.0.0.1", "127.0.0.1", "udp", 1000, 53)])
            referee.close()
    except (RefereeError, OSError) as error:
        return f"this kernel cannot be asked: {error}"
    seen = line["outcomes"][0]["packet"]
    return None if seen and seen["dst"] == "127.0.0.2" else f"this kernel cannot be asked: a first packet came to {line}"


def require() -> None:
    """Skip the test that asks for the kernel, with the reason; fail it where the environment insists."""
    reason = missing()
    if reason and os.environ.get(INSIST) == "1":
        pytest.fail(f"{INSIST}=1, but {reason}")
    if reason:
        pytest.skip(reason)

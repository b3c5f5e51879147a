"""What a machine must have to ask its kernel."""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import Final

from dataplane.adapters.lab.lines import Packet
from dataplane.adapters.lab.node import standing
from dataplane.adapters.lab.referee import Referee
from dataplane.adapters.lab.snapshot import Snapshot
from dataplane.errors import LabError

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
        return "the kernel is only asked by root (network namespaces, raw sockets)"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: iproute2 iptables nftables ipset nfacct)"
    try:
        with standing(Snapshot(iptables=_RULES)) as node:
            referee = Referee(node)
            (line,) = referee.send([Packet(1, None, "127.0.0.1", "127.0.0.1", "udp", 1000, 53)])
            referee.close()
    except (LabError, OSError) as error:
        return f"this kernel cannot be asked: {error}"
    seen = line["outcomes"][0]["packet"]
    return None if seen and seen["dst"] == "127.0.0.2" else f"this kernel cannot be asked: a first packet came to {line}"

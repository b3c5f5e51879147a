"""A snapshot directory as the tools wrote it: JSON lists and texts, with nothing read into them.

Deliberately not the emulator's own reader: the referee must not share the other side's mistakes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]  # Any: JSON as the tools print it

_NFACCT: Final = re.compile(r"--nfacct-name\s+(\S+)")
_JSON: Final = {
    "links": "ip-addr.json", "routes4": "ip-route.json", "routes6": "ip-route6.json", "rules4": "ip-rule.json",
    "rules6": "ip-rule6.json",
}  # fmt: skip
_TEXT: Final = {
    "iptables": "iptables-save.txt", "ip6tables": "ip6tables-save.txt", "ipset": "ipset-save.txt", "conntrack": "conntrack.txt",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """None stands for a file that is missing; texts are then empty."""

    links: list[Json] | None = None
    routes4: list[Json] | None = None
    routes6: list[Json] | None = None
    rules4: list[Json] | None = None
    rules6: list[Json] | None = None
    sysctls: dict[str, str] = field(default_factory=dict)
    iptables: str = ""
    ip6tables: str = ""
    ipset: str = ""
    conntrack: str = ""

    def nfacct_names(self) -> list[str]:
        """The accounting objects that rules name; the kernel refuses a rule whose object does not exist."""
        return sorted({name.strip('"') for name in _NFACCT.findall(self.iptables + self.ip6tables)})


def read(directory: Path) -> Snapshot:
    """The snapshot in a directory. FileNotFoundError if there is no such directory."""
    names = {path.name for path in directory.iterdir()}
    values: dict[str, Any] = {}  # Any: keyword arguments of Snapshot
    for key, name in _JSON.items():
        if name in names:
            values[key] = [entry for entry in json.loads((directory / name).read_text() or "[]") if entry]
    for key, name in _TEXT.items():
        if name in names:
            values[key] = (directory / name).read_text()
    if "sysctl.txt" in names:
        values["sysctls"] = parse_sysctls((directory / "sysctl.txt").read_text())
    return Snapshot(**values)


def write(directory: Path, snapshot: Snapshot) -> None:
    """Make a snapshot directory; what is None or empty gets no file."""
    directory.mkdir(parents=True, exist_ok=True)
    for key, name in _JSON.items():
        if getattr(snapshot, key) is not None:
            (directory / name).write_text(json.dumps(getattr(snapshot, key), indent=1) + "\n")
    for key, name in _TEXT.items():
        if getattr(snapshot, key):
            (directory / name).write_text(getattr(snapshot, key))
    if snapshot.sysctls:
        lines = [f"{key} = {value}\n" for key, value in snapshot.sysctls.items()]
        (directory / "sysctl.txt").write_text("".join(lines))


def parse_sysctls(text: str) -> dict[str, str]:
    """``sysctl -a`` lines; those without "=" (its complaints) are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}

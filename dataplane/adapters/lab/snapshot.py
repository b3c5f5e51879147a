"""A snapshot directory as the tools wrote it: JSON lists and texts, with nothing read into them.

Deliberately not the emulator's own reader: the referee must not share the other side's mistakes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
    "iptables": "iptables-save.txt", "ip6tables": "ip6tables-save.txt", "ipset": "ipset-save.txt",
    "ipvs": "ipvsadm-save.txt", "conntrack": "conntrack.txt",
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
    ipvs: str = ""
    conntrack: str = ""

    def nfacct_names(self) -> list[str]:
        """The accounting objects that rules name; the kernel refuses a rule whose object does not exist."""
        return sorted({name.strip('"') for name in _NFACCT.findall(self.iptables + self.ip6tables)})


def read(directory: Path) -> Snapshot:
    """The snapshot in a directory. FileNotFoundError if there is no such directory."""
    known = {*_JSON.values(), *_TEXT.values(), "sysctl.txt"}
    return parse({path.name: path.read_text() for path in directory.iterdir() if path.name in known})


def parse(given: Mapping[str, str]) -> Snapshot:
    """The snapshot whose files' contents are given by name."""
    values: dict[str, Any] = {}  # Any: keyword arguments of Snapshot
    for key, name in _JSON.items():
        if name in given:
            values[key] = [entry for entry in json.loads(given[name] or "[]") if entry]
    values |= {key: given[name] for key, name in _TEXT.items() if name in given}
    if "sysctl.txt" in given:
        values["sysctls"] = parse_sysctls(given["sysctl.txt"])
    return Snapshot(**values)


def is_dummy(snapshot: Snapshot, link: Json) -> bool:
    """Whether a link stands as a dummy: where virtual servers are, their addresses are on one."""
    return bool(snapshot.ipvs) and link.get("linkinfo", {}).get("info_kind") == "dummy"


def texts(snapshot: Snapshot) -> dict[str, str]:
    """The files of a snapshot by name; what is None or empty gets none."""
    found = {name: json.dumps(getattr(snapshot, key), indent=1) + "\n" for key, name in _JSON.items() if getattr(snapshot, key) is not None}
    found |= {name: getattr(snapshot, key) for key, name in _TEXT.items() if getattr(snapshot, key)}
    if snapshot.sysctls:
        found["sysctl.txt"] = "".join(f"{key} = {value}\n" for key, value in snapshot.sysctls.items())
    return found


def write(directory: Path, snapshot: Snapshot) -> None:
    """Make a snapshot directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts(snapshot).items():
        (directory / name).write_text(text)


def parse_sysctls(text: str) -> dict[str, str]:
    """``sysctl -a`` lines; those without "=" (its complaints) are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}

"""Where rule sets are found, and how they become snapshots.

The project's own lie in rulesets/. Those that nobody here wrote are no part of the project: they are looked for in ../shared,
seen from the repository's root, and tests that need them skip where there is none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.kernel.plausible import completed, of_golden
from tests.kernel.snapshot import Snapshot, read

RULESETS: Final = Path(__file__).resolve().parents[2] / "rulesets"
SHARED: Final = RULESETS.parents[1] / "shared"
_SET_NAME: Final = re.compile(r"--match-set (\S+)")
_ANONYMOUS_MAC: Final = re.compile(r"XX:XX:XX:XX:XX:XX|(?<=--mac-source )X\S+")


def rulesets() -> list[Path]:
    """Every directory below rulesets/ that holds iptables rules."""
    return sorted({path.parent for path in RULESETS.glob("**/ip*tables-save.txt")})


def goldens() -> list[Path]:
    """The cases that were programmed in iptables mode."""
    return sorted(path.parent for path in SHARED.glob("goldens/*/iptables"))


def dumps() -> list[Path]:
    return sorted(SHARED.glob("corpus/dumps/*.save"))


def snapshot_of(path: Path) -> Snapshot:
    """A golden's or a snapshot's directory or one save file (``.v6.`` in its name: of ip6tables), with a network."""
    if (path / "case.json").exists():
        return of_golden(path)
    if path.is_dir():
        found = read(path)
        return found if found.links is not None else completed(found)
    text = repaired(path.read_text(errors="replace"))
    sets = "".join(f"create {name} hash:ip family inet\n" for name in dict.fromkeys(_SET_NAME.findall(text)))
    rules = Snapshot(ip6tables=text, ipset=sets) if ".v6." in path.name else Snapshot(iptables=text, ipset=sets)
    return completed(rules)


def repaired(text: str) -> str:
    """What publishing did to a dump undone: line ends, blanks at the end of lines, MACs that were made unreadable."""
    lines = (line.rstrip() for line in text.splitlines())
    return "".join(_ANONYMOUS_MAC.sub("02:00:5e:00:53:aa", line) + "\n" for line in lines)

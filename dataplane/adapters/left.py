"""What apply left in a namespace: the very rules that it fed to the kernel, and how the kernel then printed them.

As long as the kernel prints the same, nobody has changed a rule since, and new rules need only be compared with those that were fed. Kept beside the
journal (adapters/namespaces); whatever is not there, or of another namespace, is as if it had never been.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final, NamedTuple

from dataplane.adapters import namespaces
from dataplane.rules.iptables import BUILTIN_CHAINS

_HEADS: Final = tuple({f":{chain} " for chains in BUILTIN_CHAINS.values() for chain in chains})


class Left(NamedTuple):
    """``fed`` is the restore input of all rules, ``seal`` what ``seal_of`` says of the kernel's own print of them."""

    fed: str
    seal: str


def seal_of(save: str) -> str:
    """A digest of what iptables-save prints, but for comments and the counters of built-in chains."""
    digest, place = hashlib.sha256(), 0
    while (place := _table_from(save, place)) >= 0:
        end = save.find("\nCOMMIT", place)
        end = end if end >= 0 else len(save)
        line = save.find("\n", place) + 1
        digest.update(save[place:line].encode())
        while save.startswith(_HEADS, line):
            following = save.find("\n", line) + 1
            digest.update(save[line:following].partition("[")[0].encode())
            line = following
        digest.update(save[line:end].encode(errors="surrogateescape"))
        place = end
    return digest.hexdigest()


def _table_from(save: str, place: int) -> int:
    if place == 0 and save.startswith("*"):
        return 0
    found = save.find("\n*", place)
    return found + 1 if found >= 0 else -1


def read(name: str, family: int) -> Left | None:
    """What apply left in the namespace of that name that stands now; None where nothing is known of it."""
    try:
        head, _, fed = _file(name, family).read_bytes().decode().partition("\n")
        known = json.loads(head)
        return Left(fed, known["seal"]) if known["identity"] == namespaces.identity_of(name) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(name: str, family: int, left: Left) -> None:
    """Keeps it, whole or not at all."""
    fresh = _file(name, family).with_suffix(".new")
    head = json.dumps({"identity": namespaces.identity_of(name), "seal": left.seal})
    fresh.write_bytes(f"{head}\n{left.fed}".encode())
    fresh.replace(_file(name, family))


def forget(name: str) -> None:
    """Removes what was kept."""
    for family in (4, 6):
        _file(name, family).unlink(missing_ok=True)


def _file(name: str, family: int) -> Path:
    return namespaces.JOURNALS / f"{name}.rules{family}"

"""Named network namespaces that apply made: their names, a journal of each, and one apply at a time.

A journal (a small file under /run/dataplane) is written before anything is made and says how far apply came, so that whoever comes after a
process that was killed knows what to take away.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dataplane.errors import ApplyError, InputError, Problem

_NETNS: Final = Path("/run/netns")
_JOURNALS: Final = Path("/run/dataplane")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


class Journal(NamedTuple):
    """``stage`` is making, changing or done; ``outside`` is the namespace at the far end of the links."""

    name: str
    stage: str
    outside: str


def checked(name: str) -> str:
    """A namespace's name. InputError for what is none."""
    if not _NAME.fullmatch(name):
        raise InputError(Problem(f"not a name of a network namespace: {name!r} (letters, digits, '.', '_', '-'; at most 201)", "--netns"))
    return name


def path_of(name: str) -> str:
    """Where the namespace can be entered."""
    return str(_NETNS / name)


def exists(name: str) -> bool:
    """Whether there is a namespace of that name."""
    return (_NETNS / name).exists()


def outside_of(name: str) -> str:
    """The namespace that stands for everything outside of a node."""
    return f"{name}-outside"


def create(name: str) -> None:
    """A new namespace. ApplyError where the kernel refuses."""
    from pyroute2 import netns

    try:
        netns.create(name)
    except OSError as error:
        raise ApplyError(f"network namespace {name}: {error.strerror or error}") from None


def remove(name: str) -> None:
    """Takes a namespace away, with all that is in it."""
    from pyroute2 import netns

    if exists(name):
        try:
            netns.remove(name)
        except OSError as error:
            raise ApplyError(f"network namespace {name}: {error.strerror or error}") from None


@contextmanager
def alone(name: str) -> Iterator[None]:
    """No other apply or cleanup of this name runs meanwhile. ApplyError, which names it, where one does."""
    _JOURNALS.mkdir(exist_ok=True)
    descriptor = os.open(_JOURNALS / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ApplyError(f"another dataplane (process {holder}) is at work on {name}: try again when it is done") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def read(name: str) -> Journal | None:
    """What is known of a namespace that apply made; None for any other. ApplyError for a journal that cannot be read."""
    try:
        return Journal(**json.loads((_JOURNALS / f"{name}.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise ApplyError(f"{_JOURNALS / f'{name}.json'}: not a journal of dataplane's ({error}): remove it and the namespace by hand") from None


def write(journal: Journal) -> None:
    """Keeps a journal; it is there whole or not at all."""
    _JOURNALS.mkdir(exist_ok=True)
    target = _JOURNALS / f"{journal.name}.json"
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps(journal._asdict()) + "\n")
    fresh.replace(target)


def forget(name: str) -> None:
    """Removes a journal."""
    (_JOURNALS / f"{name}.json").unlink(missing_ok=True)

"""Named network namespaces that apply made: their names, a journal of each, and one apply at a time.

A journal (a small file under /run/dataplane) is written before anything is made and says how far apply came, so that whoever comes after a
process that was killed knows what to take away.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dataplane.adapters import tools
from dataplane.errors import ApplyError, InputError, Problem

_NETNS: Final = Path("/run/netns")
JOURNALS: Final = Path("/run/dataplane")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


class Journal(NamedTuple):
    """``stage`` is making, changing or done; ``outside`` is the namespace at the far end of the links.

    ``identity`` tells the namespace from a later one of the same name; 0 while it is being made.
    """

    name: str
    stage: str
    outside: str
    identity: int = 0


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


def identity_of(name: str) -> int:
    """The number of the kernel's for a namespace that stands."""
    return (_NETNS / name).stat().st_ino


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
def alone(name: str, *, wait: float = 60.0, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """No other apply or cleanup of this name runs meanwhile, nor a tool that one left running.

    Waits at most ``wait`` seconds; ApplyError, which names the other, where it is at work still. The lock's file goes with the journal.
    """
    end = time.monotonic() + wait
    while True:
        descriptor = _opened_lock(name)
        try:
            _take(descriptor, name, end, say)
            if not _is_current(descriptor, name):
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            tools.HELD.add(descriptor)
            try:
                yield
            finally:
                tools.HELD.discard(descriptor)
                if not (JOURNALS / f"{name}.json").exists():
                    _lock_of(name).unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _lock_of(name: str) -> Path:
    return JOURNALS / f"{name}.lock"


def _opened_lock(name: str) -> int:
    try:
        JOURNALS.mkdir(exist_ok=True)
        return os.open(_lock_of(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ApplyError(f"cannot keep the lock {_lock_of(name)}: {error.strerror}") from None


def _is_current(descriptor: int, name: str) -> bool:
    """Whether the file is the lock still: who had it before may have removed it when all was done."""
    try:
        return os.path.samestat(os.fstat(descriptor), _lock_of(name).stat())
    except FileNotFoundError:
        return False


def _take(descriptor: int, name: str, end: float, say: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            if time.monotonic() >= end:
                raise ApplyError(f"another dataplane (process {holder}) is at work on {name}: try again when it is done") from None
            if not told:
                say(f"waiting: another dataplane (process {holder}) is at work on {name}")
                told = True
            time.sleep(0.05)


def read(name: str) -> Journal | None:
    """What is known of a namespace that apply made; None for any other. ApplyError for a journal that cannot be read."""
    try:
        found = Journal(**json.loads((JOURNALS / f"{name}.json").read_text()))
        return None if found.identity and exists(name) and found.identity != identity_of(name) else found
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise ApplyError(f"{JOURNALS / f'{name}.json'}: not a journal of dataplane's ({error}): remove it and the namespace by hand") from None


def write(journal: Journal) -> None:
    """Keeps a journal; it is there whole or not at all."""
    JOURNALS.mkdir(exist_ok=True)
    target = JOURNALS / f"{journal.name}.json"
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps(journal._asdict()) + "\n")
    fresh.replace(target)


def forget(name: str) -> None:
    """Removes a journal."""
    (JOURNALS / f"{name}.json").unlink(missing_ok=True)

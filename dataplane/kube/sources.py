"""What ``-f`` names: files, directories and standard input, as kubectl reads them. Knows nothing of what is in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from dataplane.errors import Problem

STDIN: Final = "-"
_EXTENSIONS: Final = (".json", ".yaml", ".yml")


class Source(NamedTuple):
    """A file's name as the user gave it, and its content."""

    name: str
    data: bytes


def read(paths: Sequence[str], *, recursive: bool = False, stdin: BinaryIO | None = None) -> Iterator[Source | Problem]:
    """The content of every path in turn; of a directory its manifests by name, with ``recursive`` those below it, too."""
    for path in paths:
        if path == STDIN:
            yield Source(STDIN, (stdin or sys.stdin.buffer).read())
        elif Path(path).is_dir():
            yield from _directory(path, recursive)
        else:
            yield _file(path)


def _directory(path: str, recursive: bool) -> Iterator[Source | Problem]:
    try:
        names = sorted(_below(path) if recursive else _within(path))
    except OSError as error:
        yield Problem(error.strerror or str(error), path)
        return
    if not names:
        yield Problem(f"no manifests: recognized file extensions are [{' '.join(_EXTENSIONS)}]", path)
    yield from map(_file, names)


def _file(path: str) -> Source | Problem:
    try:
        return Source(path, Path(path).read_bytes())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        return Problem(getattr(error, "strerror", None) or str(error), path)


def _within(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(_EXTENSIONS) and not entry.is_dir():
                yield os.path.join(directory, entry.name)  # noqa: PTH118  # keeps the user's spelling of the directory


def _below(directory: str) -> Iterator[str]:
    for place, _, names in os.walk(directory):
        yield from (os.path.join(place, name) for name in names if name.endswith(_EXTENSIONS))  # noqa: PTH118

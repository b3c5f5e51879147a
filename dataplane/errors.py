"""The kinds of error that a user can meet, and how one line tells each.

Everything here is the user's input or machine being at fault; any other exception that escapes is a bug of ours.
Knows nothing about formats or about the command line (which turns these into exit codes 1 and 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class DataplaneError(Exception):
    """Base of every error that is reported to a user as one clear message, without a traceback."""


class Problem(NamedTuple):
    """One thing that is wrong with an input.

    ``file`` is the name as the user gave it (``-`` for standard input), ``line`` and ``column`` count from 1,
    ``subject`` names the object (``Service shop/web``), ``path`` is a field path (``spec.ports[1].port``) or empty.
    """

    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    subject: str | None = None
    path: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        parts = [part for part in (place, self.subject, self.path) if part]
        text = ": ".join([*parts, self.message])
        if self.source is not None and self.column is not None:
            text += f"\n    {self.source}\n    {' ' * (self.column - 1)}^"
        return text

    def within(self, *, file: str, line: int | None = None) -> Problem:
        """The same problem, placed in a file (and at a line, where none was known)."""
        return self._replace(file=file, line=self.line if self.line is not None else line)


class InputError(DataplaneError):
    """One or more problems with what the user gave; all those of a file are reported together."""

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SpecError(InputError):
    """A Kubernetes object or configuration that the API server or kube-proxy would refuse (field path, its wording)."""


class ParseError(InputError):
    """Text in a native format that cannot be read (file, line, and a caret under the place)."""


class UnsupportedError(DataplaneError):
    """Something that exists but is not modelled here, where going on would mean guessing."""


class ApplyError(DataplaneError):
    """A command on the real machine failed; carries the command and the kernel's own words."""


class LabError(DataplaneError):
    """The kernel could not be asked; says what was tried and, where there are any, the tool's own words."""

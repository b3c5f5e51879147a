"""Gathers what is wrong with one text, so that a reader reports everything at once. Knows no format."""

from __future__ import annotations

from typing import Final, NoReturn

from dataplane.errors import ParseError, Problem

#: A text of a wholly different kind would be wrong in every line; reading stops after this many.
LIMIT: Final = 50
#: A longer line is not shown under a message (one line of ``ip -j`` may be megabytes).
_SHOWN: Final = 300


class Problems:
    """The problems of one file. Adding the last one that is allowed raises ParseError with all of them."""

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self.found: list[Problem] = []

    def add(
        self, message: str, *, line: int | None = None, column: int | None = None, source: str | None = None,
        subject: str | None = None, path: str | None = None,
    ) -> None:  # fmt: skip
        """Note one problem; ``source`` is the whole line that is at fault, ``column`` where in it."""
        if source is not None and (len(source) > _SHOWN or not source.isprintable()):
            source = None
        self.found.append(Problem(message, self.file, line, column, subject, path, source))
        if len(self.found) == LIMIT:
            self.found.append(Problem(f"{LIMIT} problems, the rest was not read", self.file))
            self.fail()

    def fail(self) -> NoReturn:
        """Raise what was found."""
        raise ParseError(self.found)

    def raise_if_any(self) -> None:
        """Raise what was found, if anything was."""
        if self.found:
            self.fail()

"""A rule set that nobody has looked at yet: read from its text when somebody does, since a large one takes its second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dataplane.rules.iptables import Table, Xtables
from dataplane.text.iptables import apply_restore


class Unread(Mapping[str, Table]):
    """The tables after a restore input was fed to an empty kernel. ParseError comes from whoever looks first."""

    def __init__(self, text: str, family: int, file: str) -> None:
        self._text: str | None = text
        self._family, self._file = family, file
        self._tables: Mapping[str, Table] = {}

    @property
    def text(self) -> str | None:
        """The restore input, None once it was read."""
        return self._text

    def _read(self) -> Mapping[str, Table]:
        if self._text is not None:
            self._tables, self._text = apply_restore(None, self._text, self._family, noflush=True, file=self._file).tables, None
        return self._tables

    def __getitem__(self, name: str) -> Table:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __bool__(self) -> bool:
        return self._text.startswith("*") or "\n*" in self._text if self._text is not None else bool(self._tables)

    def __len__(self) -> int:
        return len(self._read())


def source_of(xtables: Xtables) -> str | None:
    """The restore input of a rule set that nobody has looked at; None for any other."""
    return xtables.tables.text if isinstance(xtables.tables, Unread) else None


def unread(text: str, family: int, *, flavour: str = "legacy", file: str = "restore input") -> Xtables:
    """The rule set after ``iptables-restore < text``."""
    return Xtables(family, Unread(text, family, file), flavour)

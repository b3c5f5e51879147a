"""Text into documents, as kubectl and the API server read it: a YAML or JSON stream, Lists taken apart, places kept.

Documents are split at lines that begin with ``---`` and read one by one, so that an error in one does not hide those of the
next; how each is read is known to ``yamltext`` and ``jsontext``. Knows of kinds only that those that end in ``List`` are lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from dataplane.errors import Problem
from dataplane.kube import jsontext, yamltext
from dataplane.kube.jsontext import JSONProblem, Path
from dataplane.kube.yamltext import YAMLProblem

_SEPARATOR: Final = re.compile(r"^---(.*)$", re.MULTILINE)
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Chunk:
    """What stands between two ``---`` lines."""

    file: str
    text: str
    line: int
    json: bool = False


class Document(NamedTuple):
    """One object as plain data. ``start`` (a number of a document, or an offset into JSON) and ``path`` find it again."""

    value: object
    line: int
    chunk: Chunk
    start: int = 0
    path: Path = ()

    @property
    def file(self) -> str:
        """The file as the user named it."""
        return self.chunk.file

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.chunk.file}:{self.line}" if self.line else self.chunk.file


def read(data: bytes | str, file: str) -> Iterator[Document | Problem]:
    """The documents of a file's content, and what is wrong with the parts that are none."""
    text = _decoded(data if isinstance(data, bytes) else data.encode("utf-8", "replace"), file)
    if isinstance(text, Problem):
        yield text
        return
    for part in _split(text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text, file):
        if isinstance(part, Problem):
            yield part
        elif part.json:
            yield from _json_documents(part)
        else:
            yield from _yaml_documents(part)


def _decoded(data: bytes, file: str) -> str | Problem:
    encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "UTF-8"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        return Problem(f"byte 0x{data[error.start]:02x} is not valid {encoding}", file, line, column)


def _split(text: str, file: str) -> Iterator[Chunk | Problem]:
    """The parts between ``---`` lines that hold anything, as kubectl splits them."""
    start, line = 0, 1
    for match in _SEPARATOR.finditer(text) if "---" in text else ():
        yield from _chunk(text[start : match.start()], file, line)
        line += text.count("\n", start, match.start())
        rest = match[1].strip()
        if rest and not rest.startswith("#"):
            yield Problem(f"invalid Yaml document separator: {rest[:_SHOWN]}", file, line)
        start = match.end()
    yield from _chunk(text[start:], file, line)


def _chunk(text: str, file: str, line: int) -> Iterator[Chunk]:
    text = text.removeprefix("\ufeff")
    first = text.lstrip()[:1]
    if first and not (first in "#%." and all(_says_nothing(one) for one in text.split("\n"))):
        yield Chunk(file, text, line, json=first in "{[")


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip()[0] in "#%" or line.rstrip() == "..."


def _json_documents(chunk: Chunk) -> Iterator[Document | Problem]:
    line, counted, begun = chunk.line, 0, False
    try:
        for value, offset in jsontext.read(chunk.text):
            line, counted, begun = line + chunk.text.count("\n", counted, offset), offset, True
            yield from flattened(Document(value, line, chunk, offset), None)
    except JSONProblem as error:
        if not begun:  # a YAML flow mapping begins with a brace, too
            documents = list(_yaml_documents(Chunk(chunk.file, chunk.text, chunk.line)))
            if not any(isinstance(one, Problem) for one in documents) or chunk.text.lstrip()[1:].lstrip()[:1] not in '"}':
                yield from documents
                return
        last = chunk.text.rfind("\n", 0, error.offset)
        column = error.offset - last
        yield Problem(error.message, chunk.file, chunk.line + chunk.text.count("\n", 0, error.offset), column,
                      source=_source(chunk.text, last + 1))  # fmt: skip


def _yaml_documents(chunk: Chunk) -> Iterator[Document | Problem]:
    try:
        for number, (value, line, item_lines) in enumerate(yamltext.read(chunk.text)):
            if value is not None:
                yield from flattened(Document(value, chunk.line + line, chunk, number), item_lines)
    except YAMLProblem as error:
        message = error.message
        if error.context_line not in (None, error.line):
            message += f" ({error.context} that begins at line {chunk.line + (error.context_line or 0)})"
        lines = chunk.text.split("\n")
        source = _source("\n".join(lines[error.line : error.line + 1]), 0)
        yield Problem(message, chunk.file, chunk.line + error.line, error.column + 1, source=source)


def _source(text: str, start: int) -> str | None:
    end = text.find("\n", start)
    source = text[start : end if end >= 0 else None]
    return source if source.isprintable() and 0 < len(source) <= _SHOWN else None


def flattened(document: Document, item_lines: list[int] | None = None) -> Iterator[Document]:
    """The items of a List, or of a bare list; anything else as it is."""
    value, start = document.value, document.chunk.line
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield document._replace(value=item, path=(*document.path, index))
        return
    items = value.get("items") if isinstance(value, dict) and str(value.get("kind")).endswith("List") else None
    if not isinstance(value, dict) or not isinstance(items, list | tuple):
        yield document
        return
    kind, version = str(value["kind"]).removesuffix("List"), value.get("apiVersion")
    for index, item in enumerate(items):
        if isinstance(item, dict) and "kind" not in item and kind:
            item = {"kind": kind, "apiVersion": version, **item}
        line = start + item_lines[index] if item_lines and index < len(item_lines) else document.line
        yield from flattened(document._replace(value=item, line=line, path=(*document.path, "items", index)), None)

"""YAML text into values with their places, as Kubernetes reads it: YAML to JSON to typed objects.

The only file that imports yaml, and only when there is YAML to read. Plain scalars are resolved by ``yamlscalars``, keys are
always text, duplicate keys are refused, merge keys are applied, aliases are bounded. libyaml's events are used directly, so
that there is neither a node tree nor recursion. Knows nothing of objects.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from dataplane.kube.fielderrors import quote
from dataplane.kube.jsontext import Path
from dataplane.kube.yamlscalars import key_text, resolve

if TYPE_CHECKING:
    from yaml.events import Event, NodeEvent, ScalarEvent

_DEEPEST: Final = 1000
#: An alias bomb: more than this many values, most of them repeated through aliases (go-yaml's bound is of the same kind).
_EXPANDED: Final = 400_000
_SHOWN: Final = 300


class YAMLProblem(Exception):  # the word that errors.Problem uses
    """What is wrong with the text, and where: line and column, both from 0; ``context`` is what was being read, from where."""

    def __init__(self, message: str, line: int, column: int, context: str = "", context_line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column
        self.context, self.context_line = context, context_line


class Value(NamedTuple):
    """One document, the line (from 0) at which it begins, and the lines at which the mappings in its ``items`` begin."""

    value: object
    line: int
    item_lines: list[int]


class _Parser(Protocol):
    def get_event(self) -> Event | None: ...


def read(text: str) -> Iterator[Value]:
    """The documents of a text. Raises YAMLProblem where it goes wrong."""
    from yaml import events

    builder, line = _Builder(), 0
    for event in _events(text):
        if isinstance(event, events.ScalarEvent):
            builder.scalar(_scalar(event), event)
        elif isinstance(event, events.CollectionStartEvent):
            if not builder.stack:
                line = _place(event)[0]
            builder.open({} if isinstance(event, events.MappingStartEvent) else [], event)
        elif isinstance(event, events.CollectionEndEvent):
            builder.close(event)
        elif isinstance(event, events.AliasEvent):
            builder.alias(event)
        elif isinstance(event, events.DocumentEndEvent):
            yield Value(builder.result, line, builder.item_lines)
            builder = _Builder()


def positions(text: str, number: int) -> Iterator[tuple[Path, tuple[int, int], bool, tuple[int, int]]]:
    """Every value of one document: its path, the place of its key (or its own), whether it holds others, its own place.

    Ends where the text goes wrong.
    """
    from yaml import events

    path: list[str | int] = []
    keys: list[tuple[int, int] | None] = []  # of each open mapping the place of the last key, while its value is due
    document = -1
    for event in _readable_events(text):
        if isinstance(event, events.DocumentStartEvent):
            document += 1
        elif document != number:
            if document > number:
                return
        elif isinstance(event, events.CollectionEndEvent):
            path.pop()
            keys.pop()
            _after_value(path, keys)
        elif isinstance(event, events.NodeEvent):
            place = _place(event)
            if path and isinstance(path[-1], str) and keys[-1] is None:
                path[-1], keys[-1] = _key_step(event), place
                continue
            collection = isinstance(event, events.CollectionStartEvent)
            yield tuple(path), (keys[-1] if keys else None) or place, collection, place
            if collection:
                path.append("" if isinstance(event, events.MappingStartEvent) else 0)
                keys.append(None)
            else:
                _after_value(path, keys)


def _readable_events(text: str) -> Iterator[Event]:
    try:
        yield from _events(text)
    except YAMLProblem:
        return


def _after_value(path: list[str | int], keys: list[tuple[int, int] | None]) -> None:
    if path:
        last = path[-1]
        path[-1] = last + 1 if isinstance(last, int) else last
        keys[-1] = None


def _key_step(event: NodeEvent) -> str:
    value = getattr(event, "value", "")
    return key_text(resolve(value)) or str(value)


def _events(text: str) -> Iterator[Event]:
    """libyaml's events, its errors as YAMLProblem."""
    import yaml

    parser: _Parser
    try:
        parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        while (event := parser.get_event()) is not None:
            yield event
    except yaml.MarkedYAMLError as error:
        mark, context = error.problem_mark or error.context_mark, error.context_mark
        message = error.problem or error.context or "cannot be read"
        raise YAMLProblem(
            f"invalid YAML: {message}", mark.line if mark else 0, mark.column if mark else 0,
            error.context or "", context.line if context else None,
        ) from None  # fmt: skip
    except yaml.YAMLError as error:  # a character that YAML does not allow
        position = getattr(error, "position", 0)
        before = text[: position if isinstance(position, int) else 0]
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        raise YAMLProblem(f"invalid YAML: {getattr(error, 'reason', 'cannot be read')}", line, column) from None


def _place(event: Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line, mark.column) if mark else (0, 0)


def _wrong(message: str, event: Event) -> YAMLProblem:
    return YAMLProblem(message, *_place(event))


_UNSET: Final = object()
_MERGE: Final = object()


class _Frame:
    """A list or mapping that is being read."""

    __slots__ = ("anchor", "container", "key", "merged", "size")

    def __init__(self, container: list[object] | dict[str, object], anchor: str | None, size: int) -> None:
        self.container, self.anchor, self.size = container, anchor, size
        self.key: object = _UNSET
        self.merged: list[object] = []


class _Builder:
    """Puts one document's values together. ``size`` counts them as if aliases were written out."""

    def __init__(self) -> None:
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[object, int]] = {}
        self.size = 0
        self.read = 0
        self.result: object = None
        self.item_lines: list[int] = []

    def open(self, container: list[object] | dict[str, object], event: NodeEvent) -> None:
        """A list or mapping begins."""
        if len(self.stack) >= _DEEPEST:
            raise _wrong(f"exceeded max depth of {_DEEPEST}", event)
        if len(self.stack) == 2 and self.stack[0].key == "items":
            self.item_lines.append(_place(event)[0])
        self._count(1, event)
        self.stack.append(_Frame(container, event.anchor, self.size))

    def close(self, event: Event) -> None:
        """A list or mapping ends."""
        frame = self.stack.pop()
        if isinstance(frame.container, dict):
            for merged in frame.merged:
                for key, value in _merged(merged, event).items():
                    frame.container.setdefault(key, value)
        if frame.anchor is not None:
            self.anchors[frame.anchor] = frame.container, self.size - frame.size + 1
        self._add(frame.container, event)

    def scalar(self, value: object, event: NodeEvent) -> None:
        """A scalar."""
        self._count(1, event)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, 1
        self._add(value, event)

    def alias(self, event: NodeEvent) -> None:
        """A value that was given before."""
        name = str(event.anchor)
        if any(frame.anchor == name for frame in self.stack):
            raise _wrong(f"anchor '{name}' value contains itself", event)
        if name not in self.anchors:
            raise _wrong(f"unknown anchor '{name}' referenced", event)
        value, size = self.anchors[name]
        self._count(size, event)
        self._add(value, event)

    def _count(self, size: int, event: Event) -> None:
        self.size += size
        self.read += 1
        if self.size > _EXPANDED and self.size > 10 * self.read:
            raise _wrong("document contains excessive aliasing", event)

    def _add(self, value: object, event: Event) -> None:
        if not self.stack:
            self.result = value
            return
        frame = self.stack[-1]
        if isinstance(frame.container, list):
            frame.container.append(value)
        elif frame.key is _UNSET:
            frame.key = _MERGE if value is _MERGE else _key(value, frame.container, event)
        else:
            if frame.key is _MERGE:
                frame.merged.append(value)
            else:
                frame.container[str(frame.key)] = "<<" if value is _MERGE else value
            frame.key = _UNSET


def _key(value: object, container: dict[str, object], event: Event) -> str:
    key = key_text(value)
    if key is None:
        raise _wrong(f"unsupported map key of type: {'null' if value is None else type(value).__name__}", event)
    if key in container:
        raise _wrong(f"key {quote(key)} already set in map", event)
    return key


def _merged(value: object, event: Event) -> dict[str, object]:
    """What ``<<: value`` adds: a mapping, or a list of which the earlier ones win."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return {key: item for one in reversed(value) for key, item in one.items()}
    raise _wrong("map merge requires map or sequence of maps as the value", event)


def _scalar(event: ScalarEvent) -> object:
    value, tag = event.value, event.tag
    if event.implicit[0]:
        return _MERGE if value == "<<" else resolve(value)
    if tag is None or tag in ("!", "tag:yaml.org,2002:str"):
        return value
    if tag == "tag:yaml.org,2002:binary":
        try:
            return base64.b64decode(value, validate=False).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            raise _wrong("!!binary value contains invalid base64 data", event) from None
    if tag.startswith("tag:yaml.org,2002:"):
        return _typed(value, tag.removeprefix("tag:yaml.org,2002:"), event)
    return value


def _typed(text: str, name: str, event: Event) -> object:
    """A scalar with an explicit tag must be of that type."""
    value = resolve(text)
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}
    if name in kinds and (not isinstance(value, kinds[name]) or (isinstance(value, bool) and name != "bool")):
        raise _wrong(f"cannot decode !!{name} `{text[:_SHOWN]}`", event)
    return value if name in kinds else text

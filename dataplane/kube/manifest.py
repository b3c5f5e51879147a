"""Files into documents: YAML and JSON as Kubernetes reads them, with the place of every document kept.

The only file that knows YAML. Kubernetes turns YAML into JSON first: plain scalars follow YAML 1.1 (``NO`` is false, ``0777`` octal),
but there are neither sexagesimal numbers nor dates, keys are strings, and a duplicate key is an error. No Kubernetes kinds here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dataplane.errors import InputError, ParseError, Problem

_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_NODES = 5_000_000


class Document(NamedTuple):
    """One object as plain data. ``line`` is where it begins; ``index`` and ``text`` allow to find a field's line."""

    file: str
    line: int
    value: Any  # dict, or whatever the file holds instead
    text: str = ""
    path: str = ""  # inside a List: "items[3]."

    def line_of(self, path: str) -> int:
        """The line of a field path such as ``spec.ports[1].port``; of the nearest parent that is there otherwise."""
        if not self.text:
            return self.line
        return _line_of(self.text, self.path + path) + self.line - 1


def read_paths(paths: Sequence[str], *, recursive: bool = False, stdin: BinaryIO | None = None) -> list[Document]:
    """All documents of files, directories and ``-``. Raises ParseError or InputError for all that cannot be read."""
    documents: list[Document] = []
    problems: list[Problem] = []
    for path in paths:
        for name, data in _sources(path, recursive, stdin, problems):
            try:
                documents.extend(read_text(_decoded(data, name), name))
            except InputError as error:
                problems.extend(error.problems)
    if problems:
        raise ParseError(problems)
    return documents


def _sources(path: str, recursive: bool, stdin: BinaryIO | None, problems: list[Problem]) -> Iterator[tuple[str, bytes]]:
    if path == "-":
        yield "-", (stdin or sys.stdin.buffer).read()
        return
    place = Path(path)
    if place.is_dir():
        pattern = "**/*" if recursive else "*"
        files = sorted(one for one in place.glob(pattern) if one.suffix in _SUFFIXES and one.is_file())
        if not files:
            problems.append(Problem("the directory has no .yaml, .yml or .json files", path))
    else:
        files = [place]
    for file in files:
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            problems.append(Problem(error.strerror or str(error), str(file)))


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ParseError(Problem("not UTF-8 text", name, line)) from None


def read_text(text: str, file: str) -> list[Document]:
    """The documents of one text."""
    stripped = text.lstrip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(text, object_pairs_hook=_unique)
        except RecursionError:
            raise ParseError(Problem("nested too deeply", file)) from None
        except json.JSONDecodeError as error:
            if stripped[:1] == "[" or '"' in stripped[:20]:
                raise ParseError(Problem(f"invalid JSON: {error.msg}", file, error.lineno, error.colno)) from None
            return _read_yaml(text, file)
        except ValueError as error:
            raise ParseError(Problem(str(error), file)) from None
        return [Document(file, 1, one) for one in (value if isinstance(value, list) else [value])]
    return _read_yaml(text, file)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate field {key!r}")
            seen.add(key)
    return made


def _read_yaml(text: str, file: str) -> list[Document]:
    documents = []
    for line, part in _split(text):
        try:
            value = _load(part)
        except _YamlProblem as error:
            raise ParseError(Problem(error.message, file, line + error.line, error.column)) from None
        if value is not None:
            documents.append(Document(file, line, value, part))
    return documents


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Documents of a stream by their ``---`` lines, each with its first line."""
    start = 1
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.startswith("---") and (len(line) == 3 or line[3] in " \t\r\n"):
            if any(one.strip() for one in lines):
                yield start, "".join(lines)
            start, lines = number, ["\n" if line[3:].strip() == "" else "   " + line[3:]]
        else:
            lines.append(line)
    if any(one.strip() for one in lines):
        yield start, "".join(lines)


class _YamlProblem(Exception):
    def __init__(self, message: str, line: int, column: int | None) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


_loader: Any = None  # a class made on first use: yaml is imported only when there is YAML to read


def _loader_class() -> Any:
    global _loader
    if _loader is not None:
        return _loader
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, valid-type]  # the base is chosen at run time
        """Kubernetes' reading of YAML 1.1."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in base.yaml_implicit_resolvers.items()
    }
    Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", _integer)
    Loader.add_constructor("tag:yaml.org,2002:float", _float)
    _loader = Loader
    return Loader


def _mapping(loader: Any, node: Any) -> dict[str, Any]:
    loader.flatten_mapping(node)
    made: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            key = json.dumps(key) if isinstance(key, bool | int | float) else str(key)
        if key in made:
            mark = key_node.start_mark
            raise _YamlProblem(f"key {key!r} already set in map", mark.line, mark.column + 1)
        made[key] = loader.construct_object(value_node, deep=True)
    return made


def _integer(loader: Any, node: Any) -> int | str:
    if ":" in node.value:
        return str(node.value)
    value: int = loader.construct_yaml_int(node)
    return value


def _float(loader: Any, node: Any) -> float | str:
    if ":" in node.value:
        return str(node.value)
    value: float = loader.construct_yaml_float(node)
    return value


def _load(text: str) -> Any:
    import yaml

    loader = None
    try:
        loader = _loader_class()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_bombs(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _YamlProblem(f"invalid YAML: {error.problem or error.context}", mark.line if mark else 0, mark.column + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise _YamlProblem(f"invalid YAML: {str(error).splitlines()[0]}", 0, None) from None
    except RecursionError:
        raise _YamlProblem("nested too deeply", 0, None) from None
    except (ValueError, OverflowError) as error:
        raise _YamlProblem(f"invalid YAML: {error}", 0, None) from None
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_bombs(root: Any) -> None:
    """Aliases may repeat a value, not blow it up: the expanded document is counted before it is built."""
    sizes: dict[int, int] = {}

    def size(node: Any, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if depth > 200:
            raise _YamlProblem("nested too deeply", node.start_mark.line, None)
        sizes[id(node)] = 1
        children = node.value if isinstance(node.value, list) else []
        total = 1
        for child in children:
            total += sum(size(one, depth + 1) for one in child) if isinstance(child, tuple) else size(child, depth + 1)
            if total > _MAX_NODES:
                raise _YamlProblem("aliases expand to too large a document", node.start_mark.line, None)
        sizes[id(node)] = total
        return total

    size(root, 0)


def _line_of(text: str, path: str) -> int:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return 1
    best = 0
    for step in path.replace("]", "").replace("[", ".").split("."):
        if node is None or not step:
            continue
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            found = (node.value[int(step)], node.value[int(step)])
        if found is None:
            break
        best, node = found[0].start_mark.line, found[1]
    return best + 1

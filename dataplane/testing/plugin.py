"""The pytest plugin: the fixture ``dataplane``, and the rule path under every failing assertion.

Imports nothing but pytest until a test asks for the fixture, so that it costs nothing in suites that do not use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dataplane.node import Cluster, Node, Result

_KEPT = 3  # results shown under a failure
_RESULTS = pytest.StashKey["deque[Result]"]()


class Dataplane:
    """What the fixture gives: ``load`` and ``load_snapshot``, with paths relative to the test file (else to the root directory)."""

    def __init__(self, places: Sequence[Path], results: deque[Result]) -> None:
        self._places = places
        self._results = results

    def load(
        self, manifests: str | PathLike[str] | Sequence[str | PathLike[str]] | Iterable[Mapping[str, Any]], *,
        config: str | PathLike[str] | None = None, recursive: bool = False,
    ) -> Cluster:  # fmt: skip
        """A cluster from files, directories, or objects that are mappings already."""
        from dataplane.node import load

        if isinstance(manifests, str | PathLike):
            manifests = [manifests]
        given = [one if isinstance(one, Mapping) else self._found(one) for one in manifests]
        where = self._found(config) if config is not None else None
        return load(given, config=where, recursive=recursive, observer=self._results.append)  # type: ignore[arg-type]  # one kind or the other

    def load_snapshot(self, directory: str | PathLike[str], **options: Any) -> Node:  # Any: options of Node
        """A node from a snapshot directory."""
        from dataplane.node import load_snapshot

        return load_snapshot(self._found(directory), observer=self._results.append, **options)

    def _found(self, path: str | PathLike[str]) -> str:
        for place in self._places:
            if (place / path).exists():
                return str(place / path)
        return fspath(path)


@pytest.fixture
def dataplane(request: pytest.FixtureRequest) -> Dataplane:
    """Loads manifests or snapshots into nodes that take packets; a failing test shows what became of the last ones."""
    results: deque[Result] = deque(maxlen=_KEPT)
    request.node.stash[_RESULTS] = results
    return Dataplane((request.path.parent, request.config.rootpath), results)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """A compared verdict says what it came to, and the walk as far as pytest has room for it."""
    trace = getattr(left, "trace", None) or getattr(right, "trace", None)
    if trace is None or not isinstance(left, str) or not isinstance(right, str):
        return None
    from dataplane.render.text import render, summary

    return [f"verdict {str(left)!r} {op} {str(right)!r}", *summary(trace), "", *render(trace).splitlines()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the walks of its last packets, whatever it was that it asserted."""
    report = yield
    if report.when == "call" and report.failed:
        results: deque[Result] = item.stash.get(_RESULTS, deque())
        for number, result in enumerate(results, 1):
            report.sections.append((f"dataplane: packet {number}", result.text()))
    return report

"""The pytest plugin: a ``dataplane`` fixture, and assertions that show the rule path when they fail.

Loaded by every pytest run where the package is installed, so it imports nothing heavy at the top.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dataplane.node import Cluster, Node


class Dataplane:
    """The API with paths taken relative to the test file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, manifests: Any, **options: Any) -> Cluster:  # Any: as dataplane.load takes them
        """A cluster from files or directories beside the test (or below where pytest runs), or from objects."""
        from dataplane import node

        if isinstance(manifests, str | Path):
            manifests = [manifests]
        given = [self._found(one) if isinstance(one, str | Path) else one for one in manifests]
        return node.load(given, **options)

    def load_snapshot(self, directory: str | Path, **options: Any) -> Node:  # Any: options of Node
        """A node from a snapshot directory."""
        from dataplane import node

        return node.load_snapshot(self._found(directory), **options)

    def _found(self, path: str | Path) -> str:
        beside = self._directory / path
        return str(beside if beside.exists() else path)


@pytest.fixture
def dataplane(request: pytest.FixtureRequest) -> Dataplane:
    """What kube-proxy and the kernel would do: ``dataplane.load("manifests/").node("node-a").receive(packet, iface="eth0")``."""
    return Dataplane(request.path.parent)


_walks: list[str] = []  # of the comparisons that failed in the test at hand


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:  # noqa: ARG001
    """Notes the walk of a verdict whose comparison failed; it is shown whole, in a section of its own."""
    for one in (left, right):
        trace = getattr(one, "trace", None)
        if isinstance(one, str) and trace is not None:
            from dataplane.cli.render_text import render

            _walks.append(render(trace))
            return [f"{left!r} {op} {right!r}", "(the packet's way is shown below)"]
    return None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:  # noqa: ARG001 - Any: pluggy's result
    """Puts the noted walks under the failure."""
    result = yield
    report = result.get_result()
    if report.when == "call":
        if report.failed:
            report.sections.extend(("the packet's way", walk) for walk in _walks)
        _walks.clear()

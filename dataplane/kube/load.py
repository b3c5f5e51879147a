"""Manifests in, a complete Cluster out: read, convert, default, validate, and do what the control plane does.

Everything that is wrong with all files is told at once, and nothing is returned then.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from dataplane.errors import InputError, Problem
from dataplane.kube import manifest, sources
from dataplane.kube.controlplane import complete
from dataplane.kube.gather import Found
from dataplane.kube.manifest import Chunk, Document
from dataplane.kube.objects import Cluster, Node
from dataplane.kube.proxyconfig import API_VERSION


def load(
    paths: Sequence[str], *, recursive: bool = False, config: str | None = None, stdin: BinaryIO | None = None
) -> Cluster:
    """The cluster that manifests describe: files, directories (``recursive`` with all below them), ``-`` for standard input.

    ``config`` is a file with a KubeProxyConfiguration, which goes before one among the manifests. Raises ParseError where text
    cannot be read, SpecError where objects are wrong; both carry everything that is wrong with all files.
    """
    found = Found()
    with _no_collection():
        for source in sources.read(paths, recursive=recursive, stdin=stdin):
            if isinstance(source, Problem):
                found.unreadable.append(source)
            else:
                found.text(source.data, source.name)
        if config is not None:
            _read_configuration(config, found, stdin)
        return _complete(found)


def load_text(text: str | bytes, name: str = "<text>") -> Cluster:
    """The cluster that one text describes, YAML or JSON. Raises as ``load`` does."""
    found = Found()
    with _no_collection():
        found.text(text, name)
        return _complete(found)


def load_objects(objects: Iterable[Mapping[str, object]], *, stored: bool = False) -> Cluster:
    """The cluster of objects that are plain mappings already, Lists among them. Raises SpecError.

    ``stored`` says that all come from an API server (a watch, a fixture of kube-proxy's tests): they are not validated.
    """
    found = Found(stored=stored)
    with _no_collection():
        for index, one in enumerate(objects):
            for document in manifest.flattened(Document(one, 0, Chunk(f"objects[{index}]", "", 0))):
                found.add(document)
        return _complete(found)


def node_of(cluster: Cluster, name: str | None = None) -> Node:
    """The node of that name, or without one the node that can only be meant.

    That is the one of the configuration's hostnameOverride, the only one, or, where all are made up, the first.
    Raises InputError, with the names that there are.
    """
    names = ", ".join(node.name for node in cluster.nodes)
    override = cluster.proxy_configuration.hostname_override.strip().lower() if cluster.proxy_configuration else ""
    wanted = name or override
    if wanted:
        for node in cluster.nodes:
            if node.name == wanted:
                return node
        raise InputError(Problem(f'node "{wanted}" not found: the manifest has {names}'))
    if len(cluster.nodes) == 1 or all(node.origin is None for node in cluster.nodes):
        return cluster.nodes[0]
    raise InputError(Problem(f"which node? The manifest has {names}"))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for reference cycles while objects are made that hold none: it takes half of the time for a large cluster."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _complete(found: Found) -> Cluster:
    return complete(found.cluster(), problems_of=found.problems_of)


def _read_configuration(path: str, found: Found, stdin: BinaryIO | None) -> None:
    """The file of ``--config``, which holds one KubeProxyConfiguration and nothing else."""
    config = Found()
    for source in sources.read([path], stdin=stdin):
        if isinstance(source, Problem):
            config.unreadable.append(source)
        else:
            config.text(source.data, source.name)
    if config.configuration is None and not config.unreadable and not config.wrong:
        config.unreadable.append(Problem(f"no KubeProxyConfiguration ({API_VERSION}) in it", path))
    if found.configuration is not None:
        found.notes.append(f"{path} goes before the KubeProxyConfiguration among the manifests")
    found.configuration = config.configuration
    found.unreadable.extend(config.unreadable)
    found.wrong.extend(config.wrong)
    found.notes.extend(config.notes)

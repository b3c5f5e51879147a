"""The part that every object has: names, labels, annotations, and whether a cluster has printed it."""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Final, NamedTuple

from dataplane.kube.reading import NO_TEXTS, Fields, Reader

DEFAULT_NAMESPACE: Final = "default"
#: Fields that only an API server sets, when it stores an object.
_SET_WHEN_STORED: Final = ("uid", "resourceVersion", "creationTimestamp")


class Metadata(NamedTuple):
    """metadata of an object. ``printed`` says that it has been through an API server; ``owner`` is ``Kind/name``."""

    name: str
    namespace: str = DEFAULT_NAMESPACE
    labels: Mapping[str, str] = NO_TEXTS
    annotations: Mapping[str, str] = NO_TEXTS
    printed: bool = False
    terminating: bool = False
    owner: str | None = None


def read_metadata(fields: Fields, reader: Reader, at: str = "metadata") -> Metadata:
    """The metadata of an object. A generateName is completed as the API server would, but always in the same way."""
    metadata = reader.mapping(fields, "metadata", at.rpartition(".")[0])
    if not metadata:
        return Metadata("")
    name = reader.text(metadata, "name", at)
    if not name and metadata.get("generateName"):
        name = reader.text(metadata, "generateName", at) + "xxxxx"
    return Metadata(
        name,
        intern(reader.text(metadata, "namespace", at)) or DEFAULT_NAMESPACE,
        reader.text_map(metadata, "labels", at),
        reader.text_map(metadata, "annotations", at),
        any(metadata.get(key) is not None for key in _SET_WHEN_STORED),
        metadata.get("deletionTimestamp") is not None,
        _controller(metadata, reader, at),
    )


def _controller(metadata: Fields, reader: Reader, at: str) -> str | None:
    """The owner that manages the object."""
    for reference, path in reader.objects(metadata, "ownerReferences", at):
        if reader.boolean(reference, "controller", path):
            return f"{reader.text(reference, 'kind', path)}/{reader.text(reference, 'name', path)}"
    return None


def is_printed(fields: Fields) -> bool:
    """Whether an API server has stored the object before."""
    metadata = fields.get("metadata")
    return isinstance(metadata, Mapping) and any(metadata.get(key) is not None for key in _SET_WHEN_STORED)

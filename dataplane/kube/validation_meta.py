"""What the API server requires of every object: its name, its namespace, its labels and annotations.

Source: k8s.io/apimachinery/pkg/api/validation/objectmeta.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from dataplane.kube import names
from dataplane.kube.fielderrors import Violation, invalid, required, too_long

_ANNOTATIONS_LIMIT: Final = 256 * 1024


def check_metadata(
    name: str, namespace: str | None, labels: Mapping[str, str], annotations: Mapping[str, str],
    is_name: Callable[[str], names.Complaints],
) -> Iterator[Violation]:  # fmt: skip
    """The metadata of an object; ``namespace`` is None for kinds that have none."""
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        for complaint in is_name(name):
            yield invalid("metadata.name", name, complaint)
    if namespace is not None:
        for complaint in names.label(namespace):
            yield invalid("metadata.namespace", namespace, complaint)
    if labels:
        yield from check_labels(labels, "metadata.labels")
    if annotations:
        yield from _check_annotations(annotations, "metadata.annotations")


def check_labels(labels: Mapping[str, str], path: str) -> Iterator[Violation]:
    """Keys and values of labels, or of a selector."""
    for key, value in labels.items():
        for complaint in names.qualified_name(key):
            yield invalid(path, key, complaint)._replace(place=f"{path}[{key}]")
        for complaint in names.label_value(value):
            yield invalid(path, value, complaint)._replace(place=f"{path}[{key}]")


def _check_annotations(annotations: Mapping[str, str], path: str) -> Iterator[Violation]:
    size = 0
    for key, value in annotations.items():
        for complaint in names.qualified_name(key.lower()):
            yield invalid(path, key, complaint)._replace(place=f"{path}[{key}]")
        size += len(key) + len(value)
    if size > _ANNOTATIONS_LIMIT:
        yield too_long(path, _ANNOTATIONS_LIMIT)

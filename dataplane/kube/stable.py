"""Choices that the control plane makes at random, made from names instead: the same manifests give the same cluster.

Source of the alphabet: k8s.io/apimachinery/pkg/util/rand (no vowels, no 0, 1, 3: nothing that reads as a word).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


def number(*names: object) -> int:
    """A large number that depends on nothing but the names."""
    return int.from_bytes(sha256("\0".join(map(str, names)).encode("utf-8", "replace")).digest()[:12], "big")


def suffix(length: int, *names: object) -> str:
    """Characters as Kubernetes appends them to a generated name."""
    value, characters = number(*names), ""
    for _ in range(length):
        value, index = divmod(value, len(_ALPHABET))
        characters += _ALPHABET[index]
    return characters

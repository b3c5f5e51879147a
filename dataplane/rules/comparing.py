"""Equality of named tuples that carry, as their last field, something that says nothing about what they are."""

from __future__ import annotations

from typing import Any, TypeVar

Class = TypeVar("Class", bound=type[Any])


def compared_without_last(cls: Class) -> Class:
    """A named tuple whose last field (how a tool had printed it, what a rule has counted) takes no part in comparing and hashing."""

    def same(one: tuple[Any, ...], other: object) -> bool:
        return isinstance(other, cls) and one[:-1] == other[:-1]

    def differs(one: tuple[Any, ...], other: object) -> bool:
        return not same(one, other)

    def hashed(one: tuple[Any, ...]) -> int:
        return hash(one[:-1])

    for name, method in {"__eq__": same, "__ne__": differs, "__hash__": hashed}.items():
        setattr(cls, name, method)
    return cls

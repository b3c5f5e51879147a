"""Bob Jenkins' lookup3 hash over 32-bit words, and how the kernel scales a hash. Source: include/linux/jhash.h, include/linux/reciprocal_div.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_MASK: Final = 0xFFFFFFFF
_INITIAL: Final = 0xDEADBEEF
_FINAL: Final = (14, 11, 25, 16, 4, 14, 24)


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _MASK


def jhash(words: Sequence[int], seed: int) -> int:
    """The hash of one to three 32-bit words (jhash2 of so many, jhash_1word)."""
    start = (_INITIAL + (len(words) << 2) + seed) & _MASK
    return _finished([(start + word) & _MASK for word in (*words, 0, 0)[:3]])


def _finished(state: list[int]) -> int:
    """Seven steps, beginning with the last word; each takes the one before in."""
    for step, bits in enumerate(_FINAL):
        now, before = (step + 2) % 3, (step + 1) % 3
        state[now] = ((state[now] ^ state[before]) - _rotate(state[before], bits)) & _MASK
    return state[2]


def scaled(number: int, below: int) -> int:
    """A 32-bit number scaled to 0 … ``below`` - 1 (reciprocal_scale)."""
    return number * below >> 32

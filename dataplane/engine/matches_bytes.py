"""Matches that read a packet's bytes: u32 and string. A Packet tells only some of them, so the answer may be that nobody knows.

Known are the header fields of IP, TCP, UDP and ICMP echoes; not known are checksums, options, flow labels and data.
Source: xt_u32.c, xt_string.c, lib/textsearch.c.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Final

from dataplane.engine.bind import Bind, Matcher
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import MatchRow, guess
from dataplane.engine.skb import Skb
from dataplane.inet import TCP, UDP
from dataplane.rules.iptables import Match

_FULL: Final = 0xFFFFFFFF
#: A number of so many bits, and which of them are known (those that are not are 0 in it).
Bits = tuple[int, int]


class KnownBytes:
    """The packet from its IP header on, byte by byte, as far as it is known."""

    def __init__(self, skb: Skb) -> None:
        self.length = skb.length
        self.value = bytearray(skb.length)
        self.known = bytearray(skb.length)
        begin = self._ipv4(skb) if skb.family == 4 else self._ipv6(skb)
        if begin is not None and not skb.fragment_offset:
            self._transport(skb, begin)

    def _put(self, place: int, size: int, number: int, known: int | None = None) -> None:
        mask = (1 << 8 * size) - 1 if known is None else known
        for index, (one, bits) in enumerate(zip((number & mask).to_bytes(size, "big"), mask.to_bytes(size, "big"), strict=True)):
            if place + index < self.length:
                self.value[place + index], self.known[place + index] = one, bits

    def _ipv4(self, skb: Skb) -> int | None:
        self._put(0, 1, 0x45, 0xF0 if skb.ip_options else 0xFF)
        self._put(1, 1, skb.tos)
        self._put(2, 2, skb.length)
        self._put(4, 2, skb.ip_id, 0 if skb.local else None)
        self._put(6, 2, skb.dont_fragment << 14 | skb.more_fragments << 13 | skb.fragment_offset >> 3)
        self._put(8, 1, skb.ttl)
        self._put(9, 1, skb.protocol)
        self._put(12, 4, skb.saddr)
        self._put(16, 4, skb.daddr)
        return None if skb.ip_options else 20

    def _ipv6(self, skb: Skb) -> int | None:
        whole = not skb.ip_options and not skb.fragment_offset and not skb.more_fragments
        self._put(0, 4, 6 << 28 | skb.tos << 20, 0xFFF00000)
        self._put(4, 2, skb.length - 40)
        self._put(6, 1, skb.protocol, None if whole else 0)
        self._put(7, 1, skb.ttl)
        self._put(8, 16, skb.saddr)
        self._put(24, 16, skb.daddr)
        return 40 if whole else None

    def _transport(self, skb: Skb, begin: int) -> None:
        if skb.protocol in (TCP, UDP):
            self._put(begin, 2, skb.sport)
            self._put(begin + 2, 2, skb.dport)
        if skb.protocol == TCP:
            words = self.length - begin - skb.payload >> 2
            self._put(begin + 4, 4, skb.seq)
            self._put(begin + 8, 4, skb.ack)
            self._put(begin + 12, 1, words << 4, 0xF0 if 5 <= words <= 15 and not skb.more_fragments else 0)
            self._put(begin + 13, 1, skb.tcp_flags)
            self._put(begin + 14, 2, skb.window)
        elif skb.protocol == UDP:
            self._put(begin + 4, 2, self.length - begin, 0 if skb.more_fragments else None)
        elif skb.is_icmp:
            self._put(begin, 1, skb.icmp_type)
            self._put(begin + 1, 1, skb.icmp_code)

    def word(self, place: int) -> Bits | None:
        """Four bytes; None beyond the end."""
        if place + 4 > self.length:
            return None
        return int.from_bytes(self.value[place : place + 4], "big"), int.from_bytes(self.known[place : place + 4], "big")


# ---------------------------------------------------------------------- u32

_OPERATION: Final = re.compile(r"(<<|>>|&|@)?(0x[0-9a-f]+)")
Location = tuple[tuple[str, int], ...]
Ranges = tuple[tuple[int, int], ...]


def _tests(text: str) -> list[tuple[Location, Ranges]]:
    """As the option table spells them: location=ranges joined by &&."""
    made = []
    for test in text.split("&&"):
        location, _, ranges = test.partition("=")
        steps = tuple((step[1] or "@", int(step[2], 16)) for step in _OPERATION.finditer(location))
        spans = (span.partition(":") for span in ranges.split(","))
        made.append((steps, tuple((int(low, 16), int(high or low, 16)) for low, _, high in spans)))
    return made


def _read(packet: KnownBytes, steps: Location) -> Bits | None:
    """The number at a location, None where the packet ends before it; raises LookupError where nobody knows the place."""
    begin, (value, known) = 0, (0, _FULL)
    for step, number in steps:
        if step == "&":
            value, known = value & number, known | ~number & _FULL
        elif step == "<<":
            value, known = value << number & _FULL, (known << number | (1 << number) - 1) & _FULL
        elif step == ">>":
            value, known = value >> number, known >> number | ~(_FULL >> number) & _FULL
        else:
            if known != _FULL:
                raise LookupError
            begin += value
            found = packet.word(begin + number)
            if found is None:
                return None
            value, known = found
    return value, known


def _within(bits: Bits, ranges: Ranges) -> bool | None:
    least, most = bits[0], bits[0] | ~bits[1] & _FULL
    possible = [(low, high) for low, high in ranges if most >= low and least <= high]
    possible = [(low, high) for low, high in possible if low != high or not (low ^ bits[0]) & bits[1]]
    if any(low <= least and most <= high for low, high in possible):
        return True
    return None if possible else False


def _all_hold(packet: KnownBytes, tests: Sequence[tuple[Location, Ranges]]) -> bool | None:
    """A test that fails for certain decides; None where nobody knows."""
    answers: list[bool | None] = []
    for steps, ranges in tests:
        try:
            bits = _read(packet, steps)
        except LookupError:
            answers.append(None)
            continue
        answers.append(False if bits is None else _within(bits, ranges))
    return False if False in answers else None if None in answers else True


def _u32(match: Match, bind: Bind) -> Matcher:
    tests, negated = _tests(match.options[0].value), match.options[0].negated
    return _answered(lambda packet: _all_hold(packet, tests), "-m u32 reads bytes that are not known", negated, bind)


# ---------------------------------------------------------------------- string


def _string(match: Match, bind: Bind) -> Matcher:
    """The text stands whole between --from and --to (skb_find_text)."""
    options = {option.name: option for option in match.options}
    given = options["string"] if "string" in options else options["hex-string"]
    text: bytes = given.value
    low, high = (options[name].value if name in options else usual for name, usual in (("from", 0), ("to", 65535)))
    same: Callable[[int, int], bool] = operator.eq
    if "icase" in options:
        same = lambda one, other: bytes((one,)).lower() == bytes((other,)).lower()  # noqa: E731 - one of two tests

    def found(packet: KnownBytes) -> bool | None:
        answer: bool | None = False
        for start in range(low, min(high, packet.length) - len(text) + 1):
            here = _stands_at(packet, start, text, same)
            if here:
                return True
            answer = None if here is None else answer
        return answer

    return _answered(found, "-m string reads data that are not known", given.negated, bind)


def _stands_at(packet: KnownBytes, start: int, text: bytes, same: Callable[[int, int], bool]) -> bool | None:
    answer: bool | None = True
    for place, wanted in enumerate(text, start):
        if packet.known[place] != 0xFF:
            answer = None
        elif not same(packet.value[place], wanted):
            return False
    return answer


def _answered(ask: Callable[[KnownBytes], bool | None], unknown: str, negated: bool, bind: Bind) -> Matcher:
    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        answer = ask(KnownBytes(skb)) if skb.length else None
        return guess(bind, unknown) if answer is None else answer != negated

    return matcher


ROWS: Final[dict[str, MatchRow]] = {"u32": MatchRow(_u32, pure=False), "string": MatchRow(_string, pure=False)}

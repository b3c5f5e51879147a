"""The chains of a table as the text they were read from: rules are made when a chain is asked for.

A large node has a hundred thousand chains, of which a packet meets a dozen. So the text is kept, in small compressed blocks, and of each chain
only where its lines are. Everything was checked when it was read: making rules cannot fail.
"""

from __future__ import annotations

import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final

from dataplane.errors import ParseError
from dataplane.rules.iptables import Chain, Counters, Rule
from dataplane.text.iptables_rule import RuleError, print_rule, problem, read_rule, split
from dataplane.text.iptables_shapes import canonical, shape

_BLOCK: Final = 1 << 12  # characters
COUNTED: Final = re.compile(r"\[(\d+):(\d+)\] ")

Span = tuple[int, int]  # from and to, in characters of a Text


class Text:
    """A long text, compressed in blocks; the one read last stays open."""

    def __init__(self, text: str) -> None:
        self._blocks = [zlib.compress(text[at : at + _BLOCK].encode(), 1) for at in range(0, len(text), _BLOCK)]
        self._open = -1, ""

    def _block(self, number: int) -> str:
        if self._open[0] != number:
            self._open = number, zlib.decompress(self._blocks[number]).decode()
        return self._open[1]

    def read(self, span: Span) -> str:
        """The characters of a span."""
        start, end = span
        first, last = start // _BLOCK, (end - 1) // _BLOCK
        text = self._block(first) if first == last else "".join(map(self._block, range(first, last + 1)))
        return text[start - first * _BLOCK : end - first * _BLOCK]


_NO_COUNTERS: Final = Counters()


class Body:
    """A chain that is more than lines of a text: it has a policy or counters, stands in several places, or was edited."""

    __slots__ = ("counters", "parts", "policy")

    def __init__(self, policy: str | None = None, counters: Counters = _NO_COUNTERS, parts: Iterable[Span | Rule] = ()) -> None:
        self.policy = policy
        self.counters = counters
        self.parts = list(parts)


class TextChains(Mapping[str, Chain]):
    """The chains of a table, in order. A plain user chain is a span of the text (possibly empty); any other is a Body."""

    def __init__(self, bodies: Mapping[str, Span | Body], text: Text, family: int, flavour: str = "") -> None:
        names = list(bodies)
        self._text, self._family, self._flavour = text, family, flavour
        self._names = "\n".join(names)
        self._ends = array("I")
        self._spans = array("I")
        self._bodies: dict[str, Body] = {}
        end = -1
        for name, body in bodies.items():
            end += len(name) + 1
            self._ends.append(end)
            if isinstance(body, Body):
                self._bodies[name] = body
                body = 0, 0
            self._spans.extend(body)
        self._order = array("I", sorted(range(len(names)), key=names.__getitem__))

    def _name(self, number: int) -> str:
        return self._names[self._ends[number - 1] + 1 if number else 0 : self._ends[number]]

    def _find(self, name: str) -> int | None:
        order: Sequence[int] = self._order
        place = bisect_left(order, name, key=self._name)
        return order[place] if place < len(order) and self._name(order[place]) == name else None

    def _parts(self, name: str, number: int | None) -> Sequence[Span | Rule]:
        if number is None:
            raise KeyError(name)
        body = self._bodies.get(name)
        if body is not None:
            return body.parts
        span = self._spans[2 * number], self._spans[2 * number + 1]
        return (span,) if span[1] else ()

    def __getitem__(self, name: str) -> Chain:
        rules: list[Rule] = []
        for part in self._parts(name, self._find(name)):
            if isinstance(part, Rule):
                rules.append(part)
            else:
                rules += read_span(self._text.read(part), self._family, self, self._flavour)
        body = self._bodies.get(name)
        return Chain(name, None, tuple(rules)) if body is None else Chain(name, body.policy, tuple(rules), body.counters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.split("\n") if self._ends else ())

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]  # a mapping is compared by its contents

    def heads(self) -> Iterator[tuple[str, str | None, Counters]]:
        """Name, policy and counters of each chain in order, without its rules."""
        bodies, plain = self._bodies, Counters()
        for name in self:
            body = bodies.get(name)
            yield (name, None, plain) if body is None else (name, body.policy, body.counters)

    def source(self, name: str) -> str | None:
        """A chain's rules as they were written, with their counters; None where they are not text any more."""
        parts = self._parts(name, self._find(name))
        texts = [self._text.read(part) for part in parts if not isinstance(part, Rule)]
        return "".join(texts) if len(texts) == len(parts) else None

    def written(self) -> str:
        """All rules, each with its chain, as they were written (not as iptables-save prints them): input for a restore."""
        plain = (self._text.read((start, end)) for start, end in sorted(zip(self._spans[::2], self._spans[1::2], strict=True)) if end)
        others = (
            f"{print_line(name, part, self._family, self._flavour)}\n" if isinstance(part, Rule) else self._text.read(part)
            for name, body in self._bodies.items() for part in body.parts
        )  # fmt: skip
        return "".join((*others, *plain))

    def lines(self, name: str) -> list[str]:
        """The rules of a chain as iptables-save prints them."""
        return self._lines(name, self._find(name))

    def all_lines(self) -> Iterator[list[str]]:
        """The rules of each chain in order, as iptables-save prints them."""
        return (self._lines(name, number) for number, name in enumerate(self))

    def _lines(self, name: str, number: int | None) -> list[str]:
        family, printed = self._family, []
        for part in self._parts(name, number):
            if isinstance(part, Rule):
                printed.append(print_line(name, part, family, self._flavour))
                continue
            text, position = self._text.read(part), 0
            for found in shape(family).finditer(text):
                line = canonical(found, family)
                if line is not None and (found.start() == 0 or text[found.start() - 1] == "\n"):
                    printed += self._read_and_printed(text[position : found.start()], name)
                    printed.append(line)
                    position = found.end()
            printed += self._read_and_printed(text[position:], name)
        return printed

    def _read_and_printed(self, text: str, name: str) -> list[str]:
        return [
            print_line(name, rule, self._family, self._flavour) for rule in read_span(text, self._family, self, self._flavour)
        ] if text else []


def print_line(chain: str, rule: Rule, family: int, flavour: str = "") -> str:
    """A rule with its chain, and its counters where it has some."""
    counted = f"[{rule.counters.packets}:{rule.counters.bytes}] " if rule.counters is not None else ""
    words = print_rule(rule, family, flavour=flavour)
    return f"{counted}-A {chain} {words}" if words else f"{counted}-A {chain}"


def read_line(line: str, number: int, family: int, chains: Container[str] | None, file: str, flavour: str = "") -> tuple[str, list[Rule]]:
    """Chain and rules (several where address lists are given) of a ``[counters] -A CHAIN …`` line. Raises ParseError."""
    counters: Counters | None = None
    try:
        words = split(line)
        if words and words[0].text.startswith("["):
            found = COUNTED.match(line)
            if found:
                counters = Counters(int(found.group(1)), int(found.group(2)))
                words = words[1:]
        if len(words) < 2 or words[0].text not in ("-A", "--append"):
            raise RuleError("expected -A CHAIN", words[0].column if words else 1)
        rules = read_rule(words[2:], family, chains, flavour=flavour)
    except RuleError as error:
        raise ParseError(problem(error, file, number, line)) from None
    if counters is not None:
        rules = [_counted(rule, counters) for rule in rules]
    return words[1].text, rules


def read_span(text: str, family: int, chains: Container[str], flavour: str = "") -> list[Rule]:
    """The rules of whole lines that were checked before."""
    rules: list[Rule] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        rules += read_line(line, number, family, chains, "", flavour)[1]
    return rules


def _counted(rule: Rule, counters: Counters) -> Rule:
    return Rule(
        rule.source, rule.destination, rule.in_interface, rule.out_interface, rule.protocol, rule.fragment, rule.matches, rule.target, counters
    )  # fmt: skip

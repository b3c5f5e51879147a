"""One iptables rule: from its words to a Rule and back to the text that iptables-save prints.

Reads whatever iptables-restore accepts (long and short options, unique prefixes of long ones, implied ``-m tcp``, comma lists of
addresses) and prints the canonical form. Knows single rules only: tables and chains are text/iptables.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final, NamedTuple

from dataplane.errors import Problem
from dataplane.inet import PROTOCOL_NAMES, Prefix
from dataplane.rules.iptables import Counters, Jump, Match, Negatable, Option, Rule, Target
from dataplane.text import xtables_kinds as kinds
from dataplane.text.xtables_options import FAMILY_DEFAULTS, MATCHES, TARGETS, Extension, Row

_HEADER: Final = {
    "-p": "protocol", "--protocol": "protocol", "--proto": "protocol", "-s": "source", "--source": "source", "--src": "source",
    "-d": "destination", "--destination": "destination", "--dst": "destination", "-i": "in", "--in-interface": "in",
    "-o": "out", "--out-interface": "out", "-f": "fragment", "--fragment": "fragment", "-j": "jump", "--jump": "jump",
    "-g": "goto", "--goto": "goto", "-m": "match", "--match": "match", "-c": "counters", "--set-counters": "counters",
}  # fmt: skip
_IMPLIED: Final = {"icmp": "icmp", "ipv6-icmp": "icmp6", "tcp": "tcp", "udp": "udp", "sctp": "sctp", "udplite": "udplite", "dccp": "dccp"}
#: Extensions that exist but have no row; a word that is none of these and no chain is a chain that does not exist.
OTHER_TARGETS: Final = frozenset((
    "AUDIT", "CLUSTERIP", "CONNSECMARK", "DNPT", "ECN", "HMARK", "IDLETIMER", "LED", "MIRROR", "RATEEST", "SECMARK", "SNPT",
    "SYNPROXY", "TCPOPTSTRIP", "TEE", "ULOG", "SAME", "DELUDE", "TARPIT", "CHAOS", "ECHO", "ACCOUNT", "IPMARK", "LOGMARK", "FLOWOFFLOAD",
))  # fmt: skip


class Word(NamedTuple):
    """One word of a line and where it begins (column from 1)."""

    text: str
    column: int


class RuleError(ValueError):
    """A word that cannot be understood; ``column`` is its place in the line, from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


def split(line: str) -> list[Word]:
    """Splits a line as iptables-restore does: blanks separate, double quotes hold together, a backslash escapes inside them."""
    words: list[Word] = []
    position, length = 0, len(line)
    while position < length:
        if line[position] in " \t":
            position += 1
            continue
        start, text, quoted = position, "", False
        while position < length and (quoted or line[position] not in " \t"):
            char = line[position]
            if char == '"':
                quoted = not quoted
            elif char == "\\" and quoted and position + 1 < length:
                position += 1
                text += line[position]
            else:
                text += char
            position += 1
        if quoted:
            raise RuleError("a quotation mark is not closed", start + 1)
        words.append(Word(text, start + 1))
    return words


@dataclass(slots=True)
class _Loaded:
    """An extension in use while a rule is read."""

    name: str
    extension: Extension | None
    is_target: bool
    options: dict[str, Option] = field(default_factory=dict)
    verbatim: list[str] = field(default_factory=list)


class _Reader:
    """Reads one rule's words after ``-A CHAIN``."""

    def __init__(self, words: Sequence[Word], family: int, chains: Container[str] | None) -> None:
        self.words = words
        self.family = family
        self.chains = chains
        self.position = 0
        self.loaded: list[_Loaded] = []
        self.header: dict[str, Negatable] = {}
        self.addresses: dict[str, tuple[list[Prefix], bool]] = {}
        self.jump: Jump | None = None
        self.counters: Counters | None = None

    def rules(self) -> list[Rule]:
        while self.position < len(self.words):
            self._option()
        target, matches = self._target(), tuple(self._match(one) for one in self.loaded if not one.is_target)
        sources, source_negated = self.addresses.get("source", ([None], False))
        targets, target_negated = self.addresses.get("destination", ([None], False))
        return [
            Rule(
                _unless_any(source, source_negated), _unless_any(destination, target_negated), self.header.get("in"), self.header.get("out"),
                self.header.get("protocol"), self.header.get("fragment"), matches, target, self.counters,
            )
            for source, destination in product(sources, targets)
        ]  # fmt: skip

    def _next(self, after: Word, expected: str) -> Word:
        if self.position >= len(self.words):
            raise RuleError(f"{after.text} needs {expected}", after.column)
        self.position += 1
        return self.words[self.position - 1]

    def _option(self) -> None:
        word = self._next(self.words[0], "an option")
        negated = word.text == "!"
        if negated:
            word = self._next(word, "an option behind it")
        kind = _HEADER.get(word.text)
        if kind is None and word.text.startswith("--"):
            kind = self._header_prefix(word.text)
        if kind is None:
            self._extension_option(word, negated)
        elif kind in ("match", "jump", "goto", "counters"):
            if negated:
                raise RuleError(f"{word.text} cannot be inverted", word.column)
            getattr(self, f"_{kind}_option")(word)
        else:
            self._header_option(kind, word, negated)

    def _header_prefix(self, text: str) -> str | None:
        if any(text[2:] in _spellings(one) for one in self.loaded):
            return None
        found = {kind for name, kind in _HEADER.items() if name.startswith(text) and len(text) > 3}
        others = any(spelling.startswith(text[2:]) for one in self.loaded for spelling in _spellings(one))
        return found.pop() if len(found) == 1 and not others else None

    def _header_option(self, kind: str, word: Word, negated: bool) -> None:
        if kind == "fragment":
            if self.family == 6:
                raise RuleError("-f is for IPv4 only", word.column)
            self.header["fragment"] = Negatable(True, negated)
            return
        value = self._next(word, "an argument")
        if value.text == "!":
            negated, value = not negated, self._next(word, "an argument")
        try:
            if kind in ("source", "destination"):
                prefixes = [kinds.address(part, self.family) for part in value.text.split(",")]
                if negated and len(prefixes) > 1:
                    raise ValueError("! is not allowed with several addresses")
                self.addresses[kind] = (prefixes, negated)
            elif kind == "protocol":
                number = kinds.protocol(value.text)
                if number == 0 and negated:
                    raise ValueError("rule would never match protocol")
                if number:
                    self.header[kind] = Negatable(number, negated)
            else:
                if not value.text or len(value.text) > 15:
                    raise ValueError(f"interface name {value.text!r} must have 1 to 15 characters")
                if value.text != "+" or negated:
                    self.header[kind] = Negatable(value.text, negated)
        except ValueError as error:
            raise RuleError(str(error), value.column) from None

    def _match_option(self, word: Word) -> None:
        name = self._next(word, "the name of a match").text
        name = {"icmpv6": "icmp6"}.get(name, name)
        self._load(name, is_target=False)

    def _load(self, name: str, *, is_target: bool) -> _Loaded:
        table = TARGETS if is_target else MATCHES
        extension = table.get(name)
        if extension is not None and self.family not in extension.families:
            extension = None
        one = _Loaded(name, extension, is_target)
        self.loaded.append(one)
        return one

    def _jump_option(self, word: Word) -> None:
        name = self._next(word, "a target")
        self._no_target_yet(name)
        if self.chains is not None and name.text in self.chains:
            self.jump = Jump(name.text)
        else:
            self._load(name.text, is_target=True)

    def _goto_option(self, word: Word) -> None:
        name = self._next(word, "a chain")
        self._no_target_yet(name)
        if self.chains is not None and name.text not in self.chains:
            raise RuleError(f"goto {name.text!r} is not a chain", name.column)
        self.jump = Jump(name.text, goto=True)

    def _no_target_yet(self, word: Word) -> None:
        if self.jump is not None or any(one.is_target for one in self.loaded):
            raise RuleError("a rule has one target only", word.column)

    def _counters_option(self, word: Word) -> None:
        packets, size = self._next(word, "two numbers"), self._next(word, "two numbers")
        try:
            self.counters = Counters(kinds.number(packets.text, 0, 1 << 64), kinds.number(size.text, 0, 1 << 64))
        except ValueError as error:
            raise RuleError(str(error), packets.column) from None

    def _extension_option(self, word: Word, negated: bool) -> None:
        name = word.text[2:] if word.text.startswith("--") else ""
        found = self._find(name) if name else None
        if found is None and name and "protocol" in self.header:
            found = self._find_implied(name)
        if found is None:
            last = self.loaded[-1] if self.loaded else None
            if last is not None and last.extension is None:
                last.verbatim.extend((["!"] if negated else []) + [word.text])
                return
            raise RuleError(f"unknown option {word.text!r}", word.column)
        one, canonical = found
        assert one.extension is not None
        self._take(one, one.extension, canonical, word, negated)

    def _find(self, name: str) -> tuple[_Loaded, str] | None:
        for one in reversed(self.loaded):
            if one.extension is not None and name in _spellings(one):
                return one, name
        for one in reversed(self.loaded):
            if one.extension is None:
                continue
            found = {_canonical(one.extension, spelling): spelling for spelling in _spellings(one) if spelling.startswith(name)}
            if len(found) == 1:
                return one, next(iter(found.values()))
        return None

    def _find_implied(self, name: str) -> tuple[_Loaded, str] | None:
        protocol = self.header["protocol"]
        implied = _IMPLIED.get(PROTOCOL_NAMES.get(protocol.value, ""))
        if implied is None or protocol.negated or any(one.name == implied for one in self.loaded):
            return None
        one = _Loaded(implied, MATCHES[implied], False)
        if not any(spelling.startswith(name) for spelling in _spellings(one)):
            return None
        self.loaded.append(one)
        return self._find(name)

    def _take(self, one: _Loaded, extension: Extension, spelling: str, word: Word, negated: bool) -> None:
        name = extension.aliases.get(spelling, spelling)
        row, rewrite = extension.row(name), extension.rewrites.get(name)
        kind = rewrite[0] if rewrite is not None else row.kind if row is not None else kinds.FLAG
        values: list[Word] = []
        for _ in range(kind.words):
            value = self._next(word, "an argument")
            if value.text == "!" and not values and not negated:
                negated, value = True, self._next(word, "an argument")
            values.append(value)
        if negated and row is not None and not row.negatable:
            raise RuleError(f"--{name} cannot be inverted", word.column)
        try:
            value = kind.parse([one.text for one in values], self.family)
        except ValueError as error:
            raise RuleError(str(error), values[0].column if values else word.column) from None
        made = rewrite[1](value) if rewrite is not None else (Option(name, value),)
        for option in made:
            if option.name in one.options and one.name != "multiport":
                raise RuleError(f"--{option.name} is given twice", word.column)
            one.options[option.name] = Option(option.name, option.value, negated)

    def _match(self, one: _Loaded) -> Match:
        if one.extension is None:
            return Match(one.name, (), " ".join(_requoted(text) for text in one.verbatim))
        return Match(one.name, _completed(one, one.extension, self.family))

    def _target(self) -> Target | Jump | None:
        for one in self.loaded:
            if not one.is_target:
                continue
            if one.extension is None:
                known = one.verbatim or one.name in OTHER_TARGETS or self.chains is None
                if not known:
                    raise RuleError(f"no chain/target/match by the name {one.name!r}", self._column_of(one.name))
                return Target(one.name, (), " ".join(_requoted(text) for text in one.verbatim))
            return Target(one.name, _completed(one, one.extension, self.family))
        return self.jump

    def _column_of(self, text: str) -> int:
        return next((word.column for word in self.words if word.text == text), 1)


def _requoted(text: str) -> str:
    return text if re.fullmatch(r"[^\s\"]+", text) else '"' + re.sub(r"([\"\\])", r"\\\1", text) + '"'


def _unless_any(prefix: Prefix | None, negated: bool) -> Negatable | None:
    if prefix is None or (prefix.mask == 0 and not negated):
        return None
    return Negatable(prefix, negated)


def _spellings(one: _Loaded) -> Iterator[str]:
    if one.extension is not None:
        yield from (row.name for row in one.extension.rows)
        yield from one.extension.aliases
        yield from one.extension.rewrites


def _canonical(extension: Extension, spelling: str) -> str:
    return extension.aliases.get(spelling, spelling)


def _completed(one: _Loaded, extension: Extension, family: int) -> tuple[Option, ...]:
    """Options in the order of the table, with defaults that save always prints."""
    options = dict(one.options)
    for row in extension.rows:
        if row.default is not None and row.name not in options:
            special = FAMILY_DEFAULTS.get((one.name, row.name))
            options[row.name] = Option(row.name, special[family] if special is not None else row.default)
    if one.name == "recent" and "rsource" not in options and "rdest" not in options:
        options["rsource"] = Option("rsource")
    if one.name == "statistic" and options.get("every") is not None and "packet" not in options:
        options["packet"] = Option("packet", 0)
    if one.name == "connlimit":
        options.setdefault("connlimit-mask", Option("connlimit-mask", 32 if family == 4 else 128))
        if "connlimit-daddr" not in options:
            options.setdefault("connlimit-saddr", Option("connlimit-saddr"))
    if one.name == "CONNMARK" and ("save-mark" in options or "restore-mark" in options):
        for name in ("nfmask", "ctmask"):
            options.setdefault(name, Option(name, 0xFFFFFFFF))
    return tuple(options[row.name] for row in extension.rows if row.name in options)


def read_rule(words: Sequence[Word], family: int, chains: Container[str] | None = None) -> list[Rule]:
    """The rules that the words after ``-A CHAIN`` stand for (several where an address list is given). Raises RuleError.

    ``chains`` are the table's chains; without them every unknown target is taken as it is.
    """
    if not words:
        return [Rule()]
    return _Reader(words, family, chains).rules()


# ---------------------------------------------------------------------- printing


def print_rule(rule: Rule, family: int) -> str:
    """The rule as iptables-save prints it behind ``-A CHAIN`` (empty for a rule without anything)."""
    parts: list[str] = []
    for letter, field_ in (("s", rule.source), ("d", rule.destination)):
        if field_ is not None:
            parts.append(f"{'! ' if field_.negated else ''}-{letter} {field_.value}")
    for letter, field_ in (("i", rule.in_interface), ("o", rule.out_interface)):
        if field_ is not None:
            parts.append(f"{'! ' if field_.negated else ''}-{letter} {field_.value}")
    if rule.protocol is not None:
        name = PROTOCOL_NAMES.get(rule.protocol.value, str(rule.protocol.value))
        parts.append(f"{'! ' if rule.protocol.negated else ''}-p {name}")
    if rule.fragment is not None:
        parts.append("! -f" if rule.fragment.negated else "-f")
    for match in rule.matches:
        parts.append(f"-m {match.name}")
        parts.extend(_options(match, MATCHES.get(match.name), family))
    target = rule.target
    if isinstance(target, Jump):
        parts.append(f"-{'g' if target.goto else 'j'} {target.chain}")
    elif target is not None:
        parts.append(f"-j {target.name}")
        parts.extend(_options(target, TARGETS.get(target.name), family))
    return " ".join(parts)


def _options(one: Match | Target, extension: Extension | None, family: int) -> Iterator[str]:
    if one.verbatim is not None or extension is None:
        if one.verbatim:
            yield one.verbatim
        return
    for option in one.options:
        row = extension.row(option.name)
        assert row is not None
        if row.hidden is not None and option.value == row.hidden and not option.negated:
            continue
        yield _one_option(option, row, family)


def _one_option(option: Option, row: Row, family: int) -> str:
    text = f"{'! ' if option.negated else ''}--{option.name}"
    if row.kind.words:
        text += row.separator + row.kind.show(option.value, family)
    return text


def problem(error: RuleError, file: str, line: int, source: str) -> Problem:
    """The error, placed in its file."""
    return Problem(str(error), file, line, error.column, source=source)


__all__ = ["OTHER_TARGETS", "RuleError", "Word", "print_rule", "problem", "read_rule", "split"]

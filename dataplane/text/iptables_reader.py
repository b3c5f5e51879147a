"""One iptables rule read from its words, as iptables-restore's getopt_long and the extensions' own parsers read it.

Long options may be cut to a unique prefix, those of extensions joined with "="; an unknown option with -p tcp loads -m tcp. Source: iptables/xshared.c, libxtables/xtoptions.c of iptables 1.8.9.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple

from dataplane.inet import PROTOCOL_NAMES, Prefix
from dataplane.rules.iptables import Counters, Jump, Match, Negatable, Option, Rule, Target
from dataplane.text import xtables_kinds as kinds
from dataplane.text.xtables_options import MATCHES, TARGETS, Extension, Facts, completed, of_family, spellings

_LONG: Final = {
    "source": "source", "src": "source", "destination": "destination", "dst": "destination", "protocol": "protocol", "in-interface": "in",
    "out-interface": "out", "fragments": "fragment", "jump": "jump", "goto": "goto", "match": "match", "set-counters": "counters",
}  # fmt: skip
_SHORT: Final = {
    "s": "source", "d": "destination", "p": "protocol", "i": "in", "o": "out", "f": "fragment", "j": "jump", "g": "goto", "m": "match",
    "c": "counters",
}  # fmt: skip
#: Long options of the command itself, which make a prefix ambiguous.
_COMMANDS: Final = (
    "append", "delete", "check", "insert", "replace", "list", "list-rules", "flush", "zero", "new-chain", "delete-chain", "rename-chain",
    "policy", "table", "numeric", "verbose", "wait", "wait-interval", "exact", "version", "help", "line-numbers", "modprobe", "ipv4", "ipv6",
)  # fmt: skip
_IMPLIED: Final = {
    "icmp": "icmp", "ipv6-icmp": "icmp6", "icmpv6": "icmp6", "tcp": "tcp", "udp": "udp", "sctp": "sctp", "dccp": "dccp", "esp": "esp",
    "ah": "ah", "ipcomp": "ipcomp", "mh": "mh",
}  # fmt: skip
_PLAIN: Final = re.compile(r'[^ \t"]+(?=[ \t]|$)')
#: Extensions that exist but have no row; a word that is none of these and no chain is a chain that does not exist.
OTHER_TARGETS: Final = frozenset((
    "CLUSTERIP", "LED", "MIRROR", "ULOG", "SAME", "DELUDE", "TARPIT", "CHAOS", "ECHO", "ACCOUNT", "IPMARK", "LOGMARK", "FLOWOFFLOAD",
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
    """Splits a line as iptables-restore does: blanks and closing quotes end a word, a backslash escapes inside quotes."""
    words: list[Word] = []
    position, length = 0, len(line)
    while position < length:
        if line[position] in " \t":
            position += 1
            continue
        plain = _PLAIN.match(line, position)
        if plain is not None:
            words.append(Word(plain[0], position + 1))
            position = plain.end()
            continue
        start, text, quoted = position, "", False
        while position < length and (quoted or line[position] not in " \t"):
            char = line[position]
            position += 1
            if char == '"':
                quoted = not quoted
                if not quoted:
                    break
            elif char == "\\" and quoted and position < length:
                text += line[position]
                position += 1
            else:
                text += char
        if quoted:
            raise RuleError("a quotation mark is not closed", start + 1)
        words.append(Word(text, start + 1))
    return words


class _Loaded(NamedTuple):
    """An extension in use while a rule is read."""

    name: str
    extension: Extension | None
    is_target: bool
    column: int
    options: list[Option]
    verbatim: list[str]

    def spellings(self) -> Mapping[str, str]:
        """Every name of an option, and the row or rewrite that it stands for."""
        return spellings(self.extension) if self.extension is not None else {}


class Reader:
    """Reads one rule's words after ``-A CHAIN``."""

    def __init__(self, words: Sequence[Word], family: int, chains: Container[str] | None, flavour: str) -> None:
        self.words = words
        self.family = family
        self.chains = chains
        self.flavour = flavour
        self.position = 0
        self.glued: Word | None = None
        self.loaded: list[_Loaded] = []
        self.header: dict[str, Negatable] = {}
        self.addresses: dict[str, tuple[list[Prefix], bool]] = {}
        self.protocol_name = ""
        self.jump: Jump | None = None
        self.counters: Counters | None = None

    def rules(self) -> list[Rule]:
        """The rule, or one for every pair of addresses. Raises RuleError."""
        while self.position < len(self.words):
            self._option()
        facts = self._facts()
        target, matches = self._target(facts), tuple(self._match(one, facts) for one in self.loaded if not one.is_target)
        sources, source_negated = self.addresses.get("source", ([None], False))
        targets, target_negated = self.addresses.get("destination", ([None], False))
        return [
            Rule(
                _unless_any(source, source_negated), _unless_any(destination, target_negated), self.header.get("in"), self.header.get("out"),
                self.header.get("protocol"), self.header.get("fragment"), matches, target, self.counters,
            )
            for source, destination in product(sources, targets)
        ]  # fmt: skip

    # ------------------------------------------------------------------ words

    def _next(self, after: Word, expected: str) -> Word:
        if self.glued is not None:
            word, self.glued = self.glued, None
            return word
        if self.position >= len(self.words):
            raise RuleError(f"{after.text} needs {expected}", after.column)
        self.position += 1
        return self.words[self.position - 1]

    def _option(self) -> None:
        word = self._next(self.words[0], "an option")
        negated = word.text == "!"
        if negated:
            word = self._next(word, "an option behind it")
        kind = self._header_kind(word)
        if kind is None:
            self._extension_option(word, negated)
        elif kind in ("match", "jump", "goto", "counters"):
            if negated:
                raise RuleError(f"{word.text} cannot be inverted", word.column)
            getattr(self, f"_{kind}_option")(word)
        else:
            self._header_option(kind, word, negated)
        if self.glued is not None:
            raise RuleError(f"{word.text} takes no value", word.column)

    def _header_kind(self, word: Word) -> str | None:
        """The rule's own option that a word is. Of those only -m takes a value that is glued to it: of others the tool takes it all."""
        short = _SHORT.get(word.text[1:2]) if word.text[:1] == "-" else None
        if short is not None and len(word.text) > 2:
            self.glued = Word(word.text[2:], word.column + 2)
            self._only_a_match(short, word)
        if short is not None:
            return short
        if not word.text.startswith("--"):
            return None
        name, equals, value = word.text[2:].partition("=")
        kind = _LONG.get(name)
        if kind is None and not self._last_is_unknown():
            found = self._candidates(name)
            kind = found.pop()[1] if len(found) == 1 and next(iter(found))[0] is None else None
        if kind is not None and equals:
            self._only_a_match(kind, word)
            self.glued = Word(value, word.column + 3 + len(name))
        return kind

    @staticmethod
    def _only_a_match(kind: str, word: Word) -> None:
        if kind != "match":
            raise RuleError(f"iptables-restore does not take {word.text!r}: its value must be a word of its own", word.column)

    def _last_is_unknown(self) -> bool:
        return bool(self.loaded) and self.loaded[-1].extension is None

    def _candidates(self, name: str) -> set[tuple[int | None, str]]:
        """What a name or a prefix of one may stand for: (None, kind of header option) or (place in ``loaded``, row)."""
        for place in reversed(range(len(self.loaded))):
            exact = self.loaded[place].spellings().get(name)
            if exact is not None:
                return {(place, exact)}
        if not name:
            return set()
        found: set[tuple[int | None, str]] = {(None, kind) for long, kind in _LONG.items() if long.startswith(name)}
        found |= {(None, command) for command in _COMMANDS if command.startswith(name)}
        for place, one in enumerate(self.loaded):
            found |= {(place, row) for spelling, row in one.spellings().items() if spelling.startswith(name)}
        return found

    # ------------------------------------------------------------------ the rule's own options

    def _header_option(self, kind: str, word: Word, negated: bool) -> None:
        if kind in self.header or kind in self.addresses or (kind == "protocol" and self.protocol_name):
            raise RuleError(f"{word.text} is given twice", word.column)
        if kind == "fragment":
            if self.family == 6:
                raise RuleError("-f is for IPv4 only", word.column)
            self.header["fragment"] = Negatable(True, negated)
            return
        value = self._next(word, "an argument")
        try:
            if kind in ("source", "destination"):
                self._address(kind, value.text, negated)
            elif kind == "protocol":
                self._protocol(value.text, negated)
            else:
                if not value.text or len(value.text) > 15:
                    raise ValueError(f"interface name {value.text!r} must have 1 to 15 characters")
                if value.text != "+" or negated:
                    self.header[kind] = Negatable(value.text, negated)
        except ValueError as error:
            raise RuleError(str(error), value.column) from None

    def _address(self, kind: str, text: str, negated: bool) -> None:
        prefixes = [kinds.address(part, self.family) for part in text.split(",")]
        if negated and len(prefixes) > 1:
            raise ValueError("! is not allowed with several addresses")
        if negated and self.flavour == "nft" and prefixes[0].mask == 0:
            raise ValueError("nf_tables takes no inverted address that covers all")
        self.addresses[kind] = (prefixes, negated)

    def _protocol(self, text: str, negated: bool) -> None:
        number = kinds.protocol(text)
        if number == 0 and negated:
            raise ValueError("rule would never match protocol")
        self.protocol_name = PROTOCOL_NAMES.get(number, "") if text[:1].isdigit() else text.lower()
        if number:
            self.header["protocol"] = Negatable(number, negated)

    def _match_option(self, word: Word) -> None:
        name = self._next(word, "the name of a match")
        self._load({"icmpv6": "icmp6", "ipv6-icmp": "icmp6"}.get(name.text, name.text), name.column, is_target=False)

    def _load(self, name: str, column: int, *, is_target: bool) -> None:
        extension = (TARGETS if is_target else MATCHES).get(name)
        if extension is not None and self.family not in extension.families:
            raise RuleError(f"{name} is for IPv{extension.families[0]} only", column)
        self.loaded.append(_Loaded(name, of_family(extension, self.family) if extension is not None else None, is_target, column, [], []))

    def _jump_option(self, word: Word) -> None:
        name = self._next(word, "a target")
        self._no_target_yet(name)
        if self.chains is not None and name.text in self.chains:
            self.jump = Jump(name.text)
        else:
            self._load(name.text, name.column, is_target=True)

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

    # ------------------------------------------------------------------ options of extensions

    def _extension_option(self, word: Word, negated: bool) -> None:
        name, equals, value = word.text[2:].partition("=") if word.text.startswith("--") else ("", "", "")
        found = self._candidates(name) if name else set()
        if name and len(found) != 1 and self._load_implied(word):
            found = self._candidates(name)
        if len(found) != 1:
            if self._last_is_unknown():
                self.loaded[-1].verbatim.extend((["!"] if negated else []) + [word.text])
                return
            several = f"; it may be {', '.join(sorted(row for _, row in found))}" if found else ""
            raise RuleError(f"unknown option {word.text!r}{several}", word.column)
        place, row = found.pop()
        if place is None:
            raise RuleError(f"unknown option {word.text!r}", word.column)
        if equals:
            self.glued = Word(value, word.column + 3 + len(name))
        self._take(self.loaded[place], row, word, negated)

    def _load_implied(self, word: Word) -> bool:
        """-p tcp stands for -m tcp where an option asks for it; that it would do so in vain is found later."""
        implied = _IMPLIED.get(self.protocol_name)
        if implied is None or self.family not in MATCHES[implied].families or any(one.name == implied for one in self.loaded):
            return False
        self._load(implied, word.column, is_target=False)
        name = word.text[2:].partition("=")[0]
        if any(spelling.startswith(name) for spelling in self.loaded[-1].spellings()):
            return True
        self.loaded.pop()
        return False

    def _take(self, one: _Loaded, name: str, word: Word, negated: bool) -> None:
        assert one.extension is not None
        row, rewrite = one.extension.row(name), one.extension.rewrites.get(name)
        kind = rewrite[0] if rewrite is not None else row.kind if row is not None else kinds.FLAG
        values = [self._next(word, "an argument") for _ in range(kind.words)]
        try:
            value = kind.parse([one.text for one in values], self.family)
            made = rewrite[1](value) if rewrite is not None else (Option(name, value),)
        except ValueError as error:
            raise RuleError(str(error), values[0].column if values else word.column) from None
        for option in made:
            kept = one.extension.row(option.name)
            assert kept is not None
            if negated and not kept.negatable:
                raise RuleError(f"--{name} cannot be inverted", word.column)
            if not kept.repeated and any(other.name == option.name for other in one.options):
                raise RuleError(f"--{option.name} is given twice", word.column)
            one.options.append(Option(option.name, option.value, negated))

    # ------------------------------------------------------------------ the end of the rule

    def _facts(self) -> Facts:
        protocol = self.header.get("protocol")
        syn = any(
            option.name == "tcp-flags" and option.value[1] & 2 and not option.negated
            for one in self.loaded if one.name == "tcp" for option in one.options
        )  # fmt: skip
        named = protocol.value if protocol is not None else None
        return Facts(self.family, None if protocol is None or protocol.negated else named, named, syn, self.flavour)

    def _completed(self, one: _Loaded, extension: Extension, facts: Facts) -> tuple[Option, ...]:
        try:
            options = completed(one.options, extension, facts)
        except ValueError as error:
            raise RuleError(f"{one.name}: {error}", one.column) from None
        if self.flavour == "nft" and one.name == "NFLOG":
            options = tuple(option for option in options if option.name != "nflog-range")
        return options

    def _match(self, one: _Loaded, facts: Facts) -> Match:
        if one.extension is None:
            return Match(one.name, (), " ".join(_requoted(text) for text in one.verbatim))
        return Match(one.name, self._completed(one, one.extension, facts))

    def _target(self, facts: Facts) -> Target | Jump | None:
        for one in self.loaded:
            if not one.is_target:
                continue
            if one.extension is None:
                if not (one.verbatim or one.name in OTHER_TARGETS or self.chains is None):
                    raise RuleError(f"no chain/target/match by the name {one.name!r}", one.column)
                return Target(one.name, (), " ".join(_requoted(text) for text in one.verbatim))
            return Target(one.name, self._completed(one, one.extension, facts))
        return self.jump


def _requoted(text: str) -> str:
    return text if re.fullmatch(r"[^\s\"]+", text) else '"' + re.sub(r"([\"\\])", r"\\\1", text) + '"'


def _unless_any(prefix: Prefix | None, negated: bool) -> Negatable | None:
    if prefix is None or (prefix.mask == 0 and not negated):
        return None
    return Negatable(prefix, negated)

"""Reads what iptables-save prints and iptables-restore takes, table by table, and checks it as the kernel does at COMMIT.

Most lines of a large save have one of a few shapes (text/iptables_shapes): those are passed over in one sweep, noting where each chain's lines
are. Everything else is read line by line at once, so that every error is found here, with its place.
Source: iptables 1.8.9 (iptables-restore.c), checked against the real tools.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from dataplane.errors import ParseError, Problem
from dataplane.rules.iptables import BUILTIN_CHAINS, Counters, Jump, Rule, Table, Xtables
from dataplane.text.iptables_chains import COUNTED, Body, Span, Text, TextChains, read_line, read_span
from dataplane.text.iptables_rule import RuleError, problem, split
from dataplane.text.iptables_shapes import shape

_CHAIN_LINE: Final = re.compile(r":(\S+) (\S+)(?: \[(\d+):(\d+)\])?\s*")
_POLICIES: Final = frozenset(("ACCEPT", "DROP"))
_VERDICTS: Final = frozenset(("ACCEPT", "DROP", "RETURN", None))
_VERBS: Final = {
    "--append": "-A", "--insert": "-I", "--new-chain": "-N", "--flush": "-F", "--delete-chain": "-X", "--policy": "-P", "--delete": "-D",
}  # fmt: skip
_EMPTY: Final[Span] = (0, 0)


class Reader:
    """Reads one text. A table under construction maps each chain to the span of its lines, or to a Body where that is not enough."""

    def __init__(self, family: int, file: str, *, noflush: bool = False) -> None:
        self.family = family
        self.file = file
        self.noflush = noflush
        self.tables: dict[str, dict[str, Span | Body]] = {}
        self.headers: dict[str, tuple[str, str]] = {}
        self.flavour = ""  # of no particular tool
        self.warnings: list[Problem] = []
        self.problems: list[Problem] = []
        self.text = ""
        self.table: dict[str, Span | Body] | None = None
        self.table_name = ""
        self.generated = ""
        self.touched: set[str] = set()
        self.jumps: dict[str, _Jumps] = {}
        self.counted = (0, 1)  # a place in the text and the number of its line

    def start_from(self, xtables: Xtables) -> None:
        """Begins with the rules of another state."""
        self.flavour = xtables.flavour
        for name, table in xtables.tables.items():
            self.tables[name] = {chain.name: Body(chain.policy, chain.counters, list(chain.rules)) for chain in table.chains.values()}
            self.jumps[name] = jumps = _Jumps()
            for chain in table.chains.values():
                jumps.note(chain.name, chain.rules)

    def read(self, text: str, *, sort: bool = False) -> Xtables:
        """Reads the whole text; ``sort`` lists user chains by name, as the kernel does. Raises ParseError with all that is wrong."""
        if text.startswith("\ufeff"):
            text = text[1:]
        if "\r" in text:
            self._warn(1, "lines end in CR LF: the real iptables-restore refuses this file")
            text = text.replace("\r\n", "\n")
        self.text = text if text.endswith("\n") else f"{text}\n"
        self._sweep()
        if self.table is not None:
            self._fail(text.count("\n") + 1, f"the table {self.table_name} is not ended by COMMIT (is the file cut off?)")
        for name in self.tables:
            if not self.problems:
                self._check_jumps(name)
        if self.problems:
            raise ParseError(sorted(self.problems, key=lambda one: one.line or 0))
        kept = Text(self.text)
        tables = {
            name: Table(name, TextChains(_sorted(bodies, name) if sort else bodies, kept, self.family, self.flavour)) for name, bodies in self.tables.items()
        }  # fmt: skip
        return Xtables(self.family, tables, self.flavour or "legacy", self.headers)

    # ------------------------------------------------------------------ the sweep

    def _sweep(self) -> None:
        """Over the lines of a known shape; what stands between them is read line by line."""
        position = 0
        chain, begin = "", 0  # the chain whose rules are being passed over, and where they began
        table: dict[str, Span | Body] = {}
        jumps = _Jumps()
        for found in shape(self.family).finditer(self.text):
            start = found.start()
            if start != position:
                if start and self.text[start - 1] != "\n":
                    continue  # in the middle of a line of another shape
                self._span(chain, begin, position)
                self._lines(position, start)
                chain, position = "", start
                table = self.table if self.table is not None else {}
                jumps = self.jumps.get(self.table_name, jumps)
            name, jump, fed_jump, names = found.group("chain", "jump", "fed_jump", "names")
            if name != chain:
                if name not in table:
                    if names is not None and self.table is not None:
                        self._span(chain, begin, start)
                        chain = ""
                        for name in [line[1:-8] for line in names.split("\n")[:-1]]:
                            if table.setdefault(name, _EMPTY) is not _EMPTY:
                                table[name] = _EMPTY
                                jumps.forget(name)
                        position = found.end()
                    continue  # a rule of a chain that is not there: left to be told line by line
                self._span(chain, begin, start)
                chain, begin = name, start
            target = jump or fed_jump
            if target not in _VERDICTS:
                if target not in table:
                    self._span(chain, begin, start)
                    chain = ""
                    continue
                jumps.sources.append(name)
                jumps.targets.append(target)
            position = found.end()
        self._span(chain, begin, position)
        self._lines(position, len(self.text))

    def _span(self, chain: str, start: int, end: int) -> None:
        """The lines from ``start`` to ``end`` are rules of a chain ("": of none)."""
        if not chain or start == end:
            return
        assert self.table is not None
        body = self.table[chain]
        if body is _EMPTY:
            self.table[chain] = start, end
        else:
            self._body(chain).parts.append((start, end))

    def _body(self, chain: str) -> Body:
        """The chain as a Body, which can hold anything."""
        assert self.table is not None
        body = self.table[chain]
        if not isinstance(body, Body):
            body = self.table[chain] = Body(parts=[body] if body is not _EMPTY else [])
        return body

    def _rules(self, chain: str) -> list[Rule]:
        """The chain's rules, to be edited."""
        body = self._body(chain)
        assert self.table is not None
        rules: list[Rule] = []
        for part in body.parts:
            rules += [part] if isinstance(part, Rule) else read_span(self.text[part[0] : part[1]], self.family, self.table, self.flavour)
        body.parts = rules  # type: ignore[assignment]  # a list of rules is one of parts
        return rules

    def _lines(self, start: int, end: int) -> None:
        position, number = self.counted
        number += self.text.count("\n", position, start)
        while start < end:
            stop = self.text.index("\n", start) + 1
            line = self.text[start : stop - 1]
            if line:
                self._line(line, number, (start, stop))
            start, number = stop, number + 1
        self.counted = end, number

    # ------------------------------------------------------------------ lines

    def _line(self, line: str, number: int, span: Span) -> None:
        if line.startswith("#"):
            self._comment(line)
        elif not line.strip():
            return
        elif line.startswith("*"):
            self._open(line[1:].strip(), number)
        elif self.table is None:
            self._fail(number, f"expected a table such as *filter, got {line[:60]!r}", line)
        elif line.rstrip() == "COMMIT":
            if line != "COMMIT":
                self._warn(number, "blanks behind COMMIT: the real iptables-restore refuses this file")
            self.table = None
        elif line.startswith(":"):
            self._declare(line, number)
        elif line.startswith("[") and not COUNTED.match(line):
            self._fail(number, "expected counters [PACKETS:BYTES]", line)
        elif line.startswith(("-A", "[", "--append")):
            self._append(line, number, span)
        elif line.startswith("-"):
            self._command(line, number)
        else:
            self._fail(number, f"expected a chain, a rule or COMMIT, got {line[:60]!r}", line)

    def _comment(self, line: str) -> None:
        if line.startswith("# Generated by"):
            self.generated = line
            self.flavour = "nft" if "(nf_tables)" in line or "nft" in line.split(" on ")[0] else "legacy"
        elif line.startswith("# Completed") and self.table_name:
            self.headers[self.table_name] = (self.headers.get(self.table_name, ("", ""))[0], line)

    def _open(self, name: str, number: int) -> None:
        if name not in BUILTIN_CHAINS:
            self._fail(number, f"unknown table {name!r}: expected one of {', '.join(BUILTIN_CHAINS)}")
        if self.table is not None:
            self._fail(number, f"the table {self.table_name} is not ended by COMMIT")
        if name not in self.tables or not self.noflush:
            if name in self.touched and not self.noflush:
                self._fail(number, f"the table {name} is there twice")
            self.tables[name] = {chain: Body("ACCEPT") for chain in BUILTIN_CHAINS.get(name, ())}
            self.jumps[name] = _Jumps()
        self.touched.add(name)
        self.table, self.table_name = self.tables[name], name
        self.headers[name] = (self.generated, "")
        self.generated = ""

    def _declare(self, line: str, number: int) -> None:
        found = _CHAIN_LINE.fullmatch(line)
        assert self.table is not None
        if not found:
            self._fail(number, "expected :CHAIN POLICY [PACKETS:BYTES]", line)
            return
        name, policy, packets, size = found.groups()
        builtin = name in BUILTIN_CHAINS.get(self.table_name, ())
        if not builtin and len(name) > 28:
            self._fail(number, f"chain name {name!r} too long (must be under 29 chars)", line, 2)
        if builtin and policy not in _POLICIES and not (policy == "-" and self.noflush):
            self._fail(number, f"policy of {name} must be ACCEPT or DROP, got {policy!r}", line, line.index(policy, len(name)) + 1)
        counters = Counters(int(packets or 0), int(size or 0))
        if not builtin:
            self._jumps().forget(name)
            self.table[name] = Body(None, counters) if any(counters) else _EMPTY
            return
        body = self._body(name) if name in self.table else Body("ACCEPT")
        if not self.noflush:
            self.table.pop(name, None)  # the file's order, not the usual one
        self.table[name] = Body(policy if policy in _POLICIES else body.policy, counters, body.parts)

    def _append(self, line: str, number: int, span: Span) -> None:
        assert self.table is not None
        words = line.split(None, 3 if line.startswith("[") else 2)
        verb = words.pop(0) if not line.startswith("[") else words[1] if len(words) > 1 else ""
        name = (words[0] if not line.startswith("[") else words[2] if len(words) > 2 else "") if words else ""
        if verb not in ("-A", "--append"):
            self._fail(number, "expected -A CHAIN behind the counters" if line.startswith("[") else f"unknown command {verb!r}", line)
            return
        if name not in self.table:
            self._fail(number, f"no chain {name!r} in table {self.table_name}", line, line.index(verb) + len(verb) + 2)
            return
        try:
            rules = read_line(line, number, self.family, self.table, self.file, self.flavour)[1]
        except ParseError as error:
            self.problems.extend(error.problems)
            return
        self._jumps().note(name, rules)
        self._span(name, *span)

    def _jumps(self) -> _Jumps:
        return self.jumps.setdefault(self.table_name, _Jumps())

    def _command(self, line: str, number: int) -> None:
        assert self.table is not None
        try:
            words = split(line)
        except RuleError as error:
            self.problems.append(problem(error, self.file, number, line))
            return
        verb = _VERBS.get(words[0].text, words[0].text)
        name = words[1].text if len(words) > 1 else ""
        if verb == "-t":
            self._fail(number, "-t is not allowed here: the *table line says it", line)
        elif verb == "-N" and name:
            if name in self.table:
                self._fail(number, f"chain {name!r} already exists", line, words[1].column)
            else:
                self.table[name] = _EMPTY
        elif verb in ("-F", "-X"):
            self._flush(verb, name, number, line)
        elif verb == "-P" and name in self.table and len(words) > 2 and words[2].text in _POLICIES:
            self._body(name).policy = words[2].text
        elif name not in self.table:
            self._fail(number, f"no chain {name!r} in table {self.table_name}", line, words[1].column if len(words) > 1 else 1)
        elif verb == "-I":
            self._insert(line, number, name, words[2].text if len(words) > 2 else "")
        elif verb == "-D":
            self._delete(line, number, name)
        else:
            self._fail(number, f"unknown command {words[0].text!r}", line)

    def _flush(self, verb: str, name: str, number: int, line: str) -> None:
        assert self.table is not None
        for one in [name] if name else list(self.table):
            if one not in self.table:
                self._fail(number, f"no chain {one!r} in table {self.table_name}", line)
                continue
            body = self._body(one)
            if verb == "-F":
                body.parts = []
                self._jumps().forget(one)
            elif body.policy is None:
                if body.parts:
                    self._fail(number, f"chain {one!r} is not empty", line)
                else:
                    del self.table[one]

    def _insert(self, line: str, number: int, name: str, place: str) -> None:
        assert self.table is not None
        given = place.isdigit()
        position = int(place) if given else 1
        words = line.split(None, 3 if given else 2)
        tail = words[-1] if len(words) > (3 if given else 2) else ""
        rules = self._rules(name)
        if not 1 <= position <= len(rules) + 1:
            self._fail(number, f"index of insertion {position} is too big", line)
            return
        try:
            new = read_line(f"-A {name} {tail}", number, self.family, self.table, self.file, self.flavour)[1]
        except ParseError as error:
            self.problems.extend(error.problems)
            return
        self._jumps().note(name, new)
        rules[position - 1 : position - 1] = new

    def _delete(self, line: str, number: int, name: str) -> None:
        assert self.table is not None
        words = line.split(None, 2)
        tail = words[2] if len(words) > 2 else ""
        rules = self._rules(name)
        if tail.isdigit():
            if 1 <= int(tail) <= len(rules):
                del rules[int(tail) - 1]
            else:
                self._fail(number, f"index of deletion {tail} is too big", line)
        elif not self._delete_like(f"-A {name} {tail}", number, rules):
            self._fail(number, "no rule like this in the chain", line)
        self._jumps().forget(name)
        self._jumps().note(name, rules)

    def _delete_like(self, line: str, number: int, rules: list[Rule]) -> bool:
        assert self.table is not None
        try:
            for wanted in read_line(line, number, self.family, self.table, self.file, self.flavour)[1]:
                if wanted not in rules:
                    return False
                rules.remove(wanted)
        except ParseError as error:
            self.problems.extend(error.problems)
        return True

    # ------------------------------------------------------------------ checks

    def _check_jumps(self, table: str) -> None:
        """Jumps to built-in chains, and loops that a packet can reach."""
        jumps = self.jumps.get(table, _Jumps()).pairs()
        builtin = frozenset(BUILTIN_CHAINS.get(table, ()))
        for source, target in jumps:
            if target in builtin:
                self.problems.append(Problem(f"{table} {source}: a jump to the built-in chain {target}", self.file))
        loop = _loop(jumps, builtin)
        if loop:
            self.problems.append(Problem(f"table {table}: the chains jump in a loop: {' -> '.join(loop)}", self.file))

    def _warn(self, line: int, message: str) -> None:
        self.warnings.append(Problem(message, self.file, line))

    def _fail(self, line: int, message: str, source: str | None = None, column: int | None = None) -> None:
        place = column if column is not None else 1 if source is not None else None
        self.problems.append(Problem(message, self.file, line, place, source=source))


class _Jumps:
    """The jumps of a table in two flat lists, since there are very many; those of a chain before ``since`` are gone."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.targets: list[str] = []
        self.since: dict[str, int] = {}

    def note(self, chain: str, rules: Sequence[Rule]) -> None:
        for rule in rules:
            if isinstance(rule.target, Jump):
                self.sources.append(chain)
                self.targets.append(rule.target.chain)

    def forget(self, chain: str) -> None:
        self.since[chain] = len(self.sources)

    def pairs(self) -> list[tuple[str, str]]:
        pairs = zip(self.sources, self.targets, strict=True)
        if not self.since:
            return list(pairs)
        return [pair for number, pair in enumerate(pairs) if number >= self.since.get(pair[0], 0)]


def _loop(jumps: list[tuple[str, str]], builtin: frozenset[str]) -> list[str] | None:
    """A loop that can be reached from a built-in chain. Chains that jump nowhere are peeled off until nothing changes: what stays is
    loops and the ways to them.
    """
    while True:
        leading = {source for source, _ in jumps}
        left = [jump for jump in jumps if jump[1] in leading]
        if len(left) == len(jumps):
            break
        jumps = left
    following: dict[str, list[str]] = {}
    for source, target in jumps:
        following.setdefault(source, []).append(target)
    for start in sorted(builtin & following.keys()):
        path, seen = [start], {start}
        while (step := following[path[-1]][0]) not in seen:  # every chain that is left leads on
            path.append(step)
            seen.add(step)
        return [*path[path.index(step) :], step]
    return None


def _sorted(bodies: dict[str, Span | Body], table: str) -> dict[str, Span | Body]:
    builtin = [name for name in BUILTIN_CHAINS.get(table, ()) if name in bodies]
    return {name: bodies[name] for name in (*builtin, *sorted(set(bodies) - set(builtin)))}

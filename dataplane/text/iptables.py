"""iptables-save text: a whole rule set read and printed, and the effect of feeding iptables-restore.

A big save is read lazily: one pass groups the lines by chain and proves the common shapes well-formed with a template; a line that
fits no template is read at once, so that every error is found at the start; the rules of a chain are made when it is asked for.
Source: iptables 1.8.9 (iptables-restore.c, iptables-save.c), checked against the real tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from dataplane.errors import ParseError, Problem
from dataplane.rules.iptables import BUILTIN_CHAINS, Chain, Counters, Jump, Rule, Table, Xtables
from dataplane.text.iptables_rule import RuleError, print_rule, problem, read_rule, split

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_ADDRESS: Final = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
_PORT: Final = r"(?:[1-5]\d{4}|[1-9]\d{0,3})"
#: The shapes that kube-proxy's rules have in a save; whatever fits is well-formed. The group is the target.
_TEMPLATE: Final = re.compile(
    rf"-A \S+(?: (?:! )?-s {_ADDRESS}/(?:3[0-2]|[12]?\d))?(?: -d {_ADDRESS}/(?:3[0-2]|[12]?\d))?(?: -p (?:tcp|udp|sctp))?"
    r'(?: -m comment --comment (?:"[^"\\]*"|[A-Za-z0-9_-]+))?'
    rf"(?: -m (?:tcp|udp|sctp)(?: --dport {_PORT})?)?(?: -m statistic --mode random --probability 0\.\d{{11}})?"
    rf" -j (?:DNAT --to-destination {_ADDRESS}:{_PORT}|([A-Za-z0-9_.-]+))"
)
_COUNTED: Final = re.compile(r"\[(\d+):(\d+)\] ")
_CHAIN_LINE: Final = re.compile(r":(\S+) (\S+)(?: \[(\d+):(\d+)\])?\s*")
_POLICIES: Final = frozenset(("ACCEPT", "DROP"))


@dataclass(frozen=True, slots=True)
class Parsed:
    """A rule set, and what is odd about the text though it can be read."""

    xtables: Xtables
    warnings: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Body:
    """A chain while it is being read: lines not read yet as (line number, text), or rules."""

    policy: str | None = None
    counters: Counters = field(default_factory=Counters)
    items: list[tuple[int, str] | Rule] = field(default_factory=list)


class LazyChains(Mapping[str, Chain]):
    """The chains of a table in file order; each is read from its lines when it is asked for."""

    def __init__(self, bodies: dict[str, _Body], family: int, file: str) -> None:
        self._bodies = bodies
        self._family = family
        self._file = file

    def __getitem__(self, name: str) -> Chain:
        body = self._bodies[name]
        rules: list[Rule] = []
        for item in body.items:
            if isinstance(item, Rule):
                rules.append(item)
            else:
                rules.extend(_read_line(item[1], item[0], self._family, self._bodies, self._file)[1])
        return Chain(name, body.policy, tuple(rules), body.counters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bodies)

    def __len__(self) -> int:
        return len(self._bodies)

    def __contains__(self, name: object) -> bool:
        return name in self._bodies

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]  # a mapping is compared by its contents


def parse_save(text: str, family: int, *, file: str = "iptables-save.txt") -> Parsed:
    """Reads iptables-save output or restore input for an empty kernel. Raises ParseError with every line that is wrong."""
    return _Reader(family, file).read(text)


def apply_restore(xtables: Xtables | None, text: str, family: int, *, noflush: bool = False, file: str = "restore input") -> Xtables:
    """The rule set after ``iptables-restore [--noflush] < text`` on top of another one; user chains sorted as the kernel lists them."""
    reader = _Reader(family, file, noflush=noflush)
    if xtables is not None:
        reader.start_from(xtables)
    return reader.read(text, sort=True).xtables


def print_save(xtables: Xtables, *, counters: bool = False) -> str:
    """The text that iptables-save prints (``counters``: with -c; rules that carry counters always show them)."""
    return "".join(_print_table(xtables, table, counters=counters) for table in xtables.tables.values())


def _print_table(xtables: Xtables, table: Table, *, counters: bool) -> str:
    generated, completed = xtables.headers.get(table.name, ("", ""))
    lines = [generated] if generated else []
    lines.append(f"*{table.name}")
    chains = list(table.chains.values())
    lines.extend(f":{chain.name} {chain.policy or '-'} [{chain.counters.packets}:{chain.counters.bytes}]" for chain in chains)
    for chain in chains:
        for rule in chain.rules:
            words = print_rule(rule, xtables.family)
            prefix = f"[{rule.counters.packets}:{rule.counters.bytes}] " if rule.counters is not None else "[0:0] " if counters else ""
            lines.append(f"{prefix}-A {chain.name} {words}" if words else f"{prefix}-A {chain.name}")
    lines.append("COMMIT")
    if completed:
        lines.append(completed)
    return "\n".join(lines) + "\n"


class _Reader:
    """Reads a file table by table into bodies, and checks what a kernel would check at COMMIT."""

    def __init__(self, family: int, file: str, *, noflush: bool = False) -> None:
        self.family = family
        self.file = file
        self.noflush = noflush
        self.tables: dict[str, dict[str, _Body]] = {}
        self.headers: dict[str, tuple[str, str]] = {}
        self.flavour = "legacy"
        self.warnings: list[Problem] = []
        self.problems: list[Problem] = []
        self.table: dict[str, _Body] | None = None
        self.table_name = ""
        self.generated = ""
        self.touched: set[str] = set()

    def start_from(self, xtables: Xtables) -> None:
        """Begins with the rules of another state."""
        self.flavour = xtables.flavour
        for name, table in xtables.tables.items():
            self.tables[name] = {
                chain.name: _Body(chain.policy, chain.counters, list(chain.rules)) for chain in table.chains.values()
            }  # fmt: skip

    def read(self, text: str, *, sort: bool = False) -> Parsed:
        """Reads the whole text."""
        if text.startswith("\ufeff"):
            text = text[1:]
        if "\r" in text:
            self._warn(1, "lines end in CR LF: the real iptables-restore refuses this file")
            text = text.replace("\r\n", "\n")
        number = 0
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("-A ") and self.table is not None:
                self._append(line, number, 1)
            elif line:
                self._line(line, number)
        if self.table is not None:
            self._fail(number, f"the table {self.table_name} is not ended by COMMIT (is the file cut off?)")
        self._check_all()
        if self.problems:
            raise ParseError(self.problems)
        tables = {
            name: Table(name, LazyChains(_sorted(bodies, name) if sort else bodies, self.family, self.file))
            for name, bodies in self.tables.items()
        }  # fmt: skip
        return Parsed(Xtables(self.family, tables, self.flavour, self.headers), tuple(self.warnings))

    # ------------------------------------------------------------------ lines

    def _line(self, line: str, number: int) -> None:
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
        elif line.startswith("["):
            found = _COUNTED.match(line)
            if found:
                self._append(line, number, found.end() + 1)
            else:
                self._fail(number, "expected counters [PACKETS:BYTES]", line)
        elif line.startswith("-"):
            self._command(line, number)
        else:
            self._fail(number, f"expected a chain, a rule or COMMIT, got {line[:60]!r}", line)

    def _comment(self, line: str) -> None:
        if line.startswith("# Generated by"):
            self.generated = line
            if "(nf_tables)" in line or "nft" in line.split(" on ")[0]:
                self.flavour = "nft"
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
            self.tables[name] = {chain: _Body("ACCEPT") for chain in BUILTIN_CHAINS.get(name, ())}
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
        builtin = name in BUILTIN_CHAINS[self.table_name] if self.table_name in BUILTIN_CHAINS else False
        if not builtin and len(name) > 28:
            self._fail(number, f"chain name {name!r} too long (must be under 29 chars)", line, 2)
        if builtin and policy not in _POLICIES and not (policy == "-" and self.noflush):
            self._fail(number, f"policy of {name} must be ACCEPT or DROP, got {policy!r}", line, line.index(policy, len(name)) + 1)
        counters = Counters(int(packets or 0), int(size or 0))
        body = self.table.get(name)
        if body is None or not builtin:
            self.table[name] = _Body(policy if builtin else None, counters)
        else:
            if not self.noflush:
                self.table.pop(name)  # the file's order, not the usual one
            self.table[name] = _Body(policy if policy in _POLICIES else body.policy, counters, body.items)

    def _append(self, line: str, number: int, column: int) -> None:
        assert self.table is not None
        start = column + 2
        if not line.startswith("-A ", column - 1):
            self._fail(number, "expected -A CHAIN behind the counters", line, column)
            return
        end = line.find(" ", start)
        name = line[start:] if end < 0 else line[start:end]
        body = self.table.get(name)
        if body is None:
            self._append_anyhow(line, number, name, start)
            return
        body.items.append((number, line))

    def _append_anyhow(self, line: str, number: int, name: str, start: int) -> None:
        """-A with other spacing, or a chain that is not there."""
        words = split_or_none(line)
        if words and len(words) > 1 and words[-1] is not None:
            names = [word for word in words if word]
            place = names.index("-A") + 1 if "-A" in names else 0
            if place and self.table is not None and place < len(names) and names[place] in self.table:
                self.table[names[place]].items.append((number, line))
                return
        self._fail(number, f"no chain {name!r} in table {self.table_name}", line, start + 1)

    def _command(self, line: str, number: int) -> None:
        assert self.table is not None
        try:
            words = split(line)
        except RuleError as error:
            self.problems.append(problem(error, self.file, number, line))
            return
        verb = {"--append": "-A", "--insert": "-I", "--new-chain": "-N", "--flush": "-F", "--delete-chain": "-X", "--policy": "-P",
                "--delete": "-D"}.get(words[0].text, words[0].text)  # fmt: skip
        name = words[1].text if len(words) > 1 else ""
        if verb == "-t":
            self._fail(number, "-t is not allowed here: the *table line says it", line)
        elif verb == "-N" and name:
            if name in self.table:
                self._fail(number, f"chain {name!r} already exists", line, words[1].column)
            else:
                self.table[name] = _Body()
        elif verb in ("-F", "-X"):
            self._flush(verb, name, number, line)
        elif verb == "-P" and name in self.table and len(words) > 2 and words[2].text in _POLICIES:
            self.table[name].policy = words[2].text
        elif name not in self.table:
            self._fail(number, f"no chain {name!r} in table {self.table_name}", line, words[1].column if len(words) > 1 else 1)
        elif verb == "-A":
            self.table[name].items.append((number, line))
        elif verb == "-I":
            self._insert(line, number, name, words[2].text if len(words) > 2 else "")
        elif verb == "-D":
            self._delete(line, number, name)
        else:
            self._fail(number, f"unknown command {words[0].text!r}", line)

    def _flush(self, verb: str, name: str, number: int, line: str) -> None:
        assert self.table is not None
        chosen = [name] if name else list(self.table)
        for one in chosen:
            if one not in self.table:
                self._fail(number, f"no chain {one!r} in table {self.table_name}", line)
            elif verb == "-F":
                self.table[one].items.clear()
            elif self.table[one].policy is None:
                if self.table[one].items:
                    self._fail(number, f"chain {one!r} is not empty", line)
                else:
                    del self.table[one]

    def _insert(self, line: str, number: int, name: str, place: str) -> None:
        assert self.table is not None
        position = int(place) if place.isdigit() else 1
        words = line.split(None, 3 if place.isdigit() else 2)
        tail = words[3 if place.isdigit() else 2] if len(words) > (3 if place.isdigit() else 2) else ""
        if not 1 <= position <= len(self.table[name].items) + 1:
            self._fail(number, f"index of insertion {position} is too big", line)
            return
        self.table[name].items.insert(position - 1, (number, f"-A {name} {tail}".rstrip()))

    def _delete(self, line: str, number: int, name: str) -> None:
        assert self.table is not None
        words = line.split(None, 2)
        body = self.table[name]
        tail = words[2] if len(words) > 2 else ""
        if tail.isdigit() and 1 <= int(tail) <= len(body.items):
            del body.items[int(tail) - 1]
            return
        try:
            wanted = _read_line(f"-A {name} {tail}", number, self.family, self.table, self.file)[1]
            for index, item in enumerate(body.items):
                rules = [item] if isinstance(item, Rule) else _read_line(item[1], item[0], self.family, self.table, self.file)[1]
                if rules == wanted:
                    del body.items[index]
                    return
        except ParseError as error:
            self.problems.extend(error.problems)
            return
        self._fail(number, "no rule like this in the chain", line)

    # ------------------------------------------------------------------ checks

    def _check_all(self) -> None:
        for name, bodies in self.tables.items():
            jumps = self._check_lines(bodies)
            if not self.problems:
                self._check_loops(name, jumps)

    def _check_lines(self, bodies: dict[str, _Body]) -> dict[str, set[str]]:
        """Reads every line that fits no template; gives the jumps between chains."""
        jumps: dict[str, set[str]] = {}
        fits = _TEMPLATE.fullmatch
        for name, body in bodies.items():
            targets: set[str] = set()
            for item in body.items:
                if isinstance(item, Rule):
                    if isinstance(item.target, Jump):
                        targets.add(item.target.chain)
                    continue
                found = fits(item[1]) if self.family == 4 else None
                if found is not None:
                    target = found.group(1)
                    if target is None or target in ("ACCEPT", "DROP", "RETURN"):
                        continue
                    if target in bodies:
                        targets.add(target)
                        continue
                try:
                    for rule in _read_line(item[1], item[0], self.family, bodies, self.file)[1]:
                        if isinstance(rule.target, Jump):
                            targets.add(rule.target.chain)
                except ParseError as error:
                    self.problems.extend(error.problems)
            if targets:
                jumps[name] = targets
        return jumps

    def _check_loops(self, table: str, jumps: Mapping[str, set[str]]) -> None:
        builtin = set(BUILTIN_CHAINS.get(table, ()))
        for name, targets in jumps.items():
            for target in targets & builtin:
                self.problems.append(Problem(f"{table} {name}: a jump to the built-in chain {target}", self.file))
        done: set[str] = set()
        for start in jumps:
            loop = _loop_from(start, jumps, done)
            if loop:
                self.problems.append(Problem(f"table {table}: the chains jump in a loop: {' -> '.join(loop)}", self.file))
                return

    def _warn(self, line: int, message: str) -> None:
        self.warnings.append(Problem(message, self.file, line))

    def _fail(self, line: int, message: str, source: str | None = None, column: int | None = None) -> None:
        place = column if column is not None else 1 if source is not None else None
        self.problems.append(Problem(message, self.file, line, place, source=source))


def _loop_from(start: str, jumps: Mapping[str, set[str]], done: set[str]) -> list[str] | None:
    path: list[str] = []
    stack: list[tuple[str, Iterator[str]]] = []
    if start in done:
        return None
    path.append(start)
    stack.append((start, iter(sorted(jumps.get(start, ())))))
    while stack:
        name, rest = stack[-1]
        following = next(rest, None)
        if following is None:
            done.add(name)
            stack.pop()
            path.pop()
        elif following in path:
            return [*path[path.index(following) :], following]
        elif following not in done:
            path.append(following)
            stack.append((following, iter(sorted(jumps.get(following, ())))))
    return None


def _sorted(bodies: dict[str, _Body], table: str) -> dict[str, _Body]:
    builtin = [name for name in BUILTIN_CHAINS.get(table, ()) if name in bodies]
    return {name: bodies[name] for name in (*builtin, *sorted(set(bodies) - set(builtin)))}


def split_or_none(line: str) -> list[str] | None:
    """The words of a line, or None where a quotation mark is not closed."""
    try:
        return [word.text for word in split(line)]
    except RuleError:
        return None


def _read_line(line: str, number: int, family: int, chains: Iterable[str], file: str) -> tuple[str, list[Rule]]:
    """Chain and rules of one ``[counters] -A CHAIN …`` line. Raises ParseError."""
    counters: Counters | None = None
    try:
        words = split(line)
        if words and words[0].text.startswith("["):
            found = _COUNTED.match(line)
            if found:
                counters = Counters(int(found.group(1)), int(found.group(2)))
                words = words[1:]
        name = words[1].text
        rules = read_rule(words[2:], family, chains)  # type: ignore[arg-type]  # any container of names
    except RuleError as error:
        raise ParseError(problem(error, file, number, line)) from None
    if counters is not None:
        rules = [_counted(rule, counters) for rule in rules]
    return name, rules


def _counted(rule: Rule, counters: Counters) -> Rule:
    return Rule(
        rule.source, rule.destination, rule.in_interface, rule.out_interface, rule.protocol, rule.fragment, rule.matches, rule.target, counters
    )  # fmt: skip


def parse_rule(text: str, family: int, *, chains: Iterable[str] | None = None, file: str = "rule", line: int = 1) -> list[tuple[str, Rule]]:
    """Chain and rules of one ``-A CHAIN …`` line (several where address lists are given). Raises ParseError."""
    try:
        words = split(text)
        if len(words) < 2 or words[0].text not in ("-A", "--append"):
            raise RuleError("expected -A CHAIN", 1)
        return [(words[1].text, rule) for rule in read_rule(words[2:], family, chains)]  # type: ignore[arg-type]
    except RuleError as error:
        raise ParseError(problem(error, file, line, text)) from None


__all__ = ["LazyChains", "Parsed", "apply_restore", "parse_rule", "parse_save", "print_rule", "print_save"]

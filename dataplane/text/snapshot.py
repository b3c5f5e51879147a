"""A snapshot: a directory with the native commands' own output, from which a NodeState is read and to which it is written.

Every file may be missing, which means that there is nothing of its kind; so a snapshot can be made on a node by a few
redirections. All that is wrong in any of the files is reported at once. What is read over is told in warnings.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from dataplane.errors import ApplyError, InputError, ParseError, Problem
from dataplane.rules.ipset import IPSets
from dataplane.rules.iptables import Xtables
from dataplane.rules.ipvs import IPVS
from dataplane.rules.network import Link, Rest, Route
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text import conntrack, ipaddr, iproute, iprule, ipset, iptables, ipvsadm, sysctl

#: The files of a snapshot and the command that prints each.
FILES: Final[Mapping[str, str]] = {
    "iptables-save.txt": "iptables-save",
    "ip6tables-save.txt": "ip6tables-save",
    "ipset-save.txt": "ipset save",
    "ipvsadm-save.txt": "ipvsadm -S -n",
    "ip-addr.json": "ip -j addr",
    "ip-route.json": "ip -j route show table all",
    "ip-route6.json": "ip -6 -j route show table all",
    "ip-rule.json": "ip -j rule",
    "ip-rule6.json": "ip -6 -j rule",
    "sysctl.txt": "sysctl -a",
    "conntrack.txt": "conntrack -L -o extended",
}
#: Files that belong to a snapshot but are not read yet: the command, what it tells of, and what says that there is some.
NOT_MODELLED: Final[Mapping[str, tuple[str, str, str]]] = {
    "nft-ruleset.json": ("nft -j list ruleset", "nftables", '"table"'),
}
#: Fields of routes and rules that change where packets go but are read over.
_ROUTE_FIELDS: Final = {"from": "routing by source", "encap": "encapsulation"}
_RULE_FIELDS: Final = ("tun_id", "suppress_ifgroup", "masquerade", "nat", "l3mdev")

T = TypeVar("T")


def read_snapshot(directory: str | os.PathLike[str]) -> tuple[NodeState, tuple[Problem, ...]]:
    """The node that a snapshot describes, and warnings. ParseError with everything that is wrong in it."""
    path = Path(directory)
    entries = _entries(path)
    problems: list[Problem] = []
    texts: dict[str, str] = {}
    for name in [*FILES, *NOT_MODELLED]:
        if name in entries:
            try:
                texts[name] = _text(path / name)
            except ParseError as error:
                problems += error.problems
    strange = [name for name in entries if name not in FILES and name not in NOT_MODELLED and not name.startswith(".")]
    warnings = [Problem("not a file of a snapshot, ignored", str(path / name)) for name in strange]
    try:
        state, more = parse_snapshot(texts, directory=str(directory))
    except ParseError as error:
        problems += error.problems
    if problems:
        raise ParseError(problems)
    return state, (*warnings, *more)


def parse_snapshot(texts: Mapping[str, str], *, directory: str = "") -> tuple[NodeState, tuple[Problem, ...]]:
    """The same from the contents of the files by name; ``directory`` is only for messages."""
    reader = _Reader(texts, directory)
    routes4, routes6 = reader.routes()
    state = NodeState(
        links=reader.read("ip-addr.json", ipaddr.parse_links, (LOOPBACK,)),
        routes4=routes4,
        routes6=routes6,
        rules4=reader.read("ip-rule.json", lambda text, file: iprule.parse_rules(text, 4, file=file), None),
        rules6=reader.read("ip-rule6.json", lambda text, file: iprule.parse_rules(text, 6, file=file), None),
        sysctls=reader.read("sysctl.txt", sysctl.parse_sysctls, {}),
        iptables=reader.xtables("iptables-save.txt", 4),
        ip6tables=reader.xtables("ip6tables-save.txt", 6),
        ipsets=reader.read("ipset-save.txt", ipset.parse_save, IPSets()),
        ipvs=reader.read("ipvsadm-save.txt", ipvsadm.parse_save, IPVS()),
        connections=reader.read("conntrack.txt", conntrack.parse_connections, ()),
    )
    if reader.problems:
        raise ParseError(reader.problems)
    return state, (*reader.warnings, *_oddities(state, reader))


def print_snapshot(state: NodeState) -> dict[str, str]:
    """The contents of the files by name; none where there is nothing of a kind."""
    texts: dict[str, str | None] = {
        "iptables-save.txt": iptables.print_save(state.iptables) if state.iptables.tables else None,
        "ip6tables-save.txt": iptables.print_save(state.ip6tables) if state.ip6tables.tables else None,
        "ipset-save.txt": ipset.print_save(state.ipsets) if state.ipsets.sets else None,
        "ipvsadm-save.txt": ipvsadm.print_save(ipvsadm.in_printed_order(state.ipvs)) or None,
        "ip-addr.json": ipaddr.print_links(state.links),
        "ip-route.json": iproute.print_routes(state.routes4) if state.routes4 is not None else None,
        "ip-route6.json": iproute.print_routes(state.routes6) if state.routes6 is not None else None,
        "ip-rule.json": iprule.print_rules(state.rules4) if state.rules4 is not None else None,
        "ip-rule6.json": iprule.print_rules(state.rules6) if state.rules6 is not None else None,
        "sysctl.txt": sysctl.print_sysctls(state.sysctls) if state.sysctls else None,
        "conntrack.txt": conntrack.print_connections(state.connections) if state.connections else None,
    }
    return {name: text for name, text in texts.items() if text is not None}


def write_snapshot(state: NodeState, directory: str | os.PathLike[str]) -> None:
    """Write a snapshot, in place of an earlier one where there is one.

    All of it is written beside the directory first and then renamed: a new directory as a whole, in an existing one file by
    file, so that no file is ever half-written. InputError where the directory holds anything but a snapshot, ApplyError
    where the machine does not let us.
    """
    target = Path(directory).resolve()
    _check_replaceable(target, str(directory))
    texts = print_snapshot(state)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        for name, text in texts.items():
            (fresh / name).write_bytes(text.encode())
        if not target.exists():
            fresh.rename(target)
            return
        for name in texts:
            (fresh / name).replace(target / name)
        for name in {*FILES, *NOT_MODELLED} - {*texts}:
            (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise ApplyError(f"cannot write the snapshot {directory}: {error.strerror}: {error.filename}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


# ---------------------------------------------------------------------- the directory


def _entries(path: Path) -> list[str]:
    try:
        entries = sorted(entry.name for entry in path.iterdir())
    except FileNotFoundError:
        raise ParseError(Problem(f"no such directory; {_expected()}", str(path))) from None
    except NotADirectoryError:
        raise ParseError(Problem(f"not a directory; {_expected()}", str(path))) from None
    except (OSError, ValueError) as error:
        raise ParseError(Problem(f"cannot be read: {getattr(error, 'strerror', error)}", str(path))) from None
    if not any(name in FILES or name in NOT_MODELLED for name in entries):
        what = "none of the files of a snapshot is in this directory" if entries else "the directory is empty"
        raise ParseError(Problem(f"{what}; {_expected()}", str(path)))
    return entries


def _expected() -> str:
    files = ", ".join(f"{name} (`{command}`)" for name, command in FILES.items())
    return f"a snapshot is a directory with the output of commands, any of which may be missing: {files}"


def _text(path: Path) -> str:
    command = FILES.get(path.name) or NOT_MODELLED[path.name][0]
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise ParseError(Problem(f"{kind}, expected a file with the output of `{command}`", str(path)))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ParseError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = " (it looks like UTF-16, as PowerShell writes it)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        message = f"not UTF-8 text{hint}: byte {data[error.start]:#04x}, expected the output of `{command}`"
        raise ParseError(Problem(message, str(path), line)) from None


def _check_replaceable(target: Path, shown: str) -> None:
    try:
        entries = sorted(entry.name for entry in target.iterdir()) if target.exists() else []
    except NotADirectoryError:
        raise InputError(Problem("a file of this name exists; nothing was written", shown)) from None
    except OSError as error:
        raise ApplyError(f"cannot write the snapshot {shown}: {error.strerror}") from None
    ours = {*FILES, *NOT_MODELLED}
    others = [name for name in entries if name not in ours or not (target / name).is_file()]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        message = f"the directory holds {others[0]}{more}, which is not of a snapshot; nothing was written"
        raise InputError(Problem(message, shown))


# ---------------------------------------------------------------------- the files


class _Reader:
    """Reads the files one by one and gathers what is wrong with them."""

    def __init__(self, texts: Mapping[str, str], directory: str) -> None:
        self._texts = texts
        self._directory = directory
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        for name, (command, what, sign) in NOT_MODELLED.items():
            if sign in texts.get(name, ""):
                self.warnings.append(Problem(f"not modelled yet: {what} (`{command}`), ignored", self.file(name)))

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    def file(self, name: str) -> str:
        """The path of a file as messages show it."""
        return str(Path(self._directory, name))

    def read(self, name: str, parse: Callable[..., T], missing: T) -> T:
        """What ``parse(text, file=…)`` makes of a file; ``missing`` where there is no such file or it is wrong."""
        if name not in self._texts:
            return missing
        try:
            return parse(self._texts[name], file=self.file(name))
        except ParseError as error:
            self.problems += error.problems
            return missing

    def xtables(self, name: str, family: int) -> Xtables:
        """The rule set of one family."""
        parsed = self.read(name, lambda text, file: iptables.parse_save(text, family, file=file), None)
        if parsed is None:
            return Xtables(family)
        self.warnings += parsed.warnings
        return parsed.xtables

    def routes(self) -> tuple[tuple[Route, ...] | None, tuple[Route, ...] | None]:
        """IPv4 and IPv6 routes. ``ip -j route show table all`` prints both, so its file may serve for both."""
        both = self.read("ip-route.json", lambda text, file: iproute.parse_routes(text, 4, file=file), None)
        six = self.read("ip-route6.json", lambda text, file: iproute.parse_routes(text, 6, file=file), None)
        for route in six or ():
            if route.family != 6:
                message = "an IPv4 route, expected the output of `ip -6 -j route show table all`"
                self.problems.append(Problem(message, self.file("ip-route6.json"), subject=f"route {route.destination}"))
        if both is None:
            return None, six
        four = tuple([route for route in both if route.family == 4])
        if six is None and len(four) < len(both):
            six = tuple([route for route in both if route.family == 6])
        return four, six


def _oddities(state: NodeState, reader: _Reader) -> Iterator[Problem]:
    """What could be read but will not be followed, or does not fit together."""
    for name, routes in (("ip-route.json", state.routes4), ("ip-route6.json", state.routes6)):
        file = reader.file(name if name in reader else "ip-route.json")
        for route in routes or ():
            for field in _fields(route.rest, _ROUTE_FIELDS):
                message = f"not modelled yet: {_ROUTE_FIELDS[field]} ({field!r})"
                yield Problem(message, file, subject=f"route {route.destination}")
        if "ip-addr.json" in reader:
            for device in _unknown_devices(routes or (), state.links):
                yield Problem(f"routes over {device!r}, which is no interface of ip-addr.json", file)
    for name, rules in (("ip-rule.json", state.rules4), ("ip-rule6.json", state.rules6)):
        for rule in rules or ():
            for field in _fields(rule.rest, _RULE_FIELDS):
                yield Problem(f"not modelled yet: {field!r}", reader.file(name), subject=f"rule {rule.priority}")


def _fields(rest: Rest, wanted: Iterable[str]) -> list[str]:
    found: dict[str, Any] = dict(rest)  # values are JSON
    return [field for field in wanted if field in found]


def _unknown_devices(routes: Iterable[Route], links: Iterable[Link]) -> list[str]:
    known = {link.name for link in links}
    devices = {hop.dev: None for route in routes for hop in route.nexthops if hop.dev is not None}
    return [device for device in devices if device not in known]

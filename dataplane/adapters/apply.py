"""Apply: a state becomes a real network namespace, and later only what differs is sent. Nothing is left behind where it fails.

Everything is planned before anything is done. A new namespace is taken away again when a step fails; one that stood before is led back to
what it was. A journal tells whoever comes after a killed process (see namespaces).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

from dataplane.adapters import left, namespaces, network, ruleset, tools
from dataplane.adapters.collect import gather, rules
from dataplane.adapters.left import Left
from dataplane.adapters.namespaces import Journal
from dataplane.adapters.network import QUIET, Ends, Step
from dataplane.errors import ApplyError, ParseError
from dataplane.rules.ipset import IPSets
from dataplane.rules.network import Connection
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text.conntrack import parse_connections
from dataplane.text.conntrack_commands import can_make, print_deletes, print_inserts
from dataplane.text.iptables_unread import source_of, unread
from dataplane.text.kube_rules import with_kube_rules
from dataplane.text.snapshot import parse_snapshot

#: Writing these sets every interface's own value, so they come before those.
_FIRST: Final = ("net.ipv4.ip_forward", "net.ipv4.conf.all.", "net.ipv4.conf.default.", "net.ipv6.conf.all.", "net.ipv6.conf.default.")
_EMPTY: Final = NodeState(links=(LOOPBACK._replace(flags=("LOOPBACK",), addresses=()),), routes4=(), routes6=())


Stale = Callable[[Sequence[Connection]], Sequence[Connection]]


class Done(NamedTuple):
    """``made`` says whether the namespace is new; ``steps`` what was done (or would be), ``warnings`` what the kernel did not take."""

    made: bool
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()


def apply(
    want: NodeState, name: str, *, dry_run: bool = False, stale: Stale | None = None, wait: float = 60.0, say: Callable[[str], None] = lambda text: None
) -> Done:  # fmt: skip
    """Makes a namespace what a state says. ApplyError where something is missing or the kernel refuses: then all is as it was.

    ``dry_run``: plans and checks only. ``say`` is told each step as it begins. ``wait`` (seconds): for another apply. ``stale`` says which connections the new state makes void.
    """
    namespaces.checked(name)
    tools.need_root("dataplane apply", "dataplane compile and trace work without")
    named = ruleset.accounts(want)
    absent = tools.missing(ruleset.needed(want, named))
    if absent:
        packages = ", ".join(sorted({tools.package_of(tool) for tool in absent}))
        raise ApplyError(f"not installed: {', '.join(absent)} (Debian: {packages}); nothing was done, dataplane compile and trace work without")
    with namespaces.alone(name, wait=wait, say=say):
        _recover(name, say)
        made = not namespaces.exists(name)
        if not made and namespaces.read(name) is None:
            raise ApplyError(f"the network namespace {name} exists and was not made by dataplane apply: nothing was done")
        known = {} if made else {family: one for family in (4, 6) if (one := left.read(name, family)) is not None}
        have = _EMPTY if made else observe(namespaces.path_of(name), want, known)
        sources = {xtables.family: source for xtables in (want.iptables, want.ip6tables) if (source := source_of(xtables)) is not None}
        with _ends(name) as ends:
            steps = list(_steps(have, want, name, ends, named, known))
            if dry_run or not steps:
                return Done(made, tuple(steps))
            namespaces.write(Journal(name, "making" if made else "changing", namespaces.outside_of(name), 0 if made else namespaces.identity_of(name)))
            refused = [*_carry_out(steps, name, made=made, had=have, say=say), *_unmade(want.connections)]
            if stale is not None and not made:
                steps += _forget(namespaces.path_of(name), stale, say)
        namespaces.write(Journal(name, "done", namespaces.outside_of(name), namespaces.identity_of(name)))
        _keep(name, want, sources)
    return Done(made, tuple(steps), tuple(refused))


def apply_host(want: NodeState | None, *, dry_run: bool = False, say: Callable[[str], None] = lambda text: None) -> Done:
    """Exchanges kube-proxy's own chains, jumps and sets on this very host for those of a state (None: takes them away); all else stays.

    ApplyError where the kernel refuses: then the rules are as they were.
    """
    like = want if want is not None else NodeState()
    tools.need_root("dataplane apply --host", "dataplane compile and trace work without")
    named = ruleset.accounts(like)
    absent = tools.missing(ruleset.needed(like, named))
    if absent:
        raise ApplyError(f"not installed: {', '.join(absent)}; nothing was done")
    with namespaces.alone("@host", say=say):
        have = observe(None, like)
        sets = {name: one for name, one in have.ipsets.sets.items() if not name.startswith("KUBE-")}
        target = have._replace(
            iptables=with_kube_rules(have.iptables, want.iptables if want is not None else None),
            ip6tables=with_kube_rules(have.ip6tables, want.ip6tables if want is not None else None),
            ipsets=IPSets({**sets, **{name: one for name, one in like.ipsets.sets.items() if name.startswith("KUBE-")}}),
        )  # fmt: skip
        steps = list(ruleset.steps(have, target, None, named))
        if dry_run:
            return Done(False, tuple(steps))
        try:
            for step in steps:
                say(step.text)
                step.run()
        except ApplyError:
            for step in ruleset.steps(observe(None, like), have, None, set()):
                step.run()
            raise
    return Done(False, tuple(steps))


def _unmade(connections: Sequence[Connection]) -> list[str]:
    left_out = sum(not can_make(one) for one in connections)
    return [f"known connections of protocols that the conntrack command cannot make: {left_out}"] if left_out else []


def _forget(netns: str, stale: Stale, say: Callable[[str], None]) -> list[Step]:
    """Deletes the connections that the new rules make void, as kube-proxy does after a sync."""
    if tools.missing(["conntrack"]):
        say("conntrack is not installed: flows to endpoints that are gone stay until they time out")
        return []
    done = []
    for line in print_deletes(stale(parse_connections(tools.run(netns, "conntrack", "-L", "-o", "extended", "-p", "udp")))).splitlines():
        step = Step(f"conntrack {line}", partial(tools.run, netns, "conntrack", *line.split()))
        say(step.text)
        step.run()
        done.append(step)
    return done


def cleanup(name: str, *, say: Callable[[str], None] = lambda text: None) -> None:
    """Takes away the namespaces that apply made. ApplyError for a namespace that it did not make."""
    namespaces.checked(name)
    tools.need_root("dataplane cleanup", "there is nothing to clean up without it")
    with namespaces.alone(name, say=say):
        if namespaces.read(name) is None:
            there = "was not made by dataplane apply" if namespaces.exists(name) else "does not exist"
            raise ApplyError(f"the network namespace {name} {there}: nothing was done")
        _remove(name, say)


def _keep(name: str, want: NodeState, sources: Mapping[int, str]) -> None:
    """Remembers what was fed, for whoever applies the next state."""
    netns = namespaces.path_of(name)
    for xtables, prefix in ((want.iptables, "iptables"), (want.ip6tables, "ip6tables")):
        if xtables.family in sources:
            save = rules(netns, prefix, xtables.flavour)
            left.write(name, xtables.family, Left(sources[xtables.family], left.seal_of(save)))


def observe(netns: str | None, like: NodeState, known: Mapping[int, Left] = ruleset.NOTHING_LEFT) -> NodeState:
    """The state of a namespace as its own tools print it, of ``like``'s flavour of iptables. ApplyError for what cannot be read.

    Rules that stand as they were left (``known``, by family) are not read.
    """
    flavours = {"iptables": like.iptables.flavour, "ip6tables": like.ip6tables.flavour}
    texts = gather(netns, flavours=flavours, connections=bool(like.connections))
    files = {4: "iptables-save.txt", 6: "ip6tables-save.txt"}
    same = {family: texts.pop(files[family]) for family, one in known.items() if left.seal_of(texts.get(files[family], "")) == one.seal and files[family] in texts}
    try:
        state = parse_snapshot(texts)[0]
        if 4 in same:
            state = state._replace(iptables=unread(same[4], 4, flavour=like.iptables.flavour, file=files[4]))
        if 6 in same:
            state = state._replace(ip6tables=unread(same[6], 6, flavour=like.ip6tables.flavour, file=files[6]))
        return state
    except ParseError as error:
        raise ApplyError(f"what stands in the namespace cannot be read: {error}") from None


# ---------------------------------------------------------------------- steps


def _steps(
    have: NodeState, want: NodeState, name: str, ends: Callable[[], Ends], named: set[str], known: Mapping[int, Left] = ruleset.NOTHING_LEFT
) -> Iterator[Step]:  # fmt: skip
    netns = namespaces.path_of(name)
    there = {key: " ".join(value.split()) for key, value in have.sysctls.items()}
    wanted = [(key, " ".join(value.split())) for key, value in want.sysctls.items() if " ".join(value.split()) != there.get(key)]
    wanted.sort(key=lambda pair: next((place for place, prefix in enumerate(_FIRST) if pair[0].startswith(prefix)), len(_FIRST)))
    links = {link.name for link in have.links}
    quiet = [
        (f"net.ipv6.conf.{link.name.replace('.', '/')}.{setting.partition('=')[0]}", setting.partition("=")[2])
        for link in want.links if link.name not in links for setting in QUIET
    ]  # fmt: skip
    general = [pair for pair in wanted if not _of_interface(pair[0])]
    if general:
        yield _sysctl_step(netns, dict(general))
    steps = list(network.steps(have, want, ends))
    made = ("ip link add", "ip link del")
    yield from [step for step in steps if step.text.startswith(made)]
    own = [pair for pair in wanted if _of_interface(pair[0])]
    if quiet or own:
        yield _sysctl_step(netns, dict([*quiet, *own]))
    yield from [step for step in steps if not step.text.startswith(made)]  # a link that comes up is quiet already
    yield from ruleset.steps(have, want, netns, named, known)
    yield from _connections(have, want, netns)


def _connections(have: NodeState, want: NodeState, netns: str) -> Iterator[Step]:
    """Known connections that are not there yet, behind the rules, which make the kernel track connections at all."""
    there = {(one.family, one.zone, one.original) for one in have.connections}
    text = print_inserts(one for one in want.connections if (one.family, one.zone, one.original) not in there)
    if text:
        yield Step("conntrack --load-file -", partial(tools.run, netns, "conntrack", "--load-file", "-", text=text), text)


def _of_interface(key: str) -> bool:
    parts = key.split(".")
    return len(parts) > 4 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default")


def _sysctl_step(netns: str, values: dict[str, str]) -> Step:
    given = "".join(f"{key} = {value}\n" for key, value in values.items())
    return Step("sysctl -p", lambda: tools.write_sysctls(netns, values), given)


def _carry_out(steps: list[Step], name: str, *, made: bool, had: NodeState, say: Callable[[str], None]) -> list[str]:
    refused: list[str] = []
    try:
        if made:
            for one in (name, namespaces.outside_of(name)):
                namespaces.create(one)
        for step in steps:
            say(step.text)
            result = step.run()
            if step.text.startswith("sysctl"):
                refused += [f"this kernel does not take {key}" for key in result]  # type: ignore[attr-defined]  # a list of keys
    except BaseException as error:
        _take_back(name, made=made, had=had, error=error, say=say)
        raise
    return refused


def _take_back(name: str, *, made: bool, had: NodeState, error: BaseException, say: Callable[[str], None]) -> None:
    if made:
        _remove(name, say)
        return
    with _ends(name) as ends:
        try:
            for step in _steps(observe(namespaces.path_of(name), had), had, name, ends, ruleset.accounts(had)):
                step.run()
        except ApplyError as second:
            raise ApplyError(f"{error}\nand the way back failed, too: {second}\n(dataplane cleanup --netns {name} removes it all)") from None
    namespaces.write(Journal(name, "done", namespaces.outside_of(name), namespaces.identity_of(name)))


# ---------------------------------------------------------------------- namespaces


def _recover(name: str, say: Callable[[str], None]) -> None:
    """An apply that was killed while it made a namespace left a half: that is taken away."""
    journal = namespaces.read(name)
    if journal is not None and (journal.stage == "making" or not namespaces.exists(name)):
        say(f"an earlier apply did not finish: {name} is taken away first")
        _remove(name, say)


def _remove(name: str, say: Callable[[str], None]) -> None:
    for one in (name, namespaces.outside_of(name)):
        if namespaces.exists(one):
            say(f"ip netns del {one}")
            namespaces.remove(one)
    left.forget(name)
    namespaces.forget(name)


@contextmanager
def _ends(name: str) -> Iterator[Callable[[], Ends]]:
    """Opens the netlink sockets when the first step needs them, since the namespaces may not be there before."""
    opened: list[Ends] = []

    def ends() -> Ends:
        if not opened:
            outside = namespaces.outside_of(name)
            opened.append(Ends(name, outside if namespaces.exists(outside) else None))
        return opened[0]

    try:
        yield ends
    finally:
        for one in opened:
            one.close()

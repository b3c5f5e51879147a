"""The rule sets of a node in a namespace: accounting objects, ip sets, iptables, virtual servers, through the native batch tools.

A state is compared with what stands there as text; only what differs is touched.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from functools import partial
from typing import Final

from dataplane.adapters import tools
from dataplane.adapters.left import Left
from dataplane.adapters.network import Step
from dataplane.rules.iptables import Xtables
from dataplane.rules.nodestate import NodeState
from dataplane.text import ipvsadm
from dataplane.text.difference import restore_input, set_inputs
from dataplane.text.iptables import written
from dataplane.text.iptables_unread import source_of
from dataplane.text.resync import resync_input

_NFACCT: Final = re.compile(r"--nfacct-name +(\S+)")
NOTHING_LEFT: Final[Mapping[int, Left]] = {}
_WAIT: Final = ("-w", "60")


def needed(want: NodeState, named: Container[str]) -> list[str]:
    """The tools that a state needs whose rules name those accounting objects."""
    found = ["nsenter", "ip"]
    for xtables in (want.iptables, want.ip6tables):
        if xtables.tables:
            found += [restore_tool(xtables), restore_tool(xtables).replace("restore", "save")]
    found += ["ipset"] if want.ipsets.sets else []
    found += ["ipvsadm"] if want.ipvs.servers else []
    found += ["conntrack"] if want.connections else []
    return [*found, *(["nfacct"] if named else [])]


def restore_tool(xtables: Xtables) -> str:
    """The command that loads a rule set."""
    return f"{'iptables' if xtables.family == 4 else 'ip6tables'}-{xtables.flavour}-restore"


def accounts(state: NodeState) -> set[str]:
    """The accounting objects that rules name; the kernel refuses a rule whose object does not exist."""
    texts: list[str] = []
    for xtables in (state.iptables, state.ip6tables):
        source = source_of(xtables)
        texts += [source] if source is not None else [written(xtables, table) for table in xtables.tables.values()]
    return {name.strip('"') for text in texts if "nfacct" in text for name in _NFACCT.findall(text)}


def steps(have: NodeState, want: NodeState, netns: str | None, named: set[str], left: Mapping[int, Left] = NOTHING_LEFT) -> Iterator[Step]:
    """What leads from the rule sets that stand in a namespace (given by its path) to those of a state, which name those accounting objects.

    ``left``: by family the rules that were fed; where those that stand are still these, they are unread.
    """
    for name in sorted(named - accounts(have) if named else ()):
        yield Step(f"nfacct add {name}", partial(_account, netns, name))
    before, after = set_inputs(have.ipsets, want.ipsets)
    if before:
        yield _fed("ipset restore -exist", before, netns, "ipset", "restore", "-exist")
    for old, new in ((have.iptables, want.iptables), (have.ip6tables, want.ip6tables)):
        text = _rule_input(old, new, left.get(new.family))
        if text:
            tool = restore_tool(new if new.tables else old)
            yield _fed(f"{tool} --noflush", text, netns, tool, *_WAIT, "--noflush")
    if after:
        yield _fed("ipset restore", after, netns, "ipset", "restore")
    yield from _virtual_servers(have, want, netns)


def _rule_input(old: Xtables, new: Xtables, left: Left | None) -> str:
    source = source_of(new)
    if source is not None and not old.tables:
        return source
    if source is not None and source_of(old) is not None and left is not None:
        text = resync_input(left.fed, source)
        if text is not None:
            return text
    return restore_input(old, new)


def _fed(shown: str, text: str, netns: str | None, *command: str) -> Step:
    return Step(shown, lambda: tools.run(netns, *command, text=text), text)


def _account(netns: str | None, name: str) -> None:
    if f"= {name};" not in tools.run(netns, "nfacct", "list"):
        tools.run(netns, "nfacct", "add", name)


# ---------------------------------------------------------------------- virtual servers


def _virtual_servers(have: NodeState, want: NodeState, netns: str | None) -> Iterator[Step]:
    """Deleted first, then added; what differs in its options only is edited, so that connections live on."""
    old = _commands(ipvsadm.print_save(have.ipvs))
    new = _commands(ipvsadm.print_save(want.ipvs))
    removals = [key for key in old if key not in new]
    services = {key for key in removals if key[0] == "-A"}
    words = [" ".join(("-D" if verb == "-A" else "-d", *what)) for verb, *what in removals if verb == "-A" or ("-A", *what[:2]) not in services]
    for line in words:
        yield Step(f"ipvsadm {line}", partial(tools.run, netns, "ipvsadm", *line.split()))
    edits = [(key, text) for key, text in new.items() if key in old and old[key] != text]
    for (verb, *_), text in edits:
        line = f"{'-E' if verb == '-A' else '-e'}{text[2:]}"
        yield Step(f"ipvsadm {line}", partial(tools.run, netns, "ipvsadm", *line.split()))
    added = "".join(f"{text}\n" for key, text in new.items() if key not in old)
    if added:
        yield _fed("ipvsadm -R", added, netns, "ipvsadm", "-R")


def _commands(save: str) -> dict[tuple[str, ...], str]:
    """Lines of ``ipvsadm -Sn`` by what they are about: -A and the service, or -a, the service, -r and the server."""
    found: dict[tuple[str, ...], str] = {}
    for line in save.splitlines():
        words = line.split()
        key = tuple(words[:5]) if words and words[0] == "-a" else tuple(words[:3])
        found[key] = line
    return found

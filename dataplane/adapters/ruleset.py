"""The rule sets of a node in a namespace: accounting objects, ip sets, iptables, virtual servers, through the native batch tools.

A state is compared with what stands there as text; only what differs is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Final

from dataplane.adapters import tools
from dataplane.adapters.network import Step
from dataplane.errors import ApplyError
from dataplane.rules.ipset import IPSet, IPSets
from dataplane.rules.iptables import Xtables
from dataplane.rules.nodestate import NodeState
from dataplane.text import ipset, ipvsadm
from dataplane.text.iptables import print_save

_NFACCT: Final = re.compile(r"--nfacct-name +(\S+)")
_WAIT: Final = ("-w", "60")


def needed(want: NodeState) -> list[str]:
    """The tools that a state needs."""
    found = ["nsenter", "ip"]
    for xtables in (want.iptables, want.ip6tables):
        if xtables.tables:
            found += [restore_tool(xtables), restore_tool(xtables).replace("restore", "save")]
    found += ["ipset"] if want.ipsets.sets else []
    found += ["ipvsadm"] if want.ipvs.servers else []
    return [*found, *(["nfacct"] if accounts(want) else [])]


def restore_tool(xtables: Xtables) -> str:
    """The command that loads a rule set."""
    return f"{'iptables' if xtables.family == 4 else 'ip6tables'}-{xtables.flavour}-restore"


def accounts(state: NodeState) -> set[str]:
    """The accounting objects that rules name; the kernel refuses a rule whose object does not exist."""
    texts = [print_save(xtables) for xtables in (state.iptables, state.ip6tables) if xtables.tables]
    return {name.strip('"') for text in texts for name in _NFACCT.findall(text)}


def steps(have: NodeState, want: NodeState, netns: str | None) -> Iterator[Step]:
    """What leads from the rule sets that stand in a namespace (given by its path) to those of a state."""
    for name in sorted(accounts(want) - accounts(have)):
        yield Step(f"nfacct add {name}", partial(_account, netns, name))
    before, after = set_inputs(have.ipsets, want.ipsets)
    if before:
        yield _fed("ipset restore -exist", before, netns, "ipset", "restore", "-exist")
    for old, new in ((have.iptables, want.iptables), (have.ip6tables, want.ip6tables)):
        text = rule_input(old, new)
        if text:
            tool = restore_tool(new if new.tables else old)
            yield _fed(tool, text, netns, tool, *_WAIT)
    if after:
        yield _fed("ipset restore", after, netns, "ipset", "restore")
    yield from _virtual_servers(have, want, netns)


def _fed(shown: str, text: str, netns: str | None, *command: str) -> Step:
    lines = "".join(f"\n    {line}" for line in text.splitlines())
    return Step(f"{shown} <<{lines}", lambda: tools.run(netns, *command, text=text))


def _account(netns: str | None, name: str) -> None:
    if f"= {name};" not in tools.run(netns, "nfacct", "list"):
        tools.run(netns, "nfacct", "add", name)


# ---------------------------------------------------------------------- ip sets


def set_inputs(have: IPSets, want: IPSets) -> tuple[str, str]:
    """What ``ipset restore -exist`` must be fed before the rules change, and ``ipset restore`` afterwards."""
    before: list[str] = []
    after: list[str] = []
    for name, new in want.sets.items():
        old = have.sets.get(name)
        if old is None:
            before += _lines(new)
        elif (old.type, old.family, _fixed(old)) != (new.type, new.family, _fixed(new)):
            raise ApplyError(f"the set {name} is a {old.type} with other options there: remove it first (dataplane cleanup)")
        else:
            before += _members(old, new)
    after += [f"destroy {name}" for name in have.sets if name not in want.sets]
    return "".join(f"{line}\n" for line in before), "".join(f"{line}\n" for line in after)


def _lines(one: IPSet) -> list[str]:
    return ipset.print_save(IPSets({one.name: one})).splitlines()


def _fixed(one: IPSet) -> tuple[tuple[str, str | None], ...]:
    """Options that a set keeps for life; the kernel grows a hash by itself and says how it was seeded."""
    return tuple(option for option in one.options if option[0] not in ("hashsize", "initval", "bucketsize"))


def _members(old: IPSet, new: IPSet) -> list[str]:
    there = {ipset.format_member(old, entry): entry for entry in old.entries}
    wanted = {ipset.format_member(new, entry): entry for entry in new.entries}
    gone = {_bare(text) for text in there if text not in wanted} - {_bare(text) for text in wanted}
    return [*(f"del {new.name} {text}" for text in sorted(gone)), *(f"add {new.name} {text}" for text in wanted if text not in there)]


def _bare(member: str) -> str:
    return member.split(" ", 1)[0]


# ---------------------------------------------------------------------- iptables


def rule_input(have: Xtables, want: Xtables) -> str:
    """What ``iptables-restore --noflush`` must be fed; nothing where the rules are the same."""
    texts = []
    for name in {**have.tables, **want.tables}:
        old, new = (_table_text(xtables, name) for xtables in (have, want))
        if old != new:
            texts.append(new or f"*{name}\nCOMMIT\n")
    return "".join(texts)


def _table_text(xtables: Xtables, name: str) -> str:
    if name not in xtables.tables:
        return ""
    alone = Xtables(xtables.family, {name: xtables.tables[name]}, xtables.flavour)
    return re.sub(r"^\[\d+:\d+\] |(?<= )\[\d+:\d+\]$", lambda found: "[0:0]" if found[0].startswith("[") and not found[0].endswith(" ") else "", print_save(alone), flags=re.M)


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

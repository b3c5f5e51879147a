"""Where rule sets are found, and how they become snapshots.

The project's own lie in rulesets/. Those that nobody here wrote are no part of the project: they are looked for in ../shared,
seen from the repository's root, and tests that need them skip where there is none.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from dataplane.adapters.lab.snapshot import Json, Snapshot, read
from dataplane.verify import plausible
from dataplane.verify.plausible import Network, completed

RULESETS: Final = Path(__file__).resolve().parents[2] / "rulesets"
SHARED: Final = RULESETS.parents[1] / "shared"
#: Dumps that the real tool does not load even when what publishing did to them is undone.
BROKEN: Final = frozenset({"openwrt-aa.v4.save"})
_SET_NAME: Final = re.compile(r"--match-set (\S+)")
_ANONYMOUS_MAC: Final = re.compile(r"XX:XX:XX:XX:XX:XX|(?<=--mac-source )X\S+")


def rulesets() -> list[Path]:
    """Every directory below rulesets/ that holds iptables rules."""
    return sorted({path.parent for path in RULESETS.glob("**/ip*tables-save.txt")})


def goldens() -> list[Path]:
    """The cases that were programmed in iptables mode."""
    return sorted(path.parent for path in SHARED.glob("goldens/*/iptables"))


def dumps() -> list[Path]:
    return sorted(SHARED.glob("corpus/dumps/*.save"))


def snapshot_of(path: Path) -> Snapshot:
    """A golden's or a snapshot's directory or one save file (``.v6.`` in its name: of ip6tables), with a network."""
    if (path / "case.json").exists():
        return of_golden(path)
    if path.is_dir():
        found = read(path)
        return found if found.links is not None else completed(found)
    text = repaired(path.read_text(errors="replace"))
    sets = "".join(f"create {name} hash:ip family inet\n" for name in dict.fromkeys(_SET_NAME.findall(text)))
    rules = Snapshot(ip6tables=text, ipset=sets) if ".v6." in path.name else Snapshot(iptables=text, ipset=sets)
    return completed(rules)


def repaired(text: str) -> str:
    """What publishing did to a dump undone: line ends, blanks at the end of lines, MACs that were made unreadable."""
    lines = (line.rstrip() for line in text.splitlines())
    return "".join(_ANONYMOUS_MAC.sub("02:00:5e:00:53:aa", line) + "\n" for line in lines)


def of_golden(case: Path, mode: str = "iptables") -> Snapshot:
    """A golden's rules on a plain node: eth0 as it had, cni0 with the pod CIDRs' first address, routes to the others'."""
    links = json.loads((case / "network/ip-addr.json").read_text())
    own, others = _pod_ranges((case / "manifest.yaml").read_text(), json.loads((case / "case.json").read_text())["node"])
    bridge = [plausible.address(str(net[1]), net) for net in own]
    routes: list[Json] = [plausible.connected(net, "cni0", str(net[1])) for net in own]
    for entry in links[1]["addr_info"]:
        net = ip_network(f"{entry['local']}/{entry['prefixlen']}", strict=False)
        routes.append(plausible.connected(net, "eth0", entry["local"]))
    firsts = {net.version: net for route in reversed(routes[len(own) :]) for net in (ip_network(route["dst"]),)}
    routes += [plausible.default_route(net, "eth0", "") for net in firsts.values()]
    routes += [{"dst": str(net), "gateway": via, "dev": "eth0", "metric": 1024} for net, via in others if net.version in firsts]
    bridge = [entry for entry in bridge if (6 if entry["family"] == "inet6" else 4) in firsts]
    links.append(plausible.link(len(links) + 1, "cni0", bridge))
    files = ("iptables-save.txt", "ip6tables-save.txt", "ipset-save.txt")
    iptables, ip6tables, ipset = (path.read_text() if path.exists() else "" for path in (case / mode / name for name in files))
    return Snapshot(
        links=links, sysctls={**plausible.FORWARDING, "net.ipv4.conf.all.route_localnet": "1"},
        routes4=[route for route in routes if ":" not in route.get("dst", "") + route.get("gateway", "")],
        routes6=[route for route in routes if ":" in route.get("dst", "") + route.get("gateway", "")],
        iptables=iptables, ip6tables=ip6tables, ipset=ipset,
    )  # fmt: skip


def _pod_ranges(manifest: str, node: str) -> tuple[list[Network], list[tuple[Network, str]]]:
    """Of the Nodes in a manifest: this one's pod CIDRs, and the others' with the node address to reach them by."""
    import yaml  # only goldens need it

    own: list[Network] = []
    others: list[tuple[Network, str]] = []
    nodes: list[Any] = [entry for entry in yaml.safe_load_all(manifest) if entry and entry["kind"] == "Node"]  # Any: YAML
    for entry in nodes:
        ranges = [ip_network(text) for text in entry["spec"].get("podCIDRs", ())]
        if entry["metadata"]["name"] == node:
            own = ranges
            continue
        addresses = [ip_address(a["address"]) for a in entry["status"]["addresses"] if a["type"] == "InternalIP"]
        others += [(net, str(a)) for net in ranges for a in addresses[:2] if a.version == net.version]
    return own, others

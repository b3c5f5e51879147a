"""A node made from a snapshot: its own namespace on the real kernel, with a second one at the far end of every interface.

Whatever an interface is in the snapshot (bridge, tunnel, VLAN), here it is a veth of the same name, index, MAC and MTU; so
rules about bridge ports never match. With IPVS dummies are dummies, for on these the kernel keeps addresses though they are down.
Knows the order in which things have to be made; knows nothing about packets.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal

from dataplane.adapters.lab import connections
from dataplane.adapters.lab import snapshot as snapshots
from dataplane.adapters.lab.netns import Netns, sysctl_path, write_sysctl
from dataplane.adapters.lab.observer import Observer
from dataplane.adapters.lab.ration import every_error_told
from dataplane.adapters.lab.snapshot import Json, Snapshot, is_dummy
from dataplane.adapters.lab.sockets import SocketObserver
from dataplane.errors import LabError

Flavour = Literal["legacy", "nft"]

#: Kept whatever the snapshot says: answers are not to be rationed, and the node is to send nothing that nobody asked for.
OURS: Final[Mapping[str, str]] = {
    "net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_msgs_per_sec": "1000000000", "net.ipv4.icmp_msgs_burst": "1000000000",
    "net.ipv6.icmp.ratelimit": "0", "net.ipv4.tcp_invalid_ratelimit": "0",
}  # fmt: skip
_QUIET6: Final[Mapping[str, str]] = {
    "addr_gen_mode": "1", "accept_ra": "0", "accept_dad": "0", "dad_transmits": "0", "router_solicitations": "0",
    "autoconf": "0",
}  # fmt: skip
#: Writing these sets every interface's own value, so they come before those.
_FIRST: Final = ("net.ipv4.ip_forward",)
_TABLES: Final[Mapping[str, int]] = {"default": 253, "main": 254, "local": 255}
_GATEWAY_MAC: Final = "02:00:5e:00:53:01"
_ADDRESSES6: Final = Path("/proc/thread-self/net/if_inet6")
_TENTATIVE: Final = 0x40
_WAIT, _WAITS = 0.01, 500  # seconds, and how many of them


class Node:
    """The snapshot, standing. ``links`` tells interfaces by index; ``unset`` the sysctls that this kernel did not take."""

    def __init__(self, snapshot: Snapshot, inside: Netns, outside: Netns, observer: Observer | SocketObserver, flavour: Flavour | None) -> None:
        self.snapshot, self.inside, self.outside, self.observer, self.flavour = snapshot, inside, outside, observer, flavour
        self.links: dict[int, str] = {}
        self.peers: dict[str, int] = {}
        self.macs: dict[str, bytes] = {}
        self.broadcasts: dict[str, set[str]] = {}
        self.unset: list[str] = []

    def sysctl(self, key: str) -> str:
        """A kernel parameter as it is now on the node."""
        with self.inside.inside():
            return sysctl_path(key).read_text().strip()


@contextmanager
def standing(
    source: Snapshot | Path, *, flavour: Flavour | None = None, sysctls: Mapping[str, str] | None = None,
    observed_by: type[Observer] | type[SocketObserver] = Observer,
) -> Iterator[Node]:  # fmt: skip
    """A node made from a snapshot (or its directory), gone again at the end. LabError with the tool's words if it fails.

    ``flavour`` says which iptables loads the rules; None asks the header of the save. ``sysctls`` go over the snapshot's.
    ``observed_by`` is how packets are watched: SocketObserver where the kernel has no nftables.
    """
    snapshot = snapshots.read(source) if isinstance(source, Path) else source
    snapshot = replace(snapshot, sysctls={**snapshot.sysctls, **(sysctls or {})})
    with every_error_told(), Netns() as inside, Netns() as outside:
        observer = observed_by(inside)  # before any rule: see there
        try:
            node = Node(snapshot, inside, outside, observer, flavour)
            _set_sysctls(node, interfaces=False)
            _make_links(node)
            _set_sysctls(node, interfaces=True)
            _add_addresses(node, dummies=False)
            _add_routes(node)
            _add_addresses(node, dummies=True)
            _await_addresses(node)
            _add_rules(node)
            load_rules(node)
            connections.load(inside, snapshot.conntrack)
            observer.ready(node)
            yield node
        finally:
            observer.close()


# ---------------------------------------------------------------------- sysctls


def _set_sysctls(node: Node, *, interfaces: bool) -> None:
    """The snapshot's values; those of single interfaces only once these exist."""
    values = node.snapshot.sysctls
    chosen = [key for key in values if _of_interface(key) == interfaces]
    chosen.sort(key=lambda key: (key not in _FIRST, ".all." not in key, ".default." not in key))
    with node.inside.inside():
        node.unset += [key for key in chosen if key not in OURS and not write_sysctl(key, values[key])]
        for key, value in OURS.items():
            if not write_sysctl(key, value):
                node.unset.append(key)


def _of_interface(key: str) -> bool:
    parts = key.split(".")
    return len(parts) > 4 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default")


# ---------------------------------------------------------------------- links and addresses


def _make_links(node: Node) -> None:
    links = [link for link in node.snapshot.links or [] if link["ifname"] != "lo"]
    node.inside.run("ip", "link", "set", "lo", "up")
    node.links[1] = "lo"
    _batch(node.inside, None, [_link_command(node, link) for link in sorted(links, key=lambda link: link["ifindex"])])
    _batch(node.outside, None, ["link set lo up", *(f"link set p{link['ifindex']} up" for link in links if _carrier(link) and not is_dummy(node.snapshot, link))])
    with node.inside.inside():
        for link in links:
            for key, value in _QUIET6.items():
                write_sysctl(f"net.ipv6.conf.{link['ifname'].replace('.', '/')}.{key}", value)
    _batch(node.inside, None, [f"link set {link['ifname']} up" for link in links if "UP" in link.get("flags", ("UP",))])
    for link in json.loads(node.inside.run("ip", "-j", "link")):
        node.links[link["ifindex"]] = link["ifname"]
        node.macs[link["ifname"]] = bytes.fromhex(link["address"].replace(":", ""))
    for peer in json.loads(node.outside.run("ip", "-j", "link")):
        if peer["ifname"] != "lo":
            node.peers[node.links[int(peer["ifname"][1:])]] = peer["ifindex"]


def _carrier(link: Json) -> bool:
    flags = link.get("flags", ())
    return "LOWER_UP" in flags or "NO-CARRIER" not in flags


def _link_command(node: Node, link: Json) -> str:
    words = [f"link add name {link['ifname']} index {link['ifindex']} mtu {link.get('mtu', 1500)}"]
    if link.get("link_type", "ether") == "ether" and link.get("address"):
        words.append(f"address {link['address']}")
    if is_dummy(node.snapshot, link):
        return " ".join([*words, "arp off" if "NOARP" in link.get("flags", ()) else "", "type dummy"])
    words.append(f"type veth peer name p{link['ifindex']} mtu {link.get('mtu', 1500)} netns {node.outside.path}")
    return " ".join(words)


def _add_addresses(node: Node, *, dummies: bool) -> None:
    """A dummy's come after the routes, as kube-proxy's do: no route could be made by way of one of them."""
    commands = []
    for link in node.snapshot.links or []:
        if is_dummy(node.snapshot, link) != dummies:
            continue
        entries = link.get("addr_info", ())
        node.broadcasts[link["ifname"]] = {text for entry in entries for text in _broadcasts(entry)}
        # The latest IPv6 address comes first in the list (ipv6_link_dev_addr), and the list's order decides among equals.
        newest_first = [entry for entry in entries if entry["family"] == "inet6"]
        for entry in [entry for entry in entries if entry["family"] != "inet6"] + newest_first[::-1]:
            own = link["ifname"] == "lo" and (entry["local"], entry["prefixlen"]) in (("127.0.0.1", 8), ("::1", 128))
            if not own:
                commands.append(_address_command(link["ifname"], entry))
    _batch(node.inside, None, commands)


def _await_addresses(node: Node) -> None:
    """IPv6 addresses become the node's own in a work queue (addrconf_dad_work), on a busy machine some time after they were added."""
    up = {link["ifname"] for link in node.snapshot.links or [] if "UP" in link.get("flags", ("UP",)) and _carrier(link)}
    for _ in range(_WAITS):
        with node.inside.inside():
            lines = [line.split() for line in _ADDRESSES6.read_text().splitlines()] if _ADDRESSES6.exists() else []
        if not any(int(flags, 16) & _TENTATIVE and name in up for *_, flags, name in lines):
            return
        time.sleep(_WAIT)
    raise LabError("IPv6 addresses stay tentative")


def _broadcasts(entry: Json) -> Iterator[str]:
    """The address given as such and the last of the subnet, which the kernel holds for one too (fib_add_ifaddr)."""
    if "broadcast" in entry:
        yield entry["broadcast"]
    if entry["family"] == "inet" and entry["prefixlen"] < 31:
        yield str(ip_network(f"{entry['local']}/{entry['prefixlen']}", strict=False).broadcast_address)


def _address_command(name: str, entry: Json) -> str:
    family = 6 if entry["family"] == "inet6" else 4
    peer = f" peer {entry['address']}" if "address" in entry else ""
    words = [f"addr add {entry['local']}{peer}/{entry['prefixlen']} dev {name}"]
    if family == 4 and "broadcast" in entry:
        words.append(f"broadcast {entry['broadcast']}")
    if "scope" in entry:
        words.append(f"scope {entry['scope']}")
    if entry.get("label", name).startswith(name) and family == 4:
        words.append(f"label {entry.get('label', name)}")
    if entry.get("noprefixroute"):
        words.append("noprefixroute")
    if family == 6:
        words.append("nodad")
    if entry.get("deprecated"):
        words.append("preferred_lft 0")
    return " ".join(words)


# ---------------------------------------------------------------------- routes and rules


def _add_routes(node: Node) -> None:
    """The snapshot's routes; of those that the kernel makes of addresses, only the ones that the snapshot has too."""
    for family, routes in ((4, node.snapshot.routes4), (6, node.snapshot.routes6)):
        if routes is None:
            continue
        own = [route for route in routes if _family(route, family) == family]
        _forget_unlisted(node, family, own)
        _batch(node.inside, family, _neighbours(own))
        given = [route for route in own if route.get("protocol") != "kernel" and not _cached(route)]
        _batch(node.inside, family, [_route_command(route) for route in sorted(given, key=_uses_gateway)])


def _forget_unlisted(node: Node, family: int, routes: list[Json]) -> None:
    """A prefix route that the kernel makes with every address may have been taken away on the node that the snapshot shows."""
    listed = {(route["dst"], route.get("dev")) for route in routes}
    made = json.loads(node.inside.run("ip", f"-{family}", "-j", "route", "show", "table", "main") or "[]")
    gone = [route for route in made if (route["dst"], route.get("dev")) not in listed and not route["dst"].startswith("fe80:")]
    _batch(node.inside, family, [f"route del {route['dst']} dev {route['dev']}" for route in gone])


def _family(route: Json, default: int) -> int:
    """``ip -j route show table all`` without -4 prints both families."""
    known = [route.get("dst", ""), route.get("gateway", ""), route.get("prefsrc", "")]
    if any(":" in text for text in known):
        return 6
    return 4 if any("." in text for text in known) else default


def _cached(route: Json) -> bool:
    return "cache" in route or "cloned" in route.get("flags", ())


def _uses_gateway(route: Json) -> bool:
    return any("gateway" in hop or "via" in hop for hop in (route, *route.get("nexthops", ())))


def _neighbours(routes: Iterable[Json]) -> list[str]:
    """Gateways are known neighbours, or IPv6 would prefer one route to another by what it has heard of them."""
    hops = [hop for route in routes for hop in (route, *route.get("nexthops", ())) if "gateway" in hop and "dev" in hop]
    names = sorted({(hop["gateway"], hop["dev"]) for hop in hops})
    return [f"neigh replace {gateway} lladdr {_GATEWAY_MAC} nud permanent dev {dev}" for gateway, dev in names]


def _route_command(route: Json) -> str:
    kind = route.get("type", "unicast")
    words = ["route add", kind, route["dst"], f"table {table_number(route.get('table', 'main'))}"]
    words += _hop_words(route) if kind not in ("unreachable", "blackhole", "prohibit", "throw") else []
    options = (("protocol", "proto"), ("scope", "scope"), ("prefsrc", "src"), ("metric", "metric"), ("tos", "tos"))
    words += [f"{name} {route[key]}" for key, name in options if key in route]
    metrics = [pair for entry in route.get("metrics", ()) for pair in entry.items()]
    words += [f"{key} {value}" for key, value in metrics if key in ("mtu", "advmss")]
    for hop in route.get("nexthops", ()):
        words += ["nexthop", *_hop_words(hop), f"weight {hop.get('weight', 1)}"]
    return " ".join(words)


def _hop_words(hop: Json) -> list[str]:
    words = []
    if "gateway" in hop:
        words.append(f"via {hop['gateway']}")
    if "via" in hop:
        words.append(f"via {hop['via']['family']} {hop['via']['host']}")
    if "dev" in hop:
        words.append(f"dev {hop['dev']}")
    if "onlink" in hop.get("flags", ()):
        words.append("onlink")
    return words


def table_number(name: str | int) -> int:
    """A routing table's number; one that only that node's rt_tables names gets a number of its own, the same everywhere."""
    text = str(name)
    return int(text) if text.isdigit() else _TABLES.get(text) or 0x10000 + zlib.crc32(text.encode()) % 0xFFFF


def _add_rules(node: Node) -> None:
    for family, rules in ((4, node.snapshot.rules4), (6, node.snapshot.rules6)):
        if rules is None:
            continue
        standing_rules = json.loads(node.inside.run("ip", f"-{family}", "-j", "rule"))
        commands = [_rule_command(rule) for rule in rules]
        # The new ones first: without the rule for the table "local" nothing could be removed and added one by one safely.
        kept = [(rule["priority"], rule.get("table")) for rule in rules]
        have = [(rule["priority"], rule.get("table")) for rule in standing_rules]
        commands = [command for command, key in zip(commands, kept, strict=True) if key not in have]
        gone = [f"rule del priority {priority}" for priority, table in have if (priority, table) not in kept]
        _batch(node.inside, family, commands + gone)


def _rule_command(rule: Json) -> str:
    words = ["rule add", f"priority {rule['priority']}"]
    words[1:1] = ["not"] if "not" in rule else []
    for key, name in (("src", "from"), ("dst", "to")):
        if key in rule:
            length = rule.get(f"{key}len")
            words.append(f"{name} {rule[key]}" + (f"/{length}" if length is not None else ""))
    if "fwmark" in rule:
        words.append(f"fwmark {rule['fwmark']}" + (f"/{rule['fwmask']}" if "fwmask" in rule else ""))
    words += [f"{key} {rule[key]}" for key in ("iif", "oif", "tos", "ipproto", "suppress_prefixlength") if key in rule]
    words += [f"{key} {_range(rule, key)}" for key in ("sport", "dport") if key in rule or f"{key}_start" in rule]
    if "uid_start" in rule:
        words.append(f"uidrange {rule['uid_start']}-{rule['uid_end']}")
    return " ".join([*words, *_rule_action(rule)])


def _range(rule: Json, key: str) -> str:
    return str(rule[key]) if key in rule else f"{rule[f'{key}_start']}-{rule[f'{key}_end']}"


def _rule_action(rule: Json) -> list[str]:
    if "goto" in rule:
        return [f"goto {rule['goto']}"]
    if "table" in rule:
        return [f"table {table_number(rule['table'])}"]
    if "l3mdev" in rule:
        return ["l3mdev"]
    return [rule.get("action", "")]


# ---------------------------------------------------------------------- rules


def load_rules(node: Node) -> None:
    """nfacct objects, ipsets, virtual servers and both families' rule sets."""
    snapshot = node.snapshot
    if snapshot.ipset:
        node.inside.run("ipset", "restore", "-exist", text=snapshot.ipset)
    if snapshot.ipvs:
        node.inside.run("ipvsadm", "-R", text=snapshot.ipvs)
    known = node.inside.run("nfacct", "list") if snapshot.nfacct_names() else ""
    for name in snapshot.nfacct_names():
        if f"= {name};" not in known:
            node.inside.run("nfacct", "add", name)
    for command, text in _saves(node):
        node.inside.run(command, "-w", "60", text=text)


def unload_rules(node: Node) -> None:
    """Empties every table that ``load_rules`` filled, and the sets."""
    for command, text in _saves(node):
        tables = re.findall(r"^\* ?(\w+)", text, re.MULTILINE)
        node.inside.run(command, "-w", "60", text="".join(f"*{table}\nCOMMIT\n" for table in tables))
    if node.snapshot.ipset:
        node.inside.run("ipset", "flush")


def _saves(node: Node) -> list[tuple[str, str]]:
    """Both families' rules, with the command that loads them."""
    texts = (("iptables", node.snapshot.iptables), ("ip6tables", node.snapshot.ip6tables))
    return [(f"{name}-{node.flavour or flavour_of(text)}-restore", text) for name, text in texts if text.strip()]


def flavour_of(save: str) -> Flavour:
    """Which iptables wrote a save file, by its first line; legacy where it does not say."""
    first = next((line for line in save.splitlines() if line.startswith("# Generated by")), "")
    return "nft" if "(nf_tables)" in first else "legacy"


def _batch(netns: Netns, family: int | None, commands: list[str]) -> None:
    """Several ``ip`` commands in one process; the first that fails is named."""
    if not commands:
        return
    option = (f"-{family}",) if family else ()
    try:
        netns.run("ip", *option, "-batch", "-", text="\n".join(commands) + "\n")
    except LabError as error:
        listing = "\n".join(f"{number}: {command}" for number, command in enumerate(commands, 1))
        raise LabError(f"{error}\n{listing}") from error

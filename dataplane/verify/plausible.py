"""Networks for rules that come without one: a plain uplink with a default route, and the interfaces that the rules speak of.

Deterministic: the same rules get the same network. Subnets and addresses are those that the rules mention where they mention
any, so that packets to and from these addresses meet the rules; otherwise 10.200.N.0/24 and fd00:200:N::/64.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from dataplane.adapters.lab.snapshot import Json, Snapshot

Network = IPv4Network | IPv6Network

FORWARDING: Final = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
LO: Final[Json] = {
    "ifindex": 1, "ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536, "link_type": "loopback",
    "address": "00:00:00:00:00:00",
    "addr_info": [
        {"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"},
        {"family": "inet6", "local": "::1", "prefixlen": 128, "scope": "host"},
    ],
}  # fmt: skip

_MOST_LINKS: Final = 24
_OPTION: Final = re.compile(r'(! )?(-i|-o|--in-interface|--out-interface|-s|-d|--source|--destination) ("[^"]*"|\S+)')
_UPLINKS: Final = ("eth0", "ens3", "ppp0", "wan", "eth1")
_SHORTEST, _LONGEST = {4: 16, 6: 32}, {4: 30, 6: 126}


def with_network(snapshot: Snapshot) -> Snapshot:
    """The snapshot as it is where it tells its interfaces, else with a network of its own."""
    return snapshot if snapshot.links is not None else completed(snapshot)


def completed(snapshot: Snapshot) -> Snapshot:
    """The snapshot's rules with a network of their own, forwarding switched on."""
    names = _interfaces(snapshot.iptables + "\n" + snapshot.ip6tables)
    links, routes = [LO], {4: list[Json](), 6: list[Json]()}
    subnets = {family: _subnets(text, names, family) for family, text in ((4, snapshot.iptables), (6, snapshot.ip6tables))}
    owns = {family: _own_addresses(text) for family, text in ((4, snapshot.iptables), (6, snapshot.ip6tables))}
    for number, name in enumerate(names):
        entries = []
        for family in (4, 6):
            net = subnets[family][name]
            local = _host_of(net, owns[family])
            entries.append(address(local, net))
            routes[family].append(connected(net, name, local))
            if number == 0:
                routes[family].append(default_route(net, name, local))
        links.append(link(number + 2, name, entries))
    return replace(snapshot, links=links, routes4=routes[4], routes6=routes[6], sysctls={**FORWARDING, **snapshot.sysctls})


# ---------------------------------------------------------------------- JSON as ip prints it


def link(index: int, name: str, entries: list[Json]) -> Json:
    """An interface that is up, with its addresses."""
    mac = f"02:00:00:00:01:{index:02x}"
    flags = ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"]
    base = {"ifindex": index, "ifname": name, "flags": flags, "mtu": 1500, "link_type": "ether", "address": mac}
    return {**base, "broadcast": "ff:ff:ff:ff:ff:ff", "addr_info": entries}


def address(local: str, net: Network) -> Json:
    """An address of an interface."""
    family = "inet6" if net.version == 6 else "inet"
    entry: Json = {"family": family, "local": local, "prefixlen": net.prefixlen, "scope": "global"}
    if net.version == 4 and net.prefixlen < 31:
        entry["broadcast"] = str(net.broadcast_address)
    return entry


def connected(net: Network, name: str, local: str) -> Json:
    """The route that the kernel makes of an address."""
    if net.version == 6:
        return {"dst": str(net), "dev": name, "protocol": "kernel", "metric": 256, "flags": [], "pref": "medium"}
    return {"dst": str(net), "dev": name, "protocol": "kernel", "scope": "link", "prefsrc": local, "flags": []}


def default_route(net: Network, name: str, local: str) -> Json:
    """By the first address of the subnet that is not the node's own."""
    gateway = next(str(host) for host in net.hosts() if str(host) != local)
    metric = {"metric": 1024} if net.version == 6 else {}
    return {"dst": "default", "gateway": gateway, "dev": name, **metric, "flags": []}


# ---------------------------------------------------------------------- what rules mention


def _options(line: str) -> list[tuple[bool, str, str]]:
    """(negated, short option, value) of interfaces and addresses in a rule."""
    short = {"--in-interface": "-i", "--out-interface": "-o", "--source": "-s", "--destination": "-d"}
    return [(bool(negated), short.get(option, option), value.strip('"')) for negated, option, value in _OPTION.findall(line)]


def _interfaces(text: str) -> list[str]:
    """An uplink first, then the names in the order of the rules; "cali+" is tried by a cali0."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        for _, option, value in _options(line):
            if option in ("-i", "-o") and value not in ("lo", "+"):
                found[value[:-1] + "0" if value.endswith("+") else value] = None
    uplink = next((name for name in _UPLINKS if name in found), "eth0")
    names = [uplink, *(name for name in found if name != uplink and 0 < len(name) < 16 and "/" not in name)]
    return names[:_MOST_LINKS]


def _subnets(text: str, names: list[str], family: int) -> dict[str, Network]:
    """One subnet for each interface, none inside another: first those that a rule names together with it."""
    chosen: dict[str, Network] = {}
    for name, net in _pairs(text, family):
        if name in names and name not in chosen and not _overlaps(net, chosen):
            chosen[name] = net
    values = (value for line in text.splitlines() for _, option, value in _options(line) if option in ("-s", "-d"))
    mentioned = (net for value in values for net in _net(value, family))
    spare = [net for net in dict.fromkeys(mentioned) if net.is_private]
    for number, name in enumerate(names):
        if name not in chosen:
            made = ip_network(f"10.200.{number}.0/24" if family == 4 else f"fd00:200:{number:x}::/64")
            chosen[name] = next((net for net in spare if not _overlaps(net, chosen)), made)
    return chosen


def _pairs(text: str, family: int) -> Iterator[tuple[str, Network]]:
    """What comes in by an interface comes from its subnet, what goes out goes to it; "-s NET ! -o br0" says the same of br0."""
    for line in text.splitlines():
        options = _options(line)
        for negated, option, name in options:
            for other, end, value in options:
                fits = (option, end, negated) in (("-i", "-s", False), ("-o", "-d", False), ("-o", "-s", True))
                if fits and not other:
                    yield from ((name, net) for net in _net(value, family))


def _net(text: str, family: int) -> Iterator[Network]:
    """The text as a subnet that an interface could have."""
    try:
        net = ip_network(text, strict=False)
    except ValueError:
        return
    if net.version == family and _SHORTEST[family] <= net.prefixlen <= _LONGEST[family] and not _special(net):
        yield net


def _special(net: Network) -> bool:
    return net.is_loopback or net.is_multicast or net.is_link_local or net.is_unspecified


def _overlaps(net: Network, chosen: dict[str, Network]) -> bool:
    return any(net.overlaps(other) for other in chosen.values())


def _own_addresses(text: str) -> list[str]:
    """Single addresses that rules of INPUT-like chains take as a destination: likely the node's own."""
    lines = [line for line in text.splitlines() if re.match(r"(\[\S+\] )?-A \S*(INPUT|PREROUTING|OUTPUT)", line)]
    values = [value.split("/")[0] for line in lines for _, option, value in _options(line) if option == "-d" and "/" in value]
    return [value for value in values if re.fullmatch(r"[0-9a-fA-F:.]+", value)]


def _host_of(net: Network, own: list[str]) -> str:
    for value in own:
        try:
            if ip_address(value) in net and ip_address(value) not in (net.network_address, net.broadcast_address):
                return str(ip_address(value))
        except ValueError:
            continue
    return str(net[1])

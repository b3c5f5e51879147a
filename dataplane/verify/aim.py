"""Packets that are meant to hit something: made from what the rules, sets, addresses and routes of a snapshot mention.

A third of the packets are aimed at one rule: every plain match of it is met (addresses, ports, protocol, interface, flags), and
what it leaves open is drawn from the pools. The others mix the pools freely, with now and then something nobody mentions.
The same seed makes the same packets. Reads rules by simple patterns only: a rule it misunderstands is a packet that misses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from random import Random
from typing import Final

from dataplane.adapters.lab.lines import PROTOCOLS, Packet
from dataplane.adapters.lab.snapshot import Json, Snapshot, is_dummy
from dataplane.verify.conversation import Patience, conversation

Network = IPv4Network | IPv6Network

_OPTION: Final = re.compile(r'(! )?(--?[a-zA-Z][a-z0-9-]*)(?: (?!-)("[^"]*"|\S+))?')
_ADDRESS: Final = re.compile(
    r"(?<![\w:.])(\d+\.\d+\.\d+\.\d+(?:/\d+)?|\[?[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:/\d+)?)"
)
_VIRTUAL: Final = re.compile(r"-A (-t|-u|--sctp-service) (\[[^\]]+\]|[\d.]+):(\d+)")
_KINDS: Final = {"-t": "tcp", "-u": "udp", "--sctp-service": "sctp"}
_TCP_FLAGS: Final = re.compile(r"(?<!! )--tcp-flags \S+ (\S+)")
_PORT_OPTIONS: Final = frozenset(
    (
        "--dport", "--sport", "--dports", "--sports", "--ports", "--ctorigdstport", "--ctorigsrcport", "--to-ports",
        "--on-port", "--destination-port",
    )
)  # fmt: skip
_ALIASES: Final = {
    "-s": "src", "--source": "src", "-d": "dst", "--destination": "dst", "--ctorigdst": "dst", "-p": "proto",
    "--protocol": "proto", "-i": "indev", "--in-interface": "indev", "--dport": "dport", "--dports": "dport",
    "--destination-port": "dport", "--ctorigdstport": "dport", "--sport": "sport", "--sports": "sport", "--src-range": "src",
    "--dst-range": "dst",
}  # fmt: skip
_PROTO_NAMES: Final = {"icmpv6": "icmp", "ipv6-icmp": "icmp", "6": "tcp", "17": "udp", "132": "sctp", "1": "icmp", "58": "icmp"}
_FLAGS: Final = ("S", "S", "S", "S", "S", "S", "A", "SA", "FA", "R", "RA", "PA", "F", "FPU")
_PLAIN_PORTS: Final = (53, 80, 443, 8080, 22, 30000, 30080, 32767, 1, 65535, 4789, 123)
_PLAIN4: Final = ("8.8.8.8", "192.0.2.7", "198.51.100.20", "203.0.113.9", "10.0.0.1", "172.16.5.5", "169.254.169.254")
_PLAIN6: Final = ("2001:db8::7", "2001:4860:4860::8888", "fd12:3456::1")
_SEQUENCE_SHARE: Final = 0.2
_TOS: Final = (0x10, 0x28, 0xB8, 0x02)
_LENGTHS: Final = (1, 13, 20, 64, 100)
_FLAG_LETTER: Final = {"SYN": "S", "ACK": "A", "FIN": "F", "RST": "R", "PSH": "P", "URG": "U"}


@dataclass(frozen=True, slots=True)
class _Rule:
    """The plain matches of one rule, as text, of those that are not negated."""

    src: str = ""
    dst: str = ""
    proto: str = ""
    indev: str = ""
    sport: str = ""
    dport: str = ""
    flags: str = ""


@dataclass(frozen=True, slots=True)
class _Pools:
    family: int
    rules: list[_Rule]
    networks: list[Network]
    ports: list[int]
    own: list[str]
    devices: list[str | None]
    behind: dict[str, list[Network]]


def packets_for(snapshot: Snapshot, count: int, seed: int, *, replies: bool = True) -> list[Packet]:
    """``count`` packets with ids from 1, some of them openings with the replies that follow (``reply_to``).

    None to virtual servers comes in fragments: where the lab watches devices it cannot tell what it put together from what it let pass.
    """
    random = Random(seed)
    pools = [pool for pool in (_pools(snapshot, 4), _pools(snapshot, 6)) if pool.own]
    weights = [1 + len(pool.rules) ** 0.5 for pool in pools]
    found: list[Packet] = []
    patience = Patience.of(snapshot.sysctls)
    while len(found) < count:
        pool = random.choices(pools, weights)[0]
        opening = _opening(pool, random, len(found) + 1)
        found.append(opening)
        if replies and random.random() < _SEQUENCE_SHARE and not any(_is_group(end or "", pool) for end in (opening.src, opening.dst)):
            said = list(conversation(opening, random, patience))
            found += [] if snapshot.ipvs and any(packet.fragment for packet in said) else said
    return found[:count]


# ---------------------------------------------------------------------- single packets


def _opening(pool: _Pools, random: Random, number: int) -> Packet:
    if pool.rules and random.random() < 0.35:
        return _at_rule(random.choice(pool.rules), pool, random, number)
    indev = random.choice(pool.devices)
    return _packet(_Rule(), indev, pool, random, number)


def _at_rule(rule: _Rule, pool: _Pools, random: Random, number: int) -> Packet:
    name = rule.indev[:-1] if rule.indev.endswith("+") else rule.indev
    prefix = name != rule.indev
    fitting = [one for one in pool.devices if one and (one == rule.indev or (prefix and one.startswith(name)))]
    return _packet(rule, random.choice(fitting or pool.devices), pool, random, number)


def _packet(rule: _Rule, indev: str | None, pool: _Pools, random: Random, number: int) -> Packet:
    proto = _proto(rule, random)
    common = _any_port(pool, random) if random.random() < 0.1 else random.randint(1024, 65535)
    sport = _port(rule.sport, random) if rule.sport else common
    dport = _port(rule.dport, random) if rule.dport else _any_port(pool, random)
    dst = _within(rule.dst, random) if rule.dst else _target(pool, random)
    if not rule.dst and indev is not None and _is_loopback(dst) and random.random() < 0.9:
        dst = _target(pool, random)  # from outside nearly always a martian
    src = _within(rule.src, random) if rule.src else _source(pool, indev, dst, random)
    if indev is None and _is_group(dst, pool):  # the copy that the node sends to itself is not followed
        dst = random.choice(pool.own)
    if (src in pool.own) != (indev is None) and random.random() < 0.9:
        src = _source(pool, indev, dst, random)  # nearly always refused
    if indev is None and src not in pool.own and (ip_address(src).is_link_local or _is_group(src, pool)):
        src = random.choice(pool.own)  # no socket can be bound to it (of a link-local one: which device is meant cannot be said)
    flags = _flags(rule, random) if proto == "tcp" else None
    ttl = 64 if random.random() < 0.95 else random.choice((1, 2, 255))
    tos, length = (random.choice(_TOS), random.choice(_LENGTHS)) if random.random() < 0.1 else (0, 0)
    if proto == "icmp":
        return Packet(number, indev, src, dst, proto, sport, ttl=ttl, tos=tos, length=length)
    return Packet(number, indev, src, dst, proto, sport, dport, flags, ttl, tos=tos, length=0 if proto == "sctp" else length)


def _proto(rule: _Rule, random: Random) -> str:
    name = _PROTO_NAMES.get(rule.proto, rule.proto)
    if name in PROTOCOLS:
        return name
    return random.choices(PROTOCOLS, (6, 3, 1, 1.5))[0]


def _flags(rule: _Rule, random: Random) -> str:
    if rule.flags:
        names = _FLAG_LETTER if rule.flags == "ALL" else rule.flags.split(",")
        letters = "".join(_FLAG_LETTER.get(name, "") for name in names)
        return "".join(sorted(letters, key="FSRPAU".index)) or "."
    return random.choice(_FLAGS)


def _target(pool: _Pools, random: Random) -> str:
    draw = random.random()
    if draw < 0.6 and pool.networks:
        return _member(random.choice(pool.networks), random)
    if draw < 0.8:
        return random.choice(pool.own)
    if draw < 0.92 and pool.behind:
        return _member(random.choice(random.choice(list(pool.behind.values()))), random)
    return _plain(pool, random)


def _source(pool: _Pools, indev: str | None, dst: str, random: Random) -> str:
    """Mostly an address that belongs where the packet comes from."""
    draw = random.random()
    if indev is None:
        loopback = "::1" if pool.family == 6 else "127.0.0.1"
        to_itself = _is_loopback(dst) and draw < 0.7
        return loopback if to_itself or draw < 0.03 else random.choice(pool.own)
    nets = pool.behind.get(indev)
    if nets and draw < 0.75:
        return _member(random.choice(nets), random)
    if draw < 0.9 and pool.networks:
        return _member(random.choice(pool.networks), random)
    return random.choice(pool.own) if draw > 0.98 else _plain(pool, random)


def _is_loopback(text: str) -> bool:
    return ip_address(text).is_loopback


def _is_group(text: str, pool: _Pools) -> bool:
    """Multicast or a subnet's broadcast: nobody answers from such an address."""
    address = ip_address(text)
    nets = (net for nets in pool.behind.values() for net in nets)
    return address.is_multicast or text == "127.255.255.255" or any(net.version == 4 and address == net.broadcast_address for net in nets)


def _plain(pool: _Pools, random: Random) -> str:
    return random.choice(_PLAIN6 if pool.family == 6 else _PLAIN4)


def _within(text: str, random: Random) -> str:
    """An address that a match on a network or a range takes."""
    first, _, last = text.partition("-")
    if last:
        low, high = int(ip_address(first)), int(ip_address(last))
        return str(type(ip_address(first))(random.randint(low, high)))
    return _member(ip_network(first.strip("[]"), strict=False), random)


def _member(net: Network, random: Random) -> str:
    """A network's first addresses and its last, or one in between; now and then the one just outside."""
    low, high = int(net.network_address), int(net.broadcast_address)
    choices = [low, low + 1, low + 2, high, high - 1, random.randint(low, high), random.randint(low, high), low + 10]
    value = min(max(random.choice(choices), low), high)
    if random.random() < 0.04:
        value = random.choice((low - 1, high + 1))
    kind = IPv6Address if net.version == 6 else IPv4Address
    return str(kind(min(max(value, 1), 2**net.max_prefixlen - 2)))


def _port(text: str, random: Random) -> int:
    """One of "80", "80,443", "1000:2000"; now and then the one beside it."""
    low, _, high = random.choice(text.split(",")).partition(":")
    if not low.isdigit():
        return random.choice(_PLAIN_PORTS)
    value = int(low)
    if high.isdigit():
        value = random.choice((int(low), int(high), random.randint(int(low), max(int(high), int(low)))))
    return min(max(value + (random.choice((-1, 1)) if random.random() < 0.04 else 0), 1), 65535)


def _any_port(pool: _Pools, random: Random) -> int:
    if pool.ports and random.random() < 0.8:
        return random.choice(pool.ports)
    return random.choice((*_PLAIN_PORTS, random.randint(1, 65535)))


# ---------------------------------------------------------------------- what a snapshot mentions


def _pools(snapshot: Snapshot, family: int) -> _Pools:
    text = snapshot.ip6tables if family == 6 else snapshot.iptables
    links = [link for link in snapshot.links or [] if "UP" in link.get("flags", ("UP",))]
    inet = "inet6" if family == 6 else "inet"
    own = [entry["local"] for link in links for entry in link.get("addr_info", ()) if entry["family"] == inet]
    lines = text.splitlines()
    options = [found for line in lines if (found := _options(line))]
    rules = (_rule(line, family) for line in lines if "-A " in line)
    ports = {port for found in options for _, name, value in found if name in _PORT_OPTIONS for port in _numbers(value)}
    ports |= {int(port) for line in lines for port in re.findall(r"--to-destination \S+:(\d+)", line)}
    ports |= {int(port) for port in re.findall(r"(?:tcp|udp|sctp):(\d+)", snapshot.ipset)}
    servers = [found for found in map(_VIRTUAL.match, snapshot.ipvs.splitlines()) if found and _is_address(found[2].strip("[]"), family)]
    ports |= {int(found[3]) for found in servers if found[3] != "0"}
    aims = [_Rule(proto=_KINDS[found[1]], dst=found[2].strip("[]"), dport="" if found[3] == "0" else found[3]) for found in servers]
    return _Pools(
        family, [*_distinct(rules), *aims], _networks(text + snapshot.ipset + snapshot.ipvs, family), sorted(ports),
        own, [None, *(link["ifname"] for link in links if link["ifname"] != "lo" and not is_dummy(snapshot, link))], _behind(snapshot, links, family),
    )  # fmt: skip


def _options(line: str) -> list[tuple[bool, str, str]]:
    return [(bool(no), name, value.strip('"')) for no, name, value in _OPTION.findall(line)] if "-A " in line else []


def _rule(line: str, family: int) -> _Rule:
    flags = _TCP_FLAGS.search(line)
    fields = {"flags": flags[1]} if flags else {}
    for negated, name, value in _options(line):
        if name in _ALIASES and value and not negated:
            fields[_ALIASES[name]] = value
    for key in ("src", "dst"):
        if key in fields and not _is_address(fields[key], family):
            del fields[key]
    return _Rule(**fields)


def _is_address(text: str, family: int) -> bool:
    try:
        return all(ip_network(part, strict=False).version == family for part in text.split("-"))
    except ValueError:
        return False


def _distinct(rules: Iterable[_Rule]) -> list[_Rule]:
    """Every different rule once: many a rule set is nine tenths repetition."""
    return list(dict.fromkeys(rule for rule in rules if rule != _Rule()))


def _networks(text: str, family: int) -> list[Network]:
    """Everything that looks like an address or a network of the family."""
    found: dict[Network, None] = {}
    for token in _ADDRESS.findall(text):
        try:
            net = ip_network(token.strip("[]"), strict=False)
        except ValueError:
            continue
        if net.version == family:
            found[net] = None
    return list(found)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.split(r"[,:]", text) if part.isdigit() and 0 < int(part) < 65536]


def _behind(snapshot: Snapshot, links: list[Json], family: int) -> dict[str, list[Network]]:
    """The networks that lie behind each interface: its subnets and what is routed there."""
    found: dict[str, list[Network]] = {}
    inet = "inet6" if family == 6 else "inet"
    for link in links:
        for entry in link.get("addr_info", ()):
            if entry["family"] == inet and link["ifname"] != "lo":
                net = ip_network(f"{entry['local']}/{entry['prefixlen']}", strict=False)
                found.setdefault(link["ifname"], []).append(net)
    for route in (snapshot.routes6 if family == 6 else snapshot.routes4) or ():
        if "dev" in route and route["dst"] != "default" and _is_address(route["dst"], family):
            found.setdefault(route["dev"], []).append(ip_network(route["dst"], strict=False))
    return found

"""A small node for tests of the engine: eth0 to the outside, cni0 to the pods, and rules as iptables-restore text."""

from __future__ import annotations

from dataplane.engine.netns import Netns
from dataplane.inet import ICMP, ICMPV6, PROTOCOL_NUMBERS, parse_address, parse_prefix
from dataplane.packet import ACK, FIN, PSH, RST, SYN, Packet
from dataplane.rules.network import Address, Link, NextHop, Route
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text.iptables import parse_save

_FLAGS = {"S": SYN, "A": ACK, "F": FIN, "R": RST, "P": PSH}


def address(text: str) -> int:
    return parse_address(text)[1]


def node(v4: str = "", v6: str = "", *, sysctls: dict[str, str] | None = None, routes: tuple[str, ...] = (), **options: bool) -> Netns:
    """The lab node. ``routes`` adds lines like "10.244.2.0/24 via 192.168.0.12" or "unreachable 10.9.0.0/16"."""
    links = (
        LOOPBACK,
        Link(2, "eth0", addresses=(Address(4, address("192.168.0.11"), 24), Address(6, address("fd00::11"), 64))),
        Link(3, "cni0", addresses=(Address(4, address("10.244.1.1"), 24), Address(6, address("fd00:10:244:1::1"), 64))),
    )
    main4 = [_route(text) for text in ("default via 192.168.0.1", "192.168.0.0/24 dev eth0", "10.244.1.0/24 dev cni0", *routes)]
    main6 = [_route(text) for text in ("fd00::/64 dev eth0", "fd00:10:244:1::/64 dev cni0", "::/0 via fd00::1")]
    state = NodeState(
        links=links, routes4=tuple(main4), routes6=tuple(main6),
        sysctls={"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", **(sysctls or {})},
        iptables=parse_save(v4, 4).xtables, ip6tables=parse_save(v6, 6).xtables,
    )  # fmt: skip
    return Netns(state, **options)


def _route(text: str) -> Route:
    words = text.split()
    kind = words.pop(0) if words[0] in ("unreachable", "prohibit", "blackhole", "throw") else "unicast"
    family = 6 if ":" in words[0] else 4
    prefix = parse_prefix("0.0.0.0/0" if words[0] == "default" else words[0])
    options = dict(zip(words[1::2], words[2::2], strict=False))
    gateway = address(options["via"]) if "via" in options else None
    hops = () if kind != "unicast" else (NextHop(dev=options.get("dev", "eth0"), gateway=gateway),)
    return Route(family, prefix, kind, nexthops=hops, scope=0 if gateway else 253)


def packet(text: str, **fields: object) -> Packet:
    """``tcp 1.2.3.4:5 > 6.7.8.9:80 SA`` (flags optional); ICMP as ``icmp 1.2.3.4 > 5.6.7.8``, an echo request."""
    name, source, _, target, *flags = text.split()
    family = 6 if source.count(":") > 1 else 4
    if name == "icmp":
        kind = {"icmp_type": 8 if family == 4 else 128, "icmp_id": 1, "length": 28}
        return Packet(family, address(source), address(target), ICMP if family == 4 else ICMPV6, **(kind | fields))  # type: ignore[arg-type]
    (saddr, sport), (daddr, dport) = (_endpoint(end) for end in (source, target))
    bits = sum(_FLAGS[letter] for letter in (flags[0] if flags else "S" if name == "tcp" else ""))
    values = {"tcp_flags": bits, "length": 40 if family == 4 else 60, "seq": 1000, "ack": 5001 if bits & ACK else 0}
    return Packet(family, saddr, daddr, PROTOCOL_NUMBERS[name], sport, dport, **(values | fields))  # type: ignore[arg-type]


def _endpoint(text: str) -> tuple[int, int]:
    host, _, port = text.rpartition(":")
    return address(host.strip("[]")), int(port)

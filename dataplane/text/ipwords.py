"""Addresses, routes and rules in the words of the ip command, on one line each."""

from __future__ import annotations

from dataplane.inet import PROTOCOL_NAMES, format_address
from dataplane.rules.network import Address, Route, RoutingRule


def address_words(one: Address, link: str) -> str:
    """What follows ``ip addr add``."""
    far = f" peer {format_address(one.family, one.peer)}" if one.peer is not None else ""
    return f"{format_address(one.family, one.local)}{far}/{one.prefixlen} dev {link}"


def route_words(route: Route) -> str:
    """What follows ``ip route add``, without what nobody decides by."""
    words = [route.type, str(route.destination), f"table {route.table}"]
    for hop in route.nexthops:
        words += ["nexthop"] if len(route.nexthops) > 1 else []
        words += [f"via {format_address(hop.gateway_family or route.family, hop.gateway)}"] if hop.gateway is not None else []
        words += [f"dev {hop.dev}"] if hop.dev else []
    words += [f"metric {route.metric}"] if route.metric else []
    words += [f"src {format_address(route.family, route.prefsrc)}"] if route.prefsrc is not None else []
    return " ".join(words)


def rule_words(rule: RoutingRule) -> str:
    """What follows ``ip rule add``."""
    words = [f"priority {rule.priority}"]
    words += ["not"] if rule.negated else []
    words += [f"from {rule.source or 'all'}"] + ([f"to {rule.destination}"] if rule.destination else [])
    words += [f"fwmark 0x{rule.fwmark:x}/0x{rule.fwmask:x}"] if rule.fwmask else []
    words += [f"iif {rule.iif}"] if rule.iif else []
    words += [f"oif {rule.oif}"] if rule.oif else []
    words += [f"ipproto {PROTOCOL_NAMES.get(rule.ip_protocol, rule.ip_protocol)}"] if rule.ip_protocol is not None else []
    return " ".join([*words, rule.action, str(rule.table if rule.table is not None else rule.goto or "")]).rstrip()

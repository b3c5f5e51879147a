"""``ip -j route show table all`` and ``ip -6 -j route show table all`` (also with -d): read and printed.

Without -4, ``table all`` prints the routes of both families, so each route's family is told by the route itself. Tables that
have a name in that node's rt_tables only (``vpn``) get a number of their own above 2**32, the same in every text.
Source: iproute2 ip/iproute.c as observed (6.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dataplane.inet import FULL_MASK, Prefix, format_address, parse_prefix
from dataplane.rules.network import NextHop, Rest, Route
from dataplane.text.jsontext import ABSENT, Item, Objects, arrange, print_objects
from dataplane.text.problems import Problems
from dataplane.text.rtnames import read_scope, read_tos, scope_name, table_name, table_number, tos_name

COMMANDS: Final[Mapping[int, str]] = {4: "ip -j route show table all", 6: "ip -6 -j route show table all"}
#: Types by rtnetlink's numbers, which is what ``ip -N`` prints.
_TYPES: Final = (
    "none", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw", "nat",
    "xresolve",
)  # fmt: skip
_TYPE_NUMBERS: Final = {str(number): name for number, name in enumerate(_TYPES)}
#: What ``ip`` leaves out unless -d is given.
_HIDDEN: Final[Mapping[str, Any]] = {"type": "unicast", "table": "main", "protocol": "boot", "scope": "global"}
_HOP_FIELDS: Final = ("gateway", "via", "dev")
#: What follows the fields of an encapsulation in an object (print_route, print_rta_multipath).
_AFTER_ENCAP: Final = frozenset({"gateway", "via", "dev", "table", "protocol", "scope", "prefsrc", "metric", "flags", "weight"})
_U32: Final = 0xFFFFFFFF


def parse_routes(text: str, family: int = 4, *, file: str | None = None) -> tuple[Route, ...]:
    """The routes in the order of the text. ParseError with all that is wrong.

    ``family`` is that of the command, for routes that do not tell it themselves.
    """
    problems = Problems(file)
    source = Objects(text, problems, COMMANDS[family])
    routes = tuple([_route(item, family) for item in source.items if item.pairs])
    problems.raise_if_any()
    return routes


def print_routes(routes: Iterable[Route]) -> str:
    """The routes as ``ip -j route show table all`` prints them."""
    return print_objects(_unfolded(_shown(route)) for route in routes)


# ---------------------------------------------------------------------- reading


def _route(item: Item, family: int) -> Route:
    item = item.replaced(_folded(item.pairs))
    family = _family(item, family)
    item.subject = f"route {item.raw('dst')}"
    kind = item.text("type") or "unicast"
    if kind in _TYPE_NUMBERS:
        kind = _TYPE_NUMBERS[kind]
    if kind not in _TYPES:
        item.wrong("type", "a type of route such as unicast, local or blackhole")
    hops = tuple([_hop(one, family) for one in item.items("nexthops")])
    if not hops and any(name in item for name in _HOP_FIELDS):
        hops = (_hop(item, family),)
    metrics = item.items("metrics")
    protocol = item.text("protocol")
    return Route(
        family=family,
        destination=_destination(item, family),
        type=kind,
        table=table_number(item.text("table") or "main"),
        nexthops=hops,
        metric=item.number("metric", 0, _U32) or 0,
        scope=read_scope(item),
        tos=read_tos(item),
        prefsrc=item.address("prefsrc", family),
        protocol=protocol if protocol != _HIDDEN["protocol"] else None,
        mtu=metrics[0].number("mtu", 0, _U32) if metrics else None,
        rest=item.pairs,
    )


def _family(item: Item, family: int) -> int:
    """IPv6 routes have a preference, or a colon in their addresses; a default route may have neither."""
    if "pref" in item:
        return 6
    for name in ("dst", "gateway", "prefsrc", "from"):
        value = item.raw(name)
        if isinstance(value, str) and (":" in value or "." in value):
            return 6 if ":" in value else 4
    return family


def _destination(item: Item, family: int) -> Prefix:
    text = item.raw("dst")
    if text == "default":
        return Prefix(family, 0, 0)
    try:
        return parse_prefix(text if isinstance(text, str) else "", family)
    except ValueError:
        item.wrong("dst", f'an IPv{family} address, a prefix or "default"')
        return Prefix(family, 0, 0)


def _hop(item: Item, family: int) -> NextHop:
    item = item.replaced(_folded(item.pairs))
    gateway, gateway_family = item.address("gateway", family), None
    via = item.item("via")
    if via is not None:
        gateway_family = {"inet": 4, "inet6": 6}.get(via.text("family") or "")
        if gateway_family is None:
            via.wrong("family", "inet or inet6")
        else:
            gateway = via.address("host", gateway_family, needed=True)
    flags = item.strings("flags")
    return NextHop(
        dev=item.text("dev"),
        gateway=gateway,
        gateway_family=gateway_family if gateway_family != family else None,
        weight=item.number("weight", 1, 65536) or 1,
        onlink="onlink" in flags,
        flags=tuple([flag for flag in flags if flag != "onlink"]),
        rest=() if "dst" in item else item.pairs,
    )


# ---------------------------------------------------------------------- encapsulation


def _folded(pairs: Rest) -> Rest:
    """The pairs with the fields of a tunnel, which bear the names of the route's own, gathered in one object."""
    names = [name for name, _ in pairs]
    if "encap" not in names:
        return pairs
    start = names.index("encap")
    end = next((at for at in range(start, len(names)) if names[at] in _AFTER_ENCAP), len(names))
    return (*pairs[:start], ("encap", pairs[start:end]), *pairs[end:])


def _unfolded(pairs: Rest) -> Rest:
    out: list[tuple[str, Any]] = []
    for name, value in pairs:
        out += value if name == "encap" and isinstance(value, tuple) else [(name, value)]
    return tuple(out)


# ---------------------------------------------------------------------- printing


def _shown(route: Route) -> Rest:
    single = len(route.nexthops) == 1 and all(name != "nexthops" for name, _ in route.rest)
    hop = _shown_hop(route.nexthops[0], route.family) if single else {}
    mixed = not single and bool(route.nexthops)
    full = FULL_MASK[route.family]
    host = format_address(route.family, route.destination.address)
    known: dict[str, Any] = {  # JSON
        "type": route.type,
        "dst": "default" if not route.destination.mask else host if route.destination.mask == full else str(route.destination),
        "tos": tos_name(route.tos, route.rest) if route.tos else ABSENT,
        "gateway": hop.get("gateway", ABSENT),
        "via": hop.get("via", ABSENT),
        "dev": hop.get("dev", ABSENT),
        "table": table_name(route.table, route.rest),
        "protocol": route.protocol if route.protocol is not None else _HIDDEN["protocol"],
        "scope": scope_name(route.scope),
        "prefsrc": format_address(route.family, route.prefsrc) if route.prefsrc is not None else ABSENT,
        "metric": route.metric if route.metric or route.family == 6 or _has(route.rest, "metric") else ABSENT,
    }
    if single:
        known["flags"] = hop["flags"]
    elif not _has(route.rest, "flags"):
        known["flags"] = []
    known["metrics"] = _metrics(route)
    if route.family == 6 and not _has(route.rest, "pref"):
        known["pref"] = "medium"
    if mixed:
        known["nexthops"] = [_shown_listed(one, route.family) for one in route.nexthops]
    return arrange(known, route.rest, _HIDDEN)


def _shown_hop(hop: NextHop, family: int, *, weight: bool = False) -> dict[str, Any]:  # JSON
    other = hop.gateway_family is not None and hop.gateway_family != family
    after = 1 if hop.flags[:1] == ("dead",) else 0  # the order of print_rta_flags: dead, onlink, all others
    flags = [*hop.flags[:after], "onlink", *hop.flags[after:]] if hop.onlink else [*hop.flags]
    shown: dict[str, Any] = {
        "gateway": format_address(family, hop.gateway) if hop.gateway is not None and not other else ABSENT,
        "via": _via(hop) if other else ABSENT,
        "dev": hop.dev if hop.dev is not None else ABSENT,
    }
    if weight:
        shown["weight"] = hop.weight
    shown["flags"] = flags
    return shown


def _shown_listed(hop: NextHop, family: int) -> Rest:
    return _unfolded(arrange(_shown_hop(hop, family, weight=True), hop.rest, {}))


def _via(hop: NextHop) -> Rest:
    family = hop.gateway_family or 4
    return (("family", "inet6" if family == 6 else "inet"), ("host", format_address(family, hop.gateway or 0)))


def _metrics(route: Route) -> Any:  # JSON
    read = dict(route.rest).get("metrics")
    first = read[0] if isinstance(read, list) and read and isinstance(read[0], tuple) else ()
    shown = arrange({"mtu": route.mtu if route.mtu is not None else ABSENT}, first, {})
    return [shown] if shown else ABSENT


def _has(rest: Rest, field: str) -> bool:
    return any(name == field for name, _ in rest)

"""``ip -j rule`` and ``ip -6 -j rule`` (also with -d): policy routing rules, read and printed.

Source: iproute2 ip/iprule.c as observed (6.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dataplane.inet import BITS, FULL_MASK, Prefix, format_address, mask_of
from dataplane.rules.network import RoutingRule
from dataplane.text.jsontext import ABSENT, Item, Objects, arrange, print_objects
from dataplane.text.problems import Problems
from dataplane.text.rtnames import protocol_name, read_protocol, read_tos, table_name, table_number, tos_name

COMMANDS: Final[Mapping[int, str]] = {4: "ip -j rule", 6: "ip -6 -j rule"}
_ACTIONS: Final = frozenset({"unreachable", "prohibit", "blackhole"})
_U32: Final = 0xFFFFFFFF


def parse_rules(text: str, family: int = 4, *, file: str | None = None) -> tuple[RoutingRule, ...]:
    """The rules in the order of the text. ParseError with all that is wrong."""
    problems = Problems(file)
    source = Objects(text, problems, COMMANDS[family])
    rules = tuple([_rule(item, family) for item in source.items if item.pairs])
    problems.raise_if_any()
    return rules


def print_rules(rules: Iterable[RoutingRule]) -> str:
    """The rules as ``ip -j rule`` prints them."""
    return print_objects(arrange(_shown(rule), rule.rest, {}) for rule in rules)


# ---------------------------------------------------------------------- reading


def _rule(item: Item, family: int) -> RoutingRule:
    priority = item.number("priority", 0, _U32)  # the kernel does not send that of rule 0
    item.subject = f"rule {priority or 0}"
    table = item.text("table")
    action, goto = _action(item)
    mark, mask = item.hexadecimal("fwmark", _U32), item.hexadecimal("fwmask", _U32)
    marked = mark is not None or mask is not None
    return RoutingRule(
        family=family,
        priority=priority or 0,
        source=_prefix(item, "src", family),
        destination=_prefix(item, "dst", family),
        negated="not" in item,
        iif=item.text("iif"),
        oif=item.text("oif"),
        fwmark=mark or 0,
        fwmask=(mask if mask is not None else _U32) if marked else 0,
        tos=read_tos(item),
        ip_protocol=read_protocol(item),
        sport=_range(item, "sport", "sport_start", "sport_end", 65535),
        dport=_range(item, "dport", "dport_start", "dport_end", 65535),
        uid_range=_range(item, "", "uid_start", "uid_end", _U32),
        table=table_number(table) if table is not None else None,
        action=action,
        goto=goto,
        suppress_prefixlength=item.number("suppress_prefixlen", 0, 128),
        rest=item.pairs,
    )


def _action(item: Item) -> tuple[str, int | None]:
    if "goto" in item:
        target = item.raw("goto")  # "none" where no rule follows
        return "goto", item.number("goto", 0, _U32) if target != "none" else None
    if "nop" in item:
        return "nop", None
    if "l3mdev" in item:
        return "l3mdev", None
    action = item.text("action") or "lookup"
    if action not in _ACTIONS and action != "lookup":
        item.wrong("action", f"one of {', '.join(sorted(_ACTIONS))}")
    return action, None


def _prefix(item: Item, name: str, family: int) -> Prefix | None:
    if item.raw(name) in (None, "all"):
        return None
    address = item.address(name, family)
    length = item.number(f"{name}len", 0, BITS[family])
    mask = mask_of(family, length) if length is not None else FULL_MASK[family]
    return Prefix(family, (address or 0) & mask, mask)


def _range(item: Item, one: str, first: str, last: str, most: int) -> tuple[int, int] | None:
    if one in item:
        number = item.number(one, 0, most)
        return None if number is None else (number, number)
    if first not in item and last not in item:
        return None
    low, high = item.number(first, 0, most, needed=True), item.number(last, 0, most, needed=True)
    return (low or 0, high or 0)


# ---------------------------------------------------------------------- printing


def _shown(rule: RoutingRule) -> dict[str, Any]:  # JSON
    known: dict[str, Any] = {"priority": rule.priority, "not": None if rule.negated else ABSENT}
    _show_prefix(known, "src", rule.source)
    known["src"] = known.get("src", "all")
    _show_prefix(known, "dst", rule.destination)
    known |= {
        "tos": tos_name(rule.tos, rule.rest) if rule.tos else ABSENT,
        "fwmark": _hex(rule.fwmark) if rule.fwmask else ABSENT,
        "fwmask": _hex(rule.fwmask) if rule.fwmask not in (0, _U32) else ABSENT,
        "iif": _or_absent(rule.iif),
        "oif": _or_absent(rule.oif),
        "uid_start": rule.uid_range[0] if rule.uid_range else ABSENT,
        "uid_end": rule.uid_range[1] if rule.uid_range else ABSENT,
        "ipproto": protocol_name(rule.ip_protocol) if rule.ip_protocol is not None else ABSENT,
    }
    for name, ports in (("sport", rule.sport), ("dport", rule.dport)):
        one = ports is not None and ports[0] == ports[1]
        known[name] = ports[0] if ports is not None and one else ABSENT
        known[f"{name}_start"] = ports[0] if ports is not None and not one else ABSENT
        known[f"{name}_end"] = ports[1] if ports is not None and not one else ABSENT
    known["table"] = table_name(rule.table, rule.rest) if rule.table is not None else ABSENT
    known["suppress_prefixlen"] = _or_absent(rule.suppress_prefixlength)
    known["goto"] = (rule.goto if rule.goto is not None else "none") if rule.action == "goto" else ABSENT
    known["nop"] = None if rule.action == "nop" else ABSENT
    known["l3mdev"] = None if rule.action == "l3mdev" else ABSENT
    known["action"] = rule.action if rule.action in _ACTIONS else ABSENT
    return known


def _show_prefix(known: dict[str, Any], name: str, prefix: Prefix | None) -> None:  # JSON
    if prefix is not None:
        known[name] = format_address(prefix.family, prefix.address)
    partial = prefix is not None and prefix.length != BITS[prefix.family]
    known[f"{name}len"] = prefix.length if prefix is not None and partial else ABSENT


def _hex(number: int) -> str:
    return f"{number:#x}" if number else "0"


def _or_absent(value: object) -> object:
    return ABSENT if value is None else value

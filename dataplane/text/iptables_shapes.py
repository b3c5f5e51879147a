"""The few shapes that nearly all rules of a kube-proxy node have, known by one pattern: as saved, and as fed to restore.

A line that fits is well-formed, and what iptables-save prints for it is told without taking it apart. This is a shortcut only: whatever
fits no shape goes through the general reader (text/iptables_rule), and a test holds the shortcut to it.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Final

from dataplane.inet import format_address, parse_address, parse_prefix
from dataplane.text.xtables_kinds import PROBABILITY, quoted

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_GROUPS: Final = r"[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*"
_ADDRESS: Final = {
    4: rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}",
    # No more than seven colons: with "::" at most seven groups, so that it stands for at least one.
    6: rf"(?:(?:[0-9a-f]{{1,4}}:){{7}}[0-9a-f]{{1,4}}|(?=(?:[0-9a-f]*:){{2,7}}[0-9a-f]*[/\] ])(?:{_GROUPS})?::(?:{_GROUPS})?)",
}
_END: Final = {4: _ADDRESS[4], 6: r"\[" + _ADDRESS[6] + r"\]"}
_HOST: Final = {4: "/32", 6: "/128"}
_LENGTH: Final = {4: r"(?:3[0-2]|[12]\d|[1-9])", 6: r"(?:12[0-8]|1[01]\d|[1-9]\d|[1-9])"}  # 0, anybody, is left out by iptables-save
_PORT: Final = r"(?:[1-5]\d{4}|[1-9]\d{0,3})"  # up to 59999; higher ones are left to the general reader
_NAME: Final = r"[A-Za-z0-9_.-]{1,28}"
_OWN: Final = r"KUBE-[A-Za-z0-9_.-]{1,23}"  # no extension is called so
_COMMENT: Final = r"""-m comment --comment (?:"[^"\\'\n]{1,240}"|[A-Za-z0-9_/:.-]{1,240})"""


@cache
def shape(family: int) -> re.Pattern[str]:
    """A whole line with its end, or (``names``) a run of lines that declare chains of kube-proxy's.

    ``chain`` is where the rule stands; ``jump``, or ``fed_jump`` in restore input, where it goes (a chain or a standard verdict).
    """
    address = _ADDRESS[family]
    network = rf"{address}/{_LENGTH[family]}"
    dnat = f"DNAT --to-destination {_END[family]}:{_PORT}"
    chance, target = "-m statistic --mode random --probability", rf"(?:{_OWN}|ACCEPT|DROP|RETURN)"
    saved = (
        rf"(?: (?:! )?-s (?P<source>{network}))?(?: -d (?P<destination>{network}))?(?: -p (?P<protocol>tcp|udp|sctp))?"
        rf"(?: (?P<comment>{_COMMENT}))?(?(protocol)(?: -m (?P=protocol)(?: --dport {_PORT})?)?)(?: {chance} 0\.\d{{11}})?"
        rf" -j (?:(?(protocol)(?P<dnat>{dnat})|(?!))|(?P<jump>{target}))\n"
    )
    fed = (
        rf"(?: (?P<fed_comment>{_COMMENT}))?"
        rf"(?: -m (?P<fed_protocol>tcp|udp|sctp) -p (?P=fed_protocol)(?: -d (?P<to>{address}))?(?: (?P<port>--dport {_PORT}))?)?"
        rf"(?: ! -s (?P<outside>{network})| -s (?P<from>{address}))?(?: {chance} (?P<chance>0\.\d{{10}}))?"
        rf" -j (?:(?(fed_protocol)(?P<fed_dnat>{dnat})|(?!))|(?P<fed_jump>{target}))\n"
    )
    return re.compile(rf"(?P<counters>\[\d+:\d+\] )?-A (?P<chain>{_NAME})(?:{saved}|{fed})|(?P<names>(?::{_OWN} - \[0:0\]\n)+)")


def canonical(found: re.Match[str], family: int) -> str | None:
    """What iptables-save prints for a rule that fits, without the line's end; None where only the general reader can tell."""
    fed_jump, fed_dnat, source, destination, comment, dnat = found.group("fed_jump", "fed_dnat", "source", "destination", "comment", "dnat")
    if fed_jump is None and fed_dnat is None:
        plain = (dnat is None or _rewritten(dnat) == dnat) and (source is None or _network(source) == source) and (destination is None or _network(destination) == destination)
        return found[0][:-1] if plain and (comment is None or _comment(comment) == comment) else None
    counters, chain, origin, outside, to, module, comment, port, chance = found.group(
        "counters", "chain", "from", "outside", "to", "fed_protocol", "fed_comment", "port", "chance"
    )
    host = _HOST[family]
    line = f"{counters or ''}-A {chain}"
    if origin:
        line += f" -s {_network(origin + host)}"
    elif outside:
        line += f" ! -s {_network(outside)}"
    if to:
        line += f" -d {_network(to + host)}"
    if module:
        line += f" -p {module}"
    if comment:
        line += f" {_comment(comment)}"
    if module:
        line += f" -m {module}"
    if port:
        line += f" {port}"
    if chance:
        line += f" -m statistic --mode random --probability {_chance(chance)}"
    return f"{line} -j {fed_jump or _rewritten(fed_dnat)}"


def _network(text: str) -> str:
    return text if text.endswith("/32") and "." in text else _masked(text)  # the pattern lets only canonical octets pass


@lru_cache(maxsize=4096)
def _masked(text: str) -> str:
    return str(parse_prefix(text))


def _rewritten(dnat: str) -> str:
    if "[" not in dnat:
        return dnat
    option, _, rest = dnat.partition("[")
    address, _, port = rest.partition("]")
    return f"{option}[{format_address(*parse_address(address))}]{port}"


@cache
def _chance(text: str) -> str:
    return PROBABILITY.show(PROBABILITY.parse((text,), 4), 4)


@lru_cache(maxsize=4096)
def _comment(text: str) -> str:
    option, separator, word = text.partition("--comment ")
    bare = word.strip('"')
    return f"{option}{separator}{quoted(bare)}"

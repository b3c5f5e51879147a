"""Connections as commands for ``conntrack --load-file``: made as they are, NAT and all, or deleted.

Source: conntrack(8) 1.4.7, which cannot make connections of ICMP ("invalid parameters").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dataplane.inet import SCTP, TCP, UDP, format_address, format_endpoint
from dataplane.rules.network import Connection

_NAMES: Final = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
_SECONDS: Final = 30  # where a listing shows no time (a connection that is offloaded)


def can_make(one: Connection) -> bool:
    """Whether the tool can make a connection of that protocol."""
    return one.protocol in _NAMES


def print_inserts(connections: Iterable[Connection]) -> str:
    """A line for every connection that the tool can make."""
    return "".join(_insert(one) + "\n" for one in connections if can_make(one))


def print_deletes(connections: Iterable[Connection]) -> str:
    """A line for every connection; one that is gone already is no mistake to the tool."""
    return "".join(f"-D {_zone(one)}{_original(one)}\n" for one in connections if can_make(one))


def _insert(one: Connection) -> str:
    family, reply, original = one.family, one.reply, one.original
    words = [f"-I {_zone(one)}{_original(one)}", f"-r {format_address(family, reply.src)} -q {format_address(family, reply.dst)}"]
    words.append(f"--reply-port-src {reply.sport} --reply-port-dst {reply.dport}")
    words.append(f"-t {one.timeout if one.timeout is not None else _SECONDS}")
    if one.state and one.protocol in (TCP, SCTP):
        words.append(f"--state {one.state}")
    if one.protocol == SCTP:
        words.append("--orig-vtag 1 --reply-vtag 2")  # a listing shows none
    bits = [*(["SEEN_REPLY"] if "UNREPLIED" not in one.flags else []), *(["ASSURED"] if "ASSURED" in one.flags else [])]
    words += [f"-u {','.join(bits)}"] if bits else []
    words += [f"-m {one.mark}"] if one.mark else []
    if (reply.src, reply.sport) != (original.dst, original.dport):
        words.append(f"--dst-nat {format_endpoint(family, reply.src, reply.sport)}")
    if (reply.dst, reply.dport) != (original.src, original.sport):
        words.append(f"--src-nat {format_endpoint(family, reply.dst, reply.dport)}")
    return " ".join(words)


def _zone(one: Connection) -> str:
    return f"-w {one.zone} " if one.zone else ""


def _original(one: Connection) -> str:
    ends = one.original
    source, target = (format_address(one.family, address) for address in (ends.src, ends.dst))
    return f"-p {_NAMES[one.protocol]} -s {source} -d {target} --sport {ends.sport} --dport {ends.dport}"

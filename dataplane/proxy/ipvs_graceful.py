"""Graceful termination: what becomes of real servers that are no longer wanted. Pure functions of (before, wanted, connections, now).

A TCP real server that still has connections gets weight 0, so that it takes no new ones, and goes on a list; once a minute those
without connections are deleted. UDP and SCTP real servers, and idle ones, are deleted at once. One that is wanted again while
it is on the list is deleted and added anew: its connections lose it. The list is kube-proxy's memory only: a new process
starts with an empty one, and its first sync gives weight 1 back. Source: pkg/proxy/ipvs/graceful_termination.go, syncEndpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.inet import TCP
from dataplane.rules.ipvs import RealServer, VirtualServer

CHECK_INTERVAL: Final = 60.0  # seconds

#: A virtual server's key, and its real server's family, address and port.
Name = tuple[tuple[int, int, int, int, int], tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Termination:
    """The kernel's virtual servers, those of their real servers that are being drained, and when these are looked at next (seconds)."""

    servers: tuple[VirtualServer, ...] = ()
    draining: frozenset[Name] = frozenset()
    next_check: float = 0.0


def advance(
    before: Termination, wanted: Sequence[VirtualServer], connections: Mapping[Name, int], now: float, *, first: bool = False
) -> Termination:
    """After a sync at ``now`` and the check that was due before it.

    ``connections`` are the active and inactive ones of each real server (none where it is missing); ``first``: kube-proxy has just started.
    """
    return sync(check(before, connections, now), wanted, connections, first=first)


def sync(before: Termination, wanted: Sequence[VirtualServer], connections: Mapping[Name, int], *, first: bool = False) -> Termination:
    """After one sync. Virtual servers that are no longer wanted are gone at once, whatever connections they have."""
    known = {one.key: one for one in before.servers}
    list_before = frozenset[Name]() if first else before.draining
    servers: list[VirtualServer] = []
    draining: set[Name] = set(list_before)
    for one in wanted:
        old = known[one.key].servers if one.key in known else ()
        ends, dropped = _real_servers(one, old, connections, list_before, first=first)
        draining |= {(one.key, end[:3]) for end in dropped}
        draining -= {(one.key, end[:3]) for end in one.servers}
        servers.append(one._replace(servers=tuple(ends)))
    return Termination(tuple(servers), _present(draining, servers), before.next_check)


def check(before: Termination, connections: Mapping[Name, int], now: float) -> Termination:
    """After the check once a minute, if one was due by ``now``: what has no connections left is deleted."""
    if now < before.next_check:
        return before
    done = {name for name in before.draining if not connections.get(name)}
    servers = tuple(
        one._replace(servers=tuple(end for end in one.servers if (one.key, end[:3]) not in done)) if any(key == one.key for key, _ in done) else one
        for one in before.servers
    )
    passed = (now - before.next_check) // CHECK_INTERVAL
    return Termination(servers, before.draining - done, before.next_check + (passed + 1) * CHECK_INTERVAL)


def _real_servers(
    one: VirtualServer, old: Sequence[RealServer], connections: Mapping[Name, int], draining: frozenset[Name], *, first: bool
) -> tuple[list[RealServer], list[RealServer]]:
    """The real servers of one virtual server afterwards, in the order in which they were added; and those newly drained."""
    wanted = {end[:3]: end for end in one.servers}
    stay: list[RealServer] = []
    dropped: list[RealServer] = []
    for end in old:
        name = (one.key, end[:3])
        if end[:3] in wanted:
            if name not in draining:
                stay.append(end._replace(weight=1) if first else end)
        elif name in draining:
            stay.append(end)
        elif one.protocol == TCP and connections.get(name):
            dropped.append(end._replace(weight=0))
            stay.append(dropped[-1])
    there = {end[:3] for end in stay}
    return [*stay, *(end for end in one.servers if end[:3] not in there)], dropped


def _present(names: set[Name], servers: Sequence[VirtualServer]) -> frozenset[Name]:
    """Those that the kernel still has; the check would take the others off the list."""
    there = {(one.key, end[:3]) for one in servers for end in one.servers}
    return frozenset(names & there)

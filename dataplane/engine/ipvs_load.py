"""Which real server has least to do: the loads of schedulers lc, wlc, sed and nq. Knows no list but the one given.

A load is a cost divided by the weight, compared by cross products as integers: exact, as the kernel does.
Source: ip_vs_dest_conn_overhead (include/net/ip_vs.h), net/netfilter/ipvs/ip_vs_{lc,wlc,sed,nq}.c.
"""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.engine.ipvs_dest import Dest


def overhead(dest: Dest) -> int:
    """An active connection weighs as much as 256 inactive ones."""
    return (dest.active << 8) + dest.inactive


def least_connections(dests: Iterable[Dest]) -> Dest | None:
    """lc: the least overhead; a weight says only whether there may be connections."""
    return min((dest for dest in dests if dest.weight and not dest.overloaded), key=overhead, default=None)


def least_overhead(dests: Iterable[Dest]) -> Dest | None:
    """wlc: the least overhead by weight."""
    least, cost, weight = None, 1, 0
    for dest in dests:
        if dest.weight > 0 and not dest.overloaded:
            its = (dest.active << 8) + dest.inactive
            if cost * dest.weight > its * weight or least is None:
                least, cost, weight = dest, its, dest.weight
    return least


def least_delay(dests: Iterable[Dest]) -> Dest | None:
    """sed: the least number of active connections, the coming one too, by weight."""
    least, cost, weight = None, 1, 0
    for dest in dests:
        if dest.weight > 0 and not dest.overloaded:
            its = dest.active + 1
            if least is None or cost * dest.weight > its * weight:
                least, cost, weight = dest, its, dest.weight
    return least


def never_queue(dests: list[Dest]) -> Dest | None:
    """nq: the first without active connections, else as sed."""
    for dest in dests:
        if not dest.active and dest.weight and not dest.overloaded:
            return dest
    return least_delay(dests)

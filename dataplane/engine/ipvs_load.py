"""Which real server has least to do: the loads of schedulers lc, wlc, sed and nq. Knows no list but the one given.

A load is a cost divided by the weight, compared by cross products as integers: exact, as the kernel does.
Source: ip_vs_dest_conn_overhead (include/net/ip_vs.h), net/netfilter/ipvs/ip_vs_{lc,wlc,sed,nq}.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dataplane.engine.ipvs_dest import Dest

_MORE_THAN_ANY: Final = 1 << 64


def overhead(dest: Dest) -> int:
    """An active connection weighs as much as 256 inactive ones."""
    return (dest.active << 8) + dest.inactive


def least_connections(dests: Iterable[Dest]) -> Dest | None:
    """lc: the least overhead; a weight says only whether there may be connections."""
    least, cost = None, _MORE_THAN_ANY
    for dest in dests:
        its = (dest.active << 8) + dest.inactive
        if its < cost and dest.weight and not dest.overloaded:
            least, cost = dest, its
    return least


# In the two below the first one to be taken is compared with a load of 1/0; no weight of 0 is ever less than another.


def least_overhead(dests: Iterable[Dest]) -> Dest | None:
    """wlc: the least overhead by weight."""
    least, cost, weight = None, 1, 0
    for dest in dests:
        its = (dest.active << 8) + dest.inactive
        its_weight = dest.weight
        if cost * its_weight > its * weight and not dest.overloaded:
            least, cost, weight = dest, its, its_weight
    return least


def least_delay(dests: Iterable[Dest]) -> Dest | None:
    """sed: the least number of active connections, the coming one too, by weight."""
    least, cost, weight = None, 1, 0
    for dest in dests:
        its, its_weight = dest.active + 1, dest.weight
        if cost * its_weight > its * weight and not dest.overloaded:
            least, cost, weight = dest, its, its_weight
    return least


def never_queue(dests: list[Dest]) -> Dest | None:
    """nq: the first without active connections, else as sed."""
    for dest in dests:
        if not dest.active and dest.weight and not dest.overloaded:
            return dest
    return least_delay(dests)

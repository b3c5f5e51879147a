"""Which real server has least to do: schedulers lc, wlc, sed and nq. Knows no list but the one given.

The loads are kept by the real servers themselves (``Dest``), so a choice is a minimum; of equals the first one is taken, as in the kernel's loops.
Source: net/netfilter/ipvs/ip_vs_{lc,wlc,sed,nq}.c.
"""

from __future__ import annotations

from dataplane.engine.ipvs_dest import BEYOND, Dest


def _least(dests: list[Dest], loads: list[int]) -> Dest | None:
    least = min(loads, default=BEYOND)
    return dests[loads.index(least)] if least < BEYOND else None


def least_connections(dests: list[Dest]) -> Dest | None:
    """lc: the least overhead; a weight says only whether there may be connections."""
    return _least(dests, [dest.cost for dest in dests])


def least_overhead(dests: list[Dest]) -> Dest | None:
    """wlc: the least overhead by weight."""
    return _least(dests, [dest.load for dest in dests])


def least_delay(dests: list[Dest]) -> Dest | None:
    """sed: the least number of active connections, the coming one too, by weight."""
    return _least(dests, [dest.delay for dest in dests])


def never_queue(dests: list[Dest]) -> Dest | None:
    """nq: the first without active connections, else as sed."""
    return _least(dests, [dest.queue for dest in dests])

"""The matches that remember what they have seen: statistic, recent, quota, connlimit; and time, which asks the clock.

What they remember lies in ``Kernel.memory`` under keys of their own, so that it can be forked with the rest. Token buckets are
in matches_rate. Source: xt_statistic.c, xt_recent.c, xt_quota.c, xt_connlimit.c with nf_conncount.c, xt_nfacct.c, xt_time.c.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dataplane.engine.bind import Bind, HotDrop, Matcher
from dataplane.engine.clock import HZ, jiffies
from dataplane.engine.conntrack import Conn
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import MatchRow, always, guess, not_modelled
from dataplane.engine.skb import Skb
from dataplane.inet import TCP, mask_of
from dataplane.rules.iptables import Match
from dataplane.rules.network import Tuple
from dataplane.trace import ChoiceEvent

_CERTAIN: Final = 1 << 31  # of xt_statistic's 31-bit random numbers, how many there are
_ADDRESSES: Final = 100  # ip_list_tot
_STAMPS: Final = 65535  # the most that any --hitcount may ask for


class _Counter:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def copy(self) -> _Counter:
        return _Counter(self.value)


def _statistic(match: Match, bind: Bind) -> Matcher:
    """At random with an exact 31-bit probability, or every nth packet of all that come to this rule."""
    probability = match.option("probability")
    if probability is None:
        return _nth(match, bind)
    weights, negated = (probability.value, _CERTAIN - probability.value), probability.negated
    if 0 in weights:
        hit = (probability.value != 0) != negated
        return lambda skb, state: hit
    what, kernel = str(bind.rule), bind.kernel
    told, matching = tuple(ChoiceEvent(what, weight, _CERTAIN) for weight in weights), int(negated)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        index = kernel.choices.pick(weights, what)
        kernel.events.append(told[index])
        return index == matching

    return matcher


def _nth(match: Match, bind: Bind) -> Matcher:
    """The counter starts so that it comes round to 0 with packet number ``--packet`` (from 0), then every so many."""
    every, packet = match.option("every"), match.option("packet")
    last = (every.value if every is not None else 1) - 1
    first = last - (packet.value if packet is not None else 0)
    negated = every is not None and every.negated
    key = ("statistic", bind.rule, last, first)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        counter = bind.kernel.memory_of(key, lambda: _Counter(first))
        counter.value = 0 if counter.value == last else counter.value + 1
        return (counter.value == 0) != negated

    return matcher


def _quota(match: Match, bind: Bind) -> Matcher:
    """So many bytes; once a packet does not fit in, none does, however small."""
    option = match.options[0]
    amount, negated = option.value, option.negated
    key = ("quota", bind.rule, amount)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        left = bind.kernel.memory_of(key, lambda: _Counter(amount))
        fits = left.value >= skb.length
        left.value = left.value - skb.length if fits else 0
        return fits != negated

    return matcher


def _nfacct(match: Match, bind: Bind) -> Matcher:  # noqa: ARG001
    """Counts into an object without a quota, which always holds. (Quotas of nfacct objects are in no snapshot.)"""
    return always


# ---------------------------------------------------------------------- recent


class _Seen:
    """One address: when it was seen, in jiffies, oldest first, and the TTL of the last time."""

    __slots__ = ("stamps", "ttl")

    def __init__(self, stamps: deque[int], ttl: int) -> None:
        self.stamps = stamps
        self.ttl = ttl


class _Recent(NamedTuple):
    """One list, of both families, by (family, address), longest not seen first; its masks are those of its first rules."""

    entries: dict[tuple[int, int], _Seen]
    masks: dict[int, int]

    def copy(self) -> _Recent:
        return _Recent({key: _Seen(seen.stamps.copy(), seen.ttl) for key, seen in self.entries.items()}, dict(self.masks))


def _recent(match: Match, bind: Bind) -> Matcher:
    """Addresses seen lately, in lists that rules share by name.

    The kernel keeps a ring of stamps, at least as long as any rule's --hitcount (rounded up to a power of two), so the last
    ``hitcount`` stamps decide. The list forgets what was longest not seen when it is full; --reap forgets that one alone.
    """
    options = {option.name: option for option in match.options}
    command = next(options[name] for name in ("set", "rcheck", "update", "remove") if name in options)
    what, negated = command.name, command.negated
    by_destination, rttl, reap = "rdest" in options, "rttl" in options, "reap" in options
    ticks = (options["seconds"].value if "seconds" in options else 0) * HZ
    hits = max(1, options["hitcount"].value if "hitcount" in options else 1)
    family, mask, key = bind.family, options["mask"].value, ("recent", options["name"].value)

    def matcher(skb: Skb, state: HookState) -> bool:
        table = bind.kernel.memory_of(key, lambda: _Recent({}, {}))
        now = jiffies(bind.kernel.now)
        address = (skb.daddr if by_destination else skb.saddr) & table.masks.setdefault(family, mask)
        ttl = skb.ttl if not state.outdev or skb.has_socket else skb.ttl + 1 & 0xFF  # as it was before forwarding
        seen = table.entries.get((family, address))
        if seen is not None and rttl and ttl != seen.ttl and ttl and seen.ttl:
            seen = None
        if seen is None:
            if what == "set":
                _remember(table, (family, address), ttl, now)
            return (what == "set") != negated
        if what == "remove":
            del table.entries[family, address]
            return not negated
        stamps = seen.stamps
        enough = what == "set" or (len(stamps) >= hits and (not ticks or stamps[-hits] >= now - ticks))
        result = enough != negated
        updating = what == "set" or (what == "update" and result)
        if reap:
            _reap(table, (family, address) if updating else None, now - ticks)
        if updating:
            stamps.append(now)
            seen.ttl = ttl
            table.entries[family, address] = table.entries.pop((family, address))
        return result

    return matcher


def _remember(table: _Recent, key: tuple[int, int], ttl: int, now: int) -> None:
    if len(table.entries) >= _ADDRESSES:
        del table.entries[next(iter(table.entries))]
    table.entries[key] = _Seen(deque((now,), _STAMPS), ttl)


def _reap(table: _Recent, updated: tuple[int, int] | None, since: int) -> None:
    oldest = next(iter(table.entries))
    if oldest != updated and table.entries[oldest].stamps[-1] < since:
        del table.entries[oldest]


# ---------------------------------------------------------------------- connlimit


class _Counted(NamedTuple):
    """The connections that came to one rule, by what they are counted under: (zone, masked address) -> their tuples."""

    tuples: dict[tuple[int, int], list[Tuple]]

    def copy(self) -> _Counted:
        return _Counted({key: list(tuples) for key, tuples in self.tuples.items()})


def _connlimit(match: Match, bind: Bind) -> Matcher:
    """How many connections an address (or net) has, of those that this rule has seen and that have not ended since.

    Which connections of a snapshot came to the rule before is not known; where it matters, nor is the answer.
    """
    options = {option.name.removeprefix("connlimit-"): option for option in match.options}
    upto = "upto" in options
    limit: int = options["upto" if upto else "above"].value
    mask, by_destination, family = mask_of(bind.family, options["mask"].value), "daddr" in options, bind.family
    memory = ("connlimit", bind.rule, upto, limit)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kernel, conn = bind.kernel, skb.conn
        if conn is None:
            raise HotDrop("-m connlimit on a packet without a connection")
        address = (skb.daddr if by_destination else skb.saddr) & mask
        tuples = kernel.memory_of(memory, lambda: _Counted({})).tuples.setdefault((conn.zone, address), [])
        table, now = kernel.conntrack, kernel.now
        tuples[:] = [one for one in tuples if one == conn.original or _counts(table.find(family, conn.zone, one, now))]
        if conn.original not in tuples:
            tuples.append(conn.original)
        count = len(tuples)
        if count <= limit < count + sum(_from_snapshot(other, conn, address, tuples) for other in table.entries(now)):
            return guess(bind, "-m connlimit: which connections of the snapshot it has counted is not known")
        return (count > limit) != bool(upto)

    def _from_snapshot(other: Conn, conn: Conn, address: int, tuples: list[Tuple]) -> bool:
        end = other.original.dst if by_destination else other.original.src
        same = other.family == family and other.zone == conn.zone and end & mask == address
        return same and not any(other.packets) and other.original not in tuples and not _closed(other)

    return matcher


def _counts(found: tuple[Conn, bool] | None) -> bool:
    return found is not None and not _closed(found[0])


def _closed(conn: Conn) -> bool:
    return conn.original.protocol == TCP and conn.state in ("TIME_WAIT", "CLOSE")


# ---------------------------------------------------------------------- time

_DAY: Final = 86400
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _time(match: Match, bind: Bind) -> Matcher:
    """Dates, days and hours in UTC. A daytime that ends before it begins goes over midnight; --contiguous makes it one day."""
    options = {option.name: option.value for option in match.options}
    if "kerneltz" in options:
        return not_modelled("-m time --kerneltz", bind)
    begin, end = options.get("timestart", 0), options.get("timestop", _DAY - 1)
    first, last = _seconds(options.get("datestart", "1970-01-01")), _seconds(options.get("datestop", "2038-01-19T03:14:07"))
    weekdays = frozenset(_WEEKDAYS.index(name) for name in options.get("weekdays", _WEEKDAYS))
    monthdays = frozenset(map(int, options.get("monthdays", range(1, 32))))
    contiguous = "contiguous" in options

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kernel = bind.kernel
        if not kernel.wall:
            return guess(bind, "-m time: the time of day is not known")
        stamp = int(kernel.wall + kernel.now)
        if not first <= stamp <= last:
            return False
        daytime = stamp % _DAY
        if begin < end:
            if not begin <= daytime <= end:
                return False
        elif end < daytime < begin:
            return False
        elif contiguous and daytime <= end:
            stamp -= _DAY
        day = datetime.fromtimestamp(stamp, UTC)
        return day.weekday() in weekdays and day.day in monthdays

    return matcher


def _seconds(date: str) -> int:
    return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())


ROWS: Final[dict[str, MatchRow]] = {
    "statistic": MatchRow(_statistic, pure=False),
    "quota": MatchRow(_quota, pure=False),
    "nfacct": MatchRow(_nfacct, pure=False),
    "recent": MatchRow(_recent, pure=False),
    "connlimit": MatchRow(_connlimit, pure=False),
    "time": MatchRow(_time),
}

"""The matches that remember: statistic, recent, limit, hashlimit, connlimit. Their memory lives in the Kernel and can be forked.

Source: xt_statistic.c, xt_recent.c, xt_limit.c, xt_hashlimit.c, xt_connlimit.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from dataplane.engine.bind import Bind, HotDrop, Matcher
from dataplane.engine.hooks import HookState
from dataplane.engine.skb import Skb
from dataplane.inet import mask_of
from dataplane.rules.iptables import Match

_RECENT_ADDRESSES: Final = 100  # ip_list_tot
_RECENT_STAMPS: Final = 256  # a table keeps as many stamps as the largest hitcount of its rules needs


@dataclass(slots=True)
class _Counter:
    value: int = 0

    def copy(self) -> _Counter:
        return replace(self)


def statistic(match: Match, bind: Bind) -> Matcher:
    """Random with an exact 31-bit probability, or every nth packet."""
    probability = match.option("probability")
    if probability is not None:
        weights, negated = (probability.value, 0x80000000 - probability.value), probability.negated

        def at_random(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
            return (bind.kernel.choice(weights, str(bind.rule)) == 0) != negated

        return at_random
    every, packet = match.option("every"), match.option("packet")
    count = every.value if every is not None else 1
    first = count - 1 - (packet.value if packet is not None else 0)
    negated = every is not None and every.negated

    def nth(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        counter = bind.kernel.memory_of(("statistic", bind.rule), lambda: _Counter(first))
        counter.value = 0 if counter.value == count - 1 else counter.value + 1
        return (counter.value == 0) != negated

    return nth


@dataclass(slots=True)
class _Recent:
    """Last-seen stamps by address, oldest address first."""

    stamps: dict[int, list[float]] = field(default_factory=dict)

    def copy(self) -> _Recent:
        return _Recent({address: list(stamps) for address, stamps in self.stamps.items()})


def recent(match: Match, bind: Bind) -> Matcher:
    """Addresses seen lately, in lists shared by name."""
    options = {option.name: option for option in match.options}
    command = next((options[name] for name in ("set", "rcheck", "update", "remove") if name in options), None)
    assert command is not None
    name, mask = options["name"].value, options["mask"].value
    seconds = options["seconds"].value if "seconds" in options else 0
    hitcount = options["hitcount"].value if "hitcount" in options else 0
    by_destination, reap, rttl = "rdest" in options, "reap" in options, "rttl" in options
    negated = command.negated

    def matcher(skb: Skb, state: HookState) -> bool:
        kernel = bind.kernel
        table = kernel.memory_of(("recent", bind.family, name), _Recent).stamps
        now = kernel.now
        address = (skb.daddr if by_destination else skb.saddr) & mask
        if rttl and state.outdev and skb.local:
            address = (skb.daddr if by_destination else skb.saddr) & mask
        stamps = table.get(address)
        if stamps is None:
            if command.name != "set":
                return negated
            if len(table) >= _RECENT_ADDRESSES:
                del table[next(iter(table))]
            table[address] = [now]
            return not negated
        found = False
        if command.name == "set":
            found = True
        elif command.name == "remove":
            del table[address]
            return not negated
        else:
            since = now - seconds if seconds else None
            if reap and since is not None:
                while stamps and stamps[0] < since:
                    stamps.pop(0)
            hits = sum(1 for stamp in stamps if since is None or stamp >= since)
            found = hits >= max(hitcount, 1)
        if command.name == "set" or (command.name == "update" and found):
            table[address] = [*table.pop(address), now][-_RECENT_STAMPS:]
        return found != negated

    return matcher


@dataclass(slots=True)
class _Bucket:
    """A token bucket in the kernel's credits."""

    credit: float
    previous: float

    def copy(self) -> _Bucket:
        return replace(self)

    def take(self, now: float, cost: float, cap: float) -> bool:
        self.credit = min(cap, self.credit + (now - self.previous))
        self.previous = now
        if self.credit < cost - 1e-9:
            return False
        self.credit -= cost
        return True


def limit(match: Match, bind: Bind) -> Matcher:
    """A token bucket a rule: costs and credits in seconds."""
    rate, burst = match.option("limit"), match.option("limit-burst")
    cost = (rate.value if rate is not None else 0) / 10000
    cap = cost * (burst.value if burst is not None else 5)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kernel = bind.kernel
        bucket = kernel.memory_of(("limit", bind.rule), lambda: _Bucket(cap, kernel.now))
        return bucket.take(kernel.now, cost, cap)

    return matcher


def hashlimit(match: Match, bind: Bind) -> Matcher:
    """A token bucket for each value of the mode's fields, in tables shared by name."""
    options = {option.name.removeprefix("hashlimit-"): option for option in match.options}
    above = "above" in options
    rate = options["above" if above else "upto"]
    negated = rate.negated
    cost = rate.value / 1_000_000
    cap = cost * (options["burst"].value if "burst" in options else 5)
    modes = options["mode"].value.split(",") if "mode" in options else []
    bits = 32 if bind.family == 4 else 128
    source_mask = mask_of(bind.family, options["srcmask"].value if "srcmask" in options else bits)
    target_mask = mask_of(bind.family, options["dstmask"].value if "dstmask" in options else bits)
    name = options["name"].value

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kernel = bind.kernel
        fields = {"srcip": skb.saddr & source_mask, "dstip": skb.daddr & target_mask, "srcport": skb.sport, "dstport": skb.dport}
        key = ("hashlimit", bind.family, name, tuple(fields[mode] for mode in modes))
        bucket = kernel.memory_of(key, lambda: _Bucket(cap, kernel.now))
        within = bucket.take(kernel.now, cost, cap)
        return (within != above) != negated

    return matcher


def connlimit(match: Match, bind: Bind) -> Matcher:
    """How many connections an address (or net) has."""
    options = {option.name.removeprefix("connlimit-"): option for option in match.options}
    upto = options.get("upto")
    chosen = upto or options["above"]
    mask = mask_of(bind.family, options["mask"].value)
    by_destination = "daddr" in options

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        kernel = bind.kernel
        if skb.fragment_offset:
            raise HotDrop("-m connlimit on a fragment")
        address = (skb.daddr if by_destination else skb.saddr) & mask
        count = 0 if skb.conn is not None and skb.conn.confirmed else 1
        for conn in kernel.conntrack.entries(kernel.now):
            other = conn.original.dst if by_destination else conn.original.src
            count += conn.family == bind.family and other & mask == address
        return bool(count <= chosen.value) if upto is not None else bool(count > chosen.value)

    return matcher

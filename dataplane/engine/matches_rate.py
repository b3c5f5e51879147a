"""Token buckets: limit, one a rule, and hashlimit, one for every address or port that its mode names.

Credits grow by the jiffy up to a cap, a packet costs a fixed number of them. The kernel's own integers are used, so that
rounding is its own. A limit that iptables-nft has loaded counts nanoseconds (nft_limit): another answer within a jiffy only.
Not modelled of hashlimit: in which order entries fall out (all of an age do, at the next whole interval of the collector).
Source: xt_limit.c, xt_hashlimit.c (revision 3).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dataplane.engine.bind import Bind, HotDrop, Matcher
from dataplane.engine.clock import HZ, jiffies
from dataplane.engine.hooks import HookState
from dataplane.engine.matching import MatchRow
from dataplane.engine.skb import Skb
from dataplane.inet import AH, DCCP, ESP, SCTP, TCP, UDP, UDPLITE, mask_of
from dataplane.rules.iptables import Match, Option

_U32: Final = 0xFFFFFFFF
_DAY_OF_JIFFIES: Final = HZ * 60 * 60 * 24


def _power_below(number: int) -> int:
    """POW2_BELOW32 and POW2_BELOW64: the highest power of two that is in a number."""
    return 1 << number.bit_length() - 1


# ---------------------------------------------------------------------- limit

_LIMIT_SCALE: Final = 10000
_LIMIT_CREDITS: Final = _power_below(_U32 // _DAY_OF_JIFFIES)  # a jiffy


class _Bucket:
    __slots__ = ("at", "credit")

    def __init__(self, credit: int, at: int) -> None:
        self.credit = credit
        self.at = at

    def copy(self) -> _Bucket:
        return _Bucket(self.credit, self.at)


def _limit_credits(cost: int) -> int:
    """user2credits: what so many 1/10000 s are worth, divided first where the product would not fit into 32 bits."""
    if cost > _U32 // (HZ * _LIMIT_CREDITS):
        return cost // _LIMIT_SCALE * HZ * _LIMIT_CREDITS & _U32
    return cost * HZ * _LIMIT_CREDITS // _LIMIT_SCALE


def _limit(match: Match, bind: Bind) -> Matcher:
    rate, burst = match.option("limit"), match.option("limit-burst")
    average = rate.value if rate is not None else 3600 * _LIMIT_SCALE // 3
    cost, cap = _limit_credits(average), _limit_credits(average * (burst.value if burst is not None else 5) & _U32)
    key = ("limit", bind.rule, cost, cap)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        now = jiffies(bind.kernel.now)
        bucket = bind.kernel.memory_of(key, lambda: _Bucket(cap, now))
        bucket.credit = min(cap, bucket.credit + (now - bucket.at) * _LIMIT_CREDITS)
        bucket.at = now
        if bucket.credit < cost:
            return False
        bucket.credit -= cost
        return True

    return matcher


# ---------------------------------------------------------------------- hashlimit

_HASH_SCALE: Final = 1000000
_HASH_CREDITS: Final = _power_below(0xFFFFFFFFFFFFFFFF // _DAY_OF_JIFFIES)  # a jiffy
_USER_CREDITS: Final = HZ * _HASH_CREDITS // _HASH_SCALE
_BYTE_CREDITS: Final = _power_below(_U32 // HZ)  # a jiffy
_BYTE_CAP: Final = _BYTE_CREDITS * HZ
_BYTE_SHIFT: Final = 4  # bytes are counted in chunks of 16
_BYTE_EXPIRE: Final = 15  # seconds
_BUCKETS: Final = 8192  # of a machine with more than 1 GB


class _Config(NamedTuple):
    """What a table is made with. ``average`` is a packet's cost in microseconds; of bytes a chunk's, in 1/2**32 of a second."""

    average: int
    burst: int
    bytes: bool
    mode: frozenset[str]
    source_mask: int
    destination_mask: int
    most: int
    expire: int  # jiffies
    interval: int  # jiffies, of the collector
    window: int  # seconds, 0 without --hashlimit-rate-match


class _Entry:
    """``left`` is the cap, or of bytes how often the bucket may still be refilled (its burst); ``over`` is of --rate-match."""

    __slots__ = ("at", "credit", "expires", "left", "over")

    def __init__(self, credit: int, left: int, at: int, expires: int, *, over: bool = False) -> None:
        self.credit = credit
        self.left = left
        self.at = at
        self.expires = expires
        self.over = over

    def copy(self) -> _Entry:
        return _Entry(self.credit, self.left, self.at, self.expires, over=self.over)


Key = tuple[int, int, int, int]


class _Table(NamedTuple):
    """A table by name and family; its settings are those of the first rule that used it."""

    config: _Config
    entries: dict[Key, _Entry]

    def copy(self) -> _Table:
        return _Table(self.config, {key: entry.copy() for key, entry in self.entries.items()})


def _hashlimit(match: Match, bind: Bind) -> Matcher:
    options = {option.name.removeprefix("hashlimit-"): option for option in match.options}
    above = "above" in options
    rate = options["above" if above else "upto"]
    inverted = above != rate.negated
    config = _config(options, rate, bind.family)
    memory = ("hashlimit", bind.family, options["name"].value)

    def matcher(skb: Skb, state: HookState) -> bool:  # noqa: ARG001
        table = bind.kernel.memory_of(memory, lambda: _Table(config, {}))
        now = jiffies(bind.kernel.now)
        entry = _entry(table, _key(table.config, skb), now)
        if config.window:
            within = _count_window(table.config, entry, skb.length if config.bytes else 1)
        else:
            cost = _byte_cost(table.config, entry, skb.length) if config.bytes else table.config.average * _USER_CREDITS
            within = entry.credit >= cost
            entry.credit -= cost if within else 0
        return within != inverted

    return matcher


def _config(options: dict[str, Option], rate: Option, family: int) -> _Config:
    def number(name: str, default: int) -> int:
        return int(options[name].value) if name in options else default

    in_bytes = not isinstance(rate.value, int)  # else the bytes that a second allows
    average = _U32 // ((rate.value.bytes >> _BYTE_SHIFT) + 1) if in_bytes else rate.value
    kept = _BYTE_EXPIRE if in_bytes else _unit(average)
    bits = 32 if family == 4 else 128
    size = number("htable-size", 0) or _BUCKETS
    most = number("htable-max", 0)
    return _Config(
        average, _burst(options.get("burst"), average, in_bytes=in_bytes), in_bytes,
        frozenset(options["mode"].value.split(",")) if "mode" in options else frozenset(),
        mask_of(family, number("srcmask", bits)), mask_of(family, number("dstmask", bits)),
        max(most, size) if most else 8 * size, number("htable-expire", kept * 1000) * HZ // 1000,
        max(1, number("htable-gcinterval", 1000) * HZ // 1000), number("rate-interval", 1) if "rate-match" in options else 0,
    )  # fmt: skip


def _unit(average: int) -> int:
    """The unit in which iptables says a rate, in seconds: as long as that an entry is kept where nothing else is said."""
    chosen = 86400
    for seconds in (3600, 60, 1):
        unit = seconds * _HASH_SCALE
        if average > unit or unit // average < unit % average:
            break
        chosen = seconds
    return chosen


def _burst(option: Option | None, average: int, *, in_bytes: bool) -> int:
    """Packets; of a rate in bytes, how many times one second's worth may be spent beforehand."""
    if option is None:
        return 0 if in_bytes else 5
    amount: int = option.value if isinstance(option.value, int) else option.value.bytes
    second = (_U32 // average - 1) << _BYTE_SHIFT
    return -(-amount // max(second, 1)) if in_bytes else amount


def _key(config: _Config, skb: Skb) -> Key:
    source = skb.saddr & config.source_mask if "srcip" in config.mode else 0
    destination = skb.daddr & config.destination_mask if "dstip" in config.mode else 0
    if not config.mode & {"srcport", "dstport"}:
        return source, destination, 0, 0
    if skb.fragment_offset:
        raise HotDrop("-m hashlimit by port on a fragment without ports")
    sport, dport = _ports(skb)
    return source, destination, sport if "srcport" in config.mode else 0, dport if "dstport" in config.mode else 0


def _ports(skb: Skb) -> tuple[int, int]:
    """proto_ports_offset: the SPI of ESP and AH counts as two ports; other protocols have none."""
    if skb.protocol in (ESP, AH):
        return skb.spi >> 16, skb.spi & 0xFFFF
    return (skb.sport, skb.dport) if skb.protocol in (TCP, UDP, SCTP, DCCP, UDPLITE) else (0, 0)


def _entry(table: _Table, key: Key, now: int) -> _Entry:
    """The bucket, made full or refilled; gone (so made anew) when the collector came by after it had expired."""
    config, entry = table.config, table.entries.get(key)
    if entry is not None and _collected(config, entry, now):
        entry = None
    if entry is None:
        if len(table.entries) >= config.most:
            for one in [one for one, kept in table.entries.items() if _collected(config, kept, now)]:
                del table.entries[one]
        if len(table.entries) >= config.most and key not in table.entries:
            raise HotDrop("-m hashlimit: its table is full")
        full = 0 if config.window else _BYTE_CAP if config.bytes else config.average * config.burst * _USER_CREDITS
        entry = table.entries[key] = _Entry(full, config.burst if config.bytes else full, now, 0)
    elif entry.at != now:
        _refill(config, entry, now)
    entry.expires = now + config.expire
    return entry


def _collected(config: _Config, entry: _Entry, now: int) -> bool:
    return -(-entry.expires // config.interval) * config.interval <= now


def _refill(config: _Config, entry: _Entry, now: int) -> None:
    passed = now - entry.at
    if config.window:
        if passed >= config.window * HZ:
            entry.over = entry.credit * config.window * HZ > passed * _window_rate(config)
            entry.at, entry.credit = now, 0
        return
    entry.at = now
    entry.credit += passed * (_BYTE_CREDITS if config.bytes else _HASH_CREDITS)
    entry.credit = min(entry.credit, _BYTE_CAP if config.bytes else entry.left)


def _byte_cost(config: _Config, entry: _Entry, length: int) -> int:
    cost = ((length >> _BYTE_SHIFT) + 1) * (config.average * _BYTE_CAP >> 32)
    cost = min(cost, _BYTE_CAP)
    if entry.credit < cost and entry.left:
        entry.left -= 1
        entry.credit = _BYTE_CAP
    return cost


def _window_rate(config: _Config) -> int:
    return (_U32 // config.average - 1) << _BYTE_SHIFT if config.bytes else _HASH_SCALE // config.average


def _count_window(config: _Config, entry: _Entry, amount: int) -> bool:
    """--hashlimit-rate-match: not over the rate in the last whole window, nor yet in this one."""
    entry.credit += amount
    rate = _window_rate(config)
    burst = (config.burst * rate or rate) if config.bytes else config.burst + rate
    return not entry.over and entry.credit <= burst


ROWS: Final[dict[str, MatchRow]] = {"limit": MatchRow(_limit, pure=False), "hashlimit": MatchRow(_hashlimit, pure=False)}

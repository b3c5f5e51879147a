"""Rates and amounts: what --limit, --hashlimit-upto, --hashlimit-burst, --connbytes and -j RATEEST take, kept as the kernel keeps them.

A rate in packets is the cost of one packet in fractions of a second; one in bytes is rounded by the tool to what its cost in
32 bits can say. Source: libxt_limit.c, libxt_hashlimit.c, libxt_RATEEST.c of iptables 1.8.9.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from dataplane.rules.iptables import ByteRate, Option
from dataplane.text.xtables_extension import Facts
from dataplane.text.xtables_kinds import Kind, number

RATES: Final = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_U32: Final = 0xFFFFFFFF
_HASH_SCALE: Final = 1000000
_BYTE_EXPIRE: Final = 15  # seconds that an entry of a rate in bytes is kept
_SIZES: Final = (("m", 1 << 20), ("k", 1 << 10), ("", 1))
_MODES: Final = ("srcip", "srcport", "dstip", "dstport")


def rate(scale: int) -> Kind:
    """``5/min`` as the kernel keeps it: the cost of one packet in 1/``scale`` seconds."""
    return Kind("rate", 1, lambda words, family: _cost(words[0], scale), lambda value, family: _show_rate(value, scale)[0])


def _cost(text: str, scale: int) -> int:
    amount, slash, unit = text.partition("/")
    unit = unit.lower() if slash else "second"
    known = bool(unit) and any(name.startswith(unit) for name in ("second", "minute", "hour", "day"))
    found = re.match(r"\s*\+?([0-9]+)", amount)
    if not known or not found or not int(found[1]):
        raise ValueError(f"bad rate {text!r}")
    cost = scale * _UNITS[unit[0]] // int(found[1])
    if not cost:
        raise ValueError(f"rate too fast {text!r}")
    return cost


def _show_rate(value: int, scale: int) -> tuple[str, int]:
    """The text, and the seconds of the unit that it names."""
    chosen = 0
    for index in range(1, len(RATES)):
        unit = RATES[index][1] * scale
        if value > unit or unit // value < unit % value:
            break
        chosen = index
    return f"{RATES[chosen][1] * scale // value}/{RATES[chosen][0]}", RATES[chosen][1]


# ---------------------------------------------------------------------- hashlimit


class _Asked(int):
    """A cost that still knows the unit in which it was said: an entry is kept that long unless something else is said."""

    unit: int = 1


def _hash_rate(words: Sequence[str], family: int) -> int | ByteRate:  # noqa: ARG001
    text = words[0]
    if "b/s" in text:
        amount = _bytes(text.partition("/")[0])
        cost = _U32 // ((amount >> 4 & _U32) + 1)
        if not cost:
            raise ValueError(f"rate too high {text!r}")
        return ByteRate((_U32 // cost - 1) << 4)
    asked = _Asked(_cost(text, _HASH_SCALE))
    asked.unit = _UNITS[(text.partition("/")[2] or "s")[0].lower()]
    return asked


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)(kb|mb|b|)", text)
    if not found:
        raise ValueError(f"expected an amount of bytes (b, kb, mb), got {text!r}")
    return int(found[1]) * {"kb": 1 << 10, "mb": 1 << 20}.get(found[2], 1)


def _show_bytes(value: int) -> str:
    """In the greatest unit that is not greater than it, cut."""
    name, size = next(one for one in _SIZES if value >= one[1] or one[1] == 1)
    return f"{value // size}{name}b"


def _show_byte_rate(value: int) -> str:
    """In the greatest unit that, cut (and cut to 32 bits), stands for the same cost."""
    cost = _U32 // ((value >> 4) + 1)
    for name, size in _SIZES:
        cut = value // size * size & _U32
        if value >= size and _U32 // ((cut >> 4) + 1) == cost:
            return f"{value // size}{name}b/s"
    return f"{value}b/s"


def _show_hash_rate(value: int | ByteRate, family: int) -> str:  # noqa: ARG001
    return _show_byte_rate(value.bytes) if isinstance(value, ByteRate) else _show_rate(value, _HASH_SCALE)[0]


def _burst(words: Sequence[str], family: int) -> int | ByteRate:  # noqa: ARG001
    return _bytes(words[0]) if re.search("[bB]", words[0]) else number(words[0])


def _mode(words: Sequence[str], family: int) -> str:  # noqa: ARG001
    given = set(words[0].split(","))
    if not given <= set(_MODES):
        raise ValueError(f"expected some of {','.join(_MODES)}, got {words[0]!r}")
    return ",".join(name for name in _MODES if name in given)


def hashlimit(options: list[Option], facts: Facts) -> list[Option]:
    """An inverted rate is the other rate; bursts in bytes are whole multiples of the rate; what is as usual is not kept."""
    kept = {option.name: option for option in options}
    name = "hashlimit-upto" if "hashlimit-upto" in kept else "hashlimit-above"
    option = kept.pop(name)
    if option.negated:
        name = "hashlimit-above" if name == "hashlimit-upto" else "hashlimit-upto"
    value = option.value
    burst = kept["hashlimit-burst"].value if "hashlimit-burst" in kept else None
    kept[name] = Option(name, value if isinstance(value, ByteRate) else int(value))
    if isinstance(value, ByteRate):
        expire = usual = _BYTE_EXPIRE
        if burst is not None:
            kept["hashlimit-burst"] = Option("hashlimit-burst", ByteRate(_whole_burst(burst, value.bytes)))
    else:
        expire, usual = value.unit, _show_rate(value, _HASH_SCALE)[1]
        if burst is not None and not 1 <= burst <= 1000000:
            raise ValueError("--hashlimit-burst is out of range (1-1000000)")
        kept.setdefault("hashlimit-burst", Option("hashlimit-burst", 5))
    _drop_usual(kept, expire, usual, facts.family)
    return list(kept.values())


def _whole_burst(burst: int | ByteRate, rate_bytes: int) -> int:
    amount = burst.bytes if isinstance(burst, ByteRate) else burst
    if amount < rate_bytes:
        raise ValueError(f"the burst cannot be smaller than {rate_bytes}b")
    return -(-amount // rate_bytes) * rate_bytes if rate_bytes else 0


def _drop_usual(kept: dict[str, Option], expire: int, usual: int, family: int) -> None:
    if "hashlimit-htable-expire" not in kept and expire != usual:
        kept["hashlimit-htable-expire"] = Option("hashlimit-htable-expire", expire * 1000)
    if "hashlimit-rate-match" not in kept:
        kept.pop("hashlimit-rate-interval", None)
    plain = {
        "hashlimit-htable-expire": usual * 1000, "hashlimit-htable-size": 0, "hashlimit-htable-max": 0,
        "hashlimit-srcmask": 32 if family == 4 else 128, "hashlimit-dstmask": 32 if family == 4 else 128,
    }  # fmt: skip
    for name, value in plain.items():
        if name in kept and kept[name].value == value:
            del kept[name]


HASHRATE: Final = Kind("rate", 1, _hash_rate, _show_hash_rate)
HASHBURST: Final = Kind("burst", 1, _burst, lambda value, family: _show_bytes(value.bytes) if isinstance(value, ByteRate) else str(value))
HASHMODE: Final = Kind("word", 1, _mode, lambda value, family: str(value))

# ---------------------------------------------------------------------- connbytes


def _amounts(words: Sequence[str], family: int) -> tuple[int, int]:  # noqa: ARG001
    low, _, high = words[0].partition(":")
    first, last = (number(part, 0, (1 << 64) - 1) if part else 0 for part in (low, high))
    if last and first > last:
        raise ValueError(f"{first} should be less than {last}")
    return first, last


AMOUNTS: Final = Kind("amounts", 1, _amounts, lambda value, family: f"{value[0]}:{value[1]}" if value[1] else str(value[0]))

# ---------------------------------------------------------------------- rate estimators

_TIMES: Final = {"s": 1000000, "sec": 1000000, "secs": 1000000, "ms": 1000, "msec": 1000, "msecs": 1000, "us": 1, "usec": 1, "usecs": 1, "": 1}


def _time(words: Sequence[str], family: int) -> int:  # noqa: ARG001
    found = re.fullmatch(r"([0-9.]+)([a-z]*)", words[0].lower())
    if not found or found[2] not in _TIMES:
        raise ValueError(f"expected a time (s, ms, us), got {words[0]!r}")
    try:
        return int(float(found[1]) * _TIMES[found[2]])
    except ValueError:
        raise ValueError(f"expected a time (s, ms, us), got {words[0]!r}") from None


def _show_time(value: int, family: int) -> str:  # noqa: ARG001
    if value >= 1000000:
        return f"{value / 1000000:.1f}s"
    return f"{value / 1000:.1f}ms" if value >= 1000 else f"{value}us"


def rateest(options: list[Option], facts: Facts) -> list[Option]:  # noqa: ARG001
    """The interval is 250 ms times a power of two, the average's time constant the interval times one."""
    kept = {option.name: option for option in options}
    interval, average = kept["rateest-interval"].value, kept["rateest-ewmalog"].value
    steps = next((n for n in range(6) if interval <= 250000 << n), None)
    log = next((n for n in range(1, 32) if interval / -math.log(1 - 1 / (1 << n)) > average), 32)
    if steps is None or not 1 < log < 32:
        raise ValueError("the interval or the ewmalog value is out of range")
    kept["rateest-interval"] = Option("rateest-interval", 250000 << steps)
    kept["rateest-ewmalog"] = Option("rateest-ewmalog", 250000 << steps << log - 1)
    return list(kept.values())


TIME: Final = Kind("time", 1, _time, _show_time)

"""SNPT and DNPT: IPv6 prefixes translated one to one, without memory and without touching a checksum (RFC 6296).

The prefix is replaced, and one 16-bit word behind it takes up what that does to the ones' complement sum of the address.
Source: net/ipv6/netfilter/ip6t_NPT.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dataplane.engine.bind import Bind, TargetFunction
from dataplane.engine.hooks import Drop, HookState, Verdict
from dataplane.engine.skb import Skb
from dataplane.inet import ICMPV6, Prefix
from dataplane.rules.iptables import Target

_WORD: Final = 0xFFFF
_SUBNET_WORD: Final = 3  # bits 48 to 63


def _sum(number: int) -> int:
    """Ones' complement sum of the 16-bit words."""
    total = sum(number >> shift & _WORD for shift in range(0, 128, 16))
    while total >> 16:
        total = (total >> 16) + (total & _WORD)
    return total


def mapped(address: int, source: Prefix, destination: Prefix) -> int | None:
    """The address in the other prefix; None where no word can take up the difference (all behind a long prefix are 0xffff)."""
    length = max(source.length or 0, destination.length or 0)
    behind = (1 << 128 - length) - 1
    address = address & behind | destination.address & ~behind
    words = range(4, 8) if length > 48 else (_SUBNET_WORD,)
    place = next((word for word in words if length <= 48 or address >> 112 - 16 * word & _WORD != _WORD), None)
    if place is None:
        return None
    shift = 112 - 16 * place
    adjustment = _sum(_sum(source.address) + (~_sum(destination.address) & _WORD))
    word = _sum((address >> shift & _WORD) + adjustment)
    return address & ~(_WORD << shift) | (0 if word == _WORD else word) << shift


def _npt(field: str) -> Callable[[Target, Bind], TargetFunction]:
    def make(target: Target, bind: Bind) -> TargetFunction:
        source, destination = target.option("src-pfx"), target.option("dst-pfx")
        assert source is not None and destination is not None  # iptables takes no other

        def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
            address = mapped(getattr(skb, field), source.value, destination.value)
            if address is None:
                why = "no part of the address can take up the other prefix (the ICMPv6 answer to it is not modelled)"
                return Drop(f"{target.name}: {why}", bind.rule)
            setattr(skb, field, address)
            if skb.protocol == ICMPV6 and skb.inner is not None:
                bind.kernel.notes.append(f"{bind.rule}: the packet that the ICMPv6 error quotes may be translated, too; here it is not")
            return None

        return function

    return make


NPT_TARGETS: Final[dict[str, Callable[[Target, Bind], TargetFunction]]] = {"SNPT": _npt("saddr"), "DNPT": _npt("daddr")}

"""What each target without NAT does to a packet: one row a target.

Source: net/netfilter/xt_*.c, net/ipv4/netfilter/ipt_*.c of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dataplane.engine.bind import Bind, TargetFunction
from dataplane.engine.hooks import Drop, HookState, Unknown, Verdict
from dataplane.engine.skb import CT_UNTRACKED, Skb
from dataplane.engine.targets_nat import NAT_TARGETS
from dataplane.inet import TCP
from dataplane.packet import SYN
from dataplane.rules.iptables import Target

Factory = Callable[[Target, Bind], TargetFunction]


def make_target(target: Target, bind: Bind) -> TargetFunction:
    """The function of a target; one without a row makes the outcome unknown."""
    factory = TARGETS.get(target.name)
    if factory is None or target.verbatim is not None:
        return not_modelled(f"-j {target.name}")
    return factory(target, bind)


def not_modelled(what: str) -> TargetFunction:
    """A target whose effect nobody knows."""

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        raise Unknown(f"{what} is not modelled")

    return function


def _nothing(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    return lambda skb, state: None


def _mark(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value, mask = target.options[0].value

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.mark = skb.mark & ~mask & 0xFFFFFFFF ^ value
        return None

    return function


def _connmark(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    options = {option.name: option.value for option in target.options}

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        conn = skb.conn
        if conn is None:
            return None
        if "set-xmark" in options:
            value, mask = options["set-xmark"]
            conn.mark = conn.mark & ~mask & 0xFFFFFFFF ^ value
        elif "save-mark" in options:
            conn.mark = conn.mark & ~options["ctmask"] & 0xFFFFFFFF ^ (skb.mark & options["nfmask"])
        elif "restore-mark" in options:
            skb.mark = skb.mark & ~options["nfmask"] & 0xFFFFFFFF ^ (conn.mark & options["ctmask"])
        return None

    return function


def _ct(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    notrack = target.name == "NOTRACK" or target.option("notrack") is not None
    zone_option = target.option("zone")
    zone = int(zone_option.value, 0) if zone_option is not None and zone_option.value != "mark" else 0
    directed = target.option("zone-orig") or target.option("zone-reply") or (zone_option and zone_option.value == "mark")

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if skb.conn is not None or skb.ctinfo == CT_UNTRACKED:
            return None
        if directed:
            raise Unknown("-j CT with a zone for one direction is not modelled")
        if notrack:
            skb.ctinfo = CT_UNTRACKED
        else:
            skb.template_zone = zone
        return None

    return function


def _set(target: Target, bind: Bind) -> TargetFunction:
    add, delete = target.option("add-set"), target.option("del-set")
    timeout = target.option("timeout")
    exist = target.option("exist") is not None

    def function(skb: Skb, state: HookState) -> Verdict | None:
        sets = bind.kernel.sets
        if add is not None:
            sets.add(add.value[0], skb, state, add.value[1], timeout.value if timeout is not None else None, exist=exist)
        if delete is not None:
            sets.remove(delete.value[0], skb, state, delete.value[1])
        return None

    return function


def _tcpmss(target: Target, bind: Bind) -> TargetFunction:
    given = target.option("set-mss")

    def function(skb: Skb, state: HookState) -> Verdict | None:
        options = skb.tcp_options
        if skb.protocol != TCP or not skb.tcp_flags & SYN or options is None:
            return None
        if given is not None:
            mss: int = given.value
        else:
            link = bind.kernel.links.get(state.outdev)
            mss = min(link.mtu if link is not None else 1500, skb.dst.mtu if skb.dst is not None and skb.dst.mtu else 65535)
            mss -= 40 if skb.family == 4 else 60
        if options.mss is None or options.mss > mss:
            skb.tcp_options = replace(options, mss=mss)
        return None

    return function


def _ttl(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    option = target.options[0]
    how, amount = option.name.partition("-")[2], option.value

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        new = {"set": amount, "inc": min(255, skb.ttl + amount), "dec": max(0, skb.ttl - amount)}[how]
        skb.ttl = new
        return None

    return function


def _tos(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value, mask = target.options[0].value

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.tos = skb.tos & ~mask & 0xFF ^ value
        return None

    return function


def _dscp(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value = target.options[0].value

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.tos = skb.tos & 3 | value << 2
        return None

    return function


def _trace(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.traced = True
        return None

    return function


def _queue(target: Target, bind: Bind) -> TargetFunction:
    bypass = target.option("queue-bypass") is not None

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if bypass:
            bind.kernel.notes.append(f"{bind.rule}: no program is taken to listen on the queue (--queue-bypass lets the packet go on)")
            return None
        return Drop(f"{target.name}: no program is taken to listen on the queue", bind.rule)

    return function


def _tproxy(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    """Without a socket that takes the packet, TPROXY drops it; which sockets listen is not part of a node's state."""
    return not_modelled("-j TPROXY (it depends on a listening socket)")


TARGETS: Final[dict[str, Factory]] = {
    **NAT_TARGETS,
    "LOG": _nothing, "NFLOG": _nothing, "CHECKSUM": _nothing, "CLASSIFY": _nothing, "MARK": _mark, "CONNMARK": _connmark, "CT": _ct,
    "NOTRACK": _ct, "SET": _set, "TCPMSS": _tcpmss, "TTL": _ttl, "HL": _ttl, "TOS": _tos, "DSCP": _dscp, "TRACE": _trace,
    "NFQUEUE": _queue, "QUEUE": _queue, "TPROXY": _tproxy,
}  # fmt: skip

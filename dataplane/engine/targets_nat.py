"""The targets that decide where a packet goes by themselves: REJECT, and the NAT targets with their ranges.

Source: xt_nat.c, xt_MASQUERADE.c, xt_REDIRECT.c, xt_NETMAP.c, ipt_REJECT.c, ip6t_REJECT.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dataplane.engine import conntrack, nat, reject
from dataplane.engine.bind import Bind, TargetFunction
from dataplane.engine.hooks import ACCEPT, Drop, Hook, HookState, Verdict
from dataplane.engine.skb import CT_NEW, CT_RELATED, CT_RELATED_REPLY, Skb
from dataplane.inet import FULL_MASK, Prefix
from dataplane.rules.iptables import NatRange, Target

_FIRST: Final = (CT_NEW, CT_RELATED, CT_RELATED_REPLY)


def _range(given: NatRange, target: Target) -> nat.Range:
    random = any(target.option(name) is not None for name in ("random", "random-fully"))
    high = given.high if given.high is not None else given.low
    port_high = given.port_high if given.port_high is not None else given.port_low
    persistent = target.option("persistent") is not None
    return nat.Range(given.low, high, given.port_low, port_high, given.port_base, random, persistent)


def _ranged(name: str, *, source: bool) -> Callable[[Target, Bind], TargetFunction]:
    def make(target: Target, bind: Bind) -> TargetFunction:
        option = target.option(name)
        wanted = _range(option.value if option is not None else NatRange(), target)

        def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
            if skb.ctinfo not in _FIRST:
                return ACCEPT
            return nat.setup(bind.kernel, skb, wanted, source=source)

        return function

    return make


def _masquerade(target: Target, bind: Bind) -> TargetFunction:
    option = target.option("to-ports")
    wanted = _range(option.value if option is not None else NatRange(), target)

    def function(skb: Skb, state: HookState) -> Verdict | None:
        conn = skb.conn
        if conn is None or skb.ctinfo not in _FIRST or (skb.family == 4 and skb.saddr == 0):
            return ACCEPT
        fib = bind.kernel.fib
        if skb.family == 4:
            gateway = skb.dst.gateway if skb.dst is not None and skb.dst.gateway_family in (None, 4) else None
            address = fib.select_address4(state.outdev, gateway if gateway is not None else skb.daddr, 0)
        else:
            address = fib.select_address6(state.outdev, skb.daddr)
        if address is None:
            return Drop(f"MASQUERADE found no address on {state.outdev}", bind.rule)
        if not conn.confirmed:
            conn.masq_dev = state.outdev
        full = nat.Range(address, address, wanted.port_low, wanted.port_high, wanted.port_base, wanted.random, wanted.persistent)
        return nat.setup(bind.kernel, skb, full, source=True)

    return function


def _redirect(target: Target, bind: Bind) -> TargetFunction:
    option = target.option("to-ports")
    wanted = _range(option.value if option is not None else NatRange(), target)

    def function(skb: Skb, state: HookState) -> Verdict | None:
        if state.hook == Hook.OUTPUT:
            address: int | None = 0x7F000001 if skb.family == 4 else 1
        else:
            link = bind.kernel.links.get(skb.indev)
            own = [a for a in link.addresses if a.family == skb.family and not a.tentative] if link is not None else []
            if skb.family == 6 and (scope := _scope6(skb.daddr)):
                own = [a for a in own if _scope6(a.local) == scope]
            address = own[0].local if own else None
        if address is None:
            return Drop(f"REDIRECT found no address on {skb.indev}", bind.rule)
        full = nat.Range(address, address, wanted.port_low, wanted.port_high, wanted.port_base, wanted.random)
        return nat.setup(bind.kernel, skb, full, source=False)

    return function


def _scope6(address: int) -> str:
    """What nf_nat_redirect_ipv6 wants an address to have in common with the destination; nothing of global ones."""
    if address == 1:
        return "loopback"
    if address >> 118 in (0xFE80 >> 6, 0xFEC0 >> 6):
        return "link" if address >> 118 == 0xFE80 >> 6 else "site"
    return "compatible" if address >> 32 == 0 and address else ""


def _netmap(target: Target, bind: Bind) -> TargetFunction:
    option = target.option("to")
    prefix: Prefix = option.value if option is not None else Prefix(bind.family, 0, 0)
    hosts = FULL_MASK[bind.family] & ~prefix.mask

    def function(skb: Skb, state: HookState) -> Verdict | None:
        source = nat.is_source_hook(state.hook)
        address = (skb.saddr if source else skb.daddr) & hosts | prefix.address
        return nat.setup(bind.kernel, skb, nat.Range(address, address), source=source)

    return function


def _reject(target: Target, bind: Bind) -> TargetFunction:
    option = target.option("reject-with")
    default = "icmp-port-unreachable" if bind.family == 4 else "icmp6-port-unreachable"
    kind = option.value if option is not None else default
    code = reject.REJECT_CODES[bind.family].get(kind)

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if skb.bad_checksum:
            return Drop("REJECT answers no packet with a bad checksum", bind.rule)
        if kind == "tcp-reset":
            reply = reject.tcp_reset(bind.kernel, skb)
            if reply is not None:
                conntrack.set_closing(bind.kernel, skb)
        else:
            assert code is not None
            reply = reject.icmp_error(bind.kernel, skb, *code)
        return Drop(f"REJECT {kind}", bind.rule, (reply,) if reply is not None else ())

    return function


NAT_TARGETS: Final[dict[str, Callable[[Target, Bind], TargetFunction]]] = {
    "DNAT": _ranged("to-destination", source=False),
    "SNAT": _ranged("to-source", source=True),
    "MASQUERADE": _masquerade,
    "REDIRECT": _redirect,
    "NETMAP": _netmap,
    "REJECT": _reject,
}

"""What each target does to a packet: one row a target. Those that decide where it goes (NAT, REJECT) are in targets_nat.

Targets that only tell somebody (LOG, NFLOG, AUDIT, TEE …) let the packet go on to the next rule, as the kernel does; TEE's copy
and what a target would need and does not have are noted. Not modelled: CLUSTERIP, HMARK, SYNPROXY; TPROXY, which depends on
sockets. Source: net/netfilter/xt_*.c, net/ipv4/netfilter/ipt_*.c of the same names; nf_queue.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dataplane.engine.bind import Bind, TargetFunction
from dataplane.engine.fib import Flow
from dataplane.engine.hooks import ACCEPT, Drop, HookState, Unknown, Verdict
from dataplane.engine.skb import CT_NEW, CT_UNTRACKED, Skb
from dataplane.engine.targets_nat import NAT_TARGETS
from dataplane.engine.targets_npt import NPT_TARGETS
from dataplane.inet import TCP, format_address
from dataplane.packet import CWR, ECE, TcpOptions
from dataplane.rules.iptables import Target

Factory = Callable[[Target, Bind], TargetFunction]

_FULL: Final = 0xFFFFFFFF


def make_target(target: Target, bind: Bind) -> TargetFunction:
    """The function of a target; one without a row makes the outcome unknown."""
    factory = TARGETS.get(target.name)
    if factory is None or target.verbatim is not None:
        return not_modelled(f"-j {target.name} is not modelled")
    return factory(target, bind)


def not_modelled(why: str) -> TargetFunction:
    """A target whose effect nobody knows."""

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        raise Unknown(why)

    return function


def _nothing(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    return lambda skb, state: None


def _tee(target: Target, bind: Bind) -> TargetFunction:
    """The copy that TEE sends is not followed, only told of."""
    gateway = target.option("gateway")
    address = format_address(bind.family, gateway.value) if gateway is not None else "?"

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        bind.kernel.notes.append(f"{bind.rule}: a copy of the packet goes to {address}")
        return None

    return function


# ---------------------------------------------------------------------- marks


def _mark(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value, mask = target.options[0].value
    kept = ~mask & _FULL

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.mark = skb.mark & kept ^ value
        return None

    return function


def _connmark(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    """Sets the connection's mark, or copies some bits from the packet (save) or to it (restore): masked out, then xored in."""
    options = {option.name: option.value for option in target.options}
    value, mask = options.get("set-xmark", (0, 0))
    saves, restores = "save-mark" in options, "restore-mark" in options
    packet_mask, conn_mask = options.get("nfmask", _FULL), options.get("ctmask", _FULL)
    left, right = options.get("left-shift-mark", 0), options.get("right-shift-mark", 0)

    def shifted(mark: int) -> int:
        return int(mark >> right if right else mark << left & _FULL)

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        conn = skb.conn
        if conn is None:
            return None
        if saves:
            conn.mark = conn.mark & ~conn_mask & _FULL ^ shifted(skb.mark & packet_mask)
        elif restores:
            skb.mark = skb.mark & ~packet_mask & _FULL ^ shifted(conn.mark & conn_mask)
        else:
            conn.mark = shifted(conn.mark & ~mask & _FULL ^ value)
        return None

    return function


def _classify(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value = target.options[0].value
    major, minor = (int(part or "0", 16) for part in value.split(":")) if isinstance(value, str) else value
    priority = major << 16 | minor

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.priority = priority
        return None

    return function


def _trace(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.traced = True
        return None

    return function


# ---------------------------------------------------------------------- connection tracking, sets


def _ct(target: Target, bind: Bind) -> TargetFunction:
    """Says beforehand how a packet is to be tracked: the first one that says anything counts, and only before tracking."""
    notrack = target.name == "NOTRACK" or target.option("notrack") is not None
    zone_option = target.option("zone")
    zone = int(zone_option.value, 0) if zone_option is not None and zone_option.value != "mark" else 0
    from_mark = zone_option is not None and zone_option.value == "mark"
    directed = target.option("zone-orig") is not None or target.option("zone-reply") is not None
    timeout, helper = target.option("timeout"), target.option("helper")

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if skb.conn is not None or skb.ctinfo is not None:
            return None
        if notrack:
            skb.ctinfo = CT_UNTRACKED
            return None
        if directed:
            raise Unknown("-j CT with a zone for one direction is not modelled")
        if timeout is not None:
            bind.kernel.notes.append(f"{bind.rule}: the timeouts of policy {timeout.value} are not known; the usual ones count")
        skb.ctinfo = CT_NEW  # a template: conntrack replaces it
        skb.template_zone = skb.mark & 0xFFFF if from_mark else zone
        skb.helper = str(helper.value) if helper is not None else None
        return None

    return function


def _set(target: Target, bind: Bind) -> TargetFunction:
    """Adds, then removes."""
    add, delete, mapped = (target.option(name) for name in ("add-set", "del-set", "map-set"))
    timeout, exist = target.option("timeout"), target.option("exist") is not None
    seconds = timeout.value if timeout is not None else None

    def function(skb: Skb, state: HookState) -> Verdict | None:
        sets = bind.kernel.sets
        if add is not None:
            sets.add(add.value[0], skb, state, add.value[1], seconds, exist=exist)
        if delete is not None:
            sets.remove(delete.value[0], skb, state, delete.value[1])
        if mapped is not None:
            raise Unknown("-j SET --map-set is not modelled")
        return None

    return function


# ---------------------------------------------------------------------- header fields


def _ttl(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    """TTL and hop limit stay within 0 and 255; a packet of TTL 0 goes on all the same."""
    option = target.options[0]
    how, amount = option.name.partition("-")[2], option.value

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if how == "set":
            skb.ttl = amount
        else:
            skb.ttl = min(255, skb.ttl + amount) if how == "inc" else max(0, skb.ttl - amount)
        return None

    return function


def _tos(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value, mask = target.options[0].value

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.tos = skb.tos & ~mask & 0xFF ^ value
        return None

    return function


def _dscp(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    value = target.options[0].value << 2

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        skb.tos = skb.tos & 3 | value
        return None

    return function


def _ecn(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    """Sets the two bits of IP, or TCP's flags (--ecn-tcp-remove clears both, so that a SYN no longer offers ECN)."""
    options = {option.name: option.value for option in target.options}
    if "ecn-tcp-remove" in options:
        options |= {"ecn-tcp-ece": 0, "ecn-tcp-cwr": 0}
    ect = options.get("ecn-ip-ect")
    flags = [(bit, options[name]) for name, bit in (("ecn-tcp-ece", ECE), ("ecn-tcp-cwr", CWR)) if name in options]

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if ect is not None:
            skb.tos = skb.tos & ~3 | ect
        if skb.protocol == TCP and not skb.fragment_offset:
            for bit, value in flags:
                skb.tcp_flags = skb.tcp_flags | bit if value else skb.tcp_flags & ~bit
        return None

    return function


_STRIPPED: Final[Mapping[int, Mapping[str, Any]]] = {  # Any: each value fits its own field
    2: {"mss": None}, 3: {"wscale": None}, 4: {"sack_permitted": False}, 5: {"sack": ()}, 8: {"timestamp": False},
}  # fmt: skip


def _tcpoptstrip(target: Target, bind: Bind) -> TargetFunction:  # noqa: ARG001
    """Options become NOPs, so that the packet stays as long as it is."""
    kinds: tuple[int, ...] = target.options[0].value
    fields = {name: value for kind in kinds for name, value in _STRIPPED.get(kind, {}).items()}

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        options = skb.tcp_options
        if skb.protocol == TCP and not skb.fragment_offset and options is not None:
            skb.tcp_options = options._replace(other=tuple(kind for kind in options.other if kind not in kinds), **fields)
        return None

    return function


_DEFAULT_MSS: Final = {4: 536, 6: 1220}


def _tcpmss(target: Target, bind: Bind) -> TargetFunction:
    """Lowers the MSS option, never raises it; adds one to a packet that has neither it nor data.

    With --clamp-mss-to-pmtu the smaller MTU of the two ways counts: of the packet's route, and of one back to its source.
    """
    option = target.option("set-mss")
    headers = 40 if bind.family == 4 else 60

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if skb.protocol != TCP or skb.fragment_offset:
            return None
        if option is not None:
            mss: int = option.value
        else:
            mtu = _path_mtu(skb, bind)
            if mtu <= headers:
                return Drop(f"TCPMSS: the path has an MTU of {mtu}", bind.rule)
            mss = mtu - headers & 0xFFFF
        options = skb.tcp_options or TcpOptions()
        if options.mss is not None:
            if options.mss > mss:
                skb.tcp_options = options._replace(mss=mss)
        elif not skb.payload:
            skb.tcp_options = options._replace(mss=min(mss, _DEFAULT_MSS[skb.family]))
            skb.length += 4 if skb.length else 0
        return None

    return function


def _path_mtu(skb: Skb, bind: Bind) -> int:
    back = bind.kernel.fib.lookup(Flow(skb.family, skb.saddr))
    there = skb.dst.mtu if skb.dst is not None and skb.dst.mtu else 1500
    return min(there, back.mtu) if back.error is None and back.mtu else there


# ---------------------------------------------------------------------- user space


def _queue(target: Target, bind: Bind) -> TargetFunction:
    """Without a program that listens the packet is dropped; with --queue-bypass it goes on to the next table."""
    bypass = target.option("queue-bypass") is not None
    number, several = target.option("queue-num"), target.option("queue-balance")
    queue = f"queues {several.value[0]} to {several.value[1]}" if several else f"queue {number.value if number else 0}"

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if bypass:
            bind.kernel.notes.append(f"{bind.rule}: no program is taken to listen on {queue}, so the packet is accepted here")
            return ACCEPT
        return Drop(f"{target.name}: no program is taken to listen on {queue}", bind.rule)

    return function


def _tproxy(target: Target, bind: Bind) -> TargetFunction:
    """A listening transparent socket takes the packet; without one it is dropped. Fragments always are."""
    port = target.option("on-port")

    def function(skb: Skb, state: HookState) -> Verdict | None:  # noqa: ARG001
        if skb.fragment_offset or skb.more_fragments:
            return Drop("TPROXY takes no fragments", bind.rule)
        number = port.value if port is not None and port.value else skb.dport
        taken = f"a transparent socket on port {number} takes the packet, else it is dropped"
        raise Unknown(f"-j TPROXY: {taken}; which sockets listen is not known")

    return function


TARGETS: Final[dict[str, Factory]] = {
    **NAT_TARGETS,
    **NPT_TARGETS,
    "AUDIT": _nothing,
    "CHECKSUM": _nothing,
    "CLASSIFY": _classify,
    "CONNMARK": _connmark,
    "CONNSECMARK": _nothing,
    "CT": _ct,
    "DSCP": _dscp,
    "ECN": _ecn,
    "HL": _ttl,
    "IDLETIMER": _nothing,
    "LED": _nothing,
    "LOG": _nothing,
    "MARK": _mark,
    "NFLOG": _nothing,
    "NFQUEUE": _queue,
    "NOTRACK": _ct,
    "QUEUE": _queue,
    "RATEEST": _nothing,
    "SECMARK": _nothing,
    "SET": _set,
    "TCPMSS": _tcpmss,
    "TCPOPTSTRIP": _tcpoptstrip,
    "TEE": _tee,
    "TOS": _tos,
    "TPROXY": _tproxy,
    "TRACE": _trace,
    "TTL": _ttl,
}

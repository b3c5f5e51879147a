"""One match or target at a time: an option text, a packet, and what becomes of it, without a walk around them."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.bind import Bind, HotDrop
from dataplane.engine.hooks import Hook, HookState, Verdict
from dataplane.engine.kernel import Kernel
from dataplane.engine.matches import MATCHES, make_matcher
from dataplane.engine.netns import Netns
from dataplane.engine.skb import Skb
from dataplane.engine.targets import TARGETS, make_target
from dataplane.errors import ParseError
from dataplane.packet import Packet, TcpOptions
from dataplane.rules.iptables import Rule, Target
from dataplane.rules.nodestate import NodeState
from dataplane.text import xtables_options
from dataplane.text.ipset import parse_save
from dataplane.text.iptables import parse_rule
from dataplane.trace import RuleRef
from tests.engine.lab import node
from tests.engine.lab import packet as lab_packet

TCP = "tcp 192.0.2.1:40000 > 198.51.100.2:80"
TCP6 = "tcp [2001:db8::1]:40000 > [2001:db8::2]:80"
UDP = "udp 192.0.2.1:40000 > 198.51.100.2:53"
UDP6 = "udp [2001:db8::1]:40000 > [2001:db8::2]:53"
SCTP = "sctp 192.0.2.1:40000 > 198.51.100.2:9"
ICMP = "icmp 192.0.2.1 > 198.51.100.2"
ICMP6 = "icmp 2001:db8::1 > 2001:db8::2"

FORWARD = HookState(Hook.FORWARD, "eth0", "cni0")


def kernel(sets: str = "", **given: Any) -> Kernel:
    """The kernel of the lab node; ``sets`` as ``ipset save`` prints them, ``given`` is of its state or of the kernel."""
    fields = {name: value for name, value in given.items() if name in NodeState._fields}
    made = Netns(node().state._replace(**{"ipsets": parse_save(sets), **fields})).kernel
    for name, value in given.items():
        if name not in fields:
            setattr(made, name, value)
    return made


def skb(text: str | Packet = TCP, **fields: Any) -> Skb:
    """A packet that came in by eth0. ``fields`` are those of a Packet or of an Skb."""
    given = lab_packet(text) if isinstance(text, str) else text
    if given.family == 6 and given.is_icmp:
        given = given._replace(length=48)
    mine = {name: value for name, value in fields.items() if name in Packet._fields}
    made = Skb(given._replace(**mine), indev="eth0")
    for name, value in fields.items():
        if name not in mine:
            setattr(made, name, value)
    return made


def options(**fields: Any) -> TcpOptions:
    return TcpOptions(**fields)


def rule(text: str, family: int = 4, chain: str = "FORWARD") -> Rule:
    """A rule that can be read. What has a model but no row in the option table yet (or not all of its options) is skipped."""
    named = {word for before, word in zip(text.split(), text.split()[1:], strict=False) if before in ("-m", "-j")}
    try:
        made = parse_rule(f"-A {chain} {text}", family)[0][1]
    except ParseError:
        if named - set(xtables_options.MATCHES) - set(xtables_options.TARGETS) or "--" in text:
            pytest.skip(f"cannot be read yet: {text}")
        raise
    verbatim = {one.name for one in (*made.matches, made.target) if one is not None and getattr(one, "verbatim", None) is not None}
    if verbatim & (set(MATCHES) | set(TARGETS)):
        pytest.skip(f"no row in the option table yet: {', '.join(sorted(verbatim))}")
    return made


class Matcher:
    """A rule's matches as one question, to be asked again and again."""

    def __init__(self, text: str, *, family: int = 4, on: Kernel | None = None, number: int = 1) -> None:
        self.kernel = on or kernel()
        bind = Bind(self.kernel, family, RuleRef(family, "filter", "FORWARD", number))
        self._parts = [make_matcher(match, bind) for match in rule(text, family).matches]

    def __call__(self, packet: Skb | str = TCP, state: HookState = FORWARD, *, at: float | None = None, **fields: Any) -> bool:
        if at is not None:
            self.kernel.now = at
        one = skb(packet, **fields) if isinstance(packet, str) else packet
        return all(part(one, state) for part in self._parts)


def answer(text: str, packet: Skb, *, state: HookState = FORWARD, on: Kernel | None = None) -> bool | str:
    """True, False, or "hotdrop"."""
    try:
        return Matcher(text, family=packet.family, on=on)(packet, state)
    except HotDrop:
        return "hotdrop"


def act(text: str, packet: Skb, *, state: HookState = FORWARD, on: Kernel | None = None) -> Verdict | None:
    """What a rule's target does to the packet."""
    target = rule(text, packet.family).target
    assert isinstance(target, Target)
    ref = RuleRef(packet.family, "mangle", "FORWARD", 1)
    return make_target(target, Bind(on or kernel(), packet.family, ref))(packet, state)

"""Reassembly before conntrack: fragments wait until the whole packet is there, and go on as one.

A fragment alone carries no ports, so connection tracking gathers fragments first (priority -400). What leaves is fragmented
again by the kernel; the walk shows the whole packet. Source: nf_defrag_ipv4.c, nf_defrag_ipv6_hooks.c, ip_fragment.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataplane.engine.hooks import ACCEPT, Drop, HookState, Verdict
from dataplane.packet import Packet
from dataplane.trace import NoteEvent

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel
    from dataplane.engine.skb import Skb


class _Queue:
    """Fragments of one packet by their offset: (end, is the last one)."""

    __slots__ = ("expires", "first", "pieces")

    def __init__(self) -> None:
        self.pieces: dict[int, tuple[int, bool]] = {}
        self.first: Packet | None = None
        self.expires = 0.0

    def copy(self) -> _Queue:
        other = _Queue()
        other.pieces, other.first, other.expires = dict(self.pieces), self.first, self.expires
        return other

    def whole(self) -> int | None:
        """The length of the data when every piece is there."""
        end = 0
        while end in self.pieces:
            end, last = self.pieces[end]
            if last:
                return end
        return None


def gather(kernel: Kernel, skb: Skb, state: HookState) -> Verdict:
    """The hook function: whole packets pass, fragments wait; the one that completes a packet goes on as that packet."""
    if not (skb.more_fragments or skb.fragment_offset) or skb.conn is not None:
        return ACCEPT
    key = ("defrag", skb.family, skb.saddr, skb.daddr, skb.ip_id, skb.protocol, state.hook)
    queue = kernel.memory_of(key, _Queue)
    if queue.expires and queue.expires <= kernel.now:
        queue = kernel.memory[key] = _Queue()
    queue.expires = queue.expires or kernel.now + kernel.sysctls.int("net.ipv4.ipfrag_time")
    header = 20 if skb.family == 4 else 40
    end = skb.fragment_offset + skb.length - header
    queue.pieces[skb.fragment_offset] = (end, not skb.more_fragments)
    if skb.fragment_offset == 0:
        queue.first = skb.packet()
    total = queue.whole()
    if total is None or queue.first is None:
        return Drop("a fragment: held until the rest of its packet arrives")
    first = queue.first
    del kernel.memory[key]
    for name in ("sport", "dport", "tcp_flags", "seq", "ack", "window", "tcp_options", "icmp_type", "icmp_code", "icmp_id", "inner"):
        setattr(skb, name, getattr(first, name))
    skb.payload = first.payload + total - (first.length - header)
    skb.fragment_offset, skb.more_fragments, skb.length, skb.gathered = 0, False, header + total, True
    kernel.events.append(NoteEvent("the fragments are put together again before connection tracking"))
    return ACCEPT

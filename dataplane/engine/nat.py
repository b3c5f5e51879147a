"""NAT: choosing the mapping of a connection once per direction of rewriting, and rewriting its packets.

A rule of the nat table decides about a connection's first packet only. The mapping is stored in the connection's reply tuple;
every later packet, and the packet quoted inside an ICMP error, is rewritten from the two tuples alone.
DST manipulation happens at PREROUTING and OUTPUT, SRC at POSTROUTING and INPUT. The nat table's chains are handed in as an
argument: this file knows no rules. Source: net/netfilter/nf_nat_core.c, nf_nat_proto.c, nf_nat_masquerade.c, nf_nat_redirect.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dataplane.engine.conntrack import Conn, inverse, is_reply
from dataplane.engine.hooks import ACCEPT, Accept, Drop, Hook, HookFunction, HookState, Verdict
from dataplane.engine.skb import CT_NEW, CT_RELATED, CT_RELATED_REPLY, Skb
from dataplane.inet import DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from dataplane.packet import Packet
from dataplane.rules.network import Tuple
from dataplane.trace import NatEvent

if TYPE_CHECKING:
    from dataplane.engine.kernel import Kernel

_PORTS: Final = frozenset((TCP, UDP, SCTP, DCCP, UDPLITE))
_MAX_ATTEMPTS: Final = 128


class Range(NamedTuple):
    """What a NAT target allows: addresses and ports (None: any). For ICMP the "port" is the identifier."""

    low: int | None = None
    high: int | None = None
    port_low: int | None = None
    port_high: int | None = None
    port_base: int | None = None
    random: bool = False  # --random or --random-fully
    persistent: bool = False


def is_source_hook(hook: Hook) -> bool:
    """HOOK2MANIP: the source is rewritten at POSTROUTING and INPUT, the destination elsewhere."""
    return hook in (Hook.POSTROUTING, Hook.INPUT)


def hook_function(kernel: Kernel, lookup: HookFunction | None) -> HookFunction:
    """The nat hook: ``lookup`` walks the nat table for a first packet (None: the table is not there)."""

    def nat(skb: Skb, state: HookState) -> Verdict:
        conn = skb.conn
        if conn is None:
            return ACCEPT
        source = is_source_hook(state.hook)
        if skb.ctinfo in (CT_RELATED, CT_RELATED_REPLY) and skb.is_icmp:
            return _translate_error(kernel, skb, conn, source=source)
        if skb.ctinfo in (CT_NEW, CT_RELATED, CT_RELATED_REPLY):
            if not (conn.src_done if source else conn.dst_done):
                if lookup is not None:
                    verdict = lookup(skb, state)
                    if not isinstance(verdict, Accept):
                        return verdict
                if not (conn.src_done if source else conn.dst_done):
                    _null_binding(kernel, conn, source=source)
            elif _out_device_changed(conn, skb, state):
                return _device_changed(kernel, conn)
        elif _out_device_changed(conn, skb, state):
            return _device_changed(kernel, conn)
        return _rewrite(kernel, skb, conn, source=source)

    return nat


def setup(kernel: Kernel, skb: Skb, wanted: Range, *, source: bool) -> Verdict:
    """nf_nat_setup_info: decides the mapping of a new connection in one direction of rewriting."""
    conn = skb.conn
    if conn is None or conn.confirmed:
        return ACCEPT
    _bind(kernel, conn, wanted, source=source)
    return ACCEPT


def _null_binding(kernel: Kernel, conn: Conn, *, source: bool) -> None:
    if kernel.conntrack.taken(conn, conn.reply, kernel.now):
        address = conn.reply.dst if source else conn.reply.src
        _bind(kernel, conn, Range(address, address), source=source)
    elif source:
        conn.src_done = True
    else:
        conn.dst_done = True


def _bind(kernel: Kernel, conn: Conn, wanted: Range, *, source: bool) -> None:
    current = inverse(conn.reply)
    mapped = _unique(kernel, conn, current, wanted, source=source)
    if mapped is not current and mapped != current:
        conn.reply = inverse(mapped)
        if source:
            conn.snat = True
        else:
            conn.dnat = True
    if source:
        conn.src_done = True
    else:
        conn.dst_done = True


def _device_changed(kernel: Kernel, conn: Conn) -> Verdict:
    kernel.conntrack.remove(conn)
    return Drop("the masqueraded connection left by another device before; the kernel forgets it")


def _out_device_changed(conn: Conn, skb: Skb, state: HookState) -> bool:
    original = not is_reply(skb.ctinfo)
    return conn.masq_dev is not None and state.hook == Hook.POSTROUTING and original and conn.masq_dev != state.outdev


# ---------------------------------------------------------------------- choosing the mapping


def _unique(kernel: Kernel, conn: Conn, current: Tuple, wanted: Range, *, source: bool) -> Tuple:
    """get_unique_tuple: a mapping in the range whose answer no other connection expects."""
    if source and not wanted.random:
        if _in_range(current, wanted):
            if not _taken(kernel, conn, current):
                return current
        else:
            for other in kernel.conntrack.same_source(conn, kernel.now):
                used = inverse(other.reply)
                candidate = current._replace(src=used.src, sport=used.sport)
                if _in_range(candidate, wanted):
                    if not _taken(kernel, conn, candidate):
                        conn.random_source = other.random_source
                        return candidate
                    break
    low, high, port, last = wanted.low, wanted.high, wanted.port_low, wanted.port_high
    if not source and low is not None and low == high and port is not None and port == last and current.protocol in _PORTS:
        return Tuple(current.src, low, current.protocol, current.sport, port)  # nothing to choose, taken or not
    mapped = _best_address(current, wanted, conn.zone, source=source)
    if not wanted.random:
        if wanted.port_low is not None:
            fits = wanted.port_base is None and _port_in_range(mapped, wanted, source=source)
            if fits and (wanted.port_low == wanted.port_high or not _taken(kernel, conn, mapped)):
                return mapped
        elif not _taken(kernel, conn, mapped):
            return mapped
    return _unique_port(kernel, conn, mapped, wanted, source=source)


def _taken(kernel: Kernel, conn: Conn, mapped: Tuple) -> bool:
    return kernel.conntrack.taken(conn, inverse(mapped), kernel.now)


def _in_range(one: Tuple, wanted: Range) -> bool:
    if wanted.low is not None and wanted.high is not None and not wanted.low <= one.src <= wanted.high:
        return False
    return wanted.port_low is None or wanted.port_high is None or wanted.port_low <= one.sport <= wanted.port_high


def _port_in_range(one: Tuple, wanted: Range, *, source: bool) -> bool:
    assert wanted.port_low is not None
    assert wanted.port_high is not None
    if one.protocol in (ICMP, ICMPV6):
        return wanted.port_low <= one.sport <= wanted.port_high
    return wanted.port_low <= (one.sport if source else one.dport) <= wanted.port_high


def _best_address(one: Tuple, wanted: Range, zone: int, *, source: bool) -> Tuple:
    """find_best_ips_proto: the same client always gets the same address of a range, by a hash without a secret."""
    if wanted.low is None or wanted.high is None:
        return one
    if wanted.low == wanted.high:
        address = wanted.low
    else:
        address = _hashed_address(one, wanted.low, wanted.high, zone, persistent=wanted.persistent)
    src, dst, protocol, sport, dport = one
    return Tuple(address, dst, protocol, sport, dport) if source else Tuple(src, address, protocol, sport, dport)


def _words(address: int, *, wide: bool) -> list[int]:
    """The four 32-bit words of union nf_inet_addr as a little-endian machine reads them."""
    raw = address.to_bytes(16, "big") if wide else address.to_bytes(4, "big") + bytes(12)
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, 16, 4)]


def _hashed_address(one: Tuple, low: int, high: int, zone: int, *, persistent: bool) -> int:
    wide = max(low, high, one.src, one.dst) >> 32 > 0
    last = 3 if wide else 0
    salt = 0 if persistent else _words(one.dst, wide=wide)[last] ^ zone
    value = _jhash2(_words(one.src, wide=wide), salt)
    if not wide:
        return low + (value * (high - low + 1) >> 32)
    low_words = [low >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)]
    high_words = [high >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)]
    address, full = 0, False
    for index in range(4):
        if full:
            first, span = 0, 1 << 32
        else:
            first, span = low_words[index], high_words[index] - low_words[index] + 1
        word = (first + (value * span >> 32)) & 0xFFFFFFFF
        address = address << 32 | word
        if word != high_words[index]:
            full = True
        if not persistent:
            value ^= _words(one.dst, wide=True)[index]
    return address


def _rol(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & 0xFFFFFFFF


def _jhash2(words: list[int], initval: int) -> int:
    """Bob Jenkins' lookup3 over 32-bit words, as include/linux/jhash.h defines it."""
    full = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + (len(words) << 2) + initval) & full
    rest = list(words)
    while len(rest) > 3:
        a, b, c = (a + rest[0]) & full, (b + rest[1]) & full, (c + rest[2]) & full
        a = (a - c & full) ^ _rol(c, 4)
        c = c + b & full
        b = (b - a & full) ^ _rol(a, 6)
        a = a + c & full
        c = (c - b & full) ^ _rol(b, 8)
        b = b + a & full
        a = (a - c & full) ^ _rol(c, 16)
        c = c + b & full
        b = (b - a & full) ^ _rol(a, 19)
        a = a + c & full
        c = (c - b & full) ^ _rol(b, 4)
        b = b + a & full
        rest = rest[3:]
    for index, word in enumerate(rest):
        if index == 0:
            a = a + word & full
        elif index == 1:
            b = b + word & full
        else:
            c = c + word & full
    for x, by in (("cb", 14), ("ac", 11), ("ba", 25), ("cb", 16), ("ac", 4), ("ba", 14), ("cb", 24)):
        value = {"a": a, "b": b, "c": c}
        value[x[0]] = ((value[x[0]] ^ value[x[1]]) - _rol(value[x[1]], by)) & full
        a, b, c = value["a"], value["b"], value["c"]
    return c


def _unique_port(kernel: Kernel, conn: Conn, one: Tuple, wanted: Range, *, source: bool) -> Tuple:
    """nf_nat_l4proto_unique_tuple: a free port (or ICMP identifier); the start is random but for plain DNAT."""
    icmp = one.protocol in (ICMP, ICMPV6)
    if not icmp and one.protocol not in _PORTS:
        return one
    port = one.sport if source or icmp else one.dport
    if wanted.port_low is not None and wanted.port_high is not None:
        low, size = wanted.port_low, max(wanted.port_high - wanted.port_low + 1, 1)
    elif icmp:
        low, size = 0, 65536
    elif not source:
        return one
    elif port < 512:
        low, size = 1, 511
    elif port < 1024:
        low, size = 600, 424
    else:
        low, size = 1024, 64512
    random = wanted.port_base is None and (wanted.random or source)
    if wanted.port_base is not None:
        offset = port - wanted.port_base
    else:
        offset = kernel.choices.number(65536, "source port") if random else 0
    src, dst, protocol, sport, dport = one
    for attempt in range(offset, offset + min(size, _MAX_ATTEMPTS)):
        chosen = low + attempt % size
        candidate = Tuple(src, dst, protocol, chosen, dport) if source or icmp else Tuple(src, dst, protocol, sport, chosen)
        if not _taken(kernel, conn, candidate):
            break
    if random and size > 1:
        if source or icmp:
            conn.random_source = True
        else:
            conn.random_destination = True
    return candidate


# ---------------------------------------------------------------------- rewriting


def _rewrite(kernel: Kernel, skb: Skb, conn: Conn, *, source: bool) -> Verdict:
    """nf_nat_packet: gives a packet the addresses that the connection's other tuple implies."""
    reply = is_reply(skb.ctinfo)
    if not (conn.snat if source != reply else conn.dnat):
        return ACCEPT
    answer = conn.original if reply else conn.reply  # what the packet becomes is the answer to this one
    icmp = skb.is_icmp
    if source:
        old = (skb.saddr, skb.icmp_id if icmp else skb.sport)
        new = (answer.dst, answer.sport if icmp else answer.dport)
        skb.saddr = answer.dst
        if icmp:
            skb.icmp_id = answer.sport
        elif skb.protocol in _PORTS:
            skb.sport = answer.dport
    else:
        old = (skb.daddr, skb.icmp_id if icmp else skb.dport)
        new = (answer.src, answer.sport)
        skb.daddr = answer.src
        if icmp:
            skb.icmp_id = answer.sport
        elif skb.protocol in _PORTS:
            skb.dport = answer.sport
    if old != new:
        kernel.events.append(NatEvent("SNAT" if source else "DNAT", skb.family, old, new, "the reply's way back" if reply else ""))
    return ACCEPT


def _translate_error(kernel: Kernel, skb: Skb, conn: Conn, *, source: bool) -> Verdict:
    """nf_nat_icmp_reply_translation: the quoted packet is rewritten the other way round, then the error itself."""
    reply = skb.ctinfo == CT_RELATED_REPLY
    inner = skb.inner
    if inner is None:
        return ACCEPT
    if skb.icmp_type == (5 if skb.family == 4 else 137) and (not (conn.src_done and conn.dst_done) or conn.snat or conn.dnat):
        return Drop("an ICMP redirect of a connection with NAT")
    if not (conn.snat if source != reply else conn.dnat):
        return ACCEPT
    other = conn.original if reply else conn.reply
    skb.inner = _rewrite_quoted(inner, other, source=not source)
    target = inverse(other)
    old = (skb.saddr if source else skb.daddr, 0)
    if source:
        skb.saddr = target.src
    else:
        skb.daddr = target.dst
    new = (skb.saddr if source else skb.daddr, 0)
    kernel.events.append(NatEvent("SNAT" if source else "DNAT", skb.family, old, new, "ICMP error and the packet quoted in it"))
    return ACCEPT


def _rewrite_quoted(inner: Packet, target: Tuple, *, source: bool) -> Packet:
    ports: dict[str, Any] = {}  # Any: keyword fields of Packet
    if inner.is_icmp:
        ports["icmp_id"] = target.sport
    elif inner.protocol in _PORTS:
        ports["sport" if source else "dport"] = target.sport if source else target.dport
    if source:
        return inner._replace(saddr=target.src, **ports)
    return inner._replace(daddr=target.dst, **ports)

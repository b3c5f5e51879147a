"""What a packet is in each dimension of an ip set: an address, a port with its protocol, an interface, a MAC, a mark.

None means that the packet has no such thing, so that it is in no set that asks for it (-EINVAL in the kernel).
Source: net/netfilter/ipset/ip_set_getport.c and the kadt functions of ip_set_hash_*.c and ip_set_bitmap_*.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from dataplane.engine.hooks import HookState, Unknown
from dataplane.engine.skb import Skb
from dataplane.inet import BITS, FULL_MASK, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, mask_of, parse_address
from dataplane.rules.ipset import IPSet
from dataplane.rules.network import Link

Value = int | str | tuple[int, int]
Reader = Callable[[Skb, HookState], Value | None]

_WITH_PORTS: Final = frozenset((TCP, UDP, SCTP, UDPLITE))
_IN_FIRST_FRAGMENT: Final = _WITH_PORTS | {ICMP}
#: Types whose first dimension may not be 0.0.0.0 or ::, after the mask.
_NO_ZERO: Final = frozenset(("hash:ip", "hash:ip,port"))


def readers(one: IPSet, directions: Sequence[str], links: Mapping[str, Link]) -> tuple[Reader, ...]:
    """One reader for each dimension of a set, with "src" or "dst" for each."""
    sources = [direction == "src" for direction in directions]
    return tuple(_reader(one, number, dimension, sources[number], links) for number, dimension in enumerate(one.dimensions))


def _reader(one: IPSet, number: int, dimension: str, source: bool, links: Mapping[str, Link]) -> Reader:
    if dimension in ("ip", "net"):
        return _address(one, number, source)
    if dimension == "port":
        return _plain_port(source) if one.type == "bitmap:port" else _port(source)
    if dimension == "iface":
        return lambda skb, state: (state.indev if source else state.outdev) or None
    if dimension == "mark":
        mask = int(dict(one.options).get("markmask") or "0xffffffff", 0)
        return lambda skb, state: skb.mark & mask
    return _mac(one, source, links)


# ---------------------------------------------------------------------- addresses


def set_mask(one: IPSet) -> int:
    """The mask that a set lays over its addresses (--netmask, --bitmask); the full one where none was given."""
    options = dict(one.options)
    netmask, bitmask = options.get("netmask"), options.get("bitmask")
    if bitmask is not None:
        return parse_address(bitmask, one.family)[1]
    return mask_of(one.family, int(netmask)) if netmask is not None else FULL_MASK[one.family]


def _address(one: IPSet, number: int, source: bool) -> Reader:
    masked = number == 0 or one.type == "hash:net,net"
    mask = set_mask(one) if masked else FULL_MASK[one.family]
    if one.type.startswith("bitmap:"):
        return _in_range(one, mask, source)
    if number == 0 and one.type in _NO_ZERO:
        return lambda skb, state: (skb.saddr if source else skb.daddr) & mask or None
    if source:
        return lambda skb, state: skb.saddr & mask
    return lambda skb, state: skb.daddr & mask


def _in_range(one: IPSet, mask: int, source: bool) -> Reader:
    first, last = _bounds(one)

    def read(skb: Skb, state: HookState) -> int | None:  # noqa: ARG001
        address = skb.saddr if source else skb.daddr
        return address & mask if first <= address <= last else None

    return read


def _bounds(one: IPSet) -> tuple[int, int]:
    """First and last address of a bitmap's range."""
    low, dash, high = (dict(one.options).get("range") or "").partition("-")
    if dash:
        return parse_address(low, 4)[1], parse_address(high, 4)[1]
    host, _, length = low.partition("/")
    first = parse_address(host, 4)[1]
    return first, first | (1 << BITS[4] - int(length)) - 1


# ---------------------------------------------------------------------- ports


def _port(source: bool) -> Reader:
    """Protocol and port; type and code of ICMP; port 0 of a protocol without ports. Later fragments have lost theirs."""

    def read(skb: Skb, state: HookState) -> tuple[int, int] | None:  # noqa: ARG001
        protocol = skb.protocol
        if skb.fragment_offset:
            return None if skb.family == 6 or protocol in _IN_FIRST_FRAGMENT else (protocol, 0)
        if protocol in _WITH_PORTS:
            return protocol, skb.sport if source else skb.dport
        if protocol in (ICMP, ICMPV6):
            return protocol, skb.icmp_type << 8 | skb.icmp_code
        return protocol, 0

    return read


def _plain_port(source: bool) -> Reader:
    def read(skb: Skb, state: HookState) -> int | None:  # noqa: ARG001
        if skb.fragment_offset or skb.protocol not in (TCP, UDP):
            return None
        return skb.sport if source else skb.dport

    return read


# ---------------------------------------------------------------------- MACs


def _mac(one: IPSet, source: bool, links: Mapping[str, Link]) -> Reader:
    """The frame's addresses. A packet of the node's own has none, one over the loopback device has zeros, which are none."""
    what = "source" if source else "destination"

    def read(skb: Skb, state: HookState) -> int | None:  # noqa: ARG001
        link = links.get(skb.indev)
        if skb.local or link is None or link.link_type != "ether":
            return None
        mac = skb.mac_source if source else _own_mac(skb, link)
        if mac is None:
            raise Unknown(f"the packet's {what} MAC address is not known, and the set {one.name} asks for it")
        return mac or None

    return read


def _own_mac(skb: Skb, link: Link) -> int | None:
    if skb.pkttype == "broadcast":
        return 0xFFFFFFFFFFFF
    if skb.pkttype == "multicast":
        return 0x01005E000000 | skb.daddr & 0x7FFFFF if skb.family == 4 else 0x333300000000 | skb.daddr & 0xFFFFFFFF
    return int(link.mac.replace(":", ""), 16) if link.mac is not None else None

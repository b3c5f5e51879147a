"""Internet addresses, prefixes and protocol numbers: plain integers inside, text at the edges.

An address is an int beside its family (4 or 6). Knows how the C library prints addresses (RFC 5952 for IPv6), which is what
iptables, ip and kube-proxy print. Knows nothing of interfaces or routes.
"""

from __future__ import annotations

import re
import socket
from typing import Final, Literal, NamedTuple

Family = Literal[4, 6]

BITS: Final[dict[int, int]] = {4: 32, 6: 128}
FULL_MASK: Final[dict[int, int]] = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
_AF: Final[dict[int, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132
UDPLITE: Final = 136
DCCP: Final = 33
ESP: Final = 50
AH: Final = 51
GRE: Final = 47

#: Names of protocols (IANA, as /etc/protocols of Debian spells them), by number.
PROTOCOL_NAMES: Final[dict[int, str]] = {
    1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12: "pup", 17: "udp", 20: "hmp",
    22: "xns-idp", 27: "rdp", 29: "iso-tp4", 33: "dccp", 36: "xtp", 37: "ddp", 38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route",
    44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt",
    60: "ipv6-opts", 73: "rspf", 81: "vmtp", 88: "eigrp", 89: "ospf", 93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap",
    103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc", 135: "mobility-header",
    136: "udplite", 137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp", 142: "rohc", 143: "ethernet",
}  # fmt: skip
PROTOCOL_NUMBERS: Final[dict[str, int]] = {name: number for number, name in PROTOCOL_NAMES.items()} | {"icmpv6": 58}


class Prefix(NamedTuple):
    """An address and a mask of one family, both ints; the mask need not be contiguous (iptables allows that)."""

    family: int
    address: int
    mask: int

    @property
    def length(self) -> int | None:
        """Prefix length in bits, or None where the mask has holes."""
        return prefix_length(self.family, self.mask)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and (address & self.mask) == self.address

    def __str__(self) -> str:
        length = self.length
        text = format_address(self.family, self.address)
        return f"{text}/{length if length is not None else format_address(self.family, self.mask)}"


def parse_address(text: str, family: int | None = None) -> tuple[Family, int]:
    """Family and value of an IPv4 or IPv6 address in its strict textual form.

    Raises ValueError for anything else, and for an address of another family than the one asked for.
    """
    guess: Family = 6 if ":" in text else 4
    if family is not None and family != guess:
        raise ValueError(f"{text!r} is not an IPv{family} address")
    try:
        return guess, int.from_bytes(socket.inet_pton(_AF[guess], text), "big")
    except (OSError, UnicodeEncodeError) as error:
        raise ValueError(f"{text!r} is not an IP address") from error


def format_address(family: int, address: int) -> str:
    """Canonical text of an address (IPv6 as RFC 5952 and inet_ntop have it)."""
    if family == 4:
        return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"
    return socket.inet_ntop(socket.AF_INET6, address.to_bytes(16, "big"))


def mask_of(family: int, length: int) -> int:
    """The contiguous mask of a prefix length."""
    bits = BITS[family]
    return ((1 << length) - 1) << (bits - length)


def prefix_length(family: int, mask: int) -> int | None:
    """The length of a contiguous mask, or None for a mask with holes."""
    length = mask.bit_count()
    return length if mask_of(family, length) == mask else None


def parse_prefix(text: str, family: int | None = None) -> Prefix:
    """A prefix ``ADDRESS[/LENGTH|/MASK]``; host bits are cut off, as the kernel's users do. Raises ValueError."""
    host, slash, length_text = text.partition("/")
    found, address = parse_address(host, family)
    if not slash:
        mask = FULL_MASK[found]
    elif re.fullmatch(r"[0-9]{1,3}", length_text):
        length = int(length_text)
        if length > BITS[found]:
            raise ValueError(f"prefix length {length} is more than {BITS[found]}")
        mask = mask_of(found, length)
    else:
        mask = parse_address(length_text, found)[1]
    return Prefix(found, address & mask, mask)


def format_endpoint(family: int, address: int, port: int) -> str:
    """``IP:port``, IPv6 in brackets."""
    text = format_address(family, address)
    return f"[{text}]:{port}" if family == 6 else f"{text}:{port}"

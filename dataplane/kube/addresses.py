"""Is this text an address or a CIDR to the API server? Strictly for new objects, as of old for those that it has stored.

Before Kubernetes 1.36 leading zeros (read as decimal) and IPv4-mapped IPv6 were accepted, and objects stored then keep them.
Nothing is rewritten here. Source: k8s.io/apimachinery/pkg/util/validation/ip.go, k8s.io/utils/net ParseIPSloppy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from dataplane.inet import BITS, FULL_MASK, format_address, mask_of, parse_address
from dataplane.kube.fielderrors import Violation, invalid

NOT_AN_IP: Final = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
NOT_A_CIDR: Final = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"

_DOTTED: Final = re.compile(r"(.*:)?(0*[0-9]{1,3})\.(0*[0-9]{1,3})\.(0*[0-9]{1,3})\.(0*[0-9]{1,3})")
_LENGTH: Final = re.compile(r"0*([0-9]{1,3})")
_LONGEST: Final = 256


class Address(NamedTuple):
    """An address, and how its text strays from the strict form."""

    family: int
    value: int
    leading_zeros: bool = False
    mapped: bool = False


class Cidr(NamedTuple):
    """An address with a prefix length, unmasked, and how its text strays from the strict form."""

    address: Address
    length: int
    leading_zeros: bool = False

    @property
    def network(self) -> int:
        """The address with the host bits cut off."""
        return self.address.value & mask_of(self.address.family, self.length)


@lru_cache(maxsize=65536)
def sloppy_address(text: str) -> Address | None:
    """An address as Kubernetes has always read it, or None."""
    leading_zeros = False
    try:
        family, value = parse_address(text)
    except ValueError:
        dotted = _DOTTED.fullmatch(text) if len(text) <= _LONGEST else None
        if dotted is None:
            return None
        leading_zeros = True
        try:
            family, value = parse_address((dotted[1] or "") + ".".join(str(int(octet)) for octet in dotted.groups()[1:]))
        except ValueError:
            return None
    if family == 6 and value >> 32 == 0xFFFF:
        return Address(4, value & FULL_MASK[4], leading_zeros, mapped=True)
    return Address(family, value, leading_zeros)


def sloppy_cidr(text: str) -> Cidr | None:
    """A CIDR as Kubernetes has always read it, or None."""
    host, slash, length_text = text.partition("/")
    address = sloppy_address(host)
    match = _LENGTH.fullmatch(length_text)
    if address is None or not slash or match is None:
        return None
    length = int(match[1])
    if address.mapped and length > BITS[4]:
        length -= BITS[6] - BITS[4]
    if not 0 <= length <= BITS[address.family]:
        return None
    return Cidr(address, length, address.leading_zeros or len(length_text) != len(str(int(match[1]))))


def family_name(family: int) -> str:
    """``IPv4`` or ``IPv6``, as the API spells it."""
    return "IPv6" if family == 6 else "IPv4"


def check_ip(path: str, text: str, *, stored: bool) -> Iterator[Violation]:
    """An address in a field that is older than strict checking; a stored one may stray from the strict form."""
    address = sloppy_address(text)
    if address is None:
        yield invalid(path, text, NOT_AN_IP)
    elif not stored:
        yield from _strictness(path, text, address)


def check_canonical_ip(path: str, text: str, *, stored: bool) -> Iterator[Violation]:
    """An address in a field that takes only the canonical form (RFC 5952)."""
    found = list(check_ip(path, text, stored=stored))
    yield from found
    address = sloppy_address(text)
    if address is not None and not stored and not found:
        canonical = format_address(address.family, address.value)
        if canonical != text:
            yield invalid(path, text, f'must be in canonical form ("{canonical}")')


def check_cidr(path: str, text: str, *, stored: bool) -> Iterator[Violation]:
    """A CIDR in a field that is older than strict checking."""
    cidr = sloppy_cidr(text)
    if cidr is None:
        yield invalid(path, text, NOT_A_CIDR)
    elif stored:
        return
    elif cidr.leading_zeros:
        yield invalid(path, text, "must not have leading 0s in IP or prefix length")
    elif cidr.address.mapped:
        yield invalid(path, text, "must not have an IPv4-mapped IPv6 address")
    elif cidr.network != cidr.address.value:
        yield invalid(path, text, "must not have bits set beyond the prefix length")


def is_ordinary(text: str, family: int) -> bool:
    """Whether an endpoint's address is as it should be: none of the checks below would complain. Quick."""
    address = sloppy_address(text)
    if address is None or address.family != family or address.leading_zeros or address.mapped:
        return False
    value = address.value
    if family == 4:
        return value != 0 and value >> 24 != 127 and value >> 16 != 0xA9FE and value >> 8 != 0xE00000
    return value > 1 and value >> 118 != 0x3FA and value >> 120 != 0xFF and text == format_address(6, value)


def check_not_special(path: str, text: str) -> Iterator[Violation]:
    """An address that a Service may send traffic to: none that means "here", "nowhere" or "this link"."""
    address = sloppy_address(text)
    if address is None:
        return
    top = address.value >> (BITS[address.family] - 16)
    if address.value == 0:
        yield invalid(path, text, f"may not be unspecified ({text})")
    if address.value >> 24 == 127 if address.family == 4 else address.value == 1:
        yield invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if top == 0xA9FE if address.family == 4 else top & 0xFFC0 == 0xFE80:
        yield invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if address.value >> 8 == 0xE00000 if address.family == 4 else top & 0xFF0F == 0xFF02:
        yield invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def _strictness(path: str, text: str, address: Address) -> Iterator[Violation]:
    if address.leading_zeros:
        yield invalid(path, text, "must not have leading 0s")
    elif address.mapped:
        yield invalid(path, text, "must not be an IPv4-mapped IPv6 address")

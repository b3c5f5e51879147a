"""What -m length, ttl, hl, tos, dscp, iprange and the matches on IPv6 extension headers ask of a packet."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.hooks import Unknown
from tests.engine.rig import TCP, TCP6, answer, skb

YES, NO = True, False

ROWS: list[tuple[str, str, dict[str, Any], bool]] = [
    ("-m length --length 40", TCP, {"length": 40}, YES),
    ("-m length --length 40:60", TCP, {"length": 61}, NO),
    ("-m length ! --length 40:60", TCP, {"length": 61}, YES),
    ("-m length --length 60", TCP6, {"length": 60}, YES),
    ("-m ttl --ttl-eq 64", TCP, {}, YES),
    ("-m ttl ! --ttl-eq 64", TCP, {}, NO),
    ("-m ttl --ttl-lt 64", TCP, {}, NO),
    ("-m ttl --ttl-lt 65", TCP, {}, YES),
    ("-m ttl --ttl-gt 64", TCP, {}, NO),
    ("-m ttl --ttl-gt 63", TCP, {}, YES),
    ("-m hl --hl-eq 64", TCP6, {}, YES),
    ("-m hl --hl-lt 64", TCP6, {}, NO),
    ("-m tos --tos 0x10/0x3f", TCP, {"tos": 0x50}, YES),
    ("-m tos --tos 0x10", TCP, {"tos": 0x50}, NO),
    ("-m tos ! --tos 0x10", TCP, {"tos": 0x50}, YES),
    ("-m dscp --dscp 46", TCP, {"tos": 0xB9}, YES),
    ("-m dscp --dscp-class EF", TCP6, {"tos": 0xB8}, YES),
    ("-m dscp ! --dscp 46", TCP, {"tos": 0xB9}, NO),
    ("-m iprange --src-range 192.0.2.1-192.0.2.9", TCP, {}, YES),
    ("-m iprange --src-range 192.0.2.2-192.0.2.9", TCP, {}, NO),
    ("-m iprange ! --src-range 192.0.2.2-192.0.2.9", TCP, {}, YES),
    ("-m iprange --src-range 192.0.2.1-192.0.2.9 --dst-range 198.51.100.3-198.51.100.4", TCP, {}, NO),
    ("-m iprange --dst-range 2001:db8::1-2001:db8::ff", TCP6, {}, YES),
    # extension headers
    ("-m ipv6header --header hop,prot", TCP6, {"ip_options": (0,)}, YES),
    ("-m ipv6header --header hop", TCP6, {"ip_options": (0,)}, NO),
    ("-m ipv6header --header hop --soft", TCP6, {"ip_options": (0, 60)}, YES),
    ("-m ipv6header --header hop,dst --soft", TCP6, {"ip_options": (0,)}, NO),
    ("-m ipv6header ! --header hop --soft", TCP6, {"ip_options": (60,)}, YES),
    ("-m ipv6header ! --header hop,dst --soft", TCP6, {"ip_options": (60,)}, NO),
    ("-m ipv6header ! --header hop", TCP6, {"ip_options": (0,)}, YES),
    ("-m ipv6header --header frag --soft", TCP6, {"fragment_offset": 8}, YES),
    ("-m ipv6header --header esp", TCP6, {"protocol": 50}, YES),
    ("-m ipv6header --header none", TCP6, {"protocol": 59}, YES),
    ("-m hbh", TCP6, {"ip_options": (0,)}, YES),
    ("-m hbh", TCP6, {}, NO),
    ("-m hbh ! --hbh-len 8", TCP6, {}, NO),
    ("-m dst", TCP6, {"ip_options": (60,)}, YES),
    ("-m rt", TCP6, {"ip_options": (43,)}, YES),
    ("-m rt --rt-type 0", TCP6, {}, NO),
    ("-m frag", TCP6, {"more_fragments": True}, YES),
    ("-m frag", TCP6, {}, NO),
    ("-m frag --fragid 5:9", TCP6, {"more_fragments": True, "ip_id": 5}, YES),
    ("-m frag ! --fragid 5:9", TCP6, {"more_fragments": True, "ip_id": 5}, NO),
    ("-m frag --fragfirst --fragmore", TCP6, {"more_fragments": True}, YES),
    ("-m frag --fragfirst", TCP6, {"more_fragments": True, "fragment_offset": 8}, NO),
    ("-m frag --fraglast", TCP6, {"fragment_offset": 8}, YES),
    ("-m frag --fragmore", TCP6, {"fragment_offset": 8}, NO),
    ("-m eui64", TCP6, {"saddr": 0x20010DB8 << 96 | 0x021122FFFE334455, "mac_source": 0x001122334455}, YES),
    ("-m eui64", TCP6, {"saddr": 0x20010DB8 << 96 | 0x001122FFFE334455, "mac_source": 0x001122334455}, NO),
    ("-m eui64", TCP6, {"local": True}, NO),
]  # fmt: skip


@pytest.mark.parametrize(("text", "packet", "fields", "expected"), ROWS)
def test_answers(text: str, packet: str, fields: dict[str, Any], expected: bool) -> None:
    assert answer(text, skb(packet, **fields)) == expected


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("-m hbh --hbh-len 8", {"ip_options": (0,)}),
        ("-m rt --rt-type 0", {"ip_options": (43,)}),
        ("-m frag --fragres", {"more_fragments": True}),
        ("-m eui64", {}),
    ],
)
def test_the_inside_of_an_extension_header_is_unknown(text: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Unknown):
        answer(text, skb(TCP6, **fields))

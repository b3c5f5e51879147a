"""What -m tcp, udp, sctp, dccp, icmp, multiport, esp, ah, tcpmss and ecn ask of a packet."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.engine.hooks import Unknown
from dataplane.packet import ACK, CWR, ECE, FIN, RST, SYN
from tests.engine.rig import ICMP, ICMP6, SCTP, TCP, TCP6, UDP, answer, options, skb

YES, NO, DROP = True, False, "hotdrop"

ROWS: list[tuple[str, str, dict[str, Any], bool | str]] = [
    # ports
    ("-p tcp -m tcp --dport 80", TCP, {}, YES),
    ("-p tcp -m tcp --dport 80", TCP6, {}, YES),
    ("-p tcp -m tcp --dport 81", TCP, {}, NO),
    ("-p tcp -m tcp --dport 79:81", TCP, {}, YES),
    ("-p tcp -m tcp ! --dport 80", TCP, {}, NO),
    ("-p tcp -m tcp ! --dport 79:81", TCP, {"dport": 82}, YES),
    ("-p tcp -m tcp --sport 40000 --dport 80", TCP, {}, YES),
    ("-p tcp -m tcp --sport 40001 --dport 80", TCP, {}, NO),
    ("-p udp -m udp --dport 53", UDP, {}, YES),
    ("-p udp -m udp --sport 53", UDP, {}, NO),
    # a later fragment never matches, one that begins inside TCP's header is dropped
    ("-p tcp -m tcp --dport 80", TCP, {"fragment_offset": 1480}, NO),
    ("-p tcp -m tcp ! --dport 81", TCP, {"fragment_offset": 1480}, NO),
    ("-p tcp -m tcp --dport 80", TCP, {"fragment_offset": 8}, DROP),
    ("-p tcp -m tcp --dport 80", TCP6, {"fragment_offset": 8}, NO),
    ("-p udp -m udp ! --dport 54", UDP, {"fragment_offset": 8}, NO),
    # too short for a header
    ("-p tcp -m tcp --dport 80", TCP, {"length": 39}, DROP),
    ("-p tcp -m tcp --dport 80", TCP6, {"length": 59}, DROP),
    ("-p udp -m udp --dport 53", UDP, {"length": 28}, YES),
    ("-p udp -m udp --dport 53", UDP, {"length": 27}, DROP),
    # TCP flags and options
    ("-p tcp -m tcp --syn", TCP, {"tcp_flags": SYN}, YES),
    ("-p tcp -m tcp --syn", TCP, {"tcp_flags": SYN | ECE | CWR}, YES),
    ("-p tcp -m tcp --syn", TCP, {"tcp_flags": SYN | ACK}, NO),
    ("-p tcp -m tcp ! --syn", TCP, {"tcp_flags": SYN | ACK}, YES),
    ("-p tcp -m tcp --tcp-flags ALL NONE", TCP, {"tcp_flags": ECE}, YES),
    ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK FIN,ACK", TCP, {"tcp_flags": FIN | ACK}, YES),
    ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK FIN,ACK", TCP, {"tcp_flags": FIN | ACK | RST}, NO),
    ("-p tcp -m tcp --tcp-option 2", TCP, {"tcp_options": options(mss=1460)}, YES),
    ("-p tcp -m tcp --tcp-option 3", TCP, {"tcp_options": options(mss=1460)}, NO),
    ("-p tcp -m tcp ! --tcp-option 3", TCP, {"tcp_options": options(mss=1460)}, YES),
    ("-p tcp -m tcp --tcp-option 8", TCP, {"tcp_options": options(timestamp=True)}, YES),
    ("-p tcp -m tcp --tcp-option 19", TCP, {"tcp_options": options(other=(19,))}, YES),
    ("-p tcp -m tcp ! --tcp-option 2", TCP, {}, YES),
    ("-p tcp -m tcpmss --mss 1400:1500", TCP, {"tcp_options": options(mss=1460)}, YES),
    ("-p tcp -m tcpmss --mss 1400:1450", TCP, {"tcp_options": options(mss=1460)}, NO),
    ("-p tcp -m tcpmss ! --mss 1400:1450", TCP, {"tcp_options": options(mss=1460)}, YES),
    ("-p tcp -m tcpmss --mss 1460", TCP, {}, NO),
    ("-p tcp -m tcpmss ! --mss 1460", TCP, {}, YES),
    ("-p tcp -m ecn --ecn-tcp-ece ! --ecn-tcp-cwr", TCP, {"tcp_flags": SYN | ECE}, YES),
    ("-p tcp -m ecn --ecn-tcp-ece ! --ecn-tcp-cwr", TCP, {"tcp_flags": SYN | ECE | CWR}, NO),
    ("-m ecn --ecn-ip-ect 2", TCP, {"tos": 0xBA}, YES),
    ("-m ecn ! --ecn-ip-ect 2", TCP, {"tos": 0xBA}, NO),
    # several ports
    ("-p tcp -m multiport --dports 22,80,443", TCP, {}, YES),
    ("-p tcp -m multiport --dports 22,79:90", TCP, {}, YES),
    ("-p tcp -m multiport --sports 22,80,443", TCP, {}, NO),
    ("-p tcp -m multiport --ports 22,40000", TCP, {}, YES),
    ("-p tcp -m multiport ! --ports 22,40000", TCP, {}, NO),
    ("-p tcp -m multiport ! --dports 22", TCP, {}, YES),
    ("-p tcp -m multiport ! --dports 22", TCP, {"fragment_offset": 64}, NO),
    ("-p tcp -m multiport --dports 80", TCP, {"length": 23}, DROP),
    # SCTP
    ("-p sctp -m sctp --dport 9", SCTP, {"sctp_chunks": (1,)}, YES),
    ("-p sctp -m sctp --chunk-types any INIT,DATA", SCTP, {"sctp_chunks": (10, 0)}, YES),
    ("-p sctp -m sctp --chunk-types any INIT,DATA", SCTP, {"sctp_chunks": (10,)}, NO),
    ("-p sctp -m sctp ! --chunk-types any INIT,DATA", SCTP, {"sctp_chunks": (10,)}, YES),
    ("-p sctp -m sctp --chunk-types all COOKIE_ECHO,DATA", SCTP, {"sctp_chunks": (10, 0, 3)}, YES),
    ("-p sctp -m sctp --chunk-types all COOKIE_ECHO,DATA", SCTP, {"sctp_chunks": (10,)}, NO),
    ("-p sctp -m sctp --chunk-types only COOKIE_ECHO,DATA", SCTP, {"sctp_chunks": (10, 0)}, YES),
    ("-p sctp -m sctp --chunk-types only COOKIE_ECHO,DATA", SCTP, {"sctp_chunks": (10, 3)}, NO),
    ("-p sctp -m sctp --chunk-types any ASCONF", SCTP, {"sctp_chunks": (193,)}, YES),
    ("-p sctp -m sctp --chunk-types any NONE", SCTP, {"sctp_chunks": (0,)}, NO),
    ("-p sctp -m sctp --chunk-types any ALL", SCTP, {"sctp_chunks": (99,)}, YES),
    ("-p sctp -m sctp --chunk-types any INIT", SCTP, {}, DROP),
    # ICMP
    ("-p icmp -m icmp --icmp-type 8", ICMP, {}, YES),
    ("-p icmp -m icmp --icmp-type 3", ICMP, {"icmp_type": 3, "icmp_code": 4}, YES),
    ("-p icmp -m icmp --icmp-type 3/4", ICMP, {"icmp_type": 3, "icmp_code": 4}, YES),
    ("-p icmp -m icmp --icmp-type 3/3", ICMP, {"icmp_type": 3, "icmp_code": 4}, NO),
    ("-p icmp -m icmp ! --icmp-type 3/3", ICMP, {"icmp_type": 3, "icmp_code": 4}, YES),
    ("-p icmp -m icmp --icmp-type any", ICMP, {"icmp_type": 13}, YES),
    ("-p icmp -m icmp ! --icmp-type 3", ICMP, {"fragment_offset": 8}, NO),
    ("-p ipv6-icmp -m icmp6 --icmpv6-type 128", ICMP6, {}, YES),
    ("-p ipv6-icmp -m icmp6 --icmpv6-type 129", ICMP6, {}, NO),
    ("-p ipv6-icmp -m icmp6 --icmpv6-type 255", ICMP6, {}, NO),
    # IPsec
    ("-p esp -m esp --espspi 5:9", TCP, {"protocol": 50, "spi": 7}, YES),
    ("-p esp -m esp ! --espspi 5:9", TCP, {"protocol": 50, "spi": 7}, NO),
    ("-p esp -m esp --espspi 8", TCP, {"protocol": 50, "spi": 7}, NO),
    ("-p ah -m ah --ahspi 7", TCP, {"protocol": 51, "spi": 7}, YES),
    ("-m ah --ahspi 7", TCP6, {"ip_options": (51,), "spi": 7}, YES),
    ("-m ah", TCP6, {}, NO),
    # DCCP
    ("-p dccp -m dccp --dport 80", TCP, {"protocol": 33}, YES),
]  # fmt: skip


@pytest.mark.parametrize(("text", "packet", "fields", "expected"), ROWS)
def test_answers(text: str, packet: str, fields: dict[str, Any], expected: bool | str) -> None:
    assert answer(text, skb(packet, **fields)) == expected


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("-p dccp -m dccp --dccp-types REQUEST", {"protocol": 33}),
        ("-p sctp -m sctp --chunk-types any DATA:Be", {"protocol": 132, "sctp_chunks": (0,)}),
        ("-p tcp -m tcpmss --mss 9", {"fragment_offset": 64}),
        ("-p tcp -m ecn --ecn-tcp-ece", {"fragment_offset": 64}),
    ],
)
def test_what_a_packet_does_not_tell_is_unknown(text: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Unknown):
        answer(text, skb(TCP, **fields))


def test_ports_are_looked_at_before_what_is_unknown() -> None:
    text = "-p sctp -m sctp --dport 7 --chunk-types any DATA:Be"
    assert answer(text, skb(SCTP, sctp_chunks=(0,))) is False

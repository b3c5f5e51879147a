"""NAT: once a connection, both ways, quoted packets too."""

from fractions import Fraction

from dataplane.inet import format_address as text_of
from dataplane.packet import ACK, SYN, Packet
from tests.engine.lab import address, node, packet

SERVICE = """*nat
-N SVC
-A PREROUTING -d 10.96.0.20/32 -p tcp --dport 80 -j SVC
-A OUTPUT -d 10.96.0.20/32 -p tcp --dport 80 -j SVC
-A POSTROUTING -s 10.244.1.5/32 -d 10.244.1.5/32 -j MASQUERADE
-A POSTROUTING -s 192.168.0.0/24 -d 10.244.0.0/16 -j MASQUERADE
-A SVC -p tcp -m statistic --mode random --probability 0.25 -j DNAT --to-destination 10.244.1.5:8080
-A SVC -p tcp -j DNAT --to-destination 10.244.1.6:8080
COMMIT
"""


def ends(packet: Packet) -> tuple[str, int, str, int]:
    return text_of(4, packet.saddr), packet.sport, text_of(4, packet.daddr), packet.dport


def answer(to: Packet, **fields: object) -> Packet:
    return Packet(4, to.daddr, to.saddr, to.protocol, to.dport, to.sport, tcp_flags=SYN | ACK, seq=5000, ack=1001, length=40, **fields)


def test_every_outcome_has_its_exact_probability():
    lab = node(SERVICE)
    found = {ends(trace.packet)[2]: chance for chance, trace in lab.outcomes(packet("tcp 203.0.113.7:40000 > 10.96.0.20:80"), "eth0")}
    assert found == {"10.244.1.5": Fraction(1, 4), "10.244.1.6": Fraction(3, 4)}


def test_outcomes_leave_no_connection_behind():
    lab = node(SERVICE)
    list(lab.outcomes(packet("tcp 203.0.113.7:40000 > 10.96.0.20:80"), "eth0"))
    assert not list(lab.kernel.conntrack.entries())


def test_reply_undoes_nat():
    lab = node(SERVICE)
    there = lab.receive(packet("tcp 192.168.0.50:40000 > 10.96.0.20:80"), "eth0")
    source, port, target, _ = ends(there.packet)
    assert (source, port) == ("10.244.1.1", 40000)
    back = lab.receive(answer(there.packet), "cni0")
    assert (back.verdict, back.oif, ends(back.packet)) == ("forward", "eth0", ("10.96.0.20", 80, "192.168.0.50", 40000))


def test_two_clients_never_share_a_source_port():
    lab = node(SERVICE)
    first = lab.receive(packet("tcp 192.168.0.50:40000 > 10.96.0.20:80"), "eth0")
    ports = {first.packet.daddr: [first.packet.sport]}
    for host in range(51, 60):
        trace = lab.receive(packet(f"tcp 192.168.0.{host}:40000 > 10.96.0.20:80"), "eth0")
        ports.setdefault(trace.packet.daddr, []).append(trace.packet.sport)
        assert trace.random_sport == (trace.packet.sport != 40000)
    for used in ports.values():
        assert len(used) == len(set(used))


def test_an_icmp_error_is_translated_with_the_packet_that_it_quotes():
    lab = node(SERVICE)
    there = lab.receive(packet("tcp 203.0.113.7:40000 > 10.96.0.20:80"), "eth0").packet
    error = Packet(4, address("10.244.1.7"), there.saddr, 1, icmp_type=3, icmp_code=4, inner=there, length=68)
    trace = lab.receive(error, "cni0")
    assert trace.verdict == "forward"
    assert text_of(4, trace.packet.saddr) == "10.96.0.20"
    assert ends(trace.packet.inner)[2:] == ("10.96.0.20", 80)


def test_hairpin_is_masqueraded_behind_the_node():
    lab = node(SERVICE)
    traces = [trace for _, trace in lab.outcomes(packet("tcp 10.244.1.5:40000 > 10.96.0.20:80"), "cni0")]
    assert {ends(trace.packet)[0] for trace in traces} == {"10.244.1.1", "10.244.1.5"}


def test_a_dropped_first_packet_leaves_no_connection():
    lab = node(SERVICE + "*filter\n-A FORWARD -j DROP\nCOMMIT\n")
    assert lab.receive(packet("tcp 203.0.113.7:40000 > 10.96.0.20:80"), "eth0").verdict == "drop"
    assert not list(lab.kernel.conntrack.entries())


def test_reject_answers_from_the_address_that_was_asked():
    lab = node(SERVICE + "*filter\n-A FORWARD -j REJECT\nCOMMIT\n")
    trace = lab.receive(packet("tcp 203.0.113.7:40000 > 10.96.0.20:80"), "eth0")
    assert trace.verdict == "reject"
    assert text_of(4, trace.reply.saddr) == "10.96.0.20"
    assert ends(trace.reply.inner)[2:] == ("10.96.0.20", 80)

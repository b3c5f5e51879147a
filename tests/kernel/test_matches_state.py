"""Connections, what rules remember, ip sets and targets: the kernel's rule counters and the emulator's walk.

What depends on time is asked at moments that leave room for a slow machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

pytest.importorskip("scapy.all")

import scapy.all as scapy

from tests.engine import test_ipset, test_matches_connection
from tests.kernel.counting import agree, readable, sctp, standing, table, tcp, udp, v4, v6
from dataplane.errors import LabError

pytestmark = pytest.mark.usefixtures("kernel")

NAT: Final = """*nat
-A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.9:8080
-A PREROUTING -d 203.0.113.1/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.1.9:5353
COMMIT
"""


def conversation() -> Iterator[tuple[str, Any]]:
    """A connection with DNAT, its replies, an answer about it, and packets that belong to nothing."""
    out = {"src": "192.0.2.1", "dst": "203.0.113.1"}
    back = {"src": "10.244.1.9", "dst": "192.0.2.1"}
    yield "eth0", v4(tcp("S", seq=1000), **out)
    yield "cni0", v4(tcp("SA", sport=8080, dport=40000, seq=5000, ack=1001), **back)
    yield "eth0", v4(tcp("A", seq=1001, ack=5001), **out)
    yield "eth0", v4(tcp("PA", seq=1001, ack=5001) / (b"x" * 100), **out)
    yield "cni0", v4(tcp("A", sport=8080, dport=40000, seq=5001, ack=1101), **back)
    quoted = v4(tcp("S", sport=40000, dport=8080, seq=1001), src="192.0.2.1", dst="10.244.1.9")
    yield "cni0", v4(scapy.ICMP(type=3, code=1) / quoted, **back)
    yield "eth0", v4(udp(53), **out)
    yield "cni0", v4(scapy.UDP(sport=5353, dport=40000), **back)
    yield "eth0", v4(udp(53), **out)
    yield "eth0", v4(tcp("R", seq=7), src="192.0.2.7")
    yield "eth0", v4(scapy.ICMP(type=0))
    yield "eth0", v4(scapy.ICMP())


def test_connections() -> None:
    rows = (*test_matches_connection.STATES, *test_matches_connection.TUPLES)
    texts = [f"-m conntrack {row[0]}" for row in rows]
    texts += [f"-m state {row[0].replace('ct', '')}" for row in test_matches_connection.STATES if "NAT" not in row[0]]
    statuses = ("NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "NONE,SEEN_REPLY")
    texts += [f"-m conntrack {bang}--ctstatus {status}" for bang in ("", "! ") for status in statuses]
    texts += ["-m conntrack --ctexpire 0", "-m conntrack --ctexpire 100:500000", "-m conntrack ! --ctexpire 20:40"]
    texts += ["-m connmark --mark 0", "-m connmark ! --mark 0", "-m conntrack ! --ctproto udp"]
    texts += [f"-m helper {bang}--helper ftp" for bang in ("", "! ")]
    numbers = ("0:1", "2:5", "1:1", "100:200", "40:60")
    texts += [
        f"-m connbytes {bang}--connbytes {span} --connbytes-dir {side} --connbytes-mode {mode}"
        for bang in ("", "! ") for span in numbers for side in ("original", "reply", "both") for mode in ("packets", "bytes", "avgpkt")
    ]  # fmt: skip
    rules = [f"-A {chain} {text}" for text in dict.fromkeys(texts) if readable(text, 4) for chain in ("PREROUTING", "FORWARD")]
    with standing(table(rules) + NAT) as one:
        for dev, frame in conversation():
            agree(one.receive(frame, dev), rules, f"{dev}: {frame.summary()}")


def test_untracked_packets_and_templates() -> None:
    texts = ("--ctstate UNTRACKED", "--ctstate INVALID", "--ctstate NEW", "--ctproto udp", "! --ctproto udp", "--ctdir REPLY")
    rules = [f"-A PREROUTING -m conntrack {text}" for text in texts]
    marks = ["-j CT --zone 5", "-j CT --notrack", "-j CT --helper ftp"]
    for first in marks:
        for second in marks:
            raw = "\n".join(["*raw", f"-A PREROUTING -p tcp {first}", f"-A PREROUTING -p tcp {second}", "COMMIT", ""])
            try:
                with standing(raw + table(rules)) as one:
                    agree(one.receive(v4()), rules, f"{first}, then {second}")
            except LabError as refused:
                assert "ftp" in f"{first}{second}", refused  # a helper that this kernel does not have


def test_connlimit() -> None:
    texts = [f"-p tcp --syn -m connlimit --connlimit-{how} {n}" for how in ("above", "upto") for n in (0, 1, 2)]
    texts += [f"-m connlimit --connlimit-above 1 --connlimit-{more}" for more in ("mask 24", "daddr", "saddr")]
    rules = [f"-A FORWARD {text}" for text in texts]
    with standing(table(rules)) as one:
        for dev, frame in conversation():
            if "203.0.113.1" not in frame.summary() and dev == "eth0":
                agree(one.receive(frame, dev), rules, frame.summary())
        for port, source in ((1, "192.0.2.1"), (2, "192.0.2.1"), (3, "192.0.2.2"), (3, "192.0.2.2"), (1, "192.0.2.1"), (4, "192.0.2.1")):
            frame = v4(tcp("S", sport=port, seq=9), src=source)
            agree(one.receive(frame), rules, frame.summary())


# ---------------------------------------------------------------------- what rules remember


def test_every_nth_packet() -> None:
    counts = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2), (5, 3)]
    rules = [f"-A PREROUTING -m statistic --mode nth {bang}--every {n} --packet {p}" for bang in ("", "! ") for n, p in counts]
    with standing(table(rules)) as one:
        for number in range(13):
            agree(one.receive(v4(udp())), rules, f"packet {number}")


#: What each UDP port does to the lists, and what is asked of them by port 100.
RECENT: Final = (
    "-p udp --dport 1 -m recent --name A --set", "-p udp --dport 2 -m recent --name A --remove",
    "-p udp --dport 3 -m recent --name A --update --seconds 1", "-p udp --dport 3 -m recent ! --name B --update",
    "-p udp --dport 4 -m recent ! --name A --set", "-p udp --dport 5 -m recent --name N --mask 255.255.255.0 --set --rdest",
    *(f"-p udp --dport 100 -m recent {bang}--name A --rcheck {more}" for bang in ("", "! ")
      for more in ("", "--seconds 1", "--hitcount 2", "--seconds 1 --hitcount 3", "--rttl", "--rdest")),
    "-p udp --dport 100 -m recent --name N --rcheck", "-p udp --dport 100 -m recent --name N --mask 255.255.255.0 --rcheck --rdest",
    "-p udp --dport 100 -m recent --name B --rcheck", "-p udp --dport 6 -m recent --name A --rcheck --seconds 1 --reap",
)  # fmt: skip


def test_recent() -> None:
    rules = [f"-A {chain} {text.replace('! --name', '--name', 1) if '! --name' in text else text}" for text in RECENT
             for chain in ("PREROUTING",)]  # fmt: skip
    steps = [(0.1, 100), (0.1, 1), (0.1, 100), (0.3, 1), (0.3, 1), (0.3, 100), (0.5, 3), (1.2, 100), (1.7, 100), (1.7, 3), (1.7, 5),
             (1.7, 100), (1.7, 6), (1.7, 100), (1.8, 4), (1.8, 100), (1.8, 2), (1.8, 100), (1.8, 2)]  # fmt: skip
    with standing(table(rules)) as one:
        for moment, port in steps:
            one.wait_until(moment)
            for source, ttl in (("192.0.2.1", 64), ("192.0.2.9", 64), ("192.0.2.1", 63)):
                agree(one.receive(v4(udp(port), src=source, ttl=ttl)), rules, f"{moment} s: port {port} from {source}, TTL {ttl}")


def test_a_full_list_of_recent_addresses() -> None:
    rules = ["-A PREROUTING -p udp --dport 1 -m recent --name F --set", "-A PREROUTING -p udp --dport 2 -m recent --name F --rcheck"]
    with standing(table(rules)) as one:
        for last in (*range(1, 101), 1, 200):
            one.receive(v4(udp(1), src=f"192.0.2.{last}"))
        for last in (1, 2, 3, 100, 200, 201):
            agree(one.receive(v4(udp(2), src=f"192.0.2.{last}")), rules, f"192.0.2.{last}")


def test_limits() -> None:
    options = ("--limit 1/s --limit-burst 2", "--limit 2/s --limit-burst 1", "--limit 3/min --limit-burst 4", "")
    mode = "--hashlimit-mode srcip"
    hashed = (f"--hashlimit-upto 1/s --hashlimit-burst 2 {mode}", f"--hashlimit-above 2/s --hashlimit-burst 1 {mode}",
              "--hashlimit-upto 2/min --hashlimit-mode srcip,dstport", f"--hashlimit-upto 3/h --hashlimit-srcmask 24 {mode}")  # fmt: skip
    texts = [f"-m limit {text}" for text in options]
    texts += [f"-m hashlimit {text} --hashlimit-htable-expire 30000 --hashlimit-name h{n}" for n, text in enumerate(hashed)]
    rules = [f"-A PREROUTING {text}" for text in texts]
    with standing(table(rules)) as one:
        for moment in (0.1, 0.1, 0.1, 0.35, 0.75, 0.75, 1.3, 1.3, 2.5, 2.5, 2.5, 2.5):
            one.wait_until(moment)
            for source, port in (("192.0.2.1", 53), ("192.0.3.9", 54)):
                agree(one.receive(v4(udp(port), src=source)), rules, f"{moment} s: from {source}, port {port}")


# ---------------------------------------------------------------------- sets


def test_sets() -> None:
    """The unit tests' members, in one set each, asked by every packet in every direction."""
    usable = ("hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "hash:net,port", "hash:net,iface", "bitmap:ip",
              "bitmap:port", "bitmap:ip,mac")  # fmt: skip  # the types that this kernel has
    members = dict.fromkeys((row[0], row[1]) for row in test_ipset.ROWS if row[0].split()[0] in usable)
    lines = [line for n, (kind, member) in enumerate(members) for line in (f"create s{n} {kind}", f"add s{n} {member}")]
    lines += ["create nets hash:net", "add nets 192.0.0.0/16", "add nets 192.0.2.0/24 nomatch", "add nets 192.0.2.128/25"]
    lines += ["create ifaces hash:net,iface", "add ifaces 192.0.0.0/16,eth0", "add ifaces 192.0.2.0/24,eth1", "add ifaces 0.0.0.0/0,cni0"]
    lines += ["create all list:set", "add all s0", "add all nets", "add all s12"]
    families = {f"s{n}": 6 if "inet6" in kind else 0 if "port range" in kind else 4 for n, (kind, _) in enumerate(members)}
    families |= {"nets": 4, "ifaces": 4, "all": 0}
    directions = ("src", "dst", "src,src", "dst,dst", "src,dst", "dst,src", "dst,dst,src", "src,src,dst", "dst,dst,dst")
    for family, make, end, start in ((4, v4, "198.51.100.2", "192.0.2.1"), (6, v6, "2001:db8::2", "2001:db8::1")):
        names = [name for name, of in families.items() if of in (0, family)]
        texts = [f"-m set {bang}--match-set {name} {way}" for name in names for way in directions for bang in ("", "! ")]
        texts += [f"-m set --match-set {name} src --return-nomatch" for name in names if name in ("nets", "all", "s0")]
        rules = [f"-A {chain} {text}" for text in texts for chain in ("PREROUTING", "INPUT")]
        with standing(**{f"rules{family}": table(rules)}, sets="\n".join(lines) + "\n") as one:
            layers = [tcp(), udp(), udp(80), sctp(1)] + ([scapy.ICMP(), scapy.ICMP(type=3, code=4)] if family == 4 else [])
            frames = [make(layer, src=start, dst=end) for layer in layers]
            if family == 4:
                frames += [v4(src=source, dst=end) for source in ("192.0.2.200", "192.0.3.9", "10.9.9.9", "0.0.0.0", "198.51.100.2")]
                frames += [v4(scapy.Raw(bytes(20)), proto=47, dst=end), v4(dst="192.168.0.11"), v4(dst="192.0.2.1", src="198.51.100.2")]
            for frame in frames:
                agree(one.receive(frame), rules, frame.summary())


def test_what_rules_add_to_sets() -> None:
    sets = "".join(f"create {line}\n" for line in (
        "ips hash:ip timeout 1", "forever hash:ip", "nets hash:net", "empty hash:net", "pairs hash:ip,port", "small hash:ip maxelem 1",
        "faces hash:net,iface", "map bitmap:ip range 192.0.2.0/24", "macs bitmap:ip,mac range 192.0.2.0/24", "all list:set",
    )) + "add nets 10.0.0.0/8\nadd nets 10.9.0.0/16\nadd faces 10.0.0.0/8,eth9\nadd macs 192.0.2.1\nadd all forever\nadd all ips\n"  # fmt: skip
    ways = {"pairs": "src,dst", "faces": "src,src", "macs": "src,src"}
    names = ("ips", "forever", "nets", "empty", "pairs", "small", "faces", "map", "macs", "all")
    changes = [f"-p udp --dport 1 -j SET --add-set {name} {ways.get(name, 'src')}" for name in names]
    changes += [f"-p udp --dport 2 -j SET --del-set {name} {ways.get(name, 'src')}" for name in names]
    changes += ["-p udp --dport 3 -j SET --add-set ips src --exist --timeout 5", "-p udp --dport 3 -j SET --add-set macs src,src --exist"]
    asked = [f"-p udp --dport 4 -m set --match-set {name} {ways.get(name, 'src')}" for name in (*names, "forever")]
    asked += ["-p udp --dport 1 -m set --match-set pairs src,dst"]
    rules = [f"-A PREROUTING {text}" for text in (*changes, *asked)]
    steps = [(0.1, 4), (0.1, 1), (0.1, 4), (0.6, 1), (0.6, 4), (1.6, 4), (1.7, 1), (1.7, 3), (3.2, 4), (3.3, 2), (3.3, 4)]
    with standing(table(rules), sets=sets) as one:
        for moment, port in steps:
            one.wait_until(moment)
            for source in ("192.0.2.1", "192.0.2.9", "192.0.2.77", "10.9.1.1"):
                agree(one.receive(v4(udp(port), src=source)), rules, f"{moment} s: port {port} from {source}")


# ---------------------------------------------------------------------- targets


def test_targets_are_seen_by_the_rules_behind_them() -> None:
    checks = [f"-m mark --mark {mark}" for mark in ("0x5/0xf", "0x4000/0x4000", "0x55", "0xaa")]
    checks += [f"-m ttl --ttl-eq {ttl}" for ttl in (0, 9, 60, 70, 255)] + [f"-m tos --tos {tos:#x}" for tos in (0x10, 0xB8, 0xBB, 0xEF)]
    checks += [f"-m dscp --dscp {number}" for number in (8, 46)] + [f"-m connmark --mark {mark}" for mark in ("0x5/0xf", "0x55", "0x50/0xf0")]
    checks += [f"-p tcp -m length --length {size}" for size in (40, 44)] + ["-p tcp -m tcp --tcp-option 2", "-p tcp -m tcp ! --tcp-option 8"]
    checks += [f"-p tcp -m tcpmss --mss {mss}" for mss in (536, 1000, 1400, 1460)] + ["-m conntrack --ctstate NEW"]
    changes = (
        "-j MARK --set-xmark 0x5/0xf", "-j MARK --or-mark 0x4000", "-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff", "-j MARK --set-mark 0x55",
        "-j CONNMARK --set-mark 0x50/0xf0", "-j MARK --xor-mark 0xff", "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff",
        "-j TTL --ttl-set 9", "-j TTL --ttl-inc 250", "-j TTL --ttl-dec 195", "-j TTL --ttl-dec 100", "-j TOS --set-tos 0x10/0x1f",
        "-j DSCP --set-dscp 46", "-j TOS --or-tos 0x03", "-j DSCP --set-dscp-class CS1", "-p tcp --syn -j TCPMSS --set-mss 1400",
        "-p tcp --syn -j TCPMSS --set-mss 1000", "-p tcp --syn -j TCPMSS --set-mss 1460", "-j LOG --log-prefix x",
    )  # fmt: skip
    rules = [f"-A FORWARD {text}" for change in changes for text in (change, *checks) if readable(text, 4)]
    options = ([], [("MSS", 1460)], [("MSS", 536), ("Timestamp", (1, 0))], [("WScale", 7)])
    with standing(table(rules)) as one:
        for option in options:
            for layer in (tcp(options=option), tcp(options=option) / b"data", tcp("A", options=option)):
                agree(one.receive(v4(layer, tos=0xFF)), rules, layer.summary())
        agree(one.receive(v4(udp(), ttl=200)), rules, "UDP")


@pytest.mark.parametrize("bypass", ["", " --queue-bypass"])
def test_a_queue_that_nobody_reads(bypass: str) -> None:
    rules = ["-A FORWARD -m mark --mark 0", f"-A FORWARD -j NFQUEUE --queue-num 7{bypass}", "-A FORWARD -m mark --mark 0"]
    behind = "*filter\n-A FORWARD -m mark --mark 0\nCOMMIT\n"
    with standing(table(rules) + behind) as one:
        kernel, emulated = one.receive(v4())
        assert ((4, "filter", "FORWARD", 1) in kernel) == ((4, "filter", "FORWARD", 1) in emulated) == bool(bypass)
        assert (4, "mangle", "FORWARD", 3) not in kernel | emulated


def test_a_target_lowers_the_mss_to_the_path() -> None:
    rules = ["-A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", *(f"-A FORWARD -p tcp -m tcpmss --mss {n}" for n in (536, 1400, 1460))]
    if not readable("-p tcp -m tcpmss --mss 1", 4):
        pytest.skip("no row in the option table yet: tcpmss")
    with standing(table(rules)) as one:
        for mss in (8960, 1460, 1400, 536):
            agree(one.receive(v4(tcp(options=[("MSS", mss)]), src="192.168.0.9")), rules, f"MSS {mss}")

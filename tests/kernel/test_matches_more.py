"""Matches and targets that few rule sets have: clusters, labels, quotas, times, groups, policies, and targets that change TCP or tell somebody."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address
from typing import Final

import pytest

pytest.importorskip("scapy.all")

from tests.kernel.counting import agree, sctp, standing, table, tcp, udp, v4, v6

pytestmark = pytest.mark.usefixtures("kernel")

_CLUSTERS: Final = tuple(
    f"-m cluster --cluster-total-nodes {nodes} {bang}--cluster-local-node {node} --cluster-hash-seed {seed}"
    for nodes, seed in ((2, 0xDEADBEEF), (3, 1), (32, 7)) for node in range(1, min(nodes, 3) + 1) for bang in ("", "! ")
)  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
def test_a_hash_of_the_source_chooses_the_node_of_a_cluster(family: int) -> None:
    rules = [f"-A {chain} {text}" for text in _CLUSTERS for chain in ("PREROUTING", "FORWARD")]
    make = v4 if family == 4 else v6
    with standing(**{f"rules{family}": table(rules)}) as one:
        for last in range(1, 25):
            source = f"192.0.2.{last}" if family == 4 else f"2001:{last:x}::{last % 2}"
            frame = make(udp(1000 + last), src=source)
            agree(one.receive(frame), rules, frame.summary())
        agree(one.receive(make(tcp("R", seq=5))), rules, "a packet of no connection")


def test_labels_of_a_connection() -> None:
    texts = [
        "-m connlabel --label 3", "-m connlabel ! --label 3", "-p udp --dport 5 -m connlabel --label 3 --set", "-m connlabel --label 3",
        "-m connlabel --label 127", "-p udp --dport 6 -m connlabel ! --label 127 --set", "-m connlabel --label 127",
    ]  # fmt: skip
    rules = [f"-A PREROUTING {text}" for text in texts]
    with standing(table(rules)) as one:
        for port in (4, 5, 5, 6, 6, 4):
            agree(one.receive(v4(udp(port))), rules, f"port {port}")
        agree(one.receive(v4(tcp("R", seq=5))), rules, "a packet of no connection")


def test_a_quota_is_used_up() -> None:
    rules = [f"-A PREROUTING -m quota {bang}--quota {size}" for size in (0, 60, 100, 1000) for bang in ("", "! ")]
    with standing(table(rules)) as one:
        for size in (0, 40, 10, 500, 3, 0):
            agree(one.receive(v4(udp() / bytes(size))), rules, f"{size} bytes of data")


def test_times_and_days() -> None:
    now = datetime.now(UTC)
    left = 3600 - 60 * now.minute - now.second
    if left < 20:  # the hour is about to change
        time.sleep(left + 1)
        now = datetime.now(UTC)
    today, hour = now.strftime("%a"), now.strftime("%H:00")
    tomorrow, later = (now + timedelta(days=1)).strftime("%a"), (now + timedelta(hours=1)).strftime("%H:00")
    texts = [
        "", f"--weekdays {today}", f"! --weekdays {today}", f"--weekdays {tomorrow}", f"--monthdays {now.day}", f"! --monthdays {now.day}",
        f"--timestart {hour}", f"--timestop {hour}", f"--timestart {hour} --timestop {later}", f"--timestart {later} --timestop {hour}",
        *([f"--timestart {later} --timestop {hour} --contiguous --weekdays {today}"] if hour < later else ()),  # the tool wants the stop first
        f"--datestart {now:%Y-%m-%d}", f"--datestop {now:%Y-%m-%d}",
        f"--datestart {now + timedelta(days=1):%Y-%m-%d}", f"--datestart 2020-01-01 --datestop {now + timedelta(days=1):%Y-%m-%d}",
        f"--timestart 23:59:59 --timestop {later} --contiguous --weekdays {tomorrow}", f"--timestart 23:59:59 --timestop {later} --contiguous",
    ]  # fmt: skip
    rules = [f"-A PREROUTING -m time {text}" for text in texts]
    with standing(table(rules)) as one:
        one.emulated.kernel.wall = time.time()
        agree(one.receive(v4()), rules, now.isoformat())


@pytest.mark.parametrize("family", [4, 6])
def test_groups_policies_and_realms(family: int) -> None:
    texts = [
        *(f"-m devgroup {bang}--{side}-group {group}" for bang in ("", "! ") for side in ("src", "dst") for group in ("0", "5", "0x10/0xf")),
        *(f"-m policy --dir {way} --pol {kind}" for way in ("in", "out") for kind in ("none", "ipsec")),
        "-m policy --dir in --pol ipsec --strict --proto esp --mode tunnel --next --proto ah", "-m policy --dir in --pol ipsec ! --reqid 5",
        *((f"-m realm {bang}--realm {realm}" for bang in ("", "! ") for realm in ("0", "5", "0x10/0xf")) if family == 4 else ()),
    ]  # fmt: skip
    rules = [f"-A FORWARD {text}" for text in texts]
    make = v4 if family == 4 else v6
    with standing(**{f"rules{family}": table(rules)}) as one:
        for layer in (udp(), tcp(), sctp(1)):
            agree(one.receive(make(layer)), rules, layer.summary())


def test_rates_in_bytes_and_in_windows() -> None:
    options = (
        "--hashlimit-upto 1kb/s --hashlimit-name a", "--hashlimit-above 1kb/s --hashlimit-burst 3kb --hashlimit-name b",
        "! --hashlimit-upto 2/s --hashlimit-burst 2 --hashlimit-name c", "! --hashlimit-above 16kb/s --hashlimit-name d",
        "--hashlimit-upto 60/min --hashlimit-burst 1 --hashlimit-name e",
    )  # fmt: skip
    rules = [f"-A PREROUTING -m hashlimit {text}" for text in options]
    with standing(table(rules)) as one:
        for moment, size in ((0.1, 0), (0.1, 400), (0.1, 900), (0.1, 900), (0.6, 900), (0.6, 900), (1.6, 1200), (1.6, 1200), (3.1, 1400), (3.1, 10)):
            one.wait_until(moment)
            agree(one.receive(v4(udp() / bytes(size))), rules, f"{moment} s: {size} bytes")


def test_targets_that_change_tcp_or_tell_somebody() -> None:
    checks = [f"-p tcp -m tcp --tcp-option {kind}" for kind in (2, 3, 4, 5, 8, 19)] + ["-p tcp -m tcpmss --mss 1400", "-p tcp -m length --length 60"]
    checks += ["-p tcp -m ecn --ecn-tcp-ece", "-p tcp -m ecn --ecn-tcp-cwr", *(f"-m ecn --ecn-ip-ect {n}" for n in range(4)), "-m mark --mark 0"]
    checks += [f"-m tos --tos {tos:#x}" for tos in (0x00, 0x03, 0x10, 0xA3)]
    changes = (
        "-p tcp -j TCPOPTSTRIP --strip-options timestamp,sack-permitted", "-p tcp -j TCPOPTSTRIP --strip-options mss,3", "-p tcp -j ECN --ecn-tcp-cwr 0",
        "-p tcp -j ECN --ecn-tcp-remove", "-j ECN --ecn-ip-ect 2", "-p tcp -j ECN --ecn-tcp-ece 1", "-j TOS --xor-tos 0x10", "-j TOS --and-tos 0xf3",
        "-j TOS --or-tos 0x03", "-j AUDIT --type accept", "-j IDLETIMER --timeout 30 --label dataplane-test", "-j TEE --gateway 192.168.0.77",
        "-j CLASSIFY --set-class 1:10", "-j RATEEST --rateest-name dataplane-test --rateest-interval 250ms --rateest-ewmalog 0.5s",
    )  # fmt: skip
    rules = [f"-A FORWARD {text}" for change in changes for text in (change, *checks)]
    full = [("MSS", 1400), ("WScale", 7), ("SAckOK", b""), ("Timestamp", (1, 0))]
    with standing(table(rules)) as one:
        for options in ([], full):
            for layer in (tcp("SEC", options=options), tcp("A", options=options), tcp("S", options=options) / b"data"):
                for tos in (0x00, 0xA1, 0x13):
                    frame = v4(layer, tos=tos)
                    agree(one.receive(frame), rules, frame.summary())
        agree(one.receive(v4(udp(), tos=0x02)), rules, "UDP")


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("2001:db8::/64", "fd00:10:244:1::/64"), ("2001:db8:1::/48", "fd00:10:244::/48"), ("2001:db8:1::/48", "fd00:10:244:1::/64"),
        ("2001:db8::/32", "fd00:10::/32"), ("2001:db8:0:100::/56", "fd00:10:244:100::/56"),
    ],
)  # fmt: skip
def test_prefixes_are_translated_bit_by_bit(source: str, destination: str) -> None:
    bits = [f"{IPv6Address(1 << bit)}/{IPv6Address(1 << bit)}" for bit in range(128)]
    change = f"--src-pfx {source} --dst-pfx {destination}"
    rules = [f"-A PREROUTING -j DNPT {change}", *(f"-A PREROUTING -d {bit}" for bit in bits)]
    with standing(rules6=table(rules)) as one:
        start = int(IPv6Address(source.split("/")[0]))
        for last in ("::1", "::ffff:1", "::1234:5678:9abc:def0", "::ffff:ffff:ffff:0", "::ffff:ffff:ffff:ffff", "::fffe:1"):
            frame = v6(udp(), dst=str(IPv6Address(start | int(IPv6Address(last)))))
            agree(one.receive(frame), rules, frame.summary())


#: What asks only for bytes that are known of a packet.
_U32: Final = (
    "0>>24&0xf=5", "0>>28=4,6", "2&0xffff=40:60", "6&0xff=6", "5&0xff=64", "12=0xc0000201", "16=0x0af40109", "8=0x20010db8", "36=9",
    "0>>22&0x3c@0>>16=40000", "0>>22&0x3c@0&0xffff=80", "0>>22&0x3c@4=1000:2000", "0>>22&0x3c@10&0xff=2", "0>>22&0x3c@12>>16&0xff=2,18",
    "6&0xff=6&&0>>22&0x3c@0&0xffff=80", "6&0xff=17&&4=1", "1000=0", "40>>16=40000", "52>>16&0x3f=2", "0>>22&0x3c@0>>16=1:30000,40000:50000",
)  # fmt: skip
_STRINGS: Final = (
    "--string zzz", "--hex-string |c0000201|", "--hex-string |0af40109|", "--hex-string |0af40109| --from 16", "--hex-string |0af40109| --from 17",
    "--hex-string |0af40109| --to 20", "--hex-string |0af40109| --to 19", "--hex-string |9c400050|", "--hex-string |20010db8|", "! --string zzz",
)  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
def test_bytes_that_are_known(family: int) -> None:
    texts = [f'-m u32 {bang}--u32 "{test}"' for test in _U32 for bang in ("", "! ")]
    texts += [f"-m string {text} --algo {algo}" for text in _STRINGS for algo in ("bm", "kmp")]
    rules = [f"-A PREROUTING {text}" for text in texts]
    make = v4 if family == 4 else v6
    decided = 0
    with standing(**{f"rules{family}": table(rules)}) as one:
        kernel = one.emulated.kernel
        kernel.assume = False
        for frame in (make(tcp("S", seq=1500)), make(tcp("SA", seq=7)), make(tcp("S", dport=81)), make(udp(80)), make(udp(80) / b"zzz")):
            kernel.notes.clear()
            asked, emulated = one.receive(frame)
            guessed = {int(number) for note in kernel.notes for number in re.findall(r"PREROUTING rule (\d+)", str(note))}
            decided += len(rules) - len(guessed)
            kept = [{place for place in places if place[3] not in guessed} for places in (asked, emulated)]
            agree((kept[0], kept[1]), rules, frame.summary())
    assert decided > 3 * len(rules)  # five packets

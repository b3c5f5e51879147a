"""A capture through a node: what leaves is what the engine says, written back with its own times; differences; what stops half-way leaves nothing."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet as Layer
from scapy.utils import rdpcap, wrpcap

from dataplane.captures.records import opened
from dataplane.cli import cli
from dataplane.node import load
from tests.shared import cases, needs_shared

ROOT = Path(__file__).resolve().parents[2]
NODE = ["-f", str(ROOT / "rulesets/external-ip"), "--node", "node-a"]
VIP = "198.51.100.10"


def frames() -> list[Layer]:
    found = [Ether() / IP(src=f"203.0.113.{n}", dst=VIP, ttl=60) / TCP(sport=40000 + n, dport=80, flags="S", seq=1000) for n in range(20)]
    found.append(Ether() / IP(src="203.0.113.9", dst=VIP) / ICMP())
    found.append(Ether() / IP(src="203.0.113.9", dst=VIP, ttl=1) / UDP(sport=9, dport=9))
    found.append(Ether(type=0x0806) / b"arp")
    for place, one in enumerate(found):
        one.time = 1_700_000_000 + place / 100
    return found


@pytest.fixture
def capture(tmp_path: Path) -> str:
    wrpcap(str(tmp_path / "in.pcap"), frames())
    return str(tmp_path / "in.pcap")


def run(*arguments: str, stdin: bytes = b"") -> Any:
    return CliRunner().invoke(cli, ["replay", *arguments], standalone_mode=False, input=stdin)


def test_what_leaves_is_written_with_its_times_and_valid_checksums(capture: str, tmp_path: Path) -> None:
    done = run(capture, *NODE, "--in", "eth0", "-w", str(tmp_path / "out.pcap"), "--write-drop", str(tmp_path / "drop.pcap"), "--write-replies", str(tmp_path / "replies.pcap"))
    assert done.exception is None, done.output
    out = rdpcap(str(tmp_path / "out.pcap"))
    served = [one for one in out if one.haslayer(TCP)]
    assert len(served) == 20 and {one[IP].dst for one in served} == {"10.244.1.5", "10.244.2.5"} and {one[TCP].dport for one in served} == {8080}
    assert [round(float(one.time) * 100) for one in out] == [170_000_000_000 + place for place in range(21)]
    for one in out:
        again = one.copy()
        del again[IP].chksum
        if again.haslayer(TCP):
            del again[TCP].chksum
        assert bytes(again) == bytes(one) and one[IP].ttl in (59, 63)
    assert len(rdpcap(str(tmp_path / "drop.pcap"))) == 1
    (reply,) = rdpcap(str(tmp_path / "replies.pcap"))
    assert (reply[ICMP].type, reply[IP].dst) == (11, "203.0.113.9")
    assert "not understood: 1 packets: ethertype 0x0806 is no IP" in done.output
    assert "shop/web:http: 20 flows, 20 packets" in done.output


def test_each_packet_has_the_fate_that_the_engine_gives_it(capture: str) -> None:
    done = run(capture, *NODE, "--in", "eth0", "-o", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    node = load(ROOT / "rulesets/external-ip").node("node-a")
    assert len(rows) == 23 and rows[-1]["verdict"] is None
    for row, frame in zip(rows[:-1], frames(), strict=False):
        assert row["verdict"] == node.receive(frame, "eth0").verdict


def test_pcapng_comes_with_comments(capture: str, tmp_path: Path) -> None:
    run(capture, *NODE, "--in", "eth0", "-w", str(tmp_path / "out.pcapng"))
    with opened(str(tmp_path / "out.pcapng")) as found:
        comments = [one.comments for one in found]
    assert comments[0][0].startswith("dataplane: forward by ") and "Service shop/web:http -> 10.244." in comments[0][0]


def test_standard_input_and_output(capture: str) -> None:
    done = run("-", *NODE, "--in", "eth0", "-w", "-", stdin=Path(capture).read_bytes())
    assert done.exception is None
    from dataplane.captures.records import Capture

    assert len(list(Capture(io.BytesIO(done.stdout_bytes), "out"))) == 21


def test_against_tells_which_packets_change_their_fate(capture: str) -> None:
    done = run(capture, *NODE, "--in", "eth0", "--mode", "ipvs", "--against", "iptables")
    assert done.return_value == 1
    assert "23 packets, ipvs against iptables: 2 end differently" in done.output
    same = run(capture, *NODE, "--in", "eth0", "--mode", "ipvs", "--against", "ipvs")
    assert same.return_value == 0 and "none end differently" in same.output


def test_flows_json_csv_and_the_page(capture: str, tmp_path: Path) -> None:
    flows = [json.loads(line) for line in run(capture, *NODE, "--in", "eth0", "--flows", "-o", "jsonl").stdout.splitlines()]
    assert len(flows) == 22 and flows[0]["service"].startswith("shop/web:http -> ")
    assert json.loads(run(capture, *NODE, "--in", "eth0", "-o", "json").stdout)["verdicts"]["forward"]["packets"] == 21
    assert run(capture, *NODE, "--in", "eth0", "-o", "csv").stdout.startswith("number,time,in,asked,verdict")
    run(capture, *NODE, "--in", "eth0", "--report", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "shop/web:http" in page and "http://" not in page and "https://" not in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nonexistent.pcap", *NODE], "No such file"), ([str(ROOT / "README.md"), *NODE], "no capture"), (["CAPTURE", *NODE, "--in", "eth9"], 'no interface "eth9"'),
        (["CAPTURE", *NODE, "--in", "=eth0"], "expected IFACE"), (["CAPTURE", *NODE, "-w", "/nonexistent/x.pcap"], "No such file"),
    ],
)  # fmt: skip
def test_bad_input_is_told(capture: str, arguments: list[str], words: str) -> None:
    done = run(*[capture if one == "CAPTURE" else one for one in arguments])
    assert done.exception is not None and words in str(done.exception)


def test_a_full_disk_leaves_no_half_of_a_file(capture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataplane.captures import pcap

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pcap.Writer, "write", full)
    done = run(capture, *NODE, "--in", "eth0", "-w", str(tmp_path / "out.pcap"))
    assert isinstance(done.exception, OSError) and sorted(path.name for path in tmp_path.iterdir()) == ["in.pcap"]


def test_what_is_no_plain_file_is_written_to_and_stays(capture: str, tmp_path: Path) -> None:
    pipe, link, real = tmp_path / "pipe", tmp_path / "link.pcap", tmp_path / "real.pcap"
    os.mkfifo(pipe)
    link.symlink_to(real)
    got: list[bytes] = []
    reader = Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert run(capture, *NODE, "--in", "eth0", "-w", str(pipe)).exception is None
    reader.join(timeout=10)
    assert pipe.is_fifo() and len(got[0]) > 24
    assert run(capture, *NODE, "--in", "eth0", "-w", str(link)).exception is None
    assert link.is_symlink() and real.read_bytes() == got[0]


def test_control_c_keeps_what_was_done(capture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataplane.replay.summary import Summary

    add = Summary.add

    def stopping(self: Summary, one: Any) -> None:
        if one.number == 10:
            raise KeyboardInterrupt
        add(self, one)

    monkeypatch.setattr(Summary, "add", stopping)
    done = run(capture, *NODE, "--in", "eth0", "-w", str(tmp_path / "out.pcap"))
    assert done.return_value == 130 and len(rdpcap(str(tmp_path / "out.pcap"))) == 9 and done.output.startswith("note:") or "9 packets" in done.output


@needs_shared
@pytest.mark.parametrize("path", [path for path in cases("corpus/pcaps/*.pcap*") if path.stat().st_size < 100_000], ids=lambda path: path.name)
def test_the_corpus_replays(path: Path) -> None:
    done = run(str(path), *NODE, "--in", "eth0", "-o", "json")
    assert done.exception is None, done.output
    told = json.loads(done.stdout)
    assert told["packets"] == sum(one["packets"] for one in told["verdicts"].values()) + sum(told["not_understood"].values())

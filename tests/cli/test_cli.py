"""The command as people meet it: what it prints, its exit codes, and one clear message for each mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTERNAL = str(ROOT / "rulesets/external-ip/manifest.yaml")
PACKET = "tcp 203.0.113.7:40000 > 198.51.100.10:80"


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dataplane", *arguments], capture_output=True, text=True, cwd=ROOT, input=stdin, check=False)


@pytest.fixture
def snapshot(tmp_path):
    assert run("compile", "-f", EXTERNAL, "--node", "node-a", "--out", str(tmp_path / "s")).returncode == 0
    return str(tmp_path / "s")


def test_trace_tells_the_whole_way():
    done = run("trace", "-f", EXTERNAL, "--node", "node-a", PACKET)
    assert done.returncode == 0
    for words in ("1. PREROUTING", "KUBE-SERVICES", "external IP", "Service: shop/web:http -> 10.244.", "Verdict: forward", "Rules visited"):
        assert words in done.stdout
    assert "\033" not in done.stdout


@pytest.mark.parametrize(("expect", "code"), [("forward", 0), ("drop", 1)])
def test_expect_makes_the_exit_code(expect, code):
    assert run("trace", "-f", EXTERNAL, "--node", "node-a", "--expect", expect, PACKET).returncode == code


def test_a_compiled_snapshot_is_walked_alike(snapshot):
    done = run("trace", "--snapshot", snapshot, "--in", "eth0", "--all", "-o", "json", PACKET)
    outcomes = json.loads(done.stdout)["outcomes"]
    assert {one["packet"]["dst"] for one in outcomes} == {"10.244.1.5", "10.244.2.5"}


def test_packets_in_outcomes_out(snapshot, tmp_path):
    lines = [
        {"id": 1, "in": "eth0", "src": "203.0.113.7", "dst": "198.51.100.10", "proto": "tcp", "sport": 40000, "dport": 80},
        {"id": 2, "reply_to": 1},
        {"id": 3, "in": "eth0", "src": "203.0.113.7", "dst": "198.51.100.10", "proto": "tcp", "sport": 40000, "dport": 80, "flags": "A"},
        {"id": 4, "in": None, "src": "192.168.0.11", "dst": "10.96.0.20", "proto": "tcp", "sport": 1, "dport": 80},
        {"id": 5, "in": "eth0", "src": "203.0.113.7", "dst": "10.9.0.1", "proto": "udp", "sport": 1, "dport": 2, "ttl": 1},
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("trace", "--snapshot", snapshot, "--packets", str(file), "-o", "jsonl")
    assert done.returncode == 0, done.stderr
    found = {record["id"]: record["outcomes"][0] for record in map(json.loads, done.stdout.splitlines())}
    assert found[1]["verdict"] == "forward"
    assert found[1]["packet"]["sport"] is None
    assert (found[2]["verdict"], found[2]["packet"]["src"], found[2]["packet"]["dst"]) == ("forward", "198.51.100.10", "203.0.113.7")
    assert found[3]["packet"]["dst"] == found[1]["packet"]["dst"]
    assert found[4]["verdict"] == "forward"
    assert (found[5]["verdict"], found[5]["reply"]["type"]) == ("reject", 11)


MISTAKES = [
    (["trace", "-f", EXTERNAL, "--node", "node-a", "--expect", "forwarded", PACKET], 2, "expected forward, local, drop, reject or IP:PORT"),
    (["trace", "-f", EXTERNAL, "--node", "node-a", "--expect", "10.9.9.9:1", PACKET], 1, "expected 10.9.9.9:1, got forward to 10.244."),
    (["trace", "-f", EXTERNAL, "--in", "eth0", "--local", PACKET], 2, "--in and --local exclude each other"),
    (["trace", "--snapshot", "x", "-f", EXTERNAL, PACKET], 2, "--snapshot and -f exclude each other"),
    (["trace", PACKET], 2, "say which node"),
    (["trace", "--snapshot", "x", "--packets", "y", PACKET], 2, "--packets says all of a packet itself"),
    (["trace", "-f", EXTERNAL, "--node", "node-a", "tcp 1.2.3.4:1 > 5.6.7.8:2 [flag S]"], 2, "unknown option 'flag'"),
    (["trace", "-f", EXTERNAL, "--node", "node-z", PACKET], 1, 'node "node-z" not found'),
    (["trace", "-f", EXTERNAL, PACKET], 1, "which node?"),
    (["trace", "-f", EXTERNAL, "--node", "node-a", "tcp 1.2.3.4 > 5.6.7.8:80"], 2, "expected a port: 1.2.3.4:PORT"),
    (["trace", "-f", EXTERNAL, "--node", "node-a", "tpc 1.2.3.4:1 > 5.6.7.8:80"], 2, "unknown protocol 'tpc'"),
    (["trace", "-f", EXTERNAL, "--node", "node-a", "tcp 1.2.3.4:1 > [::1]:80"], 2, "the source is IPv4, but this is IPv6"),
    (["trace", "-f", EXTERNAL, "--node", "node-a", "--in", "eth9", PACKET], 1, 'no interface "eth9"'),
    (["trace", "--snapshot", "/nonexistent", PACKET], 1, "/nonexistent"),
    (["trace", "-f", "/nonexistent.yaml", PACKET], 1, "No such file"),
    (["trace", "-f", EXTERNAL], 2, "say which packet"),
    (["compile", "-f", EXTERNAL, "--node", "node-a", "--mode", "nftables"], 1, "not built yet"),
    (["compile", "-f", EXTERNAL, "--node", "node-a", "--families", "ipv5"], 2, "--families"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_gets_one_clear_message(arguments, code, words):
    done = run(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_ipvs_mode_is_compiled_into_a_snapshot(tmp_path):
    done = run("compile", "-f", EXTERNAL, "--node", "node-a", "--mode", "ipvs", "--out", str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    assert "-A -t 198.51.100.10:80 -s rr\n" in (tmp_path / "state/ipvsadm-save.txt").read_text()
    assert "add KUBE-EXTERNAL-IP 198.51.100.10,tcp:80\n" in (tmp_path / "state/ipset-save.txt").read_text()
    assert '"kube-ipvs0"' in (tmp_path / "state/ip-addr.json").read_text()


@pytest.mark.parametrize(
    ("ipvs", "words"),
    [
        ("{scheduler: fastest}", "KubeProxyConfiguration.ipvs.scheduler: unknown scheduler 'fastest': kube-proxy does not start; there are rr, wrr,"),
        ("{excludeCIDRs: [10.0.0.1]}", 'KubeProxyConfiguration.KubeProxyIPVSConfiguration.ExcludeCIDRs[0]: Invalid value: "10.0.0.1": must be a valid CIDR value'),
        ("{tcpTimeout: -1s}", 'KubeProxyConfiguration.KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: "-1s": must be greater than or equal to 0'),
    ],
)
def test_a_wrong_ipvs_configuration_is_named(tmp_path, ipvs, words):
    config = tmp_path / "config.yaml"
    config.write_text(f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nipvs: {ipvs}\n")
    done = run("compile", "-f", EXTERNAL, "--node", "node-a", "--mode", "ipvs", "--config", str(config))
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


MANIFESTS = [
    ("a: [1\n", "invalid YAML"),
    ("kind: Service\napiVersion: v1\nkind: Service\n", "already set"),
    ("- 1\n", "expected an object"),
    ("kind: Service\napiVersion: v1\nmetadata: {name: x}\nspec:\n  ports:\n  - port: 90x\n", 'spec.ports[0].port: Invalid value: "90x"'),
    ("kind: Service\napiVersion: v1\nmetadata: {name: x}\nspec: {ports: [{port: 80, protocol: tcp}]}\n", 'Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"'),
    ("kind: Service\napiVersion: v1\nmetadata: {name: x}\nspec: {}\n", "spec.ports: Required value"),
    ("kind: Service\napiVersion: v1\nmetadata: {name: x}\nspec: {externalIPs: [127.0.0.1], ports: [{port: 80}]}\n", "may not be in the loopback range"),
]


@pytest.mark.parametrize(("text", "words"), MANIFESTS)
def test_a_bad_manifest_names_file_line_and_field(text, words, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = run("compile", "-f", str(file), "-o", "save")
    assert done.returncode == 1
    assert words in done.stderr
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_readme_shows_what_is_really_printed():
    command = "    $ dataplane trace -f rulesets/external-ip/ --node node-a '" + PACKET + "'\n"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition(command)[2].partition("\nEvery possible outcome")[0]
    printed = run("trace", "-f", "rulesets/external-ip/", "--node", "node-a", PACKET).stdout
    assert [line.removeprefix("    ") for line in shown.rstrip("\n").split("\n")] == printed.rstrip("\n").split("\n")


def test_whoever_stops_reading_is_no_failure(snapshot):
    line = '{"id": 1, "in": "eth0", "src": "203.0.113.7", "dst": "10.9.0.1", "proto": "udp"}\n'
    command = [sys.executable, "-m", "dataplane", "trace", "--snapshot", snapshot, "--packets", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(line)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1  # told at once, while the input is still open
        process.stdout.close()
        process.stdin.write(line * 100)
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


@pytest.mark.parametrize("output", ["json", "jsonl", "trace", "text"])
def test_every_output_tells_of_the_deciding_rule(output, snapshot):
    done = run("trace", "--snapshot", snapshot, "--in", "eth0", "-v", "-o", output, "tcp 203.0.113.7:1 > 10.244.1.9:80 [flags SA]")
    assert done.returncode == 0
    assert "KUBE-FORWARD" in done.stdout
    if output.startswith("json"):
        assert json.loads(done.stdout)["outcomes"][0]["by"] == {"table": "filter", "chain": "KUBE-FORWARD", "rule": 1}
    elif output == "trace":
        assert done.stdout.startswith("TRACE: ")
        assert "PROTO=TCP SPT=1 DPT=80 SEQ=5000 ACK=1001 WINDOW=65535 RES=0x00 ACK SYN URGP=0" in done.stdout
    else:
        assert "Verdict: drop" in done.stdout


def test_colour_is_for_terminals_and_not_where_no_color_is_set(snapshot):
    import os
    import pty

    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        main, terminal = pty.openpty()
        command = [sys.executable, "-m", "dataplane", "trace", "--snapshot", snapshot, PACKET]
        plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        with subprocess.Popen(command, stdout=terminal, cwd=ROOT, env=plain | environment):
            os.close(terminal)
            text = b""
            while True:
                try:
                    part = os.read(main, 65536)
                except OSError:  # the terminal's other end is closed
                    break
                text += part
        os.close(main)
        assert (b"\033[" in text) == coloured

"""The plugin as a user meets it."""

from pathlib import Path

MANIFEST = Path(__file__).resolve().parents[2] / "rulesets/external-ip"


def test_the_readme_example_passes(pytester):
    pytester.makepyfile(f"""
        from scapy.layers.inet import IP, TCP

        def test_external_ip_reaches_a_pod(dataplane):
            node = dataplane.load({str(MANIFEST)!r}).node("node-a", mode="iptables")
            trace = node.receive(IP(src="203.0.113.7", dst="198.51.100.10") / TCP(sport=40000, dport=80), iface="eth0")
            assert trace.verdict == "forward" and trace.packet[IP].dst in {{"10.244.1.5", "10.244.2.5"}}
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_failing_assertion_shows_the_rule_path(pytester):
    pytester.makepyfile(f"""
        def test_wrong(dataplane):
            node = dataplane.load({str(MANIFEST / "manifest.yaml")!r}).node("node-a")
            assert node.receive("tcp 203.0.113.7:40000 > 198.51.100.10:80", iface="eth0").verdict == "drop"
    """)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*KUBE-SERVICES*external IP*", "*Verdict: forward*"])

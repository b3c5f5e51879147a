"""The plugin as users have it: a suite of their own, run by pytest."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PASSING = """
    from scapy.layers.inet import IP, TCP

    def test_external_ip_reaches_a_pod(dataplane):
        node = dataplane.load("manifests/").node("node-a", mode="iptables")
        trace = node.receive(IP(src="203.0.113.7", dst="198.51.100.10") / TCP(sport=40000, dport=80), iface="eth0")
        assert trace.verdict == "forward" and trace.packet[IP].dst in {"10.244.1.5", "10.244.2.5"}
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    shutil.copytree(ROOT / "rulesets/external-ip", pytester.path / "manifests")
    return pytester


def run(suite, *arguments):
    installed = entry_points(group="pytest11", name="dataplane")
    plugin = () if installed else ("-p", "dataplane.testing.plugin")
    return suite.runpytest_subprocess(*plugin, "-p", "no:cacheprovider", *arguments)


def test_the_example_of_the_readme_passes(suite):
    suite.makepyfile(PASSING)
    run(suite).assert_outcomes(passed=1)


def test_a_failing_verdict_shows_the_rule_path(suite):
    suite.makepyfile("""
        def test_dropped(dataplane):
            node = dataplane.load("manifests/").node("node-a")
            assert node.receive("tcp 203.0.113.7:40000 > 198.51.100.10:80").verdict == "drop"
    """)
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *verdict 'forward' == 'drop'*", "E *Verdict: forward*", "*dataplane: packet 1*", "*KUBE-SERVICES 2: *external IP*"])


def test_another_failing_assertion_shows_the_walks_in_sections(suite):
    suite.makepyfile("""
        from scapy.layers.inet import IP, TCP

        def test_elsewhere(dataplane):
            node = dataplane.load("manifests/").node("node-a")
            trace = node.receive(IP(src="203.0.113.7", dst="198.51.100.10") / TCP(sport=40000, dport=80), iface="eth0")
            assert trace.packet[IP].dst == "10.244.9.9"
    """)
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*dataplane: packet 1*", "*KUBE-SERVICES 2: *external IP*"])


def test_a_missing_manifest_is_one_clear_error(suite):
    suite.makepyfile("""
        def test_nothing(dataplane):
            dataplane.load("nowhere/")
    """)
    run(suite).stdout.fnmatch_lines(["E *nowhere: No such file or directory*"])


def test_paths_may_be_relative_to_the_root_directory(suite):
    deep = suite.mkdir("deep")
    (deep / "test_it.py").write_text("def test_it(dataplane):\n    assert dataplane.load('manifests/').node('node-b').notes == ()\n")
    suite.makefile(".ini", pytest="[pytest]")
    run(suite).assert_outcomes(passed=1)


def test_the_plugin_imports_neither_scapy_nor_pyroute2():
    code = "import sys, dataplane.testing.plugin; print(sorted(sys.modules.keys() & {'scapy', 'pyroute2', 'yaml', 'numpy', 'dataplane.node'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"

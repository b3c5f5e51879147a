"""apply --host: kube-proxy's part is exchanged and taken out, everybody else's rules stay. The "host" is a namespace that the test makes."""

import os
import subprocess
import sys

import pytest

from tests.adapters.test_apply import ROOT
from tests.kernel import requirements

OTHERS = """*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -j DOCKER
-A DOCKER -i eth0 -j RETURN
COMMIT
"""
COMMAND = f"{sys.executable} -m dataplane"
CASE = f"-f {ROOT}/rulesets/external-ip --node node-a"


def on_a_host(script: str) -> str:
    requirements.require()
    done = subprocess.run(
        ["unshare", "-n", "bash", "-ec", f"iptables-legacy-restore <<'E'\n{OTHERS}E\n{script}"], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def rules(save: str) -> list[str]:
    return [line for line in save.splitlines() if line.startswith(("-A", ":INPUT", ":DOCKER"))]


def test_only_kube_proxys_part_changes():
    said = on_a_host(
        f"{COMMAND} apply {CASE} --host --yes; iptables-legacy-save -t filter; echo ====; iptables-legacy-save -t nat; {COMMAND} apply {CASE} --host --yes; echo ====; "
        f"{COMMAND} cleanup --host --yes; iptables-legacy-save -t filter; iptables-legacy-save -t nat | grep KUBE || true"
    )
    applied, twice, cleaned = said.split("====\n")
    assert [line for line in rules(applied) if "KUBE" not in line] == rules(OTHERS)
    assert any(line.startswith("-A INPUT") and "-j KUBE-FIREWALL" in line for line in applied.splitlines())
    assert any(line.startswith("-A PREROUTING") and "-j KUBE-SERVICES" in line for line in twice.splitlines())
    assert "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000" in twice
    assert "nothing to change" in twice
    assert rules(cleaned) == rules(OTHERS)
    assert "KUBE" not in cleaned


def test_a_dry_run_changes_nothing():
    said = on_a_host(f"{COMMAND} apply {CASE} --host --dry-run; echo ====; iptables-legacy-save -t filter")
    assert "iptables-legacy-restore --noflush" in said.split("====")[0]
    assert rules(said.split("====\n")[1]) == rules(OTHERS)


@pytest.mark.parametrize("options", ["--host", "", "--host --netns x"])
def test_the_host_is_never_meant_by_mistake(options):
    command = [*COMMAND.split(), "apply", "-f", "rulesets/external-ip", "--node", "node-a", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "--yes" in done.stderr or "--netns NAME, or --host" in done.stderr

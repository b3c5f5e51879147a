"""The lab of the Vagrant machine, as it is: on this machine's kernel, and on the other one in user-mode-linux."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel import requirements
from tests.uml import in_uml

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "vagrant/lab.sh"
PROVISION = ROOT / "vagrant/provision.sh"
COMMAND = Path(sys.executable).with_name("dataplane")


def judged(said: str) -> None:
    for what in ("NodePort of node-a", "NodePort of node-b", "external IP"):
        line = next(line for line in said.splitlines() if line.startswith(f"{what}:"))
        counts = dict(zip(line.split(": ")[1].split()[1::2], map(int, line.split(": ")[1].split()[::2]), strict=True))
        assert set(counts) <= {"pod-a", "pod-b"}
        assert sum(counts.values()) == 10
    assert "the emulator: Verdict: forward" in said
    assert "a second apply changed no rule" in said


def test_here():
    requirements.require()
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    for script, options in ((PROVISION, {}), (LAB, {"PACKETS": "300"})):
        done = subprocess.run(["sh", str(script)], env={**os.environ, "DATAPLANE": str(COMMAND), **options}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    judged(done.stdout)
    assert "disagreements: none" in done.stdout
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(line.startswith("dp-") for line in left.splitlines())


def test_in_user_mode_linux():
    said = in_uml(
        f"export DATAPLANE={COMMAND}; sh {PROVISION} >&2; sh {LAB}", "curl", "iptables-legacy-restore", load=("veth", "bridge"),
        memory=768, timeout=280,
    )  # fmt: skip
    judged(said)


@pytest.mark.parametrize("script", [LAB, PROVISION], ids=lambda path: path.name)
def test_the_scripts_are_plain_sh(script):
    subprocess.run(["sh", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    subprocess.run(["shellcheck", "-s", "sh", str(script)], check=True)


def test_the_vagrantfile_is_ruby():
    if shutil.which("ruby") is None:
        pytest.skip("needs ruby")
    subprocess.run(["ruby", "-c", str(ROOT / "vagrant/Vagrantfile")], check=True, capture_output=True)

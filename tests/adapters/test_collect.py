"""collect, against the real kernel: what was applied is read back, twice alike, and the shell script reads the same."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataplane.adapters import namespaces
from dataplane.adapters.apply import apply
from dataplane.adapters.collect import collect, script
from dataplane.cli.collect import command
from dataplane.errors import ApplyError, InputError
from dataplane.text.difference import differences
from dataplane.text.snapshot import parse_snapshot, read_snapshot
from tests.adapters.test_apply import EXTERNAL, ROOT, compiled, netns  # noqa: F401 - a fixture

VOLATILE = ("sysctls", "links")


def changes(old, new):
    return [one for one in differences(old, new) if one.section not in VOLATILE]


@pytest.mark.parametrize("case", ["external-ip", "dual-stack", "session-affinity", "flannel-masquerade"])
def test_what_is_collected_applies_to_the_same(case, netns, tmp_path):  # noqa: F811
    state = compiled(ROOT / "rulesets" / case)
    apply(state, netns)
    files = collect(namespaces.path_of(netns), str(tmp_path / "a"))
    assert {"iptables-save.txt", "ip-addr.json", "ip-route.json", "sysctl.txt"} <= set(files)
    seen = read_snapshot(tmp_path / "a")[0]
    assert changes(state, seen) == [] or {one.section for one in changes(state, seen)} <= {"routes", "rules", "addresses"}
    assert apply(seen, netns).steps == ()  # apply(collect(x)) leaves x unchanged
    collect(namespaces.path_of(netns), str(tmp_path / "b"))
    assert changes(seen, read_snapshot(tmp_path / "b")[0]) == []


def test_the_script_reads_the_same(netns, tmp_path):  # noqa: F811
    apply(compiled(EXTERNAL), netns)
    collect(namespaces.path_of(netns), str(tmp_path / "a"))
    done = subprocess.run(["nsenter", f"--net={namespaces.path_of(netns)}", "sh"], input=script().encode(), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        texts = {Path(one.name).name: tar.extractfile(one).read().decode() for one in tar if one.isfile()}
    assert changes(read_snapshot(tmp_path / "a")[0], parse_snapshot(texts)[0]) == []


def test_the_script_is_plain_sh(tmp_path):
    path = tmp_path / "collect.sh"
    path.write_text(script())
    subprocess.run(["sh", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-s", "sh", str(path)], check=True)


def test_a_directory_that_is_there_is_left_alone(netns, tmp_path):  # noqa: F811
    namespaces.create(netns)
    with pytest.raises(InputError, match="exists already"):
        collect(namespaces.path_of(netns), str(tmp_path))


def test_a_namespace_that_is_not_there(netns, tmp_path):  # noqa: F811
    with pytest.raises(ApplyError, match="No such file"):
        collect(namespaces.path_of(netns), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_without_root_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ApplyError, match="needs root"):
        collect(None, str(tmp_path / "x"))


def test_the_namespace_of_a_process(netns, tmp_path):  # noqa: F811
    apply(compiled(EXTERNAL), netns)
    with subprocess.Popen(["nsenter", f"--net={namespaces.path_of(netns)}", "sleep", "60"]) as sleeper:
        try:
            done = CliRunner().invoke(command, ["--pid", str(sleeper.pid), "--out", str(tmp_path / "a")])
        finally:
            sleeper.kill()
    assert done.exit_code == 0, done.output
    collect(namespaces.path_of(netns), str(tmp_path / "b"))
    assert changes(read_snapshot(tmp_path / "a")[0], read_snapshot(tmp_path / "b")[0]) == []
    assert CliRunner().invoke(command, ["--pid", "1", "--netns", "x", "--out", str(tmp_path / "c")]).exit_code == 2

"""A kernel of our own for what the running one lacks (IPVS, its schedulers, dummy links): user-mode-linux on this machine's files.

One boot takes seconds and runs one script, so give a boot as many questions as there are. The machine's files are all there and can be
written; only /run is empty and gone afterwards, and modules are loaded by name as they are needed. Debian: user-mode-linux, kmod.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dataplane.errors import LabError

MODULES: Final = Path("/usr/lib/uml/modules")
_INIT: Final = """#!/bin/sh
cd {directory}
exec >stdout 2>stderr </dev/null
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run
mkdir -p /run/lib/modules && ln -s {modules}/* /run/lib/modules/
printf '#!/bin/sh\\nexec /sbin/modprobe -d /run "$@"\\n' > /run/modprobe && chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
/run/modprobe -a ipv6 {load}
ip link set lo up
sh -e script
echo $? > status
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


def boot_reason(*tools: str) -> str | None:
    """Why this machine cannot boot one and use these tools there, or None."""
    missing = [tool for tool in ("linux.uml", "modprobe", "ip", *tools) if shutil.which(tool) is None]
    if missing:
        return f"user-mode-linux needs {', '.join(missing)}"
    return None if os.geteuid() == 0 else "user-mode-linux needs root to make network namespaces"


def in_uml(
    script: str, *tools: str, files: Mapping[str, str] | None = None, load: tuple[str, ...] = ("ip_vs", "dummy"),
    memory: int = 512, timeout: float = 300,
) -> str:  # fmt: skip
    """What a shell script prints there (it stops at the first failure); ``files`` lie in the directory that it starts in.

    ``load`` names modules, ``memory`` is in MiB, ``timeout`` in seconds. LabError where it cannot boot, fails, or does not end.
    """
    reason = boot_reason(*tools)
    if reason is not None:
        raise LabError(reason)
    with tempfile.TemporaryDirectory(prefix="dataplane-uml-") as directory:
        for name, text in {"script": script, **(files or {})}.items():
            Path(directory, name).write_text(text, encoding="utf-8")
        init = Path(directory, "init")
        init.write_text(_INIT.format(directory=shlex.quote(directory), modules=MODULES, load=" ".join(load)), encoding="utf-8")
        init.chmod(0o755)
        console = _boot(init, directory, memory, timeout)
        done = Path(directory, "status")
        if not done.is_file() or done.read_text().strip() != "0":
            errors = Path(directory, "stderr")
            said = errors.read_text(errors="replace") if errors.is_file() else console
            raise LabError(f"the script failed in user-mode-linux: {said.strip()[-500:]}")
        return Path(directory, "stdout").read_text(encoding="utf-8")


def _boot(init: Path, directory: str, memory: int, timeout: float) -> str:
    """What the kernel says on its console. Its own files (the memory too) go into the directory."""
    command = [
        "linux.uml", f"mem={memory}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}", f"uml_dir={directory}/",
        "con0=null,fd:1", "con=null", "quiet",
    ]  # fmt: skip
    started = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        env={**os.environ, "TMPDIR": directory},
    )  # fmt: skip
    try:
        return started.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired as late:
        raise LabError(f"user-mode-linux did not end within {timeout:.0f} s") from late
    finally:
        if started.poll() is None:
            os.killpg(started.pid, 9)
            started.communicate()

"""Running the native tools, in a network namespace or on the host, and keeping their own words when they refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import Final

from dataplane.errors import ApplyError

_SECONDS: Final = 600
#: Descriptors that every tool inherits: locks, so that a tool which outlives us still holds them.
HELD: Final[set[int]] = set()
_PACKAGES: Final = {
    "ip": "iproute2", "ipset": "ipset", "conntrack": "conntrack", "nfacct": "nfacct", "ipvsadm": "ipvsadm", "nsenter": "util-linux", "nft": "nftables",
}  # fmt: skip
_WRITE_SYSCTLS: Final = 'while IFS="\t" read -r path value; do { printf %s "$value" > "$path"; } 2>/dev/null || echo "$path"; done'


def inside(netns: str | None, command: Sequence[str]) -> list[str]:
    """The command as it must be called to run in a namespace, given by its path (None: here)."""
    return list(command) if netns is None else ["nsenter", f"--net={netns}", *command]


def run(netns: str | None, *command: str, text: str = "") -> str:
    """What a command prints. ApplyError with its own words where it fails."""
    try:
        done = subprocess.run(
            inside(netns, command), input=text.encode(), capture_output=True, timeout=_SECONDS, check=False, pass_fds=tuple(HELD)
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ApplyError(f"{error.filename} is not installed (Debian: {package_of(str(error.filename))})") from None
    except subprocess.TimeoutExpired:
        raise ApplyError(f"{' '.join(command)}: no end within {_SECONDS} s") from None
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise ApplyError(f"{' '.join(command)}: {words or f'status {done.returncode}'}{_offending(words, text)}")
    return done.stdout.decode(errors="surrogateescape")


def _offending(words: str, text: str) -> str:
    """The line of the input that a batch tool complains about, where it gives a number."""
    numbers = [int(word.strip(".:,")) for word in words.replace("\n", " ").split() if word.strip(".:,").isdigit()]
    lines = text.split("\n")
    return next((f"\n    {number}: {lines[number - 1]}" for number in numbers if 0 < number <= len(lines) and lines[number - 1]), "")


def package_of(tool: str) -> str:
    """The Debian package of a tool."""
    return "iptables" if "tables" in tool and tool != "nft" else _PACKAGES.get(tool, tool)


def missing(tools: Iterable[str]) -> list[str]:
    """Those tools that are not installed."""
    return sorted({tool for tool in tools if shutil.which(tool) is None})


def need_root(what: str, instead: str) -> None:
    """ApplyError unless we are root; ``instead`` says what works without."""
    if os.geteuid() != 0:
        raise ApplyError(f"{what} needs root (network namespaces, netfilter); {instead}")


def sysctl_path(key: str) -> str:
    """Where a parameter lies under /proc/sys; ``net.ipv4.conf.eth0/100.rp_filter`` is of eth0.100, as sysctl(8) writes it."""
    return f"/proc/sys/{'/'.join(part.replace('/', '.') for part in key.split('.'))}"


def write_sysctls(netns: str | None, values: dict[str, str]) -> list[str]:
    """Writes kernel parameters in their order; gives those that the kernel has not or does not take."""
    if not values:
        return []
    paths = {sysctl_path(key): key for key in values}
    text = "".join(f"{path}\t{values[key]}\n" for path, key in paths.items())
    refused = run(netns, "sh", "-c", _WRITE_SYSCTLS, text=text)
    return [paths[path] for path in refused.split("\n") if path in paths]

"""Collect: a network namespace, or this host, into a snapshot directory; and the shell script that does the same without Python.

The files hold what the native tools print, as they print it: nothing is parsed on the way, so that nothing is lost and a large node is quick.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from dataplane.adapters import tools
from dataplane.errors import ApplyError, InputError, Problem
from dataplane.text.snapshot import FILES

#: Parameters that say where packets go; nothing else of sysctl is kept.
_SYSCTLS: Final = r"^net\.(ipv4|ipv6|netfilter|bridge)\."
_SAVES: Final = ("iptables-save", "ip6tables-save")
_IPVS: Final = Path("/proc/net/ip_vs")  # there once the kernel's module is loaded; asking ipvsadm would load it
_OPTIONAL: Final = ("conntrack.txt",)

_SCRIPT: Final = r"""#!/bin/sh
# Collects what says where packets go on this node, as a tar on standard output: sudo sh THIS > node.tar
# Rules, sets, virtual servers, addresses, routes, parameters under net; nothing else is read, nothing is changed.
set -u
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
have() { command -v "$1" >/dev/null 2>&1; }
keep() { # FILE COMMAND...
  file=$1; shift
  have "$1" || { echo "$1 is not installed: no $file" >&2; return 0; }
  "$@" >"$dir/$file" 2>"$dir/.err" || { echo "$*: $(cat "$dir/.err")" >&2; rm -f "$dir/$file"; }
  [ -s "$dir/$file" ] || rm -f "$dir/$file"
}
rules() { # FILE PREFIX: of the two iptables the one that has rules
  for tool in "$2-legacy-save" "$2-nft-save" "$2-save"; do
    have "$tool" || continue
    "$tool" -c >"$dir/.rules" 2>/dev/null || continue
    if grep -q '^\[' "$dir/.rules"; then mv "$dir/.rules" "$dir/$1"; return 0; fi
  done
}
rules iptables-save.txt iptables
rules ip6tables-save.txt ip6tables
@COMMANDS@
have sysctl && sysctl -a 2>/dev/null | grep -E '@SYSCTLS@' >"$dir/sysctl.txt"
rm -f "$dir/.err" "$dir/.rules"
tar -C "$dir" -cf - .
"""


def script() -> str:
    """A POSIX shell script that writes the snapshot's files as a tar to standard output."""
    plain = {file: command for file, command in FILES.items() if command.split()[0] not in (*_SAVES, "sysctl")}
    guards = {"ipvsadm-save.txt": f"[ ! -e {_IPVS} ] || "}
    lines = "\n".join(f"{guards.get(file, '')}keep {file} {command}" for file, command in plain.items())
    return _SCRIPT.replace("@COMMANDS@", lines).replace("@SYSCTLS@", _SYSCTLS)


def collect(netns: str | None, directory: str, *, connections: bool = False, say: Callable[[str], None] = lambda text: None) -> list[str]:
    """Writes a snapshot of a namespace (by its path; None: of this host). Gives the names of its files.

    ApplyError without root, where no tool is there, or one fails; InputError where the directory is there already. Nothing is half-written.
    """
    tools.need_root("dataplane collect", "dataplane trace reads any snapshot without")
    target = Path(directory).absolute()
    if target.exists():
        raise InputError(Problem("exists already: nothing was written", directory))
    texts = gather(netns, connections=connections, say=say)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        for name, text in texts.items():
            (fresh / name).write_bytes(text.encode(errors="surrogateescape"))
        fresh.rename(target)
    except OSError as error:
        raise ApplyError(f"cannot write {directory}: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return sorted(texts)


def gather(
    netns: str | None, *, connections: bool = False, flavours: Mapping[str, str] = MappingProxyType({}), say: Callable[[str], None] = lambda text: None
) -> dict[str, str]:  # fmt: skip
    """The contents of a snapshot's files by name. ApplyError where a tool fails.

    ``flavours`` says which of the two iptables is asked (``{"iptables": "nft"}``), without counters; else the one that has rules, with them.
    """
    absent = tools.missing(["ip"])
    if absent:
        raise ApplyError(f"not installed: ip (Debian: {tools.package_of('ip')})")
    texts: dict[str, str] = {}
    for file, command in FILES.items():
        words = command.split()
        if (file in _OPTIONAL and not connections) or (words[0] == "ipvsadm" and not _IPVS.exists()):
            continue
        if words[0] in _SAVES:
            prefix = words[0].removesuffix("-save")
            text = rules(netns, prefix, flavours.get(prefix))
        elif tools.missing(words[:1]):
            say(f"{words[0]} is not installed (Debian: {tools.package_of(words[0])}): no {file}")
            continue
        else:
            text = _printed(netns, words, say)
        if words[0] == "sysctl":
            text = "".join(f"{line}\n" for line in text.split("\n") if line.startswith(("net.ipv4.", "net.ipv6.", "net.netfilter.", "net.bridge.")))
        if text.strip():
            texts[file] = text
    return texts


def _printed(netns: str | None, words: list[str], say: Callable[[str], None]) -> str:
    try:
        return tools.run(netns, *words)
    except ApplyError as error:
        if words[0] == "ip":
            raise
        say(f"{error}")  # a kernel without ip_vs, ip_set or conntrack has nothing of it
        return ""


def rules(netns: str | None, prefix: str, flavour: str | None = None) -> str:
    """What iptables-save -c prints, of the flavour that has rules; "" where neither has any. Of a named flavour, without counters."""
    if flavour is not None:
        tool = f"{prefix}-{flavour}-save"
        return "" if tools.missing([tool]) else tools.run(netns, tool)
    for one in ("legacy", "nft"):
        tool = f"{prefix}-{one}-save"
        if not tools.missing([tool]):
            text = tools.run(netns, tool, "-c")
            if "\n[" in text:
                return text
    return ""

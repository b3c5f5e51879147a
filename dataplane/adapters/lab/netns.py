"""Network namespaces without names: made, entered and left by file descriptor.

A namespace here lives exactly as long as this process holds its descriptor, so nothing is left behind however the process ends:
the kernel takes the devices, rules and connections away with it. Knows nothing about packets or rules.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dataplane.errors import LabError

_CLONE_NEWNET: Final = 0x40000000
_COMMAND_SECONDS: Final = 120
_libc = ctypes.CDLL(None, use_errno=True)


class Netns:
    """A new network namespace. ``close`` (or leaving the ``with``) gives it back to the kernel."""

    def __init__(self) -> None:
        home = _this_netns()
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "a new network namespace")
            try:
                self.fd = _this_netns()
            finally:
                _check(_libc.setns(home, _CLONE_NEWNET), "the way back from a new network namespace")
        finally:
            os.close(home)

    @property
    def path(self) -> str:
        """A path by which other processes (``ip``, ``nsenter --net=``) can reach the namespace while it lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the namespace: sockets, commands and /proc/sys paths are the namespace's."""
        home = _this_netns()
        try:
            _check(_libc.setns(self.fd, _CLONE_NEWNET), "a network namespace")
            try:
                yield
            finally:
                _check(_libc.setns(home, _CLONE_NEWNET), "the way back from a network namespace")
        finally:
            os.close(home)

    def run(self, *command: str, text: str = "") -> str:
        """What a command prints that is run inside. LabError with its own words if it fails."""
        with self.inside():
            return run(*command, text=text)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """A socket that belongs to the namespace."""
        with self.inside():
            return socket.socket(family, kind, protocol)

    def close(self) -> None:
        """Gives the namespace back to the kernel."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(*command: str, text: str = "") -> str:
    """What a command prints. LabError with its own words if it fails, is missing or takes too long."""
    try:
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)} (status {done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout


def write_sysctl(key: str, value: str) -> bool:
    """Set a kernel parameter of the namespace one is in; False where the kernel has no such parameter or refuses the value."""
    try:
        sysctl_path(key).write_text(value)
    except OSError:
        return False
    return True


def sysctl_path(key: str) -> Path:
    """Where a key lies under /proc/sys; ``net.ipv4.conf.eth0/100.rp_filter`` is of eth0.100, as sysctl(8) writes it."""
    return Path("/proc/sys", *(part.replace("/", ".") for part in key.split(".")))


def _this_netns() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise LabError(f"{what}: {os.strerror(number)}")

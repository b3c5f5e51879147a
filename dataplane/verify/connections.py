"""The connection tables afterwards, conntrack's and IPVS's: the kernel's listing against the emulator's."""

from __future__ import annotations

from typing import Final, NamedTuple

from dataplane.engine.conntrack import Conn, ConnTable
from dataplane.engine.netns import Netns
from dataplane.inet import format_address, parse_address
from dataplane.rules.network import Connection, Tuple
from dataplane.text.conntrack import parse_connections

_SLACK: Final = 3.0  # seconds: what is about to expire may be gone on one side; timeouts are listed in whole seconds
_SLACK_IPVS: Final = 4.0  # its timers are coarse, too


class _Entry(NamedTuple):
    reply: Tuple
    state: str | None
    replied: bool
    assured: bool
    mark: int
    timeout: float
    random: bool
    helped: bool = False


_Key = tuple[int, int, Tuple]


def connection_differences(table: ConnTable, listing: str, now: float) -> list[str]:
    """How ``conntrack -L`` differs from the emulator's table at that moment; nothing where they agree."""
    kernel = {(one.family, one.zone, one.original): _listed(one) for one in parse_connections(listing)}
    emulator = {(one.family, one.zone, one.original): _modelled(one, now) for one in table.entries(now)}
    found = []
    for key in kernel.keys() | emulator.keys():
        theirs, ours = kernel.get(key), emulator.get(key)
        if min(one.timeout for one in (theirs, ours) if one is not None) > _SLACK:
            found += _differences(key, ours, theirs)
    return sorted(found)


def ipvs_differences(netns: Netns, listing: str, now: float) -> list[str]:
    """As ``connection_differences``, of ``ipvsadm -Lnc``."""
    kernel = dict(_ipvs_line(line) for line in listing.splitlines()[2:])
    if not kernel and not netns.state.ipvs.servers:
        return []
    netns.kernel.now = now
    emulator = {str(conn): conn.expires_at - now for conn in netns.ipvs.table}
    theirs = [line for line, left in kernel.items() if line not in emulator and left > _SLACK_IPVS]
    ours = [line for line, left in emulator.items() if line not in kernel and left > _SLACK_IPVS]
    for line in [line for line in ours if _portless(line) in {_portless(other) for other in theirs} and _masqueraded(netns, line)]:
        ours.remove(line)
        theirs.remove(next(other for other in theirs if _portless(other) == _portless(line)))
    found = [f"IPVS: only the kernel has the connection {line}" for line in theirs]
    found += [f"IPVS: only the emulator has the connection {line}" for line in ours]
    found += [
        f"IPVS: {line}: timeout: the emulator says {emulator[line]:.1f}, the kernel {kernel[line]}"
        for line in kernel.keys() & emulator.keys() if abs(kernel[line] - emulator[line]) > _SLACK_IPVS
    ]  # fmt: skip
    return sorted(found)


def _portless(line: str) -> str:
    """Without the client's port, which masquerading draws at random."""
    protocol, state, client, *others = line.split()
    return " ".join([protocol, state, client.rpartition(":")[0], *others])


def _masqueraded(netns: Netns, line: str) -> bool:
    """Whether the client is the node itself."""
    family, address = parse_address(line.split()[2].rpartition(":")[0].strip("[]"))
    return netns.kernel.fib.owner(family, address) is not None


def _ipvs_line(line: str) -> tuple[str, int]:
    """A line of ``ipvsadm -Lnc`` without the time left, and that time in seconds."""
    protocol, expires, state, *ends = line.split()
    minutes, seconds = expires.split(":")
    return f"{protocol:<3} {state:<11} {' '.join(ends)}", int(minutes) * 60 + int(seconds)


def _listed(one: Connection) -> _Entry:
    flags = one.flags
    timeout = float(one.timeout if one.timeout is not None else 0)
    return _Entry(one.reply, one.state, "UNREPLIED" not in flags, "ASSURED" in flags, one.mark, timeout, random=False)


def _modelled(one: Conn, now: float) -> _Entry:
    left = (one.timeout_at or now) - now
    random = one.random_source or one.random_destination
    return _Entry(one.reply, one.state, one.seen_reply, one.assured, one.mark, left, random, one.helper is not None)


def _differences(key: _Key, ours: _Entry | None, theirs: _Entry | None) -> list[str]:
    family, zone, original = key
    name = f"{_shown(family, original)}{f' zone {zone}' if zone else ''}"
    if ours is None:
        return [f"{name}: only the kernel has it: {theirs}"]
    if theirs is None:
        return [f"{name}: only the emulator has it: {ours}"]
    pairs = [(field, getattr(ours, field), getattr(theirs, field)) for field in ("state", "replied", "assured", "mark")]
    found = [f"{name}: {field}: the emulator says {a}, the kernel {b}" for field, a, b in pairs if a != b]
    if not ours.random and ours.reply != theirs.reply:
        found.append(f"{name}: reply: the emulator says {_shown(family, ours.reply)}, the kernel {_shown(family, theirs.reply)}")
    if abs(ours.timeout - theirs.timeout) > _SLACK and not ours.helped:  # helpers set timeouts of their own, and are not modelled
        found.append(f"{name}: timeout: the emulator says {ours.timeout:.1f}, the kernel {theirs.timeout:.0f}")
    return found


def _shown(family: int, one: Tuple) -> str:
    source, target = format_address(family, one.src), format_address(family, one.dst)
    return f"{one.protocol} {source} {one.sport} > {target} {one.dport}"

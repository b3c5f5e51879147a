"""The values of one line for ``ipvsadm -R``: addresses, masks, flags, numbers, and the servers that they make.

Source: ipvsadm 1.31 and net/netfilter/ipvs/ip_vs_ctl.c as observed.
"""

from __future__ import annotations

import re
import socket
from typing import Final

from dataplane.inet import FULL_MASK, SCTP, TCP, UDP, mask_of, parse_address
from dataplane.rules.ipvs import (
    MAX_THRESHOLD,
    MAX_TIMEOUT,
    MAX_WEIGHT,
    NO_FLAGS,
    PERSISTENCE_ENGINES,
    SCHEDULERS,
    Forwarding,
    RealServer,
    SchedulerFlags,
    Tunnel,
    VirtualServer,
)
from dataplane.text.ipvsadm_words import Given, Line, LineError

_PROTOCOLS: Final = {"tcp-service": TCP, "udp-service": UDP, "sctp-service": SCTP}
_PROTOCOL_NAMES: Final = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
_FORWARDING: Final = {"masquerading": Forwarding.MASQUERADING, "ipip": Forwarding.TUNNEL, "gatewaying": Forwarding.DIRECT_ROUTING}
#: What a tunnel of a type needs, and what else it may have.
_TUNNELS: Final[dict[str, tuple[str, ...]]] = {"ipip": (), "gue": ("tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"), "gre": ("tun-nocsum", "tun-csum")}
_DEFAULT_PERSISTENCE: Final = 360
_DOTTED: Final = re.compile(r"[0-9A-Fa-fxX]+(?:\.[0-9A-Fa-fxX]+){0,3}", re.ASCII)

Key = tuple[int, int, int, int, int]  # VirtualServer.key


def service_key(line: Line) -> Key:
    """What virtual server a line is about. LineError."""
    given = line.options.get("service-address")
    six = line.options.get("ipv6")
    if six is not None and (given is None or given.name != "fwmark-service" or six.column < given.column):
        raise LineError("-6 belongs after -f", six.column)
    if given is None:
        raise LineError("expected a virtual server: -t, -u or --sctp-service ADDRESS:PORT, or -f MARK", line.end)
    if given.name == "fwmark-service":
        return 4 if six is None else 6, 0, 0, 0, _mark(given)
    protocol = _PROTOCOLS[given.name]
    family, address, port = endpoint(given, protocol)
    return family, protocol, address, port or 0, 0


def virtual_server(line: Line, key: Key) -> VirtualServer:
    """The virtual server that -A or -E describes. LineError."""
    family, protocol, address, port, mark = key
    scheduler = line.value("scheduler") or "wlc"
    if scheduler not in SCHEDULERS:
        raise line.wrong("scheduler", f"unknown scheduler {scheduler!r}; there are {', '.join(SCHEDULERS)}")
    engine = line.value("pe") or ""
    if "pe" in line.options and engine not in PERSISTENCE_ENGINES:
        raise line.wrong("pe", f"unknown persistence engine {engine!r}; there is {', '.join(PERSISTENCE_ENGINES)}")
    persistence = line.options.get("persistent")
    if not port and not mark and persistence is None:
        raise line.wrong("service-address", "port 0 (any port) needs a persistent virtual server: -p")
    if "ops" in line.options and protocol not in (0, UDP):
        raise line.wrong("ops", "-o (each packet on its own) is only for UDP and marks")
    mask = _netmask(line.options.get("netmask"), family)
    return VirtualServer(
        family, protocol, address, port, mark, scheduler, _flags(line.options.get("sched-flags"), scheduler),
        None if persistence is None else timeout(persistence.value, persistence.column) if persistence.value else _DEFAULT_PERSISTENCE,
        None if persistence is None else mask, engine, "ops" in line.options,
    )  # fmt: skip


def real_server(line: Line, key: Key) -> RealServer:
    """The real server that -a, -e or -d describes. LineError."""
    given = line.options.get("real-server")
    if given is None:
        raise LineError("expected a real server: -r ADDRESS[:PORT]", line.end)
    family, protocol, _, service_port, mark = key
    own, address, port = endpoint(given, protocol)
    method = line.options.get("forwarding-method")
    forwarding = _FORWARDING[method.name] if method is not None else Forwarding.DIRECT_ROUTING
    removing = line.options["command"].name == "delete-server"
    if own != family and forwarding is not Forwarding.TUNNEL and not removing:
        raise LineError(f"an IPv{own} real server of an IPv{family} virtual server is only possible with a tunnel: -i", given.column)
    if not is_unicast(own, address):
        raise LineError(f"{given.value} is no address that a server can have", given.column)
    fixed = forwarding is not Forwarding.MASQUERADING and not mark and not removing
    upper, lower = (_number(line, group, MAX_THRESHOLD, 0) for group in ("u-threshold", "l-threshold"))
    if lower > upper:
        raise line.wrong("l-threshold", f"the lower threshold is above the upper one, {upper}")
    return RealServer(
        own, address, service_port if port is None or fixed else port, forwarding, _number(line, "weight", MAX_WEIGHT, 1), upper, lower,
        _tunnel(line, forwarding),
    )  # fmt: skip


def endpoint(given: Given, protocol: int) -> tuple[int, int, int | None]:
    """Family, address, and port (None where none is said). IPv6 with a port stands in brackets. LineError."""
    host, port = given.value, None
    bracketed = re.fullmatch(r"\[([^\]]*)\]:(.*)", host)
    if bracketed is not None:
        host, port = bracketed[1], bracketed[2]
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        if bracketed is not None or ":" in host:
            found = parse_address(host, 6)
        else:
            found = 4, _address4(host)
    except ValueError:
        message = f"expected ADDRESS[:PORT] (IPv6 with a port as [ADDRESS]:PORT), got {given.value!r}"
        raise LineError(message, given.column) from None
    return *found, None if port is None else _port(port, protocol, given)


def timeout(text: str, column: int, *, low: int = 1) -> int:
    """Seconds. LineError."""
    return _decimal(text, low, MAX_TIMEOUT, column, "a timeout in seconds")


def _address4(text: str) -> int:
    """As inet_aton reads it: 10.1 and 012.0.0.1 are addresses, too. Raises ValueError."""
    if not _DOTTED.fullmatch(text):
        raise ValueError(text)
    try:
        return int.from_bytes(socket.inet_aton(text), "big")
    except OSError as error:
        raise ValueError(text) from error


def _port(text: str, protocol: int, given: Given) -> int:
    if text.isascii() and text.isdigit():
        return _decimal(text, 0, 65535, given.column, "a port")
    try:
        return socket.getservbyname(text, _PROTOCOL_NAMES.get(protocol, "tcp"))
    except (OSError, ValueError):
        raise LineError(f"expected a port from 0 to 65535 or the name of a service, got {text!r}", given.column) from None


def _mark(given: Given) -> int:
    """The command prints marks above 2**31 as negative numbers, and does not read them back; here they are read."""
    mark = _decimal(given.value.removeprefix("-"), 1, (1 << 32) - 1, given.column, "a mark")
    if given.value.startswith("-") and mark > 1 << 31:
        raise LineError(f"expected a mark from 1 to 4294967295, got {given.value!r}", given.column)
    return (1 << 32) - mark if given.value.startswith("-") else mark


def _decimal(text: str, low: int, high: int, column: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise LineError(f"expected {what} from {low} to {high}, got {text!r}", column)
    return int(text)


def _number(line: Line, group: str, high: int, default: int) -> int:
    given = line.options.get(group)
    return default if given is None else _decimal(given.value, 0, high, given.column, f"a {given.name}")


def _netmask(given: Given | None, family: int) -> int | None:
    """None for the full mask. IPv4 masks may have holes."""
    if given is None:
        return None
    if family == 6:
        mask = mask_of(6, _decimal(given.value, 1, 128, given.column, "a prefix length"))
    else:
        try:
            mask = _address4(given.value)
        except ValueError:
            raise LineError(f"expected a netmask such as 255.255.255.0, got {given.value!r}", given.column) from None
    return None if mask == FULL_MASK[family] else mask


def _flags(given: Given | None, scheduler: str) -> SchedulerFlags:
    flags = NO_FLAGS
    if given is None:
        return flags
    names = dict(zip(SCHEDULERS[scheduler], SchedulerFlags, strict=False)) | {f"flag-{n}": flag for n, flag in enumerate(SchedulerFlags, 1)}
    for name in filter(None, given.value.split(",")):
        if name not in names:
            raise LineError(f"the scheduler {scheduler} has no flag {name!r}; it has {', '.join(names)}", given.column)
        flags |= names[name]
    return flags


def _tunnel(line: Line, forwarding: Forwarding) -> Tunnel | None:
    given = [line.options[group] for group in ("tun-type", "tun-port", "checksum") if group in line.options]
    if forwarding is not Forwarding.TUNNEL:
        if given:
            raise LineError(f"--{given[0].name} is only for tunnels: -i", given[0].column)
        return None
    kind = line.value("tun-type") or "ipip"
    if kind not in _TUNNELS:
        raise line.wrong("tun-type", f"unknown type of tunnel {kind!r}; there are {', '.join(_TUNNELS)}")
    for one in given:
        if one.name != "tun-type" and one.name not in _TUNNELS[kind]:
            raise LineError(f"a tunnel of type {kind} has no --{one.name}", one.column)
    port = line.options.get("tun-port")
    if kind == "gue" and port is None:
        raise LineError("a tunnel of type gue needs --tun-port", line.end)
    checksum = line.options["checksum"].name.removeprefix("tun-") if "checksum" in line.options else "nocsum"
    number = _decimal(port.value, 1, 65535, port.column, "a port") if port is not None else 0
    return Tunnel(kind, number, checksum if kind != "ipip" else "")


def is_unicast(family: int, address: int) -> bool:
    """Whether a server may have it. Link-local IPv6 and mapped IPv4 addresses are refused too (ip_vs_add_dest); which are broadcast on a link is not known here."""
    if family == 4:
        return address not in (0, FULL_MASK[4]) and address >> 28 != 0xE
    return address != 0 and address >> 120 != 0xFF and address >> 118 != 0xFE80 >> 6 and address >> 32 != 0xFFFF

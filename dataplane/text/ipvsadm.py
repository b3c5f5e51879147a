"""``ipvsadm -S -n``: reading what the command prints or ``ipvsadm -R`` takes, and printing it.

A text is carried out line by line, so that the result is what the kernel would hold; where the command goes on after some mistakes,
here all of them are reported and nothing is loaded. Printing what ``ipvsadm -S -n`` printed gives the same bytes. The command
prints neither thresholds, nor timeouts, nor the third flag of sh and mh; here they are printed where they are not the defaults,
in words that ``ipvsadm -R`` takes.
Source: ipvsadm 1.31 and net/netfilter/ipvs/ip_vs_ctl.c as observed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from socket import inet_aton
from typing import Final

from dataplane.inet import SCTP, TCP, UDP, format_address, format_endpoint, prefix_length
from dataplane.rules.ipvs import DEFAULT_TIMEOUTS, IPVS, SCHEDULERS, Forwarding, RealServer, SchedulerFlags, Timeouts, VirtualServer
from dataplane.text.ipvsadm_values import Key, is_unicast, real_server, service_key, timeout, virtual_server
from dataplane.text.ipvsadm_words import Line, LineError, split_line
from dataplane.text.problems import Problems

SERVICE_OPTIONS: Final[Mapping[int, str]] = {TCP: "-t", UDP: "-u", SCTP: "--sctp-service"}
_MASK: Final = 0xFFFFFFFF
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN_SERVER: Final = re.compile(rf"-a (\S+ \S+) -r ({_OCTET}(?:\.{_OCTET}){{3}}):(0|[1-9][0-9]{{0,4}}) -m -w (0|[1-9][0-9]{{0,8}})", re.ASCII)
_ANY_FLAGS: Final = ("flag-1", "flag-2", "flag-3")

_SERVICE: Final = frozenset({"command", "service-address", "ipv6"})
_OF_SERVICE: Final = _SERVICE | {"scheduler", "persistent", "netmask", "pe", "ops", "sched-flags"}
_OF_SERVER: Final = _SERVICE | {
    "real-server", "forwarding-method", "weight", "u-threshold", "l-threshold", "tun-type", "tun-port", "checksum",
}  # fmt: skip


def parse_save(text: str, *, file: str | None = None) -> IPVS:
    """The virtual servers that a text of ``ipvsadm -S -n`` (or for ``ipvsadm -R``) describes. ParseError with all that is wrong."""
    problems = Problems(file)
    reader = _Reader()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reader.read(line)
        except LineError as error:
            problems.add(str(error), line=number, column=error.column, source=line.rstrip())
    problems.raise_if_any()
    return IPVS(tuple([reader.frozen(key) for key in reader.services]), reader.timeouts)


def print_save(ipvs: IPVS) -> str:
    """The virtual servers as ``ipvsadm -S -n`` prints them, in the order that they have."""
    lines = [] if ipvs.timeouts == DEFAULT_TIMEOUTS else ["--set {} {} {}".format(*ipvs.timeouts)]
    for one in ipvs.servers:
        service = service_words(one)
        lines.append(f"-A {service} -s {one.scheduler}{_service_options(one)}")
        lines += [_server_line(service, server) for server in one.servers]
    return "".join(f"{line}\n" for line in lines)


# ---------------------------------------------------------------------- printing


def service_words(one: VirtualServer) -> str:
    """``-t 10.96.0.1:80``. A mark is printed as a signed number, as the command does."""
    if one.fwmark:
        return f"-f {signed(one.fwmark)}{' -6' if one.family == 6 else ''}"
    return f"{SERVICE_OPTIONS[one.protocol]} {format_endpoint(one.family, one.address, one.port)}"


def signed(value: int) -> int:
    """A number of 32 bits as C's int."""
    return (value ^ 1 << 31) - (1 << 31)


def flag_names(one: VirtualServer) -> str:
    """The scheduler's flags by its own names, with commas."""
    own = SCHEDULERS.get(one.scheduler, ())
    names = (*own, *_ANY_FLAGS[len(own) :])
    return ",".join(name for name, flag in zip(names, SchedulerFlags, strict=True) if flag in one.flags)


def netmask_text(one: VirtualServer) -> str | None:
    """An IPv4 mask or an IPv6 prefix length, None where clients are told apart by their whole address."""
    if one.netmask is None or one.persistence is None:
        return None
    return format_address(4, one.netmask) if one.family == 4 else str(prefix_length(6, one.netmask))


def _service_options(one: VirtualServer) -> str:
    mask, names = netmask_text(one), flag_names(one) if one.flags else ""
    return "".join([
        "" if one.persistence is None else f" -p {one.persistence}", "" if mask is None else f" -M {mask}",
        f" --pe {one.engine}" if one.engine else "", " -o" if one.one_packet else "", f" -b {names}" if names else "",
    ])  # fmt: skip


def _server_line(service: str, one: RealServer) -> str:
    words = f"-a {service} -r {format_endpoint(one.family, one.address, one.port)} {one.forwarding.value} -w {one.weight}"
    if one.tunnel is not None:
        words += f" --tun-type {one.tunnel.type}" + (f" --tun-port {one.tunnel.port}" if one.tunnel.port else "")
        words += f" --tun-{one.tunnel.checksum}" if one.tunnel.checksum else ""
    return words + (f" -x {one.upper}" if one.upper else "") + (f" -y {one.lower}" if one.lower else "")


# ---------------------------------------------------------------------- carrying out


class _Reader:
    """The table of virtual servers while lines change it."""

    def __init__(self) -> None:
        self.services: dict[Key, VirtualServer] = {}
        self.servers: dict[Key, dict[tuple[int, int, int], RealServer]] = {}
        self.timeouts = DEFAULT_TIMEOUTS
        self._plain: tuple[str, dict[tuple[int, int, int], RealServer]] | None = None  # of the virtual server that was added last
        self._do: Mapping[str, tuple[Callable[[Line], None], frozenset[str]]] = {  # and the options that it may have
            "add-service": (self._add_service, _OF_SERVICE),
            "edit-service": (self._edit_service, _OF_SERVICE),
            "delete-service": (self._delete_service, _SERVICE),
            "add-server": (self._add_server, _OF_SERVER),
            "edit-server": (self._edit_server, _OF_SERVER),
            "delete-server": (self._delete_server, _SERVICE | {"real-server"}),
            "clear": (self._clear, frozenset({"command"})),
            "zero": (self._zero, _SERVICE),
            "set": (self._set, frozenset({"command"})),
        }

    def frozen(self, key: Key) -> VirtualServer:
        servers = self.servers.get(key)
        return self.services[key]._replace(servers=tuple(servers.values())) if servers else self.services[key]

    def read(self, text: str) -> None:
        """Carry out one line. LineError."""
        if not self._read_plain(text):
            self._plain = None
            self._read_words(text)

    def _read_plain(self, text: str) -> bool:
        """Whether it was a masqueraded IPv4 real server as the command prints it, of the virtual server that was added last.

        Nearly all lines of a large node are such; what could be wrong with one is left to the other way of reading.
        """
        found = _PLAIN_SERVER.fullmatch(text) if self._plain is not None else None
        if found is None or self._plain is None or found[1] != self._plain[0]:
            return False
        address, port = int.from_bytes(inet_aton(found[2]), "big"), int(found[3])
        servers = self._plain[1]
        if (4, address, port) in servers or port > 65535 or not is_unicast(4, address):
            return False
        servers[4, address, port] = RealServer(4, address, port, Forwarding.MASQUERADING, int(found[4]))
        return True

    def _read_words(self, text: str) -> None:
        line = split_line(text)
        if line is None:
            return
        command = line.options.get("command")
        if command is None:
            raise LineError("expected -A, -a, -E, -e, -D, -d, -C, -Z or --set", 1)
        do, allowed = self._do[command.name]
        for group, given in line.options.items():
            if group not in allowed:
                raise LineError(f"--{command.name} has no option --{given.name}", given.start)
        if line.others and command.name != "set":
            raise LineError(f"nothing like {line.others[0].value!r} expected here", line.others[0].column)
        do(line)

    def _known(self, line: Line) -> Key:
        key = service_key(line)
        if key not in self.services:
            raise line.wrong("service-address", "there is no such virtual server")
        return key

    def _add_service(self, line: Line) -> None:
        key = service_key(line)
        if key in self.services:
            raise line.wrong("service-address", "there is such a virtual server already")
        self.services[key] = virtual_server(line, key)
        if key[0] == 4:
            self._plain = service_words(self.services[key]), self.servers.setdefault(key, {})

    def _edit_service(self, line: Line) -> None:
        key = self._known(line)
        self.services[key] = virtual_server(line, key)

    def _delete_service(self, line: Line) -> None:
        key = self._known(line)
        del self.services[key]
        self.servers.pop(key, None)

    def _server(self, line: Line) -> tuple[dict[tuple[int, int, int], RealServer], RealServer]:
        key = self._known(line)
        return self.servers.setdefault(key, {}), real_server(line, key)

    def _add_server(self, line: Line) -> None:
        servers, made = self._server(line)
        if made[:3] in servers:
            raise line.wrong("real-server", "the virtual server has such a real server already")
        servers[made[:3]] = made

    def _edit_server(self, line: Line) -> None:
        servers, made = self._server(line)
        if made[:3] not in servers:
            raise line.wrong("real-server", "the virtual server has no such real server")
        servers[made[:3]] = made

    def _delete_server(self, line: Line) -> None:
        servers, made = self._server(line)
        if servers.pop(made[:3], None) is None:
            raise line.wrong("real-server", "the virtual server has no such real server")

    def _clear(self, _line: Line) -> None:
        self.services.clear()
        self.servers.clear()

    def _zero(self, line: Line) -> None:
        """Counters are not kept here."""
        if "service-address" in line.options:
            self._known(line)

    def _set(self, line: Line) -> None:
        if len(line.others) != 3:
            raise LineError("--set needs three timeouts: TCP, TCP after a FIN, UDP", line.others[3].column if len(line.others) > 3 else line.end)
        given = [timeout(word.value, word.column, low=0) for word in line.others]
        self.timeouts = Timeouts(*(new or old for new, old in zip(given, self.timeouts, strict=True)))


def in_printed_order(ipvs: IPVS) -> IPVS:
    """The virtual servers, and the real servers of each, in the order in which the command prints them.

    The kernel keeps real servers in the order of their coming, which schedulers go by, and the command's order hides. It compares
    addresses 32 bits at a time by the sign of a 32-bit difference, so that 192.168.0.1 comes before 10.0.0.1; where addresses lie
    more than half that space apart this is no order at all: they stay as they are.
    """
    starts = {family: _starts([one.address for one in ipvs.servers if one.family == family and not one.fwmark]) for family in (4, 6)}
    ends = {family: _starts([end.address for one in ipvs.servers for end in one.servers if end.family == family]) for family in (4, 6)}

    def of_end(end: RealServer) -> tuple[int, ...]:
        return *_rotated(end.address, ends[end.family]), end.port

    def of_service(one: VirtualServer) -> tuple[int, ...]:
        return signed(one.fwmark), one.family, one.protocol, *_rotated(one.address, starts[one.family]), one.port

    made = (one._replace(servers=tuple(sorted(one.servers, key=of_end))) if len(one.servers) > 1 else one for one in ipvs.servers)
    return ipvs._replace(servers=tuple(sorted(made, key=of_service)))


_Starts = tuple[int | None, ...]


def _words(address: int) -> tuple[int, ...]:
    if address <= _MASK:
        return 0, 0, 0, address
    return address >> 96, address >> 64 & _MASK, address >> 32 & _MASK, address & _MASK


def _rotated(address: int, starts: _Starts) -> list[int]:
    return [0 if start is None else (word - start) & _MASK for word, start in zip(_words(address), starts, strict=True)]


def _starts(addresses: list[int]) -> _Starts:
    """For each 32 bits of the addresses the value that comes first; None where none does."""
    return tuple(_first(sorted(set(words))) for words in zip(*map(_words, addresses), strict=True)) or (None, None, None, None)


def _first(values: list[int]) -> int | None:
    """The value after the widest gap of the circle, if all of them then lie on one half of it."""
    if len(values) == 1:
        return values[0]
    gaps = [(value - values[at - 1]) & _MASK for at, value in enumerate(values)]
    widest = max(gaps)
    return values[gaps.index(widest)] if widest > 1 << 31 else None

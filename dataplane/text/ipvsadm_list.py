"""``ipvsadm -L -n``: the list that people look at and post, read and printed.

The command leaves out of it what tunnels are like, and thresholds; what is read from it lacks them. Hostnames
(a list made without -n) are refused. Columns may have been squeezed, the header may be missing, as in posted lists.
Source: ipvsadm 1.31 as observed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from dataplane.inet import SCTP, TCP, UDP, format_endpoint
from dataplane.rules.ipvs import IPVS, Forwarding, RealServer, Tunnel, VirtualServer
from dataplane.text.ipvsadm import flag_names, netmask_text, signed
from dataplane.text.ipvsadm_values import Key, endpoint, real_server, service_key, virtual_server
from dataplane.text.ipvsadm_words import Given, Line, LineError
from dataplane.text.problems import Problems

VERSION: Final = "1.2.1"
_TITLES: Final = ("Prot LocalAddress:Port Scheduler Flags\n", "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n")
_HEADER: Final = re.compile(r"IP Virtual Server version (\S+) \(size=([0-9]+)\)\s*")
_NAMES: Final = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
_OPTIONS: Final = {"TCP": "tcp-service", "UDP": "udp-service", "SCTP": "sctp-service", "FWM": "fwmark-service"}
_METHODS: Final = {Forwarding.MASQUERADING: "Masq", Forwarding.TUNNEL: "Tunnel", Forwarding.DIRECT_ROUTING: "Route"}
_METHOD_OPTIONS: Final = {"Masq": "masquerading", "Tunnel": "ipip", "Route": "gatewaying", "Local": "gatewaying"}
_WORD: Final = re.compile(r"\S+")


class Listing(NamedTuple):
    """``connections``: active and inactive ones by the positions of virtual and real server. ``size`` is the connection table's,
    None where there was no header.
    """

    ipvs: IPVS
    connections: Mapping[tuple[int, int], tuple[int, int]] = {}
    size: int | None = 4096
    version: str = VERSION


def print_list(listing: Listing) -> str:
    """The list as ``ipvsadm -L -n`` prints it."""
    lines = [] if listing.size is None else [f"IP Virtual Server version {listing.version} (size={listing.size})\n", *_TITLES]
    for at, one in enumerate(listing.ipvs.servers):
        lines.append(f"{_service(one)}\n")
        for place, server in enumerate(one.servers):
            active, inactive = listing.connections.get((at, place), (0, 0))
            where = format_endpoint(server.family, server.address, server.port)
            lines.append(f"  -> {where:<28} {_METHODS[server.forwarding]:<7} {server.weight:<6} {active:<10} {inactive:<10}\n")
    return "".join(lines)


def parse_list(text: str, *, file: str | None = None) -> Listing:
    """What a list tells. ParseError with all that is wrong."""
    problems = Problems(file)
    reader = _Reader()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reader.read(line)
        except LineError as error:
            problems.add(str(error), line=number, column=error.column, source=line.rstrip())
    problems.raise_if_any()
    made = tuple([one._replace(servers=tuple(servers)) for one, servers in zip(reader.services, reader.servers, strict=True)])
    return Listing(IPVS(made), reader.connections, reader.size, reader.version)


def _service(one: VirtualServer) -> str:
    if one.fwmark:
        words = [f"FWM  {signed(one.fwmark)}", *(["IPv6"] if one.family == 6 else [])]
    else:
        words = [f"{_NAMES[one.protocol]:<4} {format_endpoint(one.family, one.address, one.port)}"]
    words.append(one.scheduler)
    if one.flags:
        words.append(f"({flag_names(one)})")
    if one.persistence is not None:
        words.append(f"persistent {one.persistence}")
        mask = netmask_text(one)
        words += [f"mask {mask}"] if mask is not None else []
        words += [f"pe {one.engine}"] if one.engine else []
    return " ".join([*words, "ops"] if one.one_packet else words)


class _Reader:
    """The list as far as it has been read."""

    def __init__(self) -> None:
        self.services: list[VirtualServer] = []
        self.servers: list[list[RealServer]] = []
        self.connections: dict[tuple[int, int], tuple[int, int]] = {}
        self.size: int | None = None
        self.version = VERSION
        self._keys: set[Key] = set()
        self._lost = False  # the virtual server could not be read, so nothing is known of its real servers

    def read(self, text: str) -> None:
        header = _HEADER.fullmatch(text)
        if header is not None:
            self.version, self.size = header[1], int(header[2])
            return
        words = [Given("", found[0], found.start() + 1) for found in _WORD.finditer(text)]
        if not words or [word.value for word in words] in (_TITLES[0].split(), _TITLES[1].split()):
            return
        if words[0].value == "->":
            self._server(words, len(text.rstrip()) + 1)
            return
        self._lost = True
        self._virtual_server(words, len(text.rstrip()) + 1)
        self._lost = False

    def _virtual_server(self, words: list[Given], end: int) -> None:
        if words[0].value not in _OPTIONS or len(words) < 3:
            raise LineError("expected a virtual server (TCP, UDP, SCTP or FWM, address, scheduler) or a real server (->)", words[0].column)
        line = Line(end, {"service-address": words[1]._replace(name=_OPTIONS[words[0].value])})
        rest = words[2:]
        if words[0].value == "FWM" and rest[0].value == "IPv6":
            line.options["ipv6"] = rest.pop(0)
        _service_options(line, rest)
        key = service_key(line)
        if key in self._keys:
            raise line.wrong("service-address", "this virtual server is listed already")
        self._keys.add(key)
        self.services.append(virtual_server(line, key))
        self.servers.append([])

    def _server(self, words: list[Given], end: int) -> None:
        if self._lost:
            return
        if not self.services:
            raise LineError("a real server before the first virtual server", words[0].column)
        if len(words) != 6:
            raise LineError("expected -> ADDRESS:PORT FORWARD WEIGHT ACTIVECONN INACTCONN", words[-1].column)
        _, where, method, weight, *counts = words
        if method.value not in _METHOD_OPTIONS:
            raise LineError(f"unknown forwarding method {method.value!r}; there are {', '.join(_METHOD_OPTIONS)}", method.column)
        for count in counts:
            if not (count.value.isascii() and count.value.isdigit()):
                raise LineError(f"expected a number of connections, got {count.value!r}", count.column)
        service = self.services[-1]
        line = Line(end, {
            "command": Given("add-server", "", 1), "real-server": where, "weight": weight._replace(name="weight"),
            "forwarding-method": method._replace(name=_METHOD_OPTIONS[method.value]),
        })  # fmt: skip
        made = real_server(line, service.key)
        port = endpoint(where, service.protocol)[2]
        made = made._replace(port=port or 0, tunnel=Tunnel() if made.forwarding is Forwarding.TUNNEL else None)
        servers = self.servers[-1]
        if any(one[:3] == made[:3] for one in servers):
            raise LineError("this real server is listed already", where.column)
        self.connections[len(self.services) - 1, len(servers)] = int(counts[0].value), int(counts[1].value)
        servers.append(made)


def _service_options(line: Line, words: list[Given]) -> None:
    """Scheduler, (flags), persistent SECONDS, mask MASK, pe NAME, ops: into the options of ``ipvsadm -A``."""
    named = {"persistent": "persistent", "mask": "netmask", "pe": "pe"}
    line.options["scheduler"] = words[0]._replace(name="scheduler")
    queue = iter(words[1:])
    for word in queue:
        if word.value.startswith("(") and word.value.endswith(")"):
            line.options["sched-flags"] = Given("sched-flags", word.value[1:-1], word.column)
        elif word.value == "ops":
            line.options["ops"] = word._replace(name="ops")
        elif word.value in named:
            value = next(queue, None)
            if value is None:
                raise LineError(f"{word.value} needs a value", line.end)
            line.options[named[word.value]] = value._replace(name=named[word.value])
        else:
            raise LineError(f"expected (flags), persistent, mask, pe or ops, got {word.value!r}", word.column)

"""IPVS as frozen data: what ``ipvsadm -S -n`` holds, thresholds and timeouts too. No parsing, printing or scheduling here.

Source: include/uapi/linux/ip_vs.h, ipvsadm(8) 1.31.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntFlag
from types import MappingProxyType
from typing import Final, NamedTuple

#: The schedulers of Linux, and the names that a scheduler gives to its flags.
SCHEDULERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "rr": (), "wrr": (), "lc": (), "wlc": (), "lblc": (), "lblcr": (), "dh": (), "sh": ("sh-fallback", "sh-port"), "sed": (), "nq": (),
    "fo": (), "ovf": (), "mh": ("mh-fallback", "mh-port"),
})  # fmt: skip
#: The persistence engines of Linux.
PERSISTENCE_ENGINES: Final = ("sip",)
#: The port whose data connections the kernel knows of.
FTP: Final = 21
MAX_TIMEOUT: Final = 31 * 24 * 3600  # seconds, as ipvsadm has it
MAX_WEIGHT: Final = (1 << 31) - 1
MAX_THRESHOLD: Final = (1 << 31) - 1


class Forwarding(Enum):
    """How packets get to a real server; the value is ipvsadm's option."""

    MASQUERADING = "-m"
    TUNNEL = "-i"
    DIRECT_ROUTING = "-g"


class SchedulerFlags(IntFlag):
    """``ip_vs_service.flags``, the bits that a scheduler may use as it likes."""

    FLAG_1 = 0x08
    FLAG_2 = 0x10
    FLAG_3 = 0x20


NO_FLAGS: Final = SchedulerFlags(0)


class Tunnel(NamedTuple):
    """``type`` is ipip, gue or gre; ``port`` is gue's; ``checksum`` is nocsum, csum or remcsum (not of ipip)."""

    type: str = "ipip"
    port: int = 0
    checksum: str = ""


class RealServer(NamedTuple):
    """A destination. ``upper`` and ``lower`` are connection thresholds (0: none), ``tunnel`` belongs to Forwarding.TUNNEL only.

    The family is the virtual server's, but for tunnels. A named tuple: a node has very many.
    """

    family: int
    address: int
    port: int
    forwarding: Forwarding = Forwarding.MASQUERADING
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel: Tunnel | None = None


class VirtualServer(NamedTuple):
    """A service. With ``fwmark`` (not 0) it takes packets by their mark: protocol, address and port are then 0.

    ``persistence`` is in seconds, None for no persistence; ``netmask`` groups its clients (an IPv4 mask, of IPv6 the prefix's mask);
    None stands for the full one. ``engine`` is the persistence engine's name or empty.
    """

    family: int
    protocol: int
    address: int
    port: int
    fwmark: int = 0
    scheduler: str = "wlc"
    flags: SchedulerFlags = NO_FLAGS
    persistence: int | None = None
    netmask: int | None = None
    engine: str = ""
    one_packet: bool = False
    servers: tuple[RealServer, ...] = ()

    @property
    def key(self) -> tuple[int, int, int, int, int]:
        """What tells it from all others: family, protocol, address, port, mark."""
        return self.family, self.protocol, self.address, self.port, self.fwmark


class Timeouts(NamedTuple):
    """Seconds (``ipvsadm --set``): of TCP sessions, of those after a FIN, of UDP."""

    tcp: int = 900
    tcpfin: int = 120
    udp: int = 300


DEFAULT_TIMEOUTS: Final = Timeouts()


class IPVS(NamedTuple):
    """All virtual servers of a node, in the order in which they were read or are to be printed."""

    servers: tuple[VirtualServer, ...] = ()
    timeouts: Timeouts = DEFAULT_TIMEOUTS

"""The connections of a snapshot (``conntrack -L -o extended``) put into a namespace, and all of them taken out again.

A connection is made as the kernel itself would have: with its NAT set up, not only with two tuples that differ, or the next
packet of one that has had no answer yet would be looked up in the nat table once more. Source: nf_conntrack_netlink.c
(ctnetlink_create_conntrack, ctnetlink_setup_nat), nf_nat_core.c (nfnetlink_parse_nat_setup).
"""

from __future__ import annotations

import re
import socket
import struct
from typing import Final, NamedTuple

from dataplane.adapters.lab.dialogue import TAGS
from dataplane.adapters.lab.netlink import NETLINK_NETFILTER, attribute, nested, request
from dataplane.adapters.lab.netns import Netns
from dataplane.errors import LabError

_NEW, _DELETE = 0x100, 0x102
_CREATE_EXCLUSIVE: Final = 0x600
_ORIG, _REPLY, _STATUS, _PROTOINFO, _NAT_SRC, _TIMEOUT, _MARK, _NAT_DST, _ZONE = 1, 2, 3, 4, 6, 7, 8, 13, 18
_SEEN_REPLY, _ASSURED, _CONFIRMED = 2, 4, 8
_TCP_STATES: Final = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
)  # fmt: skip
_SCTP_STATES: Final = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT",
)  # fmt: skip
_TCP, _ICMP, _ICMPV6, _SCTP = 6, 1, 58, 132
_FIELD: Final = re.compile(r"(\S+?)=(\S*)")


class _Side(NamedTuple):
    """One direction: what stands between its ``src=`` and the next one's."""

    src: str
    dst: str
    fields: dict[str, int]

    @property
    def ports(self) -> tuple[int, int]:
        return self.fields.get("sport", 0), self.fields.get("dport", 0)


class _Connection(NamedTuple):
    protocol: int
    timeout: int
    state: str
    original: _Side
    reply: _Side
    flags: frozenset[str]
    mark: int
    zone: int


def flush(netns: Netns) -> None:
    """What ``conntrack -F`` does, for both families."""
    with netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        request(netlink, _DELETE, struct.pack("BBH", socket.AF_UNSPEC, 0, 0), "connections cannot be forgotten")


def load(netns: Netns, text: str) -> None:
    """Every connection that the text lists. LabError with the line that cannot be read or made."""
    with netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        for line in text.splitlines():
            if "src=" in line:
                request(netlink, _NEW, _message(_parsed(line)), f"conntrack entry {line!r}", _CREATE_EXCLUSIVE)


def _parsed(line: str) -> _Connection:
    words = line.split()
    if words[0] in ("ipv4", "ipv6"):
        words = words[2:]
    try:
        protocol, head = int(words[1]), [word for word in words[2:] if "=" not in word and not word.startswith("[")]
        pairs = _FIELD.findall(line)
        second = [i for i, (key, _) in enumerate(pairs) if key == "src"][1]
        original, reply = (_side(dict(part)) for part in (pairs[:second], pairs[second:]))
        last = dict(pairs)
    except (IndexError, ValueError, KeyError) as error:
        raise LabError(f"not a line of conntrack -L -o extended: {line!r}") from error
    flags = frozenset(re.findall(r"\[(\w+)\]", line))
    state = head[1] if len(head) > 1 else ""
    mark, zone = (int(last.get(key, "0")) for key in ("mark", "zone"))
    return _Connection(protocol, int(head[0]), state, original, reply, flags, mark, zone)


def _side(fields: dict[str, str]) -> _Side:
    return _Side(fields["src"], fields["dst"], {key: int(value) for key, value in fields.items() if value.isdigit()})


def _message(connection: _Connection) -> bytes:
    original, reply = connection.original, connection.reply
    family = socket.AF_INET6 if ":" in original.src else socket.AF_INET
    status = _CONFIRMED | _SEEN_REPLY * ("UNREPLIED" not in connection.flags) | _ASSURED * ("ASSURED" in connection.flags)
    plain = _Side(original.dst, original.src, reply.fields | {"sport": original.ports[1], "dport": original.ports[0]})
    if connection.protocol in (_ICMP, _ICMPV6):
        plain = _Side(original.dst, original.src, reply.fields | {"id": original.fields["id"]})
    parts = [
        nested(_ORIG, *_tuple(connection.protocol, original)),
        nested(_REPLY, *_tuple(connection.protocol, plain)),
        attribute(_STATUS, struct.pack(">I", status)),
        attribute(_TIMEOUT, struct.pack(">I", connection.timeout)),
        attribute(_MARK, struct.pack(">I", connection.mark)),
        _nat(_NAT_SRC, family, reply.dst, reply.fields.get("id", reply.ports[1])),
        _nat(_NAT_DST, family, reply.src, reply.ports[0]),
        *_state(connection),
    ]
    if connection.zone:
        parts.append(attribute(_ZONE, struct.pack(">H", connection.zone)))
    return struct.pack("BBH", family, 0, 0) + b"".join(parts)


def _tuple(protocol: int, side: _Side) -> list[bytes]:
    v6 = ":" in side.src
    family, kinds = (socket.AF_INET6, (3, 4)) if v6 else (socket.AF_INET, (1, 2))
    addresses = [attribute(kind, socket.inet_pton(family, text)) for kind, text in zip(kinds, side[:2], strict=True)]
    numbers = [attribute(1, bytes((protocol,)))]
    if protocol in (_ICMP, _ICMPV6):
        first = 7 if v6 else 4
        numbers += [attribute(first, struct.pack(">H", side.fields["id"]))]
        numbers += [attribute(first + i, bytes((side.fields[key],))) for i, key in enumerate(("type", "code"), 1)]
    elif "sport" in side.fields:
        numbers += [attribute(2 + i, struct.pack(">H", port)) for i, port in enumerate(side.ports)]
    return [nested(1, *addresses), nested(2, *numbers)]


def _nat(kind: int, family: int, address: str, port: int) -> bytes:
    """A range of one address and one port: the kernel is left no choice."""
    packed = socket.inet_pton(family, address)
    first = 1 if family == socket.AF_INET else 4
    addresses = [attribute(first, packed), attribute(first + 1, packed)]
    ports = [attribute(1, struct.pack(">H", port)), attribute(2, struct.pack(">H", port))] if port else []
    return nested(kind, *addresses, *([nested(3, *ports)] if ports else []))


def _state(connection: _Connection) -> list[bytes]:
    if connection.protocol == _TCP and connection.state in _TCP_STATES:
        return [nested(_PROTOINFO, nested(1, attribute(1, bytes((_TCP_STATES.index(connection.state),)))))]
    if connection.protocol == _SCTP and connection.state in _SCTP_STATES:
        tags = [attribute(kind, struct.pack(">I", tag)) for kind, tag in ((2, TAGS[1]), (3, TAGS[0]))]  # a listing shows none
        return [nested(_PROTOINFO, nested(3, attribute(1, bytes((_SCTP_STATES.index(connection.state),))), *tags))]
    return []

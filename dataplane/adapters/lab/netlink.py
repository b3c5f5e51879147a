"""Netlink's framing: attributes in and out, one request and its answer. Knows nothing of what attributes mean."""

from __future__ import annotations

import os
import socket
import struct

from dataplane.errors import LabError

NETLINK_NETFILTER = 12
REQUEST_ACK = 5
_ERROR = 2
_NESTED = 0x8000
_HEADER = 16


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes_of(data: bytes) -> dict[int, bytes]:
    """Attributes by type; of several of one type, the last."""
    found, offset = {}, 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def messages_of(data: bytes) -> list[tuple[int, bytes]]:
    """Type and body of every message in a datagram."""
    found, offset = [], 0
    while offset + _HEADER <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < _HEADER:
            break
        found.append((kind, data[offset + _HEADER : offset + length]))
        offset += length + 3 & ~3
    return found


def request(netlink: socket.socket, kind: int, body: bytes, what: str, flags: int = 0) -> None:
    """Send one message and wait until the kernel has taken it; what else it says is left out. LabError if it refuses."""
    netlink.send(struct.pack("=IHHII", _HEADER + len(body), kind, REQUEST_ACK | flags, 0, 0) + body)
    while True:
        for answer, payload in messages_of(netlink.recv(65536)):
            if answer == _ERROR:
                error = -struct.unpack_from("=i", payload)[0]
                if error:
                    raise LabError(f"{what}: {os.strerror(error)}")
                return

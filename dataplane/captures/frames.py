"""Where the IP packet lies in a frame: Ethernet with VLAN tags, Linux cooked, PPP, raw IP, loopback. Source: the LINKTYPE_ registry of tcpdump.org."""

from __future__ import annotations

from typing import Final, NamedTuple

NULL, ETHERNET, PPP, PPP_SERIAL, RAW, LOOP, SLL, SLL2, IPV4, IPV6 = 0, 1, 9, 50, 101, 108, 113, 276, 228, 229
#: Others' names, to tell what was not understood.
NAMES: Final = {
    NULL: "NULL", ETHERNET: "EN10MB", PPP: "PPP", 12: "RAW", 14: "RAW", PPP_SERIAL: "PPP_SERIAL", 51: "PPP_ETHER", 104: "C_HDLC", 105: "IEEE802_11", RAW: "RAW", LOOP: "LOOP",
    SLL: "LINUX_SLL", 127: "IEEE802_11_RADIO", IPV4: "IPV4", IPV6: "IPV6", 239: "NFLOG", 253: "NETLINK", SLL2: "LINUX_SLL2", 252: "WIRESHARK_UPPER_PDU",
    195: "IEEE802_15_4_WITHFCS", 220: "USB_LINUX_MMAPPED", 189: "USB_LINUX", 187: "BLUETOOTH_HCI_H4",
}  # fmt: skip
_IP_TYPES: Final = {0x0800: 4, 0x86DD: 6}
_TAGS: Final = frozenset((0x8100, 0x88A8, 0x9100))
_AF_INET6: Final = frozenset((10, 23, 24, 28, 30))  # of Linux, Windows and the BSDs


class Frame(NamedTuple):
    """Where IP begins and its family; or why there is none (``offset`` -1). ``vlans`` are the tags' IDs from outside."""

    offset: int
    family: int = 0
    why: str = ""
    vlans: tuple[int, ...] = ()


def locate(linktype: int, data: bytes) -> Frame:
    """Finds the IP packet in a frame."""
    if linktype == ETHERNET:
        return _by_ethertype(data, 12)
    if linktype in (RAW, 12, 14, IPV4, IPV6):
        return _raw(data, 0)
    if linktype in (NULL, LOOP):
        return _loopback(data, linktype)
    if linktype in (PPP, PPP_SERIAL):
        return _ppp(data)
    if linktype == SLL:
        return _by_ethertype(data, 14)
    if linktype == SLL2:
        frame = _by_ethertype(data, 0)
        return frame._replace(offset=20) if frame.offset >= 0 and not frame.vlans else frame
    return Frame(-1, why=f"link type {NAMES.get(linktype, linktype)} is not understood")


def _by_ethertype(data: bytes, place: int) -> Frame:
    vlans: list[int] = []
    while True:
        if len(data) < place + 2:
            return Frame(-1, why="cut within the link header")
        kind = data[place] << 8 | data[place + 1]
        place += 2
        if kind not in _TAGS:
            break
        vlans.append((data[place] << 8 | data[place + 1]) & 0xFFF if len(data) >= place + 2 else 0)
        place += 2
    if kind in _IP_TYPES:
        return Frame(place, _IP_TYPES[kind], vlans=tuple(vlans))
    if kind == 0x8864 and data[place + 6 : place + 8] in (b"\x00\x21", b"\x00\x57"):
        return Frame(-1, why="PPPoE session is not understood")
    return Frame(-1, why=f"ethertype {kind:#06x} is no IP" if kind >= 0x600 else "an IEEE 802.3 frame without ethertype")


def _ppp(data: bytes) -> Frame:
    """RFC 1661, with or without the address and control bytes of RFC 1662."""
    place = 2 if data[:2] == b"\xff\x03" else 0
    protocol = int.from_bytes(data[place : place + 2], "big")
    family = {0x0021: 4, 0x0057: 6}.get(protocol)
    return Frame(place + 2, family) if family else Frame(-1, why=f"PPP protocol {protocol:#06x} is no IP")


def _raw(data: bytes, place: int) -> Frame:
    version = data[place] >> 4 if len(data) > place else 0
    return Frame(place, version) if version in (4, 6) else Frame(-1, why=f"IP version {version}")


def _loopback(data: bytes, linktype: int) -> Frame:
    if len(data) < 4:
        return Frame(-1, why="cut within the link header")
    family = int.from_bytes(data[:4], "big" if linktype == LOOP or data[:2] == b"\0\0" else "little")
    if family == 2:
        return Frame(4, 4)
    return Frame(4, 6) if family in _AF_INET6 else Frame(-1, why=f"address family {family} is no IP")

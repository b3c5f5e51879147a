"""``ip -j addr``: identity with the real command, the model's fields, bad input, arbitrary input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import parse_address
from dataplane.rules.network import Address, Link
from dataplane.rules.nodestate import LOOPBACK
from dataplane.text.ipaddr import parse_links, print_links
from tests.text.referee import in_netns, sample

SAMPLES = ("ip-addr.json", "ip-addr-d.json", "ip-addr-s.json", "ip-addr-d-tunnels.json")
LINKS = """
ip link set lo up
ip link add br0 type bridge
ip link add v0 type veth peer name v1
ip link add v2 type veth peer name eth0.5
ip link set v1 master br0
ip link set v0 alias 'my "alias" \\ é'
ip link property add dev v0 altname alternative altname foo
ip tuntap add tun0 mode tun
for i in v0 v1 v2 br0 tun0; do ip link set $i up; done
ip addr add 10.0.0.1/24 dev v0
ip addr add 10.0.0.2/24 dev v0
ip addr add 10.0.0.3/24 brd + dev v0 label v0:1
ip addr add 10.9.0.1 peer 10.9.0.2/32 dev tun0
ip addr add 10.1.0.1/16 brd 10.1.255.255 scope link dev br0
ip addr add 10.2.0.1/16 scope 77 dev br0
ip addr add fd00::1/64 dev v0 nodad
ip addr add fd00::2/64 dev v0 preferred_lft 0 nodad
ip addr add fd00::5 peer fd00::6/128 dev tun0
"""


def bare(links: tuple[Link, ...]) -> tuple[Link, ...]:
    """The links as if they had been made, not read."""
    return tuple(
        link._replace(rest=(), addresses=tuple(address._replace(rest=()) for address in link.addresses)) for link in links
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_print_then_parse_is_identity(name: str) -> None:
    assert print_links(parse_links(sample(name))) == sample(name)


@pytest.mark.parametrize("options", ["", "-d", "-s", "-s -d"])
def test_real_links_print_back_byte_for_byte(options: str) -> None:
    text = in_netns(f"{LINKS}\nip -j {options} addr", "ip")
    assert print_links(parse_links(text)) == text


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_that_decides_is_kept_in_rest_alone(name: str) -> None:
    links = parse_links(sample(name))
    assert parse_links(print_links(bare(links))) == links


def test_pretty_printed_text_is_the_same() -> None:
    pretty = json.dumps(json.loads(sample("ip-addr.json")), indent=4)
    assert parse_links(pretty) == parse_links(sample("ip-addr.json"))
    assert print_links(parse_links(pretty)) == sample("ip-addr.json")


def test_numbers_keep_their_digits() -> None:
    assert '"hello_timer":0.00' in print_links(parse_links(sample("ip-addr-d.json")))


def test_fields_are_those_of_the_tool() -> None:
    links = {link.name: link for link in parse_links(sample("ip-addr-d.json"))}
    v0 = links["v0"]
    assert (v0.mtu, v0.link_type, v0.kind, v0.master) == (1500, "ether", "veth", None)
    assert v0.altnames == ("alternative-name-of-v0", "foo")
    assert (links["v1"].master, links["br0"].kind, links["lo"].flags) == ("br0", "bridge", ("LOOPBACK", "UP", "LOWER_UP"))
    assert (v0.up, v0.carrier) == (True, True)
    assert v0.addresses[0] == Address(4, parse_address("10.0.0.1")[1], 24, label="v0")
    assert v0.addresses[2].secondary
    assert v0.addresses[2].broadcast == parse_address("10.0.0.255")[1]


def test_the_far_end_of_a_link_is_the_peer() -> None:
    tun = {link.name: link for link in parse_links(sample("ip-addr-d-tunnels.json"))}["tun0"]
    assert [(address.local, address.peer) for address in tun.addresses] == [
        (parse_address("10.9.0.1")[1], parse_address("10.9.0.2")[1]),
        (parse_address("fd00::5")[1], parse_address("fd00::6")[1]),
    ]  # fmt: skip


def test_a_changed_field_is_printed_in_its_place() -> None:
    link = parse_links('[{"ifindex":2,"new":{"a":[1,null]},"ifname":"e0","flags":["UP"],"mtu":1500,"addr_info":[]}]')[0]
    assert print_links([link._replace(mtu=9000, master="br0")]) == (
        '[{"ifindex":2,"new":{"a":[1,null]},"ifname":"e0","flags":["UP"],"mtu":9000,"addr_info":[],'
        '"master":"br0","link_type":"ether"}]\n'
    )


def test_what_was_made_prints_in_the_order_of_the_tool() -> None:
    assert print_links([LOOPBACK]) == (
        '[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,"link_type":"loopback",'
        '"address":"00:00:00:00:00:00","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"},'
        '{"family":"inet6","local":"::1","prefixlen":128,"scope":"host"}]}]\n'
    )


def test_half_a_character_is_printed_as_json_spells_it() -> None:
    text = '[{"ifindex":2,"ifname":"e","flags":[],"ifalias":"\\ud800é","mtu":1500,"link_type":"ether","addr_info":[]}]\n'
    assert print_links(parse_links(text)) == text.replace("é", "\\u00e9")


def test_objects_of_links_that_were_filtered_out_are_skipped() -> None:
    assert parse_links('[{},{"ifindex":2,"ifname":"e0","flags":[],"addr_info":[{}]}]')[0].name == "e0"


ETH0 = '"ifindex":2,"ifname":"eth0","flags":["UP"]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f:1: empty; expected the JSON that `ip -j addr` prints, [] where there is nothing"),
        ("[{", "f:1:3: the JSON ends too early: Expecting property name enclosed in double quotes\n    [{\n      ^"),
        ('[{"ifindex":1', "f:1:14: the JSON ends too early: Expecting ',' delimiter\n    [{\"ifindex\":1\n                 ^"),
        ("1: lo: <LOOPBACK>", "f:1:2: not JSON: Extra data\n    1: lo: <LOOPBACK>\n     ^"),
        ("{}", "f:1: expected a list of objects as `ip -j addr` prints it, got an object"),
        ("null", "f:1: expected a list of objects as `ip -j addr` prints it, got null"),
        ("[NaN]", "f: not the JSON that `ip -j addr` prints: NaN is not JSON"),
        ("[1]", "f:1:2: [0]: expected an object, got 1"),
        ('[{"a":1}]', '*f:1:2: [0].ifname: expected the name of an interface, got nothing'),
        (f'[{{{ETH0},"mtu":"big"}}]', 'f:1:2: interface eth0: [0].mtu: expected a number from 0 to 4294967295, got "big"'),
        (f'[{{{ETH0},"mtu":true}}]', "f:1:2: interface eth0: [0].mtu: expected a number from 0 to 4294967295, got true"),
        ('[{"ifindex":2,"ifname":"e"}]', "f:1:2: interface e: [0].flags: expected a list of strings, got nothing"),
        (
            '[{"ifindex":0,"ifname":"e","flags":[]}]',
            "f:1:2: interface e: [0].ifindex: expected a number from 1 to 2147483647, got 0",
        ),
        (f"[{{{ETH0}}},\n {{{ETH0}}}]", 'f:2:2: interface eth0: [1].ifname: expected each interface once, got "eth0"'),
        (f'[{{{ETH0},"addr_info":{{}}}}]', "f:1:2: interface eth0: [0].addr_info: expected a list of objects, got an object"),
        (
            f'[{{{ETH0},"addr_info":[{{"family":"inet","local":"::1","prefixlen":33}}]}}]',
            "f:1:2: interface eth0: [0].addr_info[0].prefixlen: expected a number from 0 to 32, got 33\n"
            'f:1:2: interface eth0: [0].addr_info[0].local: expected an IPv4 address, got "::1"',
        ),
        (
            f'[{{{ETH0},"addr_info":[{{"family":"ipx"}}]}}]',
            'f:1:2: interface eth0: [0].addr_info[0].family: expected inet or inet6, got "ipx"',
        ),
        (
            f'[{{{ETH0},"addr_info":[{{"family":"inet","local":"1.2.3.4","prefixlen":8,"scope":"here"}}]}}]',
            "f:1:2: interface eth0: [0].addr_info[0].scope: "
            'expected a scope (global, site, link, host, nowhere or a number up to 255), got "here"',
        ),
        ("[" * 100000, "*f: not the JSON that `ip -j addr` prints: maximum recursion depth exceeded"),
        (f'[{{{ETH0},"x":{"[" * 50}{"]" * 50}}}]', "f:1:2: [0]: nested more than 32 levels deep"),
        ('[{"ifindex":' + "9" * 5000 + "}]", "*f: not the JSON that `ip -j addr` prints: Exceeds the limit"),
    ],
)  # fmt: skip
def test_bad_input_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_links(text, file="f")
    if message.startswith("*"):
        assert str(caught.value).startswith(message[1:])
    else:
        assert str(caught.value) == message


NAMES = st.sampled_from(["ifindex", "ifname", "flags", "addr_info", "family", "local", "linkinfo"])
VALUES = st.none() | st.integers() | st.floats() | st.text()
JSON = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)).map(json.dumps)


@settings(deadline=None)
@given(st.text() | JSON)
def test_arbitrary_json_is_read_or_refused(text: str) -> None:
    try:
        links = parse_links(text)
    except DataplaneError:
        return
    assert parse_links(print_links(links)) == links


@settings(deadline=None)
@given(st.data())
def test_damaged_text_is_read_or_refused(data: st.DataObject) -> None:
    text = sample("ip-addr-d.json")
    start = data.draw(st.integers(0, len(text)))
    text = (
        text[:start]
        + data.draw(st.sampled_from(["", "1", "null", "{}", "[]", '"x"', ","]))
        + text[start + data.draw(st.integers(0, 8)) :]
    )
    try:
        links = parse_links(text)
    except DataplaneError:
        return
    assert parse_links(print_links(links)) == links

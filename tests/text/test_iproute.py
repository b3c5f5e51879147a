"""``ip -j route show table all``: identity with the real command, the model's fields, bad input, arbitrary input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import parse_address, parse_prefix
from dataplane.rules.network import NextHop, Route
from dataplane.text.iproute import parse_routes, print_routes
from tests.text.referee import in_netns, sample

SAMPLES = {"ip-route.json": 4, "ip-route-d.json": 4, "ip-route6.json": 6, "ip-route6-d.json": 6, "ip-route-nexthops.json": 4}
ROUTES = """
ip link set lo up
ip link add v0 type veth peer name v1
ip link add br0 type bridge
for i in v0 v1 br0; do ip link set $i up; done
ip addr add 10.0.0.1/24 dev v0; ip addr add 10.0.1.1/24 dev v1; ip addr add 10.2.0.1/24 brd + dev br0
ip addr add fd00::1/64 dev v0 nodad; ip addr add fd01::1/64 dev v1 nodad
ip route add default via 10.0.0.254
ip route add 10.50.0.0/16 via 10.0.0.254 metric 50 mtu 1400 advmss 1300 proto static src 10.0.0.1
ip route add 10.51.0.0/16 nexthop via 10.0.0.253 weight 2 nexthop via 10.0.1.254 dev v1 onlink nexthop dev br0
ip route add 10.52.0.0/16 via inet6 fe80::1 dev v0
ip route add 10.53.0.0/16 nexthop via inet6 fe80::1 dev v0 nexthop via 10.0.0.3
ip route add blackhole 10.54.0.0/16
ip route add unreachable 10.55.0.0/16 metric 5 table 100
ip route add prohibit 10.56.0.0/16 proto bird
ip route add throw 10.57.0.0/16 table 200
ip route add 10.58.0.0/16 dev v0 tos 0x10
ip route add 10.58.0.0/16 dev v0 tos 0x20
ip route add 10.60.0.0/16 dev v0 proto 77 scope 44
ip route add 10.61.0.0/16 via 10.9.9.9 dev v0 onlink table 1000
ip route add local 10.62.0.0/16 dev lo
ip route add multicast 224.5.0.0/16 dev v0
ip route add 10.66.0.0/16 dev v0 congctl cubic quickack 1
ip route add 10.69.0.0/16 encap ip id 5 dst 1.1.1.1 dev v0
ip -6 route add default via fd00::ff
ip -6 route add fd50::/64 via fd00::ff metric 50 mtu 1400 proto static
ip -6 route add fd51::/64 nexthop via fd00::fe weight 2 nexthop via fd01::fe
ip -6 route add blackhole fd52::/64
ip -6 route add unreachable fd53::/64 table 100
ip -6 route add fd54::/64 from fd99::/64 via fd00::ff
ip -6 route add fd55::/64 dev v0 pref high
ip -6 route add local fd56::/64 dev lo
ip -6 route add fd57::/64 via fd00::ff src fd00::1
"""
NEXTHOPS = """
ip nexthop add id 7 via 10.0.0.7 dev v0
ip nexthop add id 8 via 10.0.0.8 dev v0
ip nexthop add id 9 group 7/8,3
ip route add 10.67.0.0/16 nhid 7
ip route add 10.68.0.0/16 nhid 9
"""


def bare(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """The routes as if they had been made, not read."""
    return tuple(route._replace(rest=(), nexthops=tuple(hop._replace(rest=()) for hop in route.nexthops)) for route in routes)


def one(fields: str, family: int = 4) -> Route:
    """The route of one object."""
    return parse_routes(f"[{{{fields}}}]", family)[0]


@pytest.mark.parametrize(("name", "family"), SAMPLES.items())
def test_print_then_parse_is_identity(name: str, family: int) -> None:
    assert print_routes(parse_routes(sample(name), family)) == sample(name)


@pytest.mark.parametrize(
    "command", ["ip -j route show table all", "ip -d -j route show table all", "ip -6 -j route show table all"]
)
@pytest.mark.parametrize("script", [ROUTES, ROUTES + NEXTHOPS, ROUTES + "ip link set v1 down"])
def test_real_routes_print_back_byte_for_byte(script: str, command: str) -> None:
    text = in_netns(f"{script}\n{command}", "ip")
    assert print_routes(parse_routes(text, 6 if "-6" in command else 4)) == text


@pytest.mark.parametrize("command", ["ip -j route show table all", "ip -6 -j route show table all"])
def test_what_was_made_prints_as_ip_prints_it(command: str) -> None:
    """Routes of which everything is modelled print the same without what was read beside them."""
    routes = parse_routes(in_netns(f"{ROUTES}\n{command}", "ip"), 6 if "-6" in command else 4)
    modelled = [route for route in routes if not {"from", "encap", "flow", "nhid"} & {name for name, _ in route.rest}]
    plain = [
        r
        for r in modelled
        if all(name not in ("mtu", "advmss", "congestion", "pref") or value == "medium" for name, value in _flat(r))
    ]
    assert print_routes(bare(tuple(plain))) == print_routes(plain)
    assert len(plain) > 10


def _flat(route: Route) -> list[tuple[str, object]]:
    metrics = dict(route.rest).get("metrics", [])
    return [*route.rest, *(pair for metric in metrics for pair in metric)]


@pytest.mark.parametrize(("name", "family"), SAMPLES.items())
def test_nothing_that_decides_is_kept_in_rest_alone(name: str, family: int) -> None:
    routes = parse_routes(sample(name), family)
    assert parse_routes(print_routes(bare(routes)), family) == routes


def test_routes_of_both_families_are_told_apart() -> None:
    routes = parse_routes(sample("ip-route.json"))
    assert {route.family for route in routes} == {4, 6}
    assert [route for route in routes if route.family == 6] == list(parse_routes(sample("ip-route6.json"), 6))


def test_a_route_has_the_fields_of_the_tool() -> None:
    route = one('"dst":"10.5.0.0/16","gateway":"10.0.0.254","dev":"v0","protocol":"static","prefsrc":"10.0.0.1","metric":50,'
                '"tos":"0x10","flags":["onlink","linkdown"],"metrics":[{"mtu":1400,"advmss":1}],"table":"100"')  # fmt: skip
    hop = NextHop("v0", parse_address("10.0.0.254")[1], onlink=True, flags=("linkdown",))
    assert route == Route(
        4, parse_prefix("10.5.0.0/16"), "unicast", 100, (hop,), 50, 0, 16, parse_address("10.0.0.1")[1], "static", 1400
    )


def test_several_next_hops() -> None:
    routes = [route for route in parse_routes(sample("ip-route.json")) if len(route.nexthops) > 1 and route.family == 4]
    assert [(hop.dev, hop.weight, hop.onlink, hop.flags) for hop in routes[0].nexthops] == [
        ("v0", 2, False, ("linkdown",)), ("v1", 1, True, ("dead", "linkdown")), ("br0", 1, False, ("linkdown",)),
    ]  # fmt: skip
    assert routes[1].nexthops[0].gateway_family == 6
    assert routes[1].nexthops[0].gateway == parse_address("fe80::1")[1]


@pytest.mark.parametrize(
    ("fields", "family", "expected"),
    [
        ('"dst":"default","dev":"e"', 4, 4),
        ('"dst":"default","dev":"e"', 6, 6),
        ('"dst":"default","gateway":"fe80::1"', 4, 6),
        ('"dst":"default","dev":"e","pref":"medium"', 4, 6),
        ('"dst":"10.0.0.0/8","via":{"family":"inet6","host":"fe80::1"}', 4, 4),
        ('"dst":"::/0","dev":"e"', 4, 6),
    ],
)
def test_the_family_is_told_by_the_route(fields: str, family: int, expected: int) -> None:
    assert one(fields, family).family == expected


def test_fields_of_a_tunnel_are_not_those_of_the_route() -> None:
    text = (
        '[{"dst":"10.69.0.0/16","encap":"ip","id":5,"src":"0.0.0.0","dst":"1.1.1.1","ttl":0,"tos":0,"dev":"v0","flags":[]}]\n'
    )
    route = parse_routes(text)[0]
    assert route.destination == parse_prefix("10.69.0.0/16")
    assert print_routes([route]) == text


def test_tables_with_a_name_of_the_node_get_a_number_and_keep_their_name() -> None:
    text = '[{"dst":"default","dev":"e","table":"vpn","flags":[]}]\n'
    route = parse_routes(text)[0]
    assert route.table > 1 << 32
    assert print_routes([route]) == text
    assert one('"dst":"1.1.1.1","dev":"e","table":"vpn"').table == route.table != one('"dst":"1.1.1.1","table":"lan"').table


def test_numbers_instead_of_names_are_understood() -> None:
    route = one('"type":"2","dst":"10.0.0.1","dev":"v0","table":"255","scope":"254"')
    assert (route.type, route.table, route.scope) == ("local", 255, 254)


def test_a_changed_field_is_printed_in_its_place() -> None:
    route = one('"dst":"default","gateway":"10.0.0.1","dev":"e","zzz":1,"metric":5,"flags":[],"metrics":[{"mtu":9,"advmss":8}]')
    hop = NextHop("f", parse_address("fe80::1")[1], gateway_family=6, onlink=True)
    assert print_routes([route._replace(metric=7, mtu=1400, nexthops=(hop,))]) == (
        '[{"dst":"default","dev":"f","zzz":1,"metric":7,"flags":["onlink"],"metrics":[{"mtu":1400,"advmss":8}],'
        '"via":{"family":"inet6","host":"fe80::1"}}]\n'
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"dst":"10.0.0"', 'route 10.0.0: [0].dst: expected an IPv4 address, a prefix or "default", got "10.0.0"'),
        ('"dst":"1.0.0.0/33"', 'route 1.0.0.0/33: [0].dst: expected an IPv4 address, a prefix or "default", got "1.0.0.0/33"'),
        ('"dev":"e"', 'route None: [0].dst: expected an IPv4 address, a prefix or "default", got nothing'),
        (
            '"dst":"default","type":"odd"',
            'route default: [0].type: expected a type of route such as unicast, local or blackhole, got "odd"',
        ),
        ('"dst":"default","table":"\\ud800"', 'route default: [0].table: expected a string, got "\\ud800"'),
        ('"dst":"default","metric":-1', "route default: [0].metric: expected a number from 0 to 4294967295, got -1"),
        ('"dst":"default","gateway":5', "route default: [0].gateway: expected an IPv4 address, got 5"),
        ('"dst":"default","via":{"family":"x","host":"y"}', 'route default: [0].via.family: expected inet or inet6, got "x"'),
        (
            '"dst":"default","nexthops":[{"weight":0}]',
            "route default: [0].nexthops[0].weight: expected a number from 1 to 65536, got 0",
        ),
        (
            '"dst":"default","nexthops":[{"via":{"family":"inet6"}}]',
            "route default: [0].nexthops[0].via.host: expected an IPv6 address, got nothing",
        ),
        ('"dst":"default","tos":"high"', 'route default: [0].tos: expected a type of service such as 0x10 or CS1, got "high"'),
        ('"dst":"default","metrics":{}', "route default: [0].metrics: expected a list of objects, got an object"),
        ('"dst":"default","flags":"dead","dev":"e"', 'route default: [0].flags: expected a list of strings, got "dead"'),
    ],
)  # fmt: skip
def test_bad_input_is_told_with_its_place(fields: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_routes(f"[{{{fields}}}]", file="f")
    assert str(caught.value) == f"f:1:2: {message}"


def test_the_command_is_named_where_the_file_is_empty() -> None:
    with pytest.raises(ParseError, match=r"empty; expected the JSON that `ip -6 -j route show table all` prints"):
        parse_routes(" \n", 6)


FIELDS = ["dst", "type", "gateway", "via", "dev", "table", "metric", "flags", "nexthops", "metrics", "encap", "tos", "weight"]
NAMES = st.sampled_from([*FIELDS, "family", "host", "mtu"])
VALUES = (
    st.none() | st.integers() | st.sampled_from(["default", "10.0.0.0/8", "fd00::1", "1.1.1.1", "local", "0x10", "vpn", ""])
)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON)).map(json.dumps))
def test_arbitrary_json_is_read_or_refused(text: str) -> None:
    try:
        routes = parse_routes(text)
    except DataplaneError:
        return
    assert parse_routes(print_routes(routes)) == routes


@settings(deadline=None)
@given(st.data())
def test_damaged_text_is_read_or_refused(data: st.DataObject) -> None:
    text = sample("ip-route.json")
    start = data.draw(st.integers(0, len(text)))
    text = (
        text[:start]
        + data.draw(st.sampled_from(["", "1", "null", "{}", "[]", '"x"', ","]))
        + text[start + data.draw(st.integers(0, 8)) :]
    )
    try:
        routes = parse_routes(text)
    except DataplaneError:
        return
    assert parse_routes(print_routes(routes)) == routes

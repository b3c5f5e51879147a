"""``ip -j rule``: identity with the real command, the model's fields, bad input, arbitrary input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import parse_prefix
from dataplane.rules.network import RoutingRule
from dataplane.text.iprule import parse_rules, print_rules
from tests.text.referee import in_netns, sample

SAMPLES = {"ip-rule.json": 4, "ip-rule-d.json": 4, "ip-rule6.json": 6}
RULES = """
ip link add v0 type veth peer name v1
ip rule add from 10.0.0.0/8 table 100
ip rule add not from 10.5.0.0/16 to 10.6.0.0/16 fwmark 0x10/0xff iif v0 oif v1 tos 0x10 priority 50 table 200
ip rule add ipproto tcp sport 80 dport 1000-2000 uidrange 0-100 lookup 1000 suppress_prefixlength 0
ip rule add priority 40 goto 32766
ip rule add priority 41 nop
ip rule add priority 42 blackhole
ip rule add priority 43 unreachable
ip rule add priority 44 prohibit
ip rule add priority 45 iif nosuch table main
ip rule add priority 46 fwmark 5 table 300 realms 5/6
ip rule add priority 47 goto 99999
ip rule add priority 48 ipproto 200 table 1
ip rule add priority 49 suppress_ifgroup 5 table main protocol 77
ip rule add priority 52 l3mdev
ip rule add priority 53 tun_id 5 table main
ip rule add priority 54 from all to 1.2.3.4 table main
ip rule add priority 58 from 0.0.0.0/0 fwmark 0/0xf table 4294967295
ip -6 rule add from fd00::/8 table 100 priority 5
ip -6 rule add fwmark 1 table 100
ip -6 rule add tos 0xb8 ipproto ipv6-icmp table main
"""
BESIDE = {"iif_detached", "unresolved", "flow_from", "tun_id", "suppress_ifgroup", "protocol", "masquerade"}


@pytest.mark.parametrize(("name", "family"), SAMPLES.items())
def test_print_then_parse_is_identity(name: str, family: int) -> None:
    assert print_rules(parse_rules(sample(name), family)) == sample(name)


@pytest.mark.parametrize("command", ["ip -j rule", "ip -d -j rule", "ip -6 -j rule", "ip -d -6 -j rule"])
def test_real_rules_print_back_byte_for_byte(command: str) -> None:
    text = in_netns(f"{RULES}\n{command}", "ip")
    assert print_rules(parse_rules(text, 6 if "-6" in command else 4)) == text


@pytest.mark.parametrize("name", ["ip-rule.json", "ip-rule6.json"])
def test_what_was_made_prints_as_ip_prints_it(name: str) -> None:
    """Rules of which everything is modelled print the same without what was read beside them."""
    rules = [rule for rule in parse_rules(sample(name), SAMPLES[name]) if not BESIDE & {field for field, _ in rule.rest}]
    assert print_rules([rule._replace(rest=()) for rule in rules]) == print_rules(rules)
    assert len(rules) > 3


@pytest.mark.parametrize(("name", "family"), SAMPLES.items())
def test_nothing_that_decides_is_kept_in_rest_alone(name: str, family: int) -> None:
    rules = parse_rules(sample(name), family)
    assert parse_rules(print_rules([rule._replace(rest=()) for rule in rules]), family) == rules


def test_a_new_namespace_has_the_rules_of_the_kernel() -> None:
    assert parse_rules(in_netns("ip -j rule", "ip")) == (
        RoutingRule(4, 0, table=255), RoutingRule(4, 32766, table=254), RoutingRule(4, 32767, table=253),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ('"src":"10.0.0.0","srclen":8,"table":"100"', RoutingRule(4, 9, parse_prefix("10.0.0.0/8"), table=100)),
        ('"src":"10.0.0.1","dst":"1.0.0.0","dstlen":8', RoutingRule(4, 9, parse_prefix("10.0.0.1"), parse_prefix("1.0.0.0/8"))),
        ('"not":null,"src":"all","iif":"a","oif":"b"', RoutingRule(4, 9, negated=True, iif="a", oif="b")),
        ('"src":"all","fwmark":"0x5"', RoutingRule(4, 9, fwmark=5, fwmask=0xFFFFFFFF)),
        ('"src":"all","fwmark":"0","fwmask":"0xf"', RoutingRule(4, 9, fwmark=0, fwmask=15)),
        ('"src":"all","goto":99', RoutingRule(4, 9, action="goto", goto=99)),
        ('"src":"all","goto":"none"', RoutingRule(4, 9, action="goto")),
        ('"src":"all","nop":null', RoutingRule(4, 9, action="nop")),
        ('"src":"all","l3mdev":null', RoutingRule(4, 9, action="l3mdev")),
        ('"src":"all","action":"prohibit"', RoutingRule(4, 9, action="prohibit")),
        ('"src":"all","ipproto":"udp","sport":53', RoutingRule(4, 9, ip_protocol=17, sport=(53, 53))),
        ('"src":"all","ipproto":"ipproto-200","dport_start":1,"dport_end":9', RoutingRule(4, 9, ip_protocol=200, dport=(1, 9))),
        ('"src":"all","uid_start":0,"uid_end":9,"tos":"CS1"', RoutingRule(4, 9, uid_range=(0, 9), tos=0x20)),
        ('"src":"all","table":"main","suppress_prefixlen":0', RoutingRule(4, 9, table=254, suppress_prefixlength=0)),
    ],
)
def test_a_rule_has_the_fields_of_the_tool(fields: str, rule: RoutingRule) -> None:
    text = f'[{{"priority":9,{fields}}}]\n'
    assert parse_rules(text) == (rule,)
    assert print_rules(parse_rules(text)) == text
    assert parse_rules(print_rules([rule])) == (rule,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"src":"everyone"', 'rule 9: [0].src: expected an IPv4 address, got "everyone"'),
        ('"src":"10.0.0.0","srclen":40', "rule 9: [0].srclen: expected a number from 0 to 32, got 40"),
        (
            '"fwmark":"0x1ffffffff"',
            'rule 9: [0].fwmark: expected a number from 0x0 to 0xffffffff as a string, got "0x1ffffffff"',
        ),
        ('"fwmark":1', "rule 9: [0].fwmark: expected a string, got 1"),
        ('"action":"nat"', 'rule 9: [0].action: expected one of blackhole, prohibit, unreachable, got "nat"'),
        ('"goto":"x"', 'rule 9: [0].goto: expected a number from 0 to 4294967295, got "x"'),
        ('"ipproto":"foo"', 'rule 9: [0].ipproto: expected the name or number of a protocol, got "foo"'),
        ('"dport":65536', "rule 9: [0].dport: expected a number from 0 to 65535, got 65536"),
        ('"sport_start":5', "rule 9: [0].sport_end: expected a number from 0 to 65535, got nothing"),
        ('"tos":"0x100"', 'rule 9: [0].tos: expected a type of service such as 0x10 or CS1, got "0x100"'),
        ('"iif":["a"]', "rule 9: [0].iif: expected a string, got a list"),
    ],
)
def test_bad_input_is_told_with_its_place(fields: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_rules(f'[{{"priority":9,{fields}}}]', file="f")
    assert str(caught.value) == f"f:1:2: {message}"


FIELDS = [
    "priority",
    "src",
    "srclen",
    "dst",
    "not",
    "fwmark",
    "fwmask",
    "goto",
    "nop",
    "table",
    "dport",
    "tos",
    "ipproto",
    "iif",
]
VALUES = st.none() | st.integers() | st.sampled_from(["all", "10.0.0.0", "0x10", "main", "vpn", "tcp", ""])


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES)).map(json.dumps))
def test_arbitrary_json_is_read_or_refused(text: str) -> None:
    try:
        rules = parse_rules(text)
    except DataplaneError:
        return
    assert parse_rules(print_rules(rules)) == rules

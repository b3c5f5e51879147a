"""One rule's text: what is printed reads as itself, and whatever the words are, only RuleError comes out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.text.iptables_rule import RuleError, print_rule, read_rule, split
from tests.text.test_iptables_tool import rules

WORDS = sorted({word for _, _, rule in rules() for word in rule.split()})
#: Names that hold a blank are printed without quotes, as the real tool prints them.
UNQUOTED = '"a b"'


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_printed_reads_as_itself(family):
    for _, _, text in (rule for rule in rules() if rule[0] == family and (UNQUOTED not in rule[2] or "log-prefix" in rule[2])):
        try:
            printed = [print_rule(rule, family) for rule in read_rule(split(text), family, {"USERCHAIN"})]
        except RuleError:
            continue
        for one in printed:
            assert [print_rule(rule, family) for rule in read_rule(split(one), family, {"USERCHAIN"})] == [one]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "!", "", "-1", "0x", "٣", "²", "1_0", "nan", ":", ",", "/"]), max_size=8), st.sampled_from([4, 6]))
def test_only_rule_errors_come_out(words, family):
    try:
        for rule in read_rule(split(" ".join(words)), family, {"USERCHAIN"}):
            print_rule(rule, family)
    except RuleError:
        pass


WRONG = [
    ("-s web.example.org", "names are not resolved"),
    ("-m owner --uid-owner alice", "names of users and groups are not resolved"),
    ("-m hl --hl-eq 5", "hl is for IPv6 only"),
    ("-p udp -m tcp --dport 5", "-p of its own protocol"),
    ("-p tcp -jACCEPT", "must be a word of its own"),
    ("-m conntrack --ctorigs 1.1.1.1", "it may be ctorigsrc, ctorigsrcport"),
    ("-m statistic --mode nth --every 3", "--every also requires --packet"),
    ("-j MARK --set-mark 1 --or-mark 2", "--set-xmark is given twice"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(RuleError, match=words):
        read_rule(split(text), 4)


def test_root_and_localhost_are_the_same_everywhere():
    assert print_rule(read_rule(split("-s localhost -m owner --uid-owner root"), 4)[0], 4) == "-s 127.0.0.1/32 -m owner --uid-owner 0"

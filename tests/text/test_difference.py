"""Differences: applied to the old state they give the new one, they are small, and the real tool agrees."""

import subprocess

import pytest
from hypothesis import given, settings

from dataplane.rules.ipset import IPSets
from dataplane.rules.nodestate import NodeState
from dataplane.testing.strategies import rule_sets
from dataplane.text import ipset
from dataplane.text.difference import differences, restore_input, set_inputs
from dataplane.text.iptables import apply_restore, parse_save, print_save
from tests.kernel import requirements

OLD = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:A - [0:0]
:GONE - [0:0]
-A INPUT -j A
-A INPUT -s 10.0.0.1/32 -j DROP
-A FORWARD -j GONE
-A A -s 10.0.0.2/32 -j ACCEPT
-A A -s 10.0.0.3/32 -j ACCEPT
-A A -s 10.0.0.4/32 -j ACCEPT
-A A -s 10.0.0.5/32 -j ACCEPT
-A A -s 10.0.0.6/32 -j ACCEPT
-A GONE -j DROP
COMMIT
"""
NEW = """*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:A - [0:0]
:B - [0:0]
-A INPUT -j B
-A INPUT -j A
-A INPUT -s 10.0.0.1/32 -j DROP
-A A -s 10.0.0.2/32 -j ACCEPT
-A A -s 10.0.0.3/32 -j ACCEPT
-A A -s 10.0.0.99/32 -j B
-A A -s 10.0.0.5/32 -j ACCEPT
-A A -s 10.0.0.6/32 -j ACCEPT
-A A -s 10.0.0.7/32 -j ACCEPT
-A B -j RETURN
COMMIT
"""


def read(text):
    return parse_save(text, 4).xtables


def chains(xtables):
    return {
        (name, chain): (one.policy, one.rules) for name, table in xtables.tables.items() for chain, one in table.chains.items()
        if one.rules or one.policy != "ACCEPT"
    }  # fmt: skip


def test_only_what_differs_is_sent():
    assert restore_input(read(OLD), read(NEW)) == (
        "*filter\n:B - [0:0]\n-P INPUT DROP\n-I INPUT 1 -j B\n-F FORWARD\n-D A 3\n-I A 3 -s 10.0.0.99/32 -j B\n-A A -s 10.0.0.7/32 -j ACCEPT\n"
        "-A B -j RETURN\n-F GONE\n-X GONE\nCOMMIT\n"
    )
    assert restore_input(read(NEW), read(NEW)) == ""


def test_the_real_tool_gets_there_and_keeps_counters():
    requirements.require()
    counted = OLD.replace("-A A -s 10.0.0.5/32", "[7:700] -A A -s 10.0.0.5/32")
    script = "iptables-legacy-restore -c; iptables-legacy-restore --noflush <&3 && iptables-legacy-save -c"
    done = subprocess.run(
        ["unshare", "-n", "bash", "-c", script.replace("<&3", f"<<'E'\n{restore_input(read(counted), read(NEW))}E\ntrue")], input=counted, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert chains(read(done.stdout)) == chains(read(NEW))
    assert "[7:700] -A A -s 10.0.0.5/32 -j ACCEPT" in done.stdout


@settings(max_examples=150, deadline=None)
@given(rule_sets().map(read), rule_sets().map(read))
def test_what_is_printed_leads_there(old, new):
    there = apply_restore(old, restore_input(old, new), 4, noflush=True) if restore_input(old, new) else old
    assert chains(there) == chains(new)
    assert restore_input(there, new) == ""
    assert not list(differences(NodeState(iptables=there), NodeState(iptables=new)))


def test_for_people():
    found = list(differences(NodeState(iptables=read(OLD), sysctls={"a": "1"}), NodeState(iptables=read(NEW), sysctls={"a": "2"})))
    assert ("iptables filter A", ("-A A -s 10.0.0.4/32 -j ACCEPT",), ("-A A -s 10.0.0.99/32 -j B", "-A A -s 10.0.0.7/32 -j ACCEPT")) in found
    assert found[-1] == ("sysctls", ("a = 1",), ("a = 2",))


SETS = "create S hash:ip,port family inet hashsize 1024 maxelem 65536\nadd S 10.0.0.1,tcp:80\nadd S 10.0.0.2,tcp:80\n"


def test_sets():
    old = ipset.parse_save(SETS + "create OLD bitmap:port range 0-65535\n")
    new = ipset.parse_save(SETS.replace("10.0.0.2,tcp", "10.0.0.3,udp").replace("hashsize 1024", "hashsize 2048"))
    assert set_inputs(old, new) == ("del S 10.0.0.2,tcp:80\nadd S 10.0.0.3,udp:80\n", "destroy OLD\n")
    assert set_inputs(IPSets(), new)[0].startswith("create S hash:ip,port")


def test_saves_are_told_apart_by_more_than_counters():
    assert print_save(read(OLD)) != print_save(read(NEW))
    assert restore_input(read(OLD), read(OLD.replace("[0:0]", "[5:6]"))) == ""


@pytest.mark.parametrize("empty", ["", "*filter\nCOMMIT\n"])
def test_to_nothing(empty):
    assert chains(apply_restore(read(OLD), restore_input(read(OLD), read(empty)), 4, noflush=True)) == {}

"""Kernel parameters: the table of defaults against a fresh network namespace, and what stands in for what was not given."""

from __future__ import annotations

import pytest

from dataplane.errors import InputError
from dataplane.rules.sysctls import DEFAULTS, Sysctls
from dataplane.text.sysctl import parse_sysctls
from tests.text.referee import in_netns, sample

#: Sizes that follow the machine's memory, and what newer kernels have or older ones had otherwise.
OF_THE_MACHINE = {"net.netfilter.nf_conntrack_max"}


def test_defaults_are_those_of_a_fresh_namespace() -> None:
    real = parse_sysctls(in_netns("sysctl -a 2>/dev/null", "sysctl"))
    assert {name: real[name] for name in DEFAULTS if name in real and name not in OF_THE_MACHINE} == {
        name: value for name, value in DEFAULTS.items() if name in real and name not in OF_THE_MACHINE
    }
    assert len(DEFAULTS.keys() & real.keys()) > 150


def test_defaults_are_those_of_the_sample() -> None:
    real = parse_sysctls(sample("sysctl.txt"))
    known = (DEFAULTS.keys() & real.keys()) - OF_THE_MACHINE
    assert {name: real[name] for name in known} == {name: DEFAULTS[name] for name in known}


def test_an_interface_that_was_not_given_is_as_the_kernel_would_have_made_it() -> None:
    """Writing "default", or "all" where that is copied, before the interface is made."""
    script = """
    sysctl -q -w net.ipv4.conf.default.rp_filter=2 net.ipv4.conf.all.rp_filter=1 net.ipv4.ip_forward=1
    sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.hop_limit=9
    ip link add a.b type veth peer name v1
    sysctl -a 2>/dev/null
    """
    real = parse_sysctls(in_netns(script, "sysctl", "ip"))
    given = {
        "net.ipv4.conf.default.rp_filter": "2", "net.ipv4.conf.all.rp_filter": "1", "net.ipv4.ip_forward": "1",
        "net.ipv6.conf.all.forwarding": "1", "net.ipv6.conf.default.hop_limit": "9",
    }  # fmt: skip
    sysctls = Sysctls(given)
    for family, key in ((4, "rp_filter"), (4, "forwarding"), (4, "route_localnet"), (6, "forwarding"), (6, "hop_limit")):
        for interface in ("all", "default", "lo", "a.b"):
            if (interface, key) == ("lo", "hop_limit"):  # IPv6 does not copy "default" to what is there already
                continue
            expected = int(real[f"net.ipv{family}.conf.{interface.replace('.', '/')}.{key}"])
            assert sysctls.conf(family, interface, key) == expected, (family, interface, key)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({}, "net.ipv4.ip_forward", 0),
        ({}, "net.ipv4.ip_default_ttl", 64),
        ({}, "net.netfilter.nf_conntrack_tcp_timeout_established", 432000),
        ({}, "net.ipv4.conf.lo.disable_policy", 1),
        ({}, "net.ipv4.conf.eth0.accept_source_route", 1),
        ({}, "net.ipv4.conf.all.accept_source_route", 0),
        ({"net.ipv4.ip_forward": "1"}, "net.ipv4.conf.all.forwarding", 1),
        ({"net.ipv4.conf.all.forwarding": "1"}, "net.ipv4.ip_forward", 1),
        ({"net.ipv4.ip_forward": "1"}, "net.ipv4.conf.eth0.forwarding", 1),
        ({"net.ipv4.ip_forward": "1", "net.ipv4.conf.eth0.forwarding": "0"}, "net.ipv4.conf.eth0.forwarding", 0),
        ({"net.ipv4.conf.all.rp_filter": "1"}, "net.ipv4.conf.eth0.rp_filter", 0),
        ({"net.ipv4.conf.default.rp_filter": "1"}, "net.ipv4.conf.eth0.rp_filter", 1),
        ({"net.ipv6.conf.all.disable_ipv6": "1"}, "net.ipv6.conf.eth0.disable_ipv6", 1),
        ({"net.ipv6.conf.all.disable_ipv6": "1"}, "net.ipv6.conf.default.disable_ipv6", 1),
    ],
)
def test_what_was_not_given(given: dict[str, str], name: str, value: int) -> None:
    assert Sysctls(given).int(name) == value


def test_a_dot_in_the_name_of_an_interface_is_a_slash() -> None:
    assert Sysctls({"net.ipv4.conf.eth0/100.rp_filter": "2"}).conf(4, "eth0.100", "rp_filter") == 2


def test_texts_stay_texts() -> None:
    assert Sysctls().get("net.ipv4.ip_local_port_range") == "32768\t60999"


def test_a_text_where_a_number_belongs_is_told() -> None:
    with pytest.raises(InputError) as caught:
        Sysctls({"net.ipv4.ip_forward": "on"}).int("net.ipv4.ip_forward")
    assert str(caught.value) == "sysctl net.ipv4.ip_forward: expected a number, got 'on'"


@pytest.mark.parametrize("name", ["net.ipv4.nonsense", "net.ipv4.conf.eth0.nonsense", "nonsense"])
def test_a_name_without_a_default_is_a_mistake_of_the_caller(name: str) -> None:
    with pytest.raises(KeyError):
        Sysctls().get(name)

"""``sysctl -a``: identity with the real command, spellings, bad input, arbitrary input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.rules.sysctls import Sysctls
from dataplane.text.sysctl import parse_sysctls, print_sysctls
from tests.text.referee import in_netns, sample


def test_print_then_parse_is_identity() -> None:
    assert print_sysctls(parse_sysctls(sample("sysctl.txt"))) == sample("sysctl.txt")


def test_real_parameters_print_back_byte_for_byte() -> None:
    text = in_netns("ip link add eth0.5 type veth peer name v1; sysctl -a 2>/dev/null", "ip", "sysctl")
    assert "net.ipv4.conf.eth0/5.rp_filter = 0\n" in text
    assert print_sysctls(parse_sysctls(text)) == text


@pytest.mark.parametrize(
    "line",
    [
        "net.ipv4.conf.eth0/5.rp_filter = 2",
        "net.ipv4.conf.eth0/5.rp_filter=2",
        "net/ipv4/conf/eth0.5/rp_filter = 2",
        "  net/ipv4/conf/eth0.5/rp_filter=2\r",
        "net.ipv4.conf.eth0/5.rp_filter = 1\nnet.ipv4.conf.eth0/5.rp_filter = 2",
        "# a comment\n; another\n\nsysctl: permission denied on key 'net.ipv4.route.flush'\nnet.ipv4.conf.eth0/5.rp_filter = 2",
    ],
)
def test_spellings_of_one_parameter(line: str) -> None:
    values = parse_sysctls(line)
    assert dict(values) == {"net.ipv4.conf.eth0/5.rp_filter": "2"}
    assert Sysctls(values).conf(4, "eth0.5", "rp_filter") == 2


def test_values_are_kept_as_they_are() -> None:
    text = (
        "net.ipv4.ip_local_port_range = 1\t9\nnet.ipv4.ip_local_reserved_ports = \nkernel.modes = file\nkernel.modes = pipe\n"
    )
    assert dict(parse_sysctls(text)) == {
        "net.ipv4.ip_local_port_range": "1\t9", "net.ipv4.ip_local_reserved_ports": "", "kernel.modes": "file\npipe",
    }  # fmt: skip
    assert print_sysctls(parse_sysctls(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net.ipv4.ip_forward", "f:1: expected NAME = VALUE, got 'net.ipv4.ip_forward'"),
        ("net ipv4 = 1", "f:1: expected NAME = VALUE, got 'net ipv4 = 1'"),
        ("= 1", "f:1: expected NAME = VALUE, got '= 1'"),
        ("net..x = 1", "f:1: expected NAME = VALUE, got 'net..x = 1'"),
        ("{}", "f:1: expected NAME = VALUE, got '{}'"),
        (
            "net.ipv4.ip_forward = yes",
            "f:1:23: net.ipv4.ip_forward: expected a number, got 'yes'\n"
            "    net.ipv4.ip_forward = yes\n                          ^",
        ),
        (
            "\nnet.ipv4.conf.eth0.rp_filter =",
            "f:2:31: net.ipv4.conf.eth0.rp_filter: expected a number, got ''\n"
            "    net.ipv4.conf.eth0.rp_filter =\n                                  ^",
        ),
    ],
)
def test_bad_input_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_sysctls(text, file="f")
    assert str(caught.value) == message


NAMES = st.sampled_from(["net.ipv4.ip_forward", "net/ipv4/conf/a.b/rp_filter", "a", "a.b", "x/y.z", "kernel.a"])


@settings(deadline=None)
@given(
    st.text() | st.lists(st.tuples(NAMES, st.sampled_from([" = ", "=", " ="]), st.text(max_size=5)).map("".join)).map("\n".join)
)
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    try:
        values = parse_sysctls(text)
    except DataplaneError:
        return
    assert parse_sysctls(print_sysctls(values)) == values

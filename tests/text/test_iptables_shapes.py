"""The shortcut for common lines: whatever fits a shape is printed as the general reader and printer do it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import ParseError
from dataplane.text.iptables import parse_save, print_rule, print_save
from dataplane.text.iptables_chains import read_line
from dataplane.text.iptables_shapes import canonical, shape
from tests.shared import cases, needs_shared

CHAINS = ("KUBE-SVC-A", "KUBE-SEP-B", "KUBE-MARK-MASQ")
INPUTS = cases("goldens/*/iptables/restore-input*.txt") + cases("goldens/*/iptables/ip*tables-save.txt")


def general(line: str, family: int, chains) -> str:
    name, rules = read_line(line, 1, family, chains, "line")
    assert len(rules) == 1
    words = print_rule(rules[0], family)
    return f"-A {name} {words}" if words else f"-A {name}"


def choice(*values):
    return st.sampled_from(values)


V4 = choice("10.0.0.1", "255.255.255.255", "0.0.0.0", "192.168.1.99", "256.1.1.1", "1.2.3", "01.2.3.4")
V6 = choice("fd00::1", "::", "::1", "1:2:3:4:5:6:7:8", "1::8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2::3::4", "fd00:0:0:1::0", "12345::", "::ffff:1")
WORDS = choice("", " -m comment --comment plain", ' -m comment --comment "plain"', ' -m comment --comment "two words"', " -m comment --comment a/b:c")


@st.composite
def lines(draw, family):
    address = draw(V4 if family == 4 else V6)
    length = draw(st.integers(0, 33 if family == 4 else 129))
    protocol, other = draw(choice("tcp", "udp", "sctp")), draw(choice("tcp", "udp"))
    port = draw(choice(0, 1, 80, 8080, 59999, 60000, 65535, 65536))
    end = f"{address}:{port}" if family == 4 else f"[{address}]:{port}"
    matched = [
        draw(choice("", f" -s {address}", f" -s {address}/{length}", f" ! -s {address}/{length}")), draw(choice("", f" -d {address}/{length}", f" -d {address}")),
        draw(choice("", f" -p {protocol}")), draw(WORDS), draw(choice("", f" -m {other}", f" -m {other} -p {other}", f" -m {other} --dport {port}")),
        draw(choice("", " -m statistic --mode random --probability 0.33333333349", " -m statistic --mode random --probability 0.3333333333")),
    ]  # fmt: skip
    if draw(st.booleans()):
        matched = draw(st.permutations(matched))
    jump = draw(choice("ACCEPT", "DROP", "RETURN", *CHAINS, "KUBE-NOT-THERE", "REJECT", f"DNAT --to-destination {end}"))
    return f"-A {draw(choice(*CHAINS))}{''.join(matched)} -j {jump}"


@pytest.mark.parametrize("family", [4, 6])
@settings(max_examples=3000)
@given(st.data())
def test_a_shape_is_printed_as_the_general_reader_does(family, data):
    line = data.draw(lines(family))
    found = shape(family).fullmatch(f"{line}\n")
    if found is None or found["jump"] == "KUBE-NOT-THERE" or found["fed_jump"] == "KUBE-NOT-THERE":
        return
    printed = canonical(found, family)
    assert printed is None or printed == general(line, family, CHAINS)


@needs_shared
@pytest.mark.parametrize("path", INPUTS, ids=lambda path: "-".join(path.parts[-3:]))
def test_most_lines_of_kube_proxys_have_a_shape(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("-A ")]
    family = 6 if "6" in path.name or any("[" in line.partition("--to-destination")[2] for line in lines) else 4
    fits = 0
    chains = {line[1:].split()[0] for line in path.read_text().splitlines() if line.startswith(":")}
    for line in lines:
        found = shape(family).fullmatch(f"{line}\n")
        if found is not None:
            fits += 1
            assert canonical(found, family) == general(line, family, chains)
    assert fits >= len(lines) // 5


def test_a_chain_in_several_pieces_and_edited_keeps_its_order():
    text = (
        "*nat\n:KUBE-A - [0:0]\n:KUBE-B - [5:300]\n-A KUBE-A -s 10.0.0.1/32 -j ACCEPT\n-A PREROUTING -j KUBE-A\n[1:2] -A KUBE-A -j DROP\n"
        "-A KUBE-A -m mark --mark 0x1 -j KUBE-B\n-A KUBE-A -j RETURN\n-I KUBE-A 2 -i eth0 -j RETURN\n-D KUBE-A 4\n-A KUBE-A -s 10.0.0.2/32 -j ACCEPT\nCOMMIT\n"
    )
    printed = print_save(parse_save(text, 4).xtables)
    assert [line for line in printed.splitlines() if "-A KUBE-A" in line] == [
        "-A KUBE-A -s 10.0.0.1/32 -j ACCEPT", "-A KUBE-A -i eth0 -j RETURN", "[1:2] -A KUBE-A -j DROP", "-A KUBE-A -j RETURN", "-A KUBE-A -s 10.0.0.2/32 -j ACCEPT",
    ]  # fmt: skip
    assert ":KUBE-B - [5:300]\n" in printed


@settings(max_examples=300)
@given(st.lists(choice(
    ":KUBE-A - [0:0]", ":KUBE-B - [0:0]", "-A KUBE-A -j KUBE-B", "-A KUBE-B -j RETURN", "-A KUBE-A -s 10.0.0.1/32 -j ACCEPT", "-A PREROUTING -j KUBE-A", "# x", "",
    "-A KUBE-C -j DROP", "x-A KUBE-A -j DROP", "-F KUBE-A", "-I KUBE-B -j DROP", "[0:0] -A KUBE-B -j DROP", "COMMIT", "*nat", "-A KUBE-B -j KUBE-A",
)))  # fmt: skip
def test_the_sweep_and_the_line_reader_agree(given_lines):
    """A blank behind a line takes its shape away and changes nothing else."""
    plain = "*nat\n" + "\n".join(given_lines) + "\nCOMMIT\n"
    odd = "*nat\n" + "\n".join(f"{line} " if line[:1] in "-[" and line else line for line in given_lines) + "\nCOMMIT\n"
    results = []
    for text in (plain, odd):
        try:
            results.append(print_save(parse_save(text, 4).xtables))
        except ParseError as error:
            results.append([(one.message.replace(" '", "'"), one.line) for one in error.problems])
    assert results[0] == results[1]

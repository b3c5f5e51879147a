"""iptables-save text: identity, canonical spelling, errors with their place, and that nothing but ParseError comes out."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import InputError, ParseError
from dataplane.testing.strategies import rule_sets
from dataplane.text.iptables import apply_restore, parse_save, print_save
from tests.shared import cases, needs_shared

SAVES = cases("goldens/*/*/ip*tables-save.txt")
DUMPS = cases("corpus/dumps/*.save")
REAL = shutil.which("iptables-legacy-restore") and shutil.which("unshare")


@needs_shared
@pytest.mark.parametrize("path", SAVES, ids=lambda path: "-".join(path.parts[-3:]))
def test_print_then_parse_is_identity(path):
    text = path.read_text()
    assert print_save(parse_save(text, 6 if "ip6" in path.name else 4).xtables) == text


CANONICAL = [
    ("-p tcp --dport 80", "-p tcp -m tcp --dport 80"),
    ("-m tcp -p TCP -d 10.0.0.1 --dport http -j ACCEPT", "-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j ACCEPT"),
    ("--source 10.1.2.3/255.255.255.0 --protocol udp --destination-port 53:", "-s 10.1.2.0/24 -p udp -m udp --dport 53:65535"),
    ("-p tcp --syn", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    ("-m mark ! --mark 0x00004000/0x00004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN"),
    ("-j MARK --xor-mark 0x00004000", None),
    ("-m statistic --mode random --probability 0.3333333333", "-m statistic --mode random --probability 0.33333333349"),
    ("-m conntrack ! --ctstate DNAT,RELATED,ESTABLISHED -j DROP", "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"),
    ("-m recent --name X --rcheck --seconds 10800 --reap", "-m recent --rcheck --seconds 10800 --reap --name X --mask 255.255.255.255 --rsource"),
    ("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
    ("-p icmp --icmp-type echo-request", "-p icmp -m icmp --icmp-type 8"),
    ("-m limit --limit 300/minute", "-m limit --limit 5/sec"),
    ("-m conntrack --ctorigsrc 10.1.2.3/24", "-m conntrack --ctorigsrc 10.1.2.3/24"),
    ('-m comment --comment "a b"', '-m comment --comment "a b"'),
    ("-m comment --comment plain", "-m comment --comment plain"),
    ("-m nonsense --foo bar -j ACCEPT", "-m nonsense --foo bar -j ACCEPT"),
]


@pytest.mark.parametrize(("given_", "printed"), [one for one in CANONICAL if one[1]])
def test_spellings_become_what_save_prints(given_, printed):
    text = print_save(parse_save(f"*filter\n-A FORWARD {given_}\nCOMMIT\n", 4).xtables)
    assert f"-A FORWARD {printed}\n" in text


WRONG = [
    ("-A FORWARD -p tcp --dport 99999", 2, "number from 0 to 65535"),
    ("-A FORWARD -s 300.1.2.3", 2, "not found"),
    ('-A FORWARD -m comment --comment "open', 2, "quotation mark"),
    ("-A FORWARD -j NOWHERE", 2, "no chain/target/match by the name 'NOWHERE'"),
    ("-A NOWHERE -j ACCEPT", 2, "no chain 'NOWHERE'"),
    ("-A FORWARD --bogus", 2, "unknown option"),
    ("-A FORWARD -p", 2, "-p needs"),
    (":A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -j A\n-A INPUT -j B", None, "loop: B -> A -> B"),
    (":A - [0:0]\n-A A -j B\n:B - [0:0]", 3, "no chain/target/match by the name 'B'"),
    ("nonsense", 2, "expected a chain, a rule or COMMIT"),
]


@pytest.mark.parametrize(("line", "number", "words"), WRONG)
def test_what_is_wrong_is_placed(line, number, words):
    with pytest.raises(ParseError) as caught:
        parse_save(f"*filter\n{line}\nCOMMIT\n", 4, file="dump.txt")
    problem = caught.value.problems[0]
    assert words in str(problem)
    assert problem.file == "dump.txt"
    assert problem.line == number


def test_noflush_keeps_the_rules_of_a_built_in_chain_that_is_named():
    before = parse_save("*filter\n-A INPUT -s 1.2.3.4 -j DROP\n-N X\n-A X -j DROP\nCOMMIT\n", 4).xtables
    after = apply_restore(before, "*filter\n:INPUT DROP [0:0]\n:X - [0:0]\nCOMMIT\n", 4, noflush=True).tables["filter"].chains
    assert (after["INPUT"].policy, len(after["INPUT"].rules), len(after["X"].rules)) == ("DROP", 1, 0)


def test_a_file_that_is_cut_off_is_told():
    with pytest.raises(ParseError, match="not ended by COMMIT"):
        parse_save("*filter\n-A FORWARD -j ACCEPT\n", 4)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from(list('*filter\n:-A FORWARD jmp"\\!/0123.,[]COMIT ')), max_size=200))
def test_nothing_but_a_parse_error_comes_out(text):
    try:
        parse_save(text, 4)
    except InputError:
        pass


@settings(max_examples=100, deadline=None)
@given(rule_sets())
def test_generated_rules_survive(text):
    once = print_save(parse_save(text, 4).xtables)
    assert print_save(parse_save(once, 4).xtables) == once


def normalised(text: str) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("*"):
            name = line
        if line and not line.startswith("#"):
            tables.setdefault(name, []).append(re.sub(r"\[\d+:\d+\]", "[0:0]", line))
    return tables


@needs_shared
@pytest.mark.skipif(not REAL, reason="needs iptables-legacy-restore and unshare")
@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.name)
def test_a_dump_prints_as_the_real_tools_print_it(path: Path):
    family = 6 if ".v6." in path.name else 4
    tool = "ip6tables-legacy" if family == 6 else "iptables-legacy"
    real = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"{tool}-restore < '{path}' && {tool}-save"], capture_output=True, text=True, check=False
    )
    if real.returncode:
        if "Operation not permitted" in real.stderr or "unshare" in real.stderr:
            pytest.skip("needs root to make a network namespace")
        return
    mine = normalised(print_save(apply_restore(None, path.read_bytes().decode(), family)))
    for name, lines in normalised(real.stdout).items():
        if name in mine or any(line.startswith("-A") for line in lines):
            assert mine[name] == lines

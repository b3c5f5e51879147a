"""``ipvsadm -S -n`` and ``-L -n``: identity with the real command, what restore makes of its input, bad input, arbitrary input."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import SCTP, TCP, UDP, mask_of
from dataplane.rules.ipvs import IPVS, SCHEDULERS, Forwarding, RealServer, SchedulerFlags, Timeouts, Tunnel, VirtualServer
from dataplane.text.ipvsadm import in_printed_order, parse_save, print_save
from dataplane.text.ipvsadm_list import Listing, parse_list, print_list
from tests.shared import SHARED, needs_shared
from tests.text.referee import sample
from tests.uml import in_uml

#: Made by the real ipvsadm 1.31 on kernel 6.1, over the table BASE: "LINE => what the table has more | - and less".
CASES = sample("ipvsadm-cases.txt").splitlines()
BASE = """\
-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 10.2.0.1:80 -m -w 3
-A -t 10.0.0.2:0 -s rr -p 60
-A -t [fd00::1]:80 -s rr
-A -f 1 -s rr
-A -f 1 -6 -s rr
"""
SET = "--set 900 120 300\n"


def difference(printed: str) -> str:
    """A table in the form of CASES. Without what the command does not print: thresholds, the third flag of sh and mh."""
    lines = re.sub(r" -[xy] \d+|(?<=-port),flag-3|flag-3(?=\n)(?<=[sm]h -b flag-3)", "", printed).splitlines()
    base = BASE.splitlines()
    more, less = [line for line in lines if line not in base], [f"- {line}" for line in base if line not in lines]
    return " | ".join([*more, *less]) or "SAME"


def answers() -> list[str]:
    """What the real command makes of the cases, in their order."""
    lines = [case.rpartition(" => ")[0] for case in CASES]
    script = """
while IFS= read -r line; do
  { echo -C; cat base; printf '%s\\n' "$line"; } > /run/in
  : > /run/error
  ipvsadm -R < /run/in > /run/error 2>&1 || echo FAILED > /run/error
  if [ -s /run/error ]; then echo REFUSED; else ipvsadm -Sn; case $line in *set*) ipvsadm -L --timeout;; esac; fi
  echo ==
done < lines
"""
    said = in_uml(script, "ipvsadm", files={"base": SET + BASE, "lines": "".join(f"{line}\n" for line in lines)})
    found = [re.sub(r"Timeout .*: (.*)", r"--set \1", one).removeprefix("\n") for one in said.split("==\n")[:-1]]
    return [one.strip() if one == "REFUSED\n" else difference(one.replace(SET, "")) for one in found]


def outcome_of(line: str) -> str:
    try:
        return difference(print_save(parse_save(f"{SET}{BASE}{line}\n")))
    except ParseError:
        return "REFUSED"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rpartition(" => ")[0])
def test_restore_is_carried_out_as_the_command_and_the_kernel_do(case: str) -> None:
    line, _, outcome = case.rpartition(" => ")
    assert outcome_of(line) == outcome


#: All that the command prints, in its order: made from the accepted cases.
SAVED = sample("ipvsadm-save.txt")
LISTED = sample("ipvsadm-list.txt")


def test_print_then_parse_is_identity() -> None:
    assert print_save(parse_save(SAVED)) == SAVED
    assert print_list(parse_list(LISTED)) == LISTED


def test_the_sample_has_every_scheduler_every_flag_and_every_forwarding_method() -> None:
    words = set(SAVED.replace(",", " ").split())
    flags = {flag for names in SCHEDULERS.values() for flag in names}
    assert words >= {*SCHEDULERS, *flags, "flag-1", "flag-2", "flag-3", "-m", "-i", "-g", "-p", "-M", "-o", "--pe", "ipip", "gue", "gre", "-f", "-6"}


def test_the_command_prints_what_it_is_told_byte_for_byte() -> None:
    """One boot for all questions: the cases again, then the samples in and out, both ways of printing."""
    script = "ipvsadm -R < save; ipvsadm -Sn; echo ==; ipvsadm -Ln; echo ==; ipvsadm -C; ipvsadm -R < shuffled; ipvsadm -Sn"
    shuffled = "".join(sorted(SAVED.splitlines(keepends=True), key=lambda line: (line[1], line[::-1])))
    saved, listed, again = in_uml(script, "ipvsadm", files={"save": SAVED, "shuffled": shuffled}).split("==\n")
    assert (saved, listed, again) == (SAVED, LISTED, SAVED)
    assert print_save(in_printed_order(parse_save(shuffled))) == SAVED


def test_addresses_that_have_no_order_stay_as_they_are() -> None:
    text = "".join(f"-A -t {address}:80 -s rr\n" for address in ("1.0.0.1", "127.0.0.1", "250.0.0.1", "10.0.0.1"))
    assert print_save(in_printed_order(parse_save(text))) == text


def test_the_frozen_cases_are_what_the_real_command_says() -> None:
    frozen = [case.rpartition(" => ")[2] for case in CASES]
    assert [pair for pair in zip(CASES, answers(), frozen, strict=True) if pair[1] != pair[2]] == []


def test_thresholds_timeouts_and_third_flags_are_kept_though_the_command_does_not_print_them() -> None:
    text = "--set 100 20 30\n-A -t 10.0.0.1:80 -s sh -b sh-port,flag-3\n-a -t 10.0.0.1:80 -r 10.2.0.1:80 -m -w 3 -x 9 -y 4\n"
    ipvs = parse_save(text)
    assert ipvs.timeouts == Timeouts(100, 20, 30)
    assert ipvs.servers[0].flags == SchedulerFlags.FLAG_2 | SchedulerFlags.FLAG_3
    assert ipvs.servers[0].servers[0][4:7] == (3, 9, 4)
    assert print_save(ipvs) == text


def test_a_mark_that_the_command_prints_as_negative_is_read_back() -> None:
    ipvs = parse_save("-A -f -1 -s rr\n")
    assert ipvs.servers[0].fwmark == 0xFFFFFFFF
    assert print_save(ipvs) == "-A -f -1 -s rr\n"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("-A -t 10.0.0.1:80 -s nosuch", "1:22", f"unknown scheduler 'nosuch'; there are {', '.join(SCHEDULERS)}"),
        ("-A -t 10.0.0.1:0 -s rr", "1:7", "port 0 (any port) needs a persistent virtual server: -p"),
        ("-A -t 10.0.0.1 -s rr", "1:7", "port 0 (any port) needs a persistent virtual server: -p"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w -1", "2:40", "expected a weight from 0 to 2147483647, got '-1'"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 2147483648", "2:40", "expected a weight from 0 to 2147483647, got '2147483648'"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r [fd00::2]:80 -m", "2:22",
         "an IPv6 real server of an IPv4 virtual server is only possible with a tunnel: -i"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2:80", "1:7", "there is no such virtual server"),
        ("-A -t 10.0.0.1:80\n-A -t 10.0.0.1:80 -s rr", "2:7", "there is such a virtual server already"),
        ("-A -t 10.0.0.1:80 -s rr -b sh-port", "1:28", "the scheduler rr has no flag 'sh-port'; it has flag-1, flag-2, flag-3"),
        ("-A -t web:80", "1:7", "expected ADDRESS[:PORT] (IPv6 with a port as [ADDRESS]:PORT), got 'web:80'"),
        ("-A -t 10.0.0.1:80 -p 0", "1:22", "expected a timeout in seconds from 1 to 2678400, got '0'"),
        ("-A -t 10.0.0.1:80 -w 4", "1:19", "--add-service has no option --weight"),
        ("-A -t 10.0.0.1:80 -s", "1:21", "--scheduler needs a value"),
        ("-A -t 10.0.0.1:80 -z", "1:19", "ipvsadm's dumps have no option '-z'"),
        ("-A -t 10.0.0.1:80 rr", "1:19", "nothing like 'rr' expected here"),
        ("-A -t 10.0.0.1:80 -u 10.0.0.1:80", "1:19", "--tcp-service and --udp-service exclude each other"),
        ("TCP  10.0.0.1:80 rr", "1:1", "expected -A, -a, -E, -e, -D, -d, -C, -Z or --set"),
        ("-A -f 0", "1:7", "expected a mark from 1 to 4294967295, got '0'"),
    ],
)  # fmt: skip
def test_bad_input_is_told_with_its_place(text: str, place: str, message: str) -> None:
    line, column = (int(number) for number in place.split(":"))
    with pytest.raises(ParseError) as caught:
        parse_save(text, file="f")
    assert str(caught.value) == f"f:{place}: {message}\n    {text.splitlines()[line - 1]}\n    {' ' * (column - 1)}^"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("TCP  10.0.0.1:80 nosuch", "1:18", f"unknown scheduler 'nosuch'; there are {', '.join(SCHEDULERS)}"),
        ("  -> 10.0.0.2:80 Masq 1 0 0", "1:3", "a real server before the first virtual server"),
        ("TCP  10.0.0.1:80 rr\n  -> 10.0.0.2:80 Nat 1 0 0", "2:18", "unknown forwarding method 'Nat'; there are Masq, Tunnel, Route, Local"),
        ("TCP  10.0.0.1:80 rr\n  -> 10.0.0.2:80 Masq 1 0", "2:25", "expected -> ADDRESS:PORT FORWARD WEIGHT ACTIVECONN INACTCONN"),
        ("TCP  10.0.0.1:80 rr\n  -> 10.0.0.2:80 Masq 1 0 x", "2:27", "expected a number of connections, got 'x'"),
        ("TCP  10.0.0.1:80 rr\nTCP  10.0.0.1:80 wrr", "2:6", "this virtual server is listed already"),
        ("TCP  web:80 rr", "1:6", "expected ADDRESS[:PORT] (IPv6 with a port as [ADDRESS]:PORT), got 'web:80'"),
        ("TCP  10.0.0.1:80 rr persistent", "1:31", "persistent needs a value"),
        ("-A -t 10.0.0.1:80 -s rr", "1:1", "expected a virtual server (TCP, UDP, SCTP or FWM, address, scheduler) or a real server (->)"),
    ],
)
def test_bad_lists_are_told_with_their_place(text: str, place: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_list(text, file="f")
    assert str(caught.value).splitlines()[0] == f"f:{place}: {message}"


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    with pytest.raises(ParseError) as caught:
        parse_save("-A -t 10.0.0.1:80\n-A -t x:80\n-a -t 10.0.0.1:80 -r y\n-A -t 10.0.0.2:80 -s z\n")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]


@needs_shared
def test_a_posted_list_of_an_older_version_is_read_without_its_header() -> None:
    text = (SHARED / "corpus/dumps/ssup2-metallb-ipvs.ipvsadm-Ln.txt").read_text()
    listing = parse_list(text)
    assert (len(listing.ipvs.servers), listing.size) == (6, None)
    assert [line.split() for line in print_list(listing).splitlines()] == [line.split() for line in text.splitlines()]


_SHUFFLED = st.sampled_from(SAVED.splitlines()).flatmap(lambda line: st.permutations(line.split()).map(" ".join))


@settings(deadline=None)
@given(st.text() | st.lists(_SHUFFLED).map("\n".join))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    try:
        ipvs = parse_save(text)
    except DataplaneError:
        return
    assert parse_save(print_save(ipvs)) == ipvs


_END = st.sampled_from(["10.0.0.2", "0.0.0.0", "224.0.0.1", "010.0.0.2", "10.0.0.256", "10.2", "[fd00::1]"])
_NUMBER = st.sampled_from(["0", "1", "080", "65535", "65536", "999999999", "2147483647", "2147483648"])
_LINE = st.one_of(
    st.builds("-a -t 10.0.0.1:80 -r {}:{} -m -w {}".format, _END, _NUMBER, _NUMBER),
    st.sampled_from(["-A -t 10.0.0.1:80 -s rr", "-A -t 10.0.0.3:80 -s rr", "-D -t 10.0.0.1:80", "-C", "-d -t 10.0.0.1:80 -r 10.0.0.2:1", ""]),
)


@settings(deadline=None)
@given(st.lists(_LINE, max_size=8).map("\n".join))
def test_plain_lines_are_read_as_all_others_are(text: str) -> None:
    """The same lines with two blanks for one are not read the fast way."""
    results = []
    for one in (text, text.replace(" ", "  ")):
        try:
            results.append(parse_save(one))
        except ParseError as error:
            results.append([(problem.line, problem.message) for problem in error.problems])
    assert results[0] == results[1]


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(LISTED.split()) | st.just("\n")).map(" ".join))
def test_arbitrary_lists_are_read_or_refused(text: str) -> None:
    try:
        listing = parse_list(text)
    except DataplaneError:
        return
    assert parse_list(print_list(listing)) == listing


_ADDRESSES = {4: st.integers(1 << 24, (224 << 24) - 1), 6: st.integers(0xFD << 120, (0xFE << 120) - 1)}
_PORTS = st.integers(1, 65535)


@st.composite
def _real_servers(draw: st.DrawFn, family: int, port: int) -> RealServer:
    forwarding = draw(st.sampled_from(Forwarding))
    tunnel = None
    if forwarding is Forwarding.TUNNEL:
        family = draw(st.sampled_from([4, 6]))
        tunnel = draw(st.sampled_from([Tunnel(), Tunnel("gue", 6080, "csum"), Tunnel("gue", 1, "remcsum"), Tunnel("gre", 0, "nocsum")]))
    upper = draw(st.integers(0, 9))
    own = draw(_PORTS) if forwarding is Forwarding.MASQUERADING else port
    return RealServer(family, draw(_ADDRESSES[family]), own, forwarding, draw(st.integers(0, 1 << 31 - 1)), upper, draw(st.integers(0, upper)), tunnel)


@st.composite
def _virtual_servers(draw: st.DrawFn) -> VirtualServer:
    family, port = draw(st.sampled_from([4, 6])), draw(_PORTS)
    protocol, address = draw(st.sampled_from([TCP, UDP, SCTP])), draw(_ADDRESSES[family])
    persistence = draw(st.none() | st.integers(1, 2678400))
    mask = draw(st.none() | st.integers(1, {4: 31, 6: 127}[family]).map(lambda length: mask_of(family, length))) if persistence else None
    servers = draw(st.lists(_real_servers(family, port), max_size=4, unique_by=lambda one: one[:3]))
    flags = SchedulerFlags(draw(st.sampled_from(range(0, 64, 8))))
    return VirtualServer(
        family, protocol, address, port, 0, draw(st.sampled_from(list(SCHEDULERS))), flags, persistence, mask,
        draw(st.sampled_from(["", "sip"])), protocol == UDP and draw(st.booleans()), tuple(servers),
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(_virtual_servers(), max_size=4, unique_by=lambda one: one.key))
def test_parse_then_print_is_identity(servers: list[VirtualServer]) -> None:
    ipvs = IPVS(tuple(servers))
    assert parse_save(print_save(ipvs)) == ipvs
    assert print_list(parse_list(print_list(Listing(ipvs)))) == print_list(Listing(ipvs))

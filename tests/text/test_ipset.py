"""``ipset save``: identity with the real command, what restore makes of its input, bad input, arbitrary input."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.inet import FULL_MASK, Prefix
from dataplane.rules.ipset import Entry, IPSet, IPSets, PortElement
from dataplane.text.ipset import parse_save, print_save
from dataplane.text.ipset_options import TYPES
from tests.text.referee import in_netns, sample

SAVED = sample("ipset-save.txt")
#: Made by the real ipset 7.17 on kernels 6.1 and 6.18: "## CREATE-LINE => what save prints", then "ELEMENT => members".
CASES = sample("ipset-cases.txt").splitlines()


def cases() -> Iterator[tuple[str, str, str]]:
    """Create line, element ("" for the create line itself) and the outcome."""
    create = ""
    for line in CASES:
        left, _, outcome = line.rpartition(" => ")
        if left.startswith("##"):
            create = left[3:]
        yield create, "" if left.startswith("##") else left, outcome


def outcome_of(create: str, element: str) -> str:
    """In the form of CASES: the create line without what is random, or the members."""
    try:
        lines = print_save(
            parse_save(f"create p {create}\nadd p {element}\n" if element else f"create p {create}\n")
        ).splitlines()
    except ParseError:
        return "REFUSED"
    if element:
        return " | ".join(sorted(line.removeprefix("add p ") for line in lines[1:]))
    return re.sub(" initval 0x[0-9a-f]{8}", "", lines[0].removeprefix("create p "))


@pytest.mark.parametrize(("create", "element", "outcome"), cases())
def test_restore_is_carried_out_as_the_kernel_does(create: str, element: str, outcome: str) -> None:
    wanted = " | ".join(sorted(outcome.split(" | "))) if element else outcome
    if not element and "bucketsize" not in create:  # a default of newer versions that is not made up
        wanted = wanted.replace(" bucketsize 12", "")
    assert outcome_of(create, element) == wanted


def test_print_then_parse_is_identity() -> None:
    assert print_save(parse_save(SAVED)) == SAVED


def test_all_types_of_sets_are_in_the_sample() -> None:
    assert len({one.type for one in parse_save(SAVED).sets.values()}) == 16


def test_real_sets_print_back_byte_for_byte() -> None:
    made = in_netns("cat > /run/in; ipset restore < /run/in; ipset save", "ipset", stdin=_supported(SAVED))
    assert print_save(parse_save(made)) == made
    assert made.count("\n") > 40


def test_what_is_printed_can_be_restored() -> None:
    text = _supported(SAVED)
    again = in_netns("ipset restore; ipset save -sorted", "ipset", stdin=print_save(parse_save(text)))
    assert sorted(again.splitlines()) == sorted(text.splitlines())


def test_the_frozen_cases_are_what_the_real_command_says() -> None:
    wrong = [
        (create, element, line, outcome)
        for (create, element, outcome), line in zip(cases(), _answers(), strict=True)
        if line not in ("NOT SUPPORTED", outcome)
    ]
    assert wrong == []


def _answers() -> list[str]:
    commands = []
    for create, element, _ in cases():
        line = f"add p {element}" if element else f"create p {create}"
        commands.append(f"try {'add' if element else 'create'} <<'EOF'\n{line}\nEOF")
    script = r"""
try() { cat > /run/line
  if [ $1 = create ]; then ipset destroy; ok=; else ipset flush; [ "$ok" ] || { echo "NOT SUPPORTED"; return; }; fi
  if ! ipset restore < /run/line 2> /run/error; then
    if grep -q "set type not supported\|Your kernel is behind" /run/error; then echo "NOT SUPPORTED"; else echo REFUSED; fi
  elif [ $1 = create ]; then ok=1; ipset save | sed 's/^create p //; s/ initval 0x[0-9a-f]*//'
  else ipset save p -sorted | sed 1d | sed 's/^add p //' | tr '\n' '|' | sed 's/|$//; s/|/ | /g'; echo; fi; }
"""
    return in_netns(script + "\n".join(commands), "ipset").splitlines()


def _supported(text: str) -> str:
    """Only sets of types that are in every kernel we test on."""
    rare = ("hash:mac", "hash:ip,mac", "hash:net,net", "hash:net,port,net", "hash:ip,mark")
    names = {name for name, one in parse_save(text).sets.items() if one.type in rare}
    return "".join(line for line in text.splitlines(keepends=True) if line.split()[1] not in names)


def test_elements_have_their_kinds() -> None:
    sets = parse_save(SAVED).sets
    ip = Prefix(4, 0x0A000001, FULL_MASK[4])
    assert Entry((ip, PortElement(1, 8 << 8))) in sets["plain-hash:ip,port"].entries
    assert sets["plain-bitmap:port"].entries[0] == Entry((22,))
    assert sets["plain-hash:ip,mac"].entries == (Entry((ip, 0xAABBCCDDEE0F)),)
    assert sets["plain-hash:ip,mark"].entries == (Entry((ip, 0x63)),)
    assert {entry.elements[1] for entry in sets["plain-hash:net,iface"].entries} == {"physdev:eth0", "eth"}
    assert [entry.elements for entry in sets["plain-list:set"].entries] == [("plain-hash:net",), ("plain-hash:ip",)]
    assert sorted((str(entry.elements[0]), entry.nomatch) for entry in sets["plain-hash:net"].entries) == [
        ("10.0.0.0/24", False), ("10.0.0.128/25", True),
    ]  # fmt: skip


def test_options_of_members_are_kept() -> None:
    entry = parse_save(SAVED).sets["all-hash:mac"].entries[0]
    assert dict(entry.options) == {
        "timeout": "0", "packets": "1", "bytes": "2", "comment": "c d", "skbmark": "0x1/0x3", "skbprio": "1:2", "skbqueue": "7",
    }  # fmt: skip


def test_sets_made_by_hand_print_without_their_family_twice() -> None:
    one = IPSet(
        "A",
        "hash:ip,port",
        6,
        (("family", "inet6"), ("maxelem", "9")),
        (Entry((Prefix(6, 1, FULL_MASK[6]), PortElement(6, 80))),),
    )
    assert print_save(IPSets({"A": one})) == "create A hash:ip,port family inet6 maxelem 9\nadd A ::1,tcp:80\n"


@pytest.mark.parametrize(
    ("lines", "members"),
    [
        ("add a 1.1.1.1\nadd a 1.1.1.2\ndel a 1.1.1.1", "a 1.1.1.2"),
        ("add a 1.1.1.1\n-exist add a 1.1.1.1\n-exist del a 2.2.2.2", "a 1.1.1.1"),
        ("add a 1.1.1.1\nflush a\nadd a 1.1.1.2", "a 1.1.1.2"),
        ("add a 1.1.1.1\nflush", ""),
        ("add a 1.1.1.1\nswap a b\nadd a 3.3.3.3", "a 3.3.3.3 b 1.1.1.1"),
        ("add a 1.1.1.1\nrename a c", "c 1.1.1.1"),
        ("add a 1.1.1.1\ndestroy a", ""),
        ("add a 1.1.1.1\ndestroy", ""),
        ("create a hash:ip -exist\nadd a 1.1.1.1\r", "a 1.1.1.1"),
        ("  -A   a\t1.1.1.1  \n\n# a comment\nCOMMIT", "a 1.1.1.1"),
        ('add "a" "1.1.1.1"', "a 1.1.1.1"),
        ("add l a\nadd l b before a\nadd l d after b", "l b l d l a"),
        ("add l a\nrename a c\nadd l b", "l c l b"),
    ],
)
def test_commands_of_a_restore_file_are_carried_out(lines: str, members: str) -> None:
    sets = parse_save(f"create a hash:ip\ncreate b hash:ip\ncreate d hash:ip\ncreate l list:set\n{lines}\n")
    added = [line.split()[1:] for line in print_save(sets).splitlines() if line.startswith("add")]
    assert " ".join(word for words in added for word in words) == members


def test_lists_of_sets_are_printed_last_so_that_they_can_be_restored() -> None:
    text = print_save(parse_save("create l list:set\ncreate a hash:ip\nadd l a\n"))
    assert [line.split()[:2] for line in text.splitlines()] == [["create", "a"], ["create", "l"], ["add", "l"]]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("add nope 1.2.3.4", "1:5", "there is no set 'nope' yet"),
        ("foo bar", "1:1", "expected create, add, del, flush, destroy, rename or swap"),
        ("list", "1:1", "expected create, add, del, flush, destroy, rename or swap"),
        ("Name: foo", "1:1", "expected create, add, del, flush, destroy, rename or swap"),
        ("create a", "1:9", "create needs 2 arguments"),
        ("flush a b", "1:9", "nothing more expected after flush a"),
        ("create a hash:foo", "1:10", f"'hash:foo' is no type of set; there are {', '.join(TYPES)}"),
        (f"create {'x' * 32} hash:ip", "1:8", "the name of a set has at most 31 characters"),
        ("create a hash:ip timeout", "1:25", "timeout needs a value"),
        ("create a hash:ip timeout x", "1:26", "timeout: expected a number from 0 to 2147483, got 'x'"),
        ("create a hash:net netmask 8", "1:19", "hash:net has no option 'netmask'"),
        ("create a hash:ip netmask 8 bitmask 255.0.0.0", "1:28", "netmask and bitmask exclude each other"),
        ("create a hash:ip family inet5", "1:25", "expected family inet or inet6, got 'inet5'"),
        ("create a bitmap:ip", "1:19", "bitmap:ip needs a range"),
        (
            "create a bitmap:ip range 10.0.0.0/8",
            "1:26",
            "range: the range 10.0.0.0-10.255.255.255 holds more than 65536 elements",
        ),
        ("create a hash:ip\ncreate a hash:ip", "2:8", "there is a set 'a' already"),
        ("create a hash:ip\n-exist create a hash:ip maxelem 5", "2:15", "there is a set 'a' already, made differently"),
        ("create a hash:ip\nadd a www.example.com", "2:7", "expected an IPv4 address, got 'www.example.com'"),
        ("create a hash:ip,port\nadd a 1.2.3.4", "2:7", "hash:ip,port expects ip,port, got '1.2.3.4'"),
        ("create a hash:ip,port\nadd a 1.2.3.4,tcp:99999", "2:7", "expected a number from 0 to 65535, got 99999"),
        ("create a hash:ip\nadd a 1.2.3.4 timeout 5", "2:15", "the set 'a' was made without timeout"),
        ("create a hash:ip\nadd a 1.2.3.4 foo", "2:15", "members of sets have no option 'foo'"),
        ("create a hash:ip\nadd a 1.2.3.4\nadd a 1.2.3.4", "3:7", "1.2.3.4 is in the set 'a' already"),
        ("create a hash:ip\ndel a 1.2.3.4", "2:7", "1.2.3.4 is not in the set 'a'"),
        ("create a hash:ip maxelem 1\nadd a 1.2.3.4\nadd a 1.2.3.5", "3:5", "the set 'a' is full: maxelem is 1"),
        ("create a hash:ip\nadd a 10.0.0.0/8", "2:7", "the range 10.0.0.0/8 is too large: more than 1048576 addresses"),
        (
            "create a hash:ip,port\nadd a 10.0.0.0/16,0-65535",
            "2:7",
            "the set is full: 10.0.0.0/16,0-65535 stands for 4294967296 elements, maxelem is 65536",
        ),
        ('create a hash:ip comment\nadd a 1.2.3.4 comment "x', "2:23", "missing close quote"),
        ("create a hash:ip\ncreate l list:set\nadd l a before b", "3:16", "the set 'b' is not in the list 'l'"),
        ("create a hash:ip\ncreate l list:set\nadd l a\ndestroy a", "4:9", "the set 'a' is in the list 'l'"),
        ("create a hash:ip\ncreate b hash:ip\nrename a b", "3:10", "there is a set 'b' already"),
        ("create a hash:ip\ndel a x", "2:7", "expected an IPv4 address, got 'x'"),
        ("create l list:set\nadd l l", "2:7", "a list of sets cannot be in a list of sets"),
        ("create a hash:ip\ncreate b hash:net\nswap a b", "3:8", "sets of different types cannot be swapped"),
    ],
)
def test_bad_input_is_told_with_its_place(text: str, place: str, message: str) -> None:
    line, column = (int(number) for number in place.split(":"))
    shown = text.split("\n")[line - 1]
    with pytest.raises(ParseError) as caught:
        parse_save(text, file="f")
    assert str(caught.value) == f"f:{place}: {message}\n    {shown}\n    {' ' * (column - 1)}^"


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    with pytest.raises(ParseError) as caught:
        parse_save("create a hash:ip\nadd a x\nadd b 1.1.1.1\nadd a 1.1.1.1 foo\n")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]


def test_a_text_of_another_kind_is_given_up_after_some_mistakes() -> None:
    with pytest.raises(ParseError) as caught:
        parse_save("foo\n" * 10000)
    assert len(caught.value.problems) == 51


_SHUFFLED = st.sampled_from(SAVED.splitlines()).flatmap(lambda line: st.permutations(line.split()).map(" ".join))


@settings(deadline=None)
@given(st.text() | st.lists(_SHUFFLED).map("\n".join))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    try:
        sets = parse_save(text)
    except DataplaneError:
        return
    assert parse_save(print_save(sets)) == sets


@settings(deadline=None)
@given(st.data())
def test_a_damaged_save_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SAVED)))
    text = SAVED[:start] + data.draw(st.text(max_size=5)) + SAVED[start + data.draw(st.integers(0, 30)) :]
    try:
        sets = parse_save(text)
    except DataplaneError:
        return
    assert parse_save(print_save(sets)) == sets

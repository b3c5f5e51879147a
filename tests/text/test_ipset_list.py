"""``ipset list``: identity with the real command, posted and hand-edited lists, bad input, arbitrary input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError, ParseError
from dataplane.text.ipset import parse_save, print_save
from dataplane.text.ipset_list import Listing, parse_list, print_list
from dataplane.text.ipset_options import TYPES
from tests.shared import SHARED, needs_shared
from tests.text.referee import in_netns, sample
from tests.text.test_ipset import SAVED, _supported
from tests.uml import in_uml

#: What ipset 7.17 on kernel 6.1 lists of the sets in ipset-save.txt.
LISTED = sample("ipset-list.txt")
BLOCK = "Name: a\nType: hash:ip,port\nRevision: 5\nHeader: family inet hashsize 1024 maxelem 65536\nSize in memory: 600\nReferences: 2\nNumber of entries: {}\nMembers:\n"


def test_print_then_parse_is_identity() -> None:
    assert print_list(parse_list(LISTED)) == LISTED


def test_a_list_tells_what_a_save_tells() -> None:
    listed, saved = parse_list(LISTED), parse_save(SAVED)
    assert {name: one.type for name, one in listed.sets.sets.items()} == {name: one.type for name, one in saved.sets.items()}
    assert sorted(print_list(Listing(parse_save(print_save(listed.sets))))) == sorted(print_list(Listing(listed.sets)))


def test_real_lists_print_back_byte_for_byte() -> None:
    made = in_netns("ipset restore; ipset list", "ipset", stdin=_supported(SAVED))
    listing = parse_list(made)
    assert print_list(listing) == made
    assert listing.warnings == ()


def test_the_sample_is_what_the_real_command_lists_and_has_every_type() -> None:
    said = in_uml("ipset restore < save; ipset list", "ipset", files={"save": SAVED}, load=("ip_set",))
    assert [line for line in said.splitlines() if line.startswith(("Name", "Type"))] == [
        line for line in LISTED.splitlines() if line.startswith(("Name", "Type"))
    ]
    assert print_list(parse_list(said)) == said
    assert {one.type for one in parse_list(said).sets.sets.values()} == set(TYPES)


def test_old_and_edited_lists_are_read() -> None:
    text = BLOCK.format(1) + "10.96.0.10,17:53 \n10.96.0.10,tcp:53\n\nName: b\nType: bitmap:port\nHeader: range 0-65535\nMembers:\n"
    listing = parse_list(text, file="f")
    assert [str(problem) for problem in listing.warnings] == ["f:1: set a: the list says that the set has 1 members, and shows 2"]
    assert print_save(listing.sets).splitlines()[1:3] == ["add a 10.96.0.10,udp:53", "add a 10.96.0.10,tcp:53"]
    assert listing.facts["a"]["Number of entries"] == 1
    assert listing.facts["b"] == {}


@needs_shared
@pytest.mark.parametrize(("name", "sets", "warnings"), [("ssup2-metallb-ipvs", 4, 1), ("minikube-ipvs", 8, 0)])
def test_posted_lists_are_read(name: str, sets: int, warnings: int) -> None:
    text = (SHARED / f"corpus/dumps/{name}.ipset-list.txt").read_text()
    listing = parse_list(text)
    assert (len(listing.sets.sets), len(listing.warnings)) == (sets, warnings)
    assert [line.rstrip() for line in print_list(listing).splitlines()] == [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("create a hash:ip\n", "f:1:1: expected Name: and a set's name, as ipset list prints it"),
        (BLOCK.format(1) + "10.96.0.10,tcp:99999\n", "f:9:1: expected a number from 0 to 65535, got 99999"),
        ("Name: a\nType: hash:foo\nHeader: family inet\nMembers:\n", f"f:3:1: 'hash:foo' is no type of set; there are {', '.join(TYPES)}"),
        ("Name: a\nType: hash:ip\nHeader: family inet9\nMembers:\n", "f:3:16: expected family inet or inet6, got 'inet9'"),
        ("Name: a\nType: hash:ip\nMembers:\n", "f:1: the set 'a' has no Header"),
        ("Name: a\nHeader: family inet\nMembers:\n", "f:1: the set 'a' has no Type"),
        ("Name: a\nType: hash:ip\nHeader: family inet\nReferences: x\n", "f:4:13: References: expected a number, got 'x'"),
        ("Name: a\nColour: red\n", "f:2:1: expected one of Name, Type, Revision, Header, Size in memory, References, Number of entries, Members, got 'Colour: red'"),
    ],
)
def test_bad_lists_are_told_with_their_place(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_list(text, file="f")
    assert message in [line for line in str(caught.value).splitlines() if line.startswith("f:")]


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(LISTED.splitlines())).map("\n".join))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    try:
        listing = parse_list(text)
    except DataplaneError:
        return
    assert parse_list(print_list(listing)).sets == listing.sets

"""Snapshot directories: reading, writing, what may be missing, what is refused and how it is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import ApplyError, DataplaneError, InputError, ParseError
from dataplane.inet import parse_prefix
from dataplane.rules.network import NextHop, Route
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text import snapshot
from dataplane.text.snapshot import FILES, parse_snapshot, print_snapshot, read_snapshot, write_snapshot
from tests.text.referee import in_netns, sample

IPTABLES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""
FULL = {
    "iptables-save.txt": IPTABLES,
    "ip6tables-save.txt": IPTABLES,
    "ipset-save.txt": sample("ipset-save.txt"),
    "ipvsadm-save.txt": sample("ipvsadm-save.txt"),
    "ip-addr.json": sample("ip-addr.json"),
    "ip-route.json": sample("ip-route-nexthops.json"),
    "ip-route6.json": sample("ip-route6.json"),
    "ip-rule.json": sample("ip-rule.json"),
    "ip-rule6.json": sample("ip-rule6.json"),
    "sysctl.txt": sample("sysctl.txt"),
    "conntrack.txt": sample("conntrack.txt"),
}
A_SNAPSHOT_IS = (
    "a snapshot is a directory with the output of commands, any of which may be missing: iptables-save.txt (`iptables-save`), "
    "ip6tables-save.txt (`ip6tables-save`), ipset-save.txt (`ipset save`), ipvsadm-save.txt (`ipvsadm -S -n`), ip-addr.json (`ip -j addr`), "
    "ip-route.json (`ip -j route show table all`), ip-route6.json (`ip -6 -j route show table all`), "
    "ip-rule.json (`ip -j rule`), ip-rule6.json (`ip -6 -j rule`), sysctl.txt (`sysctl -a`), "
    "conntrack.txt (`conntrack -L -o extended`)"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A complete snapshot."""
    made = tmp_path / "node"
    fill(made, FULL)
    return made


def fill(where: Path, texts: dict[str, str]) -> None:
    where.mkdir()
    for name, text in texts.items():
        (where / name).write_text(text)


def names(where: Path) -> list[str]:
    return sorted(path.name for path in where.iterdir())


def refused(where: Path) -> str:
    with pytest.raises(ParseError) as caught:
        read_snapshot(where)
    return str(caught.value).replace(str(where), "DIR")


def test_all_files_are_read(directory: Path) -> None:
    state, _ = read_snapshot(directory)
    assert [link.name for link in state.links][:2] == ["lo", "br0"]
    assert state.routes4 is not None
    assert {route.family for route in state.routes4} == {4}
    assert state.routes6 is not None
    assert {route.family for route in state.routes6} == {6}
    assert len(state.rules4 or ()) > 20
    assert len(state.rules6 or ()) == 5
    assert state.sysctls["net.ipv4.ip_forward"] == "0"
    assert list(state.iptables.tables["filter"].chains) == ["INPUT", "FORWARD", "OUTPUT", "KUBE-FORWARD"]
    assert "plain-hash:ip" in state.ipsets.sets
    assert len(state.connections) > 20


def test_write_then_read_is_identity(directory: Path, tmp_path: Path) -> None:
    state, _ = read_snapshot(directory)
    write_snapshot(state, tmp_path / "copy")
    again, _ = read_snapshot(tmp_path / "copy")
    assert again == state
    assert print_snapshot(again) == print_snapshot(state)


def test_the_native_files_are_written_as_they_were_read(directory: Path) -> None:
    state, _ = read_snapshot(directory)
    printed = print_snapshot(state)
    for name in FULL.keys() - {"iptables-save.txt", "ip6tables-save.txt", "ip-route.json"}:  # the last held both families
        assert printed[name] == FULL[name], name


def test_a_real_namespace_round_trips(tmp_path: Path) -> None:
    commands = [command for name, command in FILES.items() if name.endswith((".json", "sysctl.txt", "ipset-save.txt"))]
    script = (
        "ip link add v0 type veth peer name v1; ip link set v0 up; ip addr add 10.0.0.1/24 dev v0; ipset create a hash:ip\n"
    )
    texts = in_netns(script + "\n".join(f"{command} 2>/dev/null; echo ===" for command in commands), "ip", "ipset", "sysctl")
    names = [name for name, command in FILES.items() if command in commands]
    fill(tmp_path / "real", dict(zip(names, texts.split("===\n"), strict=False)))
    state, warnings = read_snapshot(tmp_path / "real")
    assert warnings == ()
    printed = print_snapshot(state)
    assert {name: printed[name] for name in names if name != "ip-route.json"} == {
        name: (tmp_path / "real" / name).read_text() for name in names if name != "ip-route.json"
    }


@pytest.mark.parametrize("missing", FULL)
def test_every_file_may_be_missing(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    state, _ = read_snapshot(directory)
    nothing = NodeState()
    match missing:
        case "iptables-save.txt":
            assert state.iptables == nothing.iptables
        case "ip6tables-save.txt":
            assert state.ip6tables == nothing.ip6tables
        case "ipset-save.txt":
            assert state.ipsets == nothing.ipsets
        case "ip-addr.json":
            assert state.links == (LOOPBACK,)
        case "ip-route.json":
            assert state.routes4 is None
        case "ip-route6.json":  # `ip -j route show table all` prints both families
            assert state.routes6 is not None
        case "ip-rule.json":
            assert state.rules4 is None
        case "ip-rule6.json":
            assert state.rules6 is None
        case "sysctl.txt":
            assert state.sysctls == {}
        case "conntrack.txt":
            assert state.connections == ()


def test_one_file_is_a_snapshot(tmp_path: Path) -> None:
    fill(tmp_path / "x", {"sysctl.txt": "net.ipv4.ip_forward = 1\n"})
    assert read_snapshot(tmp_path / "x") == (NodeState(sysctls={"net.ipv4.ip_forward": "1"}), ())


def test_routes_that_were_not_given_stay_unknown_while_none_are_none() -> None:
    assert parse_snapshot({"ip-route.json": "[]"})[0].routes4 == ()
    assert parse_snapshot({"ip-route.json": "[]"})[0].routes6 is None
    assert print_snapshot(NodeState(routes4=()))["ip-route.json"] == "[]\n"
    assert "ip-route6.json" not in print_snapshot(NodeState(routes4=()))


def test_what_is_read_over_is_told(directory: Path) -> None:
    (directory / "notes.md").write_text("x")
    (directory / ".hidden").write_text("x")
    (directory / "old").mkdir()
    (directory / "ipvsadm-save.txt").write_text("-A -t 10.96.0.1:443 -s rr\n")
    (directory / "nft-ruleset.json").write_text('{"nftables":[{"table":{"family":"ip","name":"kube-proxy"}}]}')
    _, warnings = read_snapshot(directory)
    told = [str(problem).replace(f"{directory}/", "") for problem in warnings]
    assert told[:3] == [
        "notes.md: not a file of a snapshot, ignored",
        "old: not a file of a snapshot, ignored",
        "nft-ruleset.json: not modelled yet: nftables (`nft -j list ruleset`), ignored",
    ]
    assert "ip-route6.json: route fd54::/64: not modelled yet: routing by source ('from')" in told
    assert "ip-rule.json: rule 52: not modelled yet: 'l3mdev'" in told


def test_empty_files_of_what_is_not_modelled_are_not_told(directory: Path) -> None:
    (directory / "ipvsadm-save.txt").write_text("")
    (directory / "nft-ruleset.json").write_text('{"nftables":[{"metainfo":{"version":"1.0.6"}}]}')
    assert not [problem for problem in read_snapshot(directory)[1] if "ipvs" in str(problem) or "nft" in str(problem)]


def test_a_device_that_no_interface_has_is_told() -> None:
    texts = {"ip-addr.json": "[]", "ip-route.json": '[{"dst":"default","dev":"eth9"},{"dst":"1.1.1.1","dev":"eth9"}]'}
    assert [str(problem) for problem in parse_snapshot(texts, directory="d")[1]] == [
        "d/ip-route.json: routes over 'eth9', which is no interface of ip-addr.json"
    ]


def test_all_problems_of_all_files_are_told_at_once(directory: Path) -> None:
    (directory / "ip-addr.json").write_text('[{"ifindex":1')
    (directory / "ipset-save.txt").write_text("create a hash:nope\n")
    (directory / "sysctl.txt").write_bytes(b"net.ipv4.ip_forward = 1\n\xff\n")
    (directory / "conntrack.txt").unlink()
    (directory / "conntrack.txt").mkdir()
    (directory / "iptables-save.txt").write_text("*filter\n-A INPUT -j\nCOMMIT\n")
    lines = [line for line in refused(directory).splitlines() if line.startswith("DIR/")]
    assert [line.split(":")[0] for line in lines] == [
        f"DIR/{name}" for name in ("sysctl.txt", "conntrack.txt", "ip-addr.json", "iptables-save.txt", "ipset-save.txt")
    ]
    assert lines[0] == "DIR/sysctl.txt:2: not UTF-8 text: byte 0xff, expected the output of `sysctl -a`"
    assert lines[1] == "DIR/conntrack.txt: a directory, expected a file with the output of `conntrack -L -o extended`"


def test_a_file_written_by_powershell_is_told(tmp_path: Path) -> None:
    (tmp_path / "sysctl.txt").write_bytes("net.ipv4.ip_forward = 1\n".encode("utf-16"))
    assert refused(tmp_path) == (
        "DIR/sysctl.txt:1: not UTF-8 text (it looks like UTF-16, as PowerShell writes it): byte 0xff, "
        "expected the output of `sysctl -a`"
    )


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "ip-rule.json").write_bytes(b"\xef\xbb\xbf[]\n")
    assert read_snapshot(tmp_path)[0].rules4 == ()


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ip-rule.json")
    assert refused(tmp_path) == "DIR/ip-rule.json: not a regular file, expected a file with the output of `ip -j rule`"


def test_routes_of_the_other_family_are_refused() -> None:
    with pytest.raises(ParseError) as caught:
        parse_snapshot({"ip-route6.json": '[{"dst":"10.0.0.0/8","dev":"e"}]'}, directory="d")
    assert str(caught.value) == (
        "d/ip-route6.json: route 10.0.0.0/8: an IPv4 route, expected the output of `ip -6 -j route show table all`"
    )


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing") == f"DIR: no such directory; {A_SNAPSHOT_IS}"
    assert refused(tmp_path) == f"DIR: the directory is empty; {A_SNAPSHOT_IS}"
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file") == f"DIR: not a directory; {A_SNAPSHOT_IS}"
    assert refused(tmp_path) == f"DIR: none of the files of a snapshot is in this directory; {A_SNAPSHOT_IS}"


# ---------------------------------------------------------------------- writing


def test_an_earlier_snapshot_is_replaced(directory: Path) -> None:
    write_snapshot(NodeState(routes4=(Route(4, parse_prefix("0.0.0.0/0"), nexthops=(NextHop("e", 1),)),)), directory)
    assert names(directory) == ["ip-addr.json", "ip-route.json"]
    assert names(directory.parent) == ["node"]


def test_an_empty_directory_is_filled_and_parents_are_made(tmp_path: Path) -> None:
    write_snapshot(NodeState(), tmp_path)
    write_snapshot(NodeState(), tmp_path / "sub" / "deep")
    assert (tmp_path / "ip-addr.json").read_text() == (tmp_path / "sub" / "deep" / "ip-addr.json").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes.md", "DIR: the directory holds notes.md, which is not of a snapshot; nothing was written"),
        (".git", "DIR: the directory holds .git, which is not of a snapshot; nothing was written"),
    ],
)
def test_what_is_not_of_a_snapshot_is_never_overwritten(directory: Path, name: str, message: str) -> None:
    (directory / name).write_text("precious")
    before = {path.name: path.read_text() for path in directory.iterdir()}
    with pytest.raises(InputError) as caught:
        write_snapshot(NodeState(), directory)
    assert str(caught.value).replace(str(directory), "DIR") == message
    assert {path.name: path.read_text() for path in directory.iterdir()} == before


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("precious")
    with pytest.raises(InputError, match="a file of this name exists; nothing was written"):
        write_snapshot(NodeState(), tmp_path / "x")


def test_nothing_is_left_of_a_snapshot_that_could_not_be_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, __: bytes) -> int:
        raise OSError(28, "No space left on device", "somewhere")

    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ApplyError, match=r"cannot write the snapshot .*: No space left on device: somewhere"):
        write_snapshot(NodeState(), directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert names(directory.parent) == ["node"]


# ---------------------------------------------------------------------- arbitrary input


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(FILES)), st.binary(max_size=60) | st.sampled_from([t.encode() for t in FULL.values()])
    )
)
def test_arbitrary_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    where = tmp_path_factory.mktemp("any")
    for name, data in files.items():
        (where / name).write_bytes(data)
    try:
        state, _ = read_snapshot(where)
    except DataplaneError:
        return
    assert parse_snapshot(print_snapshot(state))[0] == state


def test_every_file_has_a_command() -> None:
    assert set(FULL) == set(snapshot.FILES)

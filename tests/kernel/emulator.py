"""The other side: what the emulator says could become of packets. The only file here that knows how it is called.

Two ways. ``ask`` runs the command as a user would; with ``--all`` every packet starts from the snapshot's state, so it is for
openings only. ``follow`` runs the engine in this process, hands it the very packets that the kernel got, and at every random
decision goes on from the outcome that the kernel chose: so whole conversations can be compared, whichever way they went.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from tests.kernel.compare import compare
from tests.kernel.dialogue import Script, Sent
from tests.kernel.lines import Line, Outcome, Packet, write_packets
from tests.kernel.snapshot import Snapshot, write
from tests.kernel.wire import ICMP, ICMPV6, NUMBERS, flag_bits

if TYPE_CHECKING:
    from dataplane.engine.choices import Choices
    from dataplane.engine.netns import Netns
    from dataplane.packet import Packet as Modelled
    from dataplane.trace import Trace

_SECONDS: Final = 600


class EmulatorError(Exception):
    """The emulator gave no answer; its own words."""


def exists() -> bool:
    return importlib.util.find_spec("dataplane.__main__") is not None


# ---------------------------------------------------------------------- as a command


def ask(snapshot: Snapshot, packets: Sequence[Packet]) -> list[Line]:
    """Every outcome that the command holds possible, each packet from the snapshot's state. EmulatorError if it fails."""
    with _directory(snapshot) as directory:
        (directory / "packets.jsonl").write_text(write_packets(packets))
        command = [sys.executable, "-m", "dataplane", "trace", "--snapshot", str(directory)]
        command += ["--packets", str(directory / "packets.jsonl"), "--all", "-o", "jsonl"]
        done = subprocess.run(command, text=True, capture_output=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise EmulatorError(f"status {done.returncode}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


@contextmanager
def _directory(snapshot: Snapshot) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), snapshot)
        yield Path(name)


# ---------------------------------------------------------------------- in this process


class _State(NamedTuple):
    """What packets leave behind."""

    conntrack: Any  # Any: the engine's own
    memory: Any


class _Branch(NamedTuple):
    probability: Fraction
    trace: Trace
    outcome: Outcome
    after: _State


class _Followed(NamedTuple):
    sent: Sent
    outcome: Outcome


def follow(
    snapshot: Snapshot, packets: Sequence[Packet], kernel: Sequence[Line], mode: Literal["sequence", "fresh"] = "sequence"
) -> list[Line]:
    """Every outcome that the engine holds possible, after what the kernel did with the packets before.

    Where the kernel did something else than any of them, the engine goes on from its first outcome.
    """
    from dataplane.node import load_snapshot

    with _directory(snapshot) as directory:
        netns = load_snapshot(str(directory)).netns
    return _Follower(netns, fresh=mode == "fresh").run(packets, kernel)


class _Follower:
    """``fresh``: every conversation, that is an opening and the replies to it, begins from the snapshot's state."""

    def __init__(self, netns: Netns, *, fresh: bool) -> None:
        self._netns = netns
        self._fresh = fresh
        self._states: dict[int, _State] = {}
        self._roots: dict[int, int] = {}
        self._scripts: dict[int, Script] = {}
        self._begin = self._state()
        self._followed: dict[int, _Followed] = {}

    def run(self, packets: Sequence[Packet], kernel: Sequence[Line]) -> list[Line]:
        lines = []
        for packet, line in zip(packets, kernel, strict=True):
            try:
                lines.append(self._line(packet, line))
            except Exception as error:
                raise EmulatorError(f"{packet.line()}: {error!r}") from error
        return lines

    def _line(self, packet: Packet, kernel: Line) -> Line:
        root = self._root(packet)
        sent = self._sent(packet, self._scripts.setdefault(root, Script()))
        if sent is None or not kernel["outcomes"]:
            return {"id": packet.id, "outcomes": []}
        before = self._states.get(root, self._begin)
        self._netns.kernel.now = kernel.get("at", 0.0)
        branches = list(self._branches(_modelled(sent), sent.indev, before))
        did = kernel["outcomes"][0]
        taken = next((branch for branch in branches if compare([branch.outcome], did) is None), branches[0])
        self._states[root] = taken.after
        self._followed[packet.id] = _Followed(sent, _with_ports(taken) if taken.outcome["packet"] else did)
        return {"id": packet.id, "outcomes": _merged(branches)}

    def _root(self, packet: Packet) -> int:
        if not self._fresh:
            return 0
        root = packet.id if packet.reply_to is None else self._roots.get(packet.reply_to, packet.id)
        self._roots[packet.id] = root
        return root

    def _sent(self, packet: Packet, script: Script) -> Sent | None:
        if packet.reply_to is None:
            return script.opening(packet)
        cause = self._followed.get(packet.reply_to)
        return script.reply(packet, cause.sent, cause.outcome) if cause is not None else None

    # The engine's ``outcomes`` puts the state back; here the state that belongs to each outcome is what is wanted.

    def _branches(self, packet: Modelled, indev: str | None, before: _State) -> Iterator[_Branch]:
        from dataplane.render.json import outcome
        from dataplane.engine.choices import explore

        def walk(choices: Choices) -> tuple[Trace, _State]:
            self._restore(before)
            if indev is None:
                trace = self._netns.send(packet, choices=choices)
            else:
                trace = self._netns.receive(packet, indev, choices=choices)
            return trace, self._state()

        for probability, (trace, after) in explore(walk):
            yield _Branch(probability, trace, outcome(trace, probability), after)  # type: ignore[arg-type]  # JSON

    def _state(self) -> _State:
        return _State(self._netns.kernel.conntrack, self._netns.kernel.memory)

    def _restore(self, state: _State) -> None:
        self._netns.kernel.conntrack = state.conntrack.fork()
        self._netns.kernel.memory = {key: value.copy() for key, value in state.memory.items()}


def _merged(branches: Sequence[_Branch]) -> list[Outcome]:
    from dataplane.render.json import merged

    return merged([(branch.probability, branch.trace) for branch in branches])  # type: ignore[return-value]  # JSON


def _with_ports(branch: _Branch) -> Outcome:
    """The outcome with the ports that the engine itself goes on with, where it says that they may be any."""
    packet = branch.trace.packet
    seen = branch.outcome["packet"]
    assert seen is not None
    ports = {"sport": packet.icmp_id if packet.is_icmp else packet.sport, "dport": packet.dport}
    return {**branch.outcome, "packet": {**seen, **ports}}  # type: ignore[typeddict-item]


def _modelled(sent: Sent) -> Modelled:
    """The packet on the wire in the engine's own form."""
    from dataplane.packet import Packet as Model
    from dataplane.packet import TcpOptions

    segment, family = sent.segment, sent.family
    protocol = NUMBERS.get(segment.proto, ICMP if family == 4 else ICMPV6)
    sizes = {"tcp": 20, "udp": 8, "icmp": 8, "sctp": 12 + segment.chunk_length}
    plain = Model(
        family, int(ip_address(sent.src)), int(ip_address(sent.dst)), protocol, ttl=sent.ttl,
        length=(20 if family == 4 else 40) + sizes[segment.proto],
    )  # fmt: skip
    if segment.proto == "icmp":
        kinds = {4: (8, 0), 6: (128, 129)}
        return replace(plain, icmp_type=kinds[family][segment.answer], icmp_id=segment.sport)
    plain = replace(plain, sport=segment.sport, dport=segment.dport)
    if segment.proto == "tcp":
        options = TcpOptions() if "S" in segment.flags else None
        flags = flag_bits(segment.flags)
        return replace(plain, tcp_flags=flags, seq=segment.seq, ack=segment.ack, window=65535, tcp_options=options)
    if segment.proto == "sctp":
        return replace(plain, sctp_chunks=(segment.chunk,), vtag=segment.vtag)
    return plain

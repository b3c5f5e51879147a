"""The Python API: a cluster or a snapshot in, a Node that takes packets out.

``load(...).node("node-a").receive(packet, iface="eth0")`` where a packet is an expression, a dataplane Packet or a scapy packet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from dataplane.engine.choices import Choices, Seeded
from dataplane.engine.fib import Flow
from dataplane.engine.netns import Netns
from dataplane.errors import InputError, Problem, UnsupportedError
from dataplane.packet import Packet
from dataplane.packet_text import Described, parse_packet
from dataplane.rules.nodestate import NodeState
from dataplane.trace import Trace

if TYPE_CHECKING:
    from dataplane.kube.objects import Cluster as ClusterObjects
    from dataplane.proxy.ipvs_graceful import Termination
    from dataplane.rules.ipvs import IPVS


class Verdict(str):
    """A verdict that carries the walk, so that a failing assertion can show it."""

    trace: Trace

    def __new__(cls, trace: Trace) -> Verdict:
        """The verdict of a trace."""
        made = super().__new__(cls, trace.verdict)
        made.trace = trace
        return made


class Result:
    """What became of a packet. ``packet`` is of the kind that was given (scapy in, scapy out)."""

    def __init__(self, trace: Trace, given: object, probability: Fraction | None = None) -> None:
        self.trace = trace
        self.verdict = Verdict(trace)
        self.oif = trace.oif
        self.mark = trace.mark
        self.probability = probability
        self._given = given

    def _as_given(self, packet: Packet | None) -> Any:  # Any: a scapy packet or ours
        if packet is None or isinstance(self._given, str | Packet):
            return packet
        from dataplane.adapters.scapy import to_scapy

        return to_scapy(packet, self._given)

    @property
    def packet(self) -> Any:
        """The packet as it left or was delivered."""
        return self._as_given(self.trace.packet)

    @property
    def reply(self) -> Any:
        """The ICMP error or RST that the node sent, or None."""
        reply = self.trace.reply
        if reply is None or isinstance(self._given, str | Packet):
            return reply
        from dataplane.adapters.scapy import to_scapy

        return to_scapy(reply, None)

    def text(self, *, verbose: bool = False) -> str:
        """The walk as ``dataplane trace`` prints it."""
        from dataplane.render.text import render

        return render(self.trace, verbose=verbose)

    def __repr__(self) -> str:
        return f"<{self.verdict} {self.trace.packet}{f' by {self.oif}' if self.oif else ''}>\n{self.text()}"


Observer = Callable[[Result], object]


class Node:
    """One node. Packets share its connections until ``fork``; ``now`` is its virtual clock in seconds.

    ``notes`` say what was filled in or looked odd; ``observer`` is told every result of ``receive``, ``send`` and ``outcomes``.
    """

    def __init__(
        self, state: NodeState, *, assume: bool | None = None, verbose: bool = False, notes: Sequence[str] = (),
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        self.state = state
        self.netns = Netns(state, assume=assume, verbose=verbose)
        self.notes = tuple(notes)
        self._observer = observer
        self._began = self.now
        self._wanted: IPVS | None = None  # by the last sync_ipvs
        self._drained: Termination | None = None

    @property
    def now(self) -> float:
        """Seconds on the virtual clock; set it to let connections and recent lists expire."""
        return self.netns.kernel.now

    @now.setter
    def now(self, seconds: float) -> None:
        self.netns.kernel.now = seconds

    def sync_ipvs(self, wanted: IPVS | None = None, *, restarted: bool = False) -> None:
        """A sync of kube-proxy in IPVS mode: real servers that are no longer wanted are drained as it does (None: what was wanted before).

        Whatever its check once a minute was to remove by ``now`` goes first. ``restarted``: by a kube-proxy that has just started.
        """
        from dataplane.proxy.ipvs_graceful import CHECK_INTERVAL, Termination, advance

        before = self._drained or Termination(self.state.ipvs.servers, next_check=self._began + CHECK_INTERVAL)
        self._wanted = wanted or self._wanted or self.state.ipvs
        self._drained = advance(before, self._wanted.servers, self.netns.ipvs.services.connections(), self.now, first=restarted)
        self.netns.program_ipvs(self._wanted._replace(servers=self._drained.servers))
        self.state = self.netns.state

    def receive(self, packet: Any, iface: str | None = None, *, choices: Choices | None = None, seed: int = 0) -> Result:
        """A packet comes in by ``iface`` (without it: by the device that leads back to its source)."""
        one = described(packet)
        indev = iface or self.way_in(one.packet)
        return self._walked(one, indev, packet, choices or Seeded(seed))

    def send(self, packet: Any, *, choices: Choices | None = None, seed: int = 0) -> Result:
        """The node itself sends a packet."""
        return self._walked(described(packet), None, packet, choices or Seeded(seed))

    def trace(self, packet: Any, iface: str | None = None, *, local: bool = False, seed: int = 0) -> Result:
        """What ``dataplane trace`` does: a packet comes in by ``iface``, or the node sends it."""
        return self.send(packet, seed=seed) if local else self.receive(packet, iface, seed=seed)

    def outcomes(self, packet: Any, iface: str | None = None, *, local: bool = False) -> list[Result]:
        """Every possible outcome with its exact ``probability``, from the connections as they are, which stay so."""
        one = described(packet)
        indev = None if local else iface or self.way_in(one.packet)
        return [self._told(Result(trace, packet, probability)) for probability, trace in self.walks(one, indev)]

    def _walked(self, one: Described, indev: str | None, given: Any, choices: Choices) -> Result:
        return self._told(Result(self.walk(one, indev, choices), given))

    def walk(self, one: Described, indev: str | None, choices: Choices) -> Trace:
        """The bare trace of a packet that comes in by ``indev``, or (None) is sent by the node itself."""
        if indev is None:
            return self.netns.send(one.packet, mark=one.mark, uid=one.uid, gid=one.gid, choices=choices)
        return self.netns.receive(one.packet, indev, mark=one.mark, choices=choices, mac=one.mac, physin=one.physin)

    def walks(self, one: Described, indev: str | None) -> list[tuple[Fraction, Trace]]:
        """The bare traces of all outcomes, each with its probability."""
        found = self.netns.outcomes(one.packet, indev, mark=one.mark, uid=one.uid, gid=one.gid, mac=one.mac, physin=one.physin)
        return list(found)

    def _told(self, result: Result) -> Result:
        if self._observer is not None:
            self._observer(result)
        return result

    def way_in(self, packet: Packet) -> str | None:
        """The device by which such a packet arrives: None when its source is the node's own address."""
        fib = self.netns.kernel.fib
        back = fib.lookup(Flow(packet.family, packet.saddr))
        if back.local or fib.owner(packet.family, packet.saddr) is not None:
            return None
        if back.error is not None or not back.dev:
            names = ", ".join(name for name in self.netns.kernel.links if name != "lo")
            raise InputError(Problem(f"no route leads back to the source: say by which interface it comes (--in); the node has {names}"))
        return back.dev

    def fork(self) -> Node:
        """A node of the same rules whose connections change independently."""
        other = Node.__new__(Node)
        other.state, other.netns, other.notes, other._observer = self.state, self.netns.fork(), self.notes, self._observer
        other._began, other._wanted, other._drained = self._began, self._wanted, self._drained
        return other


class Cluster:
    """Kubernetes objects, ready to be compiled for a node."""

    def __init__(self, objects: ClusterObjects, observer: Observer | None = None) -> None:
        self.objects = objects
        self.notes = objects.notes
        self._observer = observer

    def node(self, name: str | None = None, mode: str = "iptables", **options: Any) -> Node:  # Any: options of compile_node
        """One node as kube-proxy would program it."""
        if mode not in ("iptables", "ipvs"):
            raise UnsupportedError(f"mode {mode!r} is not built yet: only iptables and ipvs are")
        from dataplane.kube.load import node_of
        from dataplane.proxy.compile import compile_node

        compiled = compile_node(self.objects, node_of(self.objects, name), mode=mode, **options)
        return Node(compiled.state, notes=compiled.notes, observer=self._observer)


def described(packet: Any) -> Described:
    """A packet of any accepted kind in the engine's form."""
    if isinstance(packet, Described):
        return packet
    if isinstance(packet, str):
        return parse_packet(packet)
    if isinstance(packet, Packet):
        return Described(packet)
    if not hasattr(packet, "haslayer"):
        raise InputError(Problem(f"expected a packet expression, a Packet or a scapy packet, got {type(packet).__name__}"))
    from dataplane.adapters.scapy import from_scapy, source_mac

    return Described(from_scapy(packet), mac=source_mac(packet))


def load(
    manifests: str | PathLike[str] | Sequence[str | PathLike[str]] | Iterable[Mapping[str, Any]], *,
    config: str | PathLike[str] | None = None, recursive: bool = False, observer: Observer | None = None,
) -> Cluster:  # fmt: skip
    """A cluster from files, directories, or objects that are mappings already.

    Raises SpecError or ParseError with everything that is wrong in them.
    """
    from dataplane.kube import load as kube

    given = [manifests] if isinstance(manifests, str | PathLike) else list(manifests)
    objects = [one for one in given if isinstance(one, Mapping)]
    paths = [fspath(one) for one in given if not isinstance(one, Mapping)]
    if objects and (paths or config is not None):
        raise InputError(Problem("files and objects cannot be mixed: give either"))
    if objects:
        return Cluster(kube.load_objects(objects), observer)
    return Cluster(kube.load(paths, config=fspath(config) if config is not None else None, recursive=recursive), observer)


def load_snapshot(directory: str | PathLike[str], **options: Any) -> Node:  # Any: options of Node
    """A node from a snapshot directory."""
    from dataplane.text.snapshot import read_snapshot

    state, warnings = read_snapshot(directory)
    return Node(state, notes=tuple(map(str, warnings)), **options)

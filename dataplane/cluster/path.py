"""One packet from its sender to whoever gets it, hop by hop, and the answer's way back until the sender accepts it or it is lost.

Marks and connections stay on their node; time is one clock; every hop costs a TTL, so a loop ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dataplane.cluster.topology import Topology
from dataplane.engine.choices import Choices
from dataplane.inet import format_address, format_endpoint
from dataplane.packet import Packet, answer_to
from dataplane.trace import NatEvent, Trace

_MOST_HOPS = 32


class Hop(NamedTuple):
    """A place that the packet came to: a node with its trace, or a pod, host or router (``trace`` None); ``note`` says what happened there."""

    place: str
    trace: Trace | None
    note: str


class Way(NamedTuple):
    """One direction. ``arrived``: somebody got it, as ``packet``, at ``place`` (a node's own address, a pod, a host); else ``why`` not."""

    hops: tuple[Hop, ...]
    arrived: bool
    place: str
    packet: Packet
    why: str = ""

    @property
    def nats(self) -> int:
        """How many times addresses were rewritten."""
        return sum(isinstance(event, NatEvent) and event.old != event.new for hop in self.hops if hop.trace is not None for event in hop.trace.events)

    @property
    def nodes(self) -> list[str]:
        """The nodes that it passed."""
        return [hop.place for hop in self.hops if hop.trace is not None]


class Path(NamedTuple):
    """There and back. ``accepted``: the sender takes the answer for one to what it asked; ``why`` not."""

    request: Way
    reply: Way | None
    accepted: bool
    why: str

    @property
    def seen_source(self) -> str:
        """The source address that whoever got the packet saw."""
        return format_address(self.request.packet.family, self.request.packet.saddr)


def walk(world: Topology, packet: Packet, sender: str, choices: Choices) -> Path:
    """The way of a packet that ``sender`` sends (client, lan, pod:NODE, node:NODE), and of the answer."""
    request = _begin(world, packet, sender, choices)
    if not request.arrived:
        return Path(request, None, accepted=False, why=request.why)
    reply = _begin(world, answer_to(request.packet), request.place, choices)
    if not reply.arrived:
        return Path(request, reply, accepted=False, why=f"the answer is lost: {reply.why}")
    wanted = packet.daddr, packet.dport, packet.saddr, packet.sport
    got = reply.packet.saddr, reply.packet.sport, reply.packet.daddr, reply.packet.dport
    if got != wanted:
        source = format_endpoint(packet.family, reply.packet.saddr, reply.packet.sport)
        return Path(request, reply, accepted=False, why=f"the sender does not know the answer: it comes from {source}, and is refused (RST)")
    return Path(request, reply, accepted=True, why="")


def _begin(world: Topology, packet: Packet, sender: str, choices: Choices) -> Way:
    kind, _, name = sender.partition(":")
    if kind in ("node", "host") and name in world.nodes:
        return _at_node(world, packet, name, lambda: world.nodes[name].send(packet, choices=choices), [], choices)
    hops = [Hop(sender, None, "sends")]
    if kind == "pod":
        return _into(world, packet, name, hops, choices)
    return _on_the_lan(world, packet, packet.daddr, hops, choices, routed=kind == "client")


def _into(world: Topology, packet: Packet, name: str, hops: list[Hop], choices: Choices) -> Way:
    """A packet comes to a node from outside of it, or from one of its pods."""
    dev = world.device_to(name, packet.family, packet.saddr)
    if dev is None:
        return Way(tuple(hops), False, name, packet, f"{name} has no device by which {format_address(packet.family, packet.saddr)} could come")
    return _at_node(world, packet, name, lambda: world.nodes[name].receive(packet, dev, choices=choices), hops, choices)


def _at_node(world: Topology, packet: Packet, name: str, ask: Callable[[], Trace], hops: list[Hop], choices: Choices) -> Way:
    if len(hops) > _MOST_HOPS:
        return Way(tuple(hops), False, name, packet, "it goes round between nodes until its TTL ends")
    trace = ask()
    after = trace.packet
    hops = [*hops, Hop(name, trace, trace.reason)]
    if trace.verdict == "local":
        return Way(tuple(hops), True, f"node:{name}", after)
    if trace.verdict != "forward":
        rule = f" ({trace.by})" if trace.by is not None else ""
        return Way(tuple(hops), False, name, after, f"{name}: {trace.verdict}: {trace.reason}{rule}")
    target = trace.gateway if trace.gateway is not None else after.daddr
    owner = world.pod_node(after.family, after.daddr)
    if trace.gateway is None and owner == name:
        return Way((*hops, Hop(f"pod {format_address(after.family, after.daddr)}", None, "gets it")), True, f"pod:{name}", after)
    return _on_the_lan(world, after, target, hops, choices, routed=False)


def _on_the_lan(world: Topology, packet: Packet, target: int, hops: list[Hop], choices: Choices, *, routed: bool) -> Way:
    """On the wire between nodes: to the node that owns ``target``, else to a host there, else to the router."""
    owner = world.owners.get((packet.family, target))
    if owner is None:
        owner = world.routed.get((packet.family, packet.daddr)) if routed or packet.daddr != packet.saddr else None
    if owner is not None and (not hops or hops[-1].place != owner):
        return _into(world, packet, owner, hops, choices)
    there = format_address(packet.family, packet.daddr)
    if world.lan_host(packet.family) == packet.daddr:
        return Way((*hops, Hop("lan", None, "gets it")), True, "lan", packet)
    if (packet.family, packet.daddr) not in world.routed and world.pod_node(packet.family, packet.daddr) is None and not _cluster_ip(world, packet):
        return Way((*hops, Hop("client", None, "gets it")), True, "client", packet)
    return Way((*hops, Hop("router", None, f"has no route to {there}")), False, "router", packet, f"nobody outside routes {there}: it is an address of the cluster only")


def _cluster_ip(world: Topology, packet: Packet) -> bool:
    text = format_address(packet.family, packet.daddr)
    return any(text in service.cluster_ips for service in world.objects.services)

"""Small nodes with virtual servers of every kind, and conversations with them: what the kernel is asked about IPVS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from dataplane.adapters.lab.asking import Step
from dataplane.adapters.lab.lines import Packet
from dataplane.inet import format_address, parse_address
from dataplane.kube.load import load, node_of
from dataplane.proxy.compile import compile_node
from dataplane.rules.iptables import Xtables
from dataplane.rules.network import Address, Link
from dataplane.rules.nodestate import LOOPBACK, NodeState
from dataplane.text.iptables import apply_restore
from dataplane.text.ipvsadm import parse_save
from dataplane.text.snapshot import read_snapshot
from tests.shared import cases as shared

VIP, VIP6 = "10.96.0.20", "fd00:c::20"
CLIENT, CLIENT6 = "192.168.0.7", "fd00:a::7"


def link(index: int, name: str, *addresses: str, kind: str | None = None) -> Link:
    flags = ("BROADCAST", "NOARP") if kind else ("BROADCAST", "MULTICAST", "UP", "LOWER_UP")
    found = []
    for text in addresses:
        host, length = text.split("/")
        family, value = parse_address(host)
        found.append(Address(family, value, int(length)))
    return Link(index, name, flags, addresses=tuple(found), kind=kind, mac=f"02:00:00:00:00:{index:02x}")


LINKS = (
    LOOPBACK, link(2, "eth0", "192.168.0.11/24", "fd00:a::11/64"), link(3, "eth1", "10.244.1.1/24", "fd00:b::1/64"),
    link(4, "vs0", f"{VIP}/32", f"{VIP6}/128", kind="dummy"),
)  # fmt: skip
FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv6.conf.default.forwarding": "1"}


def node(servers: str, iptables: Xtables | None = None, **sysctls: str) -> NodeState:
    """A router between clients (eth0) and real servers (eth1), the virtual servers' addresses on a dummy that is down."""
    values = {**FORWARDING, **{f"net.ipv4.vs.{key}": value for key, value in sysctls.items()}}
    return NodeState(links=LINKS, ipvs=parse_save(servers), sysctls=values, iptables=iptables or Xtables(4))


def virtual(servers: int = 2, *, method: str = "-m", scheduler: str = "rr", kind: str = "-t", options: str = "", vip: str = VIP, port: int = 80) -> str:
    """One virtual server with real servers .5, .6 …"""
    bracket, prefix = (("[{}]", "fd00:b::") if ":" in vip else ("{}", "10.244.1."))
    address = bracket.format(vip)
    text = f"-A {kind} {address}:{port} -s {scheduler}{options}\n"
    real = 8080 if method == "-m" else port
    for number in range(servers):
        text += f"-a {kind} {address}:{port} -r {bracket.format(f'{prefix}{5 + number}')}:{real} {method} -w 1\n"
    return text


class Talk:
    """Packets with numbers of their own."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def say(self, **fields: object) -> int:
        """One packet; its number."""
        self.packets.append(Packet(id=len(self.packets) + 1, **fields))  # type: ignore[arg-type]
        return len(self.packets)

    def tcp(
        self, src: str, dst: str, sport: int, dport: int = 80, indev: str | None = "eth0", turns: str = "S SA A A F FA A R", *, replies: bool = True
    ) -> int:  # fmt: skip
        """A connection's packets: the client's and, by turns, the real server's."""
        flags = turns.split()
        first = last = self.say(indev=indev, src=src, dst=dst, proto="tcp", sport=sport, dport=dport, flags=flags[0])
        for number, one in enumerate(flags[1:], 1):
            if number % 2 == 0:
                self.say(indev=indev, src=src, dst=dst, proto="tcp", sport=sport, dport=dport, flags=one)
            elif replies:
                last = self.say(reply_to=first, flags=one)
        return last

    def ask(self, proto: str, src: str, dst: str, sport: int, dport: int = 80, indev: str | None = "eth0", **fields: object) -> int:
        """One packet and its answer."""
        first = self.say(indev=indev, src=src, dst=dst, proto=proto, sport=sport, dport=dport, **fields)
        self.say(reply_to=first)
        return first


class Case(NamedTuple):
    """A node, what is sent to it, and what is done then."""

    name: str
    state: NodeState
    packets: list[Packet]
    steps: tuple[Step, ...] = ()


def cases() -> Iterator[Case]:
    """Every feature, with conntrack=0 and 1."""
    for conntrack in ("0", "1"):
        yield from _methods(conntrack)
        yield from _protocols(conntrack)
        yield from _persistence(conntrack)
        yield from _refusals(conntrack)
        yield from _places(conntrack)
        yield from _ends(conntrack)
    yield from _settings()
    yield from _rules()


def _methods(conntrack: str) -> Iterator[Case]:
    for vip, near, own in ((VIP, CLIENT, "192.168.0.11"), (VIP6, CLIENT6, "fd00:a::11")):
        for method in ("-m", "-g", "-i"):
            talk = Talk()
            for sport in range(40000, 40003):
                talk.tcp(near, vip, sport, replies=method != "-i")
                talk.tcp(own, vip, sport + 100, indev=None, replies=method != "-i")
            talk.tcp(near, vip, 40000, turns="S SA A", replies=method != "-i")
            talk.say(indev="eth0", src=near, dst=vip, proto="tcp", sport=40050, dport=80, flags="A")
            talk.say(indev="eth0", src=near, dst=vip, proto="tcp", sport=40051, dport=81)
            talk.say(indev="eth0", src=near, dst=vip, proto="icmp", sport=7)
            talk.say(indev=None, src="127.0.0.1" if vip == VIP else "::1", dst=vip, proto="tcp", sport=40052, dport=80)
            for ttl in (1, 2):
                talk.say(indev="eth0", src=near, dst=vip, proto="tcp", sport=40060 + ttl, dport=80, ttl=ttl, tos=0x0B)
            yield Case(f"tcp{method} {vip} conntrack={conntrack}", node(virtual(method=method, vip=vip), conntrack=conntrack), talk.packets)


def _protocols(conntrack: str) -> Iterator[Case]:
    for vip, near in ((VIP, CLIENT), (VIP6, CLIENT6)):
        six = vip == VIP6
        for kind, proto in (("-u", "udp"), ("--sctp-service", "sctp"), ("-t", "tcp")):
            for options in ("", " -o" if kind == "-u" else " -p 30"):
                talk = Talk()
                for sport in range(40000, 40004):
                    first = talk.ask(proto, near, vip, sport)
                    talk.ask(proto, near, vip, sport)
                    talk.say(reply_to=first, type=1 if six else 3, code=4 if six else 3)
                    answer = talk.say(reply_to=first)
                    talk.say(reply_to=answer, type=3 if six else 11, code=0)
                    talk.say(reply_to=answer, type=1 if six else 3, code=1)
                for _ in range(3):
                    talk.ask(proto, "192.168.0.11" if not six else "fd00:a::11", vip, 40500, indev=None)
                text = virtual(3, kind=kind, vip=vip, options=options)
                yield Case(f"{proto}{options} {vip} conntrack={conntrack}", node(text, conntrack=conntrack), talk.packets)


def _persistence(conntrack: str) -> Iterator[Case]:
    for options in (" -p 60", " -p 60 -M 255.255.255.0"):
        talk = Talk()
        for number in range(6):
            talk.tcp(f"192.168.{number % 3}.{7 + number % 2}", VIP, 40000 + number)
            talk.tcp(f"192.168.{number % 3}.{7 + number % 2}", VIP, 40100 + number, dport=8443)
        both = virtual(3, options=options) + virtual(2, options=options, port=8443)
        yield Case(f"persistent{options} conntrack={conntrack}", node(both, conntrack=conntrack), talk.packets)
        every = virtual(3, options=options, port=0).replace(":8080", ":0")
        yield Case(f"port 0{options} conntrack={conntrack}", node(every, conntrack=conntrack), talk.packets)
    talk = Talk()
    for number in range(4):
        talk.tcp(CLIENT, VIP, 40000 + number, dport=21)
        talk.tcp(CLIENT, VIP, 41000 + number, dport=30000 + number)
        talk.say(indev="eth0", src=CLIENT, dst=VIP, proto="tcp", sport=41100 + number, dport=300 + number)
        talk.say(indev="eth1", src="10.244.1.5", dst=CLIENT, proto="tcp", sport=20, dport=42000 + number)
    for options in ("", " -p 60"):
        yield Case(f"ftp{options} conntrack={conntrack}", node(virtual(2, port=21, options=options).replace(":8080", ":21"), conntrack=conntrack), talk.packets)


def _refusals(conntrack: str) -> Iterator[Case]:
    for vip, near, own in ((VIP, CLIENT, "192.168.0.11"), (VIP6, CLIENT6, "fd00:a::11")):
        for name, text in (("none", virtual(0, vip=vip)), ("weight 0", virtual(2, vip=vip).replace("-w 1", "-w 0")), ("one", virtual(2, vip=vip).replace("-w 1", "-w 0", 1))):
            for options in ("", " -p 60"):
                talk = Talk()
                for sport in range(40000, 40003):
                    talk.tcp(near, vip, sport, turns="S SA A F R")
                    talk.say(indev=None, src=own, dst=vip, proto="tcp", sport=sport + 10, dport=80)
                yield Case(f"{name}{options} {vip} conntrack={conntrack}", node(text.replace("-s rr", f"-s rr{options}"), conntrack=conntrack), talk.packets)
    talk = Talk()
    for number, protocol in enumerate(("udp", "sctp", "tcp")):
        talk.ask(protocol, CLIENT, VIP, 40000 + number)
    kinds = "".join(virtual(0, kind=kind) for kind in ("-u", "--sctp-service", "-t"))
    yield Case(f"none of any protocol conntrack={conntrack}", node(kinds, conntrack=conntrack), talk.packets)


def _places(conntrack: str) -> Iterator[Case]:
    """Real servers on the node, without a route, behind a smaller MTU; clients everywhere."""
    for real in ("10.244.1.1:8080", "192.168.0.11:80", "127.0.0.1:80", f"{VIP}:80", f"{VIP}:81", "203.0.113.9:80", "192.168.0.7:80", "10.244.1.5:80"):
        for method in ("-m", "-g"):
            if method == "-g" and not real.endswith(":80"):
                continue
            talk = Talk()
            talk.tcp(CLIENT, VIP, 40000)
            talk.tcp("192.168.0.11", VIP, 40001, indev=None)
            talk.tcp(VIP, VIP, 40002, indev=None)
            talk.tcp("127.0.0.1", VIP, 40003, indev=None)
            talk.tcp("10.244.1.5", VIP, 40004, indev="eth1")
            first = talk.ask("udp", CLIENT, VIP, 40005)
            talk.say(reply_to=first, type=3, code=3)
            text = f"-A -t {VIP}:80 -s rr\n-a -t {VIP}:80 -r {real} {method} -w 1\n"
            yield Case(f"real server {real} {method} conntrack={conntrack}", node(text + text.replace("-t", "-u"), conntrack=conntrack), talk.packets)
    for real in ("fd00:b::1", VIP6, "::1", "2001:db8::9"):
        talk = Talk()
        talk.tcp(CLIENT6, VIP6, 40000)
        talk.tcp("fd00:a::11", VIP6, 40001, indev=None)
        talk.tcp("::1", VIP6, 40003, indev=None)
        talk.say(indev="eth0", src=CLIENT6, dst=VIP6, proto="tcp", sport=40004, dport=80, length=1430)
        text = f"-A -t [{VIP6}]:80 -s rr\n-a -t [{VIP6}]:80 -r [{real}]:8080 -m -w 1\n"
        yield Case(f"real server {real} conntrack={conntrack}", node(text, conntrack=conntrack), talk.packets)


def _ends(conntrack: str) -> Iterator[Case]:
    """How connections end, begin again, and time out."""
    for mode in ("0", "1", "2"):
        talk = Talk()
        for number, turns in enumerate(("S SA A FA F", "S SA A F FA A", "S SA R", "S SA A R", "S", "S SA", "S SA A F")):
            talk.tcp(CLIENT, VIP, 40000 + number, turns=turns)
            talk.tcp(CLIENT, VIP, 40000 + number, turns="S SA A A F")
        for method in ("-m", "-g"):
            text = virtual(2, method=method)
            yield Case(f"again{method} conn_reuse_mode={mode} conntrack={conntrack}", node(text, conn_reuse_mode=mode, conntrack=conntrack), talk.packets)
    talk = Talk()
    for sport in (40000, 40001):
        talk.tcp(CLIENT, VIP, sport, turns="S SA A A")
        talk.ask("udp", CLIENT, VIP, sport)
    talk.say(indev="eth0", src=CLIENT, dst=VIP, proto="tcp", sport=40001, dport=80, flags="A", wait=1.5)
    talk.say(indev="eth0", src=CLIENT, dst=VIP, proto="tcp", sport=40000, dport=80, flags="A", wait=1.5)
    talk.tcp(CLIENT, VIP, 40001, turns="A A F FA")
    talk.ask("udp", CLIENT, VIP, 40000)
    talk.tcp(CLIENT, VIP, 40003)
    # A template's time never ends in the tick in which that of its connections does: which of the two timers runs first is the wheel's affair.
    for options, seconds in (("", 2), (" -p 1", 2), (" -p 2", 1)):
        text = virtual(2, options=options) + virtual(2, kind="-u", options=options) + f"--set {seconds} {seconds} {seconds}\n"
        yield Case(f"timeouts{options} conntrack={conntrack}", node(text, conntrack=conntrack), talk.packets)


def _settings() -> Iterator[Case]:
    for conntrack in ("0", "1"):
        for name, value in (
            ("sloppy_tcp", "1"), ("sloppy_sctp", "1"), ("nat_icmp_send", "1"), ("snat_reroute", "0"), ("expire_nodest_conn", "1"), ("schedule_icmp", "1"),
            ("pmtu_disc", "0"), ("expire_quiescent_template", "1"), ("ignore_tunneled", "1"), ("cache_bypass", "1"),
        ):  # fmt: skip
            talk = Talk()
            talk.tcp(CLIENT, VIP, 40000)
            talk.tcp(CLIENT, VIP, 40001, turns="A A F FA R A")
            talk.tcp("192.168.0.11", VIP, 40001, indev=None)
            first = talk.ask("udp", CLIENT, VIP, 40002)
            talk.say(reply_to=first, type=3, code=3)
            talk.say(indev="eth1", src="10.244.1.5", dst=CLIENT, proto="tcp", sport=8080, dport=43000, flags="A")
            talk.say(indev="eth1", src="10.244.1.5", dst=CLIENT, proto="tcp", sport=8080, dport=43001, flags="R")
            talk.say(indev="eth1", src="10.244.1.5", dst=CLIENT, proto="udp", sport=8080, dport=43001)
            other = talk.say(indev="eth0", src=CLIENT, dst="10.244.1.9", proto="udp", sport=43002, dport=53)
            talk.say(reply_to=other, type=3, code=3)
            text = virtual() + virtual(kind="-u") + virtual(kind="--sctp-service")
            yield Case(f"{name}={value} conntrack={conntrack}", node(text, conntrack=conntrack, **{name: value}), talk.packets)


def _rules() -> Iterator[Case]:
    """With rules around: marks, masquerading, filters, NAT of the same packets, -m ipvs."""
    mangle = "*mangle\n-A PREROUTING -d 10.96.1.0/24 -p tcp -j MARK --set-xmark 0x5/0xffffffff\n-A OUTPUT -d 10.96.1.0/24 -j MARK --set-xmark 0x5/0xffffffff\nCOMMIT\n"
    nat = "*nat\n-A PREROUTING -d 10.96.0.0/16 -j MARK --set-xmark 0x4000/0x4000\n-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n"
    whole = (
        "*filter\n-A INPUT -m ipvs --ipvs -j ACCEPT\n-A INPUT -p udp -j DROP\n-A FORWARD -m ipvs --vdir REPLY -j ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j ACCEPT\n"
        f"-A OUTPUT -m ipvs --vaddr {VIP} --vport 80 -j ACCEPT\n-A OUTPUT -m ipvs --ipvs -j ACCEPT\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"
        f"*mangle\n-A POSTROUTING -m ipvs --vaddr {VIP} --vmethod MASQ -j MARK --set-xmark 0x8/0x8\n-A POSTROUTING -m ipvs ! --vport 80 -j MARK --set-xmark 0x10/0x10\n"
        "-A POSTROUTING -m ipvs --vproto 6 --vdir ORIGINAL -j MARK --set-xmark 0x20/0x20\n-A POSTROUTING -m ipvs --vdir REPLY -j MARK --set-xmark 0x40/0x40\n"
        "-A POSTROUTING -m ipvs ! --ipvs -j MARK --set-xmark 0x80/0x80\nCOMMIT\n"
    )  # fmt: skip
    for conntrack in ("0", "1"):
        for name, text in (("mangle", mangle), ("nat", nat), ("filter", whole), ("all", mangle + nat)):
            talk = Talk()
            for number in range(3):
                talk.tcp(CLIENT, VIP, 40000 + number)
                talk.tcp("192.168.0.11", VIP, 40010 + number, indev=None)
                talk.tcp("10.244.1.5", VIP, 40020 + number, indev="eth1")
                talk.tcp(CLIENT, f"10.96.1.{number}", 40030 + number)
                talk.ask("udp", CLIENT, VIP, 40040 + number)
            first = talk.ask("udp", CLIENT, VIP, 40050)
            talk.say(reply_to=first, type=3, code=3)
            servers = virtual() + virtual(kind="-u") + "-A -f 5 -s rr\n-a -f 5 -r 10.244.1.5:8080 -m -w 1\n-a -f 5 -r 10.244.1.6:8080 -m -w 1\n"
            yield Case(f"{name} conntrack={conntrack}", node(servers, apply_restore(None, text, 4), conntrack=conntrack), talk.packets)


def step_cases() -> Iterator[Case]:
    """Real servers are quiesced, taken away and brought back while clients go on."""
    one, other = f"-t {VIP}:80 -r 10.244.1.5:8080", f"-t {VIP}:80 -r 10.244.1.6:8080"
    for conntrack in ("0", "1"):
        for nodest, quiescent in (("0", "0"), ("1", "0"), ("0", "1"), ("1", "1")):
            for options in ("", " -p 60"):
                for rules in (None, "*nat\n-A POSTROUTING -p udp -j MASQUERADE\nCOMMIT\n"):
                    before = virtual(2, options=options)
                    quiesced = before.replace("5:8080 -m -w 1", "5:8080 -m -w 0")
                    gone = "".join(line for line in before.splitlines(keepends=True) if ".5:" not in line)
                    none = virtual(0, options=options)
                    changes = (
                        (f"-e {one} -m -w 0\n", quiesced), (f"-d {one}\n", gone), (f"-a {one} -m -w 1\n", before), (f"-d {one}\n-d {other}\n", none),
                        (f"-D -t {VIP}:80\n", ""), (before, before),
                    )  # fmt: skip
                    steps, talk = [], Talk()
                    _ask_again(talk)
                    for commands, servers in changes:
                        asked = len(talk.packets)
                        _ask_again(talk, known=True)
                        steps.append(Step(commands, servers, talk.packets[asked:]))
                    settings = {"conntrack": conntrack, "expire_nodest_conn": nodest, "expire_quiescent_template": quiescent}
                    state = node(before, apply_restore(None, rules, 4) if rules else None, **settings)
                    name = f"steps{options} conntrack={conntrack} {nodest}{quiescent}{' nat' if rules else ''}"
                    yield Case(name, state, talk.packets[: len(talk.packets) - sum(len(step.packets) for step in steps)], tuple(steps))


def _ask_again(talk: Talk, *, known: bool = False) -> None:
    """Old connections go on, one of them begins anew, and there are new ones."""
    for number in range(4):
        if known:
            talk.say(indev="eth0", src=f"192.168.{number}.7", dst=VIP, proto="tcp", sport=40000, dport=80, flags="A" if number % 2 else "S")
        else:
            talk.tcp(f"192.168.{number}.7", VIP, 40000, turns="S SA A A" if number < 3 else "S SA A F FA A")
    for number in range(4):
        talk.tcp(f"192.168.{number}.7", VIP, 41000 + len(talk.packets), turns="S SA A A")


def golden_cases() -> Iterator[Case]:
    """What the real kube-proxy programmed, asked from everywhere."""
    for path in shared("goldens/*/ipvs"):
        case = path.parent
        facts = json.loads((case / "case.json").read_text())
        cluster = load([str(case / "manifest.yaml")], config=str(case / "kube-proxy-ipvs.yaml"))
        families = [int(name[-1]) for name in facts["families"].split(",")]
        links = read_snapshot(case / "network")[0].links
        state = compile_node(cluster, node_of(cluster, facts["node"]), links=links, families=families, mode="ipvs").state
        yield Case(f"golden {case.name}", state, _asked(state))


def _asked(state: NodeState, most: int = 12) -> list[Packet]:
    """Each kind of client asks a spread of virtual servers, at their ports and beside them; answers and errors come back."""
    talk, sport = Talk(), 30000
    servers = state.ipvs.servers
    names = {6: "tcp", 17: "udp", 132: "sctp"}
    for one in servers[:: max(1, len(servers) // most)][:most]:
        vip, proto = format_address(one.family, one.address), names[one.protocol]
        own = next((format_address(one.family, a.local) for a in state.links[1].addresses if a.family == one.family), None)
        far, pod = ("203.0.113.7", "10.244.7.7") if one.family == 4 else ("2001:db8:1::7", "fd00:10:244:7::7")
        ends = [(far, "eth0"), (pod, "eth0"), (own, None), (vip, None), ("127.0.0.1" if one.family == 4 else "::1", None)]
        ends += [(format_address(one.family, end.address), "eth0") for end in one.servers[:1]]
        for src, indev in ends:
            sport += 1
            if src is None:
                continue
            first = talk.ask(proto, src, vip, sport, one.port, indev)
            if proto == "tcp":
                talk.say(indev=indev, src=src, dst=vip, proto="tcp", sport=sport, dport=one.port, flags="A")
                talk.say(reply_to=first, flags="FA")
            else:
                talk.say(reply_to=first, type=3 if one.family == 4 else 1, code=3 if one.family == 4 else 4)
            talk.say(indev=indev, src=src, dst=vip, proto=proto, sport=sport, dport=one.port ^ 1)
            talk.say(indev=indev, src=src, dst=vip, proto="icmp", sport=5)
    return talk.packets

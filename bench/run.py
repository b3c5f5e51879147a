"""``make bench``: our figures beside their anchors, from one run. Medians; a machine is noisy, so quote ratios.

The anchor of compiling and loading is iptables-legacy-restore, fed the very text that was compiled, in a network namespace of its own
(needs root; without it the anchor's column says so).
"""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from dataplane.engine.choices import Seeded
from dataplane.engine.netns import Netns
from dataplane.kube.objects import Cluster, Endpoint, EndpointPort, EndpointSlice, KubeProxyConfiguration, Node, NodeAddress, Service, ServicePort
from dataplane.packet_text import parse_packet
from dataplane.proxy.compile import compile_node, restore_text
from dataplane.proxy.network import plain_network
from dataplane.rules.nodestate import NodeState
from dataplane.text.iptables import parse_save, print_save

BATCH = 1500
ROOT = Path(__file__).resolve().parents[1]
CONFIG = KubeProxyConfiguration(cluster_cidr="10.0.0.0/8", nfacct=False)


def cluster_of(count: int, endpoints: int = 10) -> Cluster:
    nodes = tuple(
        Node(f"node-{letter}", {}, {}, (f"10.244.{n}.0/24",), (NodeAddress("InternalIP", f"192.168.0.{10 + n}"),)) for n, letter in ((1, "a"), (2, "b"))
    )
    services, slices = [], []
    for index in range(count):
        ip = f"10.{96 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"
        services.append(Service("default", f"svc-{index}", cluster_ip=ip, cluster_ips=(ip,), ip_families=("IPv4",), ports=(ServicePort(80, "http"),)))
        ends = tuple(
            Endpoint((f"10.{128 + (index >> 12)}.{index >> 4 & 255}.{(index & 15) * 16 + n}",), True, True, False, f"node-{'ab'[n & 1]}") for n in range(endpoints)
        )
        labels = {"kubernetes.io/service-name": f"svc-{index}"}
        slices.append(EndpointSlice("default", f"svc-{index}-x", "IPv4", (EndpointPort("http", "TCP", 8080),), ends, labels))
    return Cluster(tuple(services), tuple(slices), nodes)


def median(work: Callable[[], object], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        gc.collect()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def restore_time(text: str) -> float | None:
    """Seconds that iptables-legacy-restore needs for the text in a fresh namespace."""
    if not shutil.which("iptables-legacy-restore") or not shutil.which("unshare"):
        return None
    start = time.perf_counter()
    script = "iptables-legacy-restore --noflush"
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], input=text, text=True, capture_output=True, check=False)
    return time.perf_counter() - start if done.returncode == 0 else None


def row(name: str, ours: str, anchor: str) -> None:
    print(f"{name:<58} {ours:>16}   {anchor}", flush=True)


def main() -> None:
    big = cluster_of(10000)
    node = big.nodes[0]
    links = plain_network(node, big.nodes).links
    gc.freeze()
    row("work", "ours", "anchor in the same run")
    compiled = median(lambda: restore_text(big, node, CONFIG, links, 4))
    text = restore_text(big, node, CONFIG, links, 4)[0]
    real = restore_time(text)
    anchor = f"iptables-legacy-restore {real:.2f} s ({real / compiled:.1f} x)" if real is not None else "iptables-legacy-restore: not available"
    row("compile 10,000 Services x 10 endpoints to restore text", f"{compiled:.2f} s", anchor)
    state = compile_node(big, node, configuration=CONFIG, families=[4]).state
    save = print_save(state.iptables)
    loading = median(lambda: parse_save(save, 4), 3)
    row(f"load that node's iptables-save ({save.count(chr(10))} lines)", f"{loading:.2f} s", f"the same: {real:.2f} s" if real is not None else "-")
    for count in (10, 1000, 10000):
        one = compile_node(cluster_of(count), node, configuration=CONFIG, families=[4]).state
        row(f"trace of a new packet, {count} Services", f"{trace_time(one) * 1e6:.0f} us", f"{visited(one)} rules visited by the kernel")
    row("memory of the compiled node, a Service (10,000 x 10)", f"{memory(big, node) / 1000:.1f} kB", "-")
    command = [sys.executable, "-m", "dataplane", "trace", "-f", str(ROOT / "rulesets/external-ip"), "--node", "node-a", "tcp 203.0.113.7:40000 > 198.51.100.10:80"]
    shell = median(lambda: subprocess.run(command, capture_output=True, check=True, cwd=ROOT))
    bare = median(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    row("dataplane trace from the shell, a small case", f"{shell * 1000:.0f} ms", f"python -c pass {bare * 1000:.0f} ms")


def trace_time(state: NodeState) -> float:
    netns, choices = Netns(state), Seeded(1)
    gc.collect()
    gc.freeze()  # as the command does once the node's state is read
    packets = iter([parse_packet(f"tcp 192.168.0.50:{1024 + n} > 10.96.0.7:80").packet for n in range(200 + 5 * BATCH)])
    for packet in islice(packets, 200):
        netns.receive(packet, "eth0", choices=choices)

    def batch() -> None:
        for packet in islice(packets, BATCH):
            netns.receive(packet, "eth0", choices=choices)

    return median(batch) / BATCH


def visited(state: NodeState) -> int:
    return Netns(state).receive(parse_packet("tcp 192.168.0.50:999 > 10.96.0.7:80").packet, "eth0").visited


def memory(cluster: Cluster, node: Node) -> float:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    state = compile_node(cluster, node, configuration=CONFIG, families=[4]).state
    netns = Netns(state)
    netns.receive(parse_packet("tcp 192.168.0.50:999 > 10.96.0.7:80").packet, "eth0")
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / len(cluster.services)


if __name__ == "__main__":
    main()

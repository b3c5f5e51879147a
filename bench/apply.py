"""``python bench/apply.py`` (root): laying 10,000 Services x 10 endpoints into a namespace, and one endpoint changed among them.

Our own time is what is not spent in the native tools, which are the anchor of the same run.
"""

from __future__ import annotations

import gc
import os
import time

from dataplane.adapters import namespaces, tools
from dataplane.adapters.apply import apply, cleanup
from dataplane.proxy.compile import compile_node
from run import CONFIG, cluster_of, row

NAME = f"dpbench-{os.getpid()}"


def main() -> None:
    spent: dict[str, float] = {}
    plain = tools.run

    def timed(netns: str | None, *command: str, text: str = "") -> str:
        began = time.perf_counter()
        try:
            return plain(netns, *command, text=text)
        finally:
            spent[command[0]] = spent.get(command[0], 0.0) + time.perf_counter() - began

    tools.run = timed
    big = cluster_of(10000)
    first = big.endpoint_slices[5000]
    moved = first._replace(endpoints=(first.endpoints[0]._replace(addresses=("10.200.0.1",)), *first.endpoints[1:]))
    changed = big._replace(endpoint_slices=(*big.endpoint_slices[:5000], moved, *big.endpoint_slices[5001:]))
    gc.collect()
    gc.freeze()  # as the command does once the objects are read
    try:
        for name, cluster in (("apply 10,000 Services x 10 endpoints", big), ("one endpoint changed", changed), ("nothing changed", changed)):
            spent.clear()
            began = time.perf_counter()
            state = compile_node(cluster, cluster.nodes[0], configuration=CONFIG, families=[4]).state
            compiled = time.perf_counter() - began
            done = apply(state._replace(sysctls={}), NAME)
            whole = time.perf_counter() - began
            native = sum(spent.values())
            anchor = ", ".join(f"{tool} {seconds:.2f} s" for tool, seconds in sorted(spent.items()) if seconds > 0.05)
            row(f"{name} ({len(done.steps)} steps)", f"{whole - native:.2f} s", f"of it compiling {compiled:.2f} s; {anchor}")
    finally:
        tools.run = plain
        if namespaces.exists(NAME):
            cleanup(NAME)


if __name__ == "__main__":
    main()

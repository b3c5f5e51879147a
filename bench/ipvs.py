"""``python bench/ipvs.py``: compiling, printing and reading IPVS mode for 10,000 virtual servers of 10 real servers each.

Beside them, in the same run, what ``ipvsadm -R`` and ``ipset restore`` need for the very same texts in user-mode-linux (as root).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.run import CONFIG, cluster_of, median
from dataplane.proxy.compile import compile_node
from dataplane.proxy.network import plain_network
from dataplane.text import ipset, ipvsadm
from tests.uml import boot_reason, in_uml

COUNT = 10_000
LIMIT = 0.5  # seconds to compile


def main() -> None:
    """Print the table."""
    cluster = cluster_of(COUNT)
    node = cluster.nodes[0]
    network = plain_network(node, cluster.nodes)
    made = compile_node(cluster, node, configuration=CONFIG, network=network, families=[4], mode="ipvs").state
    servers, sets = ipvsadm.print_save(ipvsadm.in_printed_order(made.ipvs)), ipset.print_save(made.ipsets)
    compiling = median(lambda: compile_node(cluster, node, configuration=CONFIG, network=network, families=[4], mode="ipvs"))
    print(f"compile {COUNT} x 10 {compiling:.3f} s, goal {LIMIT} s")
    print(f"print ipvsadm -Sn    {median(lambda: ipvsadm.print_save(ipvsadm.in_printed_order(made.ipvs)), 3):.3f} s")
    print(f"read ipvsadm -Sn     {median(lambda: ipvsadm.parse_save(servers), 3):.3f} s")
    print(f"read ipset save      {median(lambda: ipset.parse_save(sets), 3):.3f} s")
    reason = "skipped" if "--quick" in sys.argv else boot_reason("ipvsadm", "ipset")
    if reason is not None:
        print(f"ipvsadm -R, ipset restore: {reason}")
        return
    script = "now() { date +%s.%N; }; now; ipvsadm -R < servers; now; ipset restore < sets; now"
    start, middle, end = map(float, in_uml(script, "ipvsadm", "ipset", files={"servers": servers, "sets": sets}).split())
    print(f"ipvsadm -R           {middle - start:.3f} s (in user-mode-linux)")
    print(f"ipset restore        {end - middle:.3f} s (in user-mode-linux)")


if __name__ == "__main__":
    main()

"""A node in IPVS mode is applied, changed and collected where there is an ip_vs: in user-mode-linux."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.uml import in_uml

ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = """cd {root}
export HOME=/run TMPDIR=/run PYTHONPATH={root}
dataplane() {{ {python} -m dataplane "$@" 2>>/run/errors || echo "failed: $?"; }}
node() {{ dataplane apply -f "$1" --node node-a --mode ipvs --netns lab; }}
node rulesets/external-ip
node rulesets/external-ip
ip netns exec lab ipvsadm -Sn
ip -n lab -br addr show kube-ipvs0 | tr -s ' '
ip netns exec lab ipset -n list | wc -l
dataplane collect --netns lab --out /run/snap >/dev/null
dataplane apply --snapshot /run/snap --netns lab
dataplane compile -f rulesets/external-ip --node node-a --mode ipvs --out /run/want
dataplane diff /run/want /run/snap
cp -r rulesets/external-ip /run/other; sed -i s/8080/9090/ /run/other/*.yaml
node /run/other
ip netns exec lab ipvsadm -Sn
dataplane cleanup --netns lab; ip netns list
"""
_SERVERS = """-A -t 198.51.100.10:80 -s rr
-a -t 198.51.100.10:80 -r 10.244.1.5:{port} -m -w 1
-a -t 198.51.100.10:80 -r 10.244.2.5:{port} -m -w 1
-A -t 10.96.0.20:80 -s rr
-a -t 10.96.0.20:80 -r 10.244.1.5:{port} -m -w 1
-a -t 10.96.0.20:80 -r 10.244.2.5:{port} -m -w 1
"""


def test_a_node_of_virtual_servers_is_applied_twice_collected_and_changed() -> None:
    said = in_uml(_SCRIPT.format(root=ROOT, python=sys.executable), "ipvsadm", "ipset", load=("ip_vs", "dummy", "veth"), memory=768)
    lines = said.splitlines()
    assert lines[0].startswith("lab: made in ")
    assert lines[1] == "lab: nothing to change"
    assert said.count(_SERVERS.format(port=8080)) == 1
    assert lines[8:10] == ["kube-ipvs0 DOWN 10.96.0.20/32 198.51.100.10/32 ", "17"]
    assert lines[10] == "lab: nothing to change"
    assert lines[11].startswith("lab: changed in ")
    assert said.endswith(_SERVERS.format(port=9090))

"""kube-proxy's own cases of CategorizeEndpoints."""

import json

import pytest

from dataplane.proxy.endpoints import Endpoint
from dataplane.proxy.topology import ZONE_LABEL, categorize_endpoints
from tests.shared import cases, needs_shared

CASES = cases("upstream-flows/topology/*.json")


@needs_shared
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_endpoints_are_categorized_as_upstream_does(path):
    case = json.loads(path.read_text())
    endpoints = [
        Endpoint(
            one["endpoint"], "", 0, one["isLocal"], one["ready"], one["serving"], one["terminating"], tuple(one["zoneHints"] or ()),
            tuple(one["nodeHints"] or ()),
        )
        for one in case["endpoints"] or []
    ]  # fmt: skip
    found = categorize_endpoints(
        sorted(endpoints, key=lambda one: one.text), uses_cluster=case["service"]["usesClusterEndpoints"],
        uses_local=case["service"]["usesLocalEndpoints"], node_name=case["nodeName"],
        zone=(case["nodeLabels"] or {}).get(ZONE_LABEL, ""), node_hints=case["preferSameTrafficDistribution"],
    )  # fmt: skip
    got = {"clusterEndpoints": found.cluster, "localEndpoints": found.local, "allEndpoints": found.reachable}
    assert {name: sorted(one.text for one in ends) for name, ends in got.items()} == {
        name: sorted(case["result"][name] or []) for name in got
    }
    assert found.has_any == case["result"]["hasAnyEndpoints"]

"""Manifests as people have them."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import DataplaneError
from dataplane.kube.controlplane import complete
from dataplane.kube.load import load, load_objects, load_text
from dataplane.kube.manifest import read
from tests.shared import cases, needs_shared


@needs_shared
@pytest.mark.parametrize("path", cases("corpus/manifests/*.yaml"), ids=lambda path: path.name)
def test_a_real_manifest_becomes_a_cluster(path):
    cluster = load([str(path)])
    assert cluster.nodes
    for service in cluster.services:
        if service.type != "ExternalName":
            assert service.cluster_ip, service
        if service.type in ("NodePort", "LoadBalancer"):
            assert all(30000 <= port.node_port <= 32767 for port in service.ports)
    assert load([str(path)]) == cluster


def test_bookinfo_like_services_get_endpoints_from_their_pods():
    web = {"app": "web"}
    cluster = load_objects([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": web, "ports": [{"port": 80, "targetPort": "http"}]}},
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 3, "template": {"metadata": {"labels": web}, "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}}},
        },
    ])  # fmt: skip
    (one,) = cluster.endpoint_slices
    assert len(one.endpoints) == 3
    assert one.ports[0].port == 8080
    assert {endpoint.node_name for endpoint in one.endpoints} == {"node-a", "node-b"}


def test_what_is_given_is_not_changed():
    cluster = load_objects([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "10.96.3.4", "ports": [{"port": 80, "nodePort": 31000}]}},
    ])  # fmt: skip
    assert (cluster.services[0].cluster_ip, cluster.services[0].ports[0].node_port) == ("10.96.3.4", 31000)
    assert complete(cluster).services == cluster.services


@pytest.mark.parametrize(
    ("text", "value"), [("a: 12:30:45", "12:30:45"), ("a: 2021-01-01", "2021-01-01"), ("a: NO", False), ("a: 022", 18), ("1: x", None)]
)
def test_yaml_1_1_is_read_as_kubernetes_reads_it(text, value):
    (document,) = read(text + "\n", "x.yaml")
    assert document.value == ({"1": "x"} if value is None else {"a": value})


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")), st.text(alphabet=list("kindServcapo:v1{}[]- \n&*a'\""), max_size=80)))
def test_nothing_but_our_own_error_comes_out(text):
    with suppress(DataplaneError):
        load_text(text, "fuzz.yaml")

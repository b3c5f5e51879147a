"""What the control plane does before kube-proxy sees an object: it allocates, schedules, and makes EndpointSlices.

A pure function of the cluster: what is given stays as it is, what is missing is derived from names, so that the same manifests give the
same cluster every time. Every step says what it filled in.
Source: the service IP and node port allocators, the scheduler (simplified to round-robin), the EndpointSlice controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from dataplane.inet import Prefix, format_address, parse_prefix
from dataplane.kube.convert import Workload
from dataplane.kube.objects import Cluster, Endpoint, EndpointPort, EndpointSlice, Node, NodeAddress, Pod, Service, ServicePort

SERVICE_CIDRS = ("10.96.0.0/12", "fd00:10:96::/108")
NODE_PORTS = range(30000, 32768)
_ZONE = "topology.kubernetes.io/zone"


def complete(cluster: Cluster, workloads: Sequence[Workload] = ()) -> Cluster:
    """The cluster with everything filled in that the control plane would have made; ``notes`` say what."""
    notes: list[str] = []
    dual = any(":" in text for one in cluster.services for text in one.cluster_ips) or any(
        "IPv6" in one.ip_families or (one.ip_family_policy or "SingleStack") != "SingleStack" for one in cluster.services
    )
    nodes = _nodes(cluster.nodes, dual, notes)
    pods = _pods((*cluster.pods, *_from_workloads(workloads, nodes, notes)), nodes, notes)
    services = _services(cluster, dual, notes)
    slices = (*cluster.endpoint_slices, *_slices(services, cluster.endpoint_slices, pods, nodes, notes))
    return cluster._replace(nodes=nodes, pods=pods, services=services, endpoint_slices=slices, notes=(*cluster.notes, *notes))


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


# ---------------------------------------------------------------------- nodes and pods


def _nodes(given: Sequence[Node], dual: bool, notes: list[str]) -> tuple[Node, ...]:
    if not given:
        notes.append("no Node is given: node-a (192.168.0.11) and node-b (192.168.0.12) are made up")
        six = (lambda n: (NodeAddress("InternalIP", f"fd00::{n}"),)) if dual else (lambda n: ())
        given = tuple(
            Node(f"node-{letter}", {"kubernetes.io/hostname": f"node-{letter}"}, {}, (),
                 (NodeAddress("InternalIP", f"192.168.0.{10 + n}"), *six(10 + n)))
            for n, letter in ((1, "a"), (2, "b"))
        )  # fmt: skip
    taken = {text for node in given for text in node.pod_cidrs}
    made = []
    for node in given:
        if not node.pod_cidrs:
            index = next(n for n in range(1, 65536) if f"10.244.{n}.0/24" not in taken)
            cidrs = [f"10.244.{index}.0/24"]
            if any(":" in one.address for one in node.addresses):
                cidrs.append(f"fd00:10:244:{index:x}::/64")
            taken.update(cidrs)
            notes.append(f"Node {node.name}: podCIDR {', '.join(cidrs)} chosen")
            node = node._replace(pod_cidrs=tuple(cidrs))
        made.append(node)
    return tuple(made)


def _from_workloads(workloads: Sequence[Workload], nodes: Sequence[Node], notes: list[str]) -> Iterable[Pod]:
    for one in workloads:
        if one.kind == "DaemonSet":
            places: list[str | None] = [node.name for node in nodes]
        else:
            places = [None] * (1 if one.replicas is None else one.replicas)
        token = f"{_number(f'{one.kind}/{one.namespace}/{one.name}') & 0xFFFFFFFF:08x}"
        for index, place in enumerate(places):
            suffix = f"{index}" if one.kind == "StatefulSet" else f"{token}-{index}"
            yield one.template._replace(
                name=f"{one.name}-{suffix}", node_name=one.template.node_name or place, owner=f"{one.kind}/{one.name}"
            )
        notes.append(f"{one.kind} {one.namespace}/{one.name}: {len(places)} Pods made from its template")


def _pods(given: Sequence[Pod], nodes: Sequence[Node], notes: list[str]) -> tuple[Pod, ...]:
    by_name = {node.name: node for node in nodes}
    used = {ip for pod in given for ip in pod.pod_ips}
    made, turn, placed = [], 0, 0
    for pod in given:
        if pod.node_name is None:
            pod = pod._replace(node_name=nodes[turn % len(nodes)].name)
            turn += 1
        node = by_name.get(pod.node_name or "")
        if not pod.pod_ips and node is not None and pod.phase not in ("Failed", "Succeeded"):
            ips = tuple(_host_ips(node)) if pod.host_network else tuple(_free(node, used))
            used.update(ips)
            placed += 1
            pod = pod._replace(pod_ips=ips)
        made.append(pod)
    if placed:
        notes.append(f"{placed} Pods were given a node and an address from its podCIDR")
    return tuple(made)


def _host_ips(node: Node) -> Iterable[str]:
    families: set[bool] = set()
    for one in node.addresses:
        if one.type == "InternalIP" and (":" in one.address) not in families:
            families.add(":" in one.address)
            yield one.address


def _free(node: Node, used: set[str]) -> Iterable[str]:
    for text in node.pod_cidrs:
        try:
            prefix = parse_prefix(text)
        except ValueError:
            continue
        for offset in range(2, 1 << 16):
            address = format_address(prefix.family, prefix.address + offset)
            if address not in used:
                yield address
                break


# ---------------------------------------------------------------------- services


def _services(cluster: Cluster, dual: bool, notes: list[str]) -> tuple[Service, ...]:
    texts = [text for one in cluster.service_cidrs for text in one.cidrs] or list(SERVICE_CIDRS)
    cidrs: dict[str, Prefix] = {}
    for text in texts:
        try:
            prefix = parse_prefix(text)
        except ValueError:
            continue
        cidrs.setdefault(f"IPv{prefix.family}", prefix)
    del dual
    addresses = {text for one in cluster.services for text in (one.cluster_ip, *one.cluster_ips) if text not in ("", "None")}
    ports = {port.node_port for one in cluster.services for port in one.ports} | {one.health_check_node_port for one in cluster.services}
    made = []
    for service in cluster.services:
        filled = _with_address(service, cidrs, addresses, notes)
        made.append(_with_node_ports(filled, ports, notes))
    return tuple(made)


def _with_address(service: Service, cidrs: Mapping[str, Prefix], taken: set[str], notes: list[str]) -> Service:
    if service.type == "ExternalName" or service.cluster_ip == "None" or service.cluster_ips[:1] == ("None",):
        return service
    if service.cluster_ip or service.cluster_ips:
        ips = service.cluster_ips or (service.cluster_ip,)
        families = service.ip_families or tuple("IPv6" if ":" in text else "IPv4" for text in ips)
        return service._replace(cluster_ip=ips[0], cluster_ips=ips, ip_families=families)
    policy = service.ip_family_policy or "SingleStack"
    families = service.ip_families or (next(iter(cidrs), "IPv4"),)
    if policy in ("PreferDualStack", "RequireDualStack") and len(families) == 1:
        families = (*families, *(family for family in cidrs if family not in families))
    ips = tuple(_pick_address(service, cidrs[family], taken) for family in families if family in cidrs)
    if not ips:
        return service
    notes.append(f"Service {service.namespace}/{service.name}: clusterIP {', '.join(ips)} allocated")
    return service._replace(cluster_ip=ips[0], cluster_ips=ips, ip_families=families)


def _pick_address(service: Service, cidr: Prefix, taken: set[str]) -> str:
    size = min(1 << ((32 if cidr.family == 4 else 128) - (cidr.length or 0)), 1 << 20) - 2
    start = _number(f"{service.namespace}/{service.name}")
    for step in range(size):
        text = format_address(cidr.family, cidr.address + 1 + (start + step) % size)
        if text not in taken:
            taken.add(text)
            return text
    raise ValueError("the service CIDR is full")


def _with_node_ports(service: Service, taken: set[int], notes: list[str]) -> Service:
    balancer = service.type == "LoadBalancer" and service.allocate_load_balancer_node_ports is not False
    if service.type == "NodePort" or balancer:
        ports = []
        for port in service.ports:
            if not port.node_port:
                number = _pick_port(f"{service.namespace}/{service.name}/{port.name}/{port.protocol}/{port.port}", taken)
                notes.append(f"Service {service.namespace}/{service.name} port {port.name or port.port}: nodePort {number} allocated")
                port = port._replace(node_port=number)
            ports.append(port)
        service = service._replace(ports=tuple(ports))
    if service.type == "LoadBalancer" and service.external_traffic_policy == "Local" and not service.health_check_node_port:
        number = _pick_port(f"{service.namespace}/{service.name}/healthCheck", taken)
        notes.append(f"Service {service.namespace}/{service.name}: healthCheckNodePort {number} allocated")
        service = service._replace(health_check_node_port=number)
    if service.type == "LoadBalancer" and not service.ingress:
        notes.append(f"Service {service.namespace}/{service.name}: no load balancer address (pending): only its nodePorts and clusterIP work")
    return service


def _pick_port(seed: str, taken: set[int]) -> int:
    start = _number(seed)
    for step in range(len(NODE_PORTS)):
        number = NODE_PORTS[(start + step) % len(NODE_PORTS)]
        if number not in taken:
            taken.add(number)
            return number
    raise ValueError("no node port is free")


# ---------------------------------------------------------------------- EndpointSlices


def _slices(
    services: Sequence[Service], given: Sequence[EndpointSlice], pods: Sequence[Pod], nodes: Sequence[Node], notes: list[str]
) -> Iterable[EndpointSlice]:
    have = {(one.namespace, one.labels.get("kubernetes.io/service-name", "")) for one in given}
    zones = {node.name: node.labels.get(_ZONE) for node in nodes}
    for service in services:
        if not service.selector or (service.namespace, service.name) in have or service.type == "ExternalName":
            continue
        chosen = [pod for pod in pods if pod.namespace == service.namespace and _selects(service.selector, pod.labels)]
        if not chosen:
            notes.append(f"Service {service.namespace}/{service.name}: its selector matches no Pod: it has no endpoints")
        families = service.ip_families or ("IPv4",)
        for family in families:
            yield from _slices_of(service, family, chosen, zones)


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _slices_of(service: Service, family: str, pods: Sequence[Pod], zones: Mapping[str, str | None]) -> Iterable[EndpointSlice]:
    groups: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
    for pod in pods:
        address = next((ip for ip in pod.pod_ips if (":" in ip) == (family == "IPv6")), None)
        if address is None or pod.phase in ("Failed", "Succeeded"):
            continue
        ports = tuple(made for port in service.ports if (made := _endpoint_port(port, pod)) is not None)
        groups.setdefault(ports, []).append(_endpoint(service, pod, address, zones))
    labels = {
        "kubernetes.io/service-name": service.name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        **({"service.kubernetes.io/headless": ""} if service.cluster_ip == "None" else {}),
    }  # fmt: skip
    for index, (ports, endpoints) in enumerate(groups.items() or {(): []}.items()):
        yield EndpointSlice(service.namespace, f"{service.name}-{family.lower()}-{index}", family, ports, tuple(endpoints), labels)


def _endpoint_port(port: ServicePort, pod: Pod) -> EndpointPort | None:
    target = port.target_port if port.target_port not in (None, 0, "") else port.port
    if isinstance(target, str):
        number = next((one.container_port for one in pod.ports if one.name == target and one.protocol == port.protocol), None)
        if number is None:
            return None
        target = number
    return EndpointPort(port.name, port.protocol, target)


def _endpoint(service: Service, pod: Pod, address: str, zones: Mapping[str, str | None]) -> Endpoint:
    healthy = pod.ready is not False
    zone = zones.get(pod.node_name or "")
    spread = service.traffic_distribution
    hint_zones = (zone,) if zone and spread in ("PreferClose", "PreferSameZone", "PreferSameNode") else ()
    hint_nodes = (pod.node_name,) if pod.node_name and spread == "PreferSameNode" else ()
    ready = service.publish_not_ready_addresses or (healthy and not pod.terminating)
    serving = service.publish_not_ready_addresses or healthy
    return Endpoint((address,), ready, serving, pod.terminating, pod.node_name, zone, None, hint_zones, hint_nodes)



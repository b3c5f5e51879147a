"""What the API server would refuse, in its own words and under its field paths.

Objects that a cluster has stored already (they carry a uid, a resourceVersion or an allocated clusterIP) may predate the strict address
checks, so those are left out for them, as the API server does for unchanged values.
Source: pkg/apis/core/validation, pkg/apis/discovery/validation of Kubernetes 1.36; section names follow the API fields.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from dataplane.kube.addresses import strict_problems
from dataplane.kube.fields import Problems
from dataplane.kube.objects import EndpointSlice, Service

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_TEXT: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric"
    " character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def unsupported(problems: Problems, path: str, value: str, supported: Sequence[str]) -> None:
    """``Unsupported value`` with the values that would do, sorted."""
    names = ", ".join(json.dumps(one) for one in sorted(supported))
    problems.add(path, f"Unsupported value: {json.dumps(value)}: supported values: {names}")


def validate_service(service: Service, problems: Problems, *, stored: bool) -> None:
    """Everything about one Service that does not depend on others."""
    _name(service.name, problems)
    if service.type not in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"):
        unsupported(problems, "spec.type", service.type, ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"))
    _ports(service, problems)
    _cluster_ips(service, problems, stored=stored)
    _policies(service, problems)
    for index, text in enumerate(service.external_ips):
        _endpoint_address(text, f"spec.externalIPs[{index}]", problems, stored=stored)
    _balancer(service, problems, stored=stored)


def _name(name: str, problems: Problems, path: str = "metadata.name") -> None:
    if not name:
        problems.add(path, "Required value: name or generateName is required")
    elif len(name) > 63:
        problems.invalid(path, name, "must be no more than 63 characters")
    elif not _LABEL.fullmatch(name):
        problems.invalid(path, name, _LABEL_TEXT)


def _ports(service: Service, problems: Problems) -> None:
    if not service.ports and service.cluster_ip != "None" and service.type != "ExternalName":
        problems.add("spec.ports", "Required value")
    names: set[str] = set()
    for index, port in enumerate(service.ports):
        path = f"spec.ports[{index}]"
        if not port.name and len(service.ports) > 1:
            problems.add(f"{path}.name", "Required value")
        elif port.name:
            _port_name(port.name, f"{path}.name", names, problems)
        if not 1 <= port.port <= 65535:
            problems.invalid(f"{path}.port", port.port, "must be between 1 and 65535, inclusive")
        if port.protocol not in PROTOCOLS:
            unsupported(problems, f"{path}.protocol", port.protocol, PROTOCOLS)
        _target_port(port.target_port, f"{path}.targetPort", problems)
        if port.node_port and service.type == "ClusterIP":
            problems.add(f"{path}.nodePort", "Forbidden: may not be used when `type` is 'ClusterIP'")
        elif not 0 <= port.node_port <= 65535:
            problems.invalid(f"{path}.nodePort", port.node_port, "must be between 1 and 65535, inclusive")
    for key, path in (("port", "spec.ports[{}]"), ("node_port", "spec.ports[{}].nodePort")):
        seen: Counter[tuple[str, int]] = Counter()
        for index, port in enumerate(service.ports):
            value = getattr(port, key)
            seen[(port.protocol, value)] += 1
            if value and seen[(port.protocol, value)] == 2:
                shown: Any = value if key == "node_port" else {"protocol": port.protocol, "port": value, "targetPort": 0}
                problems.add(path.format(index), f"Duplicate value: {json.dumps(shown, separators=(',', ':'))}")


def _port_name(name: str, path: str, names: set[str], problems: Problems) -> None:
    if not _LABEL.fullmatch(name) or len(name) > 63:
        problems.invalid(path, name, _LABEL_TEXT if len(name) <= 63 else "must be no more than 63 characters")
    elif name in names:
        problems.add(path, f"Duplicate value: {json.dumps(name)}")
    names.add(name)


def _target_port(target: int | str | None, path: str, problems: Problems) -> None:
    if isinstance(target, int):
        if not 1 <= target <= 65535:
            problems.invalid(path, target, "must be between 1 and 65535, inclusive")
    elif isinstance(target, str):
        if len(target) > 15:
            problems.invalid(path, target, "must be no more than 15 characters")
        elif not re.fullmatch(r"[a-z0-9-]+", target):
            problems.invalid(path, target, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
        elif not re.search(r"[a-z]", target):
            problems.invalid(path, target, "must contain at least one letter (a-z)")
        elif "--" in target or target.startswith("-") or target.endswith("-"):
            problems.invalid(path, target, "must not contain consecutive hyphens" if "--" in target else "must not begin or end with a hyphen")


def _cluster_ips(service: Service, problems: Problems, *, stored: bool) -> None:
    given = service.cluster_ips or ((service.cluster_ip,) if service.cluster_ip else ())
    if service.type == "ExternalName":
        for path, value in (("clusterIPs", given), ("ipFamilies", service.ip_families), ("ipFamilyPolicy", service.ip_family_policy)):
            if value and value != ("None",):
                problems.add(f"spec.{path}", "Forbidden: may not be set for ExternalName services")
        if not service.external_name:
            problems.add("spec.externalName", "Required value")
        return
    if service.cluster_ip and service.cluster_ips and service.cluster_ip != service.cluster_ips[0]:
        problems.invalid("spec.clusterIPs", list(service.cluster_ips), "first value must match `clusterIP`")
    if len(given) > 2:
        problems.invalid("spec.clusterIPs", list(given), "may only hold up to 2 values")
    for index, text in enumerate(given):
        path = f"spec.clusterIPs[{index}]"
        if text == "None":
            if len(given) > 1:
                problems.invalid(path, text, "`None` must be the first and only value")
            continue
        _address(text, path, problems, stored=stored)
        if index < len(service.ip_families) and _family(text) not in (None, service.ip_families[index]):
            family = service.ip_families[index]
            problems.invalid(path, text, f"expected an {family} value as indicated by `ipFamilies[{index}]`")
    families = [_family(text) for text in given if text != "None"]
    if len(families) == 2 and None not in families and families[0] == families[1]:
        problems.invalid("spec.clusterIPs", list(given), "may specify no more than one IP for each IP family")
    for index, family in enumerate(service.ip_families):
        if family not in ("IPv4", "IPv6"):
            unsupported(problems, f"spec.ipFamilies[{index}]", family, ("IPv4", "IPv6"))
    policy = service.ip_family_policy
    if policy is not None and policy not in ("SingleStack", "PreferDualStack", "RequireDualStack"):
        unsupported(problems, "spec.ipFamilyPolicy", policy, ("PreferDualStack", "RequireDualStack", "SingleStack"))


def _policies(service: Service, problems: Problems) -> None:
    if service.session_affinity not in ("ClientIP", "None"):
        unsupported(problems, "spec.sessionAffinity", service.session_affinity, ("ClientIP", "None"))
    timeout = service.session_affinity_timeout
    if service.session_affinity == "ClientIP" and timeout is not None and not 0 < timeout <= 86400:
        problems.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout, "must be greater than 0 and less than 86400")
    external = service.external_traffic_policy
    reachable = service.type in ("NodePort", "LoadBalancer") or (service.type == "ClusterIP" and bool(service.external_ips))
    if external and not reachable:
        problems.invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services")
    elif external and external not in ("Cluster", "Local"):
        unsupported(problems, "spec.externalTrafficPolicy", external, ("Cluster", "Local"))
    internal = service.internal_traffic_policy
    if internal is not None and internal not in ("Cluster", "Local"):
        unsupported(problems, "spec.internalTrafficPolicy", internal, ("Cluster", "Local"))
    spread = service.traffic_distribution
    if spread is not None and spread not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        unsupported(problems, "spec.trafficDistribution", spread, ("PreferClose", "PreferSameNode", "PreferSameZone"))
    health = service.health_check_node_port
    if health:
        if not (service.type == "LoadBalancer" and external == "Local"):
            problems.invalid(
                "spec.healthCheckNodePort", health, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            )
        elif not 1 <= health <= 65535:
            problems.invalid("spec.healthCheckNodePort", health, "must be between 1 and 65535, inclusive")


def _balancer(service: Service, problems: Problems, *, stored: bool) -> None:
    for index, text in enumerate(service.load_balancer_source_ranges):
        path = f"spec.LoadBalancerSourceRanges[{index}]"
        if service.type != "LoadBalancer":
            problems.add(path, "Forbidden: may only be used when `type` is 'LoadBalancer'")
            break
        wrong = strict_problems(text.strip(), cidr=True, stored=stored)
        if wrong:
            problems.invalid(path, text, wrong)
    for index, entry in enumerate(service.ingress):
        path = f"status.loadBalancer.ingress[{index}]"
        if entry.ip:
            _address(entry.ip, f"{path}.ip", problems, stored=stored)
        if entry.ip_mode is not None and entry.ip_mode not in ("VIP", "Proxy"):
            unsupported(problems, f"{path}.ipMode", entry.ip_mode, ("Proxy", "VIP"))
        if entry.ip_mode is not None and not entry.ip:
            problems.add(f"{path}.ipMode", "Forbidden: may not be set when `ip` is not set")


def _family(text: str) -> str | None:
    try:
        return f"IPv{ipaddress.ip_address(text).version}"
    except ValueError:
        return None


def _address(text: str, path: str, problems: Problems, *, stored: bool) -> bool:
    wrong = strict_problems(text, cidr=False, stored=stored)
    if wrong:
        problems.invalid(path, text, wrong)
    return not wrong


_SPECIAL: Final = (
    ("is_unspecified", "may not be unspecified (0.0.0.0)"), ("is_loopback", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("is_link_local", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
)  # fmt: skip
_LOCAL_MULTICAST: Final = (ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"))


def _endpoint_address(text: str, path: str, problems: Problems, *, stored: bool) -> None:
    if not _address(text, path, problems, stored=stored) or stored:
        return
    address = ipaddress.ip_address(text)
    for attribute, words in _SPECIAL:
        if getattr(address, attribute):
            problems.invalid(path, text, words)
            return
    if any(address.version == net.version and address in net for net in _LOCAL_MULTICAST):
        problems.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def validate_endpoint_slice(one: EndpointSlice, problems: Problems, *, stored: bool) -> None:
    """One EndpointSlice."""
    if not one.address_type:
        problems.add("addressType", "Required value")
    elif one.address_type not in ("IPv4", "IPv6", "FQDN"):
        unsupported(problems, "addressType", one.address_type, ("FQDN", "IPv4", "IPv6"))
    if len(one.endpoints) > 1000:
        problems.add("endpoints", f"Too many: {len(one.endpoints)}: must have at most 1000 items")
    for index, endpoint in enumerate(one.endpoints):
        path = f"endpoints[{index}]"
        if not endpoint.addresses and not stored:
            problems.add(f"{path}.addresses", "Required value: must contain at least 1 address")
        if len(endpoint.addresses) > 100:
            problems.add(f"{path}.addresses", f"Too many: {len(endpoint.addresses)}: must have at most 100 items")
        for number, text in enumerate(endpoint.addresses if one.address_type in ("IPv4", "IPv6") else ()):
            place = f"{path}.addresses[{number}]"
            _endpoint_address(text, place, problems, stored=stored)
            if _family(text) not in (None, one.address_type) and not stored:
                words = "must be an IPv4 address" if one.address_type == "IPv4" else "must be an IPv6 address"
                problems.invalid(place, text, words)
        if endpoint.node_name is not None and not _SUBDOMAIN.fullmatch(endpoint.node_name):
            problems.invalid(f"{path}.nodeName", endpoint.node_name, "a lowercase RFC 1123 subdomain is expected")
    if stored:
        return
    names: set[str] = set()
    for index, port in enumerate(one.ports):
        if port.name and not _LABEL.fullmatch(port.name):
            problems.invalid(f"ports[{index}].name", port.name, _LABEL_TEXT)
        if (port.name or "") in names:
            problems.add(f"ports[{index}].name", f"Duplicate value: {json.dumps(port.name or '')}")
        names.add(port.name or "")
        if port.protocol is not None and port.protocol not in PROTOCOLS:
            unsupported(problems, f"ports[{index}].protocol", port.protocol, PROTOCOLS)

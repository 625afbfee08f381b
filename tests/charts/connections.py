"""Who may connect to whom under a set of NetworkPolicies, by Kubernetes' rules."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rendering import Object, Rendered

Direction = Literal["ingress", "egress"]


@dataclass(frozen=True)
class Pod:
    """A pod in the cluster, or with an address only a machine outside of it."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""
    ports: dict[str, int] = field(default_factory=dict)


def pod_of(release: Rendered, namespace: str, component: str = "") -> Pod:
    pod = release.one("StatefulSet", component)["spec"]["template"]
    ports = {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]}
    return Pod(namespace, pod["metadata"]["labels"], ports=ports)


def may_connect(
    source: Pod, target: Pod, port: int, policies: Iterable[tuple[str, Object]], protocol: str = "TCP"
) -> bool:
    """Whether ``policies``, each with its namespace, let ``source`` open a connection to ``target``."""
    policies = list(policies)
    return _permits("egress", source, target, port, protocol, policies) and _permits(
        "ingress", target, source, port, protocol, policies
    )


def _permits(
    direction: Direction,
    pod: Pod,
    peer: Pod,
    port: int,
    protocol: str,
    policies: list[tuple[str, Object]],
) -> bool:
    ruling = [
        (namespace, policy["spec"])
        for namespace, policy in policies
        if namespace == pod.namespace
        and direction.capitalize() in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    names = (pod if direction == "ingress" else peer).ports
    return not ruling or any(
        _has_port(rule, port, protocol, names) and _has_peer(rule, direction, peer, namespace)
        for namespace, spec in ruling
        for rule in spec.get(direction) or []
    )


def _has_port(rule: Object, port: int, protocol: str, names: dict[str, int]) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        p.get("protocol", "TCP") == protocol and port in _numbers(p, names) for p in ports
    )


def _numbers(port: Object, names: dict[str, int]) -> range:
    first = names.get(port["port"], port["port"])
    return range(first, port.get("endPort", first) + 1) if isinstance(first, int) else range(0)


def _has_peer(rule: Object, direction: Direction, pod: Pod, namespace: str) -> bool:
    peers = rule.get("from" if direction == "ingress" else "to")
    return not peers or any(_is(peer, pod, namespace) for peer in peers)


def _is(peer: Object, pod: Pod, namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        return bool(pod.address) and ipaddress.ip_address(pod.address) in ipaddress.ip_network(block["cidr"])
    if pod.address:
        return False
    if "namespaceSelector" in peer:
        there = _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    else:
        there = pod.namespace == namespace
    return there and _selects(peer.get("podSelector", {}), pod.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, "no chart uses expressions"
    return selector.get("matchLabels", {}).items() <= labels.items()

"""Who may reach whom, computed from pods and NetworkPolicies as the API server shows them.

Of policies only what lets connections in is looked at: none of ours says where a pod may connect to.
Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A cluster's pods' network.

    Args:
        policies: all NetworkPolicies that there are.
        namespaces: labels of the namespaces by their names.
    """

    policies: tuple[Json, ...]
    namespaces: Mapping[str, Mapping[str, str]]

    def lets(self, source: Json, target: Json, port: int) -> bool:
        """Whether the policies let one pod open a TCP connection to a port of another."""
        if source["metadata"] == target["metadata"] or target["spec"].get("hostNetwork"):
            return True
        concerned = [policy for policy in self.policies if _concerns(policy, target)]
        rules = [rule for policy in concerned for rule in policy["spec"].get("ingress", ())]
        return not concerned or any(
            _on_port(rule.get("ports"), target, port)
            and (not rule.get("from") or any(self._is(peer, source, target) for peer in rule["from"]))
            for rule in rules
        )

    def _is(self, peer: Json, source: Json, target: Json) -> bool:
        here, there = target["metadata"]["namespace"], source["metadata"]["namespace"]
        if (block := peer.get("ipBlock")) is not None:
            address = ip_address(source["status"]["podIP"])
            return address in ip_network(block["cidr"]) and not any(
                address in ip_network(each) for each in block.get("except", ())
            )
        near = here == there if "namespaceSelector" not in peer else None
        if near is None:
            near = selects(peer["namespaceSelector"], self.namespaces[there])
        return near and selects(peer.get("podSelector", {}), source["metadata"].get("labels", {}))


def _concerns(policy: Json, pod: Json) -> bool:
    mine = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    into = "Ingress" in policy["spec"].get("policyTypes", ["Ingress"])
    return mine and into and selects(policy["spec"]["podSelector"], pod["metadata"].get("labels", {}))


def _on_port(ports: Iterable[Json] | None, pod: Json, port: int) -> bool:
    if not ports:
        return True
    for entry in ports:
        first: Any = entry.get("port", port)
        if isinstance(first, str):
            named = (each for container in pod["spec"]["containers"] for each in container.get("ports", ()))
            first = next((each["containerPort"] for each in named if each.get("name") == first), None)
        last: Any = entry.get("endPort", first)
        if entry.get("protocol", "TCP") == "TCP" and first is not None and first <= port <= last:
            return True
    return False


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects an object with these labels; an empty one selects everything."""
    wanted = selector.get("matchLabels", {}).items() <= dict(labels).items()
    return bool(wanted) and all(_fits(entry, labels) for entry in selector.get("matchExpressions", ()))


def _fits(entry: Json, labels: Mapping[str, str]) -> bool:
    key, values = entry["key"], entry.get("values", ())
    match entry["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels

"""Whether a cluster is fit: of what Kueue and the Gateway API say, what is told and what is to be typed."""

from __future__ import annotations

from typing import Any

import pytest

from plugin import kubectl_aifactory as plugin
from tests.unit.plugin.factory import LATER, Json


class Cluster(plugin.Kubectl):
    """Serves these versions, and has these objects by their plural."""

    def __init__(self, versions: str = "", **objects: list[Json]) -> None:
        super().__init__()
        self._versions, self._objects = versions, objects

    def run(self, *args: str) -> str:
        assert args == ("api-versions",)
        return self._versions

    def get(self, what: str, *args: str) -> list[Json]:
        return self._objects[what.partition(".")[0]]


def having(name: str, type_: str, status: str, namespace: str = "") -> Json:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "status": {"conditions": [{"type": type_, "status": status}]},
    }


QUEUES = {
    "there is no Kueue": (Cluster("v1\napps/v1"), "note", "not here", ""),
    "an old Kueue": (Cluster("kueue.x-k8s.io/v1beta1"), "bad", "serves kueue.x-k8s.io/v1beta1, and", ""),
    "a Kueue without queues": (Cluster("kueue.x-k8s.io/v1beta2", clusterqueues=[]), "note", "0 of 0", ""),
    "its queues are active": (
        Cluster("kueue.x-k8s.io/v1beta1\nkueue.x-k8s.io/v1beta2", clusterqueues=[having("a", "Active", "True")]),
        "ok",
        "1 of 1 ClusterQueues are active",
        "",
    ),
    "a queue whose flavor is missing": (
        Cluster(
            "kueue.x-k8s.io/v1beta2",
            clusterqueues=[having("a", "Active", "True"), having("b", "Active", "False")],
        ),
        "note",
        "1 of 2 ClusterQueues are active",
        "kubectl describe clusterqueues.kueue.x-k8s.io b",
    ),
}
GATEWAYS = {
    "there is no Gateway API": (Cluster("v1"), "note", "no Gateway API here", ""),
    "an old one": (Cluster("gateway.networking.k8s.io/v1beta1"), "note", "no Gateway API here", ""),
    "no Gateway": (Cluster("gateway.networking.k8s.io/v1", gateways=[]), "note", "0 of 0 Gateways", ""),
    "a Gateway that works": (
        Cluster("gateway.networking.k8s.io/v1", gateways=[having("public", "Programmed", "True", "gateways")]),
        "ok",
        "1 of 1 Gateways are programmed",
        "",
    ),
    "a Gateway that nobody has taken on": (
        Cluster("gateway.networking.k8s.io/v1", gateways=[having("public", "Programmed", "Unknown", "gateways")]),
        "note",
        "0 of 1 Gateways are programmed",
        "kubectl -n gateways describe gateway public",
    ),
}
LOOKS = {"Kueue": (plugin._check_queues, QUEUES), "gateways": (plugin._check_gateways, GATEWAYS)}


@pytest.mark.parametrize(("what", "case"), [(what, case) for what, (_, cases) in LOOKS.items() for case in cases])
def test_what_is_told(what: str, case: str) -> None:
    look, cases = LOOKS[what]
    cluster, mark, words, command = cases[case]
    found: list[Any] = list(look(cluster, LATER))
    assert [(each.mark, each.what, each.command) for each in found] == [(mark, what, command)]
    assert found[0].words.startswith(words)

"""Objects in the way of a pool: those of somebody else, and those that an earlier pool of the same name has left."""

from __future__ import annotations

import json
from typing import Any

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.reasons import ConditionType
from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.engine.plan import Create, WriteError
from aifactory.kube.errors import AlreadyExists
from aifactory.kube.objects import ConfigMap, Deployment, Service, decoder
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, SERVICES
from aifactory.models.domain import Models
from aifactory.serving.domain import Serving
from aifactory.serving.state import Observed
from tests.support.kinds import INFERENCEPOOLS
from tests.unit.serving.builders import NOW, SETTINGS, conditions, message

TYPES: dict[Any, Any] = {SERVICES: Service, DEPLOYMENTS: Deployment, CONFIGMAPS: ConfigMap}


class Installation:
    """A pool called chat among objects of others."""

    def __init__(self) -> None:
        self.serving = Serving(SETTINGS)
        self.cluster = Cluster([self.serving, Models()])
        meta = {"name": "chat", "namespace": "ns", "uid": "new", "resourceVersion": "1"}
        body = {"metadata": meta, "spec": {"models": [{"name": "tiny", "track": "Latest"}]}}
        self.cluster.stored(INFERENCEPOOLS).put(custom.parser(InferencePool)(body))

    def put(self, resource: Any, name: str, *, pool: str = "chat", namespace: str = "ns", owner: str = "") -> None:
        meta: dict[str, Any] = {
            "name": name,
            "namespace": namespace,
            "uid": f"{resource.kind}-{namespace}-{name}",
            "resourceVersion": "1",
            "labels": {names.LABEL_POOL: pool, names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE},
        }
        if owner:
            reference = {"apiVersion": names.API_VERSION, "kind": "InferencePool", "name": pool, "uid": owner}
            meta["ownerReferences"] = [{**reference, "controller": True}]
        self.cluster._objects[resource].put(decoder(TYPES[resource])(json.dumps({"metadata": meta}).encode()))

    def observed(self) -> Observed:
        (stored,) = self.cluster.stored(INFERENCEPOOLS).all()
        assert stored.model is not None
        return self.serving.gather(stored.model, self.cluster)

    def refused(self, *targets: tuple[str, str]) -> Any:
        errors = [
            WriteError(
                Create({"kind": kind, "metadata": {"name": name}}),
                AlreadyExists(409, "AlreadyExists", f'"{name}" already exists'),
            )
            for kind, name in targets
        ]
        return self.serving.refused(self.observed(), errors, NOW).status


def test_what_an_earlier_pool_has_left_is_named_with_the_command_that_removes_it() -> None:
    found = Installation()
    found.put(SERVICES, "chat")
    found.put(DEPLOYMENTS, "chat-v1-old")
    found.put(CONFIGMAPS, "chat-v1-old")
    found.put(DEPLOYMENTS, "chat-v1-mine", owner="new")
    found.put(DEPLOYMENTS, "other-v1-a", pool="other")
    found.put(DEPLOYMENTS, "chat-v1-far", namespace="elsewhere")
    status = found.refused(("Service", "chat"))
    assert conditions(status)["Stalled"] == ("True", "NameConflict")
    assert message(status, ConditionType.STALLED) == (
        "an earlier pool of this name has left objects behind: "
        "kubectl -n ns delete service/chat deployment/chat-v1-old configmap/chat-v1-old"
    )


def test_a_name_that_somebody_else_has_taken_is_told() -> None:
    found = Installation()
    found.put(SERVICES, "chat", pool="", owner="stranger")
    said = message(found.refused(("Service", "chat"), ("Deployment", "chat-v1-a")), ConditionType.STALLED)
    assert "it does not belong to this pool: rename one of them, or, if nobody needs it: " in said
    assert said.endswith("kubectl -n ns delete service/chat deployment/chat-v1-a")


def test_nothing_is_looked_for_while_the_service_is_ours_or_missing() -> None:
    found = Installation()
    found.put(DEPLOYMENTS, "chat-v1-old")
    assert found.observed().orphans == ()
    found.put(SERVICES, "chat", owner="new")
    assert found.observed().orphans == ()

"""What is gathered around a version, and which versions a pool concerns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aifactory.api import names, numbers
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion, ModelVersionStatus, Use
from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.engine.plan import Create, Delete, WriteError
from aifactory.kube.errors import Forbidden
from aifactory.kube.objects import ConfigMap, Pod, decoder
from aifactory.kube.podstate import Trouble, starting
from aifactory.kube.resources import CONFIGMAPS, PODS
from aifactory.models.domain import Models
from aifactory.models.state import Counter
from aifactory.serving.domain import Serving
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS
from tests.unit.models.builders import NOW, SETTINGS, conditions, message


class Installation:
    """Version tiny-v1 among other objects."""

    def __init__(self) -> None:
        self.models = Models(SETTINGS)
        self.cluster = Cluster([self.models, Serving()])
        self.woken: list[str] = []
        self._versions = 0
        self.cluster.connect(
            {
                MODELVERSIONS: lambda key, *, background: self.woken.append(str(key)),
                INFERENCEPOOLS: lambda key, *, background: None,
            }
        )
        self.version_has(ModelVersionStatus())

    def version_has(self, status: ModelVersionStatus) -> None:
        source = {"uri": "pvc://models/tiny/1"}
        spec = {"model": "tiny", "version": 1, "source": source, "format": "huggingface"}
        body = {"metadata": self.meta("tiny-v1"), "spec": spec, "status": status.dump()}
        self.cluster.stored(MODELVERSIONS).put(custom.parser(ModelVersion)(body))

    def meta(self, name: str, namespace: str = "ns", **meta: Any) -> dict[str, Any]:
        self._versions += 1
        ours = {"name": name, "namespace": namespace, "uid": f"{name}-uid", "resourceVersion": str(self._versions)}
        return {**ours, **meta}

    def pool(self, name: str, namespace: str = "ns", **status: Any) -> None:
        spec = {"models": [{"name": "tiny", "track": "Latest"}]}
        body = {"metadata": self.meta(name, namespace), "spec": spec, "status": status}
        self.cluster.stored(INFERENCEPOOLS).put(custom.parser(InferencePool)(body))

    def put(self, resource: Any, type_: Any, name: str, owner: str = "", status: Any = None, **meta: Any) -> None:
        if owner:
            reference = {"apiVersion": names.API_VERSION, "kind": "ModelVersion", "name": owner, "uid": f"{owner}-uid"}
            meta["ownerReferences"] = [{**reference, "controller": True}]
        body = {"metadata": self.meta(name, **meta), **({"status": status} if status else {})}
        self.cluster._objects[resource].put(decoder(type_)(json.dumps(body).encode()))

    def observed(self) -> Any:
        (stored,) = self.cluster.stored(MODELVERSIONS).all()
        assert stored.model is not None
        return self.models.gather(stored.model, self.cluster)


def test_everything_around_a_version_is_gathered() -> None:
    found = Installation()
    found.cluster.explain = lambda pod: Trouble("FailedMount", f"{pod.metadata.name} has no secret")
    ended = {"name": "verify", "state": {"terminated": {"exitCode": 1, "message": "no"}}}
    found.put(PODS, Pod, "tiny-v1-verify-3", "tiny-v1", status={"phase": "Failed", "containerStatuses": [ended]})
    found.put(PODS, Pod, "tiny-v1-verify-4", "other")
    found.put(CONFIGMAPS, ConfigMap, numbers.object_name("tiny"), annotations={numbers.ANNOTATION: "7"})
    found.pool("search", stable={"revision": "a", "modelVersion": "tiny-v1"})
    found.pool("chat", candidate={"revision": "a", "modelVersion": "tiny-v1"})
    found.pool("far", namespace="elsewhere", stable={"revision": "a", "modelVersion": "tiny-v1"})
    found.pool("other", stable={"revision": "a", "modelVersion": "tiny-v2"})
    seen = found.observed()
    assert (seen.version.metadata.name, seen.settings) == ("tiny-v1", SETTINGS)
    (verifier,) = seen.verifiers
    assert (verifier.number, verifier.ended, verifier.exit_code, verifier.message) == (3, True, 1, "no")
    assert (verifier.waiting_reason, verifier.waiting_message) == ("FailedMount", "tiny-v1-verify-3 has no secret")
    assert seen.counter == Counter("aifactory-tiny-versions", "4", 7)
    assert seen.users == (Use(kind="InferencePool", name="chat"), Use(kind="InferencePool", name="search"))


def test_a_verifier_that_has_yet_to_start_is_looked_at_when_there_is_time() -> None:
    (pods,) = (child for child in Models.children if child.resource == PODS)
    assert pods.halfway is starting


def test_a_version_alone_has_no_counter_and_no_users() -> None:
    seen = Installation().observed()
    assert (seen.verifiers, seen.counter, seen.users) == ((), None, ())


@pytest.mark.parametrize(
    ("status", "versions"),
    [
        ({}, []),
        ({"resolved": [{"name": "tiny", "version": 3, "modelVersion": "tiny-v3"}]}, ["ns/tiny-v3"]),
        (
            {
                "resolved": [{"name": "tiny", "version": 3, "modelVersion": "tiny-v3"}],
                "stable": {"revision": "a", "modelVersion": "tiny-v2"},
                "candidate": {"revision": "b", "modelVersion": "tiny-v1"},
            },
            ["ns/tiny-v1", "ns/tiny-v2", "ns/tiny-v3"],
        ),
        ({"stable": {"revision": "a"}}, []),
        (
            {
                "stable": {
                    "revision": "a",
                    "modelVersion": "tiny-v2",
                    "models": [
                        {"name": "bert", "version": 1, "modelVersion": "bert-v1"},
                        {"name": "tiny", "version": 2, "modelVersion": "tiny-v2"},
                    ],
                }
            },
            ["ns/bert-v1", "ns/tiny-v2"],
        ),
    ],
)
def test_a_pool_concerns_what_it_serves_rolls_to_and_wishes_for(status: Any, versions: list[str]) -> None:
    found = Installation()
    found.pool("chat", **status)
    assert found.woken == versions


def test_a_pool_that_uses_the_same_versions_as_before_wakes_none_of_them() -> None:
    found = Installation()
    found.pool("chat", stable={"revision": "a", "modelVersion": "tiny-v1"})
    found.woken.clear()
    found.pool("chat", stable={"revision": "a", "modelVersion": "tiny-v1"}, summary="1/1")
    assert found.woken == []
    found.pool("chat", stable={"revision": "b", "modelVersion": "tiny-v2"})
    assert found.woken == ["ns/tiny-v1", "ns/tiny-v2"], "the one it has stopped using as well"


def test_a_version_is_planned_and_a_refusal_is_told_in_the_api_servers_words() -> None:
    found = Installation()
    plan = found.models.plan(found.observed(), NOW)
    assert plan is not None
    assert len(plan.writes) == 2, "the verifier and the number that is written down"
    quota = 'pods "tiny-v1-verify-0" is forbidden: exceeded quota: team'
    write = Create({"kind": "Pod", "metadata": {"name": "tiny-v1-verify-0"}})
    errors = [WriteError(write, Forbidden(403, "Forbidden", words)) for words in (quota, "another")]
    refused = found.models.refused(found.observed(), errors, NOW)
    assert conditions(refused.status)["Reconciling"] == ("True", "QuotaExceeded"), "it passes by itself"
    assert conditions(refused.status)["Stalled"][0] == "False"
    assert conditions(refused.status)["Verified"] == ("Unknown", "QuotaExceeded")
    assert quota in message(refused.status)
    assert refused.requeue_after == 30


def test_what_a_verifier_found_stands_though_it_may_not_be_deleted() -> None:
    """It flipped between Verified and PodRejected, three writes a second, for as long as a webhook denied it."""
    found = Installation()
    found.put(CONFIGMAPS, ConfigMap, numbers.object_name("tiny"), annotations={numbers.ANNOTATION: "1"})
    answer = {"digest": f"sha256:{'1' * 64}", "files": 1, "sizeBytes": 3, "format": "huggingface", "metrics": {}}
    ended = {"exitCode": 0, "message": json.dumps(answer)}
    status = {"phase": "Succeeded", "containerStatuses": [{"name": "verify", "state": {"terminated": ended}}]}
    found.put(PODS, Pod, "tiny-v1-verify-0", "tiny-v1", status=status)
    denied = WriteError(
        Delete("Pod", "tiny-v1-verify-0", "tiny-v1-verify-0-uid"), Forbidden(403, "Forbidden", "denied")
    )
    for _ in range(2):
        plan = found.models.refused(found.observed(), [denied], NOW)
        assert conditions(plan.status)["Verified"][0] == "True"
        assert (plan.writes, plan.requeue_after) == ((), None), "the refusal's own back-off brings it back"
        found.version_has(plan.status)


def test_the_operator_may_do_with_a_versions_objects_what_it_does_with_them() -> None:
    assert {child.resource.kind: child.verbs for child in Models.children} == {
        "Pod": ("create", "delete"),
        "ConfigMap": ("create", "patch"),
    }

"""Objects that the first of our CRDs took, with statuses as they were written then, under today's CRDs and operator.

A stored object is never converted: there is one API version, and what has changed in it is a format that is gone
(`causal-lm`) and a field of the status. Whoever has such objects learns what to do, and nobody else is held up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.cluster import objects
from tests.component.conftest import Operator
from tests.support.kubectl import ROOT, Json, Kubectl, binary, condition
from tests.support.waiting import wait_for

THEN = "2026-11-20T10:00:00Z"
DIGEST = f"sha256:{'0' * 64}"


def told(type_: str, status: str, reason: str) -> Json:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": "then",
        "lastTransitionTime": THEN,
        "observedGeneration": 1,
    }


def stored(kind: str, name: str, spec: Json, status: Json) -> Json:
    meta: Json = {"name": name, "namespace": "default"}
    return {"apiVersion": "aifactory.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec, "status": status}


def job(name: str, phase: str, **status: Any) -> Json:
    output = {"model": {"name": "tiny", "format": "causal-lm"}}
    found = objects.job(name, ["true"], output=output)
    resolved = {"nodes": 1, "procPerNode": 1, "templateHash": "0123456789", "gang": "none", "createdAttempt": 0}
    base = {"observedGeneration": 1, "phase": phase, "startTime": THEN, "resolved": resolved, "replicas": 0}
    return stored("TrainingJob", name, found["spec"], {**base, **status})


DONE = job(
    "done",
    "Succeeded",
    completionTime=THEN,
    nodes={"desired": 1, "active": 0, "ready": 0, "succeeded": 1, "failed": 0, "summary": "1/1"},
    conditions=[told("Complete", "True", "Succeeded"), told("Ready", "True", "Succeeded")],
    output={"modelVersion": "tiny-v1", "uri": "pvc://models/tiny/1", "digest": DIGEST},
)
WAITING = job("waiting", "Pending", conditions=[told("Ready", "False", "PodsPending")])
VERSION = stored(
    "ModelVersion",
    "tiny-v1",
    {"model": "tiny", "version": 1, "source": {"uri": "pvc://models/tiny/1"}, "digest": DIGEST, "format": "causal-lm"},
    {
        "observedGeneration": 1,
        "resolvedDigest": DIGEST,
        "conditions": [told("Ready", "True", "Verified"), told("Verified", "True", "Verified")],
    },
)
POOL = stored(
    "InferencePool",
    "chat",
    {"models": [{"name": "tiny", "track": "Latest"}], "replicas": 1},
    {"observedGeneration": 1, "phase": "Serving", "version": "1", "conditions": [told("Ready", "True", "Serving")]},
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[ControlPlane, Kubectl]]:
    """An API server with these objects, and today's CRDs since."""
    with ControlPlane(controllers=True) as plane:
        kubectl = Kubectl(binary("kubectl"), str(plane.kubeconfig))
        crds = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
        for crd in crds:
            kubectl.apply(_anything(crd))
        kubectl.run("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        within = kubectl.within("default")
        for body in (DONE, WAITING, VERSION, POOL):
            within.apply(body)
        for crd in crds:
            kubectl.apply(crd)
        wait_for(
            "the API server to refuse what it took before",
            lambda: within.run("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(_other(DONE)), check=False),
            lambda said: "causal-lm" in str(said) and "Unsupported value" in str(said),
            seconds=30,
        )
        yield plane, within


def _anything(crd: Json) -> Json:
    """A CRD that takes every field and value."""
    (version,) = crd["spec"]["versions"]
    fields = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": fields, "status": fields}}}
    other = {key: value for key, value in version.items() if key not in ("schema", "subresources", "selectableFields")}
    return {**crd, "spec": {**crd["spec"], "versions": [{**other, "schema": schema}]}}


def _other(body: Json) -> Json:
    return {key: value for key, value in body.items() if key != "status"} | {"metadata": {"name": "other"}}


@pytest.fixture(scope="module")
def operator(cluster: tuple[ControlPlane, Kubectl], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    process = Operator(str(cluster[0].kubeconfig), tmp_path_factory.mktemp("operator") / "log")
    try:
        process.wait_ready()
        yield process
    finally:
        process.kill()


@pytest.fixture
def within(cluster: tuple[ControlPlane, Kubectl], operator: Operator) -> Kubectl:
    return cluster[1]


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [
        ("tjob", "waiting", "spec.output.model.format"),
        ("mver", "tiny-v1", "spec.format"),
    ],
)
def test_a_value_that_is_gone_is_told_with_those_that_there_are(
    within: Kubectl, kind: str, name: str, field: str
) -> None:
    found = within.wait_condition(kind, name, "Stalled")
    why = condition(found, "Stalled")
    assert why["reason"] == "InvalidSpec"
    assert f"{field}: Input should be 'huggingface', 'torch-export' or 'triton'" in why["message"]


def test_a_job_that_was_complete_is_so_still(within: Kubectl) -> None:
    """It asks for nothing any more, so nobody is needed."""
    within.run("patch", "tjob", "done", "--type=merge", "-p", '{"spec":{"failurePolicy":{"maxRestarts":5}}}')
    found = within.wait(
        "tjob", "done", "to be looked at", lambda seen: seen["status"].get("observedGeneration") == 2, seconds=30
    )
    assert condition(found, "Complete")["status"] == "True"
    assert [condition(found, "Ready")[field] for field in ("status", "reason")] == ["True", "Succeeded"]
    assert "Stalled" not in [each["type"] for each in found["status"]["conditions"] if each["status"] == "True"]
    assert found["status"]["phase"] == "Succeeded"
    assert not within.list("pods", "aifactory.dev/job-name=done")


def test_the_others_go_on(within: Kubectl) -> None:
    within.apply(objects.job("new", ["true"]))
    wait_for("pods of a new job", lambda: within.list("pods", "aifactory.dev/job-name=new"), bool, seconds=30)
    found = within.wait_condition("ipool", "chat", "Ready", status="False")
    assert condition(found, "Ready")["reason"] == "WaitingForModel", "nobody serves what nobody can read"


def test_other_fields_can_be_edited_meanwhile(within: Kubectl) -> None:
    """The API server does not look again at what stays as it was."""
    within.run("patch", "tjob", "waiting", "--type=merge", "-p", '{"spec":{"failurePolicy":{"maxRestarts":5}}}')
    assert within.get("tjob", "waiting")["spec"]["output"]["model"]["format"] == "causal-lm"


def test_a_job_goes_on_when_it_is_corrected(within: Kubectl) -> None:
    change = '{"spec":{"output":{"model":{"format":"huggingface"}}}}'
    within.run("patch", "tjob", "waiting", "--type=merge", "-p", change)
    wait_for("its pods", lambda: within.list("pods", "aifactory.dev/job-name=waiting"), bool, seconds=30)


def test_of_a_version_the_next_is_made(within: Kubectl) -> None:
    """Its files are what they were, so the object is replaced."""
    body = {key: value for key, value in VERSION.items() if key != "status"}
    next_one = {**body, "spec": {**body["spec"], "version": 2, "format": "huggingface"}}
    refused = within.run("apply", "-f", "-", stdin=yaml.safe_dump(next_one), check=False).err
    assert "spec is immutable: create a ModelVersion with the next version number instead" in refused
    within.apply({**next_one, "metadata": {"name": "tiny-v2", "namespace": "default"}})
    wait_for("it to be verified", lambda: within.list("pods", "aifactory.dev/model-version=tiny-v2"), bool, seconds=30)

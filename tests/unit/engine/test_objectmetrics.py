"""What is told of objects: by the leader alone, for a bounded number, and nothing that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aifactory.app import domains
from aifactory.app.domains import DOMAINS
from aifactory.app.options import parse
from aifactory.engine import custom, objectmetrics
from aifactory.engine.cluster import Cluster
from aifactory.engine.objectmetrics import ObjectMetrics
from aifactory.kube.resources import Key
from tests.unit.serving.builders import NOW

Samples = dict[tuple[str, ...], float]


class Clock:
    """The time stands still until it is moved."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> Any:
        return self.time

    def monotonic(self) -> float:
        return 0.0


class Page:
    """Our kinds' stores, and what is told of them."""

    def __init__(self) -> None:
        self.cluster = Cluster(domains.make(parse(DOMAINS, [])))
        self.clock, self.leads, self._version = Clock(), True, 0
        self.metrics = ObjectMetrics(self.cluster, lambda: self.leads, self.clock)
        self._registry = CollectorRegistry()
        self._registry.register(self.metrics)

    def put(self, kind: str, name: str, *, generation: int = 1, deleting: bool = False, **fields: Any) -> None:
        self._version += 1
        meta = {"name": name, "namespace": "ns", "uid": name, "generation": generation}
        if deleting:
            meta["deletionTimestamp"] = NOW.isoformat()
        body = {"metadata": {**meta, "resourceVersion": str(self._version)}, "spec": {}, **fields}
        (domain,) = (each for each in self.cluster.domains if each.resource.kind == kind)
        self.cluster.stored(domain.resource).put(custom.parser(domain.model)(body))

    def delete(self, kind: str, name: str) -> None:
        self._version += 1
        (domain,) = (each for each in self.cluster.domains if each.resource.kind == kind)
        self.cluster.stored(domain.resource).delete(Key("ns", name), name, str(self._version))

    def types(self) -> dict[str, str]:
        """What kind of metric each family is; counters without their `_total`."""
        return {family.name: family.type for family in self._families()}

    def _families(self) -> Iterable[Metric]:
        return text_string_to_metric_families(generate_latest(self._registry).decode())

    def read(self, name: str) -> Samples:
        """A metric's samples by the values of their labels."""
        found = (sample for family in self._families() for sample in family.samples)
        order = ("kind", "namespace", "name", "phase", "reason")
        return {
            tuple(sample.labels[label] for label in order if label in sample.labels): sample.value
            for sample in found
            if sample.name == name
        }


def condition(type_: str, reason: str = "", status: str = "True") -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason}


@pytest.fixture
def page() -> Page:
    return Page()


def test_phases_and_those_that_wait_for_a_person(page: Page) -> None:
    page.put("TrainingJob", "a", status={"phase": "Running", "observedGeneration": 1})
    page.put("TrainingJob", "b", status={"phase": "Pending", "conditions": [condition("Stalled", "ImagePullFailed")]})
    page.put("ModelVersion", "m-v1", status={"conditions": [condition("Ready"), condition("InUse")]})
    page.put("ModelVersion", "m-v2", status={"conditions": [condition("Stalled", "DigestMismatch")]})
    page.put(
        "ModelVersion", "m-v3", status={"conditions": [condition("Reconciling"), condition("Ready", status="False")]}
    )
    page.put("ModelVersion", "m-v4", status={"conditions": [condition("Stalled")]})
    told = page.read("aifactory_objects")
    assert told == {
        ("TrainingJob", "Running"): 1,
        ("TrainingJob", "Pending"): 1,
        ("ModelVersion", "Ready"): 1,
        ("ModelVersion", "Reconciling"): 1,
        ("ModelVersion", "Stalled"): 2,
    }
    assert page.read("aifactory_object_stalled") == {
        ("TrainingJob", "ns", "b", "ImagePullFailed"): 1,
        ("ModelVersion", "ns", "m-v2", "DigestMismatch"): 1,
        ("ModelVersion", "ns", "m-v4", "Stalled"): 1,
    }
    page.put("TrainingJob", "b", status={"phase": "Running"})
    page.delete("ModelVersion", "m-v2")
    page.delete("ModelVersion", "m-v4")
    assert not page.read("aifactory_object_stalled")
    assert page.read("aifactory_objects")["TrainingJob", "Running"] == 2


def test_a_status_that_is_behind_its_object(page: Page) -> None:
    page.put("InferencePool", "new")
    page.put("InferencePool", "old", generation=3, status={"observedGeneration": 2})
    page.put("InferencePool", "fine", generation=3, status={"observedGeneration": 3})
    page.put("InferencePool", "going", generation=3, deleting=True, status={"observedGeneration": 2})
    page.put("TrainingJob", "theirs", spec={"managedBy": "somebody/else"})
    assert page.read("aifactory_objects_behind") == {("InferencePool",): 2, ("TrainingJob",): 0, ("ModelVersion",): 0}


def test_only_the_leader_tells(page: Page) -> None:
    page.put("InferencePool", "chat", status={"phase": "Serving"})
    page.leads = False
    assert not page.read("aifactory_objects")
    page.leads = True
    assert page.read("aifactory_objects") == {("InferencePool", "Serving"): 1}


def test_figures_that_grow_are_told_as_they_are_now(page: Page) -> None:
    use = {"since": NOW.isoformat(), "gpus": 4, "gpuSeconds": 100}
    page.put("InferencePool", "chat", status={"cost": use})
    assert page.read("aifactory_pool_gpu_seconds_total") == {("ns", "chat"): 100}
    page.clock.time += timedelta(seconds=10)
    assert page.read("aifactory_pool_gpu_seconds_total") == {("ns", "chat"): 140}
    assert page.read("aifactory_pool_gpus") == {("ns", "chat"): 4}
    assert page.types()["aifactory_pool_gpu_seconds"] == "counter"
    assert page.types()["aifactory_pool_gpus"] == "gauge"


def test_nonsense_in_a_status_costs_that_object_its_figures_alone(page: Page) -> None:
    fine = {"phase": "Serving", "readyReplicas": 1, "observedGeneration": 1}
    page.put("InferencePool", "odd", status={**fine, "version": ["x"]})
    page.put("InferencePool", "strange", status={**fine, "readyReplicas": "many"})
    page.put("InferencePool", "odder", status={"phase": ["Serving"]})
    page.put("InferencePool", "chat", status=fine)
    assert page.read("aifactory_pool_replicas_ready") == {("ns", "chat"): 1}
    assert page.read("aifactory_objects") == {("InferencePool", "Serving"): 3, ("InferencePool", ""): 1}
    assert page.read("aifactory_objects_behind")["InferencePool",] == 0, "of what nobody can read nothing is known"


def test_a_crowd_is_counted_and_some_have_figures(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectmetrics, "MOST", 3)
    for number in range(5):
        page.put("InferencePool", f"p{number}", status={"phase": "Serving"})
        page.put("TrainingJob", f"done{number}", status={"phase": "Succeeded"})
    page.put("TrainingJob", "runs", status={"phase": "Running"})
    assert len(page.read("aifactory_pool_replicas_wanted")) == 3
    assert page.read("aifactory_objects_without_metrics") == {
        ("InferencePool",): 2,
        ("TrainingJob",): 0,
        ("ModelVersion",): 0,
    }
    assert page.read("aifactory_job_running") == {("ns", "runs"): 1}, "those that are done stand in nobody's way"


def test_names_are_by_prometheus_rules() -> None:
    for family in objectmetrics.families(DOMAINS):
        assert family.name.startswith("aifactory_")
        assert family.type == ("counter" if family.name.endswith("_total") else "gauge"), family.name
        assert family.help.endswith("."), family.name
        assert not set(family.labels.split()) & {"job", "instance"}, "labels of Prometheus' own"

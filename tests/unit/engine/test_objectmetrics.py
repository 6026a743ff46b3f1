"""What is told of objects: by the leader alone, for a bounded number, and nothing that is not known."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
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

    def put(self, kind: str, name: str, *, generation: int = 1, **fields: Any) -> None:
        self._version += 1
        meta = {"name": name, "namespace": "ns", "uid": name, "generation": generation}
        body = {"metadata": {**meta, "resourceVersion": str(self._version)}, "spec": {}, **fields}
        (domain,) = (each for each in self.cluster.domains if each.resource.kind == kind)
        self.cluster.stored(domain.resource).put(custom.parser(domain.model)(body))

    def delete(self, kind: str, name: str) -> None:
        self._version += 1
        (domain,) = (each for each in self.cluster.domains if each.resource.kind == kind)
        self.cluster.stored(domain.resource).delete(Key("ns", name), name, str(self._version))

    def read(self, name: str) -> Samples:
        """A metric's samples by the values of their labels."""
        text = generate_latest(self._registry).decode()
        found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
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
    told = page.read("aifactory_objects")
    assert told == {
        ("TrainingJob", "Running"): 1,
        ("TrainingJob", "Pending"): 1,
        ("ModelVersion", "Ready"): 1,
        ("ModelVersion", "Stalled"): 1,
    }
    assert page.read("aifactory_object_stalled").keys() == {
        ("TrainingJob", "ns", "b", "ImagePullFailed"),
        ("ModelVersion", "ns", "m-v2", "DigestMismatch"),
    }
    page.put("TrainingJob", "b", status={"phase": "Running"})
    page.delete("ModelVersion", "m-v2")
    assert not page.read("aifactory_object_stalled")
    assert page.read("aifactory_objects")["TrainingJob", "Running"] == 2


def test_a_status_that_is_behind_its_object(page: Page) -> None:
    page.put("InferencePool", "new")
    page.put("InferencePool", "old", generation=3, status={"observedGeneration": 2})
    page.put("InferencePool", "fine", generation=3, status={"observedGeneration": 3})
    page.put("TrainingJob", "theirs", spec={"managedBy": "somebody/else"})
    assert page.read("aifactory_objects_behind") == {("InferencePool",): 2, ("TrainingJob",): 0, ("ModelVersion",): 0}


def test_only_the_leader_tells(page: Page) -> None:
    page.put("InferencePool", "chat", status={"phase": "Serving"})
    page.leads = False
    assert not page.read("aifactory_objects")
    page.leads = True
    assert page.read("aifactory_objects") == {("InferencePool", "Serving"): 1}


def test_a_pool(page: Page) -> None:
    use = {"since": NOW.isoformat(), "gpus": 4, "gpuSeconds": 100, "idle": True, "idleGPUSeconds": 60}
    figures = {"requestsPerSecond": "4.2", "tokensPerSecond": "0"}
    status = {"readyReplicas": 1, "version": "3", "conditions": [condition("Available")], "throughput": figures}
    page.put("InferencePool", "chat", spec={"replicas": 2}, status={**status, "cost": use})
    chat = ("ns", "chat")
    told = {"replicas_wanted": 2, "replicas_ready": 1, "available": 1, "version": 3, "requests_per_second": 4.2}
    told |= {"tokens_per_second": 0, "gpus": 4, "gpu_seconds_total": 100, "idle_gpu_seconds_total": 60}
    assert {name: page.read(f"aifactory_pool_{name}") for name in told} == {
        name: {chat: value} for name, value in told.items()
    }
    for name in ("gpu_hour_price", "cost_per_million_tokens", "cost_per_million_requests", "surge_gpu_seconds"):
        assert page.read(f"aifactory_pool_{name}") == {}, "what is missing is not 0"
    page.put("InferencePool", "scales", spec={"replicas": 2}, status={"scaling": {"replicas": 5}})
    assert page.read("aifactory_pool_replicas_wanted")["ns", "scales"] == 5
    page.clock.time += timedelta(seconds=10)
    assert page.read("aifactory_pool_gpu_seconds_total") == {chat: 140}
    assert page.read("aifactory_pool_idle_gpu_seconds_total") == {chat: 100}


def test_a_job_until_it_is_done(page: Page) -> None:
    report = {"lastHeartbeatTime": NOW.isoformat(), "step": 5, "totalSteps": 20, "loss": "2.5"}
    use = {"since": NOW.isoformat(), "gpus": 8, "gpuSeconds": 100, "trains": True, "lostGPUSeconds": 20}
    status = {"phase": "Running", "progress": report, "restarts": {"total": 2, "lostSteps": 7}, "cost": use}
    page.put("TrainingJob", "a", status=status)
    job = ("ns", "a")
    told = {"running": 1, "step": 5, "progress_ratio": 0.25, "loss": 2.5, "restarts_total": 2, "lost_steps_total": 7}
    told |= {"last_report_timestamp_seconds": NOW.timestamp(), "gpus": 8, "lost_gpu_seconds_total": 20}
    assert {name: page.read(f"aifactory_job_{name}") for name in told} == {name: {job: told[name]} for name in told}
    assert page.read("aifactory_job_tokens_per_second") == page.read("aifactory_job_gpu_hour_price") == {}
    page.clock.time += timedelta(seconds=10)
    assert page.read("aifactory_job_gpu_seconds_total") == {job: 180}
    assert page.read("aifactory_job_lost_gpu_seconds_total") == {job: 20}
    ended = {"phase": "Failed", "reason": "ApplicationError", "completionTime": NOW.isoformat(), "cost": use}
    page.put("TrainingJob", "a", status=ended)
    assert page.read("aifactory_job_failed_timestamp_seconds") == {("ns", "a", "ApplicationError"): NOW.timestamp()}
    assert not page.read("aifactory_job_gpus")
    assert not page.read("aifactory_job_running")


def test_nonsense_in_a_status_costs_that_object_its_figures_alone(page: Page) -> None:
    page.put("InferencePool", "odd", status={"phase": "Serving", "version": "x", "readyReplicas": 1})
    page.put("InferencePool", "odder", status={"phase": ["Serving"]})
    page.put("InferencePool", "chat", status={"phase": "Serving", "readyReplicas": 1})
    assert page.read("aifactory_pool_replicas_ready") == {("ns", "chat"): 1}
    assert page.read("aifactory_objects") == {("InferencePool", "Serving"): 2, ("InferencePool", ""): 1}


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
        assert (family.type == "counter") == family.name.endswith("_total"), family.name
        assert family.help.endswith("."), family.name
        assert not set(family.labels.split()) & {"job", "instance"}, "labels of Prometheus' own"

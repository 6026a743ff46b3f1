"""Short words for jobs and what belongs to them, and a tiny world in which decisions come true."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aifactory.api import names
from aifactory.api.conditions import find
from aifactory.api.reasons import ConditionType
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.engine.apply import Applied, ensure
from aifactory.engine.plan import Delete, PatchStatus, Plan
from aifactory.engine.tasks import TaskPod
from aifactory.training import children, rendezvous, workspace
from aifactory.training.plan import plan_training
from aifactory.training.state import (
    BaseView,
    ClaimView,
    Fact,
    Fetched,
    GangView,
    Observed,
    PodView,
    ProgressReport,
    Settings,
    VersionView,
    WorkloadView,
)
from tests.unit.plans import bodies, repairs

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
UID = "3b0c0f7e-job"
SETTINGS = Settings(agent_image="aifactory/agent:1", progress_url="http://operator:8080")
GANGS = {"gangs_served": True}
"""The API server serves PodGroups."""
SERVICE = Applied("train-nodes", "service")
OUTPUT = {"model": {"name": "tiny", "format": "huggingface"}}
PUBLISHED = {"uri": "pvc://aifactory-models/tiny/0123456789abcdef", "digest": f"sha256:{'0' * 64}", "files": 2}


def job(name: str = "train", *, nodes: int = 1, status: dict[str, Any] | None = None, **spec: Any) -> TrainingJob:
    """A job as the API server stores it; keywords are fields of its spec, written as in YAML."""
    metadata: dict[str, Any] = {"name": name, "namespace": "ns", "uid": UID, "generation": spec.pop("generation", 1)}
    metadata["labels"] = spec.pop("labels", {})
    if spec.pop("deleting", False):
        metadata |= {"deletionTimestamp": NOW, "finalizers": spec.pop("finalizers", ("team/hold",))}
    container = {"name": "trainer", "image": "trainer:1", **spec.pop("container", {})}
    spec.setdefault("template", {"spec": {"containers": [container]}})
    return TrainingJob.model_validate(
        {"metadata": metadata, "spec": {"nodes": {"count": nodes}, **spec}, "status": status or {}}
    )


def pod(index: int = 0, attempt: int = 0, *, of: TrainingJob | None = None, **changes: Any) -> PodView:
    """A pod of the job as it was created; `running=True` and `exit_code=1` bring the phase along."""
    owner = of or job()
    name = rendezvous.pod_name(owner.metadata.name, index, attempt)
    phase = "Pending"
    if changes.get("running"):
        phase, changes = "Running", {"node": "node-a", **changes}
    if (code := changes.get("exit_code")) is not None:
        phase = "Succeeded" if code == 0 else "Failed"
        changes = {"node": "node-a", "finished_at": NOW, **changes}
    view = PodView(name, f"{name}-uid", attempt, index, children.template_hash(owner.spec), phase)
    return replace(view, **changes)


def publisher(number: int = 0, exit_code: int | None = None, answer: Any = None, **changes: Any) -> TaskPod:
    """A publisher; with an exit code it has ended, and `answer` is what it wrote to its termination log."""
    message = "" if answer is None else json.dumps(answer)
    name = children.publisher_name("train", number)
    pod = TaskPod(name, f"{name}-uid", number, exit_code is not None, exit_code, message=message)
    return replace(pod, **changes)


def observe(owner: TrainingJob, *pods: PodView, **changes: Any) -> Observed:
    """The job with these pods; what it needs of Service and claims exists unless told otherwise."""
    service = stamped(children.service(owner)) if owner.spec.nodes.count > 1 else None
    exists = {"service": service, "workspace_exists": True, "model_claim_exists": True}
    return Observed(**{"job": owner, "settings": SETTINGS, "pods": pods, **exists, **changes})


def stamped(body: Mapping[str, Any]) -> Applied:
    """A child as it stands when nobody has touched it since we applied it."""
    (write,) = ensure(body, None)
    meta = write.body["metadata"]
    return Applied(meta["name"], f"{meta['name']}-uid", meta["annotations"][names.ANNOTATION_APPLIED])


def report(step: int, *, attempt: int = 0, at: datetime = NOW, **changes: Any) -> ProgressReport:
    """A report of the training program."""
    return ProgressReport(attempt=attempt, time=at, step=step, **changes)


def decide(observed: Observed, now: datetime = NOW) -> Plan[TrainingJobStatus]:
    """The plan; there must be one."""
    decision = plan_training(observed, now)
    assert decision is not None
    return decision


def conditions(status: TrainingJobStatus) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {found.type: (found.status, found.reason) for found in status.conditions}


def message(status: TrainingJobStatus, type_: ConditionType = ConditionType.READY) -> str:
    """A condition's message."""
    found = find(status.conditions, type_)
    assert found is not None, f"no condition {type_}"
    return found.message


@dataclass
class World:
    """A cluster of dictionaries: it carries out decisions as the engine does and never forgets a name it has seen."""

    job: TrainingJob
    settings: Settings = SETTINGS
    gangs_served: bool = False
    now: datetime = NOW
    pods: dict[str, PodView] = field(default_factory=dict)
    probes: dict[str, TaskPod] = field(default_factory=dict)
    publishers: dict[str, TaskPod] = field(default_factory=dict)
    fetchers: dict[str, TaskPod] = field(default_factory=dict)
    checkers: dict[str, TaskPod] = field(default_factory=dict)
    device_memory: int | None = None
    workspace_shared: bool = True
    fetched: dict[str, Fetched] = field(default_factory=dict)
    bases: dict[str, BaseView] = field(default_factory=dict)
    input_claim: ClaimView | None = None
    gangs: dict[str, GangView] = field(default_factory=dict)
    workloads: dict[str, WorkloadView] = field(default_factory=dict)
    kueue_served: bool = False
    priority: int | None = None
    versions: dict[str, VersionView] = field(default_factory=dict)
    highest_version: int = 0
    service: Applied | None = None
    others: set[str] = field(default_factory=set)
    progress: ProgressReport | None = None
    lost_nodes: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Names of all training pods there ever were."""
    log: list[Plan[TrainingJobStatus]] = field(default_factory=list)
    _uids: Iterable[int] = field(default_factory=itertools.count)

    @property
    def status(self) -> TrainingJobStatus:
        return self.job.status

    @property
    def _tasks(self) -> dict[str, dict[str, TaskPod]]:
        """Pods of tasks, by their role."""
        return {"probe": self.probes, "publish": self.publishers, "input": self.fetchers, "check": self.checkers}

    def observed(self) -> Observed:
        claims = {name for name in self.others if name.startswith("PersistentVolumeClaim ")}
        return Observed(
            job=self.job,
            settings=self.settings,
            pods=tuple(sorted(self.pods.values(), key=lambda view: (view.attempt, view.index))),
            probes=tuple(self.probes.values()),
            publishers=tuple(self.publishers.values()),
            fetchers=tuple(self.fetchers.values()),
            checkers=tuple(self.checkers.values()),
            device_memory=self.device_memory,
            workspace_shared=self.workspace_shared,
            fetched=self.fetched,
            bases=self.bases,
            input_claim=self.input_claim,
            gangs=tuple(self.gangs.values()),
            workloads=tuple(self.workloads.values()),
            kueue_served=self.kueue_served,
            priority=self.priority,
            lost_nodes=self.lost_nodes,
            versions=tuple(self.versions.values()),
            highest_version=self.highest_version,
            service=self.service,
            gangs_served=self.gangs_served,
            workspace_exists=f"PersistentVolumeClaim {workspace.claim(self.job)}" in claims,
            model_claim_exists="PersistentVolumeClaim aifactory-models" in claims,
            progress=self.progress,
        )

    def step(self) -> Plan[TrainingJobStatus]:
        """Decide once and let it come true. The status takes the way through JSON, as in the API server."""
        decision = decide(self.observed(), self.now)
        self.log.append(decision)
        at_once = decision.requeue_after == 0 and not decision.writes
        assert decision.urgent or not at_once, "called again before the status that it goes by is written, it spins"
        for body in bodies(decision):
            self._create(dict(body))
        for again in repairs(decision):
            assert self.service is not None
            assert (again.kind, again.uid) == ("Service", self.service.uid)
            self.service = replace(self.service, stamp=again.body["metadata"]["annotations"][names.ANNOTATION_APPLIED])
        for told in decision.writes:
            if isinstance(told, PatchStatus):
                self._tell(told)
        for gone in decision.writes:
            if not isinstance(gone, Delete):
                continue
            if gone.kind == "Pod" and gone.name in self.pods:
                self.pods[gone.name] = replace(self.pods[gone.name], terminating=True)
            elif gone.kind == "Pod":
                tasks = next(found for found in self._tasks.values() if gone.name in found)
                del tasks[gone.name]
            elif gone.kind == "PodGroup":
                self.gangs.pop(gone.name, None)
            elif gone.kind == "Workload":
                del self.workloads[gone.name]
            else:
                assert gone.kind == "Service"
                self.service = None
        written = TrainingJobStatus.model_validate(decision.status.dump())
        assert written == decision.status, "what is written is what comes back"
        if decision.events or written.attempt != self.status.attempt:
            assert decision.urgent, "facts that later steps build on are written at once"
        self.job = self.job.model_copy(update={"status": written})
        return decision

    def settle(self) -> None:
        """Decide until nothing is left to do now."""
        for _ in range(50):
            before = (self.job, self.observed())
            decision = self.step()
            if not decision.writes and (self.job, self.observed()) == before:
                assert decision.requeue_after != 0, "it asks to be called at once and changes nothing"
                return
        raise AssertionError(f"no end after 50 steps; the last decision: {self.log[-1]}")

    def edit(self, **spec: Any) -> None:
        """The user changes fields of the spec."""
        changed = self.job.spec.model_validate({**self.job.spec.dump(), **spec})
        meta = self.job.metadata.model_copy(update={"generation": self.job.metadata.generation + 1})
        self.job = self.job.model_copy(update={"spec": changed, "metadata": meta})

    def lose_status(self) -> None:
        """The object comes back from a backup, which holds no status."""
        self.job = self.job.model_copy(update={"status": TrainingJobStatus()})

    def annotate(self, name: str, value: str) -> None:
        """The user sets an annotation; the generation stays."""
        meta = self.job.metadata.model_copy(update={"annotations": {**self.job.metadata.annotations, name: value}})
        self.job = self.job.model_copy(update={"metadata": meta})

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def run_pods(self) -> None:
        """The kubelet starts what is pending."""
        for view in self.pods.values():
            if view.phase == "Pending" and not view.terminating:
                self.change(view.name, phase="Running", running=True, node=f"node-{view.index}")

    def change(self, name: str, **changes: Any) -> None:
        self.pods[name] = replace(self.pods[name], **changes)

    def end(self, name: str, code: int, **changes: Any) -> None:
        """The trainer of a pod exits."""
        phase = "Succeeded" if code == 0 else "Failed"
        self.change(name, phase=phase, running=False, exit_code=code, finished_at=self.now, **changes)

    def end_publisher(self, answer: Any, exit_code: int = 0, **changes: Any) -> None:
        self._end_task(self.publishers, answer, exit_code, **changes)

    def end_probe(self, answer: Any, exit_code: int = 0, **changes: Any) -> None:
        self._end_task(self.probes, answer, exit_code, **changes)

    def end_checker(self, answer: Any = "", exit_code: int = 0, **changes: Any) -> None:
        self._end_task(self.checkers, answer, exit_code, **changes)

    def end_fetcher(self, answer: Any, exit_code: int = 0, *, of: str = "", **changes: Any) -> None:
        """The pod of an input ends; where there is only one it need not be named."""
        (name,) = (found for found in self.fetchers if found.startswith(f"train-input-{of}"))
        self._end_task({name: self.fetchers[name]}, answer, exit_code, into=self.fetchers, **changes)

    def _end_task(
        self,
        tasks: dict[str, TaskPod],
        answer: Any,
        exit_code: int,
        into: dict[str, TaskPod] | None = None,
        **changes: Any,
    ) -> None:
        (name,) = tasks
        message_ = answer if isinstance(answer, str) else json.dumps(answer)
        ended = {"ended": True, "exit_code": exit_code, "message": message_, "finished_at": self.now, **changes}
        (tasks if into is None else into)[name] = replace(tasks[name], **ended)

    def bury(self) -> None:
        """Terminating pods are gone."""
        self.pods = {name: view for name, view in self.pods.items() if not view.terminating}

    def _tell(self, told: PatchStatus) -> None:
        """A Workload's status, as the API server merges it."""
        view = self.workloads[told.name]
        assert told.resource_version == view.resource_version
        facts = tuple(
            Fact(one["type"], one["status"] == "True", one["reason"], one["message"], one["lastTransitionTime"])
            for one in told.status["conditions"]
        )
        assert len({fact.type for fact in facts}) == len(facts)
        kept = {} if "admission" not in told.status else {"cluster_queue": "", "flavors": {}, "placement": None}
        self.workloads[told.name] = replace(view, facts=facts, **kept)

    def _create(self, body: dict[str, Any]) -> None:
        meta, kind = body["metadata"], body["kind"]
        name, labels, uid = meta["name"], meta["labels"], f"uid-{next(iter(self._uids))}"
        if kind == "Pod" and (tasks := self._tasks.get(labels["aifactory.dev/role"])) is not None:
            assert name not in tasks, f"{name} exists"
            tasks[name] = TaskPod(name, uid, int(name.rpartition("-")[2]))
        elif kind == "PersistentVolumeClaim" and name == names.INPUT_CLAIM:
            assert self.input_claim is None
            self.input_claim = ClaimView(uid)
        elif kind == "Pod":
            attempt, index = int(labels["aifactory.dev/attempt"]), int(labels["aifactory.dev/node-index"])
            # Until all pods of an attempt have been seen, one that is missing can not be told from one not yet made.
            seen = self.status.resolved is not None and self.status.resolved.created_attempt >= attempt
            assert not (seen and name in self.used), f"the name {name} is used twice"
            self.used.add(name)
            hash_ = labels[children.LABEL_TEMPLATE_HASH]
            self.pods[name] = PodView(name, uid, attempt, index, hash_, "Pending")
        elif kind == "PodGroup":
            self.gangs[name] = GangView(
                name, uid, int(labels["aifactory.dev/attempt"]), body["spec"]["schedulingPolicy"]["gang"]["minCount"]
            )
        elif kind == "Workload":
            assert name not in self.workloads, f"{name} exists"
            hash_, queue = labels[children.LABEL_TEMPLATE_HASH], body["spec"]["queueName"]
            self.workloads[name] = WorkloadView(name, uid, "1", self.now, hash_, queue)
        elif kind == "ModelVersion":
            assert name not in self.versions, f"{name} exists"
            self.versions[name] = VersionView(name, body["spec"]["version"], labels["aifactory.dev/job-uid"])
        elif kind == "Service":
            assert self.service is None
            self.service = Applied(name, uid, meta["annotations"][names.ANNOTATION_APPLIED])
        else:
            assert f"{kind} {name}" not in self.others, f"{kind} {name} exists"
            self.others.add(f"{kind} {name}")

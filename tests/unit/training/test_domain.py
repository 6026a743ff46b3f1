"""From what the API server sends to what planning looks at, and back to status when it refuses something."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aifactory.api import names
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.app.domains import DOMAINS
from aifactory.engine.apply import Applied
from aifactory.engine.cluster import Cluster
from aifactory.engine.custom import resource_of
from aifactory.engine.domain import Outside
from aifactory.engine.plan import Create, DryRun, WriteError
from aifactory.engine.tasks import TaskPod
from aifactory.kube.errors import AlreadyExists, ApiError, Forbidden
from aifactory.kube.objects import Pod, PodGroup, decoder
from aifactory.kube.podstate import Trouble
from aifactory.kube.resources import (
    CONFIGMAPS,
    NODES,
    PODGROUPS,
    PODS,
    PVCS,
    RESOURCEFLAVORS,
    SERVICES,
    WORKLOADPRIORITYCLASSES,
    WORKLOADS,
    Key,
    Resource,
)
from aifactory.kube.tokens import Reporter
from aifactory.training import checks, domain
from aifactory.training.domain import Training, gang_view, pod_view
from aifactory.training.fetching import FetchingPod
from aifactory.training.reports import ReportBody, ReportingPod
from aifactory.training.state import (
    NOWHERE,
    BaseView,
    ClaimView,
    Fact,
    Fetched,
    GangView,
    Placement,
    PodView,
    VersionView,
    WorkloadView,
)
from tests.unit.training.builders import NOW, OUTPUT, SETTINGS, UID, conditions, job, message, observe, pod, report

THEN = datetime(2026, 1, 1, 11, 59, tzinfo=UTC)
NODE, PUBLISH = {names.LABEL_ROLE: names.ROLE_NODE}, {names.LABEL_ROLE: names.ROLE_PUBLISH}


def meta(name: str, labels: dict[str, str] | None = None, *, uid: str = UID, **changes: Any) -> dict[str, Any]:
    """Metadata of something that belongs to the job with this UID."""
    owner = {"kind": "TrainingJob", "name": "train", "uid": uid, "apiVersion": names.API_VERSION, "controller": True}
    found = {"name": name, "namespace": "ns", "uid": f"{name}-uid", "resourceVersion": "1", "labels": labels or {}}
    return {**found, "ownerReferences": [owner], **changes}


class Scene:
    """Stores with what a test puts there."""

    def __init__(self) -> None:
        self.training = Training(SETTINGS)
        others = [kind() for kind in DOMAINS if kind is not Training]
        self.cluster = Cluster([self.training, *others], {PODGROUPS, NODES})

    def put(self, resource: Resource, metadata: dict[str, Any], **fields: Any) -> None:
        store = self.cluster.stores[resource]
        store.put_response(json.dumps({"metadata": metadata, **fields}).encode())

    def version(self, number: int, labels: dict[str, str], **spec: Any) -> None:
        source = {"uri": f"pvc://aifactory-models/tiny/{number}"}
        body = {"model": "tiny", "version": number, "source": source, "format": "huggingface", **spec}
        self.put(resource_of(ModelVersion), meta(f"tiny-v{number}", labels, ownerReferences=[]), spec=body)


def labels_of(attempt: int, index: int) -> dict[str, str]:
    return {**NODE, names.LABEL_ATTEMPT: str(attempt), names.LABEL_NODE_INDEX: str(index)}


def test_everything_around_a_job_is_gathered() -> None:
    scene, owner = Scene(), job(nodes=2, output=OUTPUT)
    for attempt, index in ((1, 0), (0, 1), (0, 0)):
        spec = {"nodeName": f"gpu-{index}"}
        scene.put(PODS, meta(f"train-{index}-{attempt}", labels_of(attempt, index)), spec=spec)
    copied = {"name": "publish", "state": {"terminated": {"exitCode": 0, "message": "{}"}}}
    scene.put(PODS, meta("train-publish-3", PUBLISH), status={"containerStatuses": [copied]})
    scene.put(PODS, meta("train-probe-1", {names.LABEL_ROLE: names.ROLE_PROBE}))
    scene.put(NODES, {"name": "gpu-0", "uid": "g", "resourceVersion": "1"})
    scene.put(SERVICES, meta("train-nodes", annotations={names.ANNOTATION_APPLIED: "stamp"}))
    scene.put(PVCS, meta("train-workspace"))
    scene.put(PVCS, meta(names.MODEL_CLAIM, ownerReferences=[]))
    scene.put(PODGROUPS, meta("train-1", {names.LABEL_ATTEMPT: "1"}))
    scene.put(CONFIGMAPS, meta("aifactory-tiny-versions", annotations={"aifactory.dev/highest-version": "7"}))
    scene.version(4, {names.LABEL_JOB_UID: UID}, digest=f"sha256:{'1' * 64}")
    scene.version(2, {})
    scene.training.book.record(UID, 1, ReportBody(step=5), NOW)

    found = scene.training.gather(owner, scene.cluster)
    assert (found.job, found.settings, found.gangs_served) == (owner, scene.training.settings, True)
    assert [view.name for view in found.pods] == ["train-0-0", "train-1-0", "train-0-1"]
    assert found.publishers == (
        TaskPod("train-publish-3", "train-publish-3-uid", 3, ended=True, exit_code=0, message="{}"),
    )
    assert found.probes == (TaskPod("train-probe-1", "train-probe-1-uid", 1),)
    assert found.lost_nodes == {"gpu-1": "is gone"}
    assert found.service == Applied("train-nodes", "train-nodes-uid", "stamp")
    assert (found.workspace_exists, found.model_claim_exists) == (True, True)
    assert found.gangs == (GangView("train-1", "train-1-uid", 1, 0),)
    assert sorted(found.versions, key=lambda view: view.version) == [
        VersionView("tiny-v2", 2, "", "pvc://aifactory-models/tiny/2", ""),
        VersionView("tiny-v4", 4, UID, "pvc://aifactory-models/tiny/4", f"sha256:{'1' * 64}"),
    ]
    assert found.highest_version == 7
    assert found.progress == report(5, attempt=1, first_time=NOW, first_step=5)


def test_what_a_check_goes_by_is_gathered_while_there_is_one() -> None:
    scene = Scene()
    resources = {"limits": {"nvidia.com/gpu": 1}}
    container = {"args": ["-m", "aifactory_trainer.sft"], "resources": resources}
    owner = job(container=container)
    scene.put(PODS, meta("train-check-0123abcd-1", {names.LABEL_ROLE: names.ROLE_CHECK}))
    scene.put(PVCS, meta("train-workspace"), spec={"accessModes": ["ReadWriteOnce", "ReadWriteMany"]})
    for name, size in (("a", "40960"), ("b", "81559")):
        labels = {"nvidia.com/gpu.memory": size}
        scene.put(NODES, {"name": name, "uid": name, "resourceVersion": "1", "labels": labels})
    found = scene.training.gather(owner, scene.cluster)
    assert [(pod.name, pod.number) for pod in found.checkers] == [("train-check-0123abcd-1", 1)]
    assert (found.pods, found.workspace_shared) == ((), True)
    assert found.device_memory == 81559 << 20
    passed = {"check": {"of": checks.question(owner), "phase": "Passed"}}
    assert scene.training.gather(job(container=container, status=passed), scene.cluster).device_memory is None
    assert scene.training.gather(job(container={"resources": resources}), scene.cluster).device_memory is None


def test_a_workspace_of_one_node_is_not_shared() -> None:
    scene = Scene()
    scene.put(PVCS, meta("train-workspace"), spec={"accessModes": ["ReadWriteOnce"]})
    assert not scene.training.gather(job(), scene.cluster).workspace_shared


def queue(scene: Scene, *served: Resource) -> None:
    others = [kind() for kind in DOMAINS if kind is not Training]
    scene.cluster = Cluster([scene.training, *others], {PODGROUPS, NODES, *served})


ASSIGNED = {"name": "node", "flavors": {"nvidia.com/gpu": "a100", "cpu": "cheap"}}
CHECKED = {"podSetUpdates": [{"name": "node", "annotations": {"a": "b"}}, {"name": "other", "annotations": {"c": "d"}}]}


def test_what_kueue_says_of_a_job_is_gathered() -> None:
    scene = Scene()
    queue(scene, WORKLOADS, RESOURCEFLAVORS, WORKLOADPRIORITYCLASSES)
    owner = job(labels={names.KUEUE_QUEUE: "team-a", names.KUEUE_PRIORITY: "urgent"})
    scene.put(WORKLOADPRIORITYCLASSES, {"name": "urgent", "uid": "p", "resourceVersion": "1"}, value=1000)
    reserved = {"type": "QuotaReserved", "status": "True", "reason": "QuotaReserved", "message": "it has"}
    reserved |= {"lastTransitionTime": "2026-01-01T11:59:00Z", "observedGeneration": 2}
    status = {
        "conditions": [reserved],
        "admission": {"clusterQueue": "gpus", "podSetAssignments": [ASSIGNED]},
        "admissionChecks": [CHECKED],
    }
    hash_ = {"aifactory.dev/template-hash": "v1-0123456789"}
    made = meta("train-w", hash_, creationTimestamp="2026-01-01T11:59:00Z", generation=3)
    scene.put(WORKLOADS, made, spec={"queueName": "team-a", "active": False}, status=status)
    spec = {"nodeLabels": {"gpu": "a100"}, "tolerations": [{"key": "gpu"}]}
    scene.put(RESOURCEFLAVORS, {"name": "a100", "uid": "f", "resourceVersion": "1"}, spec=spec)

    found = scene.training.gather(owner, scene.cluster)
    assert (found.kueue_served, found.priority) == (True, 1000)
    wanted = WorkloadView(
        name="train-w",
        uid="train-w-uid",
        resource_version="1",
        created=THEN,
        template_hash="v1-0123456789",
        queue="team-a",
        active=False,
        generation=3,
        facts=(Fact("QuotaReserved", True, "QuotaReserved", "it has", "2026-01-01T11:59:00Z", 2),),
        cluster_queue="gpus",
        flavors={"nvidia.com/gpu": "a100", "cpu": "cheap"},
    )
    assert found.workloads == (wanted,), "where pods may run is not known while a flavor is not"

    scene.put(RESOURCEFLAVORS, {"name": "cheap", "uid": "g", "resourceVersion": "1"})
    (view,) = scene.training.gather(owner, scene.cluster).workloads
    assert view.placement == Placement({"gpu": "a100"}, ({"key": "gpu"},), {}, {"a": "b"})
    assert not view.by_topology


def test_a_node_that_kueue_has_chosen_for_each_pod_is_noticed() -> None:
    scene = Scene()
    queue(scene, WORKLOADS, RESOURCEFLAVORS)
    chosen = {**ASSIGNED, "topologyAssignment": {"levels": ["rack"], "slices": []}}
    scene.put(WORKLOADS, meta("train-w"), status={"admission": {"podSetAssignments": [ASSIGNED, chosen]}})
    (view,) = scene.training.gather(job(), scene.cluster).workloads
    assert view.by_topology


def test_a_workload_without_quota_places_no_pod() -> None:
    for status in ({}, {"admission": {"clusterQueue": "gpus", "podSetAssignments": None}}):
        scene = Scene()
        queue(scene, WORKLOADS, RESOURCEFLAVORS)
        made = meta("train-w", creationTimestamp="2026-01-01T11:59:00Z", deletionTimestamp="2026-01-01T11:59:30Z")
        scene.put(WORKLOADS, made, spec={"queueName": "team-a"}, status=status)
        (view,) = scene.training.gather(job(), scene.cluster).workloads
        where = {"cluster_queue": "gpus", "placement": NOWHERE} if status else {}
        assert view == WorkloadView("train-w", "train-w-uid", "1", THEN, "", "team-a", terminating=True, **where)


def test_flavors_are_put_together_by_their_names() -> None:
    scene = Scene()
    queue(scene, WORKLOADS, RESOURCEFLAVORS)
    for name in "abcdefg":
        spec = {"nodeLabels": {"last": name}, "tolerations": [{"key": name}]}
        scene.put(RESOURCEFLAVORS, {"name": name, "uid": name, "resourceVersion": "1"}, spec=spec)
    assigned = {"flavors": dict(zip("1234567", "gfedcba", strict=True))}
    scene.put(WORKLOADS, meta("train-w"), status={"admission": {"podSetAssignments": [assigned]}})
    (view,) = scene.training.gather(job(), scene.cluster).workloads
    assert view.placement == Placement({"last": "g"}, tuple({"key": name} for name in "abcdefg"))


def test_without_its_flavors_kueue_is_not_there() -> None:
    both = (WORKLOADS, RESOURCEFLAVORS)
    for served, there in ((both[:1], False), (both[1:], False), (both, True), ((), False)):
        scene = Scene()
        queue(scene, *served)
        found = scene.training.gather(job(), scene.cluster)
        assert (found.kueue_served, found.priority, found.workloads) == (there, None, ())


def test_what_belongs_to_an_earlier_job_of_the_name_is_not_the_jobs() -> None:
    scene = Scene()
    scene.put(PODS, meta("train-0-0", labels_of(0, 0), uid="earlier"))
    scene.put(SERVICES, meta("train-nodes", uid="earlier"))
    scene.put(PVCS, meta("train-workspace", uid="earlier"))
    scene.put(PODGROUPS, meta("train-0", uid="earlier"))
    found = scene.training.gather(job(nodes=2), scene.cluster)
    assert (found.pods, found.service, found.workspace_exists, found.gangs) == ((), None, False, ())
    assert not found.model_claim_exists
    scene.put(PVCS, meta("train-workspace", ownerReferences=[], resourceVersion="2"))
    assert not scene.training.gather(job(), scene.cluster).workspace_exists, "nobody's is not the job's either"


def test_a_job_without_output_has_no_versions() -> None:
    scene = Scene()
    scene.version(4, {})
    scene.put(CONFIGMAPS, meta("aifactory-tiny-versions", annotations={"aifactory.dev/highest-version": "7"}))
    found = scene.training.gather(job(), scene.cluster)
    assert (found.versions, found.highest_version) == ((), 0)
    other = job(output={"model": {"name": "large", "format": "huggingface"}})
    found = scene.training.gather(other, scene.cluster)
    assert (found.versions, found.highest_version) == ((), 0), "another model's are not its either"


def test_what_the_kubelet_says_about_pods_that_do_not_start_is_seen() -> None:
    scene = Scene()
    scene.put(PODS, meta("train-0-0", labels_of(0, 0)))
    scene.put(PODS, meta("train-publish-0", PUBLISH))
    scene.cluster.explain = lambda found: Trouble("FailedMount", f"no volume for {found.metadata.name}")
    found = scene.training.gather(job(), scene.cluster)
    assert (found.pods[0].waiting_reason, found.pods[0].waiting_message) == ("FailedMount", "no volume for train-0-0")
    assert found.publishers[0].waiting_message == "no volume for train-publish-0"


def test_a_pod_is_seen_with_all_that_planning_asks_for() -> None:
    end = {"exitCode": 3, "reason": "Error", "message": "last words", "finishedAt": "2026-01-01T12:00:00Z"}
    trainer = {"name": "trainer", "image": "trainer:1", "imageID": "trainer@sha256:1", "state": {"terminated": end}}
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TaintManager", "message": "node lost"}
    raw = {
        "metadata": meta("train-2-1", {**labels_of(1, 2), "aifactory.dev/template-hash": "v1-0"}, uid="x")
        | {"deletionTimestamp": "2026-01-01T11:59:00Z"},
        "spec": {"nodeName": "gpu-7"},
        "status": {
            "phase": "Failed",
            "message": "of the pod",
            "containerStatuses": [trainer],
            "conditions": [disrupted],
        },
    }
    assert pod_view(decoder(Pod)(msgspec.json.encode(raw))) == PodView(
        name="train-2-1",
        uid="train-2-1-uid",
        attempt=1,
        index=2,
        template_hash="v1-0",
        phase="Failed",
        node="gpu-7",
        terminating=True,
        due_to_end=THEN,
        container="trainer",
        exit_code=3,
        exit_reason="Error",
        exit_message="last words",
        finished_at=NOW,
        disruption="TaintManager: node lost",
        image="trainer@sha256:1",
    )


def test_a_pod_that_has_just_been_made_is_seen_as_such() -> None:
    placed = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node is free"}]
    raw = {
        "metadata": {"name": "p", "uid": "u", "labels": {names.LABEL_ATTEMPT: "x"}},
        "status": {"conditions": placed},
    }
    view = pod_view(decoder(Pod)(msgspec.json.encode(raw)), Trouble("FailedMount", "no volume"))
    assert view == PodView(
        "p", "u", -1, -1, "", "Pending", unschedulable="no node is free",
        waiting_reason="FailedMount", waiting_message="no volume",
    )  # fmt: skip


def test_a_trainer_that_runs_is_seen_with_its_image() -> None:
    trainer = {"name": "trainer", "image": "trainer:1", "state": {"running": {}}}
    raw = {"metadata": {"name": "p", "uid": "u"}, "status": {"phase": "Running", "containerStatuses": [trainer]}}
    view = pod_view(decoder(Pod)(msgspec.json.encode(raw)))
    assert (view.running, view.image) == (True, "trainer:1")


@pytest.mark.parametrize(("status", "words"), [("False", "no place for 2"), ("True", ""), ("Unknown", "")])
def test_a_gang_is_seen_with_why_it_has_no_place(status: str, words: str) -> None:
    placed = {"type": "PodGroupInitiallyScheduled", "status": status, "message": "no place for 2"}
    raw = {
        "metadata": meta("train-1", {names.LABEL_ATTEMPT: "1"}, deletionTimestamp="2026-01-01T11:59:00Z"),
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
        "status": {"conditions": [{"type": "Other", "status": "False", "message": "x"}, placed]},
    }
    assert gang_view(decoder(PodGroup)(msgspec.json.encode(raw))) == GangView(
        "train-1", "train-1-uid", 1, 2, terminating=True, unschedulable=words
    )
    del raw["status"]
    assert gang_view(decoder(PodGroup)(msgspec.json.encode(raw))).unschedulable == ""


def refused(error: ApiError, *pods: PodView, **changes: Any) -> Any:
    write = Create({"kind": "Pod", "metadata": {"name": "train-0-0", "namespace": "ns"}})
    return Training().refused(observe(job(), *pods, **changes), [WriteError(write, error)], NOW)


def test_a_name_that_is_taken_and_a_refusal_are_told_apart() -> None:
    taken = refused(AlreadyExists(409, "AlreadyExists", "exists"))
    assert (taken.status.reason, taken.requeue_after) == ("NameConflict", None)
    assert message(taken.status).startswith("Pod train-0-0 exists and does not belong to this job")
    quota = refused(Forbidden(403, "Forbidden", "exceeded quota: gpus"))
    assert (quota.status.reason, quota.requeue_after) == ("QuotaExceeded", 30)
    other = refused(Forbidden(403, "Forbidden", "no"))
    assert (other.status.reason, message(other.status)) == ("PodRejected", "Pod train-0-0: no")
    assert conditions(other.status)["Stalled"] == ("True", "PodRejected")


def test_a_report_that_waits_is_not_forgotten_over_a_refusal() -> None:
    written = {"attempt": 0, "step": 1, "summary": "step 1", "lastHeartbeatTime": NOW}
    owner = job(nodes=2, status={"progress": written})
    observed = observe(owner, pod(0), pod(1), pod(0, 1), progress=report(2, at=NOW.replace(second=4)))
    write = Create({"kind": "Pod", "metadata": {"name": "train-0-0", "namespace": "ns"}})
    for error in (AlreadyExists(409, "AlreadyExists", "exists"), Forbidden(403, "Forbidden", "no")):
        plan = Training().refused(observed, [WriteError(write, error)], NOW.replace(second=4))
        assert plan.requeue_after == 6
        assert plan.status.replicas == 2, "pods of this attempt"
        assert "edited" not in message(plan.status), "what is refused is one more pod, as it is"


def test_a_refusal_that_says_nothing_does_not_hide_one_that_does() -> None:
    tried = DryRun({"kind": "Pod", "metadata": {"name": "train-0-1", "namespace": "ns"}})
    full = WriteError(tried, Forbidden(403, "Forbidden", "exceeded quota: gpus"))
    wrong = WriteError(replace(tried), Forbidden(403, "Forbidden", "no"))
    plan = Training().refused(observe(job(), pod(running=True)), [full, wrong], NOW)
    assert plan.status.reason == "PodRejected"


@pytest.mark.parametrize(("labels", "woken"), [({names.LABEL_JOB: "train"}, [Key("ns", "train")]), ({}, [])])
def test_a_version_wakes_the_job_that_made_it(labels: dict[str, str], woken: list[Key]) -> None:
    scene = Scene()
    scene.version(1, labels)
    (index, *_), (watch,) = scene.training.indexes(), scene.training.watches()
    (version,) = scene.cluster.find(index, ("ns", "tiny"))
    assert list(watch.keys(version, scene.cluster)) == woken


# --- Inputs ---

INPUT = {names.LABEL_ROLE: names.ROLE_INPUT}
DIGEST = f"sha256:{'1' * 64}"
READS = [{"name": "base", "modelVersion": "tiny-v4"}, {"name": "corpus", "uri": "s3://bucket/corpus"}]
RUNNING = {"phase": "Running", "podIP": "10.0.0.1"}


def checked(scene: Scene, *conditions_: dict[str, str], digest: str = "", **source: Any) -> BaseView:
    """ModelVersion `tiny-v4`, as a job that reads it sees it."""
    uri = {"uri": "s3://models/tiny/4", **source}
    told = [{"lastTransitionTime": "2026-01-01T12:00:00Z", "observedGeneration": 1, **each} for each in conditions_]
    spec = {"model": "tiny", "version": 4, "source": uri, "format": "huggingface"}
    scene.put(
        resource_of(ModelVersion),
        meta("tiny-v4", ownerReferences=[]),
        spec=spec,
        status={"conditions": told, "resolvedDigest": digest},
    )
    return scene.training.gather(job(inputs=READS), scene.cluster).bases["tiny-v4"]


def test_what_an_input_needs_is_gathered() -> None:
    scene = Scene()
    scene.put(PODS, meta("train-input-corpus-0123abcd-1", INPUT), status=RUNNING)
    scene.put(PODS, meta("train-input-base-0123abcd-0", INPUT))
    scene.put(PVCS, meta(names.INPUT_CLAIM, ownerReferences=[]))
    scene.training.fetch_book.note("train-input-corpus-0123abcd-1-uid", Fetched(1, 3))
    found = scene.training.gather(job(inputs=READS), scene.cluster)
    assert [(task.name, task.number) for task in found.fetchers] == [
        ("train-input-base-0123abcd-0", 0),
        ("train-input-corpus-0123abcd-1", 1),
    ]
    assert found.fetched == {"train-input-corpus-0123abcd-1": Fetched(1, 3)}
    assert found.input_claim == ClaimView("aifactory-inputs-uid")
    assert (found.bases, found.pods) == ({}, ())
    gone = {"deletionTimestamp": "2026-01-01T12:00:00Z", "resourceVersion": "2"}
    scene.put(PVCS, meta(names.INPUT_CLAIM, ownerReferences=[], **gone))
    assert scene.training.gather(job(inputs=READS), scene.cluster).input_claim == ClaimView(
        "aifactory-inputs-uid", terminating=True
    )
    assert scene.training.gather(job(), scene.cluster).input_claim is None


def test_what_the_jobs_of_the_namespace_need_is_gathered_for_a_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, mine = Scene(), job(inputs=READS)
    ready = {"phase": "Ready", "claim": "c"}
    end = {"type": "Complete", "status": "True", "reason": "x", "observedGeneration": 1}
    end["lastTransitionTime"] = "2026-01-01T12:00:00Z"

    def put(name: str, digit: str, conditions_: list[dict[str, Any]], namespace: str = "ns") -> None:
        """Another job with an input."""
        found = {"name": "corpus", "uri": "s3://b/c", "digest": f"sha256:{digit * 64}", **ready}
        metadata = meta(name, uid=f"{name}-uid", ownerReferences=[], namespace=namespace)
        spec = job(inputs=READS).spec.dump()
        scene.put(resource_of(TrainingJob), metadata, spec=spec, status={"inputs": [found], "conditions": conditions_})

    put("runs", "1", [])
    put("ended", "2", [end])
    put("elsewhere", "3", [], "other")
    assert scene.training.gather(mine, scene.cluster).inputs_in_use == (f"sha256:{'1' * 64}",)
    assert scene.training.gather(job(), scene.cluster).inputs_in_use is None, "it fetches nothing"
    found = [
        {"name": wish["name"], "digest": DIGEST, "modelVersion": wish.get("modelVersion", ""), **ready}
        for wish in READS
    ]
    found[1]["uri"] = READS[1]["uri"]
    whole = job(inputs=READS, status={"inputs": found})
    assert scene.training.gather(whole, scene.cluster).inputs_in_use is None, "it has all that it needs"
    for digit in "8764":
        put(f"more-{digit}", digit, [])
    monkeypatch.setattr(domain, "_MOST_IN_USE", 5)
    told = scene.training.gather(mine, scene.cluster).inputs_in_use
    assert told == tuple(f"sha256:{digit * 64}" for digit in "14678"), "in one order, whoever asks"
    monkeypatch.setattr(domain, "_MOST_IN_USE", 4)
    assert scene.training.gather(mine, scene.cluster).inputs_in_use is None, "too many to tell"


def test_a_version_is_read_when_it_is_known_to_be_good() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Verified", "message": "2 files"}
    found = checked(Scene(), ready, digest=DIGEST, secretRef={"name": "s3"})
    assert found == BaseView("s3://models/tiny/4", DIGEST, "s3", "huggingface", message="2 files")
    bad = {"reason": "InvalidArtifact", "message": "pickles"}
    found = checked(Scene(), {"type": "Ready", "status": "False", **bad}, {"type": "Stalled", "status": "True", **bad})
    assert found == BaseView("s3://models/tiny/4", format="huggingface", stalled=True, message="pickles")
    assert checked(Scene(), {**ready, "status": "False"}, digest=DIGEST).digest == "", "it is not known any more"
    assert not checked(Scene(), {"type": "Stalled", "status": "False", "reason": "Verifying"}).stalled
    assert checked(Scene()) == BaseView("s3://models/tiny/4", format="huggingface")


def test_a_version_is_found_by_its_name_whatever_its_models_is() -> None:
    scene = Scene()
    spec = {"model": "my-vae", "version": 4, "source": {"uri": "pvc://models/my-vae/4"}, "format": "huggingface"}
    scene.put(resource_of(ModelVersion), meta("my-vae-v4", ownerReferences=[]), spec=spec)
    reads = job(inputs=[{"name": "base", "modelVersion": "my-vae-v4"}])
    assert set(scene.training.gather(reads, scene.cluster).bases) == {"my-vae-v4"}


def test_a_version_wakes_the_jobs_that_read_it() -> None:
    scene = Scene()
    body = {"spec": {**job(inputs=READS).spec.dump()}}
    scene.put(scene.training.resource, meta("reads", ownerReferences=[], generation=1), **body)
    scene.put(scene.training.resource, meta("abroad", ownerReferences=[], generation=1, namespace="other"), **body)
    scene.version(4, {names.LABEL_JOB: "train"})
    scene.version(5, {})
    (index, *_), (watch,) = scene.training.indexes(), scene.training.watches()
    versions = {version.spec.version: version for version in scene.cluster.find(index, ("ns", "tiny"))}
    assert list(watch.keys(versions[4], scene.cluster)) == [Key("ns", "train"), Key("ns", "reads")]
    assert list(watch.keys(versions[5], scene.cluster)) == []


def test_pods_that_really_fetch_for_a_job_are_asked_by_the_leader_alone() -> None:
    scene, leads, woken = Scene(), [False], list[tuple[Key, float]]()
    scene.put(PODS, meta("fetches", INPUT), status=RUNNING)
    scene.put(PODS, meta("trains", labels_of(0, 0)), status=RUNNING)
    scene.put(PODS, meta("waits", INPUT), status={"phase": "Pending", "podIP": "10.0.0.2"})
    scene.put(PODS, meta("has-no-address", INPUT), status={"phase": "Running"})
    scene.put(PODS, meta("goes", INPUT, deletionTimestamp="2026-01-01T12:00:00Z"), status=RUNNING)
    scene.put(PODS, meta("forged", INPUT, ownerReferences=[]), status=RUNNING)
    of_a_version = {"kind": "ModelVersion", "name": "tiny-v4", "uid": "x", "apiVersion": names.API_VERSION}
    scene.put(PODS, meta("reads", INPUT, ownerReferences=[{**of_a_version, "controller": True}]), status=RUNNING)
    outside = Outside(
        api=None, cluster=scene.cluster, wake=lambda key, after: woken.append((key, after)),  # type: ignore[arg-type]
        leading=lambda: leads[0], leader_address=lambda: "", clock=Stopped(),
    )  # fmt: skip
    (run,) = scene.training.probes(outside)
    probe = run.__self__  # type: ignore[attr-defined]
    assert probe._pods() == []
    leads[0] = True
    assert probe._pods() == [FetchingPod("fetches-uid", "fetches", "10.0.0.1", Key("ns", "train"))]
    probe._wake(Key("ns", "train"))
    assert woken == [(Key("ns", "train"), 0.0)]
    assert probe._book is scene.training.fetch_book


@pytest.mark.parametrize(
    ("body", "beside"),
    [
        ({"kind": "Pod", "metadata": {"name": "train-input-x-0", "labels": INPUT}}, True),
        ({"kind": "PersistentVolumeClaim", "metadata": {"name": names.INPUT_CLAIM}}, True),
        ({"kind": "Pod", "metadata": {"name": "train-0-0", "labels": NODE}}, False),
    ],
    ids=["a fetcher", "its claim", "a pod that trains"],
)
def test_a_refused_fetcher_leaves_the_pods_that_run_as_they_are(body: dict[str, Any], beside: bool) -> None:
    error = WriteError(Create(body), Forbidden(403, "Forbidden", "exceeded quota: pods"))
    running = observe(job(inputs=READS), pod(running=True))
    status = Training().refused(running, [error], NOW).status
    assert (status.phase == "Running", "run on as they are" in message(status)) == (beside, beside)
    status = Training().refused(observe(job(inputs=READS)), [error], NOW).status
    assert (status.phase, status.reason) == ("Pending", "QuotaExceeded")


# --- What it may do, and who it listens to ---


def test_the_operator_may_do_with_each_kind_what_it_does_and_no_more() -> None:
    assert {child.resource.plural: (child.verbs, child.optional) for child in Training.children} == {
        "pods": (("create", "delete"), False),
        "services": (("create", "patch", "delete"), False),
        "persistentvolumeclaims": (("create",), False),
        "podgroups": (("create", "delete"), True),
        "configmaps": ((), False),
        "nodes": ((), True),
        "workloads": (("create", "delete"), True),
        "resourceflavors": ((), True),
        "workloadpriorityclasses": ((), True),
    }
    assert [child.resource.plural for child in Training.children if child.writes_status] == ["workloads"]
    whole = [child.resource.plural for child in Training.children if child.selector == ""]
    assert whole == ["nodes", "resourceflavors", "workloadpriorityclasses"], (
        "all others are found by our label, and nobody else's are kept in memory"
    )


def test_a_job_is_planned() -> None:
    assert Training().plan(observe(job()), NOW) is not None


def test_reports_of_a_job_that_is_gone_are_forgotten() -> None:
    training = Training()
    training.book.record(UID, 0, ReportBody(step=1), NOW)
    training.gone(UID)
    assert training.book.get(UID) is None


@pytest.mark.parametrize(
    ("given", "url", "wanted"),
    [("", "http://me:8082/", "http://me:8082"), ("http://proxy/X/", "http://me:8082", "http://proxy/X")],
)
def test_reports_go_to_this_process_unless_told_otherwise(given: str, url: str, wanted: str) -> None:
    training = Training(replace(SETTINGS, progress_url=given), url)
    assert (training.settings.progress_url, training.url) == (wanted, url)
    assert training.settings.agent_image == SETTINGS.agent_image
    assert Training().settings.progress_url == ""


class Reviews:
    """An API server that knows one token."""

    def __init__(self, pod_name: str) -> None:
        extra = {f"authentication.kubernetes.io/pod-{key}": [value] for key, value in
                 (("name", pod_name), ("uid", f"{pod_name}-uid"))}  # fmt: skip
        user = {"username": "system:serviceaccount:ns:default", "extra": extra}
        self._status = {"authenticated": True, "user": user, "audiences": ["aifactory.dev/progress"]}

    async def create(self, resource: Resource, body: Any) -> bytes:
        assert body["spec"] == {"token": "good", "audiences": ["aifactory.dev/progress"]}
        return json.dumps({"status": self._status}).encode()


class Stopped:
    """A clock."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 5.0


@pytest.mark.parametrize("leading", [True, False])
async def test_a_report_finds_its_job_by_the_pod_that_sends_it(leading: bool) -> None:
    scene, woken, clock = Scene(), list[tuple[Key, float]](), Stopped()
    scene.put(PODS, meta("train-0-2", labels_of(2, 0)))
    api: Any = Reviews("train-0-2")
    outside = Outside(
        api=api, cluster=scene.cluster, wake=lambda key, after: woken.append((key, after)),
        leading=lambda: leading, leader_address=lambda: "10.0.0.7:8082", clock=clock,
    )  # fmt: skip
    (route,) = scene.training.routes(outside)
    application = web.Application()
    application.router.add_route(route.method, route.path, route.handler)
    async with TestClient(TestServer(application)) as client:
        headers = {"Authorization": "Bearer good"}
        path = "/v1/progress/ns/train"
        answer = await client.post(path, json={"step": 7}, headers=headers, allow_redirects=False)
    if leading:
        assert (answer.status, woken) == (204, [(Key("ns", "train"), 0.0)])
        assert scene.training.book.get(UID) == report(7, attempt=2, first_time=NOW, first_step=7)
    else:
        assert (answer.status, answer.headers["Location"]) == (307, f"http://10.0.0.7:8082{path}")


def reporting(**changes: Any) -> ReportingPod | None:
    scene = Scene()
    scene.put(PODS, {**meta("train-0-2", labels_of(2, 0)), **changes})
    return scene.training._reporting_pod(Reporter("ns", "train-0-2", "train-0-2-uid"), scene.cluster)


OWNER = meta("x")["ownerReferences"][0]
STRANGERS: Iterable[dict[str, Any]] = (
    {"name": "another"},
    {"uid": "that of a later pod"},
    {"labels": {**labels_of(2, 0), **PUBLISH}},
    {"labels": NODE},
    {"labels": {**NODE, names.LABEL_ATTEMPT: "second"}},
    {"ownerReferences": []},
    {"ownerReferences": [OWNER | {"kind": "Job"}]},
    {"ownerReferences": [OWNER | {"apiVersion": "batch/v1"}]},
)


@pytest.mark.parametrize("changes", STRANGERS, ids=str)
def test_only_a_training_pod_of_ours_speaks_for_a_job(changes: dict[str, Any]) -> None:
    assert reporting() == ReportingPod("train", UID, 2)
    assert reporting(**changes) is None

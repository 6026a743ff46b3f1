"""What the benchmark creates, and what the limit's client has to write for it.

The limit writes exactly the objects the operator writes: they come from the operator's own planner, made before the
clock starts, so that neither side is measured making them up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.apply import Applied
from aifactory.engine.plan import Create
from aifactory.kube.resources import PODGROUPS, SERVICES
from aifactory.kube.resources import PODS as POD_RESOURCE
from aifactory.training import children, rendezvous
from aifactory.training.plan import plan_training
from aifactory.training.state import Observed, PodView, Settings
from tests.bench.plane import CLAIM, NAMESPACE

Json = dict[str, Any]

API = "/apis/aifactory.dev/v1alpha1"
JOBS = f"{API}/namespaces/{NAMESPACE}/trainingjobs"
POOLS = f"{API}/namespaces/{NAMESPACE}/inferencepools"
VERSIONS = f"{API}/namespaces/{NAMESPACE}/modelversions"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"

_UID = "00000000-0000-4000-8000-000000000000"
SETTINGS = Settings(agent_image="agent", progress_url="http://operator:8082")
_RESOURCES = {resource.kind: resource for resource in (POD_RESOURCE, SERVICES, PODGROUPS)}


def job(name: str, nodes: int, *, short: bool = True, gang: bool = False) -> Json:
    """A TrainingJob on the shared claim; a short one's pods succeed after a second."""
    trainer = {"name": "trainer", "image": "trainer", "command": ["torchrun", "train.py"]}
    template: Json = {"spec": {"containers": [trainer]}}
    if short:
        template["metadata"] = {"labels": {"bench/duration": "short"}}
    return {
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodes": {"count": nodes},
            "template": template,
            "workspace": {"claimName": CLAIM},
            "scheduling": {"gang": "auto" if gang else "none"},
            "failurePolicy": {"backoff": {"baseSeconds": 0}, "maxRestarts": 100},
        },
    }


def job_names(count: int) -> list[str]:
    return [f"job-{index:04d}" for index in range(count)]


def job_of(pod: str) -> str:
    """The job of a pod `<job>-<index>-<attempt>`."""
    return pod.rsplit("-", 2)[0]


def attempt_of(pod: str) -> int:
    return int(pod.rpartition("-")[2])


@dataclass(frozen=True)
class Recipe:
    """Everything the limit writes for one job, as bytes in which only the job's UID is missing."""

    job: bytes
    children: tuple[tuple[str, bytes], ...]
    """Path and body."""
    running: bytes
    complete: bytes
    second_attempt: tuple[bytes, ...]

    @staticmethod
    def with_uid(body: bytes, uid: str) -> bytes:
        return body.replace(_UID.encode(), uid.encode())


def recipe(body: Json) -> Recipe:
    """What the operator would write for a job, by its own planner."""
    now = datetime.now(UTC)
    meta = {**body["metadata"], "uid": _UID, "generation": 1, "resourceVersion": "1"}
    parsed = TrainingJob.model_validate({**body, "metadata": meta})
    count = parsed.spec.nodes.count
    before = plan_training(Observed(parsed, SETTINGS, gangs_served=True), now)
    service = Applied(rendezvous.service_name(parsed.metadata.name), "uid", "stamp") if count > 1 else None
    then = plan_training(Observed(parsed, SETTINGS, service=service, gangs_served=True), now)
    assert before is not None
    assert then is not None
    # The Service comes before the pods; what is planned in both is made once.
    created = {(write.kind, write.name): write for write in (*before.writes, *then.writes) if isinstance(write, Create)}
    gang = any(kind == PODGROUPS.kind for kind, _ in created)
    wanted = children.template_hash(parsed.spec)
    pods = tuple(
        PodView(rendezvous.pod_name(parsed.metadata.name, index, 0), "uid", 0, index, wanted, "Running", "node", True)
        for index in range(count)
    )
    running = plan_training(Observed(parsed, SETTINGS, pods, gangs_served=True), now)
    assert running is not None
    later = parsed.model_copy(update={"status": running.status})
    ended = tuple(replace(pod, phase="Succeeded", running=False, exit_code=0) for pod in pods)
    complete = plan_training(Observed(later, SETTINGS, ended, gangs_served=True), now)
    assert complete is not None
    return Recipe(
        job=msgspec.json.encode(body),
        children=tuple(
            (_RESOURCES[write.kind].collection(NAMESPACE), _bytes(write.body)) for write in created.values()
        ),
        running=_bytes({"status": running.status.dump()}),
        complete=_bytes({"status": complete.status.dump()}),
        second_attempt=tuple(_bytes(children.pod(parsed, index, 1, SETTINGS, gang=gang)) for index in range(count)),
    )


def _bytes(body: Any) -> bytes:
    return msgspec.json.encode(body)


def failed_status(now: datetime) -> Json:
    """The status patch of a pod whose trainer has just failed."""
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": time, "finishedAt": time}}
    container = {
        "name": "trainer",
        "image": "trainer",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
    return {"status": {"phase": "Failed", "containerStatuses": [container]}}

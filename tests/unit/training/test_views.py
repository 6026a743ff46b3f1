"""How a training pod looks to planning: what became of the pod itself counts before its containers' exit codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from aifactory.engine.cluster import Cluster
from aifactory.kube.objects import Pod, decoder
from aifactory.kube.podstate import NO_TROUBLE, Trouble
from aifactory.kube.resources import PODS
from aifactory.training.domain import Training, pod_view
from aifactory.training.state import PodView
from tests.unit.training.builders import SETTINGS, UID, job, pod


def ended(code: int, name: str = "trainer", reason: str = "", message: str = "") -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}}


TRAINER = {"name": "trainer", "image": "t"}


def limits(name: str) -> dict[str, Any]:
    return {"resources": {"limits": {name: "1Gi"}}}


def view(**status: Any) -> PodView:
    raw = {"metadata": {"name": "train-0-0", "uid": "u"}, "spec": {"nodeName": "n"}, "status": status}
    return pod_view(decoder(Pod)(msgspec.json.encode(raw)))


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "Evicted", "NodeShutdown", "Terminated"])
def test_a_program_that_was_stopped_and_ended_with_0_has_not_succeeded(reason: str) -> None:
    """It saved what it had and left; published, that would be half a model (kubernetes#102733)."""
    seen = view(phase="Failed", reason=reason, message="told to", containerStatuses=[ended(0, reason="Completed")])
    assert (seen.succeeded, seen.failed, seen.stopped, seen.exit_reason) == (False, True, reason, reason)


def test_a_program_that_ended_with_0_by_itself_has_succeeded_whatever_became_of_its_side_containers() -> None:
    assert view(phase="Failed", containerStatuses=[ended(0), ended(1, "logs")]).succeeded
    assert view(phase="Running", containerStatuses=[ended(0), {"name": "logs", "state": {"running": {}}}]).succeeded


@pytest.mark.parametrize(
    ("phase", "side", "ending"),
    [
        ("Running", ended(0, "logs"), True),
        ("Running", {"name": "logs", "state": {"running": {}}}, False),
        ("Failed", ended(0, "logs"), False),
    ],
)
def test_a_pod_ends_by_itself_when_all_its_containers_have_ended(phase: str, side: Any, ending: bool) -> None:
    assert view(phase=phase, containerStatuses=[ended(1), side]).ending is ending
    assert not view(phase="Pending").ending


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("side", [ended(0, "logs"), {"name": "logs", "state": {"running": {}}}])
def test_nothing_is_concluded_from_a_container_before_it_is_told_what_became_of_the_pod(code: int, side: Any) -> None:
    """So a kubelet tells of one that is evicted or over its deadline, up to the moment when all is cleared away."""
    being_ended = {"type": "Ready", "status": "False", "reason": "PodFailed"}
    seen = view(phase="Running", conditions=[being_ended], containerStatuses=[ended(code), side])
    assert (seen.ending, seen.succeeded, seen.failed, seen.running) == (True, False, False, True)
    told = {"reason": "Evicted", "message": "low on memory", "conditions": [being_ended]}
    seen = view(phase="Failed", containerStatuses=[ended(code), side], **told)
    assert (seen.ending, seen.succeeded, seen.failed, seen.stopped) == (False, False, True, "Evicted")
    assert seen.stopped_message == "low on memory"


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        ({"volumes": [{"name": "s", "emptyDir": {"sizeLimit": "1Gi"}}]}, True),
        ({"volumes": [{"name": "s", "emptyDir": {}}, {"name": "t", "emptyDir": {"sizeLimit": "1Gi"}}]}, True),
        ({"volumes": [{"name": "s", "emptyDir": {}}, {"name": "t", "configMap": {"name": "c"}}]}, False),
        ({"containers": [TRAINER, {**TRAINER, "name": "side", **limits("ephemeral-storage")}]}, True),
        ({"containers": [TRAINER, {**TRAINER, "name": "side", **limits("memory")}]}, False),
    ],
)
def test_a_pod_that_may_have_been_evicted_has_not_succeeded_before_it_is_known(template: Any, asked: bool) -> None:
    """Evicted for its own disk use it is Succeeded all the same if its program ends with 0: only an Event tells."""
    domain = Training(SETTINGS)
    cluster = Cluster([domain])
    owner = job(template={"spec": {"containers": [TRAINER], **template}})
    labels = {"aifactory.dev/role": "node", "aifactory.dev/attempt": "0", "aifactory.dev/node-index": "0"}
    metadata = {
        "name": "train-0-0",
        "namespace": "ns",
        "uid": "u",
        "labels": labels,
        "ownerReferences": [{"kind": "TrainingJob", "name": "train", "uid": UID, "controller": True}],
    }

    def seen(eviction: Trouble | None, code: int = 0) -> PodView:
        end = ended(code)
        end["state"]["terminated"]["finishedAt"] = "2026-01-01T12:00:00Z"
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [end]}
        raw = {"metadata": {**metadata, "resourceVersion": str(1 + code)}, "status": status}
        cluster.stores[PODS].put_response(msgspec.json.encode(raw))
        cluster.eviction = lambda _: eviction
        return domain.gather(owner, cluster).pods[0]

    assert seen(NO_TROUBLE).succeeded
    assert (seen(None).ending, seen(None).succeeded) == (asked, not asked)
    if asked:
        assert seen(None) == replace(
            seen(NO_TROUBLE), phase="Running", running=True, ending=True, exit_code=None, finished_at=None
        )
    evicted = seen(Trouble("Evicted", 'Usage of EmptyDir volume "s" exceeds the limit "1Gi".'))
    assert (evicted.failed, evicted.stopped) == ((True, "Evicted") if asked else (False, ""))
    assert ("exceeds the limit" in evicted.stopped_message) is asked
    assert seen(None, 1).failed, "of a failure nothing is asked"


def test_an_init_container_that_failed_is_named() -> None:
    waiting = {"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}
    before = [ended(0, "first"), ended(3, "fetch", "Error", "no such bucket")]
    seen = view(phase="Failed", initContainerStatuses=before, containerStatuses=[waiting])
    assert (seen.container, seen.exit_code, seen.exit_message, seen.failed) == ("fetch", 3, "no such bucket", True)


def test_the_end_of_the_trainer_counts_and_not_that_of_a_sidecar_among_the_init_containers() -> None:
    seen = view(phase="Failed", initContainerStatuses=[ended(137, "proxy")], containerStatuses=[ended(3)])
    assert (seen.container, seen.exit_code) == ("trainer", 3)


def test_a_trainer_that_failed_has_failed_also_while_a_side_container_lives() -> None:
    seen = view(phase="Running", containerStatuses=[ended(1), {"name": "logs", "state": {"running": {}}}])
    assert (seen.failed, seen.succeeded, seen.live) == (True, False, True)


def test_a_program_that_was_told_to_end_has_not_succeeded_whoever_told_it() -> None:
    done = pod(exit_code=0)
    assert done.succeeded
    assert not replace(done, terminating=True).succeeded
    assert not replace(done, disruption="drained").succeeded
    assert not replace(done, stopped="Evicted").succeeded


def test_an_init_container_that_is_restarted_has_not_failed() -> None:
    seen = view(phase="Pending", initContainerStatuses=[ended(1, "proxy")])
    assert (seen.container, seen.exit_code, seen.failed) == ("", None, False)


def test_a_side_container_that_crashes_is_named_with_its_last_end() -> None:
    proxy = {
        "name": "proxy",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "cannot bind 15001"}},
    }
    seen = view(phase="Pending", initContainerStatuses=[proxy])
    words = "container proxy ends again and again, last with exit code 1: cannot bind 15001"
    assert (seen.waiting_reason, seen.waiting_message) == ("CrashLoopBackOff", words)


def test_a_side_container_that_crashes_is_told_also_where_the_kubelet_shows_no_back_off() -> None:
    """In a pod with restartPolicy Never it looks ended between two tries: `Init:Error` (kubernetes#120234)."""
    seen = view(phase="Pending", initContainerStatuses=[{**ended(1, "proxy", "Error"), "restartCount": 2}])
    assert seen.waiting_reason == "CrashLoopBackOff"
    assert not seen.failed


@pytest.mark.parametrize(
    ("code", "restarts", "words"),
    [
        (0, 0, ""),
        (137, 0, "container logs has ended with exit code 137 (OOMKilled): no memory"),
        (137, 2, "container logs ends again and again, last with exit code 137 (OOMKilled): no memory"),
    ],
)
def test_a_container_beside_a_trainer_that_runs_is_told_when_it_dies(code: int, restarts: int, words: str) -> None:
    trainer = {"name": "trainer", "state": {"running": {}}}
    logs = {**ended(code, "logs", "OOMKilled" if code else "Completed", "no memory"), "restartCount": restarts}
    seen = view(phase="Running", containerStatuses=[trainer, logs])
    assert (seen.beside, seen.running, seen.failed) == (words, True, False)
    assert view(phase="Running", containerStatuses=[ended(0), logs]).beside == "", "the trainer is done"


def test_a_pod_is_seen_by_a_scheduler_or_not() -> None:
    raw: dict[str, Any] = {"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"phase": "Pending"}}
    assert pod_view(decoder(Pod)(msgspec.json.encode(raw))).unseen
    assert not pod_view(decoder(Pod)(msgspec.json.encode(raw))).gated
    raw["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    held = pod_view(decoder(Pod)(msgspec.json.encode(raw)))
    assert (held.unseen, held.gated) == (False, True)
    assert not view(phase="Pending").unseen, "it has a node"


def test_a_pod_that_its_node_refused_has_no_exit_code() -> None:
    seen = view(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    assert (seen.failed, seen.stopped, seen.exit_code, seen.container) == (True, "OutOfcpu", None, "")
    assert seen.exit_message == "Node didn't have enough resource: cpu"

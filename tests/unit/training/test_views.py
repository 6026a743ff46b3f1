"""How a training pod looks to planning: what became of the pod itself counts before its containers' exit codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from aifactory.kube.objects import Pod, decoder
from aifactory.training.domain import pod_view
from aifactory.training.state import PodView
from tests.unit.training.builders import pod


def ended(code: int, name: str = "trainer", reason: str = "", message: str = "") -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}}


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
    assert view(phase="Running", containerStatuses=[ended(0)]).succeeded


def test_an_init_container_that_failed_is_named() -> None:
    waiting = {"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}
    before = [ended(0, "first"), ended(3, "fetch", "Error", "no such bucket")]
    seen = view(phase="Failed", initContainerStatuses=before, containerStatuses=[waiting])
    assert (seen.container, seen.exit_code, seen.exit_message, seen.failed) == ("fetch", 3, "no such bucket", True)


def test_the_end_of_the_trainer_counts_and_not_that_of_a_sidecar_among_the_init_containers() -> None:
    seen = view(phase="Failed", initContainerStatuses=[ended(137, "proxy")], containerStatuses=[ended(3)])
    assert (seen.container, seen.exit_code) == ("trainer", 3)


def test_a_trainer_that_failed_has_failed_also_while_a_side_container_lives() -> None:
    seen = view(phase="Running", containerStatuses=[ended(1)])
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
    assert seen.waiting_message == "container proxy is in CrashLoopBackOff, it ended with 1 (Error): cannot bind 15001"


def test_a_pod_is_seen_by_a_scheduler_or_not() -> None:
    raw: dict[str, Any] = {"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"phase": "Pending"}}
    assert pod_view(decoder(Pod)(msgspec.json.encode(raw))).unseen
    raw["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    assert not pod_view(decoder(Pod)(msgspec.json.encode(raw))).unseen
    assert not view(phase="Pending").unseen, "it has a node"


def test_a_pod_that_its_node_refused_has_no_exit_code() -> None:
    seen = view(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    assert (seen.failed, seen.stopped, seen.exit_code, seen.container) == (True, "OutOfcpu", None, "")
    assert seen.exit_message == "Node didn't have enough resource: cpu"

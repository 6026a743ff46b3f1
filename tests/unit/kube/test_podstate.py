"""What a pod's status says about it, in the words of a kubelet, a scheduler and an eviction."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aifactory.kube import podstate
from aifactory.kube.objects import (
    Condition,
    ContainerState,
    ContainerStatus,
    Metadata,
    Pod,
    PodSpec,
    PodStatus,
    Running,
    Terminated,
    Waiting,
)
from aifactory.kube.podstate import NO_TROUBLE, Trouble

MAIN_RUNS = ContainerStatus(name="main", state=ContainerState(running=Running()))
MAIN_ENDED = ContainerStatus(name="main", state=ContainerState(terminated=Terminated(exit_code=3, reason="Error")))


def pod(
    *,
    phase: str = "Running",
    node: str = "",
    ending: bool = False,
    containers: tuple[ContainerStatus, ...] = (),
    init: tuple[ContainerStatus, ...] = (),
    conditions: tuple[Condition, ...] = (),
) -> Pod:
    metadata = Metadata(name="a", deletion_timestamp=datetime(2026, 1, 1, tzinfo=UTC) if ending else None)
    status = PodStatus(phase=phase, container_statuses=containers, init_container_statuses=init, conditions=conditions)
    return Pod(metadata=metadata, spec=PodSpec(node_name=node), status=status)


def waits(name: str, reason: str, message: str = "") -> ContainerStatus:
    return ContainerStatus(name=name, state=ContainerState(waiting=Waiting(reason=reason, message=message)))


def test_a_container_is_found_by_its_name_among_all_of_both_kinds() -> None:
    both = pod(containers=(MAIN_RUNS, waits("side", "")), init=(waits("fetch", ""),))
    assert podstate.container(both, "main") == MAIN_RUNS
    assert podstate.container(both, "side") == waits("side", "")
    assert podstate.container(both, "fetch") == waits("fetch", "")
    assert podstate.container(both, "other") is None


@pytest.mark.parametrize(
    ("status", "ending", "ready"), [("True", False, True), ("True", True, False), ("False", False, False)]
)
def test_a_pod_is_ready_when_kubernetes_says_so_and_it_stays(status: str, ending: bool, ready: bool) -> None:
    conditions = (Condition(type="PodScheduled", status="True"), Condition(type="Ready", status=status))
    assert podstate.is_ready(pod(ending=ending, conditions=conditions)) is ready


def test_a_pod_that_says_nothing_is_neither_ready_nor_running() -> None:
    assert podstate.is_ready(pod()) is False
    assert podstate.is_running(pod(), "main") is False
    assert podstate.ended(pod(), "main") is None
    assert podstate.waiting(pod()) == NO_TROUBLE
    assert podstate.unschedulable(pod()) == ""
    assert podstate.disruption(pod()) == ""


def test_a_container_runs_only_in_a_running_pod() -> None:
    assert podstate.is_running(pod(containers=(MAIN_RUNS,)), "main") is True
    assert podstate.is_running(pod(containers=(MAIN_ENDED,)), "main") is False
    assert podstate.is_running(pod(phase="Failed", containers=(MAIN_RUNS,)), "main") is False


WAITS = ContainerStatus(name="main", state=ContainerState(waiting=Waiting(reason="ContainerCreating")))
PULLS = ContainerStatus(name="main", state=ContainerState(waiting=Waiting(reason="ErrImagePull")))


@pytest.mark.parametrize(
    ("found", "starting"),
    [
        (pod(phase="Pending", node="n1"), True),
        (pod(phase="Pending", node="n1", containers=(WAITS,), init=(WAITS,)), True),
        (pod(phase="Pending", node=""), False),
        (pod(phase="Running", node="n1"), False),
        (pod(phase="Pending", node="n1", ending=True), False),
        (pod(phase="Pending", node="n1", containers=(WAITS,), init=(MAIN_RUNS,)), False),
        (pod(phase="Pending", node="n1", containers=(WAITS, MAIN_ENDED)), False),
        (pod(phase="Pending", node="n1", containers=(PULLS,)), False),
    ],
)
def test_a_pod_starts_while_its_node_has_shown_nothing_of_it(found: Pod, starting: bool) -> None:
    assert podstate.is_starting(found) is starting


def test_no_trouble_is_false() -> None:
    assert not NO_TROUBLE
    assert bool(Trouble("ErrImagePull")) is True
    assert bool(Trouble("", "words alone")) is False


def test_what_kubernetes_calls_a_disruption() -> None:
    """Reasons of a failed pod's status; an OOM kill or a container's own failure is none of them."""
    assert sorted(podstate.DISRUPTIONS) == [
        "Evicted",
        "NodeLost",
        "NodeShutdown",
        "Preempting",
        "Shutdown",
        "Terminated",
    ]


def test_how_a_container_ended() -> None:
    ended = podstate.ended(pod(containers=(MAIN_ENDED,)), "main")
    assert ended is not None
    assert (ended.exit_code, ended.reason) == (3, "Error")
    assert podstate.ended(pod(containers=(MAIN_RUNS,)), "main") is None


@pytest.mark.parametrize("reason", ["", "ContainerCreating", "PodInitializing"])
def test_what_passes_by_itself_is_no_trouble(reason: str) -> None:
    assert podstate.waiting(pod(containers=(waits("main", reason),))) == NO_TROUBLE


def test_the_first_container_in_trouble_is_told_init_containers_first() -> None:
    found = pod(
        containers=(waits("main", "PodInitializing"), waits("side", "ErrImagePull", "no such image")),
        init=(MAIN_ENDED, waits("fetch", "CreateContainerConfigError", "no such secret")),
    )
    assert podstate.waiting(found) == Trouble("CreateContainerConfigError", "no such secret")
    found = pod(containers=(waits("main", "PodInitializing"), waits("side", "ErrImagePull", "no such image")))
    assert podstate.waiting(found) == Trouble("ErrImagePull", "no such image")


@pytest.mark.parametrize(
    ("status", "reason", "message", "words"),
    [
        ("False", "Unschedulable", "0/3 nodes are available", "0/3 nodes are available"),
        ("False", "Unschedulable", "", "no node fits"),
        ("False", "SchedulingGated", "waits for a gate", ""),
        ("True", "", "", ""),
        ("True", "Unschedulable", "an old message", ""),
    ],
)
def test_no_node_for_a_pod(status: str, reason: str, message: str, words: str) -> None:
    scheduled = Condition(type="PodScheduled", status=status, reason=reason, message=message)
    assert podstate.unschedulable(pod(conditions=(scheduled,))) == words


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        ("True", "evicted by a drain", "EvictionByEvictionAPI: evicted by a drain"),
        ("True", "", "EvictionByEvictionAPI"),
        ("False", "evicted by a drain", ""),
    ],
)
def test_a_disruption(status: str, message: str, words: str) -> None:
    target = Condition(type="DisruptionTarget", status=status, reason="EvictionByEvictionAPI", message=message)
    assert podstate.disruption(pod(conditions=(target,))) == words

"""What a pod's status says about it, in the words of a kubelet, a scheduler and an eviction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
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
from aifactory.kube.podstate import NO_TROUBLE, Crash, Trouble

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
    ("phase", "ending", "starting"),
    [("Pending", False, True), ("Pending", True, False), ("Running", False, False), ("Failed", False, False)],
)
def test_a_pod_that_is_pending_has_yet_to_start_until_it_is_deleted(phase: str, ending: bool, starting: bool) -> None:
    assert podstate.starting(pod(phase=phase, ending=ending)) is starting


@pytest.mark.parametrize(("phase", "over"), [("Running", False), ("Succeeded", True), ("Failed", True), ("", False)])
def test_a_pod_is_over_when_its_phase_says_so(phase: str, over: bool) -> None:
    assert podstate.is_over(pod(phase=phase)) is over


def test_a_pod_is_ending_between_the_ends_of_its_containers_and_its_phase() -> None:
    side = ContainerStatus(name="side", state=ContainerState(running=Running()))
    failing, starting = (
        (Condition(type="Ready", status="False", reason=reason),) for reason in ("PodFailed", "ContainersNotReady")
    )
    assert podstate.is_ending(pod(containers=(MAIN_ENDED,))) is True
    assert podstate.is_ending(pod(containers=(MAIN_ENDED, side), conditions=failing)) is True, "it is made to end"
    assert podstate.is_ending(pod(containers=(MAIN_ENDED, side), conditions=starting)) is False, "the side goes on"
    assert podstate.is_ending(pod(containers=(MAIN_ENDED, side))) is False
    assert podstate.is_ending(pod()) is False, "nothing has begun"
    assert podstate.is_ending(pod(phase="Failed", containers=(MAIN_ENDED,), conditions=failing)) is False, "it is over"


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
        ("False", "SchedulerError", "running PreFilter plugin: no claim", "running PreFilter plugin: no claim"),
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


def test_the_reasons_with_which_a_kubelet_does_not_admit_a_pod() -> None:
    """As pkg/kubelet/lifecycle of kubernetes/kubernetes writes them; none of the pod's containers has run."""
    reasons = [
        "AdmissionError",
        "AppArmor",
        "InvalidNodeInfo",
        "NodeAffinity",
        "NodeName",
        "NodePorts",
        "NodeUnschedulable",
        "OutOfcpu",
        "OutOfnvidia.com/gpu",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SysctlForbidden",
        "TaintToleration",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
    ]
    assert [reason for reason in reasons if not podstate.refused(reason)] == []
    assert not any(podstate.refused(reason) for reason in ("", "Evicted", "Error", "RanOutOf"))


@pytest.mark.parametrize(
    ("phase", "reason", "refused"),
    [("Failed", "OutOfcpu", True), ("Failed", "", False), ("Running", "OutOfcpu", False)],
)
def test_a_pod_that_its_node_refused_for_good(phase: str, reason: str, refused: bool) -> None:
    status = PodStatus(phase=phase, reason=reason, message="not enough cpu")
    found = Pod(metadata=Metadata(name="a"), status=status)
    assert podstate.refused_by_node(found) == (Trouble("OutOfcpu", "not enough cpu") if refused else NO_TROUBLE)


@pytest.mark.parametrize(
    ("status", "reason", "gated"),
    [
        ("False", "SchedulingGated", True),
        ("True", "SchedulingGated", False),
        ("False", "Unschedulable", False),
    ],
)
def test_a_pod_whose_scheduling_is_gated(status: str, reason: str, gated: bool) -> None:
    found = pod(phase="Pending", conditions=(Condition(type="PodScheduled", status=status, reason=reason),))
    assert podstate.is_gated(found) is gated
    assert podstate.is_unseen(found) is False, "a scheduler has said so"


def test_a_pod_that_no_scheduler_has_seen() -> None:
    assert podstate.is_gated(pod(phase="Pending")) is False
    assert podstate.is_unseen(pod(phase="Pending")) is True
    assert podstate.is_unseen(pod(phase="Pending", node="n1")) is False, "whoever made it has chosen its node"
    assert podstate.is_unseen(pod(phase="Running")) is False


def crashes(words: str = "", *, code: int = 1, restarts: int = 0, **now: Any) -> ContainerStatus:
    """A container that ended at least once."""
    last = ContainerState(terminated=Terminated(exit_code=code, reason="Error", message=words))
    return ContainerStatus(name="main", state=ContainerState(**now), last_state=last, restart_count=restarts)


BACK_OFF = Waiting(reason="CrashLoopBackOff", message="back-off 10s restarting failed container")


@pytest.mark.parametrize(
    ("found", "restarts"),
    [
        pytest.param(crashes("last", restarts=1, waiting=BACK_OFF), 1, id="it is held back"),
        pytest.param(crashes("last", restarts=1, running=Running()), None, id="it runs again"),
        pytest.param(crashes("last", restarts=2, running=Running()), 2, id="it runs again, for a moment"),
        pytest.param(crashes("last", code=0, restarts=2, running=Running()), None, id="it ends well each time"),
        pytest.param(ContainerStatus(name="main", restart_count=9), None, id="it never ended"),
        pytest.param(MAIN_ENDED, None, id="it ended once"),
    ],
)
def test_which_container_crashes(found: ContainerStatus, restarts: int | None) -> None:
    crash = None if restarts is None else Crash("main", 1, "Error", "last", restarts)
    assert podstate.crash(pod(containers=(MAIN_RUNS, found))) == crash
    assert podstate.crash(pod(init=(MAIN_RUNS, found), containers=(MAIN_RUNS,))) == crash


def test_the_end_that_a_container_has_just_come_to_is_the_one_that_is_told() -> None:
    ended = crashes("before", restarts=2, terminated=Terminated(exit_code=3, reason="OOMKilled", message="now"))
    assert podstate.crash(pod(containers=(ended,))) == Crash("main", 3, "OOMKilled", "now", 2)
    silent = crashes(restarts=2, running=Running())
    assert podstate.crash(pod(containers=(silent,))) == Crash("main", 1, "Error", "", 2)
    early = crashes("last", waiting=BACK_OFF)
    assert podstate.crash(pod(containers=(early,))) == Crash("main", 1, "Error", "last"), "no restart is counted yet"


def test_a_container_that_ends_well_crashes_only_where_it_is_to_stay() -> None:
    """Init containers beside which others start (restartPolicy Always) are to stay; kubelets call those ready that are
    done.
    """
    well = Terminated(exit_code=0, reason="Completed")
    ended = crashes(restarts=2, terminated=well)
    assert podstate.crash(pod(init=(ended,))) == Crash("main", 0, "Completed", "", 2)
    assert podstate.crash(pod(init=(msgspec.structs.replace(ended, ready=True),))) is None, "it is done"
    assert podstate.crash(pod(containers=(ended,))) is None
    assert podstate.crash(pod(containers=(crashes(waiting=Waiting(reason="ContainerCreating")),))) is None
    ready = msgspec.structs.replace(crashes("last", restarts=2, running=Running()), ready=True)
    assert podstate.crash(pod(containers=(ready,))) == Crash("main", 1, "Error", "last", 2), "ready for a moment"

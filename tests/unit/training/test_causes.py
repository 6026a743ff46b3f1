"""Which failure decides, and what is said about its cause."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.reasons import Reason
from aifactory.training.causes import Failure, aborted_at_end, classify
from aifactory.training.detectors import first_failure
from aifactory.training.state import PodView
from tests.unit.training.builders import NOW, job, observe, pod

ERROR_FILE = json.dumps(
    {"message": {"message": "ValueError: lr must be positive", "extraInfo": {"py_callstack": "..."}, "errorCode": 1}}
)
GIVE_UP = json.dumps({"message": {"message": "NoRestart: the data is broken", "extraInfo": {}, "errorCode": 93}})


def failure_of(pods: list[PodView], missing: int | None = None) -> Failure | None:
    """The failure that decides among these pods; they are all there are, or the one of index `missing` has gone."""
    count = max([view.index for view in pods] + ([] if missing is None else [missing])) + 1
    seen = {"nodes": count, "createdAttempt": 0} if missing is not None else {}
    return first_failure(observe(job(nodes=count, status={"resolved": seen}), *pods), tuple(pods))


CAUSES = [
    pytest.param(
        {"exit_code": 1},
        Reason.APPLICATION_ERROR,
        "container trainer ended with exit code 1; see: kubectl logs train-0-0",
        id="silent",
    ),
    pytest.param(
        {"exit_code": 1, "exit_message": ERROR_FILE},
        Reason.APPLICATION_ERROR,
        "ValueError: lr must be positive",
        id="exception",
    ),
    pytest.param(
        {"exit_code": 139}, Reason.APPLICATION_ERROR, "exit code 139 (SIGSEGV); see: kubectl logs", id="signal"
    ),
    pytest.param(
        {"exit_code": 137, "exit_reason": "OOMKilled", "exit_message": "step 7"},
        Reason.OUT_OF_MEMORY,
        "exit code 137 (OOMKilled): step 7; it used more memory than its limit, /dev/shm counted: raise",
        id="oom",
    ),
    pytest.param({"exit_code": 93}, Reason.NO_RESTART_REQUESTED, "exit code 93", id="93"),
    pytest.param(
        {"exit_code": 1, "exit_message": GIVE_UP},
        Reason.NO_RESTART_REQUESTED,
        "the data is broken",
        id="93-in-torchrun",
    ),
    pytest.param(
        {"exit_code": 137, "disruption": "PreemptionByScheduler: preempting to accommodate a higher priority pod"},
        Reason.DISRUPTION,
        "preempting to accommodate",
        id="preempted",
    ),
    pytest.param(
        {"phase": "Failed", "stopped": "Evicted", "exit_message": "The node was low on resource: memory."},
        Reason.DISRUPTION,
        "ended from outside (Evicted)",
        id="evicted",
    ),
    pytest.param(
        {
            "phase": "Failed",
            "stopped": "Evicted",
            "exit_code": 137,
            "stopped_message": 'Usage of EmptyDir volume "s" exceeds the limit "16Mi". ',
            "disruption": "TerminationByKubelet",
        },
        Reason.OUT_OF_DISK,
        'Usage of EmptyDir volume "s" exceeds the limit "16Mi".; raise that limit',
        id="its-own-disk-limit",
    ),
    pytest.param(
        {
            "phase": "Failed",
            "stopped": "Evicted",
            "stopped_message": 'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
        },
        Reason.OUT_OF_DISK,
        'limit "1Gi".; raise that limit in template.spec, or write to /workspace',
        id="its-containers-disk-limit",
    ),
    pytest.param(
        {"phase": "Failed", "stopped": "Evicted", "stopped_message": "The node was low on resource: memory."},
        Reason.DISRUPTION,
        "ended from outside (Evicted): The node was low on resource: memory.",
        id="evicted-in-the-kubelets-words",
    ),
    pytest.param(
        {"running": True, "terminating": True}, Reason.DISRUPTION, "from outside (deleted)", id="being-deleted"
    ),
    pytest.param(
        {"exit_code": 1, "exit_reason": "Error", "terminating": True},
        Reason.DISRUPTION,
        "from outside (deleted)",
        id="deleted",
    ),
    pytest.param(
        {"exit_code": 0, "terminating": True}, Reason.DISRUPTION, "from outside", id="deleted-and-ended-with-0"
    ),
    pytest.param({"phase": "Failed"}, Reason.APPLICATION_ERROR, "kubectl describe pod train-0-0", id="never-started"),
    pytest.param(
        {"phase": "Failed", "stopped": "UnexpectedAdmissionError", "exit_message": "Allocate failed", "node": "gpu-7"},
        Reason.NODE_REFUSED,
        "node gpu-7 refused the pod (UnexpectedAdmissionError): Allocate failed",
        id="not-admitted",
    ),
    pytest.param({"phase": "Failed", "stopped": "OutOfcpu"}, Reason.NODE_REFUSED, "(OutOfcpu)", id="out-of-cpu"),
    pytest.param(
        {"phase": "Failed", "stopped": "OutOfnvidia.com/gpu"}, Reason.NODE_REFUSED, "nvidia.com/gpu", id="out-of-gpu"
    ),
    pytest.param({"phase": "Failed", "stopped": "NodeAffinity"}, Reason.NODE_REFUSED, "NodeAffinity", id="affinity"),
    pytest.param(
        {"phase": "Failed", "stopped": "DeadlineExceeded", "exit_code": 0},
        Reason.DEADLINE_EXCEEDED,
        "(DeadlineExceeded): raise activeDeadlineSeconds of template.spec",
        id="deadline-ended-with-0",
    ),
    pytest.param(
        {"phase": "Failed", "stopped": "NodeShutdown", "exit_code": 0},
        Reason.DISRUPTION,
        "from outside (NodeShutdown)",
        id="shut-down-ended-with-0",
    ),
    pytest.param(
        {"phase": "Failed", "stopped": "Evicted", "exit_code": 137, "exit_reason": "Error"},
        Reason.DISRUPTION,
        "from outside (Evicted)",
        id="evicted-with-a-code",
    ),
    pytest.param(
        {
            "exit_code": 128,
            "exit_reason": "StartError",
            "container": "trainer",
            "exit_message": 'exec: "torchrunn": executable file not found in $PATH',
        },
        Reason.CONTAINER_CANNOT_START,
        'container trainer could not start: exec: "torchrunn": executable file not found',
        id="no-such-command",
    ),
    pytest.param(
        {
            "exit_code": 127,
            "exit_reason": "StartError",
            "container": "trainer",
            "exit_message": 'runc create failed: exec: "/run.sh": stat /run.sh: no such file or directory: unknown',
        },
        Reason.CONTAINER_CANNOT_START,
        "/run.sh",
        id="no-such-path",
    ),
    pytest.param(
        {
            "exit_code": 128,
            "exit_reason": "StartError",
            "container": "trainer",
            "exit_message": 'error running hook #0: exec: "nvidia-ctk": executable file not found in $PATH',
        },
        Reason.CONTAINER_CONFIG_ERROR,
        "nvidia-ctk",
        id="a-hook-that-one-node-lacks",
    ),
    pytest.param(
        {
            "exit_code": 128,
            "exit_reason": "StartError",
            "container": "trainer",
            "exit_message": 'error mounting "/data" to rootfs at "/data": no such file or directory',
        },
        Reason.CONTAINER_CONFIG_ERROR,
        "/data",
        id="a-directory-that-one-node-lacks",
    ),
    pytest.param(
        {"exit_code": 128, "exit_reason": "StartError", "exit_message": "device error: GPU 3", "container": "trainer"},
        Reason.CONTAINER_CONFIG_ERROR,
        "could not start: device error: GPU 3",
        id="the-runtime-had-trouble",
    ),
    pytest.param(
        {"exit_code": 4, "container": "fetch", "phase": "Failed"},
        Reason.INIT_CONTAINER_FAILED,
        "init container fetch ended with exit code 4; see: kubectl logs train-0-0 -c fetch",
        id="init",
    ),
]


@pytest.mark.parametrize(("changes", "cause", "words"), CAUSES)
def test_the_cause_is_told_apart(changes: dict[str, Any], cause: Reason, words: str) -> None:
    failure = failure_of([pod(**changes)])
    assert failure is not None
    assert failure.cause is cause
    assert words in failure.message
    assert failure.index == 0


@pytest.mark.parametrize(
    "changes", [{}, {"running": True}, {"exit_code": 0}, {"phase": "Succeeded"}, {"running": True, "exit_code": 0}]
)
def test_what_is_well_is_no_failure(changes: dict[str, Any]) -> None:
    assert failure_of([pod(**changes)]) is None


def test_the_first_that_ended_decides() -> None:
    late = pod(0, exit_code=1, finished_at=NOW + timedelta(seconds=3))
    first = pod(1, exit_code=2, finished_at=NOW)
    unknown = pod(2, exit_code=3, finished_at=None)
    failure = failure_of([late, first, unknown])
    assert failure is not None
    assert (failure.index, failure.exit_code) == (1, 2)


def test_of_two_at_the_same_moment_the_lower_index_decides() -> None:
    failure = failure_of([pod(1, exit_code=1), pod(0, exit_code=1)])
    assert failure is not None
    assert failure.index == 0


def test_an_outside_cause_outranks_an_error_seen_with_it() -> None:
    """When a node is drained, the collectives of the others break and their programs fail first."""
    drained = pod(1, exit_code=143, disruption="EvictionByEvictionAPI: drained", finished_at=NOW + timedelta(seconds=9))
    failure = failure_of([pod(0, exit_code=1), drained])
    assert failure is not None
    assert (failure.index, failure.cause) == (1, Reason.DISRUPTION)


def test_a_pod_that_is_gone_outranks_errors_in_its_wake() -> None:
    failure = failure_of([pod(0, exit_code=1)], missing=1)
    assert failure is not None
    assert (failure.pod, failure.cause) == ("train-1-0", Reason.DISRUPTION)
    assert failure.message == "it was deleted by somebody else"


def test_pods_that_ran_and_are_gone_are_missed_though_nobody_wrote_down_that_all_were_made() -> None:
    """The operator that made them ended before it could, and the spec was edited since."""
    running = {"type": "Running", "status": "True", "reason": "AllNodesReady", "message": "", "observedGeneration": 1}
    running |= {"lastTransitionTime": NOW}
    ran = job(nodes=2, status={"nodes": {"active": 2}, "conditions": [running]})
    failure = first_failure(observe(ran), ())
    assert failure is not None
    assert (failure.pod, failure.cause) == ("train-0-0", Reason.DISRUPTION)
    starts = job(nodes=2, status={"nodes": {"active": 1}, "conditions": [{**running, "status": "False"}]})
    assert first_failure(observe(starts), ()) is None, "not all were made yet"


def test_ranks_that_fail_because_a_node_is_lost_are_no_fault_of_the_program() -> None:
    pods = (pod(0, running=True, node="gpu-7"), pod(1, exit_code=1, node="gpu-8"))
    seen = observe(job(nodes=2), *pods, lost_nodes={"gpu-7": "does not answer"})
    failure = first_failure(seen, pods)
    assert failure is not None
    assert (failure.cause, failure.pod, failure.node) == (Reason.DISRUPTION, "train-0-0", "gpu-7")
    assert failure.message == "its node gpu-7 does not answer"


def test_a_node_that_is_silent_for_a_while_is_no_failure() -> None:
    pods = (pod(0, running=True, node="gpu-7"), pod(1, running=True, node="gpu-8"))
    assert first_failure(observe(job(nodes=2), *pods, lost_nodes={"gpu-7": "does not answer"}), pods) is None


@pytest.mark.parametrize("code", [{"exit_code": 93}, {"exit_code": 1, "exit_message": GIVE_UP}])
def test_a_wish_not_to_be_restarted_outranks_everything(code: dict[str, Any]) -> None:
    """Pods report their end by the second, so what follows from 93 can look as old as 93 itself."""
    others = [pod(0, exit_code=1), pod(1, exit_code=143, disruption="drained", finished_at=NOW - timedelta(seconds=1))]
    failure = failure_of([*others, pod(2, **code)], missing=3)
    assert failure is not None
    assert (failure.pod, failure.cause) == ("train-2-0", Reason.NO_RESTART_REQUESTED)


def test_a_disrupted_pod_says_more_than_one_that_is_gone() -> None:
    failure = failure_of([pod(1, exit_code=137, disruption="TaintManager: node lost")], missing=0)
    assert failure is not None
    assert failure.pod == "train-1-0"


def test_node_exit_code_and_exception_are_reported() -> None:
    failure = classify(pod(2, exit_code=1, exit_message=ERROR_FILE, node="gpu-7"))
    assert (failure.pod, failure.node, failure.exit_code, failure.reason) == ("train-2-0", "gpu-7", 1, "ValueError")


def test_a_long_message_is_cut() -> None:
    for words in ("x" * 5000, f"ValueError: {'x' * 5000}"):
        message = classify(pod(exit_code=1, exit_message=words)).message
        assert "x…; see: kubectl logs train-0-0" in message, "where the rest is has room"
        assert len(message) < 1024


def test_a_pod_that_lives_takes_its_log_along_when_it_is_removed() -> None:
    gone = classify(pod(exit_code=4, exit_message="30", phase="Running"))
    assert gone.message == "container trainer ended with exit code 4: 30"


def test_of_a_worker_of_torchrun_rank_and_code_are_told() -> None:
    """torchrun itself, which is the container's process, always ends with 1."""
    summary = "Root Cause (first observed failure):\n  rank      : 3 (local_rank: 1)\n  exitcode  : -11 (pid: 9)\n"
    failure = classify(pod(exit_code=1, exit_message=summary))
    assert failure.exit_code == -11
    assert failure.message.startswith("rank 3 in container trainer ended with exit code -11 (SIGSEGV)")


TOLD = [
    pytest.param(
        {"phase": "Failed", "stopped": "Evicted", "exit_message": "The node was low on memory."},
        "it was ended from outside (Evicted)",
        id="evicted",
    ),
    pytest.param(
        {"phase": "Failed", "stopped": "DeadlineExceeded", "exit_message": "Pod was active longer than its deadline"},
        "it ran longer than its template allows (DeadlineExceeded): raise activeDeadlineSeconds of template.spec, or "
        "leave it out",
        id="deadline",
    ),
    pytest.param(
        {
            "phase": "Failed",
            "stopped": "Evicted",
            "exit_code": 0,
            "stopped_message": 'Usage of EmptyDir volume "s" exceeds the limit "1Gi". ',
        },
        'Usage of EmptyDir volume "s" exceeds the limit "1Gi".; raise that limit in template.spec, or write to '
        "/workspace",
        id="its-own-disk-limit",
    ),
    pytest.param({"phase": "Failed", "exit_message": "no such thing"}, "no such thing", id="never-started-with-words"),
    pytest.param(
        {"exit_code": 137, "exit_reason": "OOMKilled"},
        "container trainer ended with exit code 137 (OOMKilled); it used more memory than its limit, /dev/shm counted: "
        "raise resources.limits.memory or use less; see: kubectl logs train-0-0",
        id="out-of-memory-without-a-word",
    ),
    pytest.param(
        {"exit_code": 137, "exit_reason": "OOMKilled", "exit_message": "MemoryError: batch 7"},
        "container trainer ended with exit code 137 (OOMKilled): MemoryError: batch 7; it used more memory than its "
        "limit, /dev/shm counted: raise resources.limits.memory or use less; see: kubectl logs train-0-0",
        id="out-of-memory-with-words",
    ),
    pytest.param(
        {"exit_code": 128, "exit_reason": "RunContainerError", "container": "trainer"},
        "container trainer could not start: RunContainerError",
        id="not-started-without-a-word",
    ),
    pytest.param(
        {"phase": "Failed", "stopped": "OutOfcpu", "exit_message": "Node didn't have enough cpu"},
        "node unknown refused the pod (OutOfcpu): Node didn't have enough cpu",
        id="refused-by-a-node-that-was-not-told",
    ),
    pytest.param(
        {"exit_code": 128},
        "container trainer ended with exit code 128; see: kubectl logs train-0-0",
        id="no-signal-yet",
    ),
    pytest.param(
        {"exit_code": 129},
        "container trainer ended with exit code 129 (SIGHUP); see: kubectl logs train-0-0",
        id="first-signal",
    ),
    pytest.param(
        {"exit_code": 192},
        "container trainer ended with exit code 192 (SIGRTMAX); see: kubectl logs train-0-0",
        id="last-signal",
    ),
    pytest.param(
        {"exit_code": 193},
        "container trainer ended with exit code 193; see: kubectl logs train-0-0",
        id="no-signal-any-more",
    ),
]


@pytest.mark.parametrize(("changes", "message"), TOLD)
def test_what_is_told_of_a_failure(changes: dict[str, Any], message: str) -> None:
    assert classify(pod(**changes)).message == message


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun", "RunContainerError"])
def test_a_container_that_no_runtime_could_start_is_a_matter_of_its_settings(reason: str) -> None:
    assert classify(pod(exit_code=128, exit_reason=reason)).cause is Reason.CONTAINER_CONFIG_ERROR


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("crun: executable file `torchrunn` not found in $PATH", Reason.CONTAINER_CANNOT_START),
        ('error mounting "/data": exec: "/sbin/x": no such file or directory', Reason.CONTAINER_CONFIG_ERROR),
        ('Hook failed: exec: "nvidia-ctk": executable file not found', Reason.CONTAINER_CONFIG_ERROR),
    ],
)
def test_what_is_missing_in_the_image_is_told_from_what_is_missing_on_a_node(words: str, cause: Reason) -> None:
    assert classify(pod(exit_code=127, exit_reason="StartError", exit_message=words)).cause is cause


def test_a_pod_that_has_run_was_not_refused() -> None:
    """After a restart of its node a kubelet may refuse what ran there before."""
    assert classify(pod(exit_code=1, stopped="NodeAffinity")).cause is Reason.APPLICATION_ERROR


def test_a_container_that_never_ran_has_no_exit_code_whatever_the_words_are() -> None:
    assert classify(pod(phase="Failed", stopped="Evicted", exit_message=GIVE_UP)).exit_code is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exit_code": 1, "exit_reason": "Error"}, "Error"),
        ({"exit_code": 1, "exit_reason": "Error", "exit_message": ERROR_FILE}, "ValueError"),
        ({"exit_code": 1, "stopped": "Evicted", "exit_message": ERROR_FILE}, "Evicted"),
    ],
)
def test_the_shortest_reason_is_what_came_from_outside_then_the_exception(changes: dict[str, Any], reason: str) -> None:
    assert classify(pod(**changes)).reason == reason


def test_the_container_that_failed_is_told() -> None:
    assert classify(pod(exit_code=4, container="fetch")).container == "fetch"


@pytest.mark.parametrize("code", [-6, -11, 134, 139])
def test_only_a_program_that_had_done_its_work_was_aborted_at_its_end(code: int) -> None:
    failure = classify(pod(exit_code=code))
    assert aborted_at_end(failure, finished=True).cause is Reason.ABORTED_AT_END
    assert aborted_at_end(failure, finished=False) == failure
    for other in (pod(exit_code=1), pod(exit_code=code, exit_reason="OOMKilled")):
        assert aborted_at_end(classify(other), finished=True) == classify(other)

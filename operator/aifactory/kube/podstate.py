"""Questions about a pod that every owner of pods asks, answered from its status.

Rules: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from __future__ import annotations

from dataclasses import dataclass

from aifactory.kube.objects import DISRUPTED, READY, SCHEDULED, ContainerStatus, Pod, Terminated, condition

CRASHES = "CrashLoopBackOff"
NORMAL_WAITING = frozenset({"", "ContainerCreating", "PodInitializing"})
DISRUPTIONS = frozenset({"Evicted", "Preempting", "NodeShutdown", "Shutdown", "Terminated", "NodeLost"})
"""`pod.status.reason` values with which a kubelet or a controller ends a pod from outside."""
_REFUSALS = frozenset(
    {
        "AdmissionError",
        "AppArmor",
        "InvalidNodeInfo",
        "NodeAffinity",
        "NodeName",
        "NodePorts",
        "NodeUnschedulable",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SysctlForbidden",
        "TaintToleration",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
    }
)
"""`pod.status.reason` values with which a kubelet does not admit a pod that was placed on its node; none of its
containers has run. `OutOf<resource>` is another. See pkg/kubelet/lifecycle in kubernetes/kubernetes."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not get on: Kubernetes' reason and words."""

    reason: str = ""
    message: str = ""

    def __bool__(self) -> bool:
        return bool(self.reason)


NO_TROUBLE = Trouble()

RESTARTS_OF_A_LOOP = 2
"""From so many restarts on a container that runs again for a moment is not taken for one that works."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A container that ends again and again."""

    container: str
    exit_code: int
    reason: str = ""
    """Kubernetes' reason, for example OOMKilled or Error."""
    message: str = ""
    """What it left as termination message, or the end of its log."""
    restarts: int = 0


def starting(pod: Pod) -> bool:
    """Whether it has yet to start, or to fail: it is placed, images are pulled, init containers run."""
    return pod.status.phase == "Pending" and pod.metadata.deletion_timestamp is None


def refused(reason: str) -> bool:
    """Whether a pod's reason says that the kubelet did not admit it."""
    return reason in _REFUSALS or reason.startswith("OutOf")


def container(pod: Pod, name: str) -> ContainerStatus | None:
    """The status of a container, if there is one yet."""
    for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
        if status.name == name:
            return status
    return None


def is_ready(pod: Pod) -> bool:
    """Kubernetes counts the pod as ready, and it is not ending."""
    ready = condition(pod.status.conditions, READY)
    return ready is not None and ready.status == "True" and pod.metadata.deletion_timestamp is None


def is_running(pod: Pod, name: str) -> bool:
    """The container runs."""
    status = container(pod, name)
    return pod.status.phase == "Running" and status is not None and status.state.running is not None


def is_over(pod: Pod) -> bool:
    """It has ended, and its status says how."""
    return pod.status.phase in ("Succeeded", "Failed")


def is_ending(pod: Pod) -> bool:
    """Its phase is about to become Succeeded or Failed; until then the ends of its containers do not tell why.

    A kubelet tells the ends of containers first, and the pod's phase and reason (Evicted, DeadlineExceeded) when all of
    the pod has been cleared away: a program that was told to end may have ended with 0 by then. That a pod is being
    ended shows in its Ready condition; else all its containers have ended and none is started again (restartPolicy
    Never).
    """
    if is_over(pod):
        return False
    ready, statuses = condition(pod.status.conditions, READY), pod.status.container_statuses
    failing = ready is not None and ready.reason == "PodFailed"
    return failing or (bool(statuses) and all(status.state.terminated is not None for status in statuses))


def ended(pod: Pod, name: str) -> Terminated | None:
    """How the container ended, if it has."""
    status = container(pod, name)
    return status.state.terminated if status is not None else None


def waiting(pod: Pod) -> Trouble:
    """The first container that waits for something that does not come by itself."""
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        state = status.state.waiting
        if state is not None and state.reason not in NORMAL_WAITING:
            return Trouble(state.reason, state.message)
    return NO_TROUBLE


def crash(pod: Pod) -> Crash | None:
    """The first container that ends again and again; meant for pods that are not ready.

    While it runs for a moment between two ends it counts all the same: what is said should not come and go with it. Nor
    is a back-off always told: in a pod that is not restarted (restartPolicy Never) a kubelet lets an init container
    that is (restartPolicy Always) look ended until its next start.
    """
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        now = status.state
        last = now.terminated or status.last_state.terminated
        if last is None or (now.terminated is not None and status.ready):  # an init container that is done
            continue
        backs_off = now.waiting is not None and now.waiting.reason == CRASHES
        fails = last.exit_code != 0 or (now.terminated is not None and status in pod.status.init_container_statuses)
        if backs_off or (status.restart_count >= RESTARTS_OF_A_LOOP and fails):
            return Crash(status.name, last.exit_code, last.reason, last.message, status.restart_count)
    return None


def refused_by_node(pod: Pod) -> Trouble:
    """A pod that its node has refused or ended for good; whoever manages it makes another one."""
    if pod.status.phase != "Failed" or not pod.status.reason:
        return NO_TROUBLE
    return Trouble(pod.status.reason, pod.status.message)


def is_starting(pod: Pod) -> bool:
    """It has a node, no container of it has begun, and its status does not say why: only the kubelet's Events do."""
    if pod.status.phase != "Pending" or not pod.spec.node_name or pod.metadata.deletion_timestamp is not None:
        return False
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return not any(status.state.running or status.state.terminated for status in statuses) and not waiting(pod)


def is_unseen(pod: Pod) -> bool:
    """No scheduler has looked at it yet: so begins every pod, and stays where none has the name that it asks for."""
    scheduled = condition(pod.status.conditions, SCHEDULED)
    return pod.status.phase == "Pending" and not pod.spec.node_name and scheduled is None


def unschedulable(pod: Pod) -> str:
    """The scheduler's words when it finds no node; empty while it has not tried or is not allowed to."""
    scheduled = condition(pod.status.conditions, SCHEDULED)
    if scheduled is None or scheduled.status != "False" or scheduled.reason not in ("Unschedulable", "SchedulerError"):
        return ""
    return scheduled.message or "no node fits"


def is_gated(pod: Pod) -> bool:
    """Somebody (a queue, for example) has yet to let the scheduler see it (KEP-3521)."""
    scheduled = condition(pod.status.conditions, SCHEDULED)
    return scheduled is not None and scheduled.status == "False" and scheduled.reason == "SchedulingGated"


def disruption(pod: Pod) -> str:
    """Kubernetes' words about an eviction, preemption or drain (KEP-3329); empty when there was none."""
    target = condition(pod.status.conditions, DISRUPTED)
    if target is None or target.status != "True":
        return ""
    return f"{target.reason}: {target.message}" if target.message else target.reason

"""What caused one pod's failure, told by its phase, its container's end and its last words."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from aifactory.api import names
from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.engine.lastwords import RootCause, ending, root_cause
from aifactory.kube import podstate
from aifactory.training.state import PodView

NO_RESTART_EXIT_CODE = 93
"""NVIDIA Resiliency Extension: the launcher asks not to be restarted
(nvidia-resiliency-ext, examples/fault_tolerance/deployment/README.md)."""

_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
"""Reasons with which runtimes tell that not one instruction of the program has run."""
_HOPELESS = re.compile(
    r'exec: "[^"]*": (?:executable file not found|(?:\S+ \S+: )?(?:no such file|permission denied|is a directory))'
    r"|executable file `[^`]*` not found"
)
"""How runc and crun say that the command itself is not in the image or is no program: so at every try, on every node. A
mount or a hook that is missing on one machine reads much the same; `hook` and `mount` in the words tell it apart."""
_OF_THE_NODE = re.compile(r"\bhook|\bmount", re.IGNORECASE)

_OWN_DISK_LIMIT = re.compile(r"exceeds the (?:total )?limit|exceeded its local ephemeral storage limit")
"""The kubelet's words about a pod that used more disk than it may itself, whatever the others on the node do; see
pkg/kubelet/eviction/eviction_manager.go in kubernetes/kubernetes."""

_SAID = 800
"""Characters of a program's last words, so that there is room for where the others are."""

_ABORTS = frozenset({-6, -11, 134, 139})
"""SIGABRT and SIGSEGV. Process 1 of a container can not be ended by the first, and ends by the second."""

LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed pod and its cause."""

    pod: str
    index: int
    cause: Reason
    message: str
    node: str = ""
    container: str = ""
    exit_code: int | None = None
    reason: str = ""
    time: datetime = LATEST
    """When it happened; what has no time came after what has."""


def classify(pod: PodView) -> Failure:
    """Tell the cause of one pod's failure: what became of the pod first, then what became of its container."""
    root = root_cause(pod.exit_message)
    exit_code = pod.exit_code
    if exit_code is not None and root.exit_code is not None:
        exit_code = root.exit_code
    cause, message = _cause(pod, exit_code, root.message)
    if exit_code is None:
        unknown = f"it failed before its trainer had ended; see: kubectl describe pod {pod.name}"
        message = message or root.message or unknown
    elif not message or cause is Reason.OUT_OF_MEMORY:
        said = f": {shorten(root.message, _SAID)}" if root.message else ""
        advice = f"; {message}" if message else ""
        message = f"{_end(pod, exit_code, root)}{said}{advice}{_where_to_look(pod)}"
    return Failure(
        pod=pod.name,
        index=pod.index,
        cause=cause,
        message=shorten(message),
        node=pod.node,
        container=pod.container,
        exit_code=exit_code,
        reason=pod.stopped or root.name or pod.exit_reason,
        time=pod.finished_at or LATEST,
    )


def aborted_at_end(failure: Failure, *, finished: bool) -> Failure:
    """The failure, told apart if the program had done its last step and was aborted while it ended.

    PyTorch's threads may do that to a process whose result is on the disk (pytorch#179291).
    """
    if not finished or failure.cause is not Reason.APPLICATION_ERROR or failure.exit_code not in _ABORTS:
        return failure
    return replace(failure, cause=Reason.ABORTED_AT_END)


def _end(pod: PodView, exit_code: int, root: RootCause) -> str:
    """Which container ended, and how; under torchrun which rank."""
    container = pod.container or names.CONTAINER_TRAINER
    which = f"{'init ' if container != names.CONTAINER_TRAINER else ''}container {container}"
    if root.rank is not None:
        which = f"rank {root.rank} in {which}"
    return f"{which} ended with {ending(exit_code, pod.exit_reason)}"


def _where_to_look(pod: PodView) -> str:
    """Where its log is; a pod that still lives is deleted, and takes it along."""
    if pod.live:
        return ""
    container = "" if pod.container in ("", names.CONTAINER_TRAINER) else f" -c {pod.container}"
    return f"; see: kubectl logs {pod.name}{container}"


def _cause(pod: PodView, exit_code: int | None, said: str) -> tuple[Reason, str]:
    """The cause, and words for it where those of the program do not tell; what happened to the whole pod counts first.

    A program that is told to end may end with any code, 0 too: the code says nothing then.
    """
    if podstate.refused(pod.stopped) and exit_code is None:
        return Reason.NODE_REFUSED, f"node {pod.node or 'unknown'} refused the pod ({pod.stopped}): {said}"
    if _OWN_DISK_LIMIT.search(pod.stopped_message):
        return (
            Reason.OUT_OF_DISK,
            f"{pod.stopped_message.strip()}; raise that limit in template.spec, or write to /workspace",
        )
    if _disrupted(pod):
        how = "deleted" if pod.terminating else pod.stopped
        said = f": {pod.stopped_message}" if pod.stopped_message else ""
        return Reason.DISRUPTION, pod.disruption or f"it was ended from outside ({how}){said}"
    if pod.stopped == "DeadlineExceeded":
        advice = "raise activeDeadlineSeconds of template.spec, or leave it out"
        return Reason.DEADLINE_EXCEEDED, f"it ran longer than its template allows (DeadlineExceeded): {advice}"
    if pod.exit_reason == "OOMKilled":
        advice = "it used more memory than its limit, /dev/shm counted: raise resources.limits.memory or use less"
        return Reason.OUT_OF_MEMORY, advice
    if pod.exit_reason in _NOT_STARTED:
        hopeless = _HOPELESS.search(pod.exit_message) is not None and not _OF_THE_NODE.search(pod.exit_message)
        cause = Reason.CONTAINER_CANNOT_START if hopeless else Reason.CONTAINER_CONFIG_ERROR
        return cause, f"container {pod.container} could not start: {said or pod.exit_reason}"
    if exit_code == NO_RESTART_EXIT_CODE:
        return Reason.NO_RESTART_REQUESTED, ""
    if pod.container not in ("", names.CONTAINER_TRAINER):
        return Reason.INIT_CONTAINER_FAILED, ""
    return Reason.APPLICATION_ERROR, ""


def _disrupted(pod: PodView) -> bool:
    return bool(pod.disruption) or pod.terminating or pod.stopped in podstate.DISRUPTIONS

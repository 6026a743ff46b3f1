"""What caused one pod's failure, told by its phase, its container's end and its last words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from aifactory.api import names
from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.kube import podstate
from aifactory.training.errorfile import root_cause
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

_SAID = 800
"""Characters of a program's last words, so that there is room for where the others are."""

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
    message, exit_code = root.message, pod.exit_code
    if exit_code is not None and root.exit_code is not None:
        exit_code = root.exit_code
    cause, words = _cause(pod, exit_code, message)
    message = words or message
    if not message and exit_code is None:
        message = f"it failed before its trainer had ended; see: kubectl describe pod {pod.name}"
    elif not words and not root.name:
        # No exception is in it, so what matters may stand further up.
        message = shorten(message, _SAID) or f"exit code {exit_code}{_signal(exit_code)}"
        message += _where_to_look(pod)
    if cause is Reason.INIT_CONTAINER_FAILED:
        message = f"init container {pod.container}: {message}"
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


def _where_to_look(pod: PodView) -> str:
    """Where its log is; a pod that lives takes it along when it is removed."""
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
    if _disrupted(pod):
        how = "deleted" if pod.terminating else pod.stopped
        return Reason.DISRUPTION, pod.disruption or f"it was ended from outside ({how})"
    if pod.stopped == "DeadlineExceeded":
        advice = "raise activeDeadlineSeconds of template.spec, or leave it out"
        return Reason.DEADLINE_EXCEEDED, f"it ran longer than its template allows (DeadlineExceeded): {advice}"
    if pod.exit_reason == "OOMKilled":
        advice = "the trainer used more memory than its limit: raise resources.limits.memory or use less"
        return Reason.OUT_OF_MEMORY, said or advice
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


def _signal(code: int | None) -> str:
    return f" (signal {code - 128})" if code is not None and 128 < code <= 192 else ""

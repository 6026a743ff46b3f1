"""What caused one pod's failure, told by its phase, its container's end and its last words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.kube.podstate import DISRUPTIONS
from aifactory.training.errorfile import root_cause
from aifactory.training.state import PodView

NO_RESTART_EXIT_CODE = 93
"""NVIDIA Resiliency Extension: the launcher asks not to be restarted
(nvidia-resiliency-ext, examples/fault_tolerance/deployment/README.md)."""

LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed pod and its cause."""

    pod: str
    index: int
    cause: Reason
    message: str
    node: str = ""
    exit_code: int | None = None
    reason: str = ""
    time: datetime = LATEST
    """When it happened; what has no time came after what has."""


def classify(pod: PodView) -> Failure:
    """Tell the cause of one pod's failure."""
    root = root_cause(pod.exit_message)
    message, exit_code = root.message, pod.exit_code
    if exit_code is not None and root.exit_code is not None:
        exit_code = root.exit_code
    if _disrupted(pod):
        cause = Reason.DISRUPTION
        message = pod.disruption or f"it was ended from outside ({'deleted' if pod.terminating else pod.exit_reason})"
    elif pod.exit_reason == "OOMKilled":
        cause = Reason.OUT_OF_MEMORY
        message = message or "the trainer used more memory than its limit: raise resources.limits.memory or use less"
    elif exit_code == NO_RESTART_EXIT_CODE:
        cause = Reason.NO_RESTART_REQUESTED
    else:
        cause = Reason.APPLICATION_ERROR
    if not message and exit_code is None:
        message = f"it failed before its trainer had ended; see: kubectl describe pod {pod.name}"
    elif not message:
        message = f"exit code {exit_code}{_signal(exit_code)}; see: kubectl logs {pod.name}"
    return Failure(
        pod=pod.name,
        index=pod.index,
        cause=cause,
        message=shorten(message),
        node=pod.node,
        exit_code=exit_code,
        reason=root.name or pod.exit_reason,
        time=pod.finished_at or LATEST,
    )


def _disrupted(pod: PodView) -> bool:
    return bool(pod.disruption) or pod.terminating or pod.exit_reason in DISRUPTIONS


def _signal(code: int | None) -> str:
    return f" (signal {code - 128})" if code is not None and 128 < code <= 192 else ""

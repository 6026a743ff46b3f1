"""Which pod's failure decides, and what caused it.

The first pod that failed decides, because the others usually fail in its wake: when one rank dies, the collectives of
the rest break. An outside cause (eviction, drain, deletion) outranks an application error seen at the same moment for
the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.training.errorfile import root_cause
from aifactory.training.state import PodView

NO_RESTART_EXIT_CODE = 93
"""NVIDIA Resiliency Extension: the launcher asks not to be restarted
(nvidia-resiliency-ext, examples/fault_tolerance/deployment/README.md)."""

_DISRUPTION_REASONS = frozenset({"Evicted", "Preempting", "NodeShutdown", "Terminated", "NodeAffinity", "NodeLost"})
"""`pod.status.reason` values with which a kubelet or a controller ends a pod from outside."""

_LATEST = datetime.max.replace(tzinfo=UTC)


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


def first_failure(pods: Iterable[PodView], missing: Iterable[tuple[int, str]]) -> Failure | None:
    """The failure that decides, or None.

    Args:
        pods: pods of the current attempt.
        missing: index and name of pods that had been created and are gone.
    """
    gone = [
        Failure(name, index, Reason.DISRUPTION, f"pod {name} was deleted by somebody else")
        for index, name in sorted(missing)
    ]
    failed = sorted(
        (pod for pod in pods if pod.failed or (pod.terminating and not pod.succeeded)),
        key=lambda pod: (not _disrupted(pod), pod.finished_at or _LATEST, pod.index),
    )
    if failed and (_disrupted(failed[0]) or not gone):
        return classify(failed[0])
    return gone[0] if gone else None


def classify(pod: PodView) -> Failure:
    """Tell the cause of one pod's failure."""
    reason, words = root_cause(pod.exit_message)
    words = words or pod.disruption
    if _disrupted(pod):
        cause = Reason.DISRUPTION
        words = pod.disruption or f"pod {pod.name} was ended from outside ({pod.exit_reason or 'deleted'})"
    elif pod.exit_reason == "OOMKilled":
        cause = Reason.OUT_OF_MEMORY
        words = words or "the trainer used more memory than its limit: raise resources.limits.memory or use less"
    elif pod.exit_code == NO_RESTART_EXIT_CODE:
        cause = Reason.NO_RESTART_REQUESTED
    else:
        cause = Reason.APPLICATION_ERROR
    if pod.exit_code is not None and not words:
        words = f"exit code {pod.exit_code}{_signal(pod.exit_code)}; see: kubectl logs {pod.name}"
    return Failure(
        pod=pod.name,
        index=pod.index,
        cause=cause,
        message=shorten(words or f"pod {pod.name} failed"),
        node=pod.node,
        exit_code=pod.exit_code,
        reason=reason or pod.exit_reason,
    )


def _disrupted(pod: PodView) -> bool:
    return bool(pod.disruption) or pod.terminating or pod.exit_reason in _DISRUPTION_REASONS


def _signal(code: int) -> str:
    return f" (signal {code - 128})" if 128 < code <= 192 else ""

"""Which pod's failure decides, and what caused it.

The first pod that failed decides, because the others usually fail in its wake: when one rank dies, the collectives of
the rest break. An outside cause (eviction, drain, deletion) outranks an application error seen at the same moment for
the same reason. A program that asks not to be restarted is believed whatever happened to the others.
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
        Failure(name, index, Reason.DISRUPTION, "it was deleted by somebody else") for index, name in sorted(missing)
    ]
    failed = sorted(
        (pod for pod in pods if pod.failed or (pod.terminating and not pod.succeeded)),
        key=lambda pod: (not _disrupted(pod), pod.finished_at or _LATEST, pod.index),
    )
    causes = [classify(pod) for pod in failed]
    asked = next((failure for failure in causes if failure.cause is Reason.NO_RESTART_REQUESTED), None)
    if asked is not None:
        return asked
    if causes and (causes[0].cause is Reason.DISRUPTION or not gone):
        return causes[0]
    return gone[0] if gone else None


def classify(pod: PodView) -> Failure:
    """Tell the cause of one pod's failure."""
    root = root_cause(pod.exit_message)
    words, exit_code = root.words, pod.exit_code
    if exit_code is not None and root.exit_code is not None:
        exit_code = root.exit_code
    if _disrupted(pod):
        cause = Reason.DISRUPTION
        words = pod.disruption or f"it was ended from outside ({'deleted' if pod.terminating else pod.exit_reason})"
    elif pod.exit_reason == "OOMKilled":
        cause = Reason.OUT_OF_MEMORY
        words = words or "the trainer used more memory than its limit: raise resources.limits.memory or use less"
    elif exit_code == NO_RESTART_EXIT_CODE:
        cause = Reason.NO_RESTART_REQUESTED
    else:
        cause = Reason.APPLICATION_ERROR
    if not words and exit_code is None:
        words = f"it failed before its trainer had ended; see: kubectl describe pod {pod.name}"
    elif not words:
        words = f"exit code {exit_code}{_signal(exit_code)}; see: kubectl logs {pod.name}"
    return Failure(
        pod=pod.name,
        index=pod.index,
        cause=cause,
        message=shorten(words),
        node=pod.node,
        exit_code=exit_code,
        reason=root.name or pod.exit_reason,
    )


def _disrupted(pod: PodView) -> bool:
    return bool(pod.disruption) or pod.terminating or pod.exit_reason in _DISRUPTION_REASONS


def _signal(code: int | None) -> str:
    return f" (signal {code - 128})" if code is not None and 128 < code <= 192 else ""

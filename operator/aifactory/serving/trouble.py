"""What is wrong with serving pods, told apart by what has to happen: nothing, a person, or another version.

A pod that is going is never asked: its words are about a revision that may be wanted again by now.
"""

from __future__ import annotations

from collections.abc import Iterable

from aifactory.api.reasons import Reason
from aifactory.engine.pods import needs_person
from aifactory.serving.state import ServingPodView

PASSING = frozenset({"DiskFull", "SourceNotFound", "StoreUnavailable", "TritonUnavailable"})
"""Reasons of the agent that may pass without another version; it tries again by itself (agent: errors.TRANSIENT)."""


def load_error(pods: Iterable[ServingPodView], revision: str) -> str:
    """Why the revision's model can not be loaded, if that will not change by itself; else empty."""
    words = (pod.load_error for pod in _of(pods, revision) if pod.load_error)
    return next((text for text in words if text.partition(":")[0] not in PASSING), "")


def problem(pods: Iterable[ServingPodView], revision: str) -> tuple[Reason, str] | None:
    """A pod of the revision that waits for a person."""
    for pod in _of(pods, revision):
        if (found := needs_person(pod)) is not None:
            return found
        if pod.unschedulable:
            return Reason.UNSCHEDULABLE, f"pod {pod.name} has no node: {pod.unschedulable}; free nodes or GPUs"
        if pod.load_error:
            return Reason.MODEL_LOAD_FAILED, f"pod {pod.name}: {pod.load_error}"
    return None


def _of(pods: Iterable[ServingPodView], revision: str) -> list[ServingPodView]:
    found = [pod for pod in pods if pod.revision == revision and not pod.ready and not pod.terminating]
    return sorted(found, key=lambda pod: pod.name)

"""Pods that should have ended and do not: told with the node's name and the way out.

A kubelet that does not answer can not confirm that a pod has ended, so the API server keeps it, for ever if the machine
never comes back. Only a person knows that a machine is really off.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from aifactory.training.state import Observed, PodView

PATIENCE_SECONDS: Final = 60
"""After its grace period a pod that ends takes seconds."""


def stuck(observed: Observed, ending: Iterable[PodView], now: datetime) -> str:
    """Words about a pod that has not ended a minute after its grace period; empty while all end as they should."""
    late = [pod for pod in ending if _seconds_late(pod, now) >= PATIENCE_SECONDS]
    pod = next((pod for pod in late if pod.node in observed.lost_nodes), late[0] if late else None)
    if pod is None:
        return ""
    others = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
    where = f"its node {pod.node} {observed.lost_nodes.get(pod.node, 'has not confirmed that it has ended')}"
    return (
        f"pod {pod.name}{others} should have ended at {pod.due_to_end:%Y-%m-%dT%H:%M:%SZ} and {where}; bring the node "
        f"back, or, if the machine is off for good, kubectl delete node {pod.node}; if only the pod hangs, make sure "
        f"that it does not run any more, then kubectl delete pod {pod.name} --force"
    )


def next_look(ending: Iterable[PodView], now: datetime) -> float | None:
    """Seconds until a pod that is ending is late; None when none is going to be."""
    left = [PATIENCE_SECONDS - _seconds_late(pod, now) for pod in ending if pod.due_to_end is not None]
    return min((seconds for seconds in left if seconds > 0), default=None)


def first_lost(observed: Observed, pods: Iterable[PodView]) -> PodView | None:
    """A pod that lives, as far as anybody knows, on a node that is lost."""
    return next((pod for pod in pods if pod.live and pod.node in observed.lost_nodes), None)


def _seconds_late(pod: PodView, now: datetime) -> float:
    return (now - pod.due_to_end).total_seconds() if pod.due_to_end is not None else float("-inf")

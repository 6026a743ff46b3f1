"""Pods that stay after their attempt, so that `kubectl logs` still shows why it failed.

Of each of the last attempts that failed the pod is kept whose failure decided; of the attempt that ends the job all
that have ended. Only pods that have ended by themselves are kept: they hold no node and no GPU. So one whose containers
have ended is waited for and not deleted. One that was deleted, or sits on a node that is gone, can not be kept by
anybody. They go with the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aifactory.training.causes import LATEST
from aifactory.training.state import Observed, PodView

KEPT_ATTEMPTS: Final = 3


def leftovers(observed: Observed) -> tuple[PodView, ...]:
    """Pods of earlier attempts that have ended and are not kept: they go, and nothing waits for it."""
    kept = _kept(observed)
    earlier = (pod for pod in observed.pods if pod.attempt < observed.job.status.attempt)
    return tuple(pod for pod in earlier if _is_over(pod) and pod.uid not in kept)


def _is_over(pod: PodView) -> bool:
    """It has ended and stands there for nothing but its log."""
    return not pod.live and not pod.terminating


def _kept(observed: Observed) -> frozenset[str]:
    """UIDs of the pods of earlier attempts that are kept: of the last that failed, whatever came between."""
    current = observed.job.status.attempt
    failed = [pod for pod in observed.pods if pod.attempt < current and pod.failed and _is_over(pod)]
    attempts = sorted({pod.attempt for pod in failed})[-KEPT_ATTEMPTS:]
    return frozenset(_decisive(observed, [pod for pod in failed if pod.attempt == attempt]).uid for attempt in attempts)


def _decisive(observed: Observed, failed: Sequence[PodView]) -> PodView:
    """Of an attempt's pods the one whose failure ended it: as it was told, or the first that failed."""
    last = observed.job.status.last_failure
    told = next((pod for pod in failed if last is not None and pod.name == last.pod), None)
    return told or min(failed, key=lambda pod: (pod.finished_at or LATEST, pod.index))

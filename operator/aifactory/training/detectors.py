"""How a failure of the current attempt is noticed, and which one decides.

Each detector looks at one kind of sign. The first failure decides, because the others usually follow from it: when one
rank dies, the collectives of the rest break. For the same reason an outside cause (eviction, drain, deletion, a node
that refuses) outranks an application error seen at the same moment. A program that asks not to be restarted is believed
whatever happened to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aifactory.api.conditions import is_true
from aifactory.api.reasons import ConditionType, Reason
from aifactory.training import rendezvous
from aifactory.training.causes import Failure, classify
from aifactory.training.state import Observed, PodView

OUTSIDE = frozenset({Reason.DISRUPTION, Reason.NODE_REFUSED})
"""Causes that are no fault of the program."""

Detector = Callable[[Observed, tuple[PodView, ...]], Iterable[Failure]]


def failed_pods(_: Observed, current: tuple[PodView, ...]) -> Iterable[Failure]:
    """Pods that ended badly, or are being ended by somebody else."""
    return (classify(pod) for pod in current if pod.failed or pod.terminating)


def missing_pods(observed: Observed, current: tuple[PodView, ...]) -> Iterable[Failure]:
    """Pods of this attempt that had all been created and are gone."""
    status = observed.job.status
    if status.resolved is not None and status.resolved.created_attempt == status.attempt:
        count = status.resolved.nodes
    elif is_true(status.conditions, ConditionType.RUNNING) and status.nodes is not None:
        count = status.nodes.active  # by an operator that ended before it could write down more
    else:
        return
    seen = {pod.index for pod in current}
    for index in range(count):
        if index not in seen:
            name = rendezvous.pod_name(observed.job.metadata.name, index, status.attempt)
            yield Failure(name, index, Reason.DISRUPTION, "it was deleted by somebody else")


def lost_nodes(observed: Observed, current: tuple[PodView, ...]) -> Iterable[Failure]:
    """Pods on nodes that are lost, once a pod has failed: the others fail because these do not answer.

    By itself a node that is silent for a while is no failure: its programs may go on, and it comes back.
    """
    if any(pod.failed for pod in current):
        for pod in current:
            if pod.live and not pod.succeeded and pod.node in observed.lost_nodes:
                message = f"its node {pod.node} {observed.lost_nodes[pod.node]}"
                yield Failure(pod.name, pod.index, Reason.DISRUPTION, message, node=pod.node)


DETECTORS: tuple[Detector, ...] = (failed_pods, lost_nodes, missing_pods)
"""Of failures that are equal otherwise, the earlier detector's decides: it knows more."""


def first_failure(observed: Observed, current: tuple[PodView, ...]) -> Failure | None:
    """The failure that decides, or None.

    Args:
        observed: the job and everything that belongs to it.
        current: pods of the current attempt.
    """
    found = [
        (failure.cause is not Reason.NO_RESTART_REQUESTED, failure.cause not in OUTSIDE, order, failure)
        for order, detector in enumerate(DETECTORS)
        for failure in detector(observed, current)
    ]
    found.sort(key=lambda entry: (*entry[:3], entry[3].time, entry[3].index))
    return found[0][3] if found else None

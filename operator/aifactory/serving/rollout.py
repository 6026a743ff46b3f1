"""How long a candidate may take to come up, when it is taken back, and when it gets a second chance.

A rollout has a deadline that counts from its last progress: one more pod of the candidate ready than ever before. Both
are in status, so that whoever leads next goes on. What a pod says counts against the version only where no pod of the
same revision has it loaded: else it is the pod, or its node. One that was taken back for something that can be mended
without another version (credentials, a store, a place for its pods) is tried again by itself, less and less often.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aifactory.api.conditions import shorten
from aifactory.api.inferencepool import Finding, InferencePoolSpec
from aifactory.api.reasons import Reason
from aifactory.kube.backoff import ROLLOUT
from aifactory.serving import swap, trouble
from aifactory.serving.state import Observed, ServingPodView, Wish

DEADLINE_SECONDS = 1800
CRASHES = 3
"""A container of the candidate that was started again so often, while no pod of it is ready, will not do better."""
_MENDABLE = trouble.PASSING | {"AccessDenied", "StoreFull"}
"""Reasons of the agent that go away when somebody outside the pool mends something."""
_WORDS = 600
"""Characters of a message that others have written; the way out must still fit behind them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a candidate has come."""

    since: datetime
    """When it last got further, or began."""
    most_ready: int
    """Ready pods at most so far."""
    resumed: bool = False
    """The time has run out while nobody had asked for another pod; it begins again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a candidate is taken back."""

    reason: Reason
    message: str
    mendable: bool = False
    """It may pass without another version or another spec."""
    findings: tuple[Finding, ...] | None = None
    """What it was compared by."""


ABORTED = Verdict(Reason.ROLLOUT_ABORTED, "it was aborted on request (aifactory.dev/abort)")


def deadline(spec: InferencePoolSpec) -> timedelta:
    """How long a candidate may make no progress."""
    seconds = spec.rollout.progress_deadline_seconds if spec.rollout is not None else None
    return timedelta(seconds=DEADLINE_SECONDS if seconds is None else seconds)


def progress(observed: Observed, wish: Wish, strategy: str, ready: int, now: datetime) -> Progress:
    """How far the candidate has come by now.

    Args:
        observed: what there is.
        wish: the candidate.
        strategy: by which it comes up; with another one it begins anew.
        ready: pods that serve it.
        now: the time, in UTC.
    """
    now = now.replace(microsecond=0)  # the precision of what is written
    rollout = observed.pool.status.rollout
    if rollout is None or rollout.phase != "Progressing" or rollout.revision != wish.revision:
        return Progress(now, ready)
    if rollout.progress_time is None or ready > rollout.most_ready or rollout.strategy not in (None, strategy):
        return Progress(now, max(ready, rollout.most_ready))
    late = now >= rollout.progress_time + deadline(observed.pool.spec)
    if late and not _is_awaited(observed, wish.pods, ready if strategy == swap.HOT_SWAP else None):
        return Progress(now, rollout.most_ready, resumed=True)
    return Progress(rollout.progress_time, rollout.most_ready)


def swap_verdict(
    observed: Observed, wish: Wish, done: int, reached: Progress, wanted: int, now: datetime
) -> Verdict | None:
    """Why pods that are on their way to a version have to go back to the one before, if they have to."""
    failed = [(pod, text) for pod, text in swap.failures(observed, wish) if not trouble.is_passing(text)]
    if failed and not reached.most_ready:
        text, pods = failed[0][1], [pod for pod, _ in failed]
        message = f"it does not load: {shorten(text, _WORDS)} ({_where(pods)}, and none has it loaded)"
        return Verdict(Reason.MODEL_LOAD_FAILED, message, mendable=is_mendable(text))
    allowed = deadline(observed.pool.spec)
    if now >= reached.since + allowed and _is_awaited(observed, wish.pods, done):
        said = swap.failures(observed, wish)
        last = f"; pod {said[0][0].name}: {shorten(said[0][1], _WORDS)}" if said else ""
        message = f"{_no_progress(allowed)}: {done} of {wanted} pods have changed over to it{last}"
        return Verdict(Reason.ROLLOUT_DEADLINE_EXCEEDED, message, mendable=True)
    return None


def verdict(observed: Observed, revision: str, reached: Progress, wanted: int, now: datetime) -> Verdict | None:
    """Why the candidate's set of pods has to be taken back, if it has to."""
    pods = [pod for pod in observed.pods if pod.revision == revision and not pod.terminating]
    if (text := trouble.load_error(pods, revision)) and not reached.most_ready:
        failed = [pod for pod in pods if pod.load_error and not pod.ready]
        message = f"it does not load: {shorten(text, _WORDS)} ({_where(failed)}, and none has it loaded)"
        return Verdict(Reason.MODEL_LOAD_FAILED, message, mendable=is_mendable(text))
    crashed = [pod for pod in pods if pod.crash is not None and pod.crash.restarts >= CRASHES]
    if crashed and crashed[0].crash is not None and not any(pod.ready for pod in pods):
        said = trouble.crashing(observed, crashed[0], crashed[0].crash)
        return Verdict(said.reason, f"{shorten(said.message, _WORDS)} ({_where(crashed)}, and none is ready)")
    allowed = deadline(observed.pool.spec)
    if now >= reached.since + allowed and _is_awaited(observed, revision, None):
        problem = trouble.problem(observed, revision)
        said_last = f"; {shorten(problem.message, _WORDS)}" if problem is not None else ""
        message = f"{_no_progress(allowed)}: {observed.ready(revision)} of {wanted} pods are ready{said_last}"
        return Verdict(Reason.ROLLOUT_DEADLINE_EXCEEDED, message, mendable=True)
    return None


def retry_time(now: datetime, attempts: int) -> datetime:
    """When a candidate that was taken back for the so-manieth time is tried again."""
    return now.replace(microsecond=0) + timedelta(seconds=ROLLOUT.delay(attempts))


def is_mendable(text: str) -> bool:
    """Whether what an agent says may pass without another version."""
    return text.partition(":")[0] in _MENDABLE


def _no_progress(allowed: timedelta) -> str:
    return f"it made no progress for {allowed.total_seconds():.0f} s (spec.rollout.progressDeadlineSeconds)"


def _is_awaited(observed: Observed, pods: str, done: int | None) -> bool:
    """A pod that was asked for is not ready or done. While the operator is away none is asked for, and none is late."""
    view = observed.find(pods)
    return view is not None and (view.ready if done is None else done) < view.wanted


def _where(pods: list[ServingPodView]) -> str:
    nodes = len({pod.node for pod in pods})
    return f"{len(pods)} pod{'s' * (len(pods) > 1)} on {nodes} node{'s' * (nodes > 1)} failed"

"""Whether a failure restarts the job, and when: the failure policy as one pure function.

Counted are failures of the program (exit codes, out of memory); they may happen `maxRestarts` times within
`windowSeconds`. Disruptions are not the program's fault: they do not count, and only one that follows another failure
closely waits, so that something that keeps deleting pods does not keep the job busy with starting. A node that refuses
a pod is no fault of the program either; it refuses the next one too for a while, so every try waits, longer and longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import FailurePolicy, Restarts

MAX_RESTARTS = 3
MAX_TOTAL_RESTARTS = 100
WINDOW_SECONDS = 3600
BACKOFF_BASE_SECONDS = 10
BACKOFF_MAX_SECONDS = 600
DISRUPTION_CLOSE_SECONDS = 60
ABORTS_AT_END = 3
"""Restarts after the last step that do not count: the work is done, and lost if it were not published."""
REFUSED_WAIT_SECONDS = 10
"""At least, whatever the policy's backoff: the scheduler has to learn what the node has."""


COUNTED = (
    Reason.APPLICATION_ERROR,
    Reason.OUT_OF_MEMORY,
    Reason.OUT_OF_DISK,
    Reason.DEADLINE_EXCEEDED,
    Reason.INIT_CONTAINER_FAILED,
    Reason.CONTAINER_CONFIG_ERROR,
)
"""Causes whose restarts the policy counts."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart all pods."""

    restarts: Restarts


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Fail the job."""

    reason: Reason
    explanation: str


def decide(
    policy: FailurePolicy | None,
    restarts: Restarts,
    cause: Reason,
    now: datetime,
    last: datetime | None = None,
    step: int = 0,
) -> Restart | GiveUp:
    """Restart or give up after a failure.

    Args:
        policy: the job's.
        restarts: those so far.
        cause: of the failure.
        now: the time.
        last: when the job failed before.
        step: how far it has got: of the last checkpoint, or of the last report of a program that reports none.
    """
    policy = policy or FailurePolicy()
    restarts = _measured(restarts, step)
    if (end := _exceeded(policy, restarts)) is not None:
        return end
    if cause is Reason.NO_RESTART_REQUESTED:
        return GiveUp(cause, "the trainer exited with code 93, which asks for no restart")
    if cause is Reason.CONTAINER_CANNOT_START:
        return GiveUp(cause, "no restart mends it: correct image and command in another TrainingJob")
    if cause is Reason.NODE_REFUSED:
        wait = max(REFUSED_WAIT_SECONDS, backoff_seconds(policy, restarts.by_cause.get(str(cause), 0)))
        pause = now + timedelta(seconds=wait)
        return Restart(record(restarts, cause, counted_times=restarts.counted_times, next_attempt=pause))
    if cause is Reason.ABORTED_AT_END and restarts.by_cause.get(str(cause), 0) < ABORTS_AT_END:
        return Restart(record(restarts, cause, counted_times=restarts.counted_times, next_attempt=None))
    if cause is Reason.DISRUPTION:
        close = last is not None and now - last < timedelta(seconds=DISRUPTION_CLOSE_SECONDS)
        later = now + timedelta(seconds=backoff_seconds(policy, 0)) if close else None
        return Restart(record(restarts, cause, counted_times=restarts.counted_times, next_attempt=later))
    limit = MAX_RESTARTS if policy.max_restarts is None else policy.max_restarts
    window = WINDOW_SECONDS if policy.window_seconds is None else policy.window_seconds
    recent = tuple(time for time in restarts.counted_times if now - time < timedelta(seconds=window))
    if len(recent) >= limit:
        return GiveUp(
            Reason.MAX_RESTARTS_EXCEEDED,
            f"{len(recent)} restarts within {window} s and failurePolicy.maxRestarts is {limit}",
        )
    delay = backoff_seconds(policy, len(recent))
    next_attempt = now + timedelta(seconds=delay) if delay else None
    return Restart(record(restarts, cause, counted_times=(*recent, now), next_attempt=next_attempt))


def _measured(restarts: Restarts, step: int) -> Restarts:
    """One restart more without progress, unless the job has got further than any before."""
    if step > restarts.furthest_step:
        return restarts.model_copy(update={"furthest_step": step, "without_progress": 1})
    return restarts.model_copy(update={"without_progress": restarts.without_progress + 1})


def _exceeded(policy: FailurePolicy, restarts: Restarts) -> GiveUp | None:
    """Limits that hold whatever the cause, so that nothing restarts for ever."""
    most = MAX_TOTAL_RESTARTS if policy.max_total_restarts is None else policy.max_total_restarts
    if restarts.total >= most:
        message = f"{restarts.total} restarts in all and failurePolicy.maxTotalRestarts is {most}"
        return GiveUp(Reason.MAX_RESTARTS_EXCEEDED, message)
    allowed = policy.max_restarts_without_progress
    if allowed is not None and restarts.without_progress > allowed:
        return GiveUp(
            Reason.NO_PROGRESS,
            f"{allowed} restarts in a row from step {restarts.furthest_step} and "
            f"failurePolicy.maxRestartsWithoutProgress is {allowed}",
        )
    return None


def forgive(restarts: Restarts, cause: Reason) -> Restarts:
    """The last restart, counted for this cause, was a disruption after all: it does not count and waits for nothing."""
    by_cause = dict(restarts.by_cause)
    by_cause[str(cause)] = by_cause.get(str(cause), 1) - 1
    by_cause[str(Reason.DISRUPTION)] = by_cause.get(str(Reason.DISRUPTION), 0) + 1
    times = restarts.counted_times[:-1]
    return restarts.model_copy(
        update={
            "counted": len(times),
            "counted_times": times,
            "by_cause": {name: count for name, count in by_cause.items() if count},
            "next_attempt_time": None,
        }
    )


def backoff_seconds(policy: FailurePolicy, earlier: int) -> int:
    """Seconds to wait before a restart that follows `earlier` counted ones."""
    backoff = policy.backoff
    base = BACKOFF_BASE_SECONDS if backoff is None or backoff.base_seconds is None else backoff.base_seconds
    most = BACKOFF_MAX_SECONDS if backoff is None or backoff.max_seconds is None else backoff.max_seconds
    return int(min(base * 2 ** min(earlier, 20), most))


def record(
    restarts: Restarts, cause: Reason, *, counted_times: tuple[datetime, ...], next_attempt: datetime | None
) -> Restarts:
    """One more restart."""
    by_cause = dict(restarts.by_cause)
    by_cause[str(cause)] = by_cause.get(str(cause), 0) + 1
    return restarts.model_copy(
        update={
            "total": restarts.total + 1,
            "counted": len(counted_times),
            "by_cause": by_cause,
            "counted_times": counted_times,
            "next_attempt_time": next_attempt,
        }
    )

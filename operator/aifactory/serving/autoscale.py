"""How many pods a pool is to have, by what they have to do: decided here, written down, and then done by the plan.

As many as it takes for each to have its target, as Kubernetes' HorizontalPodAutoscaler reckons: up at once, down when
fewer have been enough for a while, to the most that were needed in it. What is not known takes no pod away: where a pod
that answers requests does not tell what it does, nothing goes; one that is not ready yet counts as fully loaded.

What is waited for stands in the status (`pending`), so another leader goes on with it. It is written when it changes
and four times in the wait: who has not looked for half of it begins anew. A pool that needs what it has writes nothing.

The last pod of a pool that may have none goes when nobody has asked for a while and no change of version is under way,
for that is judged by pods. From none it goes on at once when requests wait in the gateway (`wakeup`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from aifactory.api.inferencepool import (
    Autoscaling,
    ColdStart,
    PendingScaling,
    ScalingDecision,
    ScalingMetric,
    ScalingSchedule,
    ScalingStatus,
)
from aifactory.engine.plan import Patch
from aifactory.serving import scaling
from aifactory.serving.demand import BACK_SECONDS, BUSY, Demand
from aifactory.serving.holding import Held
from aifactory.serving.state import Observed

IN_FLIGHT: Final = "inFlightRequests"
HELD: Final = "heldRequests"
"""What wakes a pool, in place of a metric."""
TOLERANCE: Final = 0.1
DOWN_SECONDS: Final = 300
UP_SECONDS: Final = 0
IDLE_SECONDS: Final = 600
LOOK_AGAIN: Final = 5.0
KEPT: Final = 5
"""Decisions that the status has."""
UNSEEN_SECONDS: Final = 120.0
"""Nobody may have looked for so long, as when another operator takes over and has yet to ask; or for half the wait."""
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Where a ReplicaSet has a pod too many, the one goes that costs least.
https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost"""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be known of a pool's scaling."""

    status: ScalingStatus | None = None
    """As it is to stand."""
    first: bool = False
    """It has to stand before anything is done: another number of pods."""
    event: str = ""
    """What people are told of that."""
    fewer: bool = False
    due: float | None = None
    """Seconds until it is looked at again though nothing changed."""


@dataclass(frozen=True, slots=True)
class _Need:
    """Pods that a metric asks for."""

    metric: str
    value: float
    pods: int


def look(observed: Observed, now: datetime) -> Outlook:
    """How many pods it is to be from now on, and what is waited for."""
    pool, spec = observed.pool, observed.pool.spec.autoscaling
    if spec is None:
        return Outlook()
    least, most, bound = scaling.limits(pool, spec)
    scheduled, turn = _scheduled(spec.schedules or (), now)
    floor, current = min(max(least, scheduled), most), scaling.wanted(pool)
    before = pool.status.scaling
    if before is None:
        # After a restore from a backup there is no status, and no pod is to go because of that.
        there = sum(view.wanted for view in observed.revisions if not view.terminating)
        before = ScalingStatus(replicas=max(current, min(there, most)))
        if before.replicas > current:
            return Outlook(before, first=True)
    before = before.model_copy(update={"cold_start": _started(before.cold_start, observed, now)})
    if current != before.replicas or current < floor:
        to = max(current, floor)
        field = "schedules" if to > max(current, least) else bound if to < before.replicas else "minReplicas"
        return _decided(spec, before, to, _Need(field, math.nan, to), now)

    if current == 0:
        return _asleep(spec, before, observed.held, most, now, turn)
    up, down = _most(_now(spec, observed.demand, current)), _lowest(spec, observed, current)
    pending, due = before.pending, [] if turn is None else [turn]
    wait: tuple[_Need, int, int] | None = None
    if up is not None and up.pods > current < most:
        wait = (up, min(up.pods, most), _or(spec.scale_up_stabilization_seconds, UP_SECONDS))
    elif (floor, current) == (0, 1) and down is not None and _is_idle(observed):
        wait = (_Need("idleSeconds", math.nan, 0), 0, _or(spec.idle_seconds, IDLE_SECONDS))
    elif down is not None and down.pods < current > floor:
        wait = (down, max(down.pods, floor), _or(spec.stabilization_seconds, DOWN_SECONDS))
    elif down is not None or (up is not None and (up.pods >= current or _grows(pending, current))):
        pending = None
    if wait is not None:
        need, goal, seconds = wait
        pending = _pending(before.pending, current, goal, seconds, now)
        left = (pending.since + timedelta(seconds=seconds) - now).total_seconds()
        if left <= 0 and not (goal == 0 and _has_work(observed)):
            return _decided(spec, before, pending.replicas, need, now)
        due.append(max(1.0, min(left, seconds / 4)) if left > 0 else LOOK_AGAIN)
    status = before.model_copy(
        update={
            "pending": pending,
            "summary": _summary(current, floor, most, pending),
            "message": _message(spec, observed.demand, down, most, bound) if observed.demand else before.message,
        }
    )
    return Outlook(status, due=min(due, default=None))


def costs(observed: Observed) -> tuple[Patch, ...]:
    """The pods that have least to do go first."""
    told = {pod.name: round(pod.in_flight) for pod in observed.pods if pod.ready and pod.in_flight is not None}
    if len(set(told.values())) < 2:
        return ()
    return tuple(
        Patch("Pod", name, {"metadata": {"annotations": {DELETION_COST: str(count)}}}) for name, count in told.items()
    )


# --- To zero and back ---


def _is_idle(observed: Observed) -> bool:
    """Nobody asks a pod that answers, and nothing is under way that is judged by pods."""
    change, demand = observed.pool.status.rollout, observed.demand
    settled = change is not None and change.phase == "Complete"
    # What is known of the pod that there was says nothing about the one that is to come.
    answers = any(view.ready for view in observed.revisions if not view.terminating)
    return settled and answers and demand is not None and demand.idle


def _has_work(observed: Observed) -> bool:
    """Something has come just now."""
    return observed.demand is None or (observed.demand.in_flight or 0.0) >= BUSY


def _asleep(
    spec: Autoscaling, before: ScalingStatus, held: Held | None, most: int, now: datetime, turn: float | None
) -> Outlook:
    """There is no pod: until somebody asks, or a schedule begins."""
    if held is not None and held.requests:
        pods = 1
        for metric in spec.metrics:
            if metric.name == IN_FLIGHT and not spec.scale_up_stabilization_seconds:
                pods = min(_need(metric, held.requests, 1).pods, most)
        return _decided(spec, before, pods, _Need(HELD, held.requests, pods), now)
    message = before.message if held is None else _unasked(held.silent)
    update = {"pending": None, "summary": _summary(0, 0, most, None), "message": message}
    return Outlook(before.model_copy(update=update), due=turn)


def _started(found: ColdStart | None, observed: Observed, now: datetime) -> ColdStart | None:
    """How far the first pod is; each part is written down once."""
    if found is None or found.ready_seconds is not None:
        return found
    live, passed = [pod for pod in observed.pods if not pod.terminating], round((now - found.time).total_seconds())
    ready = any(pod.ready for pod in live)
    parts = {
        "scheduled_seconds": ready or any(pod.node for pod in live),
        "started_seconds": ready or any(pod.running for pod in live),
        "ready_seconds": ready,
    }
    update = {part: passed for part, there in parts.items() if there and getattr(found, part) is None}
    return found.model_copy(update=update) if update else found


def _unasked(silent: int) -> str | None:
    who = "1 proxy does not answer" if silent == 1 else f"{silent} proxies do not answer"
    return f"{who} when asked whether a request waits for a pod" if silent else None


# --- What is needed ---


def _now(spec: Autoscaling, demand: Demand | None, current: int) -> Iterable[_Need]:
    """By what is measured now; a metric that is not known asks for nothing."""
    if demand is not None:
        for metric in spec.metrics:
            value = demand.in_flight if metric.name == IN_FLIGHT else demand.tokens
            if value is not None:
                yield _need(metric, value, current)


def _lowest(spec: Autoscaling, observed: Observed, current: int) -> _Need | None:
    """By the most that was measured a moment ago; None where something is not known, so that nothing may go."""
    demand = observed.demand
    if demand is None or not demand.complete:
        return None
    unready = max(0, current - sum(view.ready for view in observed.revisions if not view.terminating))
    needs = []
    for metric in spec.metrics:
        value = demand.most_in_flight if metric.name == IN_FLIGHT else demand.most_tokens
        if value is None:
            return None
        needs.append(_need(metric, value + unready * float(metric.target), current))
    return _most(needs)


def _need(metric: ScalingMetric, value: float, current: int) -> _Need:
    target = float(metric.target)
    fits = abs(value / (target * current) - 1) <= TOLERANCE
    return _Need(metric.name, value, current if fits else max(1, math.ceil(value / target - 1e-9)))


def _most(needs: Iterable[_Need]) -> _Need | None:
    return max(needs, key=lambda need: need.pods, default=None)


# --- What is waited for ---


def _grows(pending: PendingScaling | None, current: int) -> bool:
    return pending is not None and pending.replicas > current


def _pending(before: PendingScaling | None, current: int, goal: int, seconds: int, now: datetime) -> PendingScaling:
    """A wait goes on in the same direction, unless nobody has looked for too long."""
    now = now.replace(microsecond=0)
    begun = PendingScaling(since=now, seen=now, replicas=goal)
    if before is None or _grows(before, current) != (goal > current):
        return begun
    unseen = (now - before.seen).total_seconds()
    if unseen > max(seconds / 2, UNSEEN_SECONDS):
        return begun
    nearest = min(before.replicas, goal) if goal > current else max(before.replicas, goal)
    if goal < current and (now - before.since).total_seconds() < BACK_SECONDS:
        nearest = goal  # in an average there is still what was before
    seen = now if unseen >= max(seconds / 4, 1.0) else before.seen
    return PendingScaling(since=before.since, seen=seen, replicas=nearest)


def _decided(spec: Autoscaling, before: ScalingStatus, to: int, need: _Need, now: datetime) -> Outlook:
    value = None if math.isnan(need.value) else f"{need.value:.3g}"
    decision = ScalingDecision(
        time=now.replace(microsecond=0), before=before.replicas, to=to, metric=need.metric, value=value
    )
    decisions = (decision, *(before.decisions or ()))[:KEPT]
    began = before.cold_start if before.replicas else ColdStart(time=decision.time)
    update = {"replicas": to, "pending": None, "decisions": decisions, "cold_start": began}
    status = before.model_copy(update=update)
    target = next((metric.target for metric in spec.metrics if metric.name == need.metric), "")
    why = f": {need.metric} is {value}, and a pod is to have {target}" if target else f", by autoscaling.{need.metric}"
    if need.metric == HELD:
        why = f": {value} requests wait for a pod" if need.value > 1 else ": a request waits for a pod"
    event = f"from {before.replicas} to {to} pods{why}"
    return Outlook(status, first=True, event=event, fewer=to < before.replicas)


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


# --- Schedules ---


def _scheduled(schedules: Iterable[ScalingSchedule], now: datetime) -> tuple[int, float | None]:
    """Pods that the schedules in force ask for, 0 without any, and seconds until one begins or ends."""
    pods, turns = 0, list[float]()
    for each in schedules:
        last, next_ = _times(each.cron, each.time_zone or "UTC", now.replace(second=0, microsecond=0))
        end = last + timedelta(seconds=each.duration_seconds) if last is not None else now
        if end > now:
            pods = max(pods, each.min_replicas)
            turns.append((end - now).total_seconds())
        if next_ is not None:
            turns.append((next_ - now).total_seconds())
    return pods, max(1.0, min(turns)) if turns else None


@lru_cache(maxsize=512)
def _times(cron: str, zone: str, minute: datetime) -> tuple[datetime | None, datetime | None]:
    """When it has come last, that minute included, and when it comes next."""
    there = minute.astimezone(ZoneInfo(zone))
    last = next(CronSim(cron, there + timedelta(seconds=1), reverse=True), None)
    return last, next(CronSim(cron, there), None)


# --- Words ---


def _summary(current: int, floor: int, most: int, pending: PendingScaling | None) -> str:
    soon = f", soon {pending.replicas}" if pending is not None else ""
    return f"{current} of {floor}-{most}{soon}"


def _message(spec: Autoscaling, demand: Demand, down: _Need | None, most: int, bound: str) -> str | None:
    if demand.silent:
        who = "1 pod does not answer" if demand.silent == 1 else f"{demand.silent} pods do not answer"
        return f"{who} when asked what there is to do: no pod is taken away until then"
    if demand.in_flight is None and any(metric.name == IN_FLIGHT for metric in spec.metrics):
        return f"the pods' engine does not tell {IN_FLIGHT}: no pod is taken away, and none is added because of it"
    if down is not None and down.pods > most:
        return f"{down.metric} asks for more pods than {bound} allows"
    return None

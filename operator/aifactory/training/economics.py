"""What the GPUs of a job come to: seconds, those in which nothing was learned that lasted, and what they cost.

Time of training counts as unsaved until a checkpoint is reported; a restart, or a failure at the end, makes it lost.
Sums grow when something about them changes, and ride along when the status is written anyway. A job whose template asks
for no GPU has none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from aifactory.api.cost import JobUse
from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.engine import cost
from aifactory.training.state import Observed


def follow(observed: Observed, status: TrainingJobStatus, now: datetime) -> JobUse | None:
    """The job's use of GPUs as it is now; the one that stands if nothing about it has changed.

    Args:
        observed: the job and its pods.
        status: what else is going to be told.
        now: the time.
    """
    job, told = observed.job, observed.job.status
    before, each = told.cost, gpus_of_pod(observed)
    ended = status.completion_time is not None
    held = 0 if ended else each * sum(1 for pod in observed.pods if pod.live and pod.node)
    if before is None and not held:
        return None
    use = before or JobUse(since=now)
    price = cost.price_of(job.spec.cost, observed.settings.gpu_hour_price)
    facts = {
        "gpus": held,
        "trains": status.phase == "Running" if held else None,
        "gpu_hour_price": f"{price:f}" if price is not None else None,
    }
    saved = status.checkpoint if status.checkpoint != told.checkpoint else None
    thrown_away = status.attempt > told.attempt or status.phase == "Failed"
    if saved is None and not thrown_away and before is not None and _has(before, facts):
        return before
    grown = up_to(use, now)
    unsaved, lost = grown.unsaved_gpu_seconds, grown.lost_gpu_seconds
    if saved is not None:
        unsaved = min(unsaved, use.gpus * cost.seconds_between(saved.time, now))
    if thrown_away:
        unsaved, lost = 0, lost + unsaved
    return up_to(grown.model_copy(update={**facts, "unsaved_gpu_seconds": unsaved, "lost_gpu_seconds": lost}), now)


def up_to(use: JobUse, now: datetime) -> JobUse:
    """The same, with sums up to now."""
    more = use.gpus * cost.seconds_between(use.since, now)
    seconds = use.gpu_seconds + more
    lost = use.lost_gpu_seconds + (0 if use.trains else more)
    price = cost.price_of(None, use.gpu_hour_price)
    return use.model_copy(
        update={
            "since": max(use.since, now),
            "gpu_seconds": seconds,
            "unsaved_gpu_seconds": use.unsaved_gpu_seconds + (more if use.trains else 0),
            "lost_gpu_seconds": lost,
            "cost": cost.cost(seconds, price),
            "lost_cost": cost.cost(lost, price),
            "goodput": cost.ratio(seconds - lost, seconds),
        }
    )


def gpus_of_pod(observed: Observed) -> int:
    """GPUs that a pod of the job asks for."""
    return cost.devices_of_pod(observed.job.spec.template.raw_spec())


def _has(use: JobUse, facts: Mapping[str, object]) -> bool:
    return all(getattr(use, name) == value for name, value in facts.items())

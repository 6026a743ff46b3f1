"""What the GPUs of a pool come to: seconds, idle ones, those of a change, and what its answers cost.

Sums grow when something about them changes, and ride along when the status is written anyway: a quiet pool writes
nothing. Prices of answers are worked out from the figures that the status tells, so they are as fresh and as exact as
those. A pool whose template asks for no GPU has none of this.
"""

from __future__ import annotations

from datetime import datetime

from aifactory.api.cost import PoolUse
from aifactory.api.inferencepool import InferencePoolStatus, Throughput
from aifactory.engine import cost
from aifactory.serving import scaling
from aifactory.serving.state import Observed


def follow(observed: Observed, status: InferencePoolStatus, wanted: int, now: datetime) -> PoolUse | None:
    """The pool's use of GPUs as it is now; the one that stands if nothing about it has changed.

    Args:
        observed: the pool and its pods.
        status: what else is going to be told.
        wanted: pods that the pool shall have.
        now: the time.
    """
    before, each = observed.pool.status.cost, scaling.gpus(observed.pool)
    held = each * sum(1 for pod in observed.pods if pod.node and not pod.refused_by_node)
    if before is None and not held:
        return None
    since = before or PoolUse(since=now)
    change = status.rollout if status.rollout is not None and status.rollout.phase == "Progressing" else None
    revision = change.revision if change is not None else since.surge_revision
    price = cost.price_of(observed.pool.spec.cost, observed.settings.gpu_hour_price)
    facts = {
        "gpus": held,
        "idle": _is_idle(status) if held else None,
        # What the pods that are replaced hold on their way out belongs to the change too.
        "surge": max(0, held - each * wanted) if change is not None or since.surge else 0,
        "surge_revision": revision,
        "gpu_hour_price": f"{price:f}" if price is not None else None,
    }
    if before is not None and all(getattr(before, name) == value for name, value in facts.items()):
        return before
    grown = up_to(since, now)
    if revision != since.surge_revision:
        grown = grown.model_copy(update={"surge_gpu_seconds": 0})
    return up_to(grown.model_copy(update=facts), now)


def up_to(use: PoolUse, now: datetime) -> PoolUse:
    """The same, with sums up to now."""
    more, now = use.gpus * cost.seconds_between(use.since, now), now.replace(microsecond=0)
    seconds = use.gpu_seconds + more
    idle = use.idle_gpu_seconds + (more if use.idle else 0)
    surge = use.surge_gpu_seconds + use.surge * cost.seconds_between(use.since, now)
    price = cost.price_of(None, use.gpu_hour_price)
    return use.model_copy(
        update={
            "since": max(use.since, now),
            "gpu_seconds": seconds,
            "idle_gpu_seconds": idle,
            "surge_gpu_seconds": surge,
            "cost": cost.cost(seconds, price),
            "idle_cost": cost.cost(idle, price),
            "surge_cost": cost.cost(surge, price),
        }
    )


def priced(throughput: Throughput, use: PoolUse) -> Throughput:
    """The figures, with what each GPU does and what answers cost: tokens where there are any, else requests."""
    price = cost.price_of(None, use.gpu_hour_price)
    tokens, requests = throughput.tokens_per_second, throughput.requests_per_second
    per_token = cost.cost_per_million(use.gpus, tokens, price)
    return throughput.model_copy(
        update={
            "tokens_per_second_per_gpu": cost.per_gpu(tokens, use.gpus) if float(tokens) else None,
            "cost_per_million_tokens": per_token,
            "cost_per_million_requests": (None if float(tokens) else cost.cost_per_million(use.gpus, requests, price)),
        }
    )


def _is_idle(status: InferencePoolStatus) -> bool | None:
    """Nobody gets anything from its GPUs; None while that is not measured."""
    if not status.ready_replicas:
        return True
    figures = status.throughput
    return None if figures is None else not (float(figures.requests_per_second) or float(figures.tokens_per_second))

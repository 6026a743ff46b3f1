"""How a Canary goes through its steps.

Where it is stands in the status: the step, and since when. So whoever leads next goes on from there, and one step is
left only by a write of the status; pods and weights follow what is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aifactory.api.base import format_time
from aifactory.api.inferencepool import InferencePool, RolloutStatus, RolloutStep
from aifactory.api.reasons import Reason
from aifactory.engine.apply import content_hash
from aifactory.serving import requests

CANARY: Final = "Canary"
_HASH_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a Canary is."""

    steps: tuple[RolloutStep, ...]
    at: int
    """The step that is under way; as many as there are after the last one."""
    since: datetime
    paused: bool = False

    @property
    def step(self) -> RolloutStep:
        """What is being done; after the last one all requests are on their way to the candidate."""
        return self.steps[self.at] if self.at < len(self.steps) else _EVERYTHING

    @property
    def weight(self) -> int:
        """The part of the requests, of 100, that the candidate is to have."""
        weights = [step.weight for step in (*self.steps[: self.at], self.step) if step.weight is not None]
        return weights[-1] if weights else 0

    @property
    def due(self) -> datetime | None:
        """When the step ends by itself."""
        seconds = self.step.pause_seconds
        return self.since + timedelta(seconds=seconds) if seconds is not None and not self.paused else None


_EVERYTHING = RolloutStep(weight=100)


def steps_of(pool: InferencePool) -> tuple[RolloutStep, ...]:
    """The steps of the pool's changes; none where they are no Canaries."""
    return (pool.spec.rollout.steps or ()) if pool.spec.rollout is not None else ()


def is_canary(change: RolloutStatus | None, revision: str) -> bool:
    """Whether a Canary of the revision is under way."""
    return change is not None and (change.phase, change.strategy, change.revision) == ("Progressing", CANARY, revision)


def begin(steps: Sequence[RolloutStep], now: datetime) -> Walk:
    """At the first step."""
    return Walk(tuple(steps), 0, now.replace(microsecond=0))


def resume(steps: Sequence[RolloutStep], change: RolloutStatus | None, revision: str) -> Walk | None:
    """Where the Canary of a revision was; None where none by these steps is under way."""
    if change is None or change.phase != "Progressing" or change.revision != revision:
        return None
    if change.step is None or change.step_time is None or change.steps_hash != hash_of(steps):
        return None
    return Walk(tuple(steps), change.step, change.step_time, paused=bool(change.paused))


def follow(walk: Walk, asked: Collection[str], *, there: bool, now: datetime) -> Walk:
    """Where it is by now: at the same step, or at the next one.

    Args:
        walk: where it was.
        asked: what somebody asks for now.
        there: the candidate has the pods for its weight.
        now: the time, in UTC.
    """
    now = now.replace(microsecond=0)  # the precision of what is written
    if requests.PROMOTE in asked and walk.step.weight is None:
        return Walk(walk.steps, walk.at + 1, now)
    if requests.PAUSE in asked:
        return replace(walk, paused=True)
    if walk.paused:
        # What had passed of the step has told nobody anything: it begins again.
        return replace(walk, paused=False, since=now) if {requests.RESUME, requests.PROMOTE} & set(asked) else walk
    done = there if walk.step.weight is not None else walk.due is not None and now >= walk.due
    return Walk(walk.steps, walk.at + 1, now) if done and walk.at < len(walk.steps) else walk


def hash_of(steps: Sequence[RolloutStep]) -> str:
    """By which steps are told from others."""
    return content_hash({"steps": [step.dump() for step in steps]})[:_HASH_LENGTH]


def words(pool: InferencePool, walk: Walk) -> tuple[Reason, str]:
    """What a Canary waits for, if it is not for pods."""
    resume, promote = (requests.command(pool, name) for name in (requests.RESUME, requests.PROMOTE))
    if walk.paused:
        return Reason.ROLLOUT_PAUSED, f"paused; it goes on with: {resume}"
    if walk.step.pause is not None:
        return Reason.WAITING_FOR_PROMOTION, f"it goes on with: {promote}"
    if walk.due is not None:
        return Reason.ROLLING_OUT, f"it goes on at {format_time(walk.due)}"
    return Reason.ROLLING_OUT, ""


def title(walk: Walk) -> str:
    """The step in words, as counted by people.

    >>> title(begin((RolloutStep(weight=5), RolloutStep(pause_seconds=60)), datetime(2026, 1, 1)))
    'step 1 of 2, weight 5'
    """
    number = min(walk.at + 1, len(walk.steps))
    return f"step {number} of {len(walk.steps)}, weight {walk.weight}"

"""How a Canary, or a Shadow, goes through its steps.

Where it is stands in the status: the step, and since when. So whoever leads next goes on from there, and one step is
left only by a write of the status; pods and weights follow what is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aifactory.api.base import format_time
from aifactory.api.inferencepool import AnalysisWindow, InferencePool, RolloutStatus, RolloutStep
from aifactory.api.reasons import Reason
from aifactory.engine.apply import content_hash
from aifactory.serving import analysis, requests
from aifactory.serving.analysis import Look, Outcome
from aifactory.serving.measure import Measurement

CANARY: Final = "Canary"
SHADOW: Final = "Shadow"
_HASH_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a Canary or a Shadow is."""

    steps: tuple[RolloutStep, ...]
    at: int
    """The step that is under way; as many as there are after the last one."""
    since: datetime
    paused: bool = False
    window: AnalysisWindow | None = None
    """Of the comparison, where that is the step."""

    @property
    def step(self) -> RolloutStep:
        """What is being done; after the last one all requests are on their way to the candidate."""
        return self.steps[self.at] if self.at < len(self.steps) else _EVERYTHING

    @property
    def part(self) -> int:
        """The part of the requests, of 100, that the candidate is to have pods for."""
        parts = [part for step in (*self.steps[: self.at], self.step) if (part := step.weight or step.mirror)]
        return parts[-1] if parts else 0

    @property
    def mirrors(self) -> bool:
        """It is a Shadow, and not over: the candidate gets copies, and nobody its answers."""
        return self.at < len(self.steps) and any(step.mirror for step in self.steps)

    @property
    def weight(self) -> int:
        """The part of the requests, of 100, that the candidate is to answer."""
        return 0 if self.mirrors else self.part

    @property
    def needs_pods(self) -> bool:
        """The step is over when the candidate has its pods."""
        return bool(self.step.weight or self.step.mirror)

    @property
    def due(self) -> datetime | None:
        """When the step ends by itself, or its comparison can be told."""
        seconds = self.step.pause_seconds or self.step.analyze_seconds
        since = self.window.since if self.window is not None else self.since
        return since + timedelta(seconds=seconds) if seconds is not None and not self.paused else None


_EVERYTHING = RolloutStep(weight=100)


def steps_of(pool: InferencePool) -> tuple[RolloutStep, ...]:
    """The steps of the pool's changes; none where they are neither Canaries nor Shadows."""
    return (pool.spec.rollout.steps or ()) if pool.spec.rollout is not None else ()


def mirrors(pool: InferencePool) -> bool:
    """Whether the pool's changes begin with a Shadow."""
    return pool.spec.rollout is not None and pool.spec.rollout.strategy == SHADOW


def begin(steps: Sequence[RolloutStep], now: datetime) -> Walk:
    """At the first step."""
    return _enter(tuple(steps), 0, now.replace(microsecond=0))


def resume(steps: Sequence[RolloutStep], change: RolloutStatus | None, revision: str) -> Walk | None:
    """Where the change to a revision was; None where none by these steps is under way."""
    if change is None or change.phase != "Progressing" or change.revision != revision:
        return None
    if change.step is None or change.step_time is None or change.steps_hash != hash_of(steps):
        return None
    return Walk(tuple(steps), change.step, change.step_time, bool(change.paused), change.window)


def counted(walk: Walk, revision: str, measured: Measurement | None) -> Walk:
    """With what has been counted in its window by now."""
    window = walk.window
    if window is None or measured is None or (measured.revision, measured.since) != (revision, window.since):
        return walk
    sums = {"candidate": measured.candidate, "stable": measured.stable}
    return replace(walk, window=window.model_copy(update=sums))


def look_at(pool: InferencePool, walk: Walk, now: datetime) -> Look | None:
    """What its comparison comes to by now, if that is the step."""
    spec, seconds = pool.spec.rollout, walk.step.analyze_seconds
    if walk.window is None or seconds is None or spec is None or spec.analysis is None:
        return None
    if not walk.paused:
        return analysis.look(spec.analysis, walk.window, seconds, now)
    found = pool.status.rollout.analysis if pool.status.rollout is not None else None
    failed = walk.window.broken > (spec.analysis.failure_limit or 0)
    return Look(Outcome.FAILED, found or ()) if failed else None


def takes_back(pool: InferencePool) -> bool:
    """Whether a version that does not pass its comparison is taken back."""
    return pool.spec.rollout is None or pool.spec.rollout.auto_rollback is not False


def follow(walk: Walk, asked: Collection[str], look: Look | None = None, *, there: bool, now: datetime) -> Walk:
    """Where it is by now: at the same step, or at the next one.

    Args:
        walk: where it was.
        asked: what somebody asks for now.
        look: at the comparison, if that is the step.
        there: the candidate has the pods for its part.
        now: the time, in UTC.
    """
    now = now.replace(microsecond=0)  # the precision of what is written
    if requests.PROMOTE in asked and not walk.needs_pods:
        return _enter(walk.steps, walk.at + 1, now)
    if requests.PAUSE in asked:
        return replace(walk, paused=True)
    if walk.paused:
        # What had passed of the step has told nobody anything: it begins again.
        return _enter(walk.steps, walk.at, now) if {requests.RESUME, requests.PROMOTE} & set(asked) else walk
    if look is not None and walk.window is not None and look.outcome in (Outcome.BROKEN, Outcome.FAILED):
        broken = walk.window.broken + 1
        if look.outcome is Outcome.FAILED:  # it stays as it is, for somebody to look at
            return replace(walk, paused=True, window=walk.window.model_copy(update={"broken": broken}))
        return replace(walk, window=AnalysisWindow(since=now, broken=broken))
    if walk.needs_pods:
        done = there
    elif walk.window is not None:
        done = look is not None and look.outcome is Outcome.PASSED
    else:
        done = walk.due is not None and now >= walk.due
    return _enter(walk.steps, walk.at + 1, now) if done and walk.at < len(walk.steps) else walk


def _enter(steps: tuple[RolloutStep, ...], at: int, now: datetime) -> Walk:
    compares = at < len(steps) and steps[at].analyze_seconds is not None
    return Walk(steps, at, now, window=AnalysisWindow(since=now) if compares else None)


def hash_of(steps: Sequence[RolloutStep]) -> str:
    """By which steps are told from others."""
    return content_hash({"steps": [step.dump() for step in steps]})[:_HASH_LENGTH]


def words(pool: InferencePool, walk: Walk, look: Look | None) -> tuple[Reason, str]:
    """What it waits for, if it is not for pods; `look` is the last one at its comparison, if that is the step."""
    resume, promote = (requests.command(pool, name) for name in (requests.RESUME, requests.PROMOTE))
    if walk.paused and look is not None and look.outcome is Outcome.FAILED:
        abort = requests.command(pool, requests.ABORT)
        ways = f"it stays here (autoRollback is false); it goes on with: {promote}; it is taken back with: {abort}"
        return Reason.ANALYSIS_FAILED, f"{look.words(analysis.FAILED)}; {ways}"
    if walk.paused:
        return Reason.ROLLOUT_PAUSED, f"paused; it goes on with: {resume}"
    if walk.step.pause is not None:
        return Reason.WAITING_FOR_PROMOTION, f"it goes on with: {promote}"
    if walk.window is not None and look is not None and look.outcome is Outcome.INCONCLUSIVE:
        waits = f"{look.words(analysis.INCONCLUSIVE)}; it waits for more, or goes on with: {promote}"
        return Reason.ANALYSIS_INCONCLUSIVE, waits
    if walk.window is not None and walk.due is not None:
        return Reason.ANALYZING, f"it is compared until {format_time(walk.due)}"
    if walk.due is not None:
        return Reason.ROLLING_OUT, f"it goes on at {format_time(walk.due)}"
    return Reason.ROLLING_OUT, ""


def title(walk: Walk) -> str:
    """The step in words, as counted by people.

    >>> title(begin((RolloutStep(weight=5), RolloutStep(pause_seconds=60)), datetime(2026, 1, 1)))
    'step 1 of 2, weight 5'
    """
    number = min(walk.at + 1, len(walk.steps))
    return f"step {number} of {len(walk.steps)}, {'mirror' if walk.mirrors else 'weight'} {walk.part}"

"""What the agent reports: the state of every desired version, and whether the pod may have traffic.

A version that has failed stays so while it is tried again, until a try gets further than the last: whoever reads this
does not see it come and go with each try.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from aifactory_agent.serve.backoff import may_be_an_accident
from aifactory_agent.serve.planner import Actual, Failure, answers_by_name, conflict_with, is_ready, stands_by
from aifactory_contract.desired import Desired, ModelKey, ModelSpec
from aifactory_contract.errors import FactoryError, Reason


class State(StrEnum):
    """How far a desired version is."""

    PENDING = "Pending"
    FETCHING = "Fetching"
    LOADING = "Loading"
    READY = "Ready"
    STANDBY = "Standby"
    """It has answered in this pod, and is loaded when it is asked for."""
    FAILED = "Failed"


@dataclass(frozen=True)
class Loads:
    """How often a version was loaded since the agent was started, and when last, in seconds since 1970."""

    times: int = 0
    last: float = 0.0


@dataclass(frozen=True)
class Told:
    """What is told of loads."""

    seconds: Mapping[ModelKey, float] = field(default_factory=dict)
    """How long the last one took for the wish that is in force."""
    loads: Mapping[ModelKey, Loads] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelStatus:
    """One desired version."""

    key: ModelKey
    state: State
    reason: str = ""
    message: str = ""
    load_seconds: float | None = None
    warm: bool = False
    loads: Loads | None = None

    def as_json(self) -> dict[str, Any]:
        """The form of `/v1/status`."""
        document: dict[str, Any] = {"name": self.key.name, "version": self.key.version, "state": str(self.state)}
        document |= {"reason": self.reason, "message": self.message, "traffic": "warm" if self.warm else "live"}
        if self.load_seconds is not None:
            document["loadSeconds"] = round(self.load_seconds, 3)
        if self.loads is not None:
            document |= {"loads": self.loads.times, "loadedAt": int(self.loads.last)}
        return document


@dataclass(frozen=True)
class Status:
    """The answer of `/v1/status`."""

    revision: str = ""
    ready: bool = False
    reason: str = "Starting"
    message: str = "the agent has not looked at Triton yet"
    models: tuple[ModelStatus, ...] = field(default=())
    answers: tuple[ModelKey, ...] = ()
    """The versions that answer requests without a version."""
    carries: bool = False
    """Whether the pod may have traffic, which is what `/readyz` says: it is ready, or on the way from one wish to the
    next and answers as well as before."""

    @property
    def summary(self) -> tuple[bool, str, str]:
        """What is worth a line in the log when it changes."""
        return self.ready, self.reason, self.message

    def as_json(self) -> dict[str, Any]:
        """The form of `/v1/status`."""
        return {
            "revision": self.revision,
            "ready": self.ready,
            "reason": self.reason,
            "message": self.message,
            "models": [model.as_json() for model in self.models],
            "answers": {key.name: key.version for key in self.answers},
        }


def report(
    desired: Desired | None,
    problem: FactoryError | None,
    actual: Actual,
    told: Told,
    now: float,
) -> Status:
    """Status of the pod.

    Args:
        desired: the last readable desired.json, None if there was none yet.
        problem: what is wrong with desired.json now, or with Triton.
        told: of loads.
    """
    if desired is None:
        missing = problem or FactoryError(Reason.INVALID_DESIRED, "desired.json has not been read yet")
        return Status(reason=str(missing.reason), message=missing.message)
    models = tuple(
        replace(
            _model(spec, desired, actual, told.seconds.get(spec.key), now),
            warm=spec.warm,
            loads=told.loads.get(spec.key),
        )
        for spec in desired.models
    )
    named = sorted({*actual.serving, *(spec.key.name for spec in desired.live)})
    answers = tuple(filter(None, (answers_by_name(name, actual, desired) for name in named)))
    ready, reason, message = _judge(desired, problem, actual, [model for model in models if not model.warm])
    return Status(desired.revision, ready, reason, message, models, answers)


def _judge(
    desired: Desired, problem: FactoryError | None, actual: Actual, live: list[ModelStatus]
) -> tuple[bool, str, str]:
    """Whether the wish has come true, and if not, why: reason and message. Warm versions do not count."""
    if problem is not None:
        return False, str(problem.reason), problem.message
    waiting = [model for model in live if model.state not in (State.READY, State.STANDBY)]
    if not waiting and (early := _answers_still(desired, actual)) is not None:
        return False, str(State.LOADING), f"{early} still answers requests for {early.name} without a version"
    if not waiting:
        return True, "Ready", f"{len(live)} model version(s) answer"
    worst = min(waiting, key=lambda model: (model.state is not State.FAILED, model.key))
    message = f"{worst.key} is {worst.state}" + (f": {worst.message}" if worst.message else "")
    return False, worst.reason or str(worst.state), message


def _answers_still(desired: Desired, actual: Actual) -> ModelKey | None:
    """A version that shall not take traffic and answers by the name alone: on the way from 2 back to 1, it is 2."""
    for name in sorted({spec.key.name for spec in desired.live}):
        first = answers_by_name(name, actual)
        if first is not None and all(spec.key != first for spec in desired.named(name)):
            return first
    return None


def _model(spec: ModelSpec, desired: Desired, actual: Actual, seconds: float | None, now: float) -> ModelStatus:
    key = spec.key
    if is_ready(spec, actual):
        return ModelStatus(key, State.READY, load_seconds=seconds)
    failure = actual.failures.get(key)
    failure = failure if failure is not None and failure.spec == spec else None
    reason, message = (str(failure.reason), failure.message) if failure else ("", "")
    if not spec.warm and stands_by(spec, desired, actual):
        return ModelStatus(key, State.STANDBY, reason, "it is loaded when it is asked for", load_seconds=seconds)
    if key in actual.fetching:
        further = failure is None or actual.fetching[key] > failure.fetched
        return ModelStatus(key, State.FETCHING if further else State.FAILED, reason, message)
    waits = failure is not None and failure.retry_at > now
    if spec.warm and not waits and key in actual.present and key.name not in actual.loading:
        return ModelStatus(key, State.PENDING, reason, message or "its files are kept, it does not run")
    if not waits and key in actual.present and (leader := conflict_with(spec, desired, actual, now)) is not None:
        text = f"needs another Triton configuration than {leader.key}; give it another model name or serve one of them"
        return ModelStatus(key, State.FAILED, str(Reason.CONFIG_CONFLICT), text)
    if failure is not None and _stands(failure, actual, waits):
        return ModelStatus(key, State.FAILED, reason, message)
    if key in actual.present and not actual.triton_up:
        return ModelStatus(key, State.PENDING, reason or str(Reason.TRITON_UNAVAILABLE), message or "Triton is not up")
    if key.name in actual.crowded or (key.name in actual.resting and key in actual.present):
        return ModelStatus(key, State.PENDING, reason, message or "it waits for room, which others take that are asked")
    if key.name in actual.loading or key.version in actual.serving.get(key.name, frozenset()):
        return ModelStatus(key, State.LOADING, reason, message)
    return ModelStatus(key, State.PENDING, reason, message)


def _stands(failure: Failure, actual: Actual, waits: bool) -> bool:
    """Whether no try has got further than the one that failed. What may be an accident does not stand at all."""
    if may_be_an_accident(failure.reason, failure.attempts):
        return False
    key = failure.spec.key
    loaded = key.version in actual.serving.get(key.name, frozenset())
    return waits or not loaded or failure.reason is Reason.CONFIRM_FAILED

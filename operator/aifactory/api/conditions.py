"""Building `status.conditions`: a condition flips only on a fact, and its time moves only when it flips."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from aifactory.api.base import Condition
from aifactory.api.reasons import ConditionType, Reason

_MESSAGE_LIMIT = 1024


class ConditionSet:
    """Conditions of one object under construction, starting from those it has.

    What is set replaces the condition of that type; `lastTransitionTime` is kept unless the status is another than the
    object has, whatever was set in between.
    """

    def __init__(self, current: Iterable[Condition], generation: int, now: datetime) -> None:
        self._before = {condition.type: condition for condition in current}
        self._conditions = dict(self._before)
        self._generation = generation
        self._now = now

    def set(self, type_: ConditionType, status: bool | None, reason: Reason, message: str = "") -> None:
        """Set one condition; `None` is Unknown."""
        text = {True: "True", False: "False", None: "Unknown"}[status]
        previous = self._before.get(type_)
        since = previous.last_transition_time if previous is not None and previous.status == text else self._now
        self._conditions[type_] = Condition(
            type=str(type_),
            status=text,
            reason=str(reason),
            message=shorten(message),
            last_transition_time=since,
            observed_generation=self._generation,
        )

    def kstatus(self, true: ConditionType | None, reason: Reason, message: str) -> None:
        """Ready, Reconciling and Stalled, of which one is true at most (kstatus); `None`: rests on request."""
        self.set(ConditionType.READY, true is ConditionType.READY, reason, message)
        for type_ in (ConditionType.RECONCILING, ConditionType.STALLED):
            self.set(type_, true is type_, reason, message if true is type_ else "")

    def by(self, fact: Condition, true: ConditionType) -> None:
        """Ready, Reconciling and Stalled as they follow from a fact that stands, whatever was told in between."""
        self.kstatus(true, cast("Reason", fact.reason), fact.message)

    def holds(self, type_: ConditionType) -> bool:
        """Whether it is there and True by now."""
        return is_true(self._conditions.values(), type_)

    def remove(self, type_: ConditionType) -> None:
        """Drop a condition about which nothing is known any more."""
        self._conditions.pop(type_, None)

    def result(self) -> tuple[Condition, ...]:
        """All conditions, sorted by type so that equal sets are equal tuples."""
        return tuple(self._conditions[key] for key in sorted(self._conditions))


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition is there and True."""
    return any(condition.type == type_ and condition.status == "True" for condition in conditions)


def find(conditions: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """The condition of that type, if it is there."""
    return next((condition for condition in conditions if condition.type == type_), None)


def shorten(message: str, limit: int = _MESSAGE_LIMIT) -> str:
    """Collapse white space and cut at `limit` characters: status is read in a terminal."""
    text = " ".join(message.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""Conditions: a time moves exactly when a status flips, and messages are fit to be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.api.base import Condition, format_time
from aifactory.api.conditions import ConditionSet, find, is_true, shorten
from aifactory.api.reasons import ConditionType, Reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def one(status: bool | None, current: tuple[Condition, ...] = (), now: datetime = NOW) -> tuple[Condition, ...]:
    found = ConditionSet(current, 3, now)
    found.set(ConditionType.READY, status, Reason.SERVING, "words")
    return found.result()


@pytest.mark.parametrize(("status", "text"), [(True, "True"), (False, "False"), (None, "Unknown")])
def test_a_condition_is_set(status: bool | None, text: str) -> None:
    (found,) = one(status)
    assert found.dump() == {
        "type": "Ready",
        "status": text,
        "reason": "Serving",
        "message": "words",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 3,
    }


def test_another_reason_does_not_move_the_time() -> None:
    found = ConditionSet(one(True), 4, LATER)
    found.set(ConditionType.READY, True, Reason.SCALED_TO_ZERO, "other words")
    (after,) = found.result()
    assert (after.last_transition_time, after.reason, after.observed_generation) == (NOW, "ScaledToZero", 4)


def test_a_flip_moves_the_time() -> None:
    (after,) = one(None, one(True), LATER)
    assert after.last_transition_time == LATER


def test_what_is_set_and_set_back_has_not_flipped() -> None:
    found = ConditionSet(one(True), 3, LATER)
    found.set(ConditionType.READY, False, Reason.SERVING, "words")
    found.set(ConditionType.READY, True, Reason.SERVING, "words")
    assert found.result() == one(True)


@given(st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_the_time_is_that_of_the_last_flip(statuses: list[bool | None]) -> None:
    found: tuple[Condition, ...] = ()
    flipped, previous, now = NOW, object(), NOW
    for status in statuses:
        now += timedelta(minutes=1)
        if status is not previous:
            flipped = now
        found, previous = one(status, found, now), status
    assert found[0].last_transition_time == flipped


@given(st.permutations(list(ConditionType)))
def test_the_order_does_not_depend_on_the_order_of_setting(types: list[ConditionType]) -> None:
    found = ConditionSet((), 1, NOW)
    for type_ in types:
        found.set(type_, True, Reason.SERVING)
    result = [condition.type for condition in found.result()]
    assert result == sorted(result)
    assert len(result) <= 32, "what the schema allows"


def test_a_condition_that_is_removed_is_gone_and_others_stay() -> None:
    found = ConditionSet(one(True), 1, NOW)
    found.set(ConditionType.SCHEDULED, True, Reason.PODS_SCHEDULED)
    found.remove(ConditionType.READY)
    found.remove(ConditionType.READY)
    assert [condition.type for condition in found.result()] == ["Scheduled"]


def test_looking_up() -> None:
    found = one(True)
    assert is_true(found, ConditionType.READY)
    assert not is_true(one(None), ConditionType.READY)
    assert not is_true(found, ConditionType.FAILED)
    assert find(found, ConditionType.READY) is found[0]
    assert find(found, ConditionType.FAILED) is None


@given(st.text(max_size=30), st.integers(0, 200))
def test_a_message_is_one_short_line(text: str, times: int) -> None:
    short = shorten(text * times)
    assert len(short) <= 1024
    assert "\n" not in short
    assert shorten(short) == short


@pytest.mark.parametrize(
    "time",
    [
        NOW,
        NOW.replace(microsecond=999_999),
        NOW.astimezone(timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_times_are_utc_with_whole_seconds(time: datetime) -> None:
    assert format_time(time) == "2026-01-01T00:00:00Z"

"""The failure policy's arithmetic: what counts, for how long, and how long to wait."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import Backoff, FailurePolicy, Restarts
from aifactory.training.policy import GiveUp, Restart, backoff_seconds, decide, forgive
from tests.unit.training.builders import NOW


def ago(*seconds: int) -> Restarts:
    """Counted restarts that long ago."""
    times = tuple(NOW - timedelta(seconds=value) for value in seconds)
    return Restarts(
        total=len(times), counted=len(times), counted_times=times, by_cause={"ApplicationError": len(times)}
    )


def restarts_of(verdict: Restart | GiveUp) -> Restarts:
    assert isinstance(verdict, Restart), verdict
    return verdict.restarts


def test_the_first_failure_restarts_after_ten_seconds() -> None:
    restarts = restarts_of(decide(None, Restarts(), Reason.APPLICATION_ERROR, NOW))
    assert restarts == Restarts(
        total=1,
        counted=1,
        by_cause={"ApplicationError": 1},
        counted_times=(NOW,),
        without_progress=1,
        next_attempt_time=NOW + timedelta(seconds=10),
    )


@pytest.mark.parametrize("cause", [Reason.APPLICATION_ERROR, Reason.OUT_OF_MEMORY])
def test_the_fourth_failure_within_the_window_is_the_end(cause: Reason) -> None:
    verdict = decide(None, ago(30, 20, 10), cause, NOW)
    assert verdict == GiveUp(
        Reason.MAX_RESTARTS_EXCEEDED, "3 restarts within 3600 s and failurePolicy.maxRestarts is 3"
    )


def test_restarts_older_than_the_window_are_forgotten() -> None:
    policy = FailurePolicy(max_restarts=2, window_seconds=100)
    restarts = restarts_of(decide(policy, ago(101, 100, 99), Reason.OUT_OF_MEMORY, NOW))
    assert restarts.total == 4
    assert restarts.counted == 2
    assert restarts.counted_times == (NOW - timedelta(seconds=99), NOW)
    assert restarts.by_cause == {"ApplicationError": 3, "OutOfMemory": 1}
    assert isinstance(decide(policy, ago(99, 98), Reason.OUT_OF_MEMORY, NOW), GiveUp)


def test_no_restart_is_allowed_when_none_is_wanted() -> None:
    verdict = decide(FailurePolicy(max_restarts=0), Restarts(), Reason.APPLICATION_ERROR, NOW)
    assert isinstance(verdict, GiveUp)
    assert "failurePolicy.maxRestarts is 0" in verdict.explanation


@pytest.mark.parametrize("cause", [Reason.DISRUPTION, Reason.NODE_REFUSED, Reason.APPLICATION_ERROR])
def test_nothing_restarts_for_ever(cause: Reason) -> None:
    policy = FailurePolicy(max_restarts=1000, window_seconds=1)
    assert isinstance(decide(policy, Restarts(total=99), cause, NOW), Restart)
    verdict = decide(policy, Restarts(total=100), cause, NOW)
    assert verdict == GiveUp(
        Reason.MAX_RESTARTS_EXCEEDED, "100 restarts in all and failurePolicy.maxTotalRestarts is 100"
    )
    assert isinstance(decide(FailurePolicy(max_total_restarts=0), Restarts(), cause, NOW), GiveUp)


def test_restarts_that_get_no_further_come_to_an_end() -> None:
    policy, restarts = FailurePolicy(max_restarts_without_progress=3, max_restarts=1000), Restarts()
    for step in (10, 20, 20, 20):
        restarts = restarts_of(decide(policy, restarts, Reason.DISRUPTION, NOW, step=step))
    assert (restarts.furthest_step, restarts.without_progress) == (20, 3)
    assert isinstance(decide(policy, restarts, Reason.DISRUPTION, NOW, step=21), Restart), "it got further"
    verdict = decide(policy, restarts, Reason.DISRUPTION, NOW, step=20)
    assert verdict == GiveUp(
        Reason.NO_PROGRESS,
        "3 restarts in a row from step 20 and failurePolicy.maxRestartsWithoutProgress is 3",
    )
    free = FailurePolicy(max_restarts=1000)
    assert isinstance(decide(free, restarts, Reason.DISRUPTION, NOW, step=20), Restart), "only if asked for"


def test_a_node_that_refuses_does_not_count_and_is_waited_for_longer_and_longer() -> None:
    policy = FailurePolicy(max_restarts=0, backoff=Backoff(base_seconds=1, max_seconds=60))
    restarts, waits = Restarts(), []
    for _ in range(8):
        restarts = restarts_of(decide(policy, restarts, Reason.NODE_REFUSED, NOW))
        assert restarts.next_attempt_time is not None
        waits.append((restarts.next_attempt_time - NOW).total_seconds())
    assert (restarts.total, restarts.counted, restarts.by_cause) == (8, 0, {"NodeRefused": 8})
    assert waits == [10, 10, 10, 10, 16, 32, 60, 60]


def test_work_that_is_done_is_not_lost_for_an_abort_on_the_way_out() -> None:
    policy, restarts = FailurePolicy(max_restarts=0), Restarts()
    for number in range(1, 4):
        restarts = restarts_of(decide(policy, restarts, Reason.ABORTED_AT_END, NOW))
        assert (restarts.counted, restarts.by_cause) == (0, {"AbortedAtEnd": number})
    assert isinstance(decide(policy, restarts, Reason.ABORTED_AT_END, NOW), GiveUp), "nothing restarts for ever"


def test_the_first_refusal_of_a_node_waits_as_long_as_the_policy_says() -> None:
    policy = FailurePolicy(backoff=Backoff(base_seconds=20))
    restarts = restarts_of(decide(policy, Restarts(), Reason.NODE_REFUSED, NOW))
    assert restarts.next_attempt_time == NOW + timedelta(seconds=20)


def test_a_failure_that_is_forgiven_is_taken_from_the_last_counted_ones() -> None:
    before = ago(30, 20, 10).model_copy(update={"next_attempt_time": NOW})
    assert forgive(before, Reason.APPLICATION_ERROR) == Restarts(
        total=3,
        counted=2,
        counted_times=before.counted_times[:2],
        by_cause={"ApplicationError": 2, "Disruption": 1},
    )


def test_forgiving_what_is_not_on_record_leaves_no_count_behind() -> None:
    """Somebody has replaced the status by hand."""
    assert forgive(Restarts(total=1, counted_times=(NOW,)), Reason.OUT_OF_MEMORY).by_cause == {"Disruption": 1}


def test_a_program_that_can_not_be_started_is_not_tried_again() -> None:
    verdict = decide(None, Restarts(), Reason.CONTAINER_CANNOT_START, NOW)
    assert isinstance(verdict, GiveUp)
    assert (verdict.reason, "correct image and command" in verdict.explanation) == (Reason.CONTAINER_CANNOT_START, True)


@pytest.mark.parametrize(("seconds", "wait"), [(0, 10), (59, 10), (60, None), (3600, None)])
def test_a_disruption_soon_after_another_failure_waits_once(seconds: int, wait: int | None) -> None:
    last = NOW - timedelta(seconds=seconds)
    restarts = restarts_of(decide(None, Restarts(), Reason.DISRUPTION, NOW, last))
    assert restarts.counted == 0
    assert restarts.next_attempt_time == (None if wait is None else NOW + timedelta(seconds=wait))


def test_a_disruption_counts_nothing_and_waits_for_nothing() -> None:
    before = ago(30, 20, 10)
    restarts = restarts_of(decide(FailurePolicy(max_restarts=0), before, Reason.DISRUPTION, NOW))
    assert restarts.total == 4
    assert restarts.counted_times == before.counted_times
    assert restarts.by_cause == {"ApplicationError": 3, "Disruption": 1}
    assert restarts.next_attempt_time is None


def test_exit_code_93_is_the_end_whatever_the_policy_allows() -> None:
    verdict = decide(FailurePolicy(max_restarts=1000), Restarts(), Reason.NO_RESTART_REQUESTED, NOW)
    assert isinstance(verdict, GiveUp)
    assert verdict.reason is Reason.NO_RESTART_REQUESTED


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (None, [10, 20, 40, 80, 160, 320, 600, 600]),
        (Backoff(base_seconds=1, max_seconds=5), [1, 2, 4, 5, 5]),
        (Backoff(base_seconds=0), [0, 0, 0]),
        (Backoff(max_seconds=0), [0, 0]),
        (Backoff(base_seconds=100, max_seconds=30), [30, 30]),
    ],
)
def test_the_wait_doubles_up_to_its_limit(backoff: Backoff | None, waits: list[int]) -> None:
    policy = FailurePolicy(backoff=backoff)
    assert [backoff_seconds(policy, earlier) for earlier in range(len(waits))] == waits


def test_without_a_wait_there_is_no_time_to_wait_for() -> None:
    policy = FailurePolicy(backoff=Backoff(base_seconds=0))
    assert restarts_of(decide(policy, Restarts(), Reason.APPLICATION_ERROR, NOW)).next_attempt_time is None


@given(st.integers(0, 1000), st.integers(0, 86_400), st.integers(0, 86_400))
def test_the_wait_is_never_longer_than_allowed_and_never_shrinks(earlier: int, base: int, most: int) -> None:
    policy = FailurePolicy(backoff=Backoff(base_seconds=base, max_seconds=most))
    now, later = backoff_seconds(policy, earlier), backoff_seconds(policy, earlier + 1)
    assert 0 <= now <= later <= most


@given(st.lists(st.integers(0, 5000), max_size=60), st.integers(0, 5), st.integers(1, 4000))
def test_never_more_than_the_allowed_restarts_fall_into_any_window(gaps: list[int], limit: int, window: int) -> None:
    policy = FailurePolicy(max_restarts=limit, window_seconds=window)
    restarts, now, allowed = Restarts(), NOW, []
    for gap in gaps:
        now += timedelta(seconds=gap)
        verdict = decide(policy, restarts, Reason.APPLICATION_ERROR, now)
        if isinstance(verdict, GiveUp):
            break
        restarts = verdict.restarts
        allowed.append(now)
        assert restarts.counted == len(restarts.counted_times)
    for start in allowed:
        assert sum(start <= time < start + timedelta(seconds=window) for time in allowed) <= limit

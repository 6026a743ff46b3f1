"""Which pods of earlier attempts go, and which stay for their logs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aifactory.training import evidence
from aifactory.training.state import PodView
from tests.unit.training.builders import NOW, job, observe, pod


def leftovers(*pods: PodView, attempt: int = 1, **status: Any) -> set[str]:
    owner = job(nodes=4, status={"attempt": attempt, **status})
    return {view.name for view in evidence.leftovers(observe(owner, *pods))}


def failed(index: int, attempt: int = 0, seconds: float | None = 0, **changes: Any) -> PodView:
    at = None if seconds is None else NOW + timedelta(seconds=seconds)
    return pod(index, attempt, exit_code=1, finished_at=at, **changes)


def test_the_first_that_failed_stays_and_what_failed_or_ended_well_beside_it_goes() -> None:
    found = leftovers(failed(0, seconds=5), failed(1, seconds=2), failed(2, seconds=None), pod(3, exit_code=0))
    assert found == {"train-0-0", "train-2-0", "train-3-0"}
    assert leftovers(failed(1), failed(0)) == {"train-1-0"}, "of two at the same moment the lower index stays"


def test_the_one_that_the_status_names_stays() -> None:
    told = {"time": NOW, "attempt": 0, "pod": "train-1-0", "index": 1, "cause": "ApplicationError", "message": "m"}
    assert leftovers(failed(0), failed(1, seconds=9), lastFailure=told) == {"train-0-0"}


def test_what_still_runs_or_is_on_its_way_out_is_no_leftover_and_no_evidence() -> None:
    running, going = pod(0, running=True), failed(1, terminating=True)
    assert leftovers(running, going, failed(2, seconds=9), failed(3, seconds=10)) == {"train-3-0"}


def test_the_last_three_are_counted_without_this_attempt_and_by_number() -> None:
    pods = [failed(0, attempt) for attempt in (1, 2, 3, 8, 9)]
    assert leftovers(*pods, attempt=9) == {"train-0-1"}


def test_pods_of_this_attempt_are_none_of_it() -> None:
    assert leftovers(failed(0, attempt=1), failed(1, attempt=1), pod(2, 1, exit_code=0)) == set()


def test_of_the_last_three_attempts_that_failed_one_pod_each_stays() -> None:
    pods = [failed(index, attempt) for attempt in (0, 2, 3, 4) for index in (0, 1)]
    assert leftovers(*pods, pod(0, 5, exit_code=0), attempt=6) == {
        *("train-0-0", "train-1-0"),
        *("train-1-2", "train-1-3", "train-1-4"),
        "train-0-5",
    }

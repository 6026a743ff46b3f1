"""Reports of the training program in status: complete when they matter, and not more often than every ten seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.trainingjob import Checkpoint, Metric, Progress, Restarts, TrainingJobStatus
from aifactory.training.progress import fold, human_duration
from tests.unit.training.builders import NOW, decide, job, observe, pod, report


def later(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def status(step: int = 100, *, attempt: int = 0, at: float = 0, now_attempt: int | None = None) -> TrainingJobStatus:
    progress = Progress(attempt=attempt, step=step, summary=f"step {step}", last_heartbeat_time=later(at))
    return TrainingJobStatus(attempt=attempt if now_attempt is None else now_attempt, progress=progress)


def test_a_report_becomes_figures() -> None:
    first = report(
        120,
        total_steps=300,
        tokens_per_second=51234.5,
        metrics=(("accuracy", 0.5), ("loss", 2.31419)),
        first_time=later(-60),
        first_step=0,
        checkpoint_step=100,
        checkpoint_path="checkpoints/step-100",
    )
    folded = fold(TrainingJobStatus(), first, NOW, force=False)
    assert folded.progress == Progress(
        attempt=0,
        step=120,
        total_steps=300,
        percent=40,
        summary="40%",
        eta_seconds=90,
        eta="90s",
        tokens_per_second="51234",
        loss="2.314",
        metrics=(Metric(name="accuracy", value="0.5"), Metric(name="loss", value="2.31419")),
        last_heartbeat_time=NOW,
    )
    assert folded.checkpoint is not None
    assert (folded.checkpoint.step, folded.checkpoint.path, folded.checkpoint.time) == (
        100,
        "checkpoints/step-100",
        NOW,
    )
    assert folded.due_after is None


def test_without_a_total_there_is_no_percent_and_no_eta() -> None:
    progress = fold(TrainingJobStatus(), report(7, first_time=later(-5)), NOW, force=False).progress
    assert progress is not None
    assert (progress.percent, progress.eta_seconds, progress.eta, progress.summary) == (None, None, "", "step 7")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (3599, "59m"),
        (3600, "1h"),
        (12_000, "3h20m"),
        (172_799, "47h59m"),
        (172_800, "2d"),
        (190_000, "2d4h"),
    ],
)
def test_a_time_left_is_for_people(seconds: int, words: str) -> None:
    assert human_duration(seconds) == words


@pytest.mark.parametrize(
    ("step", "first_step", "elapsed", "eta"),
    [
        (50, 0, 100, 100),
        (50, 40, 10, 50),  # resumed from 40: only this attempt's pace counts
        (0, 0, 100, None),  # no step yet
        (50, 50, 100, None),
        (50, 0, 0, None),  # no time yet
        (100, 0, 100, 0),
        (120, 0, 100, 0),
    ],
)
def test_the_eta_follows_the_pace_of_this_attempt(step: int, first_step: int, elapsed: int, eta: int | None) -> None:
    found = report(step, total_steps=100, first_step=first_step, first_time=later(-elapsed))
    progress = fold(TrainingJobStatus(), found, NOW, force=False).progress
    assert progress is not None
    assert progress.eta_seconds == eta


def test_more_steps_than_planned_are_not_more_than_all() -> None:
    progress = fold(TrainingJobStatus(), report(120, total_steps=100), NOW, force=False).progress
    assert progress is not None
    assert progress.percent == 100


WAITING = report(110, at=later(4))


def test_a_report_within_ten_seconds_waits() -> None:
    before = status()
    folded = fold(before, WAITING, later(4), force=False)
    assert folded.progress == before.progress
    assert folded.due_after == 6


@pytest.mark.parametrize(
    ("found", "now", "force"),
    [
        pytest.param(WAITING, 10, False, id="after-ten-seconds"),
        pytest.param(WAITING, 4, True, id="the-status-is-written-anyway"),
        pytest.param(report(300, total_steps=300, at=later(1)), 1, False, id="the-last-step"),
        pytest.param(report(5, attempt=1, at=later(1)), 1, False, id="a-new-attempt"),
    ],
)
def test_a_report_does_not_wait(found: Any, now: float, force: bool) -> None:
    folded = fold(status(now_attempt=found.attempt), found, later(now), force=force)
    assert folded.progress is not None
    assert folded.progress.step == found.step
    assert folded.due_after is None


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(None, id="none"),
        pytest.param(report(90, at=later(-1)), id="older-than-what-is-written"),
        pytest.param(report(100, at=NOW), id="the-written-one"),
        pytest.param(report(999, attempt=7, at=later(60)), id="of-another-attempt"),
    ],
)
def test_what_is_no_news_changes_nothing(found: Any) -> None:
    before = status()
    folded = fold(before, found, later(60), force=True)
    assert (folded.progress, folded.due_after) == (before.progress, None)


def test_steps_done_again_are_counted_once_for_each_attempt() -> None:
    written = status(step=130, now_attempt=1)
    folded = fold(written, report(101, attempt=1, resumed_from_step=100, at=later(60)), later(60), force=False)
    assert folded.restarts.lost_steps == 30
    written = TrainingJobStatus(attempt=1, progress=folded.progress, restarts=folded.restarts)
    again = fold(written, report(140, attempt=1, resumed_from_step=100, at=later(80)), later(80), force=False)
    assert again.restarts.lost_steps == 30


def test_an_attempt_that_did_not_resume_has_lost_everything() -> None:
    folded = fold(status(step=130, now_attempt=1), report(1, attempt=1, at=later(9)), later(9), force=False)
    assert folded.restarts.lost_steps == 130


def test_a_resume_ahead_of_the_last_report_has_lost_nothing() -> None:
    found = report(151, attempt=2, resumed_from_step=150, at=later(9))
    assert fold(status(step=130, now_attempt=2), found, later(9), force=False).restarts.lost_steps == 0


def test_a_checkpoint_keeps_its_time_until_the_next_one() -> None:
    first = fold(TrainingJobStatus(), report(10, checkpoint_step=10, checkpoint_path="a"), NOW, force=False)
    before = TrainingJobStatus(progress=first.progress, checkpoint=first.checkpoint)
    same = fold(before, report(15, at=later(20), checkpoint_step=10, checkpoint_path="a"), later(20), force=False)
    assert same.checkpoint == first.checkpoint
    none = fold(before, report(15, at=later(20)), later(20), force=False)
    assert none.checkpoint == first.checkpoint
    following = fold(before, report(20, at=later(20), checkpoint_step=20, checkpoint_path="b"), later(20), force=False)
    assert following.checkpoint is not None
    assert (following.checkpoint.step, following.checkpoint.time) == (20, later(20))


def test_a_running_job_is_looked_at_again_when_the_report_is_due() -> None:
    running = job(status={"resolved": {"nodes": 1, "createdAttempt": 0}})
    first = decide(observe(running, pod(running=True), progress=report(1)), NOW)
    assert first.status.progress is not None
    written = running.model_copy(update={"status": first.status})
    quiet = decide(observe(written, pod(running=True), progress=report(5, at=later(3))), later(3))
    assert quiet.status == first.status, "nothing is written before its time"
    assert quiet.requeue_after == 7


def test_the_newest_report_rides_along_when_the_status_changes_anyway() -> None:
    running = job(status={"resolved": {"nodes": 1, "createdAttempt": 0}})
    first = decide(observe(running, pod(running=True), progress=report(1)), NOW)
    written = running.model_copy(update={"status": first.status})
    failed = decide(observe(written, pod(exit_code=1), progress=report(5, at=later(3))), later(3))
    assert failed.status.attempt == 1
    assert failed.status.progress is not None
    assert failed.status.progress.step == 5


def test_the_last_step_is_told_at_once_but_once() -> None:
    written = fold(TrainingJobStatus(), report(300, total_steps=300), NOW, force=False)
    before = TrainingJobStatus(progress=written.progress)
    again = fold(before, report(300, total_steps=300, at=later(1)), later(1), force=False)
    assert (again.progress, again.due_after) == (written.progress, 9)
    beyond = fold(before, report(301, total_steps=300, at=later(2)), later(2), force=False)
    assert (beyond.progress, beyond.due_after) == (written.progress, 8)


def test_times_are_cut_to_the_second_and_a_checkpoint_has_its_own() -> None:
    at = NOW.replace(microsecond=999_999)
    saved = fold(
        TrainingJobStatus(),
        report(9, at=at, checkpoint_step=5, checkpoint_time=at - timedelta(minutes=1)),
        at,
        force=True,
    )
    assert saved.progress is not None
    assert saved.progress.last_heartbeat_time == NOW
    assert saved.checkpoint is not None
    assert saved.checkpoint.time == later(-60)
    assert fold(TrainingJobStatus(), report(9, at=at, checkpoint_step=5), at, force=True).checkpoint == Checkpoint(
        step=5, time=NOW, path=""
    )


def test_what_restarts_cost_adds_up() -> None:
    written = TrainingJobStatus(attempt=2, progress=status(step=130).progress, restarts=Restarts(lost_steps=12))
    folded = fold(written, report(101, attempt=2, resumed_from_step=100, at=later(60)), later(60), force=False)
    assert folded.restarts.lost_steps == 42


def test_a_report_of_nothing_done_yet_is_no_percent_of_nothing() -> None:
    progress = fold(TrainingJobStatus(), report(0, total_steps=0, first_time=later(-5)), NOW, force=False).progress
    assert progress is not None
    assert (progress.percent, progress.summary) == (None, "step 0")


def test_a_report_waits_until_its_very_second() -> None:
    folded = fold(status(), report(110, at=later(9.5)), later(9.5), force=False)
    assert folded.due_after == 0.5


def test_the_last_step_does_not_wait_for_one_shortly_before_it() -> None:
    almost = fold(TrainingJobStatus(), report(199, total_steps=200), NOW, force=False).progress
    assert almost is not None
    assert almost.percent == 99
    before = TrainingJobStatus(progress=almost)
    found = fold(before, report(200, total_steps=200, at=later(1)), later(1), force=False)
    assert found.progress is not None
    assert (found.progress.step, found.due_after) == (200, None)


@pytest.mark.parametrize(("step", "elapsed", "eta"), [(1, 10, 990), (50, 1, 1)])
def test_one_step_or_one_second_makes_a_pace(step: int, elapsed: int, eta: int) -> None:
    found = report(step, total_steps=100, first_time=later(-elapsed))
    progress = fold(TrainingJobStatus(), found, NOW, force=False).progress
    assert progress is not None
    assert progress.eta_seconds == eta

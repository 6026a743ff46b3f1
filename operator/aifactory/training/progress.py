"""Folding reports of the training program into status, at most one write every ten seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aifactory.api.trainingjob import Checkpoint, Metric, Progress, Restarts, TrainingJobStatus
from aifactory.training.state import ProgressReport

WRITE_INTERVAL_SECONDS = 10
"""A report newer than the written one by less than this waits, unless the status is written anyway."""


@dataclass(frozen=True, slots=True)
class Folded:
    """Status fields after a report, and when a held-back report is due."""

    progress: Progress | None
    checkpoint: Checkpoint | None
    restarts: Restarts
    due_after: float | None = None


def fold(status: TrainingJobStatus, report: ProgressReport | None, now: datetime, *, force: bool) -> Folded:
    """Status fields with the report in them, or as they are while the report may wait.

    Args:
        status: the status so far.
        report: the newest report, if any.
        now: the time.
        force: the status is going to be written anyway, so the newest figures go with it.
    """
    restarts = status.restarts or Restarts()
    unchanged = Folded(status.progress, status.checkpoint, restarts)
    if report is None or report.attempt != status.attempt:
        return unchanged
    written = status.progress
    if written is not None and written.attempt == report.attempt:
        if report.time <= written.last_heartbeat_time:
            return unchanged
        wait = WRITE_INTERVAL_SECONDS - (now - written.last_heartbeat_time).total_seconds()
        news = report.finished and not is_finished(written)
        if wait > 0 and not force and not news:
            return Folded(status.progress, status.checkpoint, restarts, due_after=wait)
    return Folded(_progress(report), _checkpoint(status, report), _with_lost_steps(restarts, written, report))


def is_finished(written: Progress) -> bool:
    """That there is no step left has been told."""
    return written.total_steps is not None and written.step >= written.total_steps


def _progress(report: ProgressReport) -> Progress:
    percent = None
    if report.total_steps:
        percent = min(100, report.step * 100 // report.total_steps)
    loss = dict(report.metrics).get("loss")
    eta = _eta_seconds(report)
    return Progress(
        attempt=report.attempt,
        step=report.step,
        total_steps=report.total_steps,
        percent=percent,
        summary=f"{percent}%" if percent is not None else f"step {report.step}",
        eta_seconds=eta,
        eta="" if eta is None else human_duration(eta),
        tokens_per_second=None if report.tokens_per_second is None else f"{report.tokens_per_second:.0f}",
        loss=None if loss is None else f"{loss:.3f}",
        metrics=tuple(Metric(name=name, value=f"{value:.6g}") for name, value in report.metrics),
        last_heartbeat_time=report.time.replace(microsecond=0),
    )


def _eta_seconds(report: ProgressReport) -> int | None:
    """Remaining steps at the pace of this attempt so far."""
    if report.total_steps is None or report.first_time is None:
        return None
    seconds = (report.time - report.first_time).total_seconds()
    steps = report.step - report.first_step
    if steps <= 0 or seconds <= 0:
        return None
    return max(0, round((report.total_steps - report.step) * seconds / steps))


def human_duration(seconds: int) -> str:
    """As kubectl writes ages, with one or two units.

    >>> human_duration(90), human_duration(12_000), human_duration(190_000)
    ('90s', '3h20m', '2d4h')
    """
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 120:
        return f"{seconds}s"
    if hours < 1:
        return f"{minutes}m"
    if hours < 48:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"


def _checkpoint(status: TrainingJobStatus, report: ProgressReport) -> Checkpoint | None:
    if report.checkpoint_step is None:
        return status.checkpoint
    if status.checkpoint is not None and status.checkpoint.step == report.checkpoint_step:
        return status.checkpoint
    time = (report.checkpoint_time or report.time).replace(microsecond=0)
    return Checkpoint(step=report.checkpoint_step, time=time, path=report.checkpoint_path)


def _with_lost_steps(restarts: Restarts, written: Progress | None, report: ProgressReport) -> Restarts:
    """Count, once for each attempt, the steps that are done again because they came after the last checkpoint."""
    if written is None or written.attempt >= report.attempt:
        return restarts
    lost = max(0, written.step - (report.resumed_from_step or 0))
    return restarts.model_copy(update={"lost_steps": restarts.lost_steps + lost})

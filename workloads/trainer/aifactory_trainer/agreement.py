"""When to save and when to stop: what all ranks decide together at the end of a step.

Role: SIGTERM, the clock and the number of the step, made into one decision. It writes no checkpoint and knows no loop;
`Run` and the callback for Hugging Face's Trainer ask it.

What always holds:
- Every rank gets the same decision after the same step; with several ranks not after each one (`Rhythm`).
- A checkpoint that would not be done before SIGKILL is not begun, and the last words say so.
- A process that ends because it was asked to ends with 143, never with 0: the job is not done.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from aifactory_trainer import errors
from aifactory_trainer.distributed import Group, Rhythm
from aifactory_trainer.environment import Environment
from aifactory_trainer.progress import Reporter

log = logging.getLogger("aifactory")

_LEAVING_SECONDS = 1.0
"""What is kept of the time before SIGKILL for the end itself."""
_LAST_WORDS_SECONDS = 2.0
"""For the last report after SIGTERM."""
_FOR_EVER = 1e9


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done after a step.

    Attributes:
        save: write a checkpoint.
        stopper: the rank that was asked to end, so all end after this step; None: go on.
        lost: why no checkpoint of this step is begun before the end.
    """

    save: bool
    stopper: int | None = None
    lost: str = ""


class Agreement:
    """Asks the ranks, after steps, and ends them when one was asked to end."""

    def __init__(
        self, group: Group, environment: Environment, *, every: int | None = None, seconds: float | None = None
    ) -> None:
        """Args: every: a checkpoint is due after each so many steps. seconds: one is due when the last is this old."""
        self._group = group
        self._environment = environment
        self._every = every
        self._seconds = environment.checkpoint_seconds if seconds is None else seconds
        self._rhythm = Rhythm()
        self._asked_at = (time.monotonic(), 0)
        self._stop_asked: float | None = None
        """When SIGTERM came, in monotonic seconds."""
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0
        """How long the last save took; rank 0 only."""
        self._warned_slow = False

    @contextmanager
    def listening(self, step: int) -> Iterator[None]:
        """Heed SIGTERM while the loop runs, which begins after this step. Only the main thread can take it over."""
        self._asked_at = (time.monotonic(), step)
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def after(self, step: int, *, last: bool) -> Decision | None:
        """Ask all ranks, if it is time to; None if it is not.

        Args:
            last: there is no step after this one, so a checkpoint is due.
        """
        due = last or (self._every is not None and step % self._every == 0)
        if not (due or self._group.size == 1 or self._rhythm.due(step)):
            return None
        old = self._group.rank == 0 and time.monotonic() - self._saved_at >= self._seconds
        stopper, save, late, takes, pace = self._group.maximum(
            self._group.rank + 1 if self._stop_asked is not None else 0,
            int(due or old),
            -_milliseconds(self._seconds_left()),
            _milliseconds(self._save_seconds),
            self._microseconds_a_step(step),
        )
        self._rhythm.agreed(step, pace / 1e6)
        if not stopper:
            return Decision(bool(save))
        left = -late / 1000
        if takes and takes / 1000 + _LEAVING_SECONDS > left:
            lost = (
                f"; a checkpoint of it was not begun: the last took {takes / 1000:.0f} s, there are {left:.0f} s left"
            )
            return Decision(False, stopper - 1, lost)
        return Decision(True, stopper - 1)

    def save_begins(self) -> None:
        """A checkpoint is about to be written: the next one is due that much later, whatever becomes of this one."""
        self._saved_at = time.monotonic()

    def saved(self, seconds: float) -> None:
        """A checkpoint is on the disk; on the rank that wrote it."""
        self._save_seconds = seconds
        grace = self._environment.grace_seconds
        if grace is not None and seconds + _LEAVING_SECONDS > grace and not self._warned_slow:
            self._warned_slow = True
            log.warning(
                "a checkpoint takes %.0f s, but %.0f s after SIGTERM this process is killed: when its pod is asked to "
                "end, the steps since the last checkpoint are lost. Raise terminationGracePeriodSeconds%s",
                seconds,
                grace,
                " and PET_SHUTDOWN_TIMEOUT" if "TORCHELASTIC_RUN_ID" in os.environ else "",
            )

    def leave(
        self, decision: Decision, step: int, total: int | None, newest: str, reporter: Reporter | None
    ) -> NoReturn:
        """End on every rank, once the checkpoint is on the disk.

        Args:
            newest: which checkpoint is there, for people.

        Raises:
            SystemExit: with code 143.
        """
        self._group.barrier()
        message = f"stopped at step {step} of {total}: rank {decision.stopper} was asked to end (SIGTERM)"
        message += decision.lost
        if self._group.rank == 0:
            print(f"{message}; {newest}", file=sys.stderr, flush=True)
        errors.record(f"Terminated: {message}", code=errors.TERMINATED)
        if reporter is not None:
            reporter.flush(_LAST_WORDS_SECONDS)
        raise SystemExit(errors.TERMINATED)

    def _on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop_asked is None:
            self._stop_asked = time.monotonic()

    def _seconds_left(self) -> float:
        """Until SIGKILL, as far as this process knows."""
        if self._stop_asked is None or self._environment.grace_seconds is None:
            return _FOR_EVER
        return self._environment.grace_seconds - (time.monotonic() - self._stop_asked)

    def _microseconds_a_step(self, step: int) -> int:
        """On this rank, since this was last asked."""
        now, (then, before) = time.monotonic(), self._asked_at
        self._asked_at = (now, step)
        return int((now - then) * 1e6) // max(1, step - before)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)

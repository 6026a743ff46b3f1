"""A training run that survives: resume, checkpoint, report, and end in time when asked.

Role: the loop around a training loop. It joins the parts of this package; each of them can be used alone.

What always holds:
- Rank 0 reads and writes checkpoints and hands the bytes to the others, so all ranks resume from the same step by
  construction, also where they do not share a file system. Of a model that is divided among the ranks (FSDP2, tensor
  parallelism) each rank writes and reads its part, while training goes on: see `sharded`.
- Decisions (checkpoint now, stop now) are taken together at the end of a step, so no rank is a step ahead; with several
  ranks not of each step (`Rhythm`).
- The figure `loss` is the mean over the ranks that report it; every other figure is rank 0's.
- SIGTERM ends the run after the step under way, with a checkpoint of it on the disk, on every rank. One that would not
  be done before SIGKILL is not begun, and the run says so.
- A state with NaN or infinity in it is not written: the last good checkpoint stays, and the run ends on every rank.
- Other trouble with progress and checkpoints is logged and reported, and never ends the training.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import torch

from aifactory_trainer import errors
from aifactory_trainer import state as states
from aifactory_trainer.agreement import Agreement
from aifactory_trainer.checkpoint import CheckpointError, CheckpointStore, check_facts, decode
from aifactory_trainer.distributed import Group
from aifactory_trainer.environment import Environment
from aifactory_trainer.progress import CHECKPOINT_FAILED, Report, Reporter, Speed
from aifactory_trainer.state import Stateful

if TYPE_CHECKING:
    from aifactory_trainer.sharded import Parts

log = logging.getLogger("aifactory")

_LAST_REPORT_SECONDS = 3.0
"""Longer than the time for which an operator that just starts asks to be left alone."""
_LAST_WORDS_SECONDS = 2.0
"""The same when the script has ended."""


class NotFiniteError(ArithmeticError):
    """The state holds NaN or infinity; the message says where, and which checkpoint is the last good one."""


class Run:
    """One training run of this process.

    Attributes:
        step: number of steps done, counting those of earlier attempts.
        resumed_from: the step this attempt started from; None when it started from the beginning.
    """

    def __init__(
        self,
        *,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float | None = None,
        keep: int = 3,
        per_rank: Mapping[str, Stateful] | None = None,
        facts: Mapping[str, object] | None = None,
        environment: Environment | None = None,
        **objects: Stateful,
    ) -> None:
        """Resume from the newest whole checkpoint, if there is one.

        Args:
            checkpoint_every: write a checkpoint after each so many steps.
            checkpoint_seconds: write one when the last is this old; default: AIFACTORY_CHECKPOINT_INTERVAL, else 300.
            keep: how many checkpoints stay.
            per_rank: objects whose state differs between ranks, such as a data loader with its position. When the
                number of ranks has changed since the checkpoint, one with a method `redistribute(states, rank, size)`
                is given the states of all former ranks, in order; any other stays as the script made it.
            facts: what makes these objects others although their state would fit, such as a model's number of heads or
                its tokenizer: {"heads": 4}. A checkpoint that says otherwise is refused. Values that JSON has.
            environment: where things are; default: as the factory's environment variables say.
            objects: what is the same on all ranks (`model=model, optimizer=optimizer, scheduler=scheduler`), or what
                all ranks together hold: one model that is divided among them, and the optimizers of its parameters.

        Raises:
            CheckpointError: there is a checkpoint, but it does not fit the objects, or was written with other facts.
            TypeError: an object's state can not be stored.
            OSError: the checkpoints can not be read.
        """
        errors.install()
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, it is {checkpoint_every}")
        self._env = environment or Environment.read()
        self._objects = objects
        self._per_rank = dict(per_rank or {})
        self._facts: dict[str, Any] = json.loads(json.dumps(dict(facts or {})))
        self._group = Group()
        self._parts, self._shared = self._divide()
        states.check_storable({**self._shared, **self._per_rank})
        if not self._group.same(states.outline(self._objects)):
            raise TypeError(
                "the ranks hold different models (pipeline parallelism?): a checkpoint has rank 0's alone. Keep them "
                "out of Run and save them with torch.distributed.checkpoint"
            )
        self._store = CheckpointStore(self._env.checkpoints, keep)
        self._saves_failed = 0
        self._begun = (0, 0.0)
        """Of the checkpoint that is written in the background: its step, and when it was begun."""
        self._total: int | None = None
        self._metrics: dict[str, SupportsFloat] = {}
        self._mean: dict[str, float] = {}
        """Figures that the ranks have put together; with one rank there are none."""
        self._looping = False
        self._speed = Speed()
        self._tokens_per_second: float | None = None
        self._checkpoint: tuple[int, str] | None = None
        self.step = 0
        self.resumed_from: int | None = None
        self._resume()
        self._agreement = Agreement(self._group, self._env, every=checkpoint_every, seconds=checkpoint_seconds)
        self._reporter = self._make_reporter()

    @property
    def rank(self) -> int:
        """Rank of this process; 0 writes and reports."""
        return self._group.rank

    def steps(self, total: int) -> Iterator[int]:
        """Yield the steps that are still to do, from 0 to total - 1; a step counts when the loop body has ended.

        Raises:
            SystemExit: with code 143, after SIGTERM and a checkpoint.
            NotFiniteError: on every rank, when a checkpoint was due and the state holds NaN or infinity.
        """
        self._total = total
        self._send()
        self._looping = True
        try:
            with self._agreement.listening(self.step):
                while self.step < total:
                    yield self.step
                    self.step += 1
                    self._boundary()
        finally:
            self._looping = False
            self._settle(wait=True)  # where the script leaves the loop early
        self._send()
        self.flush()

    def report(self, *, tokens: int | None = None, **metrics: SupportsFloat) -> None:
        """Tell how it goes; call it in each step, it costs next to nothing.

        Args:
            tokens: tokens (or samples) that all ranks together worked on since the last call.
            metrics: numbers or one-element tensors. A tensor is read later and elsewhere, so a GPU is not waited for.
                `loss` is reported as the mean over the ranks, so call it on all of them; other figures are rank 0's.
        """
        if not self._looping:
            self._mean = {name: value for name, value in self._mean.items() if name not in metrics}
        for name, value in metrics.items():
            self._metrics[name] = value.detach() if isinstance(value, torch.Tensor) else value
        if tokens is not None and self._group.rank == 0:
            self._tokens_per_second = self._speed.add(tokens, time.monotonic())
        self._send()

    def flush(self) -> None:
        """Send the last report now, in at most three seconds."""
        if self._reporter is not None:
            self._reporter.flush(_LAST_REPORT_SECONDS)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the last seconds, as reported; rank 0 only."""
        return self._tokens_per_second

    def _boundary(self) -> None:
        """After each step: decide together whether to write a checkpoint and whether to stop."""
        self._settle(wait=False)
        decision = self._agreement.after(self.step, last=self.step == self._total)
        if decision is None:
            return
        self._share_loss()
        if decision.save:
            self._save()
        if decision.stopper is not None or self.step == self._total:
            self._settle(wait=True)
        if decision.stopper is not None:
            self._agreement.leave(decision, self.step, self._total, self._newest(), self._reporter)

    def _share_loss(self) -> None:
        """A loss on a GPU is waited for here, as often as the ranks agree, and nowhere else."""
        if self._group.size > 1:
            own = self._own_loss()
            total, count = self._group.total(own or 0.0, own is not None)
            self._mean = {"loss": total / count} if count else {}

    def _save(self) -> None:
        self._settle(wait=True)  # one at a time: each is a copy of the state in memory
        started = time.monotonic()
        self._check_finite()
        own = {"random": states.collect_random(), "objects": states.collect(self._per_rank)}
        per_rank = self._group.gather(states.encode(own))
        self._agreement.save_begins()
        if self._parts is None and self._group.rank != 0:
            return
        shared = states.collect(self._shared)
        state = {
            "step": self.step,
            "shared": shared,
            "ranks": [states.decode(data) for data in per_rank],
            "facts": self._facts,
        }
        loss = self._loss()
        try:
            if loss is not None and not math.isfinite(loss):
                raise OSError(f"the loss is {loss}, so the weights may be worth nothing")
            if self._parts is not None:  # all ranks come here: they have the same loss
                self._begun = (self.step, started)
                self._parts.begin(self.step, {**state, "settings": self._parts.settings()}, self._store)
                return
            path = self._store.save(self.step, state, {"facts": self._facts})
        except OSError as error:
            self._not_saved(self.step, error)
        else:
            self._saved(self.step, path, started)

    def _settle(self, *, wait: bool) -> None:
        """See what became of the checkpoint that is written in the background."""
        done = self._parts.done(wait=wait) if self._parts is not None else None
        if done is None or self._group.rank != 0:
            return
        step, started = self._begun
        try:
            path = done.result()
        except OSError as error:
            self._not_saved(step, error)
        else:
            assert path is not None
            self._saved(step, path, started)

    def _saved(self, step: int, path: Path, started: float) -> None:
        self._saves_failed = 0
        seconds = time.monotonic() - started
        self._checkpoint = (step, f"{path.parent.name}/{path.name}")
        log.info("checkpoint %s written in %.1f s", path, seconds)
        self._agreement.saved(seconds)
        self._send()

    def _not_saved(self, step: int, error: OSError) -> None:
        self._saves_failed += 1
        if self._group.rank == 0:
            log.warning("the checkpoint of step %d was not written, training goes on: %s", step, error)
        self._send()

    def _check_finite(self) -> None:
        """Before a save only: to look at all numbers takes a fraction of the time that writing them takes."""
        bad = states.not_finite(self._objects)
        (rank,) = self._group.maximum(self._group.rank + 1 if bad else 0)
        if rank:
            where = states.some(bad) if bad else f"see rank {rank - 1}"
            raise NotFiniteError(
                f"the state after step {self.step} holds NaN or infinity and is not saved: {where}; {self._newest()}"
            )

    def _own_loss(self) -> float | None:
        return Report(step=0, metrics=self._metrics).number("loss")

    def _loss(self) -> float | None:
        """The newest figure named `loss`; waits for the GPU where it is a tensor there."""
        return self._mean.get("loss", self._own_loss())

    def _newest(self) -> str:
        return f"the last checkpoint is {self._checkpoint[1]}" if self._checkpoint else "there is no checkpoint"

    def _divide(self) -> tuple[Parts | None, dict[str, Stateful]]:
        """The objects that are divided among the ranks, and the others."""
        divided = {name: thing for name, thing in self._objects.items() if states.is_divided(thing)}
        if not divided:
            return None, self._objects
        from aifactory_trainer.sharded import Parts  # imported late: torch.distributed.checkpoint takes a while

        models = [inner for thing in divided.values() if isinstance(inner := states.unwrap(thing), torch.nn.Module)]
        optimizers = {name: thing for name, thing in divided.items() if isinstance(thing, torch.optim.Optimizer)}
        if len(models) != 1 or len(models) + len(optimizers) != len(divided):
            raise TypeError(
                f"of {', '.join(divided)} the ranks hold parts: Run takes one such model and the optimizers of its "
                "parameters. Keep others out of Run and save them with torch.distributed.checkpoint"
            )
        others = {name: thing for name, thing in self._objects.items() if name not in divided}
        return Parts(models[0], optimizers, self._group), others

    def _resume(self) -> None:
        taken = self._read() if self._parts is None else self._parts.resume(self._store)
        if taken is None:
            return
        where, state = taken
        taken = None  # it is as large as the state
        try:
            step, shared, ranks = int(state["step"]), state["shared"], state["ranks"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where} was not written by this package: {error}") from error
        check_facts(state.get("facts", {}), self._facts, Path(where))
        states.restore(self._shared, shared, where)
        self._restore_rank(ranks, where)
        self.step = self.resumed_from = step
        self._checkpoint = (step, f"{self._store.directory.name}/{self._store.path(step).name}")
        if self._group.rank == 0:
            log.info("resumed from %s: step %d", where, step)

    def _read(self) -> tuple[str, dict[str, Any]] | None:
        """Where the newest checkpoint is, and the state in it."""
        data: bytes | None = None
        where = str(self._store.directory)
        if self._group.rank == 0:
            self._store.clean()
            found = self._store.newest()
            data, where = (found.data, str(found.path)) if found is not None else (b"", where)
            found = None
        data = self._group.broadcast(data)
        return (where, decode(data, where)) if data else None

    def _restore_rank(self, ranks: list[dict[str, Any]], where: str) -> None:
        """Give this rank back what it has of its own. The parts of another number of ranks are never mixed up."""
        size, rank = self._group.size, self._group.rank
        if len(ranks) == size:
            states.restore(self._per_rank, ranks[rank]["objects"], where)
            states.restore_random(ranks[rank]["random"])
            return
        now = states.collect_random()
        alike = [name for name in states.RANDOM if self._group.same(states.encode(now.get(name)))]
        states.spread_random([own["random"] for own in ranks], rank, alike)
        anew = states.redistribute(self._per_rank, [own["objects"] for own in ranks], rank, size, where)
        if rank == 0:
            log.warning("%s was written by %d ranks, now there are %d%s", where, len(ranks), size, _anew(anew))

    def _make_reporter(self) -> Reporter | None:
        if self._group.rank != 0 or self._env.progress_url is None:
            return None
        reporter = Reporter(self._env.progress_url, self._env.token_file)
        atexit.register(reporter.flush, _LAST_WORDS_SECONDS)  # also when the script ends by an exception
        return reporter

    def _send(self) -> None:
        if self._reporter is not None:
            failed = {CHECKPOINT_FAILED: self._saves_failed} if self._saves_failed else {}
            report = Report(
                step=self.step,
                total_steps=self._total,
                tokens_per_second=self._tokens_per_second,
                metrics={**failed, **self._metrics, **self._mean},
                checkpoint=self._checkpoint,
                resumed_from=self.resumed_from,
            )
            self._reporter.submit(report)


def _anew(names: list[str]) -> str:
    if not names:
        return ""
    return (
        f": {', '.join(map(repr, names))} can not be divided among them (no method `redistribute`) and is left as the "
        "script made it, so the epoch begins anew and data that were seen are seen again"
    )

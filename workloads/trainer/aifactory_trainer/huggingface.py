"""Any Hugging Face Trainer (transformers, trl) in the factory, by one callback.

    from aifactory_trainer.huggingface import FactoryCallback

    factory = FactoryCallback()
    trainer = Trainer(..., callbacks=[factory])
    trainer.train(resume_from_checkpoint=factory.checkpoint)

Role: between the events of transformers' Trainer and the parts of this package. The Trainer itself writes and reads its
checkpoints, whatever is in them (adapters, shards of FSDP); the callback has them written aside and puts them in place.

What always holds:
- A checkpoint that a run may resume from is whole: all ranks have written their files, every number that is trained is
  finite, and it got its name when it was on the disk.
- All ranks resume from the checkpoint that rank 0 has chosen and verified. One of another model, of another number of
  ranks or with other `facts` is refused: the Trainer itself would go on with what fits, from another place in the data.
- SIGTERM ends the run after the step under way, with a checkpoint of it on the disk, on every rank, with 143.
- A loss that is not finite ends the run with 93, before anything of it is saved.
- Trouble with progress never ends the training. Trouble while the Trainer writes a checkpoint does: it is its own.

The ranks have to share the directory of the checkpoints, as the pods of a job do.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aifactory_trainer import errors
from aifactory_trainer import state as states
from aifactory_trainer.agreement import Agreement, Decision
from aifactory_trainer.checkpoint import TRAINER, CheckpointStore, Folder, check_same
from aifactory_trainer.distributed import Group
from aifactory_trainer.environment import Environment
from aifactory_trainer.progress import CHECKPOINT_FAILED, Report, Reporter, Speed
from aifactory_trainer.sharded import choose

log = logging.getLogger("aifactory")

KEEP = 3
"""Checkpoints that stay where `save_total_limit` says nothing."""
STAGE = ".aside-trainer"
"""Where the Trainer writes, in the directory of the checkpoints. What a killed process leaves there is removed."""
LOG_SECONDS = 2.0
"""The loss is asked for at most so often, whatever `logging_steps` says: it waits for the GPU."""
_LAST_REPORT_SECONDS = 3.0
_LAST_WORDS_SECONDS = 2.0
_STATE_FILE = "trainer_state.json"


class FactoryCallback(TrainerCallback):
    """Progress, resuming, SIGTERM, checkpoints kept, and causes of failure, for one Trainer.

    Of the `TrainingArguments`, `save_strategy` and `save_steps` say when to save as ever, and besides a checkpoint is
    written every AIFACTORY_CHECKPOINT_INTERVAL seconds and after the last step; `save_total_limit` says how many stay
    (3). While training, `output_dir` is one in the job's directory of checkpoints.
    """

    def __init__(self, *, facts: Mapping[str, object] | None = None, environment: Environment | None = None) -> None:
        """Say what belongs to the run.

        Args:
            facts: what a run that resumes must have in common with the one that wrote the checkpoint, besides model and
                number of ranks: {"learning rate": 1e-4, "data": "sha256:..."}. Values that JSON has.
            environment: where things are; default: as the factory's environment variables say.
        """
        errors.install()
        self._facts = dict(facts or {})
        self._environment = environment or Environment.read()
        self._store = CheckpointStore(self._environment.checkpoints)
        self._stage = self._environment.checkpoints.absolute() / STAGE
        self._group: Group | None = None
        self._agreement: Agreement | None = None
        self._found: Folder | None = None
        self._about: dict[str, object] = {}
        self._reporter: Reporter | None = None
        self._loop = ExitStack()
        """What holds while the loop runs."""
        self._leaving: Decision | None = None
        self._save_began = 0.0
        self._logged_at = 0.0
        self._seen: int | Tensor = 0
        """Tokens that this rank has trained on since the ranks were last asked; a tensor is not waited for."""
        self._speed = Speed()
        self._tokens_per_second: float | None = None
        self._metrics: dict[str, float] = {}
        self._checkpoint: tuple[int, str] | None = None
        self._step, self._total = 0, 0
        self._saves_failed = 0

    @property
    def checkpoint(self) -> str | None:
        """Directory of the checkpoint to resume from, for `train(resume_from_checkpoint=...)`; None: there is none.

        Raises:
            RuntimeError: the Trainer has not been made yet.
        """
        if self._group is None:
            raise RuntimeError("factory.checkpoint is known once the Trainer is made with callbacks=[factory]")
        return str(self._found.path) if self._found is not None else None

    @property
    def resumed_from(self) -> int | None:
        """The step of that checkpoint."""
        return self._found.step if self._found is not None else None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the last seconds, as reported; rank 0 only."""
        return self._tokens_per_second

    def report(self, **metrics: float) -> None:
        """Add figures to the progress, such as what was measured at the end."""
        self._metrics.update(metrics)
        self._send()
        if self._reporter is not None:
            self._reporter.flush(_LAST_REPORT_SECONDS)

    # What the Trainer calls, in this order.

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look for a checkpoint."""
        if args.save_only_model:
            raise ValueError("save_only_model leaves out what a run needs to resume: leave it out")
        self._group = Group()
        self._agreement = Agreement(self._group, self._environment)
        self._store.keep = args.save_total_limit or KEEP
        args.logging_nan_inf_filter = False  # else a loss that is NaN is told as the mean of those before it
        self._about = about(kwargs["model"], self._group.size, self._facts)
        self._found = self._choose(self._group)
        if self._group.rank == 0 and self._environment.progress_url is not None:
            self._reporter = Reporter(self._environment.progress_url, self._environment.token_file)
            atexit.register(self._reporter.flush, _LAST_WORDS_SECONDS)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on SIGTERM is heeded, and the Trainer writes its checkpoints aside."""
        assert self._agreement is not None
        if self._found is not None and state.global_step < self._found.step:
            raise RuntimeError(
                f"there is a checkpoint, {self._found.path}, but training begins anew: write "
                "trainer.train(resume_from_checkpoint=factory.checkpoint), or remove the directory"
            )
        self._step, self._total = state.global_step, state.max_steps
        self._logged_at = time.monotonic()
        self._loop.enter_context(self._agreement.listening(state.global_step))
        for name, value in (("output_dir", str(self._stage)), ("save_total_limit", None)):
            self._loop.callback(setattr, args, name, getattr(args, name))
            setattr(args, name, value)
        if not args.torch_compile:  # which would compile the counting too
            handle = kwargs["model"].register_forward_pre_hook(self._count, with_kwargs=True)
            self._loop.callback(handle.remove)
        self._send()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A run that resumes after its last step is to change nothing, but the Trainer makes a step before it looks."""
        if state.global_step >= state.max_steps:
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask the ranks. The Trainer logs and saves after this what `control` says."""
        assert self._group is not None
        assert self._agreement is not None
        self._step = min(state.global_step, self._total)
        decision = self._agreement.after(state.global_step, last=state.global_step >= state.max_steps)
        if decision is not None:
            if decision.stopper is not None:
                if not decision.save:
                    self._leave(decision)
                self._leaving = decision
                control.should_evaluate = False
            control.should_save |= decision.save
            old = time.monotonic() - self._logged_at >= LOG_SECONDS
            seen, log_now = self._group.total(float(self._seen), float(self._group.rank == 0 and old))
            self._seen = 0
            control.should_log |= bool(log_now)
            if seen and self._group.rank == 0:
                self._tokens_per_second = self._speed.add(int(seen), time.monotonic())
        self._before_save(control)
        self._send()
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """With `save_strategy="epoch"` it is here that the Trainer saves."""
        self._before_save(control)
        return control

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The Trainer has put the ranks' losses together: each has the same figures here."""
        logs: Mapping[str, float] = kwargs["logs"]
        self._logged_at = time.monotonic()
        loss = logs.get("loss")
        if loss is not None and not math.isfinite(loss):
            errors.give_up(
                f"the loss of step {state.global_step} is {loss}: a restart would end the same, use a smaller learning "
                f"rate; {self._newest()}"
            )
        summary = {name for name in logs if name.startswith("train_") or name == "total_flos"}
        self._metrics.update({name: value for name, value in logs.items() if name not in summary})
        self._send()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """All files of this rank are written: put the checkpoint in place, together."""
        assert self._group is not None
        assert self._agreement is not None
        self._check_finite(self._group, state.global_step, kwargs["model"], kwargs["optimizer"])
        self._agreement.save_begins()
        folder = self._stage / f"checkpoint-{state.global_step}"
        if state.best_global_step is not None and state.best_model_checkpoint is not None:
            state.best_model_checkpoint = str(self._store.path(state.best_global_step))
        # All wait for rank 0: another must not write into the same folder again before it is moved.
        (saved,) = self._group.maximum(int(self._group.rank == 0 and self._adopt(state, folder)))
        if saved:
            path = self._store.path(state.global_step)
            self._checkpoint = (state.global_step, f"{path.parent.name}/{path.name}")
        self._send()
        if self._leaving is not None:
            self._leave(self._leaving)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """SIGTERM and the arguments are the script's again."""
        self._loop.close()
        shutil.rmtree(self._stage, ignore_errors=True)
        self._send()
        if self._reporter is not None:
            self._reporter.flush(_LAST_REPORT_SECONDS)

    # How it is done.

    def _choose(self, group: Group) -> Folder | None:
        """The checkpoint to resume from."""
        found = choose(self._store, group, TRAINER)
        if found is None:
            return None
        check_about(found, self._about)
        self._checkpoint = (found.step, f"{found.path.parent.name}/{found.path.name}")
        if group.rank == 0:
            log.info("resuming from %s: step %d", found.path, found.step)
        return found

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each forward pass: how many tokens it is about."""
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if module.training and isinstance(ids, Tensor):
            padded = mask if isinstance(mask, Tensor) and mask.shape == ids.shape else None
            self._seen = self._seen + (ids.numel() if padded is None else padded.sum())

    def _before_save(self, control: TrainerControl) -> None:
        """What is saved is logged first, so that no weights are saved whose loss is not finite."""
        if control.should_save:
            control.should_log = True
            self._save_began = time.monotonic()

    def _check_finite(self, group: Group, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        bad = states.not_finite({"model": model, "optimizer": optimizer})
        (rank,) = group.maximum(group.rank + 1 if bad else 0)
        if rank:
            where = states.some(bad) if bad else f"see rank {rank - 1}"
            errors.give_up(
                f"the state after step {step} holds NaN or infinity and is not saved: {where}; a restart would end the "
                f"same, use a smaller learning rate; {self._newest()}"
            )

    def _adopt(self, state: TrainerState, folder: Path) -> bool:
        assert self._agreement is not None
        try:
            state.save_to_json(str(folder / _STATE_FILE))  # again, for where the best one is now
            path = self._store.adopt(state.global_step, folder, self._about, best=state.best_global_step)
        except OSError as error:
            self._saves_failed += 1
            log.warning("the checkpoint of step %d was not written, training goes on: %s", state.global_step, error)
            return False
        seconds = time.monotonic() - self._save_began
        self._saves_failed = 0
        log.info("checkpoint %s written in %.1f s", path, seconds)
        self._agreement.saved(seconds)
        return True

    def _leave(self, decision: Decision) -> None:
        assert self._agreement is not None
        self._agreement.leave(decision, self._step, self._total, self._newest(), self._reporter)

    def _newest(self) -> str:
        return f"the last checkpoint is {self._checkpoint[1]}" if self._checkpoint else "there is no checkpoint"

    def _send(self) -> None:
        if self._reporter is not None:
            failed = {CHECKPOINT_FAILED: self._saves_failed} if self._saves_failed else {}
            self._reporter.submit(
                Report(
                    step=self._step,
                    total_steps=self._total or None,
                    tokens_per_second=self._tokens_per_second,
                    metrics={**failed, **self._metrics},
                    checkpoint=self._checkpoint,
                    resumed_from=self.resumed_from,
                )
            )


def about(model: nn.Module, ranks: int, facts: Mapping[str, object]) -> dict[str, object]:
    """What is noted with a checkpoint of a Trainer. Args: model: as the Trainer gets it; it may have no numbers."""
    return {"ranks": ranks, "model": _outline(model), "facts": dict(facts)}


def check_checkpoint(model: nn.Module, ranks: int, facts: Mapping[str, object]) -> None:
    """Whether the newest checkpoint of a Trainer, if there is one, could be taken up: for who looks ahead of training.

    Raises:
        CheckpointError: it could not.
    """
    found = CheckpointStore(Environment.read().checkpoints).peek(TRAINER)
    if found is not None:
        check_about(found, about(model, ranks, facts))


def check_about(found: Folder, now: Mapping[str, Any]) -> None:
    """Whether the run that wrote a checkpoint was one of which this is said. Raises CheckpointError: it was another."""
    then, today = (
        {"model": noted["model"], "ranks": noted["ranks"], **noted["facts"]}
        for noted in (found.about, json.loads(json.dumps(now)))
    )
    check_same(then, today, found.path)


def _outline(model: nn.Module) -> str:
    """A model in words, which differ where its tensors have other names or shapes, or other ones are trained."""
    trained = [(name, tuple(weight.shape)) for name, weight in model.named_parameters() if weight.requires_grad]
    every = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    digest = hashlib.sha256(repr((trained, every)).encode()).hexdigest()[:12]
    numbers = sum(math.prod(shape) for _, shape in every)
    learnt = sum(math.prod(shape) for _, shape in trained)
    return f"{type(model).__name__} of {numbers} numbers, {learnt} of them trained, {digest}"

"""torchtitan in the factory: its own Trainer, which resumes, shows its progress and ends in time when asked.

    torchrun titan.py --module=llama3 --config=llama3_debugmodel --training.steps=1000

The options are torchtitan's, and so are the checkpoints. Written for torchtitan 0.3.0.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torchtitan.components.metrics import BaseLogger, LoggerContainer
from torchtitan.config import ConfigManager
from torchtitan.tools.logging import init_logger
from torchtitan.trainer import Trainer

from aifactory_trainer import errors
from aifactory_trainer.agreement import Agreement
from aifactory_trainer.distributed import Group, choose_gloo_interface
from aifactory_trainer.environment import Environment
from aifactory_trainer.progress import Report, Reporter


class FactoryTrainer(Trainer):
    """torchtitan's Trainer, with its checkpoints in the job's workspace."""

    def __init__(self, config: Trainer.Config) -> None:
        self.job = Environment.read()
        self.resumed_from: int | None = None
        self.figures: dict[str, float] = {}
        self.tokens_per_second: float | None = None
        if config.checkpoint.last_save_in_hf:
            errors.give_up("--checkpoint.last_save_in_hf leaves out what a run needs to resume: leave it out")
        config.checkpoint.enable = True
        config.checkpoint.folder = str(self.job.checkpoints.absolute())
        config.checkpoint.last_save_model_only = False  # training goes on from the one that SIGTERM asks for
        super().__init__(config)
        group = Group()
        self.agreement = Agreement(group, self.job)
        self.reporter: Reporter | None = None
        if group.rank == 0 and self.job.progress_url is not None:
            self.reporter = Reporter(self.job.progress_url, self.job.token_file)
        self.save = self.checkpointer.save
        self.checkpointer.save = self.after_step  # which torchtitan calls after each step, on all ranks
        loggers = LoggerContainer()
        loggers.add_logger(self.metrics_processor.logger)
        loggers.add_logger(Progress(self))
        self.metrics_processor.logger = loggers

    def train(self) -> None:
        with self.agreement.listening(self.step):
            super().train()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.resumed_from = self.step

    def after_step(self, step: int, last_step: bool = False) -> bool:
        """Save when torchtitan's interval says so, when the last one is old, or before the end; and end when asked."""
        decision = self.agreement.after(step, last=last_step)
        if decision is None:
            return self.save(step, last_step)
        begun, saved = time.monotonic(), False
        if decision.stopper is None or decision.save:
            saved = self.save(step, last_step=decision.save)  # torchtitan writes a last one whole before it returns
        if saved:
            self.agreement.save_begins()
            self.agreement.saved(time.monotonic() - begun)
        if decision.stopper is not None:
            self.checkpointer.maybe_wait_for_saving()
            newest = self.newest()
            words = f"the last checkpoint is {newest[1]}" if newest else "there is no checkpoint"
            self.report()
            self.agreement.leave(decision, step, self.config.training.steps, words, self.reporter)
        return saved

    def newest(self) -> tuple[int, str] | None:
        """Step and path of the newest whole checkpoint: torchtitan resumes from those that have this file."""
        folder = self.job.checkpoints
        steps = [int(path.parent.name.removeprefix("step-")) for path in folder.glob("step-*/.metadata")]
        return (max(steps), f"{folder.name}/step-{max(steps)}") if steps else None

    def report(self) -> None:
        if self.reporter is not None:
            total, speed = self.config.training.steps, self.tokens_per_second
            self.reporter.submit(Report(self.step, total, speed, self.figures, self.newest(), self.resumed_from))

    def close(self) -> None:
        super().close()
        self.report()
        if self.reporter is not None:
            self.reporter.flush(3.0)


class Progress(BaseLogger):
    """Gets the figures that torchtitan logs, as its TensorBoard does."""

    def __init__(self, trainer: FactoryTrainer) -> None:
        self.trainer = trainer

    def log(self, metrics: dict[str, Any], step: int) -> None:
        names = {"loss": "loss_metrics/global_avg_loss", "grad_norm": "grad_norm", "mfu_percent": "mfu(%)"}
        if self.trainer.parallel_dims.pp_enabled:
            del names["loss"]  # known in the last stage only
        if "throughput(tps)" in metrics:  # of one GPU; a validation has other figures
            self.trainer.tokens_per_second = metrics["throughput(tps)"] * torch.distributed.get_world_size()
            self.trainer.figures = {ours: metrics[theirs] for ours, theirs in names.items() if theirs in metrics}
        self.trainer.report()


def main() -> None:
    errors.install()
    init_logger()
    choose_gloo_interface()
    trainer = FactoryTrainer(ConfigManager().parse_args())
    try:
        trainer.train()
    finally:
        trainer.close()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

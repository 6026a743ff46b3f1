"""Train a language model on preferences (direct preference optimization), with LoRA or in full.

    torchrun -m aifactory_trainer.dpo --base=base --data=preferences

Role: a whole training program that is read in one sitting, and the twin of sft.py. Preferences and their tokens are in
preferences.py, the model is in base.py, the settings are in tuning.py.

The loss is that of the paper (Rafailov et al., 2023, equation 7), which trl calls "sigmoid": a reward is beta times how
much likelier an answer is to the model than to the base, and the loss is -log sigmoid of the difference of the rewards
of the chosen and the rejected answer. What the base thinks is asked once, before the first step: no second model is
held, with LoRA or in full. The figures have trl's names.

What always holds, besides what holds for sft.py: the hold-out is measured on the model as it is published. Of the base
its figures are known: a loss of log 2, and no reward.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PrinterCallback, Trainer

from aifactory_trainer import World, base, errors, huggingface, likelihood, preferences, saved, tuning
from aifactory_trainer.distributed import Group
from aifactory_trainer.huggingface import FactoryCallback
from aifactory_trainer.measured import Measured
from aifactory_trainer.preferences import Pairs
from aifactory_trainer.program import Parser, carry_out, find, leave, rate

log = logging.getLogger("aifactory")

LEARNING_RATE = {True: 1e-6, False: 1e-5}
"""The highest one, of full training and of LoRA."""
REFERENCE = "reference-{}.json"
"""Beside the checkpoints: what the base thinks of the answers, so that a restart need not ask again."""


@dataclass(frozen=True, slots=True)
class Settings(tuning.Tuning):
    """One run. Attributes: beta: how dear it is to differ from the base."""

    beta: float


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    parser = Parser(prog="aifactory_trainer.dpo", description="Train a language model on preferences.")
    tuning.add_options(parser, lines="preferences", data="preferences", epochs=1.0, batch=4, rates=LEARNING_RATE)
    parser.add_argument("--beta", type=rate, default=0.1, help="how dear it is to differ from the base (%(default)s)")
    return Settings(**tuning.parse(parser, arguments))


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run begins with, found good; the base is still to be loaded."""

    folder: Path
    config: Any
    tokenizer: Any
    learnt: Pairs
    held_out: Pairs
    tasks: dict[str, Measured]


def prepare(settings: Settings, world: World) -> Inputs:
    """Read and check the inputs."""
    folder = find(settings.base, "--base")
    config, tokenizer = saved.load_config(folder), base.load_tokenizer(folder, settings.chat_template)
    base.check(config, settings.adapter, world)
    learnt, held_out = load_data(settings, tokenizer, config)
    return Inputs(folder, config, tokenizer, learnt, held_out, tuning.load_tasks(settings, tokenizer, config))


def look(settings: Settings, world: World) -> None:
    """All that can be found to be in the way without a GPU and without weights."""
    found = prepare(settings, world)
    model = base.without_numbers(found.config, settings.adapter)
    huggingface.check_checkpoint(model, world.size, facts(settings, found.learnt))


def train(settings: Settings, world: World) -> None:
    """The whole program: inputs, model, what the base thinks, loop, measure, publish."""
    inputs = prepare(settings, world)
    folder, config, tokenizer = inputs.folder, inputs.config, inputs.tokenizer
    learnt, held_out = inputs.learnt, inputs.held_out
    torch.manual_seed(settings.seed)  # the adapter's first numbers
    model = base.load(folder, settings.adapter, world)
    without_dropout(model)
    trainer, factory = make_trainer(model, learnt, settings, world)
    for name, pairs in (("train", learnt), ("held-out", held_out)):
        ask = partial(scores, trainer.model, pairs, settings.batch, world)
        pairs.reference = tuning.once(REFERENCE.format(name), f"{saved.fingerprint(folder)} {pairs.digest}", ask)
    trainer.train(resume_from_checkpoint=factory.checkpoint)
    tuned = tuning.finished(settings, trainer.model, config, world)
    after = measure(tuned, held_out, settings, world)
    log.info("held out: %s", "  ".join(f"{name} {value:.4f}" for name, value in after.items()))
    asked = tuning.ask(inputs.tasks, tuned, tokenizer, settings.batch, world)
    if world.rank == 0:
        figures = {**{f"eval_{name}": round(value, 4) for name, value in after.items()}, **asked}
        counts = {"preferences": len(learnt), "heldOutPreferences": len(held_out)}
        tuning.publish(settings, tuned, tokenizer, config, {**figures, **counts})
        factory.report(**figures)


def load_data(settings: Settings, tokenizer: Any, config: Any) -> tuple[Pairs, Pairs]:
    """What is learnt and what is held out."""
    parts = tuning.split(settings, preferences.read(find(settings.data, "--data")), preferences.read)
    longest = base.longest(config, settings.max_length, tuning.LONGEST)
    learnt, held_out = (Pairs(tokenizer, part, longest) for part in (parts.train, parts.held_out))
    for name, part in (("to learn from", learnt), ("held out", held_out)):
        left_out = f", {part.left_out} left out: longer than {longest} tokens" if part.left_out else ""
        log.info("%s: %d preferences%s", name, len(part), left_out)
    return learnt, held_out


def without_dropout(model: nn.Module) -> None:
    """What the base thinks is asked without it, and is to be compared with."""
    part: Any
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0


def facts(settings: Settings, learnt: Pairs) -> dict[str, object]:
    """What a run that resumes must have in common with the one that wrote the checkpoint."""
    return tuning.facts(settings, highest(settings), learnt.digest, beta=settings.beta)


def highest(settings: Settings) -> float:
    """The highest learning rate."""
    return settings.learning_rate or LEARNING_RATE[settings.full]


def make_trainer(model: Any, learnt: Pairs, settings: Settings, world: World) -> tuple[Trainer, FactoryCallback]:
    """The Trainer, and what ties it to the factory. Raises CheckpointError: see `FactoryCallback`."""
    factory = FactoryCallback(facts=facts(settings, learnt))
    trainer = PreferenceTrainer(
        model,
        tuning.training_arguments(settings, highest(settings), world),
        collate,
        train_dataset=learnt,
        callbacks=[factory, tuning.Lines(factory)],
        beta=settings.beta,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, factory


def collate(pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch: first all chosen answers, then all rejected ones."""
    rows = [pair["rows"][which] for which in (0, 1) for pair in pairs]
    reference = [pair["reference"][which] for which in (0, 1) for pair in pairs]
    return {**likelihood.pad(rows), "reference": torch.tensor(reference)}


class PreferenceTrainer(Trainer):
    """transformers' Trainer with the loss of preferences."""

    def __init__(self, *args: Any, beta: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs, whatever they are long
        self._beta = beta
        self._group = Group()
        self._names: list[str] = []
        self._seen: list[Tensor] = []
        """Figures of the steps since they were last told; a tensor is not waited for."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of a batch, as `collate` makes it."""
        said, _ = likelihood.log_likelihoods(model, inputs)
        figures = compare(said.view(2, -1), inputs["reference"].view(2, -1), self._beta)
        self._seen.append(torch.stack([value.detach().float().mean() for value in figures.values()]))
        self._names = list(figures)
        loss = figures["loss"].mean()
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Beside the loss the figures since the last time, as means over steps and processes."""
        if "loss" in logs and self._seen:
            own = torch.stack(self._seen)
            self._seen = []
            count, *sums = self._group.total(len(own), *own.sum(0).tolist())
            means = {name: value / count for name, value in zip(self._names, sums, strict=True)}
            logs = {**{name: value for name, value in means.items() if name != "loss"}, **logs}
        super().log(logs, start_time)


def compare(said: Tensor, reference: Tensor, beta: float) -> dict[str, Tensor]:
    """The loss of pairs of answers, and what trl reports of them: one number for each pair.

    Args:
        said: log-likelihoods of the chosen answers, and of the rejected ones: 2 x pairs.
        reference: the same, by the base.
    """
    chosen, rejected = beta * (said - reference)
    return {
        "loss": -F.logsigmoid(chosen - rejected),
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        "logps/chosen": said[0],
        "logps/rejected": said[1],
    }


def scores(model: Any, pairs: Pairs, batch: int, world: World) -> list[float]:
    """Log-likelihoods of all answers."""
    found: list[float] = likelihood.score(model, pairs.rows, 2 * batch, world).log_likelihood.tolist()
    return found


def measure(model: Any, pairs: Pairs, settings: Settings, world: World) -> dict[str, float]:
    """What `compare` says of pairs, on average."""
    both = torch.tensor([scores(model, pairs, settings.batch, world), pairs.reference], dtype=torch.float64)
    said, reference = both.view(2, -1, 2).transpose(1, 2)
    return {name: float(value.mean()) for name, value in compare(said, reference, settings.beta).items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    settings = parse(arguments)
    carry_out(partial(train, settings), partial(look, settings))


if __name__ == "__main__":
    errors.install()
    main()
    leave()

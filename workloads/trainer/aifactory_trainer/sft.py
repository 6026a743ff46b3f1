"""Fine-tune a language model on conversations (supervised fine-tuning), with LoRA or in full.

    torchrun -m aifactory_trainer.sft --base=base --data=chat

Role: a whole training program that is read in one sitting: the job's inputs, checked before anything is trained; the
loop by transformers' Trainer with `FactoryCallback`; the result a directory as the base was one. Conversations and
their tokens are in chat.py, the model is in base.py, the settings are in tuning.py.

Not by trl: its SFTTrainer needs `datasets`, whose pyarrow needs a newer NumPy than the torch layer has; and what is
special here, which tokens are learnt, it takes from marks in chat templates that few bases have.

What always holds:
- What is wrong with the inputs is told in one sentence before training begins, and the job is not restarted for it.
- The hold-out is measured before and after with the same numbers: the base as it came, and the model as it is published
  (adapters merged, weights in the base's type). Both go into the lineage.
- A run that was killed and resumed ends with the same weights as one that was not, up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer
from transformers.data.data_collator import DataCollatorWithFlattening

from aifactory_trainer import (
    Run,
    World,
    ahead,
    base,
    chat,
    divided,
    errors,
    huggingface,
    likelihood,
    saved,
    tuning,
)
from aifactory_trainer.checkpoint import SHARDED
from aifactory_trainer.huggingface import FactoryCallback
from aifactory_trainer.likelihood import Row
from aifactory_trainer.measured import Measured
from aifactory_trainer.program import Parser, carry_out, find, leave

log = logging.getLogger("aifactory")

LEARNING_RATE = {True: 2e-5, False: 2e-4}
"""The highest one, of full fine-tuning and of LoRA."""
BASE_LOSS = "base-loss.json"
"""Beside the checkpoints: what the base's loss is, so that a restart need not measure it again."""


@dataclass(frozen=True, slots=True)
class Settings(tuning.Tuning):
    """One run.

    Attributes:
        packing: the conversations of a batch stand in one row, without padding.
        shard: divide weights, gradients and optimizer among the processes.
    """

    packing: bool
    shard: bool


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    parser = Parser(prog="aifactory_trainer.sft", description="Fine-tune a language model on conversations.")
    tuning.add_options(parser, lines="conversations", data="chat", epochs=3.0, batch=8, rates=LEARNING_RATE)
    parser.add_argument(
        "--packing", action="store_true", help="no padding: the conversations of a batch stand in one row"
    )
    parser.add_argument(
        "--shard", action="store_true", help="with --full: divide weights, gradients and optimizer among the processes"
    )
    settings = Settings(**tuning.parse(parser, arguments))
    if settings.shard and not settings.full:
        parser.error("--shard divides a model that is trained in full: add --full, or leave it out")
    return settings


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run begins with, found good; the base is still to be loaded."""

    folder: Path
    config: Any
    tokenizer: Any
    learnt: chat.Examples
    held_out: chat.Examples
    tasks: dict[str, Measured]


def prepare(settings: Settings, world: World) -> Inputs:
    """Read and check the inputs."""
    folder = find(settings.base, "--base")
    config, tokenizer = saved.load_config(folder), base.load_tokenizer(folder, settings.chat_template)
    shards, smaller = (world.size, "") if settings.shard else (1, ", add --shard" if world.size > 1 else "")
    base.check(config, settings.adapter, world, shards=shards, smaller=smaller if settings.full else "")
    learnt, held_out = load_data(settings, tokenizer, config)
    return Inputs(folder, config, tokenizer, learnt, held_out, tuning.load_tasks(settings, tokenizer, config))


def look(settings: Settings, world: World) -> None:
    """All that can be found to be in the way without a GPU and without weights."""
    found = prepare(settings, world)
    if settings.shard:
        ahead.check_checkpoint(SHARDED, facts(settings, found.learnt))
    else:
        model = base.without_numbers(found.config, settings.adapter)
        huggingface.check_checkpoint(model, world.size, facts(settings, found.learnt))


def train(settings: Settings, world: World) -> None:
    """The whole program: inputs, model, measure, loop, measure, publish."""
    inputs = prepare(settings, world)
    folder, config, tokenizer = inputs.folder, inputs.config, inputs.tokenizer
    learnt, held_out = inputs.learnt, inputs.held_out
    torch.manual_seed(settings.seed)  # the adapter's first numbers
    model = base.load(folder, settings.adapter, world)
    measured_before = partial(base_loss, folder, held_out, settings, world)
    reporter: Any
    if settings.shard:
        divided.shard(model, settings, world)
        before = measured_before(model)
        reporter = learn_divided(model, learnt, settings, world)
        divided.round_off(model, config)
        tuned = model
    else:
        trainer, factory = make_trainer(model, learnt, settings, world)
        before = measured_before(trainer.model)
        trainer.train(resume_from_checkpoint=factory.checkpoint)
        reporter = factory
        tuned = tuning.finished(settings, trainer.model, config, world)
    after = measure(tuned, held_out, settings.batch, world)
    log.info("held-out loss: %.4f, of the base %.4f", after, before)
    asked = tuning.ask(inputs.tasks, tuned, tokenizer, settings.batch, world)
    if settings.shard:
        tuned = divided.whole(tuned, config, world)
    if world.rank == 0:
        figures = {"heldOutLoss": round(after, 4), "baseHeldOutLoss": round(before, 4), **asked}
        counts = {"conversations": learnt.conversations, "heldOutConversations": held_out.conversations}
        tuning.publish(settings, tuned, tokenizer, config, {**figures, **counts})
        reporter.report(**figures)


def base_loss(folder: Path, held_out: chat.Examples, settings: Settings, world: World, model: Any) -> float:
    """The held-out loss before anything is learnt, measured once for all attempts."""
    of = f"{saved.fingerprint(folder)} {held_out.digest}"
    (loss,) = tuning.once(BASE_LOSS, of, lambda: [measure(model, held_out, settings.batch, world)])
    log.info("held-out loss of the base: %.4f", loss)
    return loss


def load_data(settings: Settings, tokenizer: Any, config: Any) -> tuple[chat.Examples, chat.Examples]:
    """What is learnt and what is held out."""
    parts = tuning.split(settings, chat.read(find(settings.data, "--data")), chat.read)
    longest = base.longest(config, settings.max_length, tuning.LONGEST)
    learnt, held_out = (chat.Examples(tokenizer, part, longest) for part in (parts.train, parts.held_out))
    for name, part in (("to learn from", learnt), ("held out", held_out)):
        left_out = f", {part.left_out} left out: longer than {longest} tokens" if part.left_out else ""
        log.info("%s: %d conversations, %d tokens%s", name, part.conversations, part.tokens, left_out)
    return learnt, held_out


def facts(settings: Settings, learnt: chat.Examples) -> dict[str, object]:
    """What a run that resumes must have in common with the one that wrote the checkpoint."""
    found = tuning.facts(settings, highest(settings), learnt.digest)
    if settings.shard:
        del found["batch"]  # a step stays what it was
    return found


def highest(settings: Settings) -> float:
    """The highest learning rate."""
    return settings.learning_rate or LEARNING_RATE[settings.full]


def learn_divided(model: Any, learnt: chat.Examples, settings: Settings, world: World) -> Run:
    """Train a model that is divided. Raises CheckpointError: there is a checkpoint of another run."""
    how = collator(settings.packing)
    return divided.learn(model, learnt, how, settings, highest(settings), facts(settings, learnt), world)


def make_trainer(
    model: Any, learnt: chat.Examples, settings: Settings, world: World
) -> tuple[Trainer, FactoryCallback]:
    """transformers' Trainer, and what ties it to the factory. Raises CheckpointError: see `FactoryCallback`."""
    factory = FactoryCallback(facts=facts(settings, learnt))
    trainer = Trainer(
        model,
        tuning.training_arguments(settings, highest(settings), world),
        collator(settings.packing),
        train_dataset=learnt,
        callbacks=[factory, tuning.Lines(factory)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, factory


def collator(packing: bool) -> Callable[[Sequence[Row]], dict[str, Tensor]]:
    """Rows of tokens as a batch: side by side, or one after another with positions that begin anew, by which
    transformers keeps them apart (masking_utils.find_packed_sequence_indices)."""
    flattening: Any = DataCollatorWithFlattening
    return flattening() if packing else likelihood.pad


def measure(model: Any, examples: chat.Examples, batch: int, world: World) -> float:
    """Mean cross entropy, in nats, of the tokens that are learnt; each process measures its share of the examples."""
    scores = likelihood.score(model, examples, batch, world)
    return -float(scores.log_likelihood.sum()) / likelihood.asked(examples)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    settings = parse(arguments)
    carry_out(partial(train, settings), partial(look, settings))


if __name__ == "__main__":
    errors.install()
    main()
    leave()

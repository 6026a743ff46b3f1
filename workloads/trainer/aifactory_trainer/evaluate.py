"""Measure a language model: by its loss on conversations or texts it was not trained on, and by tasks.

    torchrun -m aifactory_trainer.evaluate --model=model --data=chat --tasks=tasks

Role: a whole program that is read in one sitting. What is asked, and what the answers are worth, is in measured.py; the
loop is a `Run`, so that it goes on after a restart, reports its progress, and ends when it is asked to.

What always holds:
- What is wrong with the inputs is told in one sentence before the model is loaded, and the job is not restarted for it.
- The figures are the same for any number of processes, with and without restarts, up to rounding.
- They are in `evaluation.json` in the output when all is measured, not before, and in the job's progress.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from aifactory_contract.files import write_atomically
from aifactory_contract.formats import HUGGINGFACE, check_directory
from aifactory_trainer import Run, World, base, chat, errors, likelihood, measured
from aifactory_trainer.environment import Environment
from aifactory_trainer.likelihood import Scores
from aifactory_trainer.measured import Losses, Measured
from aifactory_trainer.program import BadInputError, Parser, carry_out, find, leave, positive, share

log = logging.getLogger("aifactory")

RESULTS = "evaluation.json"
LONGEST = 2048
"""Tokens that the model is to read at once, where neither --max-length nor the model says less."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run, as the command line asks for it; fields are options of the same name.

    Attributes:
        model: directory of the model, or the name of an input.
        data: file or directory of conversations or texts, or the name of an input; None: only tasks.
        hold_out_share: measure only on the conversations that fine-tuning holds out with this share; None: on all.
        tasks: file or directory of tasks, or the name of an input; None: only data.
        batch: rows at a time in all processes together.
        max_length: tokens that the model is to read at once.
        chat_template: file with one; None: the model's.
        checkpoint_every: steps between checkpoints; None: by time alone.
    """

    model: str
    data: str | None
    hold_out_share: float | None
    tasks: str | None
    batch: int
    max_length: int | None
    chat_template: str | None
    checkpoint_every: int | None


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    parser = Parser(prog="aifactory_trainer.evaluate", description="Measure a language model.")
    add = parser.add_argument
    add("--model", default="model", help="an input's name or a directory (default: %(default)s)")
    add("--data", help="conversations or texts to expect: an input's name, a directory or a file")
    add("--hold-out-share", type=share, help="only the conversations that sft and dpo hold out with this share")
    add("--tasks", help="questions with right answers: an input's name, a directory or a .jsonl file")
    add("--batch", type=positive, default=8, help="rows at a time in all processes together (%(default)s)")
    add("--max-length", type=positive, help=f"tokens to read at once (the model's, at most {LONGEST})")
    add("--chat-template", help="file with a chat template, where the model has none or a worse one")
    add("--checkpoint-every", type=positive, help="steps; default: by time alone")
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.data is None and settings.tasks is None:
        parser.error("there is nothing to measure: give --data, --tasks or both")
    return settings


def evaluate(settings: Settings, world: World) -> None:
    """The whole program: inputs, model, questions, figures."""
    folder = find(settings.model, "--model")
    check_directory(folder, HUGGINGFACE.name)
    config = AutoConfig.from_pretrained(folder)
    base.check_reading(config, world)
    asked = load(settings, folder, config)
    rows = [row for each in asked.values() for row in each.rows]
    answers = Answers(f"{base.fingerprint(folder)} {measured.digest(rows)} batch {settings.batch}", len(rows))
    run = Run(answers=answers, checkpoint_every=settings.checkpoint_every, keep=1)
    # The longest first: if there is too little memory for a batch, it shows at once.
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["input_ids"]))
    total = -(-len(rows) // settings.batch)
    if run.step < total:
        model = base.load_to_read(folder, world)
    for step in run.steps(total):
        part = order[step * settings.batch : (step + 1) * settings.batch]
        answers.take(part, likelihood.score(model, [rows[index] for index in part], settings.batch, world))
        run.report(tokens=sum(len(rows[index]["input_ids"]) for index in part))
    figures = answers.figures(asked)
    if world.rank == 0:
        write(figures, base.fingerprint(folder))
        reported: dict[str, Any] = measured.flat(figures)
        for name, value in reported.items():
            log.info("%s: %.4f", name, value)
        run.report(**reported)
        run.flush()


def load(settings: Settings, folder: Path, config: Any) -> dict[str, Measured]:
    """What is asked, by name; "" is the data."""
    source = None if settings.data is None else find(settings.data, "--data")
    talks = source is not None and measured.is_chat(source)
    tokenizer = base.load_tokenizer(folder, settings.chat_template, chats=talks)
    longest = base.longest(config, settings.max_length, LONGEST)
    found: dict[str, Measured] = {}
    if source is not None and talks:
        every = chat.read(source)
        held_out = every if settings.hold_out_share is None else chat.split(every, settings.hold_out_share).held_out
        examples = chat.Examples(tokenizer, held_out, longest)
        if examples.left_out:
            log.warning("%d conversations are longer than %d tokens and left out", examples.left_out, longest)
        found[""] = Losses([examples[index] for index in range(len(examples))], examples.conversations)
    elif source is not None:
        if settings.hold_out_share is not None:
            raise BadInputError(f"--hold-out-share is for conversations, and {source} has none: leave it out")
        found[""] = measured.texts(source, tokenizer, longest)
    if settings.tasks is not None:
        found |= measured.tasks(find(settings.tasks, "--tasks"), tokenizer, longest)
    for name, each in found.items():
        log.info("%s: %d rows", name or settings.data, len(each.rows))
    return found


class Answers:
    """What the model has said so far: the state of a run, the same on all ranks."""

    def __init__(self, of: str, rows: int) -> None:
        """Args: of: what tells model and questions from others."""
        self._of = of
        self._said = torch.zeros(2, rows, dtype=torch.float64)

    def take(self, rows: Sequence[int], scores: Scores) -> None:
        """Note the scores of these rows."""
        self._said[:, list(rows)] = torch.stack((scores.log_likelihood, scores.greedy.double()))

    def figures(self, asked: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
        """What they are worth, when all are there."""
        found, at = {}, 0
        for name, each in asked.items():
            said = self._said[:, at : at + len(each.rows)]
            found[name] = each.figures(Scores(said[0], said[1] > 0))
            at += len(each.rows)
        return found

    def state_dict(self) -> dict[str, Any]:
        """For `Run`."""
        return {"of": self._of, "said": self._said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For `Run`. Raises ValueError: it is of another model, or of other questions."""
        if state["of"] != self._of:
            raise ValueError(f"it is of another model, other data or another --batch ({state['of']}, now {self._of})")
        said: Tensor = state["said"]
        self._said = said.clone()


def write(figures: Mapping[str, Mapping[str, float]], model: str) -> None:
    """All figures, as JSON."""
    output = Environment.read().output
    output.mkdir(parents=True, exist_ok=True)
    data = {"data": dict(figures[""])} if "" in figures else {}
    named = {name: dict(own) for name, own in figures.items() if name}
    text = json.dumps({"model": model, **data, **({"tasks": named} if named else {})}, indent=2, sort_keys=True)
    write_atomically(output / RESULTS, text + "\n")
    log.info("written to %s", output / RESULTS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    settings = parse(arguments)
    carry_out(lambda world: evaluate(settings, world))


if __name__ == "__main__":
    errors.install()
    main()
    leave()

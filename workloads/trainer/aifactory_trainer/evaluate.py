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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aifactory_contract.files import write_atomically
from aifactory_trainer import Run, World, ahead, base, chat, errors, likelihood, measured, saved, writing
from aifactory_trainer.checkpoint import RUN
from aifactory_trainer.distributed import Group
from aifactory_trainer.environment import Environment
from aifactory_trainer.harness import APPLY_CHAT_TEMPLATE
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
        apply_chat_template: have it write the questions of lm-eval's task files.
        checkpoint_every: steps between checkpoints; None: by time alone.
    """

    model: str
    data: str | None
    hold_out_share: float | None
    tasks: str | None
    batch: int
    max_length: int | None
    chat_template: str | None
    apply_chat_template: bool
    checkpoint_every: int | None


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a bad one ends the process with code 2."""
    parser = Parser(prog="aifactory_trainer.evaluate", description="Measure a language model.")
    add = parser.add_argument
    add("--model", default="model", help="an input's name or a directory (default: %(default)s)")
    add("--data", help="conversations or texts to expect: an input's name, a directory or a file")
    add("--hold-out-share", type=share, help="only the conversations that sft and dpo hold out with this share")
    add("--tasks", help="questions with right answers: an input's name, a directory, a .jsonl or a .yaml file")
    add("--batch", type=positive, default=8, help="rows at a time in all processes together (%(default)s)")
    add("--max-length", type=positive, help=f"tokens to read at once (the model's, at most {LONGEST})")
    add("--chat-template", help="file with a chat template, where the model has none or a worse one")
    add("--apply-chat-template", action="store_true", help=APPLY_CHAT_TEMPLATE)
    add("--checkpoint-every", type=positive, help="steps; default: by time alone")
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.data is None and settings.tasks is None:
        parser.error("there is nothing to measure: give --data, --tasks or both")
    return settings


def evaluate(settings: Settings, world: World) -> None:
    """The whole program: inputs, model, questions, figures."""
    folder, tokenizer, asked = prepare(settings, world)
    answers = Answers(asked)
    run = Run(answers=answers, facts=facts(settings, folder, asked), checkpoint_every=settings.checkpoint_every, keep=1)
    parts, group = answers.parts(settings.batch), Group()
    if run.step < len(parts):
        model = base.load_to_read(folder, world)
    for step in run.steps(len(parts)):
        written, part = parts[step]
        if written:
            prompts = [answers.prompts[index] for index in part]
            share = -(-settings.batch // world.size)
            answers.take_texts(part, writing.write(model, tokenizer, prompts, share, group, world.device))
            run.report(tokens=sum(len(prompt.tokens) for prompt in prompts))
        else:
            rows = [answers.rows[index] for index in part]
            answers.take(part, likelihood.score(model, rows, settings.batch, world))
            run.report(tokens=sum(len(row["input_ids"]) for row in rows))
    figures = answers.figures(asked)
    if world.rank == 0:
        write(figures, saved.fingerprint(folder))
        reported: dict[str, Any] = measured.flat(figures)
        for name, value in reported.items():
            log.info("%s: %.4f", name, value)
        run.report(**reported)
        run.flush()


def prepare(settings: Settings, world: World) -> tuple[Path, Any, dict[str, Measured]]:
    """The model's directory, its tokenizer, and what it is asked, all checked."""
    folder = find(settings.model, "--model")
    config = saved.load_config(folder)
    base.check_reading(config, world)
    return folder, *load(settings, folder, config)


def look(settings: Settings, world: World) -> None:
    """All that can be found to be in the way without a GPU and without weights."""
    folder, _, asked = prepare(settings, world)
    ahead.check_checkpoint(RUN, facts(settings, folder, asked))


def load(settings: Settings, folder: Path, config: Any) -> tuple[Any, dict[str, Measured]]:
    """The tokenizer, and what is asked, by name; "" is the data."""
    source = None if settings.data is None else find(settings.data, "--data")
    talks = source is not None and measured.is_chat(source)
    tokenizer = base.load_tokenizer(folder, settings.chat_template, chats=talks or settings.apply_chat_template)
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
        tasks = find(settings.tasks, "--tasks")
        found |= measured.tasks(tasks, tokenizer, longest, chats=settings.apply_chat_template)
    for name, each in found.items():
        log.info("%s: %d rows", name or settings.data, len(each.rows) + len(each.prompts))
    return tokenizer, found


def facts(settings: Settings, folder: Path, asked: Mapping[str, Measured]) -> dict[str, object]:
    """What a run that resumes must have in common with the one that wrote the checkpoint."""
    questions = measured.digest(asked.values())
    return {"model": saved.fingerprint(folder), "data or tasks": questions, "--batch": settings.batch}


class Answers:
    """What the model has said so far: the state of a run, the same on all ranks.

    Attributes:
        rows, prompts: all that is asked.
    """

    def __init__(self, asked: Mapping[str, Measured]) -> None:
        self.rows = [row for each in asked.values() for row in each.rows]
        self.prompts = [prompt for each in asked.values() for prompt in each.prompts]
        self._tasks = [len(each.prompts) for each in asked.values()]
        self._said = torch.zeros(2, len(self.rows), dtype=torch.float64)
        self._texts = [""] * len(self.prompts)

    def parts(self, batch: int) -> list[tuple[bool, list[int]]]:
        """What is asked together: whether prompts, and which. The longest come first: if there is too little memory for
        a batch, it shows at once. Prompts are with those of their own task."""
        order = sorted(range(len(self.rows)), key=lambda index: -len(self.rows[index]["input_ids"]))
        found = [(False, order[at : at + batch]) for at in range(0, len(order), batch)]
        begin = 0
        for count in self._tasks:
            order = sorted(range(begin, begin + count), key=lambda index: -len(self.prompts[index].tokens))
            found += [(True, order[at : at + batch]) for at in range(0, count, batch)]
            begin += count
        return found

    def take(self, rows: Sequence[int], scores: Scores) -> None:
        """Note the scores of these rows."""
        self._said[:, list(rows)] = torch.stack((scores.log_likelihood, scores.greedy.double()))

    def take_texts(self, prompts: Sequence[int], texts: Sequence[str]) -> None:
        """Note what was written behind these prompts."""
        for index, text in zip(prompts, texts, strict=True):
            self._texts[index] = text

    def figures(self, asked: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
        """What they are worth, when all are there."""
        found, at, begin = {}, 0, 0
        for name, each in asked.items():
            said = self._said[:, at : at + len(each.rows)]
            texts = self._texts[begin : begin + len(each.prompts)]
            found[name] = each.figures(Scores(said[0], said[1] > 0), texts)
            at += len(each.rows)
            begin += len(each.prompts)
        return found

    def state_dict(self) -> dict[str, Any]:
        """For `Run`."""
        return {"said": self._said, "texts": self._texts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """For `Run`."""
        said: Tensor = state["said"]
        self._said, self._texts = said.clone(), list(state["texts"])


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
    carry_out(partial(evaluate, settings), partial(look, settings))


if __name__ == "__main__":
    errors.install()
    main()
    leave()

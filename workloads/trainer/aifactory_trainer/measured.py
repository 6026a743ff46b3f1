"""What a model is measured on: conversations, texts, and tasks with right answers; and the figures that come out.

Role: from files to what a model is asked, and from its answers to figures. It loads no model. Tasks are in questions.py
(a form of our own) and harness.py (that of EleutherAI's lm-evaluation-harness).

The figures are those of lm-evaluation-harness, by the same names, and are computed in the same way. A text is cut into
windows that do not overlap in what is asked; its first token follows the mark that begins a text.

What always holds: a line that is no good is refused with its file and number; nothing is left out without being told.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aifactory_contract.data import lines, text
from aifactory_contract.userjson import parse_json
from aifactory_trainer import harness, likelihood, questions, writing
from aifactory_trainer.chat import IGNORED, ChatError
from aifactory_trainer.distributed import Group, World
from aifactory_trainer.likelihood import Row, Scores, asked
from aifactory_trainer.writing import Prompt

MAX_NAME = 48
"""Characters of a task's name: a figure's has 64 (docs/training-program.md)."""
MAX_TASKS = 8
"""With two figures each they fit into a report of progress, which has 32, beside those of training."""


class Measured(Protocol):
    """Something that a model is asked about."""

    @property
    def rows(self) -> Sequence[Row]:
        """How likely these are to it."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What it writes behind these."""

    def figures(self, scores: Scores, texts: Sequence[str] = ()) -> dict[str, float]:
        """What its answers to the rows and what it wrote are worth; shares with the standard error of their mean."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Text that the model is to expect.

    Attributes:
        rows: of it.
        documents: conversations or texts.
        bytes: of the text in UTF-8; None for conversations, of which only answers are asked about.
    """

    rows: Sequence[Row]
    documents: int
    bytes: int | None = None
    prompts: Sequence[Prompt] = ()

    def figures(self, scores: Scores, texts: Sequence[str] = ()) -> dict[str, float]:
        """See `Measured.figures`."""
        nats, tokens = -float(scores.log_likelihood.sum()), asked(self.rows)
        loss = nats / tokens
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens, "documents": self.documents}
        return found if self.bytes is None else {**found, "bits_per_byte": nats / self.bytes / math.log(2)}


COUNTS = ("tokens", "documents", "questions")


def flat(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Those that say how good the model is, under names of their own: `capitals/acc`."""
    return {
        f"{task}/{name}" if task else name: value
        for task, own in figures.items()
        for name, value in own.items()
        if name not in COUNTS and "_stderr" not in name
    }


def is_chat(source: Path) -> bool:
    """Whether the first line of .jsonl has messages."""
    for path in _paths(source):
        if path.suffix == lines.LINES:
            with path.open("rb") as file:
                first = next((line for line in file if line.strip()), b"null")
            try:
                document = parse_json(first)
            except ValueError:
                return False
            return isinstance(document, dict) and "messages" in document
    return False


def _paths(source: Path) -> list[Path]:
    return [source] if source.is_file() else [path for _, path in lines.named_files(source)]


def texts(source: Path, tokenizer: Any, window: int) -> Losses:
    """The texts of a file or directory: the lines of .jsonl files, and every other file as it is.

    Args:
        window: tokens that the model reads at once.

    Raises:
        BadInputError, FactoryError: there are none, or one can not be read.
    """
    found: list[str] = []
    for path in _paths(source):
        if path.suffix == lines.LINES:
            found += [document for _, document in lines.read(path, text.parse, text.EXAMPLE)]
            continue
        try:
            found.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ChatError(f"{path.name}: byte {error.start} is not UTF-8: it is no text") from error
    found = [document for document in found if document.strip()]
    if not found:
        raise ChatError(f"{source} has no text: {text.NONE}")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ChatError("the tokenizer has neither a bos_token nor an eos_token, and a text begins after one of them")
    rows: list[Row] = []
    for document in found:
        rows += windows(tokenizer(document, add_special_tokens=False)["input_ids"], start, window)
    return Losses(rows, len(found), sum(len(document.encode()) for document in found))


def windows(tokens: Sequence[int], start: int, size: int) -> list[Row]:
    """Rows that ask about each token once. The last one reads what is before it too, as far as it goes."""
    whole = [start, *tokens]
    rows = []
    for begin in range(0, len(tokens), size):
        end = min(begin + size, len(tokens))
        row = whole[max(0, end - size) : end + 1]  # its last token is asked about and not read
        new = end - begin
        rows.append({"input_ids": row, "labels": [IGNORED] * (len(row) - new) + row[-new:]})
    return rows


def tasks(source: Path, tokenizer: Any, longest: int, *, chats: bool = False) -> dict[str, Measured]:
    """The tasks of a file or of those of a directory, by name: the file's, without its end.

    Args:
        longest: tokens of a question with its answer.
        chats: whether the questions of task files of the harness are written by the chat template.

    Raises:
        BadInputError, FactoryError: there are none, or a line is no good.
    """
    files = [path for path in _paths(source) if path.suffix in (lines.LINES, *harness.ENDINGS)]
    read = {path: harness.read(path) for path in files if path.suffix in harness.ENDINGS}
    questions_of_others = {file.data.resolve() for file in read.values()}
    paths = [path for path in files if path.resolve() not in questions_of_others]
    if not paths:
        raise ChatError(f"{source} has no {lines.LINES} file: {questions.EXAMPLE}; nor a .yaml file of lm-eval")
    if len(paths) > MAX_TASKS:
        raise ChatError(f"{source} has {len(paths)} tasks; a job measures {MAX_TASKS}: make several of it")
    found: dict[str, Measured] = {}
    for path in paths:
        if path.stem in found or len(path.stem) > MAX_NAME:
            why = "there are two tasks of this name" if path.stem in found else f"more than {MAX_NAME} characters"
            raise ChatError(f"{path.name}: a task has the name of its file, and {why}: rename it")
        if path in read:
            found[path.stem] = harness.load(read[path], tokenizer, longest, chats=chats)
        else:
            found[path.stem] = questions.read(path, tokenizer, longest)
    return found


def ask(each: Measured, model: Any, tokenizer: Any, batch: int, world: World) -> dict[str, float]:
    """Its figures, of this model; every process has to ask."""
    scores = likelihood.score(model, each.rows, batch, world)
    texts = writing.write(model, tokenizer, each.prompts, batch, Group(), world.device) if each.prompts else []
    return each.figures(scores, texts)


def digest(asked: Iterable[Measured]) -> str:
    """Tells what is asked from what is asked elsewhere."""
    found = hashlib.sha256()
    for each in asked:
        for row in each.rows:
            found.update(repr((row["input_ids"], row["labels"])).encode())
        for prompt in each.prompts:
            found.update(repr(prompt).encode())
    return f"sha256:{found.hexdigest()[:16]}"

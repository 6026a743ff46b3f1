"""What a model is measured on: conversations, texts, and tasks with right answers; and the figures that come out.

Role: from files to rows of tokens (likelihood.py), and from their scores to figures. It loads no model.

The figures are those of EleutherAI's lm-evaluation-harness, by the same names, and are computed in the same way:
- A text is cut into windows that do not overlap in what is asked; its first token follows the mark that begins a text.
- Of choices the likeliest is taken (`acc`), or the likeliest for each of its characters (`acc_norm`).
- An answer is right (`exact_match`) when each of its tokens is the likeliest one; nothing is generated.

What always holds: a line that is no good is refused with its file and number; nothing is left out without being told.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aifactory_contract.userjson import parse_json
from aifactory_trainer import chat, corpus
from aifactory_trainer.chat import IGNORED, ChatError, Message
from aifactory_trainer.likelihood import Row, Scores, asked

MAX_NAME = 48
"""Characters of a task's name: a figure's has 64 (docs/training-program.md)."""
MAX_TASKS = 8
"""With two figures each they fit into a report of progress, which has 32, beside those of training."""
_CHOICES = '{"prompt": "The capital of France is", "choices": ["Rome", "Paris"], "answer": 1}'
_EXACT = '{"prompt": "The capital of France is", "answer": "Paris"}'
_EXAMPLE = f"one question a line, {_CHOICES} or {_EXACT}"
_TEXT = '{"text": "..."}'


class Measured(Protocol):
    """Something that a model is asked about."""

    @property
    def rows(self) -> Sequence[Row]:
        """What it is asked."""

    def figures(self, scores: Scores) -> dict[str, float]:
        """What its answers to the rows are worth."""


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

    def figures(self, scores: Scores) -> dict[str, float]:
        """See `Measured.figures`."""
        nats, tokens = -float(scores.log_likelihood.sum()), asked(self.rows)
        loss = nats / tokens
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens, "documents": self.documents}
        return found if self.bytes is None else {**found, "bits_per_byte": nats / self.bytes / math.log(2)}


@dataclass(frozen=True, slots=True)
class Question:
    """A line of a task.

    Attributes:
        rows: one for each choice, or one.
        characters: of each choice; empty: there is one answer and no choice.
        answer: which choice is right.
    """

    rows: Sequence[Row]
    characters: tuple[int, ...] = ()
    answer: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Questions of one kind, of one file."""

    questions: Sequence[Question]
    rows: Sequence[Row] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [row for question in self.questions for row in question.rows])

    def figures(self, scores: Scores) -> dict[str, float]:
        """See `Measured.figures`; each share with the standard error of its mean."""
        said, greedy = scores.log_likelihood.tolist(), scores.greedy.tolist()
        right: dict[str, list[bool]] = {}
        at = 0
        for question in self.questions:
            if question.characters:
                own = said[at : at + len(question.rows)]
                each = [value / count for value, count in zip(own, question.characters, strict=True)]
                for name, values in (("acc", own), ("acc_norm", each)):
                    right.setdefault(name, []).append(values.index(max(values)) == question.answer)
            else:
                right.setdefault("exact_match", []).append(greedy[at])
            at += len(question.rows)
        found: dict[str, float] = {"questions": len(self.questions)}
        for name, answers in right.items():
            count, share = len(answers), sum(answers) / len(answers)
            found[name] = share
            if count > 1:
                found[f"{name}_stderr"] = math.sqrt(share * (1 - share) / (count - 1))
        return found


COUNTS = ("tokens", "documents", "questions")


def flat(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Those that say how good the model is, under names of their own: `capitals/acc`."""
    return {
        f"{task}/{name}" if task else name: value
        for task, own in figures.items()
        for name, value in own.items()
        if name not in COUNTS and not name.endswith("_stderr")
    }


def is_chat(source: Path) -> bool:
    """Whether the first line of .jsonl has messages."""
    for path in _paths(source):
        if path.suffix == corpus.LINES:
            with path.open("rb") as lines:
                first = next((line for line in lines if line.strip()), b"null")
            try:
                document = parse_json(first)
            except ValueError:
                return False
            return isinstance(document, dict) and "messages" in document
    return False


def _paths(source: Path) -> list[Path]:
    return [source] if source.is_file() else list(corpus.files(source))


def texts(source: Path, tokenizer: Any, window: int) -> Losses:
    """The texts of a file or directory: the lines of .jsonl files, and every other file as it is.

    Args:
        window: tokens that the model reads at once.

    Raises:
        BadInputError: there are none, or one can not be read.
    """
    found: list[str] = []
    for path in _paths(source):
        if path.suffix == corpus.LINES:
            found += [text for _, text in chat.read_lines(path, _text, f"one text a line, {_TEXT}")]
            continue
        try:
            found.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ChatError(f"{path.name}: byte {error.start} is not UTF-8: it is no text") from error
    found = [text for text in found if text.strip()]
    if not found:
        raise ChatError(f"{source} has no text: give files of text, or of {_TEXT} lines named *{corpus.LINES}")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ChatError("the tokenizer has neither a bos_token nor an eos_token, and a text begins after one of them")
    rows: list[Row] = []
    for text in found:
        rows += windows(tokenizer(text, add_special_tokens=False)["input_ids"], start, window)
    return Losses(rows, len(found), sum(len(text.encode()) for text in found))


def _text(document: Any) -> str:
    given = document.get("text") if isinstance(document, dict) else None
    if not isinstance(given, str):
        raise ValueError(f'it has no "text": {_TEXT}')
    return chat.text(given, '"text"', "content") if given.strip() else ""


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


def tasks(source: Path, tokenizer: Any, longest: int) -> dict[str, Task]:
    """The tasks of a .jsonl file or of those of a directory, by name: the file's, without its end.

    Args:
        longest: tokens of a question with its answer.

    Raises:
        BadInputError: there are none, or a line is no good.
    """
    paths = [path for path in _paths(source) if path.suffix == corpus.LINES]
    if not paths:
        raise ChatError(f"{source} has no {corpus.LINES} file: {_EXAMPLE}")
    if len(paths) > MAX_TASKS:
        raise ChatError(f"{source} has {len(paths)} tasks; a job measures {MAX_TASKS}: make several of it")
    found: dict[str, Task] = {}
    for path in paths:
        if path.stem in found or len(path.stem) > MAX_NAME:
            why = "there are two tasks of this name" if path.stem in found else f"more than {MAX_NAME} characters"
            raise ChatError(f"{path.name}: a task has the name of its file, and {why}: rename it")
        lines = chat.read_lines(path, lambda line: _question(line, tokenizer, longest), _EXAMPLE)
        questions = [question for _, question in lines]
        if len({bool(question.characters) for question in questions}) > 1:
            raise ChatError(f"{path.name}: some lines have choices and some have none: make two tasks of it")
        found[path.stem] = Task(questions)
    return found


def _question(line: Any, tokenizer: Any, longest: int) -> Question:
    if not isinstance(line, dict) or not {"prompt", "answer"} <= line.keys():
        raise ValueError(f'it has no "prompt" and "answer": {_EXAMPLE}')
    if unknown := sorted(line.keys() - {"prompt", "answer", "choices", "id"}):
        raise ValueError(f"it has {', '.join(map(repr, unknown))}, which means nothing here: {_EXAMPLE}")
    prompt, between = _prompt(line["prompt"], tokenizer)
    answer, choices = line["answer"], line.get("choices")
    if choices is None:
        said = [chat.text(answer, '"answer"', "content")]
        return Question([_row(tokenizer, prompt, between + said[0], longest)])
    if not (isinstance(choices, list) and len(choices) > 1):
        raise ValueError('"choices" is no list of two texts or more')
    said = [chat.text(choice, f"choices[{index}]", "content") for index, choice in enumerate(choices)]
    if type(answer) is not int or not 0 <= answer < len(said):
        raise ValueError(f'"answer" is {answer!r:.40}; it is the number of a choice, 0 to {len(said) - 1}')
    rows = [_row(tokenizer, prompt, between + choice, longest) for choice in said]
    return Question(rows, tuple(map(len, said)), answer)


def _prompt(given: Any, tokenizer: Any) -> tuple[str, str]:
    """The text before an answer, and what is between the two."""
    if not isinstance(given, list):
        return chat.text(given, '"prompt"', "content"), " "
    messages: list[Message] = [chat.message(each, f"prompt[{index}]") for index, each in enumerate(given)]
    if not messages:
        raise ValueError('"prompt" is an empty list')
    chat.check_order(messages, "prompt", last="user")
    return chat.render(tokenizer, messages, "prompt", add_generation_prompt=True), ""


def _row(tokenizer: Any, prompt: str, answer: str, longest: int) -> Row:
    """Tokens of both together, of which the answer's are asked about; spaces at the prompt's end are of the answer."""
    before = prompt.rstrip() if prompt.endswith(" ") else prompt
    tokens: list[int] = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    read = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    if len(tokens) > longest:
        raise ValueError(f"it has {len(tokens)} tokens, and the model is to read {longest}: see --max-length")
    if read >= len(tokens):
        raise ValueError("the tokenizer makes nothing of the answer that is not in the prompt already")
    return {"input_ids": tokens, "labels": [IGNORED] * read + tokens[read:]}


def digest(rows: Sequence[Row]) -> str:
    """Tells these rows from others."""
    found = hashlib.sha256()
    for row in rows:
        found.update(repr((row["input_ids"], row["labels"])).encode())
    return f"sha256:{found.hexdigest()[:16]}"

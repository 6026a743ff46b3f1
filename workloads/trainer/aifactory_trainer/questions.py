"""Tasks whose questions come with their answers: some to choose from, or one that the model should have said.

Role: from the lines of a .jsonl file to rows of tokens (likelihood.py), and from their scores to figures.

The figures are those of lm-evaluation-harness, by the same names:
- Of choices the likeliest is taken (`acc`), or the likeliest for each of its characters (`acc_norm`).
- A single answer is right (`exact_match`) when each of its tokens is the likeliest one; nothing is generated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aifactory_contract.data import lines
from aifactory_contract.data.chat import Message, check_order, content, message
from aifactory_trainer import chat
from aifactory_trainer.chat import IGNORED, ChatError
from aifactory_trainer.likelihood import Row, Scores
from aifactory_trainer.writing import Prompt

_CHOICES = '{"prompt": "The capital of France is", "choices": ["Rome", "Paris"], "answer": 1}'
_EXACT = '{"prompt": "The capital of France is", "answer": "Paris"}'
EXPECTED = "acc"
"""What the harness calls the share of single answers that each were the likeliest; beside it is their perplexity."""
EXAMPLE = f"one question a line, {_CHOICES} or {_EXACT}"


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
    """Questions of one kind, of one file.

    Attributes:
        questions: all with choices, or all without.
        single: what the figure for those without is called.
    """

    questions: Sequence[Question]
    single: str = "exact_match"
    rows: Sequence[Row] = field(init=False)
    prompts: Sequence[Prompt] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [row for question in self.questions for row in question.rows])

    def figures(self, scores: Scores, texts: Sequence[str] = ()) -> dict[str, float]:
        """See `Measured.figures`."""
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
                right.setdefault(self.single, []).append(greedy[at])
            at += len(question.rows)
        if self.single in right and self.single == EXPECTED:
            return {**shares(right), "perplexity": math.exp(-sum(said) / len(said))}
        return shares(right)


def shares(right: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """For each figure the share of right answers, with the standard error of its mean; and how many there are."""
    found: dict[str, float] = {}
    for name, answers in right.items():
        count, share = len(answers), sum(answers) / len(answers)
        found |= {"questions": count, name: share}
        if count > 1:
            figure, comma, filtered = name.partition(",")
            found[f"{figure}_stderr{comma}{filtered}"] = math.sqrt(share * (1 - share) / (count - 1))
    return found


def read(path: Path, tokenizer: Any, longest: int) -> Task:
    """The task in a .jsonl file.

    Args:
        longest: tokens of a question with its answer.

    Raises:
        FactoryError: a line is no good.
        ChatError: they are of two kinds.
    """
    found = lines.read(path, lambda line: _question(line, tokenizer, longest), EXAMPLE)
    questions = [question for _, question in found]
    if len({bool(question.characters) for question in questions}) > 1:
        raise ChatError(f"{path.name}: some lines have choices and some have none: make two tasks of it")
    return Task(questions)


def _question(line: Any, tokenizer: Any, longest: int) -> Question:
    if not isinstance(line, dict) or not {"prompt", "answer"} <= line.keys():
        raise ValueError(f'it has no "prompt" and "answer": {EXAMPLE}')
    if unknown := sorted(line.keys() - {"prompt", "answer", "choices", "id"}):
        raise ValueError(f"it has {', '.join(map(repr, unknown))}, which means nothing here: {EXAMPLE}")
    prompt, between = _prompt(line["prompt"], tokenizer)
    answer, choices = line["answer"], line.get("choices")
    if choices is None:
        said = [content(answer, '"answer"')]
        return Question([row(tokenizer, prompt, between + said[0], longest)])
    if not (isinstance(choices, list) and len(choices) > 1):
        raise ValueError('"choices" is no list of two texts or more')
    said = [content(choice, f"choices[{index}]") for index, choice in enumerate(choices)]
    if type(answer) is not int or not 0 <= answer < len(said):
        raise ValueError(f'"answer" is {answer!r:.40}; it is the number of a choice, 0 to {len(said) - 1}')
    rows = [row(tokenizer, prompt, between + choice, longest) for choice in said]
    return Question(rows, tuple(map(len, said)), answer)


def _prompt(given: Any, tokenizer: Any) -> tuple[str, str]:
    """The text before an answer, and what is between the two."""
    if not isinstance(given, list):
        return content(given, '"prompt"'), " "
    messages: list[Message] = [message(each, f"prompt[{index}]") for index, each in enumerate(given)]
    if not messages:
        raise ValueError('"prompt" is an empty list')
    check_order(messages, "prompt", last="user")
    return chat.render(tokenizer, messages, "prompt", add_generation_prompt=True), ""


def row(tokenizer: Any, prompt: str, answer: str, longest: int) -> Row:
    """Tokens of both together, of which the answer's are asked about; spaces at the prompt's end are of the answer."""
    before = prompt.rstrip() if prompt.endswith(" ") else prompt
    tokens: list[int] = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    read = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    if len(tokens) > longest:
        raise ValueError(f"it has {len(tokens)} tokens, and the model is to read {longest}: see --max-length")
    if read >= len(tokens):
        raise ValueError("the tokenizer makes nothing of the answer that is not in the prompt already")
    return {"input_ids": tokens, "labels": [IGNORED] * read + tokens[read:]}

"""Preferences: for one question the answer that is wanted and one that is not; read, checked, and made into tokens.

Role: what chat.py is for conversations. A line is one preference, in the form that Hugging Face's trl has for it:

    {"prompt": [{"role": "user", ...}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}

or without `prompt`, with two whole conversations that differ in their last message. An answer may be a text.

What always holds: both answers stand behind the same text, the one that is in front of them when the model is served;
only the answers are learnt; and what chat.py says of lines that are no good and of the hold-out holds here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from aifactory_trainer import chat
from aifactory_trainer.chat import ChatError, Conversation, Message
from aifactory_trainer.likelihood import Row

_LINE = '{"prompt": [{"role": "user", "content": "..."}], "chosen": "a good answer", "rejected": "a worse one"}'


@dataclass(frozen=True, slots=True)
class Preference:
    """One line. Attributes: chosen, rejected: the conversation with the answer that is wanted, and with the other."""

    chosen: Conversation
    rejected: Conversation

    @property
    def question(self) -> bytes:
        """A hash of what the user says in it."""
        return self.chosen.question


def read(source: Path) -> list[Preference]:
    """The preferences of a file, or of the .jsonl files of a directory.

    Raises:
        BadInputError: there are none, or a line is none.
    """
    found = chat.read_lines(source, _answers, f"one preference a line, {_LINE}")
    return [
        Preference(Conversation(chosen, where), Conversation(rejected, where)) for where, (chosen, rejected) in found
    ]


def _answers(document: Any) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The conversation with the answer that is wanted, and with the other. Raises ValueError."""
    if not (isinstance(document, dict) and document.get("chosen") and document.get("rejected")):
        raise ValueError(f'it has no "chosen" and "rejected": {_LINE}')
    prompt = _prompt(document["prompt"]) if "prompt" in document else ()
    chosen, rejected = ((*prompt, *_answer(document[name], name, bool(prompt))) for name in ("chosen", "rejected"))
    for name, found in (("chosen", chosen), ("rejected", rejected)):
        chat.check_order(found, f"prompt and {name}" if prompt else name)
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last message: they are to answer the same question")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same, so nothing says which is better")
    return chosen, rejected


def _prompt(given: Any) -> tuple[Message, ...]:
    if not (isinstance(given, list) and given):
        raise ValueError(
            f'"prompt" is no list of messages; leave it out where the answers are whole conversations: {_LINE}'
        )
    return tuple(chat.message(each, f"prompt[{index}]") for index, each in enumerate(given))


def _answer(given: Any, name: str, prompt: bool) -> tuple[Message, ...]:
    if isinstance(given, str) and prompt:
        return ({"role": "assistant", "content": chat.text(given, name, "content")},)
    if not isinstance(given, list):
        raise ValueError(f'"{name}" is no list of messages, nor a text with a "prompt": {_LINE}')
    return tuple(chat.message(each, f"{name}[{index}]") for index, each in enumerate(given))


class Pairs(Dataset[dict[str, Any]]):
    """Tokens and labels of both answers, with what the base thinks of them.

    Attributes:
        rows: of the first pair the chosen answer and the rejected one, of the second the chosen ...
        reference: for each row its log-likelihood by the base, in nats; set before training.
        left_out: pairs that are not in them, because an answer is longer than it may be.
    """

    def __init__(self, tokenizer: Any, preferences: Iterable[Preference], longest: int) -> None:
        """Make them.

        Args:
            tokenizer: of transformers, with a chat template.
            longest: tokens of one answer with what is before it.

        Raises:
            ChatError: the template refuses a conversation, or all are too long.
        """
        self.rows: list[Row] = []
        self.reference: list[float] = []
        self.left_out = 0
        lengths = []
        for each in preferences:
            pair = [chat.encode_answer(tokenizer, said) for said in (each.chosen, each.rejected)]
            lengths.append(max(len(tokens) for tokens, _ in pair))
            if lengths[-1] > longest:
                self.left_out += 1
                continue
            self.rows += [{"input_ids": tokens, "labels": labels} for tokens, labels in pair]
        if not self.rows:
            raise ChatError(
                f"all {self.left_out} preferences are longer than {longest} tokens, the shortest has {min(lengths)}: "
                "raise --max-length"
            )

    def __len__(self) -> int:
        return len(self.rows) // 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        own = slice(2 * index, 2 * index + 2)
        return {"rows": self.rows[own], "reference": self.reference[own]}

    @property
    def digest(self) -> str:
        """Of tokens and labels, in their order."""
        found = hashlib.sha256()
        for row in self.rows:
            found.update(repr((row["input_ids"], row["labels"])).encode())
        return f"sha256:{found.hexdigest()[:16]}"

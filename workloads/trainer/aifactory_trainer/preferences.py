"""Preferences: for one question the answer that is wanted and one that is not; read, checked, and made into tokens.

Role: what chat.py is for conversations. What a line has to be is in the contract (data/preference.py).

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

from aifactory_contract.data import lines, preference
from aifactory_trainer import chat
from aifactory_trainer.chat import ChatError, Conversation
from aifactory_trainer.likelihood import Row


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
        FactoryError: there are none, or a line is none.
    """
    found = lines.read(source, preference.parse, preference.EXAMPLE)
    return [
        Preference(Conversation(chosen, where), Conversation(rejected, where)) for where, (chosen, rejected) in found
    ]


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

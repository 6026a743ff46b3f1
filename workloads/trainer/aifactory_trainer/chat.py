"""Conversations: read, checked, split, and made into tokens of which only the assistant's are learnt.

Role: from JSONL files to examples. It knows tokenizers and chat templates, and neither models nor training. What a line
has to be is in the contract (data/chat.py): an input that says its format is checked by the same rules before.

What always holds:
- A line that is no conversation is refused, with its file and number. Nothing is left out silently.
- A conversation is held out by a hash of what its user says, never by chance or place: every rank, attempt and machine
  has the same split, a question that is held out is nowhere in what is trained on, and more data do not change that.
- Learnt is what the assistant says and the mark that ends its turn, after the very text that is in front of it when the
  model is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from torch.utils.data import Dataset

from aifactory_contract.data import chat, lines
from aifactory_contract.data.chat import Message
from aifactory_trainer.program import BadInputError

IGNORED = -100
"""The label of a token that is not learnt, as transformers has it."""


class ChatError(BadInputError):
    """The data or the chat template are no good."""


class Asked(Protocol):
    """What a split goes by."""

    @property
    def question(self) -> bytes:
        """A hash of what the user says in it."""


Part = TypeVar("Part", bound=Asked)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One line.

    Attributes:
        messages: as chat templates take them: role and content.
        where: file and number of the line, for messages.
    """

    messages: tuple[Message, ...]
    where: str

    @property
    def question(self) -> bytes:
        """A hash of what the user says in it."""
        said = "\0".join(message["content"] for message in self.messages if message["role"] == "user")
        return hashlib.sha256(said.encode()).digest()


def read(source: Path) -> list[Conversation]:
    """The conversations of a file, or of the .jsonl files of a directory: folder by folder, by name, line by line.

    Raises:
        FactoryError: there are none, or a line is none.
    """
    return [Conversation(said, where) for where, said in lines.read(source, chat.parse, chat.EXAMPLE)]


@dataclass(frozen=True, slots=True)
class Split(Generic[Part]):
    """Attributes: train: to learn from. held_out: to measure on. dropped: not trained on, because its question is."""

    train: list[Part]
    held_out: list[Part]
    dropped: int = 0


def split(every: Sequence[Part], share: float) -> Split[Part]:
    """Hold out this share of them, by what their users say.

    Raises:
        ChatError: one of the two parts would be empty.
    """
    held = [each for each in every if _number(each) < share]
    train = [each for each in every if _number(each) >= share]
    if not held:
        raise ChatError(
            f"of {len(every)} conversations none is held out with --hold-out-share {share}, so nothing could tell "
            "whether the model got better: raise it, or give a file of its own with --hold-out"
        )
    if not train:
        raise ChatError(f"all {len(every)} conversations are held out: lower --hold-out-share {share}")
    return Split(train, held)


def split_from(every: Sequence[Part], held_out: Sequence[Part]) -> Split[Part]:
    """Train on those whose questions are not in the hold-out, which was given.

    Raises:
        ChatError: there are none.
    """
    questions = {each.question for each in held_out}
    train = [each for each in every if each.question not in questions]
    if not train:
        raise ChatError("every question of the data is in --hold-out too: nothing is left to train on")
    return Split(train, list(held_out), len(every) - len(train))


def _number(asked: Asked) -> float:
    """From 0 to 1, the same for the same question."""
    return float(int.from_bytes(asked.question[:7])) / float(1 << 56)


class Examples(Dataset[dict[str, list[int]]]):
    """Tokens and labels, as compact as they go; what a collator takes comes out of it.

    Attributes:
        conversations: how many are in them.
        left_out: how many are not, because they are longer than they may be.
    """

    def __init__(self, tokenizer: Any, conversations: Iterable[Conversation], longest: int) -> None:
        """Make them.

        Args:
            tokenizer: of transformers, with a chat template.
            longest: tokens of one example.

        Raises:
            ChatError: the template refuses a conversation, or all are too long.
        """
        self._rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self.conversations = self.left_out = 0
        lengths = []
        for conversation in conversations:
            rows = encode(tokenizer, conversation)
            lengths.append(max(len(tokens) for tokens, _ in rows))
            if lengths[-1] > longest:
                self.left_out += 1
                continue
            self.conversations += 1
            self._rows += [(np.array(tokens, np.int32), np.array(labels, np.int32)) for tokens, labels in rows]
        if not self._rows:
            raise ChatError(
                f"all {self.left_out} conversations are longer than {longest} tokens, the shortest has {min(lengths)}: "
                "raise --max-length"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        tokens, labels = self._rows[index]
        return {"input_ids": tokens.tolist(), "labels": labels.tolist()}

    @property
    def tokens(self) -> int:
        """Of all of them."""
        return sum(len(tokens) for tokens, _ in self._rows)

    @property
    def digest(self) -> str:
        """Of tokens and labels, in their order."""
        found = hashlib.sha256()
        for tokens, labels in self._rows:
            found.update(len(tokens).to_bytes(8))
            found.update(tokens.tobytes() + labels.tobytes())
        return f"sha256:{found.hexdigest()[:16]}"


def encode(tokenizer: Any, conversation: Conversation) -> list[tuple[list[int], list[int]]]:
    """Tokens and labels of a conversation: one example, or one for each turn of the assistant.

    The latter where the template writes earlier turns in another way than the last one (without their reasoning, say):
    what stands in front of an answer when the model is served is then in no single text.

    Raises:
        ChatError: the template refuses it, or does not begin the assistant's turn as it asks for one.
    """
    said = conversation.messages
    turns = [index for index, each in enumerate(said) if each["role"] == "assistant"]
    whole = render(tokenizer, said, conversation.where)
    answers = [_answer(tokenizer, said[: turn + 1], conversation.where) for turn in turns]
    if all(whole.startswith(text) for text, _ in answers):
        return [_tokens(tokenizer, whole, [(begin, len(text)) for text, begin in answers])]
    return [_tokens(tokenizer, text, [(begin, len(text))]) for text, begin in answers]


def encode_answer(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Tokens and labels of a conversation of which only the last message is learnt. Raises ChatError: see `encode`."""
    text, begin = _answer(tokenizer, conversation.messages, conversation.where)
    return _tokens(tokenizer, text, [(begin, len(text))])


def _answer(tokenizer: Any, said: Sequence[Message], where: str) -> tuple[str, int]:
    """The text that ends with an answer, and where the answer begins in it."""
    text = render(tokenizer, said, where)
    before = render(tokenizer, said[:-1], where, add_generation_prompt=True)
    if not text.startswith(before):
        raise ChatError(
            f"{where}: the chat template asks for an answer with {before[-40:]!r}, and writes answers in another way: "
            "the model would not learn what it is asked for. Give another one with --chat-template"
        )
    return text, len(before)


def render(tokenizer: Any, said: Sequence[Message], where: str, **options: bool) -> str:
    """The text of messages, by the chat template. Raises ChatError: it refuses them."""
    try:
        return str(tokenizer.apply_chat_template(list(said), tokenize=False, **options))
    except Exception as error:  # a template is a program: whatever it raises
        raise ChatError(f"{where}: the chat template refuses it: {error}") from error


def _tokens(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Tokens of a text, and labels for those within the spans of its characters."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens: list[int] = found["input_ids"]
    labels = [
        token if any(begin <= start and end <= stop for begin, stop in spans) else IGNORED
        for token, (start, end) in zip(tokens, found["offset_mapping"], strict=True)
    ]
    return tokens, labels

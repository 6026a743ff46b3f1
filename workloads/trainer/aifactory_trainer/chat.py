"""Conversations: read, checked, split, and made into tokens of which only the assistant's are learnt.

Role: from JSONL files to examples. It knows tokenizers and chat templates, and neither models nor training.

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
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from aifactory_trainer import corpus
from aifactory_trainer.program import BadInputError

IGNORED = -100
"""The label of a token that is not learnt, as transformers has it."""
_ROLES = ("system", "user", "assistant")


class ChatError(BadInputError):
    """The data or the chat template are no good."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One line.

    Attributes:
        messages: as chat templates take them: role and content.
        where: file and number of the line, for messages.
    """

    messages: tuple[dict[str, str], ...]
    where: str

    @property
    def question(self) -> bytes:
        """A hash of what the user says in it."""
        said = "\0".join(message["content"] for message in self.messages if message["role"] == "user")
        return hashlib.sha256(said.encode()).digest()


def read(source: Path) -> list[Conversation]:
    """The conversations of a file, or of the .jsonl files of a directory: folder by folder, by name, line by line.

    Raises:
        BadInputError: there are none, or a line is none.
    """
    paths = [source] if source.is_file() else [path for path in corpus.files(source) if path.suffix == corpus.LINES]
    if not paths:
        raise ChatError(f"{source} has no {corpus.LINES} file: one conversation a line, {_EXAMPLE}")
    named = [(path.name if source.is_file() else path.relative_to(source).as_posix(), path) for path in paths]
    found = [Conversation(messages, where) for where, messages in corpus.read_lines(named, _messages)]
    if not found:
        raise ChatError(f"{source} is empty: one conversation a line, {_EXAMPLE}")
    return found


_EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def _messages(document: object) -> tuple[dict[str, str], ...]:
    messages = document.get("messages") if isinstance(document, dict) else None
    if not (isinstance(messages, list) and messages):
        raise ValueError(f'it has no list "messages": {_EXAMPLE}')
    found = []
    for index, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in _ROLES:
            raise ValueError(f"messages[{index}] has the role {role!r:.40}; the roles are {', '.join(_ROLES)}")
        if not (isinstance(content, str) and content.strip()):
            raise ValueError(f"messages[{index}] ({role}) has no content; it is a text that is not empty")
        corpus.check_whole(content, f"messages[{index}] ({role})")
        found.append({"role": role, "content": content})
    _check_order([message["role"] for message in found])
    return tuple(found)


def _check_order(roles: Sequence[str]) -> None:
    first = int(roles[0] == "system")
    for index, role in enumerate(roles[first:], start=first):
        expected = ("user", "assistant")[(index - first) % 2]
        if role != expected:
            raise ValueError(
                f"messages[{index}] is of the {role} where the {expected} is next: after at most one message of the "
                "system, user and assistant take turns"
            )
    if roles[-1] != "assistant":
        raise ValueError("the last message is not the assistant's, so there is no answer to learn")


@dataclass(frozen=True, slots=True)
class Split:
    """Attributes: train: to learn from. held_out: to measure on. dropped: not trained on, because its question is."""

    train: list[Conversation]
    held_out: list[Conversation]
    dropped: int = 0


def split(conversations: Sequence[Conversation], share: float) -> Split:
    """Hold out this share of the conversations, by what their users say.

    Raises:
        ChatError: one of the two parts would be empty.
    """
    held = [conversation for conversation in conversations if _number(conversation) < share]
    train = [conversation for conversation in conversations if _number(conversation) >= share]
    if not held:
        raise ChatError(
            f"of {len(conversations)} conversations none is held out with --hold-out-share {share}, so nothing could "
            "tell whether the model got better: raise it, or give a file of its own with --hold-out"
        )
    if not train:
        raise ChatError(f"all {len(conversations)} conversations are held out: lower --hold-out-share {share}")
    return Split(train, held)


def split_from(conversations: Sequence[Conversation], held_out: Sequence[Conversation]) -> Split:
    """Train on those whose questions are not in the hold-out, which was given.

    Raises:
        ChatError: there are none.
    """
    questions = {conversation.question for conversation in held_out}
    train = [conversation for conversation in conversations if conversation.question not in questions]
    if not train:
        raise ChatError("every question of the data is in --hold-out too: nothing is left to train on")
    return Split(train, list(held_out), len(conversations) - len(train))


def _number(conversation: Conversation) -> float:
    """From 0 to 1, the same for the same question."""
    return float(int.from_bytes(conversation.question[:7])) / float(1 << 56)


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
    messages = conversation.messages
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    whole = _render(tokenizer, messages, conversation.where)
    answers = [_answer(tokenizer, messages[: turn + 1], conversation.where) for turn in turns]
    if all(whole.startswith(text) for text, _ in answers):
        return [_tokens(tokenizer, whole, [(begin, len(text)) for text, begin in answers])]
    return [_tokens(tokenizer, text, [(begin, len(text))]) for text, begin in answers]


def _answer(tokenizer: Any, messages: Sequence[dict[str, str]], where: str) -> tuple[str, int]:
    """The text that ends with an answer, and where the answer begins in it."""
    text = _render(tokenizer, messages, where)
    before = _render(tokenizer, messages[:-1], where, add_generation_prompt=True)
    if not text.startswith(before):
        raise ChatError(
            f"{where}: the chat template asks for an answer with {before[-40:]!r}, and writes answers in another way: "
            "the model would not learn what it is asked for. Give another one with --chat-template"
        )
    return text, len(before)


def _render(tokenizer: Any, messages: Sequence[dict[str, str]], where: str, **options: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
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

"""Text as tokens: bytes, or words learnt from the text, or somebody's tokenizer.

Role: from documents to one row of numbers, out of which the training program cuts its windows.

What always holds:
- All ranks have the same tokens. A tokenizer is learnt by rank 0 and told to the others; the same text gives the same
  one, and it is kept beside the checkpoints, for whose weights its numbers must not change.
- A document begins and ends with a mark, so that none is taken for the continuation of another.
- `bytes` needs nothing but torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from aifactory_contract.files import write_atomically
from aifactory_trainer import pretrained
from aifactory_trainer.distributed import Group
from aifactory_trainer.model import END_OF_TEXT, VOCABULARY
from aifactory_trainer.program import BadInputError

LEAST = VOCABULARY
"""Tokens that a learnt tokenizer has at least: each byte, and the mark."""
_PIECE = 1 << 20
"""Characters that are made into tokens at a time: of each token much more than its number is kept meanwhile."""


class Tokens(Protocol):
    """How text becomes tokens.

    Attributes:
        size: numbers of tokens are below it.
        digest: tells them from others; None: they are yet to be learnt.
        begin, end: the marks around a document; they may be one, which then stands once between two.
    """

    size: int
    digest: str | None
    begin: int
    end: int

    def encode(self, document: bytes) -> Iterator[Tensor]:
        """Its tokens, without marks, in pieces."""

    def published(self) -> Any:
        """A tokenizer of transformers that does the same."""


class Bytes:
    """A token for each byte."""

    size = VOCABULARY
    digest: str | None = "bytes"
    begin = end = END_OF_TEXT

    def encode(self, document: bytes) -> Iterator[Tensor]:
        """See Tokens."""
        yield torch.frombuffer(bytearray(document), dtype=torch.uint8)

    def published(self) -> Any:
        """See Tokens."""
        return _words(json.dumps(pretrained.tokenizer()))


class Words:
    """Those of a tokenizer of transformers."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        """Args: source: where it is from, for messages. Raises BadInputError if it has no mark for the end."""
        if tokenizer.eos_token_id is None:
            raise BadInputError(f"{source} has no token that ends a text (eos_token), so none could tell two apart")
        self.size = len(tokenizer)
        self.end = int(tokenizer.eos_token_id)
        self.begin = self.end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        words = json.dumps(sorted(tokenizer.get_vocab().items()))
        self.digest: str | None = f"sha256:{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        self._tokenizer = tokenizer

    def encode(self, document: bytes) -> Iterator[Tensor]:
        """See Tokens. What is no UTF-8 becomes the character for that."""
        text = document.decode(errors="replace")
        for begin in range(0, len(text), _PIECE):
            piece = text[begin : begin + _PIECE]
            yield torch.tensor(self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])

    def published(self) -> Any:
        """See Tokens."""
        return self._tokenizer


class ToBeLearnt(Bytes):
    """Of which nothing is known yet but that there are no fewer: for who looks ahead of training."""

    digest: str | None = None


def kept(size: int, folder: Path) -> Words | ToBeLearnt:
    """The ones that an earlier attempt has learnt, if there was one.

    Args:
        folder: see `learnt`.
    """
    path = _kept(size, folder)
    return Words(_words(path.read_text()), str(path)) if path.is_file() else ToBeLearnt()


def _kept(size: int, folder: Path) -> Path:
    return folder / f"tokenizer-{size}.json"


def learnt(size: int, documents: Sequence[bytes], group: Group, folder: Path) -> Words:
    """A byte-level BPE tokenizer with so many tokens, or fewer where the text has no more pairs.

    Args:
        documents: what it is learnt from, by rank 0.
        folder: where it stays for the attempts that follow.
    """
    path = _kept(size, folder)
    told: bytes | None = None
    if group.rank == 0:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _learn(size, documents))
        told = path.read_bytes()
    return Words(_words(group.broadcast(told).decode()), str(path))


def given(folder: Path) -> Words:
    """The one in a directory, in any form that transformers reads.

    Raises:
        BadInputError: there is none.
    """
    from aifactory_trainer import saved  # imported late: transformers takes seconds

    return Words(saved.load_tokenizer(folder), str(folder))


def is_longer(documents: Sequence[bytes], tokens: Tokens, length: int) -> bool:
    """Whether the row of these documents has more tokens. No more of them are made than it takes to tell."""
    marks = 1 if tokens.begin == tokens.end else 2
    count = 2 - marks
    for document in documents:
        count += marks
        for piece in tokens.encode(document):
            count += len(piece)
            if count > length:
                return True
    return count > length


def row(documents: Sequence[bytes], tokens: Tokens) -> Tensor:
    """All documents in a row, each with its marks."""
    if isinstance(tokens, Bytes):  # in memory of just that size
        whole = torch.full((sum(map(len, documents)) + len(documents) + 1,), END_OF_TEXT, dtype=torch.int16)
        begin = 1
        for document in documents:
            whole[begin : begin + len(document)] = next(tokens.encode(document))
            begin += len(document) + 1
        return whole
    parts: list[Tensor] = []
    for document in documents:
        if tokens.begin != tokens.end or not parts:
            parts.append(torch.tensor([tokens.begin], dtype=torch.int32))
        parts += [piece.to(torch.int32) for piece in tokens.encode(document)]
        parts.append(torch.tensor([tokens.end], dtype=torch.int32))
    return torch.cat(parts)


def _learn(size: int, documents: Sequence[bytes]) -> str:
    """The contents of a tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    mark = pretrained.END_OF_TEXT_WORD
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[mark], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((document.decode(errors="replace") for document in documents), trainer)
    number = tokenizer.token_to_id(mark)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{mark} $A", special_tokens=[(mark, number)])
    return str(tokenizer.to_str())


def _words(document: str) -> Any:
    """A tokenizer of transformers, out of the contents of a tokenizer.json that has our mark."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    mark, fast = pretrained.END_OF_TEXT_WORD, cast(Any, PreTrainedTokenizerFast)
    return fast(tokenizer_object=Tokenizer.from_str(document), bos_token=mark, eos_token=mark)

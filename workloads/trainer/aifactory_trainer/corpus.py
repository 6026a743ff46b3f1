"""The text: which documents, in which order, and which of them are held out.

Role: turn a directory (or one file) into documents, some to train on and some to measure on. A document is a file, or a
line of a .jsonl file, {"text": "..."}.

What always holds:
- The order is that of the paths and lines. A file is held out by a hash of its path and a line by a hash of its text,
  never by chance, so every rank, every attempt and every machine sees the same split.
- Held-out text is never trained on: a file that is there under two names, as in a mounted ConfigMap, is one file, and
  equal lines are on the same side.
- A line that is no document is refused, with its file and number. Nothing is left out silently.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from aifactory_contract.data import lines, text
from aifactory_contract.data.lines import LINES
from aifactory_trainer.program import BadInputError, find

HELD_OUT_SHARE = 20
"""One document in this many is held out."""
_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "encodings"}
)
"""Folders of the standard library that hold other packages' code, or tables and tests rather than ordinary code."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The split text, and where it came from.

    Attributes:
        train: documents to train on, in order.
        held_out: documents to measure on, in order.
        source: the directory or file, for messages.
    """

    train: tuple[bytes, ...]
    held_out: tuple[bytes, ...]
    source: str


def find_source(data: str | None) -> Path:
    """Where the text is: the `--data` argument, else the job's input named corpus, else Python's standard library.

    Raises:
        BadInputError: `data` is no path and no input.
    """
    if data is not None:
        return find(data, "--data")
    inputs = os.environ.get("AIFACTORY_INPUTS")
    if inputs and (Path(inputs) / "corpus").exists():
        return Path(inputs) / "corpus"
    return Path(sysconfig.get_paths()["stdlib"])


def load(source: Path) -> Corpus:
    """Read every file below `source`; of the standard library only its Python sources.

    One file alone, also in a directory, is split at its last twentieth, unless it has a document in each line.

    Raises:
        FactoryError: a line is no document.
        BadInputError: there is not enough text for a training and a held-out part.
    """
    files = [(source.name, source)] if source.is_file() else named_files(source)
    if len(files) == 1 and files[0][1].suffix != LINES:
        whole = files[0][1].read_bytes()
        cut = len(whole) - len(whole) // HELD_OUT_SHARE
        parts: tuple[tuple[bytes, ...], tuple[bytes, ...]] = ((whole[:cut],), (whole[cut:],))
    else:
        parts = _split(files)
    train, held_out = (tuple(document for document in part if document) for part in parts)
    if not train or not held_out:
        raise BadInputError(
            f"{source}: not enough text to train on and to hold out: give one large file, several files, or several "
            f"different lines in {LINES} files"
        )
    return Corpus(train, held_out, str(source))


def _split(files: list[tuple[str, Path]]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    documents: list[tuple[str, bytes]] = []
    """By what tells whether it is held out."""
    for name, path in files:
        if path.suffix == LINES:
            documents += [(found, found.encode()) for _, found in lines.read_files([(name, path)], text.parse)]
        else:
            documents.append((name, path.read_bytes()))
    held = {key for key, _ in documents if is_held_out(key)}
    if documents and not held:  # few documents: the last one is held out
        held = {documents[-1][0]}
    train = tuple(document for key, document in documents if key not in held)
    return train, tuple(document for key, document in documents if key in held)


def is_held_out(key: str) -> bool:
    """Whether the file at this path (relative, POSIX), or the line with this text, is measured on, not trained on."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % HELD_OUT_SHARE == 0


def named_files(source: Path) -> list[tuple[str, Path]]:
    """The files of a directory and what they are called; of the standard library only its Python sources."""
    if source != Path(sysconfig.get_paths()["stdlib"]):
        return lines.named_files(source)
    return [(name, path) for name, path in lines.named_files(source, _SKIPPED) if path.suffix == ".py"]

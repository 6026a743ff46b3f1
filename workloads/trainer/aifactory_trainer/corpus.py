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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aifactory_contract.userjson import parse_json
from aifactory_trainer.program import BadInputError

HELD_OUT_SHARE = 20
"""One document in this many is held out."""
LINES = ".jsonl"
"""The suffix of files with a document, or a conversation, in each line."""
_SHOWN = 3
"""So many bad lines are told; of the others, their number."""

Value = TypeVar("Value")

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
        FileNotFoundError: `data` does not exist.
    """
    if data is not None:
        path = Path(data)
        if not path.exists():
            raise FileNotFoundError(f"--data {data}: no such file or directory")
        return path
    inputs = os.environ.get("AIFACTORY_INPUTS")
    if inputs and (Path(inputs) / "corpus").exists():
        return Path(inputs) / "corpus"
    return Path(sysconfig.get_paths()["stdlib"])


def load(source: Path) -> Corpus:
    """Read every file below `source`; of the standard library only its Python sources.

    One file alone, unless it has a document in each line, is split at its last twentieth.

    Raises:
        BadInputError: a line is no document, or there is not enough text for a training and a held-out part.
    """
    if source.is_file() and source.suffix != LINES:
        text = source.read_bytes()
        cut = len(text) - len(text) // HELD_OUT_SHARE
        parts: tuple[tuple[bytes, ...], tuple[bytes, ...]] = ((text[:cut],), (text[cut:],))
    else:
        parts = _split(source)
    train, held_out = (tuple(text for text in part if text) for part in parts)
    if not train or not held_out:
        raise BadInputError(
            f"{source}: not enough text to train on and to hold out: give one large file or several files"
        )
    return Corpus(train, held_out, str(source))


def _split(source: Path) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    documents: list[tuple[str, bytes]] = []
    """By what tells whether it is held out."""
    for path in [source] if source.is_file() else files(source):
        name = path.name if source.is_file() else path.relative_to(source).as_posix()
        if path.suffix == LINES:
            documents += [(text, text.encode()) for _, text in read_lines([(name, path)], _text)]
        else:
            documents.append((name, path.read_bytes()))
    held = {key for key, _ in documents if is_held_out(key)}
    if documents and not held:  # few documents: the last one is held out
        held = {documents[-1][0]}
    train = tuple(text for key, text in documents if key not in held)
    return train, tuple(text for key, text in documents if key in held)


def read_lines(paths: Iterable[tuple[str, Path]], read: Callable[[object], Value]) -> list[tuple[str, Value]]:
    """What is in each line that is not blank, with its place (`file:line`).

    Args:
        paths: files and what they are called.
        read: makes the value of a line's JSON; raises ValueError with words for a person.

    Raises:
        BadInputError: names the lines that are no good.
    """
    found: list[tuple[str, Value]] = []
    wrong: list[str] = []
    for name, path in paths:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{name}:{number}"
                try:
                    found.append((where, read(_json(line))))
                except ValueError as error:
                    wrong.append(f"{where}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more lines" if len(wrong) > _SHOWN else ""
        raise BadInputError(f"{'; '.join(wrong[:_SHOWN])}{more}")
    return found


def check_whole(text: str, what: str) -> None:
    """JSON can say half of a character, which no file has. Raises ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueError(f"{what} has half a character, {half}: write it whole") from error


def _json(line: bytes) -> object:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error


def _text(document: object) -> str:
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise ValueError('it has no text: a line is one document, {"text": "..."}')
    check_whole(text, "text")
    return text


def is_held_out(key: str) -> bool:
    """Whether the file at this path (relative, POSIX), or the line with this text, is measured on, not trained on."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % HELD_OUT_SHARE == 0


def files(source: Path) -> Iterator[Path]:
    """Each file once, by its first name.

    Where a kubelet mounts a ConfigMap or a Secret, `a` is a link to `..data/a`, and `..data` one to a folder that gets
    a new name with each version (Kubernetes, pkg/volume/util/atomic_writer.go). No user's name begins with `..` there.
    """
    standard_library = source == Path(sysconfig.get_paths()["stdlib"])
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(
            name for name in folders if not (name.startswith("..") or (standard_library and name in _SKIPPED))
        )
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and (path.suffix == ".py" or not standard_library):
                found = path.stat()
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    yield path

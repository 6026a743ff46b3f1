"""The text: which files, in which order, and which of them are held out.

Role: turn a directory (or one file) into two rows of bytes, one to train on and one to measure on.

What always holds: the order is that of the paths, and a file is held out by a hash of its path, never by chance, so
every rank, every attempt and every machine sees the same split. Held-out text is never trained on: a file that is
there under two names, as in a mounted ConfigMap, is one file.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_SHARE = 20
"""One file in this many is held out."""

_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "encodings"}
)
"""Folders of the standard library that hold other packages' code, or tables and tests rather than ordinary code."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The split text, and where it came from.

    Attributes:
        train: files to train on, in order.
        held_out: files to measure on, in order.
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

    One file alone is split at its last twentieth.

    Raises:
        ValueError: there is not enough text for a training and a held-out part.
    """
    if source.is_file():
        text = source.read_bytes()
        cut = len(text) - len(text) // HELD_OUT_SHARE
        parts: tuple[tuple[bytes, ...], tuple[bytes, ...]] = ((text[:cut],), (text[cut:],))
    else:
        parts = _split(source)
    train, held_out = (tuple(text for text in part if text) for part in parts)
    if not train or not held_out:
        raise ValueError(f"{source}: not enough text to train on and to hold out: give one large file or several files")
    return Corpus(train, held_out, str(source))


def _split(source: Path) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    found = list(files(source))
    held = {path for path in found if is_held_out(path.relative_to(source).as_posix())}
    if found and not held:  # few files: the last one is held out
        held = {found[-1]}
    train = tuple(path.read_bytes() for path in found if path not in held)
    return train, tuple(path.read_bytes() for path in found if path in held)


def is_held_out(path: str) -> bool:
    """Whether the file at this path (relative, POSIX) is measured on and never trained on."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) % HELD_OUT_SHARE == 0


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

"""Files with a JSON document in each line (JSONL): what is in them, or which lines are no good.

What always holds: a line that is no good is told with its file and number, nothing is left out silently, and however
long files and lines are, one line is held at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from aifactory_contract.formats.rules import invalid
from aifactory_contract.userjson import parse_json

LINES = ".jsonl"
"""The suffix of their names."""
MAX_LINE = 16 * 1024 * 1024
"""Bytes; a longer one is most likely a file that was written without line ends."""
_SHOWN = 3
"""So many bad lines are told; of the others, their number."""

Line = TypeVar("Line")


def read(source: Path, parse: Callable[[Any], Line], example: str, called: str = "") -> Iterator[tuple[str, Line]]:
    """What is in the lines of a file, or of the .jsonl files of a directory, each with its place (`file:line`).

    Args:
        parse: makes it of a line's document; raises ValueError with words for a person.
        example: a line as it should be.
        called: what the source is called in messages; empty: by its path.

    Raises:
        FactoryError: InvalidArtifact, there are none, or some are no good; the latter when all others were given.
    """
    called = called or str(source)
    named = [(source.name, source)] if source.is_file() else named_files(source)
    paths = [(name, path) for name, path in named if source.is_file() or path.suffix == LINES]
    if not paths:
        raise invalid(f"{called} has no {LINES} file: {example}")
    empty = True
    for found in read_files(paths, parse):
        empty = False
        yield found
    if empty:
        raise invalid(f"{called} is empty: {example}")


def read_files(paths: Iterable[tuple[str, Path]], parse: Callable[[Any], Line]) -> Iterator[tuple[str, Line]]:
    """What is in each line that is not blank, with its place.

    Args:
        paths: files and what they are called.
        parse: see `read`.

    Raises:
        FactoryError: InvalidArtifact; see `read`.
    """
    wrong: list[str] = []
    more = 0
    for name, path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                if line is not None and not line.strip():
                    continue
                where = f"{name}:{number}"
                try:
                    found = parse(_document(line))
                except ValueError as error:
                    if len(wrong) < _SHOWN:
                        wrong.append(f"{where}: {error}")
                    else:
                        more += 1
                else:
                    yield where, found
    if wrong:
        raise invalid("; ".join(wrong) + (f"; and {more} more lines" if more else ""))


def named_files(source: Path, skipped: Collection[str] = ()) -> list[tuple[str, Path]]:
    """Each file of a directory once, by its first name, which is relative and POSIX: folder by folder, by name.

    Where a kubelet mounts a ConfigMap or a Secret, `a` is a link to `..data/a`, and `..data` one to a folder that gets
    a new name with each version (Kubernetes, pkg/volume/util/atomic_writer.go). No user's name begins with `..` there.

    Args:
        skipped: names of folders.

    Raises:
        OSError: a folder can not be read.
    """
    seen: set[tuple[int, int]] = set()
    named = []
    for folder, folders, names in os.walk(source, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("..") and name not in skipped)
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                found = path.stat()
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    named.append((path.relative_to(source).as_posix(), path))
    return named


def check_whole(text: str, what: str) -> None:
    """JSON can say half of a character, which no file has. Raises ValueError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueError(f"{what} has half a character, {half}: write it whole") from error


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines; None for one that is too long."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield None


def _document(line: bytes | None) -> Any:
    if line is None:
        raise ValueError(f"it is longer than {MAX_LINE >> 20} MiB: a line ends where its document does")
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error


def _raise(error: OSError) -> None:
    raise error

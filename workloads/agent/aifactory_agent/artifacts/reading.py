"""Reading a source whole: ranges of its files ahead in parallel, given in order, in a bounded buffer.

In order, because a SHA-256 is computed in order, and because what was hashed is then the beginning of its file, which
another try can go on from. However large the files are, no more than WINDOW bytes are held, plus one piece
that is being hashed or written.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from aifactory_agent.artifacts.store import Data, Source, StoredFile
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import FileEntry

PIECE = 8 * 1024 * 1024
"""Bytes of one request. A smaller one pays more round trips, a larger one leaves less to be read at the same time."""
WINDOW = 64 * 1024 * 1024
THREADS = 8
_AHEAD = 64
"""Pieces asked for and not used yet: of small files many fit into the window, and each costs a round trip."""
_LOOK_SECONDS = 0.2

Piece = tuple[StoredFile, int, Data]
Sink = Callable[[StoredFile, int, Data], object]
"""Takes a piece of a file at its offset; of an empty file comes one, too."""


class Cancelled(Exception):
    """The work was given up because nobody wants its result any more."""


@dataclass
class Begun:
    """The beginning of a file that is there already."""

    size: int = 0
    sha: Any = field(default_factory=hashlib.sha256)
    """A hashlib object that has seen it."""


def hash_files(
    source: Source,
    files: Iterable[StoredFile],
    cancel: threading.Event,
    keep: Sink | None = None,
    told: Callable[[StoredFile, int], object] | None = None,
    begun: Mapping[str, Begun] | None = None,
) -> list[FileEntry]:
    """Read files to their end and compute their digests.

    Args:
        source: where they are.
        files: which ones, as it has listed them.
        cancel: ends this with Cancelled, within a second.
        keep: gets every piece as soon as it is there, in any order, from several threads.
        told: is told how much of a file has been kept and hashed, in order.
        begun: by path, what need not be read again.

    Raises FactoryError: what the source says; DigestMismatch if a file is not what the source says it is.
    """
    hashes = {file.path: (begun or {}).get(file.path) or Begun() for file in files}
    entries = []
    for file, offset, data in _pieces(source, [(file, hashes[file.path].size) for file in files], cancel, keep):
        now = hashes[file.path]
        now.sha.update(data)
        if told is not None:
            told(file, offset + len(data))
        if offset + len(data) == file.size:
            entries.append(FileEntry(file.path, now.sha.hexdigest(), file.size))
            del hashes[file.path]
            _check(source, file, entries[-1])
    return entries


def _check(source: Source, file: StoredFile, entry: FileEntry) -> None:
    if file.sha256 and entry.sha256 != file.sha256:
        message = (
            f"{source.uri}: {file.path} has the SHA-256 {entry.sha256} but its source lists it with {file.sha256}: it "
            "is damaged there or on the way; upload it again or use another mirror"
        )
        raise FactoryError(Reason.DIGEST_MISMATCH, message)


def _pieces(
    source: Source, parts: list[tuple[StoredFile, int]], cancel: threading.Event, keep: Sink | None
) -> Iterator[Piece]:
    stop = threading.Event()
    wanted = iter([(file, start, min(start + PIECE, file.size)) for file, start in _starts(parts)])
    ahead: deque[tuple[StoredFile, int, int, Future[Data]]] = deque()
    held = 0
    upcoming = next(wanted, None)
    pool = ThreadPoolExecutor(THREADS, "read")
    try:
        while ahead or upcoming is not None:
            while upcoming is not None and len(ahead) < _AHEAD and held + upcoming[2] - upcoming[1] <= WINDOW:
                file, start, end = upcoming
                ahead.append((file, start, end, pool.submit(_read, source, file, start, end, stop, keep)))
                held += end - start
                upcoming = next(wanted, None)
            file, start, end, future = ahead.popleft()
            yield file, start, _result(future, cancel)
            held -= end - start
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _starts(parts: Iterable[tuple[StoredFile, int]]) -> Iterator[tuple[StoredFile, int]]:
    for file, begin in parts:
        yield file, begin  # one at least: somebody makes the file that is empty or complete already
        for start in range(begin + PIECE, file.size, PIECE):
            yield file, start


def _read(source: Source, file: StoredFile, start: int, end: int, stop: threading.Event, keep: Sink | None) -> Data:
    data = source.read(file, start, end, stop) if end > start else b""
    # Here and not where it is hashed: writing takes longer than hashing, so it is worth its own cores.
    if keep is not None and not stop.is_set():
        keep(file, start, data)
    return data


def _result(future: Future[Data], cancel: threading.Event) -> Data:
    while True:
        if cancel.is_set():
            raise Cancelled
        try:
            return future.result(_LOOK_SECONDS)
        except NotYet:
            if future.done():
                raise


def open_file(source: Source, file: StoredFile) -> BinaryIO:
    """A seekable stream over one file, for who looks at parts of it."""
    return cast(BinaryIO, io.BufferedReader(_Range(source, file), _LOOK_BYTES))


_LOOK_BYTES = 256 * 1024


class _Range(io.RawIOBase):
    def __init__(self, source: Source, file: StoredFile) -> None:
        self._source = source
        self._file = file
        self._at = 0
        self._stop = threading.Event()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        end = min(self._at + len(buffer), self._file.size, self._at + PIECE)
        if end <= self._at:
            return 0
        data = self._source.read(self._file, self._at, end, self._stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

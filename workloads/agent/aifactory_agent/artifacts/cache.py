"""Inputs of jobs on a volume, each under its digest, fetched once and shared.

    <root>/sha256-<64 hex digits>/    exactly the files of one input; never changed
    <root>/.incoming-<hash of its URI>/   being fetched; the next try of the same URI goes on with it
    <root>/.resolved/<hash>.json      which digest a listing of a source has turned out to have
    <root>/.checked/sha256-<64 hex digits>.<format>   its files are what this format asks for

A directory appears under its digest by a rename, after every byte was hashed and is on the disk: one that is there is
whole. What another try may go on with is told by a journal beside the files: so many bytes of a file, of that version,
were on the disk. They are hashed again, since nothing but the digest says that they are the right ones.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aifactory_agent.artifacts.reading import THREADS, Begun, hash_files
from aifactory_agent.artifacts.store import Data, Source, StoredFile
from aifactory_agent.artifacts.transfer import chosen, compare, write_piece
from aifactory_agent.artifacts.unused import remove_unused, touch
from aifactory_contract import data
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.fetchspec import InUse
from aifactory_contract.files import fsync, syncfs, write_atomically
from aifactory_contract.manifest import BOOKKEEPING, CHUNK, Manifest, check_digest

_INCOMING = ".incoming-"
_RESOLVED = ".resolved"
_CHECKED = ".checked"
_LOCK = ".lock"
_JOURNAL = f"{BOOKKEEPING}/fetched.jsonl"
_MARK_BYTES = 256 * 1024 * 1024
"""What a killed pod has to read again at most."""
_MANY_FILES = 64
_ABANDONED_SECONDS = 24 * 3600.0
_WAIT_SECONDS = 1.0


@dataclass
class Progress:
    """How far a fetch is; read by another thread."""

    uri: str
    phase: str = "Resolving"
    total_bytes: int = 0
    total_files: int = 0
    done_bytes: int = 0
    done_files: int = 0

    def as_json(self) -> dict[str, Any]:
        """What the operator is told while the pod runs."""
        return {
            "uri": self.uri,
            "phase": self.phase,
            "bytes": self.done_bytes,
            "totalBytes": self.total_bytes,
            "files": self.done_files,
            "totalFiles": self.total_files,
        }


@dataclass(frozen=True)
class Input:
    """An input that is there."""

    digest: str
    files: int
    size: int
    cached: bool
    """It was there already."""

    @property
    def name(self) -> str:
        """Its directory in the cache."""
        return _name(self.digest)


class Cache:
    """A directory of inputs on a mounted claim. Its methods raise FactoryError, which names what to do."""

    def __init__(self, root: Path, claim: str, in_use: InUse | None = None) -> None:
        self._root = root
        self._claim = claim
        self._in_use = in_use

    def find(self, digest: str) -> Input | None:
        """An input that was fetched before, by its digest; it counts as needed from now on. Asks no source."""
        folder = self._root / _name(check_digest(digest))
        with self._failures():
            try:
                if not touch(folder):
                    return None
                sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            except FileNotFoundError:  # it is being removed
                return None
        return Input(digest, len(sizes), sum(sizes), cached=True)

    def fetch(
        self,
        source: Source,
        digest: str | None,
        progress: Progress,
        cancel: threading.Event,
        expected_format: str | None = None,
    ) -> Input:
        """Bring a source here, unless it is here already. With a digest it must have that.

        With a format only the files that `verify` reads for it, or a version's digest would never be found.
        """
        with self._failures():
            self._root.mkdir(parents=True, exist_ok=True)
            with self._incoming(f"{source.uri} {expected_format or ''}".strip(), cancel) as folder:
                if digest is not None and (found := self.find(digest)) is not None:  # of another pod, meanwhile
                    return found
                files, _ = chosen(source, expected_format)
                progress.total_bytes = sum(file.size for file in files)
                progress.total_files = len(files)
                if digest is None and (found := self._resolved(source, files)) is not None:
                    return found
                self._remove_abandoned()
                manifest = self._copy(source, files, folder, progress, cancel)
                if digest is not None:
                    try:
                        compare(source.uri, digest, manifest)
                    except FactoryError:
                        shutil.rmtree(folder, ignore_errors=True)
                        raise
                progress.phase = "Finishing"
                self._finish(folder, manifest)
                self._remember(source, files, manifest.digest)
        return Input(manifest.digest, len(manifest.files), manifest.size, cached=False)

    def check(self, found: Input, form: str, progress: Progress) -> None:
        """See whether an input is what its format asks for, once for all who need it.

        What is no good stays under its digest and is read again by the next one who asks. The mark stays when the input
        is removed: the same digest is the same files. Rules that a later release adds are left to the program that
        reads them, which has the same ones.
        """
        mark = self._root / _CHECKED / f"{found.name}.{form}"
        with self._failures():
            if mark.exists():
                return
            progress.phase = "Checking"
            data.check(self._root / found.name, form, progress.uri)
            mark.parent.mkdir(exist_ok=True)
            write_atomically(mark, "")

    def _copy(
        self, source: Source, files: list[StoredFile], folder: Path, progress: Progress, cancel: threading.Event
    ) -> Manifest:
        journal = _Journal(folder)
        begun = journal.begin(files)
        progress.done_bytes = there = sum(part.size for part in begun.values())
        missing = progress.total_bytes - there
        if self._in_use is not None:
            remove_unused(self._root, self._in_use, missing, _INCOMING)
        if missing > (free := shutil.disk_usage(folder).free):
            message = (
                f"{source.uri} needs {missing} more bytes but {free} are free in claim {self._claim}; enlarge it, or "
                "delete jobs that need other inputs"
            )
            raise FactoryError(Reason.STORE_FULL, message)
        progress.phase = "Fetching"

        done = {path: part.size for path, part in begun.items()}

        def write(file: StoredFile, offset: int, data: Data) -> None:
            if len(data) or file.size == 0:
                write_piece(folder, file.path, offset, data)

        def told(file: StoredFile, size: int) -> None:
            journal.written(file, size)
            progress.done_bytes += size - done.get(file.path, 0)
            progress.done_files += size == file.size
            done[file.path] = size

        try:
            manifest = Manifest.of(hash_files(source, files, cancel, write, told, begun))
        except BaseException as error:
            if isinstance(error, FactoryError) and error.reason is Reason.DIGEST_MISMATCH:
                shutil.rmtree(folder, ignore_errors=True)  # to go on with it would bring the same again
            with suppress(OSError):
                journal.mark()
            raise
        journal.push()
        return manifest

    def _finish(self, folder: Path, manifest: Manifest) -> None:
        shutil.rmtree(folder / BOOKKEEPING)
        for path, _, _ in os.walk(folder, topdown=False):
            fsync(Path(path))
        target = self._root / _name(manifest.digest)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(folder)  # the same bytes came from another place meanwhile
        fsync(self._root)

    def _resolved(self, source: Source, files: list[StoredFile]) -> Input | None:
        try:
            digest = str(json.loads(self._record(source, files).read_text())["digest"])
            return self.find(digest)
        except (OSError, ValueError, KeyError, TypeError, FactoryError):
            return None

    def _remember(self, source: Source, files: list[StoredFile], digest: str) -> None:
        if all(file.pin for file in files):
            record = self._record(source, files)
            record.parent.mkdir(exist_ok=True)
            write_atomically(record, json.dumps({"uri": str(source.uri), "digest": digest}))

    def _record(self, source: Source, files: list[StoredFile]) -> Path:
        facts = [str(source.uri), *sorted([file.path, file.size, file.pin] for file in files)]
        return self._root / _RESOLVED / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.json"

    @contextmanager
    def _incoming(self, uri: str, cancel: threading.Event) -> Iterator[Path]:
        """The directory that this URI is fetched to, for one process at a time."""
        folder = self._root / f"{_INCOMING}{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
        with folder.with_name(f"{folder.name}{_LOCK}").open("w") as file:
            try:
                while not _lock(file.fileno()):
                    if cancel.wait(_WAIT_SECONDS):
                        raise FactoryError(Reason.STORE_UNAVAILABLE, f"{uri}: given up while another pod fetches it")
            except OSError:  # a file system without locks: a directory of its own, which nobody goes on with
                folder = folder.with_name(f"{_INCOMING}{uuid.uuid4().hex}")
            folder.mkdir(exist_ok=True)
            os.utime(folder)
            yield folder
            with suppress(OSError):
                folder.rmdir()  # empty if nothing was to be fetched

    def _remove_abandoned(self) -> None:
        """Delete what fetches have left that nobody has gone on with for a day."""
        now = time.time()
        for folder in self._root.glob(f"{_INCOMING}*"):
            with suppress(OSError):  # somebody else removes it too, or there are no locks
                if folder.is_dir() and now - _last_change(folder) > _ABANDONED_SECONDS:
                    with folder.with_name(f"{folder.name}{_LOCK}").open("w") as file:
                        if _lock(file.fileno()):
                            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                message = f"no space left in claim {self._claim}: enlarge it, or delete jobs that need other inputs"
                raise FactoryError(Reason.STORE_FULL, message) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                message = f"claim {self._claim}: {words}: let the pod's fsGroup write it"
                raise FactoryError(Reason.ACCESS_DENIED, message) from error
            raise FactoryError(Reason.STORE_UNAVAILABLE, f"claim {self._claim}: {words}") from error


@dataclass
class _Journal:
    """Which bytes of which files are on the disk for good."""

    folder: Path
    _unsafe: dict[str, tuple[StoredFile, int]] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _since: int = 0
    _marking: Future[None] | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "mark"))

    def begin(self, files: list[StoredFile]) -> dict[str, Begun]:
        """What is there of these files, hashed; everything else in the directory is removed."""
        known = self._read()
        wanted = {file.path: file for file in files}
        begun: dict[str, Begun] = {}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            name = path.relative_to(self.folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()
                continue
            file = wanted.get(name)
            size, pin, safe = known.get(name, (0, "", 0))
            if name == _JOURNAL:
                continue
            if file is not None and pin and (size, pin) == (file.size, file.pin) and path.stat().st_size >= safe > 0:
                begun[name] = _hashed(path, safe)
                self._sizes[name] = safe
            else:
                path.unlink()
        (self.folder / _JOURNAL).parent.mkdir(exist_ok=True)
        return begun

    def written(self, file: StoredFile, size: int) -> None:
        """So much of a file has been written. Now and then it is pushed to the disk, by another thread."""
        self._since += size - self._sizes.get(file.path, 0)
        self._sizes[file.path] = size
        self._unsafe[file.path] = (file, size)
        if self._since >= _MARK_BYTES and (self._marking is None or self._marking.done()):
            self._join()
            self._marking = self._pool.submit(self._mark, dict(self._unsafe))
            self._unsafe.clear()
            self._since = 0

    def mark(self) -> None:
        """Push all that was written to the disk, and write down that it is there. Raises OSError."""
        self._join()
        self._mark(self._unsafe)
        self._unsafe.clear()

    def push(self) -> None:
        """Push all that was written to the disk; nobody has to go on from here. Raises OSError."""
        self._join()
        self._push(self._unsafe)
        self._unsafe.clear()

    def _join(self) -> None:
        marking, self._marking = self._marking, None
        if marking is not None:
            marking.result()

    def _mark(self, written: dict[str, tuple[StoredFile, int]]) -> None:
        if not written:
            return
        self._push(written)
        lines = [json.dumps([file.path, file.size, file.pin, size]) for file, size in written.values()]
        with (self.folder / _JOURNAL).open("a") as journal:
            journal.write("".join(f"{line}\n" for line in lines))
        fsync(self.folder / _JOURNAL)

    def _push(self, paths: Collection[str]) -> None:
        """Of many files one by one would take longer than writing them: each waits for the file system's journal."""
        if len(paths) > _MANY_FILES and syncfs(self.folder):
            return
        with ThreadPoolExecutor(THREADS, "fsync") as pool:
            list(pool.map(lambda path: fsync(self.folder / path), paths))

    def _read(self) -> dict[str, tuple[int, str, int]]:
        found: dict[str, tuple[int, str, int]] = {}
        with suppress(OSError, UnicodeDecodeError):
            for line in (self.folder / _JOURNAL).read_text().splitlines():
                with suppress(ValueError, TypeError):  # the last line, cut off
                    path, size, pin, safe = json.loads(line)
                    found[str(path)] = (int(size), str(pin), int(safe))
        return found


def _hashed(path: Path, size: int) -> Begun:
    """The first bytes of a file, hashed; what is behind them is cut off."""
    begun = Begun(size)
    os.truncate(path, size)
    with path.open("rb", buffering=0) as reader:
        while block := reader.read(CHUNK):
            begun.sha.update(block)
    return begun


def _name(digest: str) -> str:
    return digest.replace(":", "-")


def _lock(handle: int) -> bool:
    """Whether the lock was free; it ends with this process, however that ends. Raises OSError where there are none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_change(folder: Path) -> float:
    journal = folder / _JOURNAL
    times = [path.stat().st_mtime for path in (folder, journal) if path.exists()]
    return max(times, default=0.0)

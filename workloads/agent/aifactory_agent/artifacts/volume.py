"""Artifacts in a persistent volume: a claim mounted at `<claims>/<claim>`.

Publishing makes the directory appear by one rename, so a reader sees all or nothing, also after a crash or a full disk.
A killed publisher leaves its directory aside; the next one beside it removes what is surely nobody's any more.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from aifactory_agent.artifacts.store import PROBE_BYTES, StoredFile, changed, check_probe
from aifactory_agent.logs import fields
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.files import fsync, new_directory
from aifactory_contract.manifest import CHUNK, Manifest, open_regular, walk
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
_ASIDE_PREFIX = ".incoming-"
_LOCK = ".lock"
_ABANDONED_SECONDS = 3600.0
"""A directory aside in which nothing was written for this long, and whose lock is free, has lost its publisher."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class VolumeStore:
    """See `Store`. Never follows a link: a claim may be written by others."""

    def __init__(self, uri: ArtifactUri, claims: Path) -> None:
        self.uri = uri
        self._claim = claims / uri.root
        self._root = self._claim / uri.path

    def files(self) -> list[StoredFile]:
        self._check_mounted()
        with _failures(self.uri):
            if not self._root.is_dir() or not self._root.resolve().is_relative_to(self._claim.resolve()):
                message = f"nothing at {self.uri}: claim {self.uri.root} has no directory {self.uri.path or '/'}"
                raise FactoryError(Reason.SOURCE_NOT_FOUND, message)
            found = [_listed(path, os.lstat(self._root / path)) for path in walk(self._root)]
        if not found:
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"nothing at {self.uri}: the directory is empty")
        return found

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> bytes:
        with _failures(self.uri), open_regular(self._root / file.path) as reader:
            if _listed(file.path, os.fstat(reader.fileno())) != file:
                raise changed(self.uri, file.path)
            reader.seek(start)
            data = reader.read(end - start)
        if len(data) < end - start:
            raise changed(self.uri, file.path)
        return data

    def create(self, source: Path, manifest: Manifest) -> None:
        self._check_mounted()
        aside = self._root.with_name(f"{_ASIDE_PREFIX}{uuid.uuid4().hex}")
        with _failures(self.uri):
            aside.parent.mkdir(parents=True, exist_ok=True)
            with _locked(aside.with_name(f"{aside.name}{_LOCK}")):
                _remove_abandoned(aside)
                if self._root.exists():
                    return
                # One that somebody else publishes meanwhile stays: its digest is checked afterwards.
                with new_directory(self._root, aside, replace=False) as directory:
                    for entry in manifest.files:
                        _copy(source, directory, entry.path)

    def probe(self) -> None:
        self._check_mounted()
        folder = self._root
        while folder != self._claim and not folder.exists():  # a publisher makes what is missing
            folder = folder.parent
        path = folder / f"{_ASIDE_PREFIX}probe-{uuid.uuid4().hex}"
        with _failures(self.uri):
            try:
                path.write_bytes(PROBE_BYTES)
                fsync(path)
                found = path.read_bytes()
            finally:
                path.unlink(missing_ok=True)
        check_probe(self.uri, found)

    def _check_mounted(self) -> None:
        with _failures(self.uri):
            mounted = self._claim.is_dir()
        if not mounted:
            message = f"claim {self.uri.root} of {self.uri} is not mounted at {self._claim}; is the claim's name right?"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message)


def _listed(path: str, facts: os.stat_result) -> StoredFile:
    return StoredFile(path, facts.st_size, f"{facts.st_ino} {facts.st_mtime_ns}")


@contextmanager
def _failures(uri: ArtifactUri) -> Iterator[None]:
    try:
        yield
    except FactoryError as error:
        if str(uri) in error.message:
            raise
        raise FactoryError(error.reason, f"{uri}: {error.message}") from error
    except OSError as error:
        if error.errno in _FULL:
            message = f"no space left in claim {uri.root}: enlarge the claim or delete old model versions"
            raise FactoryError(Reason.STORE_FULL, message) from error
        if error.errno in _DENIED:
            message = f"{uri}: {error.strerror}: let the pod's fsGroup read (to publish: write) claim {uri.root}"
            raise FactoryError(Reason.ACCESS_DENIED, message) from error
        if error.errno in (errno.ENOENT, errno.ELOOP):
            message = f"{uri}: {error.filename} went away meanwhile"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message) from error
        raise FactoryError(Reason.STORE_UNAVAILABLE, f"{uri}: {error.strerror or error}") from error


def _copy(source: Path, target: Path, path: str) -> None:
    folder = target  # never made again here: if it went away, this publisher is taken for dead
    for part in PurePosixPath(path).parts[:-1]:
        folder /= part
        folder.mkdir(exist_ok=True)
    with open_regular(source / path) as reader, (target / path).open("xb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends."""
    with path.open("w") as file:
        try:
            with suppress(OSError):  # a file system without locks: the age alone decides
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_locked(path: Path) -> bool:
    with suppress(OSError), path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove_abandoned(mine: Path) -> None:
    """Delete what killed publishers have left beside this one's directory.

    Both times compared are the file system's own, so it does not matter how the clocks of nodes differ. A directory is
    renamed before it is emptied: should its publisher live after all, its last step fails, and nothing half empty can
    come to stand under the artifact's name.
    """
    now = mine.with_name(f"{mine.name}{_LOCK}").stat().st_mtime
    for lock in mine.parent.glob(f"{_ASIDE_PREFIX}*{_LOCK}"):
        aside = lock.with_name(lock.name.removesuffix(_LOCK))
        with suppress(OSError):  # somebody else removes it too, or it is not ours to remove
            if not aside.exists() and now - lock.stat().st_mtime > _ABANDONED_SECONDS and not _is_locked(lock):
                lock.unlink()
    for aside in mine.parent.glob(f"{_ASIDE_PREFIX}*"):
        lock = aside.with_name(f"{aside.name}{_LOCK}")
        with suppress(OSError):
            if aside.is_symlink() or not aside.is_dir():
                continue
            if now - _last_written(aside) <= _ABANDONED_SECONDS or _is_locked(lock):
                continue
            doomed = aside.with_name(f"{_ASIDE_PREFIX}{uuid.uuid4().hex}")
            aside.rename(doomed)
            lock.unlink(missing_ok=True)
            shutil.rmtree(doomed)
            _log.info("removed what a killed publisher left", extra=fields(path=str(aside)))


def _last_written(folder: Path) -> float:
    """When something in a directory was written last, by the clock of its file system."""
    times = [folder.stat().st_mtime]
    for place, names, files in os.walk(folder):
        times += [os.lstat(Path(place, name)).st_mtime for name in [*names, *files]]
    return max(times)

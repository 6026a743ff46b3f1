"""Artifacts in a persistent volume: a claim mounted at `<claims>/<claim>`.

Publishing writes to a temporary directory beside the target, syncs it and renames it, so a reader sees all or nothing,
also after a crash or a full disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from aifactory_agent.artifacts.manifest import CHUNK, Manifest, open_regular, walk
from aifactory_agent.artifacts.store import StoredFile
from aifactory_agent.artifacts.uri import ArtifactUri
from aifactory_agent.errors import AgentError, Reason

_TEMPORARY = ".incoming-"
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
        if not self._root.is_dir() or not self._root.resolve().is_relative_to(self._claim.resolve()):
            message = f"nothing at {self.uri}: claim {self.uri.root} has no directory {self.uri.path or '/'}"
            raise AgentError(Reason.SOURCE_NOT_FOUND, message)
        with _failures(self.uri):
            found = [StoredFile(path, (self._root / path).stat().st_size) for path in walk(self._root)]
        if not found:
            raise AgentError(Reason.SOURCE_NOT_FOUND, f"nothing at {self.uri}: the directory is empty")
        return found

    def open(self, path: str) -> BinaryIO:
        with _failures(self.uri):
            return open_regular(self._root / path)

    def create(self, source: Path, manifest: Manifest) -> None:
        self._check_mounted()
        if self._root.exists():
            return
        parent = self._root.parent
        temporary = parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        with _failures(self.uri):
            parent.mkdir(parents=True, exist_ok=True)
            try:
                for entry in manifest.files:
                    _copy_synced(source / entry.path, temporary / entry.path)
                for folder, _, _ in os.walk(temporary):
                    _sync_directory(Path(folder))
                with _lost_race_allowed():
                    temporary.rename(self._root)
                _sync_directory(parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _check_mounted(self) -> None:
        if not self._claim.is_dir():
            message = f"claim {self.uri.root} of {self.uri} is not mounted at {self._claim}; is the claim's name right?"
            raise AgentError(Reason.SOURCE_NOT_FOUND, message)


@contextmanager
def _lost_race_allowed() -> Iterator[None]:
    """Renaming onto a directory somebody else published meanwhile is no failure: its digest is checked afterwards."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


@contextmanager
def _failures(uri: ArtifactUri) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"no space left in claim {uri.root}: enlarge the claim or delete old model versions"
            raise AgentError(Reason.STORE_FULL, message) from error
        if error.errno in _DENIED:
            message = f"{uri}: {error.strerror}: let the pod's fsGroup read (to publish: write) claim {uri.root}"
            raise AgentError(Reason.ACCESS_DENIED, message) from error
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise AgentError(Reason.SOURCE_NOT_FOUND, f"{uri}: {error.filename} went away while it was read") from error
        raise AgentError(Reason.STORE_UNAVAILABLE, f"{uri}: {error.strerror or error}") from error


def _copy_synced(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(source) as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
        writer.flush()
        os.fsync(writer.fileno())


def _sync_directory(path: Path) -> None:
    with suppress(OSError):  # some network file systems cannot sync a directory
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

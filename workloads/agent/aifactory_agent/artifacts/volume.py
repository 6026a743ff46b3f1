"""Artifacts in a persistent volume: a claim mounted at `<claims>/<claim>`.

Publishing makes the directory appear by one rename, so a reader sees all or nothing, also after a crash or a full disk.
"""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aifactory_agent.artifacts.store import StoredFile
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.files import new_directory
from aifactory_contract.manifest import CHUNK, Manifest, open_regular, walk
from aifactory_contract.uri import ArtifactUri

_ASIDE_PREFIX = ".incoming-"
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
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message)
        with _failures(self.uri):
            found = [StoredFile(path, (self._root / path).stat().st_size) for path in walk(self._root)]
        if not found:
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"nothing at {self.uri}: the directory is empty")
        return found

    def open(self, path: str) -> BinaryIO:
        with _failures(self.uri):
            return open_regular(self._root / path)

    def create(self, source: Path, manifest: Manifest) -> None:
        self._check_mounted()
        if self._root.exists():
            return
        aside = self._root.with_name(f"{_ASIDE_PREFIX}{uuid.uuid4().hex}")
        with _failures(self.uri):
            aside.parent.mkdir(parents=True, exist_ok=True)
            # One that somebody else publishes meanwhile stays: its digest is checked afterwards.
            with new_directory(self._root, aside, replace=False) as directory:
                for entry in manifest.files:
                    _copy(source / entry.path, directory / entry.path)

    def _check_mounted(self) -> None:
        if not self._claim.is_dir():
            message = f"claim {self.uri.root} of {self.uri} is not mounted at {self._claim}; is the claim's name right?"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message)


@contextmanager
def _failures(uri: ArtifactUri) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"no space left in claim {uri.root}: enlarge the claim or delete old model versions"
            raise FactoryError(Reason.STORE_FULL, message) from error
        if error.errno in _DENIED:
            message = f"{uri}: {error.strerror}: let the pod's fsGroup read (to publish: write) claim {uri.root}"
            raise FactoryError(Reason.ACCESS_DENIED, message) from error
        if error.errno in (errno.ENOENT, errno.ELOOP):
            message = f"{uri}: {error.filename} went away while it was read"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message) from error
        raise FactoryError(Reason.STORE_UNAVAILABLE, f"{uri}: {error.strerror or error}") from error


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(source) as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)

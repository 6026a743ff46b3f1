"""The manifest of an artifact and its digest.

For every regular file, sorted bytewise by its path: `<path> <sha256 hex> <size>\n`. The digest is the SHA-256 of those
lines. It depends on names, contents and sizes only, never on times, owners or the order of a listing, so it is the same
in a volume, in a bucket and in a pod. Files under `.aifactory/` are bookkeeping of tools and not part of the artifact.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from aifactory_contract.errors import FactoryError, Reason

CHUNK = 8 * 1024 * 1024
BOOKKEEPING = ".aifactory"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_PATH = 1024

Opener = Callable[[str], BinaryIO]
"""Gives a seekable stream over a file of the artifact, by its path."""


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str
    """POSIX path relative to the artifact."""
    sha256: str
    """Hex digest of the contents."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    """The files of an artifact, sorted bytewise by path."""

    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, files: Iterable[FileEntry]) -> Manifest:
        """Sort the entries. Raises FactoryError (InvalidArtifact) on unsafe or repeated paths and if there are none."""
        ordered = tuple(sorted(files, key=lambda entry: os.fsencode(entry.path)))
        if not ordered:
            raise FactoryError(Reason.INVALID_ARTIFACT, "the artifact has no files")
        for entry in ordered:
            check_path(entry.path)
        if len({entry.path for entry in ordered}) != len(ordered):
            raise FactoryError(Reason.INVALID_ARTIFACT, "the artifact has a path twice")
        return cls(ordered)

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits."""
        lines = (f"{entry.path} {entry.sha256} {entry.size}\n" for entry in self.files)
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


def check_digest(digest: str) -> str:
    """Return the digest if it is one. Raises FactoryError (DigestMismatch) otherwise."""
    if not _DIGEST.fullmatch(digest):
        message = f"{digest!r} is not a digest: write sha256: and 64 lower-case hex digits"
        raise FactoryError(Reason.DIGEST_MISMATCH, message)
    return digest


def check_path(path: str) -> str:
    """Return a path if it is a safe one: relative, normal, printable. Raises FactoryError (InvalidArtifact) if not."""
    pure = PurePosixPath(path)
    normal = bool(path) and not pure.is_absolute() and ".." not in pure.parts and str(pure) == path and path != "."
    # A line break would make two different sets of files look the same in the manifest.
    if not normal or not path.isprintable() or "\\" in path or len(path.encode()) > _MAX_PATH:
        raise FactoryError(Reason.INVALID_ARTIFACT, f"the artifact has an unsafe path: {path[:80]!r}; rename the file")
    return path


def is_part(path: str) -> bool:
    """Whether a path belongs to the artifact, not to a tool's bookkeeping."""
    return PurePosixPath(path).parts[:1] != (BOOKKEEPING,)


def walk(root: Path) -> list[str]:
    """Relative paths of the files under a directory, bookkeeping left out.

    Raises FactoryError: SourceNotFound if there is no such directory, InvalidArtifact for links and special files,
    since what they point to is not under the digest.
    """
    if not root.is_dir():
        raise FactoryError(Reason.SOURCE_NOT_FOUND, f"{root} is not a directory; is the path right and was it written?")
    found: list[str] = []
    for folder, names, files in os.walk(root, followlinks=False):
        for name in [*names, *files]:
            full = Path(folder, name)
            path = full.relative_to(root).as_posix()
            if not is_part(path):
                continue
            if full.is_symlink() or not (full.is_dir() or full.is_file()):
                message = f"{path} is a link or a special file; an artifact has regular files only, copy the file there"
                raise FactoryError(Reason.INVALID_ARTIFACT, message)
            if full.is_file():
                found.append(check_path(path))
    return sorted(found)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, refusing a link put there after the walk."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def hash_stream(stream: BinaryIO, path: str, sink: Callable[[bytes], object] | None = None) -> FileEntry:
    """Read a stream to its end; give every chunk to `sink` too (a copy is hashed while it is made)."""
    sha, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        sha.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink(chunk)
    return FileEntry(path, sha.hexdigest(), size)


def of_files(paths: Iterable[str], opener: Opener) -> Manifest:
    """Manifest of files that are read to their end one by one. Raises FactoryError as `Manifest.of` does."""
    entries = []
    for path in paths:
        with opener(path) as stream:
            entries.append(hash_stream(stream, path))
    return Manifest.of(entries)


def of_directory(root: Path) -> Manifest:
    """Manifest of a local directory. Raises FactoryError as `walk` and `Manifest.of` do."""
    return of_files(walk(root), lambda path: open_regular(root / path))

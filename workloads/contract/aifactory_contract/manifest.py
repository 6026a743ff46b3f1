"""The manifest of an artifact and its digest.

For every regular file, sorted bytewise by its path: `<path> <sha256 hex> <size>\n`. The digest is the SHA-256 of those
lines. It depends on names, contents and sizes only, never on times, owners or the order of a listing, so it is the same
in a volume, in a bucket and in a pod. Files under `.aifactory/` are bookkeeping of tools and not part of the artifact.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


def walk(root: Path, may_miss: Callable[[str], bool] = lambda _: False) -> list[str]:
    """Relative paths of the files under a directory, bookkeeping left out.

    Args:
        may_miss: whether nothing is lost with a path; links and special files for which that holds are left out.

    What can not be looked into is an error, never left out: a digest over the rest would call half a model whole.

    Raises FactoryError: SourceNotFound if there is no such directory, AccessDenied for what may not be read,
    InvalidArtifact for links and special files, since what they point to is not under the digest.
    """
    with reading(root):
        if not (root.exists() and stat.S_ISDIR(root.stat().st_mode)):
            message = f"{root} is not a directory; is the path right and was it written?"
            raise FactoryError(Reason.SOURCE_NOT_FOUND, message)
    found: list[str] = []
    folders = [root]
    while folders:
        folder = folders.pop()
        for entry in _entries(folder, root):
            path = Path(entry.path).relative_to(root).as_posix()
            if not is_part(path):
                continue
            with reading(Path(entry.path)):
                mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                folders.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                found.append(check_path(path))
            elif not may_miss(path):
                message = f"{path} is a link or a special file; an artifact has regular files only, copy the file there"
                raise FactoryError(Reason.INVALID_ARTIFACT, message)
    return sorted(found)


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    try:
        with reading(folder), os.scandir(folder) as entries:
            return list(entries)
    except FactoryError:
        # What mkfs leaves at the top of an ext4 volume; only root may look into it, and it holds nobody's files.
        if folder == root / "lost+found" and os.path.ismount(root) and folder.stat().st_uid == 0:
            return []
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Failures to read this file or directory as a FactoryError that says what to do about it."""
    try:
        yield
    except OSError as error:
        words = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM):
            message = (
                f"{path} may not be read ({words}): chmod -R a+rX it, or let what wrote it use umask 022, or give its "
                "pod and this one the same fsGroup"
            )
            raise FactoryError(Reason.ACCESS_DENIED, message) from error
        if error.errno == errno.ELOOP:
            raise FactoryError(Reason.INVALID_ARTIFACT, f"{path} became a link while it was read") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise FactoryError(Reason.SOURCE_NOT_FOUND, f"{path} went away while it was read") from error
        raise FactoryError(Reason.STORE_UNAVAILABLE, f"{path} can not be read: {words}") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, refusing a link put there after the walk.

    Raises FactoryError as `reading` does, here and from `read` of what it gives.
    """
    with reading(path):
        return _Reader(io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)))


class _Reader(io.BufferedReader):
    """Failures come while reading too, and must not be taken for those of whoever writes elsewhere meanwhile."""

    def read(self, size: int | None = -1, /) -> bytes:
        with reading(Path(self.name)):
            return super().read(size)


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
    with reading(root):
        return of_files(walk(root), lambda path: open_regular(root / path))

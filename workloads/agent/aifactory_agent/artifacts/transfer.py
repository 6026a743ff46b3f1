"""Moving artifacts: fetch, verify and publish. Whatever is moved is hashed, and nothing is kept that does not match."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from aifactory_agent.artifacts.chat import check_language
from aifactory_agent.artifacts.reading import Cancelled as Cancelled
from aifactory_agent.artifacts.reading import Sink, hash_files, open_file
from aifactory_agent.artifacts.store import Data, Source, Store, StoredFile
from aifactory_agent.artifacts.stores import Mounts, open_store
from aifactory_agent.logs import fields
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import Checked, check_artifact, format_of, metrics_of, parts_of, stated_format
from aifactory_contract.formats.rules import Files, left_out
from aifactory_contract.manifest import (
    Manifest,
    check_digest,
    of_files,
    open_regular,
)
from aifactory_contract.server import ANY
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
MAX_METRICS = 64
MAX_LEFT_OUT = 20
"""Of their paths that are told."""
_LICENCES = ("LICENSE", "NOTICE")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_DIGITS = 16
"""Hex digits of the digest that name a published artifact."""


_promises_lock = threading.Lock()
_promises: dict[object, int] = {}
"""Bytes that the fetches of this process will write yet; they all go to one volume."""


@dataclass(frozen=True)
class Artifact:
    """A checked artifact, as reported to the operator."""

    uri: str
    digest: str
    files: int
    size: int
    format: str
    config: dict[str, Any]
    left_out: tuple[str, ...] = ()
    """What stands beside the model and is no part of it."""

    def as_result(self) -> dict[str, Any]:
        """The JSON the operator reads from a finished pod."""
        return {
            "uri": self.uri,
            "digest": self.digest,
            "files": self.files,
            "sizeBytes": self.size,
            "format": self.format,
            "metrics": dict(islice(metrics_of(self.config).items(), MAX_METRICS)),
            **(self._beside() if self.left_out else {}),
        }

    def _beside(self) -> dict[str, Any]:
        return {"leftOut": list(self.left_out[:MAX_LEFT_OUT]), "leftOutFiles": len(self.left_out)}


def verify(
    source: Source,
    digest: str | None,
    expected_format: str | None,
    keep: Callable[[int], Path | None] = lambda _: None,
) -> Artifact:
    """Read a whole artifact, compare its digest and check it against its format.

    Args:
        keep: given its size, an empty local directory that it is copied into on the way, or None. The copy may be used
            if this returns.

    Raises FactoryError: DigestMismatch, InvalidArtifact, Unservable, DiskFull, or what the store says.
    """
    files, beside = chosen(source, expected_format)
    size = sum(file.size for file in files)
    with _copied(keep(size), size, str(source.uri)) as (target, write):
        manifest = Manifest.of(hash_files(source, files, threading.Event(), write))
    if digest is not None:
        compare(source.uri, check_digest(digest), manifest)
    listed = {file.path: file for file in files}

    def opened(path: str) -> BinaryIO:
        return open_file(source, listed[path]) if target is None else open_regular(target / path)

    checked = check_artifact(manifest, opened, expected_format)
    check_language(Files.of(manifest, opened))
    format_of(checked.format).serving(checked.config, server=ANY)  # what nothing can serve is told now, not in a pool
    return replace(_artifact(str(source.uri), manifest, checked), left_out=beside)


def fetch(
    source: Source,
    target: Path,
    digest: str,
    expected_format: str,
    cancel: threading.Event,
    got: Callable[[int], None] = lambda _: None,
) -> Artifact:
    """Copy an artifact into an empty local directory, hashing on the way, and check it there.

    The caller may use the directory only if this returns. Raises Cancelled when `cancel` is set, else FactoryError.

    Args:
        got: told of each piece that is written how many bytes it has, by several threads.
    """
    check_digest(digest)
    files, _ = chosen(source, expected_format)
    with _copied(target, sum(file.size for file in files), str(source.uri), got) as (_, write):
        manifest = Manifest.of(hash_files(source, files, cancel, write))
    compare(source.uri, digest, manifest)
    # What has this digest was looked into when it was verified; here it may be large beside the pod's memory.
    checked = check_artifact(manifest, lambda path: open_regular(target / path), expected_format, inspect=False)
    return _artifact(str(source.uri), manifest, checked)


def publish(
    source: Path,
    base: ArtifactUri,
    model: str,
    mounts: Mounts,
    secret: str | None = None,
    expected_format: str | None = None,
) -> Artifact:
    """Copy a local directory to `<base>/<model>/<first digits of its digest>` and read it back.

    The place follows from the contents, so publishing twice is harmless and nothing is ever overwritten.
    Raises FactoryError; DigestMismatch also if the source changed while it was copied.
    """
    paths, beside = parts_of(source, stated_format(source, expected_format))
    for path, why in islice(beside.items(), MAX_LEFT_OUT):
        _log.info("left out", extra=fields(path=path, why=why, of=len(beside)))
    manifest = of_files(paths, lambda path: open_regular(source / path))
    checked = check_artifact(manifest, lambda path: open_regular(source / path), expected_format)
    check_language(Files.of(manifest, lambda path: open_regular(source / path)))
    digits = manifest.digest.removeprefix("sha256:")[:_NAME_DIGITS]
    store = open_store(base.child(model, digits), mounts, secret)
    store.create(source, manifest)
    _check_published(store, manifest)
    return replace(_artifact(str(store.uri), manifest, checked), left_out=tuple(beside))


def chosen(source: Source, expected_format: str | None) -> tuple[list[StoredFile], tuple[str, ...]]:
    """The files of an artifact, and the paths of the others: those are not read, and the digest is of the files.

    A hub's repository is often somebody else's, and has a model in several forms at once beside pictures and scripts:
    of these only the files of the format are taken, and licences.
    """
    found = source.files()
    if expected_format is None:
        return found, ()
    form, files = format_of(expected_format), found
    if source.uri.scheme == "hf":
        files = [file for file in files if form.is_part(file.path) or file.path.upper().startswith(_LICENCES)]
    beside = left_out(form, {file.path for file in files})
    files = [file for file in files if file.path not in beside]
    kept = {file.path for file in files}
    return files, tuple(file.path for file in found if file.path not in kept)


def write_piece(folder: Path, path: str, offset: int, data: Data) -> None:
    """Write a piece of a file; whichever comes first makes it. Raises OSError."""
    target = folder / path
    try:
        handle = os.open(target, _NEW, 0o666)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, _NEW, 0o666)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(handle, view, offset)
            offset += written
            view = view[written:]
    finally:
        os.close(handle)


def _check_published(store: Store, wanted: Manifest) -> None:
    found = Manifest.of(hash_files(store, store.files(), threading.Event()))
    if found.digest != wanted.digest:
        differ = sorted({entry.path for entry in set(found.files) ^ set(wanted.files)})
        message = (
            f"{store.uri} does not hold what was published ({', '.join(differ[:3])} differ): the source changed while "
            "it was copied, or somebody wrote there; remove it and publish again"
        )
        raise FactoryError(Reason.DIGEST_MISMATCH, message)


@contextmanager
def _copied(
    target: Path | None, size: int, uri: str, got: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Path | None, Sink | None]]:
    """What writes pieces into a directory in which there is room for all of them; nothing without one.

    Raises FactoryError (DiskFull).
    """
    if target is None:
        yield None, None
        return
    folder = target
    with _room(folder, size, uri) as written:

        def write(file: StoredFile, offset: int, data: Data) -> None:
            try:
                write_piece(folder, file.path, offset, data)
            except OSError as error:
                message = (
                    f"cannot write {file.path} to the serving pod's volume ({error.strerror}); enlarge /repository"
                )
                raise FactoryError(Reason.DISK_FULL, message) from error
            written(len(data))
            got(len(data))

        yield folder, write


@contextmanager
def _room(target: Path, needed: int, uri: str) -> Iterator[Callable[[int], None]]:
    """Promise a fetch its bytes, before it begins; it says what it has written. Other fetches' promises count as used.

    Raises FactoryError (DiskFull).
    """
    mine = object()
    with _promises_lock:
        free = max(0, shutil.disk_usage(target).free - sum(_promises.values()))
        if needed > free:
            message = f"{uri} needs {needed} bytes but {free} are free in the serving pod's volume; enlarge /repository"
            raise FactoryError(Reason.DISK_FULL, message)
        _promises[mine] = needed

    def written(size: int) -> None:
        with _promises_lock:
            _promises[mine] = max(0, _promises[mine] - size)

    try:
        yield written
    finally:
        with _promises_lock:
            del _promises[mine]


def compare(uri: ArtifactUri, expected: str, manifest: Manifest) -> None:
    """Raises FactoryError (DigestMismatch) if the files are not those that the digest names."""
    if manifest.digest == expected:
        return
    why = "the files were changed after they were published; publish them again or correct the digest"
    if uri.scheme in ("hf", "oci"):
        way = "a commit" if uri.scheme == "hf" else "the digest"
        why = f"a branch or tag may have moved since: name {way} in the URI, or correct the digest"
    message = f"{uri} has digest {manifest.digest} but {expected} is asked for: {why}"
    raise FactoryError(Reason.DIGEST_MISMATCH, message)


def _artifact(uri: str, manifest: Manifest, checked: Checked) -> Artifact:
    return Artifact(uri, manifest.digest, len(manifest.files), manifest.size, checked.format, checked.config)

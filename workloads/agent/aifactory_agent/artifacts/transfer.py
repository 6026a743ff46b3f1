"""Moving artifacts: fetch, verify and publish. Whatever is moved is hashed, and nothing is kept that does not match."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from aifactory_agent.artifacts.chat import check_chat_templates
from aifactory_agent.artifacts.store import Store, StoredFile
from aifactory_agent.artifacts.stores import Mounts, open_store
from aifactory_agent.logs import fields
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.formats import Checked, check_artifact, format_of, metrics_of, parts_of, stated_format
from aifactory_contract.formats.rules import Files, left_out
from aifactory_contract.manifest import (
    FileEntry,
    Manifest,
    check_digest,
    hash_stream,
    of_files,
    open_regular,
)
from aifactory_contract.uri import ArtifactUri

_log = logging.getLogger(__name__)
MAX_METRICS = 64
MAX_LEFT_OUT = 20
"""Of their paths that are told."""
_NAME_DIGITS = 16
"""Hex digits of the digest that name a published artifact."""


_promises_lock = threading.Lock()
_promises: dict[object, int] = {}
"""Bytes that the fetches of this process will write yet; they all go to one volume."""


class Cancelled(Exception):
    """The work was given up because nobody wants its result any more."""


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
    """What stood beside the model and was not published."""

    def as_result(self) -> dict[str, Any]:
        """The JSON the operator reads from a finished pod."""
        return {
            "uri": self.uri,
            "digest": self.digest,
            "files": self.files,
            "sizeBytes": self.size,
            "format": self.format,
            "metrics": dict(islice(metrics_of(self.config).items(), MAX_METRICS)),
            **({"leftOut": list(self.left_out[:MAX_LEFT_OUT])} if self.left_out else {}),
        }


def verify(store: Store, digest: str | None, expected_format: str | None) -> Artifact:
    """Read a whole artifact, compare its digest and check it against its format.

    Raises FactoryError: DigestMismatch, InvalidArtifact, Unservable, or what the store says.
    """
    manifest = of_files((file.path for file in _wanted(store, expected_format)), store.open)
    if digest is not None:
        _compare(str(store.uri), check_digest(digest), manifest)
    checked = check_artifact(manifest, store.open, expected_format)
    check_chat_templates(Files.of(manifest, store.open))
    format_of(checked.format).serving(checked.config)  # what nothing here can serve is told now, not in a pool
    return _artifact(str(store.uri), manifest, checked)


def fetch(store: Store, target: Path, digest: str, expected_format: str, cancel: threading.Event) -> Artifact:
    """Copy an artifact into an empty local directory, hashing on the way, and check it there.

    The caller may use the directory only if this returns. Raises Cancelled when `cancel` is set, else FactoryError.
    """
    check_digest(digest)
    files = _wanted(store, expected_format)
    entries = []
    with _room(target, sum(file.size for file in files), str(store.uri)) as written:
        for file in files:
            with store.open(file.path) as stream:
                entries.append(_fetch_file(stream, file.path, target / file.path, cancel, written))
    manifest = Manifest.of(entries)
    _compare(str(store.uri), digest, manifest)
    # What has this digest was looked into when it was verified; here it may be large beside the pod's memory.
    checked = check_artifact(manifest, lambda path: open_regular(target / path), expected_format, inspect=False)
    return _artifact(str(store.uri), manifest, checked)


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
    check_chat_templates(Files.of(manifest, lambda path: open_regular(source / path)))
    digits = manifest.digest.removeprefix("sha256:")[:_NAME_DIGITS]
    store = open_store(base.child(model, digits), mounts, secret)
    store.create(source, manifest)
    _check_published(store, manifest)
    return replace(_artifact(str(store.uri), manifest, checked), left_out=tuple(beside))


def _wanted(store: Store, expected_format: str | None) -> list[StoredFile]:
    """The files of an artifact: what its format leaves out is not read, and the digest is of the others."""
    files = store.files()
    if expected_format is None:
        return files
    beside = left_out(format_of(expected_format), {file.path for file in files})
    return [file for file in files if file.path not in beside]


def _check_published(store: Store, wanted: Manifest) -> None:
    found = of_files((file.path for file in store.files()), store.open)
    if found.digest != wanted.digest:
        differ = sorted({entry.path for entry in set(found.files) ^ set(wanted.files)})
        message = (
            f"{store.uri} does not hold what was published ({', '.join(differ[:3])} differ): the source changed while "
            "it was copied, or somebody wrote there; remove it and publish again"
        )
        raise FactoryError(Reason.DIGEST_MISMATCH, message)


def _fetch_file(
    stream: BinaryIO, path: str, target: Path, cancel: threading.Event, written: Callable[[int], None]
) -> FileEntry:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as writer:

            def sink(chunk: bytes) -> None:
                if cancel.is_set():
                    raise Cancelled
                writer.write(chunk)
                written(len(chunk))

            return hash_stream(stream, path, sink)
    except OSError as error:
        message = f"cannot write {path} to the serving pod's volume ({error.strerror}); enlarge /repository"
        raise FactoryError(Reason.DISK_FULL, message) from error


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


def _compare(uri: str, expected: str, manifest: Manifest) -> None:
    if manifest.digest != expected:
        message = (
            f"{uri} has digest {manifest.digest} but {expected} is asked for: the files were changed after they were "
            "published; publish them again or correct the digest"
        )
        raise FactoryError(Reason.DIGEST_MISMATCH, message)


def _artifact(uri: str, manifest: Manifest, checked: Checked) -> Artifact:
    return Artifact(uri, manifest.digest, len(manifest.files), manifest.size, checked.format, checked.config)

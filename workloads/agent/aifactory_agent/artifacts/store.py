"""What every kind of place of an artifact has in common: a source is read, a store is published to as well."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import Manifest
from aifactory_contract.uri import ArtifactUri

Data = bytes | bytearray | memoryview


@dataclass(frozen=True)
class StoredFile:
    """A file a source lists."""

    path: str
    size: int
    pin: str = ""
    """What names these very bytes at the source (ETag, digest, time of the last change); "" if it has nothing of it."""
    sha256: str = ""
    """Hex digest of the contents, where the source tells it."""


class Source(Protocol):
    """The place of one artifact. It gives bytes, nothing else: it computes no digest and decides nothing.

    Every failure leaves it as a FactoryError whose message names the URI.
    """

    uri: ArtifactUri

    def files(self) -> list[StoredFile]:
        """The artifact's files, bookkeeping left out. Raises FactoryError (SourceNotFound) if there are none."""

    def read(self, file: StoredFile, start: int, end: int, stop: threading.Event) -> Data:
        """All of the bytes from `start` to before `end` of a listed file; called by several threads.

        What fails on the way is tried again, going on where it was. Bytes of another version than the listed one are
        never given: FactoryError. After `stop` is set what is given or raised does not matter, but it comes soon.
        """


class Store(Source, Protocol):
    """A place where artifacts are published too."""

    def create(self, source: Path, manifest: Manifest) -> None:
        """Copy a local directory there; what is there already stays as it is. The caller reads it back."""

    def probe(self) -> None:
        """Write, read and delete something small below this place, as one who publishes has to."""


def changed(uri: ArtifactUri, path: str) -> FactoryError:
    """A file is not the one that was listed any more. Looking again may give one whole version."""
    message = f"{uri}: {path} was replaced while it was read; it is read anew at the next try"
    return FactoryError(Reason.STORE_UNAVAILABLE, message)


PROBE_BYTES = b"written by aifactory-agent probe; it may be deleted\n"


def check_probe(uri: ArtifactUri, found: bytes) -> None:
    """Raises FactoryError (StoreUnavailable) if a store has not given back what was written."""
    if found != PROBE_BYTES:
        message = f"{uri}: the store gave back {len(found)} other bytes than the {len(PROBE_BYTES)} written to it"
        raise FactoryError(Reason.STORE_UNAVAILABLE, message)

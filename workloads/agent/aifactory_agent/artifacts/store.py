"""What every kind of store has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import Manifest
from aifactory_contract.uri import ArtifactUri


@dataclass(frozen=True)
class StoredFile:
    """A file a store lists."""

    path: str
    size: int


class Store(Protocol):
    """The place of one artifact. It gives bytes, nothing else: it computes no digest and decides nothing.

    Every failure leaves a store as an FactoryError whose message names the URI.
    """

    uri: ArtifactUri

    def files(self) -> list[StoredFile]:
        """The artifact's files, bookkeeping left out. Raises FactoryError (SourceNotFound) if there are none."""

    def open(self, path: str) -> BinaryIO:
        """A seekable stream over one file; the caller closes it."""

    def create(self, source: Path, manifest: Manifest) -> None:
        """Copy a local directory there; what is there already stays as it is. The caller reads it back."""

    def probe(self) -> None:
        """Write, read and delete something small below this place, as one who publishes has to."""


PROBE_BYTES = b"written by aifactory-agent probe; it may be deleted\n"


def check_probe(uri: ArtifactUri, found: bytes) -> None:
    """Raises FactoryError (StoreUnavailable) if a store has not given back what was written."""
    if found != PROBE_BYTES:
        message = f"{uri}: the store gave back {len(found)} other bytes than the {len(PROBE_BYTES)} written to it"
        raise FactoryError(Reason.STORE_UNAVAILABLE, message)

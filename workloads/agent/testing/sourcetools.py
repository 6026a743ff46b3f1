"""Reading a source whole in a test, and looking at how one is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from aifactory_agent.artifacts.reading import hash_files
from aifactory_agent.artifacts.store import Data, Source, StoredFile
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import Manifest

Opened = Callable[..., Source]
"""Opens a source by its URI, with a secret of these keys."""


def read(source: Source) -> tuple[Manifest, dict[str, bytes]]:
    """All files of a source."""
    files = source.files()
    found = {file.path: bytearray(file.size) for file in files}
    told = dict.fromkeys(found, -1)

    def keep(file: StoredFile, offset: int, data: Data) -> None:
        found[file.path][offset : offset + len(data)] = data

    def tell(file: StoredFile, size: int) -> None:
        assert size > told[file.path], "it is told in order"
        told[file.path] = size

    manifest = Manifest.of(hash_files(source, files, threading.Event(), keep, tell))
    assert told == {path: len(data) for path, data in found.items()}
    assert manifest.size == sum(map(len, found.values()))
    return manifest, {path: bytes(data) for path, data in found.items()}


def refusal(call: Callable[[], object], reason: Reason, *words: str) -> str:
    with pytest.raises(FactoryError) as caught:
        call()
    assert caught.value.reason is reason, caught.value.message
    for word in words:
        assert word in caught.value.message
    return caught.value.message

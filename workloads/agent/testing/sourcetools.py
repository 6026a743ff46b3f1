"""Reading a source whole in a test, and looking at how one is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from aifactory_agent.artifacts.reading import hash_files
from aifactory_agent.artifacts.store import Source
from aifactory_contract.errors import FactoryError, Reason
from aifactory_contract.manifest import Manifest

Opened = Callable[..., Source]
"""Opens a source by its URI, with a secret of these keys."""


def read(source: Source) -> tuple[Manifest, dict[str, bytes]]:
    """All files of a source."""
    found: dict[str, bytearray] = {}

    def keep(file: Any, offset: int, data: bytes | bytearray) -> None:
        assert len(found.setdefault(file.path, bytearray())) == offset, "pieces come in order"
        found[file.path] += data

    manifest = Manifest.of(hash_files(source, source.files(), threading.Event(), keep))
    assert manifest.size == sum(map(len, found.values()))
    return manifest, {path: bytes(data) for path, data in found.items()}


def refusal(call: Callable[[], object], reason: Reason, *words: str) -> str:
    with pytest.raises(FactoryError) as caught:
        call()
    assert caught.value.reason is reason, caught.value.message
    for word in words:
        assert word in caught.value.message
    return caught.value.message

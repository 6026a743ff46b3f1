"""A replica that does not lead reads and does not write, whatever it was about to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aifactory.kube.errors import NotFound, NotLeading
from aifactory.kube.fence import Fenced
from aifactory.kube.resources import PODS
from tests.unit.memory_api import MemoryApi

POD = {"metadata": {"name": "a", "namespace": "n"}}

WRITES: list[Callable[[Fenced], Awaitable[Any]]] = [
    lambda api: api.create(PODS, POD),
    lambda api: api.apply(PODS, POD, field_manager="m"),
    lambda api: api.patch(PODS, "n", "a", {}),
    lambda api: api.patch_status(PODS, "n", "a", {}),
    lambda api: api.delete(PODS, "n", "a"),
]


@pytest.mark.parametrize("write", WRITES)
async def test_no_write_without_leading(write: Callable[[Fenced], Awaitable[Any]]) -> None:
    leading = False
    memory = MemoryApi()
    api = Fenced(memory, lambda: leading)
    with pytest.raises(NotLeading, match="does not lead"):
        await write(api)
    with pytest.raises(NotFound):
        await api.get(PODS, "n", "a")

    leading = True
    await api.create(PODS, {"metadata": {"name": "a", "namespace": "n"}})
    leading = False
    with pytest.raises(NotLeading):
        await write(api)
    assert await api.get(PODS, "n", "a")

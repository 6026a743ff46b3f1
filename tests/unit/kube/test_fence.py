"""A replica that does not lead reads and does not write, whatever it was about to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aifactory.kube.api import Api
from aifactory.kube.errors import NotFound, NotLeading, TooManyRequests
from aifactory.kube.fence import Fenced
from aifactory.kube.resources import PODS
from aifactory.kube.retry import Retrying
from tests.support import faketime
from tests.unit.memory_api import MemoryApi

POD = {"metadata": {"name": "a", "namespace": "n"}}

WRITES: list[Callable[[Api], Awaitable[Any]]] = [
    lambda api: api.create(PODS, POD),
    lambda api: api.apply(PODS, POD, field_manager="m"),
    lambda api: api.patch(PODS, "n", "a", {}),
    lambda api: api.patch_status(PODS, "n", "a", {}),
    lambda api: api.delete(PODS, "n", "a"),
]


@pytest.mark.parametrize("write", WRITES)
async def test_no_write_without_leading(write: Callable[[Api], Awaitable[Any]]) -> None:
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


@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_not_sent_again_when_leadership_was_lost_after_the_first_try(
    write: Callable[[Api], Awaitable[Any]],
) -> None:
    asked: list[bool] = []

    def leading() -> bool:
        asked.append(len(asked) == 0)
        return asked[-1]

    class Busy(MemoryApi):
        """Has too much to do for any write."""

        async def refuse(self, *_: Any, **__: Any) -> bytes:
            raise TooManyRequests(429, "TooManyRequests", "slow down")

        create = apply = patch = patch_status = delete = refuse  # type: ignore[assignment]

    async def story() -> None:
        with pytest.raises(NotLeading):
            await write(Retrying(Fenced(Busy(), leading)))

    faketime.run(story)
    assert asked == [True, False]

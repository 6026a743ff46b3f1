"""An API server whose passing failures are waited out: an `Api` around one whose calls are each sent once.

A call is sent again only if the server can not have carried it out or if doing it twice changes nothing, at most
MAX_ATTEMPTS times. Every try is a whole call of the `Api` inside, so whatever that asks first (`fence.Fenced`: do we
still lead?) is asked each time. Watches are left alone: whoever follows one knows from where to go on. `repeat` does it
for one call, for those who hold something while it is under way but not while it waits to be sent again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from aifactory.kube import metrics
from aifactory.kube.api import Api
from aifactory.kube.backoff import REQUEST
from aifactory.kube.errors import KubeError, TooManyRequests, Unreachable
from aifactory.kube.resources import Resource

T = TypeVar("T")

MAX_ATTEMPTS: Final = 4


class Retrying:
    """An `Api` that sends a call until there is an answer that waiting would not improve.

    Args:
        api: sends each call once.
        rng: source of jitter.
    """

    def __init__(self, api: Api, *, rng: random.Random | None = None) -> None:
        self._api = api
        self._rng = rng or random.Random()

    async def get(self, *args: Any, **options: Any) -> bytes:
        return await self._call("GET", self._api.get, *args, **options)

    async def list(self, *args: Any, **options: Any) -> bytes:
        return await self._call("LIST", self._api.list, *args, **options)

    def watch(self, resource: Resource, *, resource_version: str, **options: Any) -> AsyncIterator[Sequence[bytes]]:
        return self._api.watch(resource, resource_version=resource_version, **options)

    async def create(self, *args: Any, **options: Any) -> bytes:
        return await self._call("POST", self._api.create, *args, **options)

    async def apply(self, *args: Any, **options: Any) -> bytes:
        return await self._call("APPLY", self._api.apply, *args, **options)

    async def patch(self, *args: Any, **options: Any) -> bytes:
        return await self._call("PATCH", self._api.patch, *args, **options)

    async def patch_status(self, *args: Any, **options: Any) -> bytes:
        return await self._call("PATCH", self._api.patch_status, *args, **options)

    async def delete(self, *args: Any, **options: Any) -> bytes:
        return await self._call("DELETE", self._api.delete, *args, **options)

    async def _call(self, verb: str, send: Callable[..., Awaitable[bytes]], *args: Any, **options: Any) -> bytes:
        return await repeat(verb, partial(send, *args, **options), self._rng)


async def repeat(verb: str, send: Callable[[], Awaitable[T]], rng: random.Random) -> T:
    """Send a call until there is an answer that waiting would not improve. Raises KubeError."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await send()
        except KubeError as error:
            if attempt >= MAX_ATTEMPTS or not _may_repeat(verb, error):
                raise
            asked = min(error.retry_after or 0.0, REQUEST.limit)
            delay = REQUEST.delay(attempt, rng, at_least=asked / 2 ** (attempt - 1))
        metrics.REQUEST_RETRIES.labels(verb).inc()
        await asyncio.sleep(delay)


def _may_repeat(verb: str, error: KubeError) -> bool:
    """Whether sending the same request again is safe and may help.

    A create is not repeated when the first may have been carried out: its second answer would be AlreadyExists, which
    the caller could not tell from a stranger's object.
    """
    if not error.retryable:
        return False
    if isinstance(error, TooManyRequests) or (isinstance(error, Unreachable) and not error.sent):
        return True
    return verb != "POST"

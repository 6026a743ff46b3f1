"""How far inputs are while they are fetched: what the pods that fetch say about themselves.

One loop asks them every ten seconds, a bounded number, those first that were asked longest ago. A job is woken when one
of its inputs has got on. With nobody to ask, or no answer, all goes on: the end of a fetch is told by its pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import aiohttp
import msgspec

from aifactory.api import names
from aifactory.engine.asking import ask_for_ever, base_url, fetch, reader
from aifactory.kube.resources import Key
from aifactory.training.state import Fetched

INTERVAL_SECONDS = 10.0
MOST = 1000
"""Pods asked in a round."""
CONCURRENCY = 32
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class FetchingPod:
    """A pod that fetches, as the probe needs it."""

    uid: str
    name: str
    address: str
    job: Key


class FetchBook:
    """What pods that fetch have said last, by their UIDs."""

    def __init__(self) -> None:
        self._fetched: dict[str, Fetched] = {}

    def get(self, uid: str) -> Fetched | None:
        """How far a pod is, if it has said so."""
        return self._fetched.get(uid)

    def note(self, uid: str, fetched: Fetched) -> bool:
        """Remember how far a pod is; returns whether that is news."""
        known, self._fetched[uid] = self._fetched.get(uid), fetched
        return known != fetched

    def retain(self, uids: set[str]) -> None:
        """Forget everything about others."""
        self._fetched = {uid: fetched for uid, fetched in self._fetched.items() if uid in uids}


class FetchProbe:
    """Asks pods that fetch and wakes the jobs of those that have got on."""

    def __init__(
        self,
        *,
        book: FetchBook,
        pods: Callable[[], list[FetchingPod]],
        wake: Callable[[Key], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._book = book
        self._pods = pods
        self._wake = wake
        self._monotonic = monotonic
        self._asked: dict[str, float] = {}

    async def run(self) -> None:
        """Ask for ever; ends when cancelled."""
        await ask_for_ever(
            "asking pods that fetch",
            self.round,
            seconds=INTERVAL_SECONDS,
            limit=CONCURRENCY,
            monotonic=self._monotonic,
        )

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Ask each once, as far as the time goes."""
        pods, began = self._pods(), self._monotonic()
        uids = {pod.uid for pod in pods}
        self._book.retain(uids)
        self._asked = {uid: at for uid, at in self._asked.items() if uid in uids}
        due = iter(sorted(pods, key=lambda pod: self._asked.get(pod.uid, float("-inf")))[:MOST])

        async def work() -> None:
            for pod in due:
                if self._monotonic() > began + INTERVAL_SECONDS:
                    return
                self._asked[pod.uid] = began
                await self._ask(session, pod)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(pods))):
                group.create_task(work())

    async def _ask(self, session: aiohttp.ClientSession, pod: FetchingPod) -> None:
        try:
            fetched = read(await fetch(session, f"{base_url(pod.address, names.AGENT_PORT)}/v1/status"))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return  # it has just begun, or just ended
        if self._book.note(pod.uid, fetched):
            self._wake(pod.job)


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    bytes: _Size = 0
    total_bytes: _Size = 0


_decode: Final = reader(_Status)


def read(body: bytes) -> Fetched:
    """How far a pod says that it is. Raises ValueError."""
    status = _decode(body)
    return Fetched(status.bytes, status.total_bytes)

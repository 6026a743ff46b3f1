"""How many writes are under way at once, who goes first, and how hard the API server finds it.

An API server with too much to do answers everybody late. What helps is to send it less, and what matters first: pods
before the status that tells of them, and the status of a job that runs or has ended before that of one on its way.

No namespace can keep the others out (`kube.places`). Those that wait get in by turns, one namespace after another.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aifactory.kube.clock import Clock
from aifactory.kube.places import Places

_WEIGHT: Final = 0.1
"""Share of the newest write in the mean."""
_HALF_LIFE_SECONDS: Final = 2.0
"""A mean that no write has renewed for so long counts half: nothing is known about the API server's load any more."""

_Waiting = tuple[float, int, "asyncio.Future[None]"]


class Gate:
    """Lets up to `size` writes in at once.

    Those of a namespace that have to wait get in by the time of arrival plus the patience they came with, so what has
    patience gives way to what has none, but not for ever.
    """

    def __init__(self, size: int, clock: Clock) -> None:
        self._places = Places(size)
        self._clock = clock
        self._waiting: OrderedDict[str, list[_Waiting]] = OrderedDict()
        """Heaps by namespace, in the order of their turns. Who waits may not go in: `_leave` lets in whoever may."""
        self._order = itertools.count()
        self._mean = 0.0
        self._measured_at = 0.0

    @property
    def seconds(self) -> float:
        """What a write takes at the moment, from being sent to being answered; 0 when none was made lately."""
        return float(self._mean * 0.5 ** ((self._clock.monotonic() - self._measured_at) / _HALF_LIFE_SECONDS))

    @asynccontextmanager
    async def slot(
        self, namespace: str = "", patience: float = 0.0, outdated: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[bool]:
        """Have one of the places.

        Args:
            namespace: whose share it counts to.
            patience: seconds by which others of the namespace may come later and go first.
            outdated: asked after waiting whether there is still a reason to write; if not, False is given out.
        """
        waited = await self._enter(namespace, patience)
        wanted = not (waited and outdated())
        started = self._clock.monotonic()
        try:
            yield wanted
        finally:
            if wanted:
                self._measure(self._clock.monotonic() - started)
            self._leave(namespace)

    def _measure(self, seconds: float) -> None:
        before = self.seconds
        self._mean, self._measured_at = before + _WEIGHT * (seconds - before), self._clock.monotonic()

    async def _enter(self, namespace: str, patience: float) -> bool:
        """Have a place; whether it had to wait."""
        if self._places.enter(namespace):
            return False
        turn = asyncio.get_running_loop().create_future()
        entry = (self._clock.monotonic() + patience, next(self._order), turn)
        heapq.heappush(self._waiting.setdefault(namespace, []), entry)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave(namespace)  # the place came together with the cancellation
            raise
        return True

    def _leave(self, namespace: str) -> None:
        self._places.leave(namespace)
        while (turn := self._next()) is not None:
            turn.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """Who may go in now, with the place taken, or None."""
        for namespace in list(self._waiting) if self._places.free else ():
            heap = self._waiting[namespace]
            while heap and heap[0][2].done():
                heapq.heappop(heap)  # cancelled
            if heap and not self._places.enter(namespace):
                continue
            turn = heapq.heappop(heap)[2] if heap else None
            del self._waiting[namespace]
            if heap:
                self._waiting[namespace] = heap  # after the others
            if turn is not None:
                return turn
        return None

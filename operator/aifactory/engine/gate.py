"""How many writes are under way at once, who goes first, and how hard the API server finds it.

An API server with too much to do answers everybody late. What helps is to send it less, and what matters first: pods
before the status that tells of them, and the status of a job that runs or has ended before that of one on its way.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aifactory.kube.clock import Clock

_WEIGHT: Final = 0.1
"""Share of the newest write in the mean."""
_HALF_LIFE_SECONDS: Final = 2.0
"""A mean that no write has renewed for so long counts half: nothing is known about the API server's load any more."""


class Gate:
    """Lets `size` writes in at once.

    Who has to wait gets in by the time of arrival plus the patience it came with, so what has patience gives way to
    what has none, but not for ever.
    """

    def __init__(self, size: int, clock: Clock) -> None:
        self._free = size
        self._clock = clock
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._mean = 0.0
        self._measured_at = 0.0

    @property
    def seconds(self) -> float:
        """What a write takes at the moment, from being sent to being answered; 0 when none was made lately."""
        return float(self._mean * 0.5 ** ((self._clock.monotonic() - self._measured_at) / _HALF_LIFE_SECONDS))

    @asynccontextmanager
    async def slot(self, patience: float = 0.0, outdated: Callable[[], bool] = lambda: False) -> AsyncIterator[bool]:
        """Have one of the places.

        Args:
            patience: seconds by which others may come later and go first.
            outdated: asked after waiting whether there is still a reason to write; if not, False is given out.
        """
        waited = not self._free
        await self._enter(patience)
        wanted = not (waited and outdated())
        started = self._clock.monotonic()
        try:
            yield wanted
        finally:
            if wanted:
                self._measure(self._clock.monotonic() - started)
            self._leave()

    def _measure(self, seconds: float) -> None:
        before = self.seconds
        self._mean, self._measured_at = before + _WEIGHT * (seconds - before), self._clock.monotonic()

    async def _enter(self, patience: float) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._clock.monotonic() + patience, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the place came together with the cancellation
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

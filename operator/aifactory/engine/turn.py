"""How long decisions may hold the event loop at a stretch.

A decision about a job of a thousand pods takes some twenty milliseconds. When a start or a storm wakes a hundred
workers at once, all of them would decide in the same turn of the event loop, and watches, the lease and whoever reports
would wait for seconds. So a turn has a budget: what is over it decides in the next turn, or the one after.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from aifactory.kube.clock import Clock

TURN_SECONDS: Final = 0.02
"""A decision that begins later than this in a turn waits for the next one."""


class Turn:
    """`async with turn:` around what does not give the event loop away. Nothing may be awaited inside."""

    def __init__(self, clock: Clock, seconds: float = TURN_SECONDS) -> None:
        self._clock = clock
        self._seconds = seconds
        self._spent = 0.0
        """In this turn of the event loop, so far."""
        self._began = 0.0

    async def __aenter__(self) -> None:
        while self._spent >= self._seconds:  # noqa: ASYNC110 # an Event would wake all who wait in one turn again
            await asyncio.sleep(0)
        if not self._spent:
            asyncio.get_running_loop().call_soon(self._next)
        self._began = self._clock.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spent += self._clock.monotonic() - self._began

    def _next(self) -> None:
        """The event loop has turned. It runs before who waits for it: it was asked for earlier."""
        self._spent = 0.0

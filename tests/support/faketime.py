"""An event loop whose time is made up: hours pass in milliseconds, and the same test takes the same course each time.

Time stands still while anything can run and jumps to the next timer when nothing can. A test that waits for something
that can never happen fails at once, because there is no next timer.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

MAX_TURNS = 2_000
"""More turns at one moment than anything needs that comes to an end."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class StandsStill(Exception):
    """Nothing can run any more and no timer is set: the test waits for something that will not happen."""


class Spins(Exception):
    """Something runs again and again and no time passes: it would take a whole core in reality."""


class _Selector(selectors.DefaultSelector):
    loop: FakeTimeLoop
    turns = 0
    """Turns of the loop since time last passed."""

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        self.turns += 1
        if not ready:
            if timeout is None:
                raise StandsStill
            if timeout > 0:
                self.loop.now += timeout
                self.turns = 0
        if self.turns > MAX_TURNS:
            raise Spins
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on fake time; `now` is its time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class FakeClock:
    """A `Clock` on the running loop's time."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end on fake time."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(main())


async def until(condition: Callable[[], object], *, seconds: float = 60.0, saw: Callable[[], object] = str) -> None:
    """Wait on fake time until the condition holds; fail with what `saw` returns when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"not within {seconds} s of fake time; saw {saw()}"
        await asyncio.sleep(0.01)

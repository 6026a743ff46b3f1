"""A process's own event loop inside the world's, so that one process can be stopped for a while and continued.

SIGSTOP, a paused machine, a hypervisor that gives the core to somebody else: the process runs not one instruction,
while what it has sent arrives and what is sent to it waits. Then all of it is there at once, answers first and timers
after them in the order of their times, as an event loop finds them: it may come to a write before it comes to the timer
that would have kept it from that write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from tests.support.faketime import FakeTimeLoop

T = TypeVar("T")


class StoppableLoop(asyncio.AbstractEventLoop):
    """What a process's tasks, futures and timers hang on. Everything runs on `world`, unless it is stopped."""

    def __init__(self, world: FakeTimeLoop) -> None:
        self._world = world
        self._late: list[asyncio.Handle] = []
        self.stopped = False

    def stop_for_a_while(self) -> None:
        """From now on nothing runs."""
        self.stopped = True

    def continue_(self) -> None:
        """What should have run meanwhile runs now: what arrived in its order, then timers by their times."""
        self.stopped = False
        late, self._late = self._late, []
        timers = [handle for handle in late if isinstance(handle, _Timer)]
        arrived = [handle for handle in late if not isinstance(handle, _Timer)]
        for handle in (*arrived, *sorted(timers, key=lambda timer: timer.when())):
            self._world.call_soon(self._run, handle)

    def within(self, call: Callable[[], T]) -> T:
        """Call something as the process would, from outside."""
        outside = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            return call()
        finally:
            asyncio._set_running_loop(outside)

    # --- The part of an event loop that is needed ---

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._world.call_soon(self._run, handle)
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        timer.outer = self._world.call_at(when, self._run, timer)
        return timer

    def time(self) -> float:
        return self._world.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        work: Coroutine[Any, Any, Any] = coro
        return asyncio.Task(work, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._world.call_exception_handler(context)

    def _timer_handle_cancelled(self, timer: _Timer) -> None:
        timer.outer.cancel()

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        if self.stopped:
            self._late.append(handle)
            return
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(self._world)


class _Timer(asyncio.TimerHandle):
    """A timer and its counterpart on the world's loop."""

    outer: asyncio.TimerHandle

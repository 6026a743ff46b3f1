"""The work queue: which key is to be worked on next. Semantics of client-go's workqueue, on one event loop.

What always holds:
- A key is handed to one worker at a time. Added while it is worked on, it is queued again when that work is done.
- A key that is queued already is not queued twice; it is looked at once, and sees everything that happened until then.
- A key that was added is never lost: it is queued, worked on and marked to be queued again, or handed to a worker that
  must call `done`. Of two timers of a key the earlier counts, and handing the key out ends it: whoever works on the key
  sees everything and says anew when to look again.
- A key that was told to rest is handed out when its rest is over, once, whatever was added meanwhile.
- No namespace has so many workers that the others get none (`places`). Keys that have to wait for that are held back,
  and handed out before all others as soon as their namespace may have a worker again.
- Fresh keys go before background keys (those of a first list), but every 16th turn is a background key's, so that
  steady traffic can not starve the others.

The queue forgets everything when the process ends; what is due then is found again by the first list.
Source of the rules: https://github.com/kubernetes/client-go/tree/master/util/workqueue
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from aifactory.kube import metrics
from aifactory.kube.backoff import RECONCILE, Backoff
from aifactory.kube.places import Places

K = TypeVar("K")

BACKGROUND_TURN = 16
EARLY_SECONDS = 0.001
"""A timer may run early by its clock's resolution: a rest that has less than this left is over."""
HEAP_SLACK = 256
"""Entries that count no more and may stay in the heap of timers, beside as many as count."""


class ShutDown(Exception):
    """The queue gives out no more keys."""


class WorkQueue(Generic[K]):
    """A queue of keys.

    Args:
        name: the label of its metrics.
        workers: how many take keys, for namespaces to share.
        namespace_of: the namespace of a key.
        backoff: delays of `add_rate_limited`.
        rng: source of jitter; a seeded one makes a run repeatable.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: float = math.inf,
        namespace_of: Callable[[K], str] = lambda _: "",
        backoff: Backoff = RECONCILE,
        rng: random.Random | None = None,
    ) -> None:
        self._places = Places(workers)
        self._namespace_of = namespace_of
        self._backoff = backoff
        self._rng = rng or random.Random()
        self._fresh: OrderedDict[K, float] = OrderedDict()
        self._background: OrderedDict[K, float] = OrderedDict()
        self._held_back: OrderedDict[str, OrderedDict[K, float]] = OrderedDict()
        """Keys whose turn came when their namespace had its share of the workers; namespaces in the order of theirs."""
        self._processing: dict[K, float] = {}
        self._again: dict[K, bool] = {}
        """Keys added while worked on, with their background flag."""
        self._failures: dict[K, int] = {}
        self._resting: dict[K, float] = {}
        """Until when keys rest."""
        self._due: dict[K, float] = {}
        """When a waiting key is added. The heap may hold entries of it that count no more; they are skipped."""
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._turn = 0
        self._closed = False
        self._depth = metrics.QUEUE_DEPTH.labels(name)
        self._adds = metrics.QUEUE_ADDS.labels(name)
        self._retries = metrics.QUEUE_RETRIES.labels(name)
        self._waited = metrics.QUEUE_SECONDS.labels(name)
        self._worked = metrics.WORK_SECONDS.labels(name)

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        held_back = sum(map(len, self._held_back.values())) if self._held_back else 0
        return len(self._fresh) + len(self._background) + held_back

    def added_again(self, key: K) -> bool:
        """Whether a key that is worked on will be handed out again when that work is done."""
        return key in self._again

    # --- Adding ---

    def add(self, key: K, *, background: bool = False) -> None:
        """Have the key worked on as soon as possible; after the shutdown it is ignored."""
        if self._closed:
            return
        if key in self._processing:
            self._again[key] = background and self._again.get(key, True)
            return
        if key in self._fresh or key in self._held_back.get(self._namespace_of(key), ()):
            return
        if (left := self._rest_left(key)) > 0:
            self.add_after(key, left)
            return
        if key in self._background:
            if not background:
                self._fresh[key] = self._background.pop(key)
            return
        self._push(key, background)

    def add_after(self, key: K, seconds: float) -> None:
        """Add the key after a delay. If it waits already, the earlier time counts."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        when = asyncio.get_running_loop().time() + seconds
        known = self._due.get(key)
        if known is not None and known <= when:
            return
        self._due[key] = when
        if len(self._heap) > 2 * len(self._due) + HEAP_SLACK:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (when, next(self._order), key))
        self._arm()

    def add_rate_limited(self, key: K, *, at_least: float = 0.0) -> float:
        """Add the key after a delay that grows with each call until `forget`; returns the delay in seconds.

        With `at_least` the delays grow from there instead of from the backoff's base.
        """
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.delay(failures, self._rng, at_least=at_least)
        self._retries.inc()
        self.add_after(key, delay)
        return delay

    def rest(self, key: K, seconds: float) -> None:
        """Hand the key out again in `seconds` at the earliest, if it is added at all. Called while it is worked on."""
        self._resting[key] = asyncio.get_running_loop().time() + seconds

    def forget(self, key: K) -> None:
        """The key is settled: its next failure is its first, and it need not rest."""
        self._failures.pop(key, None)
        self._resting.pop(key, None)

    def failures(self, key: K) -> int:
        """How often `add_rate_limited` was called since `forget`."""
        return self._failures.get(key, 0)

    # --- Working ---

    async def get(self) -> K:
        """The next key, when there is one; its worker must call `done`. Raises ShutDown when there will be none."""
        while (found := self._pop()) is None:
            if self._closed:
                raise ShutDown
            await self._wait(self._getters)
        key, since = found
        self._due.pop(key, None)
        now = asyncio.get_running_loop().time()
        self._processing[key] = now
        self._depth.set(len(self))
        self._waited.observe(now - since)
        return key

    def done(self, key: K) -> None:
        """The worker has finished with the key; if it was added meanwhile it is queued again."""
        started = self._processing.pop(key)
        self._places.leave(self._namespace_of(key))
        self._worked.observe(asyncio.get_running_loop().time() - started)
        background = self._again.pop(key, None)
        if background is not None:
            self.add(key, background=background)
        if self._held_back:
            self._wake_one()
        if not self._processing:
            self._release(self._idle)

    # --- Ending ---

    def shut_down(self) -> None:
        """Take no more keys and hand out none; workers that wait get ShutDown. Work in progress goes on."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for collection in (
            self._fresh,
            self._background,
            self._held_back,
            self._again,
            self._due,
            self._heap,
            self._resting,
        ):
            collection.clear()
        self._depth.set(0)
        self._release(self._getters)

    async def drain(self) -> None:
        """Wait until no key is worked on."""
        while self._processing:
            await self._wait(self._idle)

    # --- Inside ---

    def _rest_left(self, key: K) -> float:
        """For how many seconds a key still rests."""
        left = self._resting.get(key, 0.0) - asyncio.get_running_loop().time()
        return left if left > EARLY_SECONDS else 0.0

    def _push(self, key: K, background: bool) -> None:
        (self._background if background else self._fresh)[key] = asyncio.get_running_loop().time()
        self._adds.inc()
        self._depth.set(len(self))
        self._wake_one()

    def _pop(self) -> tuple[K, float] | None:
        """The next key whose namespace may have a worker, with that worker taken, and since when it waits."""
        if (found := self._pop_held_back()) is not None:
            return found
        while self._fresh or self._background:
            self._turn += 1
            background_first = self._turn % BACKGROUND_TURN == 0
            first, second = (self._background, self._fresh) if background_first else (self._fresh, self._background)
            key, since = (first or second).popitem(last=False)
            namespace = self._namespace_of(key)
            if self._places.enter(namespace):
                return key, since
            self._held_back.setdefault(namespace, OrderedDict())[key] = since
        return None

    def _pop_held_back(self) -> tuple[K, float] | None:
        for namespace, keys in self._held_back.items():
            if self._places.enter(namespace):
                found = keys.popitem(last=False)
                if keys:
                    self._held_back.move_to_end(namespace)
                else:
                    del self._held_back[namespace]
                self._wake_one()  # one place less taken may be enough for two
                return found
        return None

    async def _wait(self, waiters: deque[asyncio.Future[None]]) -> None:
        """Wait to be woken. A waiter that was woken and is cancelled at the same time hands its wake-up on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        try:
            await future
        except BaseException:
            try:
                waiters.remove(future)
            except ValueError:
                pass
            if waiters is self._getters and len(self):
                self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._getters:
            future = self._getters.popleft()
            if not future.done():
                future.set_result(None)
                return

    @staticmethod
    def _release(waiters: deque[asyncio.Future[None]]) -> None:
        while waiters:
            future = waiters.popleft()
            if not future.done():
                future.set_result(None)

    def _arm(self) -> None:
        """Set the one timer to the earliest time a key is due."""
        when = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer, self._timer_at = asyncio.get_running_loop().call_at(when, self._fire), when

    def _fire(self) -> None:
        self._timer = None
        # The loop may run a timer up to its clock's resolution early: what fired the timer is due by definition.
        now = max(asyncio.get_running_loop().time(), self._timer_at)
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == when:
                del self._due[key]
                self.add(key)
        if self._heap:
            self._arm()

"""The reconcile loop of one kind: take a key, look, decide, write, report.

Read `Controller._reconcile` first; the rest of the file is what surrounds it. What always holds:
- An object is reconciled by one worker at a time; the queue sees to it.
- Whatever happens in one reconcile, the key ends up settled, queued, or waiting for a timer, and the worker goes on.
- A status is written only on top of the version it was planned from: an old view can not overwrite a newer status.
- A failure that lasts is told in the status, in the words of whoever refused or did not answer.
- Nothing is kept between reconciles but when a status first differed and since when a key fails. Losing the one only
  means writing sooner, the other telling of it later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

from aifactory.api.base import CustomResource
from aifactory.engine.cluster import Cluster
from aifactory.engine.custom import Stored, failing_status, invalid_status
from aifactory.engine.domain import Domain
from aifactory.engine.executor import Executor
from aifactory.engine.plan import Event, Plan, Subject, Write
from aifactory.engine.turn import Turn
from aifactory.kube import metrics
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import Conflict, KubeError, NotFound, NotLeading
from aifactory.kube.events import EventRecorder, Regarding
from aifactory.kube.queue import ShutDown, WorkQueue
from aifactory.kube.resources import Key
from aifactory.kube.store import Change

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=CustomResource)
Observed = TypeVar("Observed")
Result = Literal["success", "requeue", "requeue_after", "error"]

WORKERS: Final = 128
"""More than writes can be under way: a worker that waits to write keeps no other key from being decided."""
STATUS_DELAY: Final = 1.8
"""Half-way states may be this old: a status is true within two seconds of every change, and few of them are written."""
SLOW_STATUS_DELAY: Final = 30.0
"""What lasts for half a minute is told, however slow the API server is. A thousand jobs that start at once on a slow
machine take longer than 20 s; when that was the limit, each told of its waiting pods first, and made them all later."""
SLOW_FACTOR: Final = 60.0
"""Half-way states may be as old as this many writes take, up to `SLOW_STATUS_DELAY`: an API server that needs more than
30 ms for a write has too much to do, and its work is spent better on pods and on states that stay."""
EARLY_SECONDS: Final = 0.001
"""A timer may run early by its clock's resolution: what it was set for is due all the same."""
LASTING_SECONDS: Final = 30.0
"""A failure that may pass by waiting is told when it has not for so long."""
REST_FACTOR: Final = 10.0
"""An object rests for as many times as long as its decision took, so that a job of thousands of pods, each of which
changes a few times a second, takes a tenth of a core and not all of it."""
MIN_REST, MAX_REST = 0.05, 0.25
"""The shortest and the longest rest, in seconds. Pods that are bound, start and end together are looked at together:
twenty restarts at once took 29 decisions a job without a rest."""
REFUSED_SECONDS: Final = 1.0
"""First delay after a refusal: somebody has to change something, which is not done in milliseconds."""


@dataclass(frozen=True, slots=True)
class _Decision(Generic[Observed]):
    """A plan as it is carried out: with its status in JSON, and with what it was made from."""

    observed: Observed | None
    writes: tuple[Write, ...] = ()
    status: Mapping[str, Any] | None = None
    urgent: bool = False
    requeue_after: float | None = None
    events: tuple[Event, ...] = ()


class Controller(Generic[M, Observed]):
    """Reconciles the objects of one kind.

    Args:
        domain: how to look and decide.
        cluster: what is known.
        executor: how to write; shared by all controllers.
        recorder: where Events go; None sends none.
        queue: the keys; a fresh queue by default.
        workers: reconciles at once. More hides the API server's latency better and holds more calls open.
        status_delay: seconds a status that is not urgent may wait for further differences, while the API server is
            quick. More means fewer writes and an older status.
        clock: the time.
    """

    def __init__(
        self,
        domain: Domain[M, Observed],
        cluster: Cluster,
        executor: Executor,
        *,
        recorder: EventRecorder | None = None,
        queue: WorkQueue[Key] | None = None,
        workers: int = WORKERS,
        status_delay: float = STATUS_DELAY,
        clock: Clock | None = None,
    ) -> None:
        self.domain = domain
        self.name = domain.name
        self.queue: WorkQueue[Key] = WorkQueue(domain.name) if queue is None else queue
        self._cluster = cluster
        self._store = cluster.stored(domain.resource)
        self._executor = executor
        self._recorder = recorder
        self._workers = workers
        self._status_delay = status_delay
        self._clock = clock or SystemClock()
        self._turn = Turn(self._clock)
        self._differs_since: dict[Key, float] = {}
        self._failing_since: dict[Key, float] = {}
        self._results = {
            result: metrics.RECONCILES.labels(self.name, result)
            for result in ("success", "requeue", "requeue_after", "error")
        }
        self._errors = metrics.RECONCILE_ERRORS.labels(self.name)
        self._seconds = metrics.RECONCILE_SECONDS.labels(self.name)
        self._active = metrics.ACTIVE_WORKERS.labels(self.name)
        self._delayed = metrics.STATUS_WRITES_DELAYED.labels(self.name)
        metrics.MAX_WORKERS.labels(self.name).set(workers)
        self._store.subscribe(self._wake)

    # --- Running ---

    async def run(self) -> None:
        """Work until `stop` is called (then it returns when the work in progress is done) or until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"{self.name}-{number}")

    async def stop(self, grace: float) -> None:
        """Take no more keys and give reconciles in progress `grace` seconds to end."""
        self.queue.shut_down()
        try:
            async with asyncio.timeout(grace):
                await self.queue.drain()
        except TimeoutError:
            logger.warning("%s: some reconciles did not end within %.0f s", self.name, grace)

    def start_over(self) -> None:
        """Forget what was kept while this replica led before, and look at every object: another may have led since."""
        self._differs_since.clear()
        self._failing_since.clear()
        for stored in self._store.all():
            meta = stored.metadata
            self.domain.gone(meta.uid)
            self.queue.forget(meta.key)
            self.queue.add(meta.key, background=True)

    def wake_later(self, key: Key) -> None:
        """Look at an object as soon as a half-way status could be worth a write: at once where writes are fast."""
        self.queue.add_after(key, self._slow())

    def _wake(self, change: Change[Any]) -> None:
        """Every change of an object of the kind, but those it wrote itself."""
        if change.origin != self.name:
            metadata = change.object.metadata
            self.queue.add(Key(metadata.namespace, metadata.name), background=change.background)

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except ShutDown:
                return
            self._active.inc()
            started = self._clock.monotonic()
            try:
                self._results[await self._attempt(key)].inc()
            finally:
                self._seconds.observe(self._clock.monotonic() - started)
                self._active.dec()
                self.queue.done(key)
            # Reconciles that write nothing wait for nothing: a thousand of them in a row, or one that is due again at
            # once for ever, would hold up watches, the lease and everything else.
            await asyncio.sleep(0)

    # --- One reconcile ---

    async def _attempt(self, key: Key) -> Result:
        """Reconcile, and turn every failure into another attempt."""
        try:
            return await self._reconcile(key)
        except NotFound:
            # The object went away under our hands. If the store does not hear of that, it was a stray answer.
            if self._store.get(*key) is None:
                return self._end(key)
            self.queue.add_rate_limited(key)
            return "requeue"
        except Conflict as error:
            # Our view is older than the object. The newer one is on its way and wakes the key; this is for safety.
            self.queue.add_rate_limited(key)
            await self._tell_lasting(key, str(error))
            return "requeue"
        except NotLeading as error:
            return self._failed(key, logging.WARNING, str(error), stack=False)
        except KubeError as error:
            result = self._failed(key, logging.WARNING, str(error), stack=False)
            await self._tell_lasting(key, str(error))
            return result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not we were cancelled but something we waited for: a failure like any other.
            return self._failed(key, logging.ERROR, "cancelled from inside", stack=True)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            result = self._failed(key, logging.ERROR, message, stack=True)
            await self._tell_lasting(key, f"a mistake in the operator, {message}")
            return result

    async def _reconcile(self, key: Key) -> Result:
        # 1. Look and decide. Nothing is awaited in between, so the plan is made from one moment's view.
        async with self._turn:
            stored = self._store.get(*key)
            if stored is None:
                return self._end(key)
            began = self._clock.monotonic()
            decision = self._decide(stored, self._clock.now())
            decided = self._clock.monotonic()

        # 2. Write what belongs to the object. If that fails for a while, look again later; what is refused for good
        #    becomes a status in the API server's own words.
        outcome = await self._executor.run(key.namespace, decision.writes)
        if outcome.refused and decision.observed is not None:
            for refused in outcome.refused:
                metrics.REFUSED_WRITES.labels(self.name, refused.error.reason).inc()
            answer = self.domain.refused(decision.observed, outcome.refused, self._clock.now())
            decision = _decision(decision.observed, answer)
        elif outcome.passing is not None:
            raise outcome.passing

        # 3. Write the status, now or with what else changes soon.
        subject = stored.subject
        settled = await self._write_status(subject, decision)

        # 4. Tell people, now that the status they will look at is there.
        if settled and self._recorder is not None:
            regarding = Regarding(self.domain.resource, subject.key, subject.uid)
            for event in decision.events:
                self._recorder.record(
                    regarding, type_=event.type, reason=event.reason, message=event.message, action=event.action
                )

        # 5. Come back when the plan says so.
        self._failing_since.pop(key, None)
        if outcome.refused:
            self.queue.add_rate_limited(key, at_least=REFUSED_SECONDS)
            if decision.requeue_after is not None:
                self.queue.add_after(key, decision.requeue_after)
            return "error"
        self.queue.forget(key)
        rest = min(max(REST_FACTOR * (decided - began), MIN_REST), MAX_REST) - (self._clock.monotonic() - decided)
        if decision.requeue_after != 0:
            self.queue.rest(key, rest)
        if decision.requeue_after is None:
            return "success"
        self.queue.add_after(key, decision.requeue_after)
        return "requeue_after" if decision.requeue_after > 0 else "requeue"

    def _decide(self, stored: Stored[M], now: datetime) -> _Decision[Observed]:
        if stored.model is None:
            return _Decision(None, status=invalid_status(stored, now))
        observed = self.domain.gather(stored.model, self._cluster)
        plan = self.domain.plan(observed, now)
        return _Decision(observed) if plan is None else _decision(observed, plan)

    async def _write_status(self, subject: Subject, decision: _Decision[Observed]) -> bool:
        """Write the status if it differs and its time has come; returns whether the object's status is the plan's."""
        key, status = subject.key, decision.status
        if status is None or status == subject.status:
            self._differs_since.pop(key, None)
            return True
        now = self._clock.monotonic()
        since = self._differs_since.setdefault(key, now)
        # An Event is as good as a fact: what it speaks about must be readable when it arrives.
        if not (decision.urgent or decision.events) and (left := since + self._delay() - now) > EARLY_SECONDS:
            self._delayed.inc()
            self.queue.add_after(key, left)
            return False

        def outdated() -> bool:
            """More has happened while the write waited for its turn: the key is queued, and one write tells it all."""
            return self.queue.added_again(key) and self._clock.monotonic() < since + SLOW_STATUS_DELAY

        written = await self._executor.write_status(
            self.domain.resource, subject, status, origin=self.name, outdated=outdated
        )
        if written:
            self._differs_since.pop(key, None)
        return written

    def _delay(self) -> float:
        return max(self._status_delay, self._slow())

    def _slow(self) -> float:
        return min(SLOW_FACTOR * self._executor.write_seconds, SLOW_STATUS_DELAY)

    def _end(self, key: Key) -> Result:
        """There is no such object: remember nothing about it."""
        self.queue.forget(key)
        self._differs_since.pop(key, None)
        self._failing_since.pop(key, None)
        return "success"

    async def _tell_lasting(self, key: Key, failure: str) -> None:
        """Put a failure that has lasted into the status, which nothing else would tell."""
        stored = self._store.get(*key)
        if stored is None:
            return
        now = self._clock.monotonic()
        left = self._failing_since.setdefault(key, now) + LASTING_SECONDS - now
        if left > EARLY_SECONDS:
            self.queue.add_after(key, left)  # the next try by itself may be half a minute later
            return
        status, subject = failing_status(stored, failure, self._clock.now()), stored.subject
        if status == subject.status:
            return
        try:
            await self._executor.write_status(self.domain.resource, subject, status, origin=self.name)
        except KubeError as error:
            logger.info("%s %s: that it fails could not be told: %s", self.name, key, error)

    def _failed(self, key: Key, level: int, message: str, *, stack: bool) -> Result:
        """Try again later, and say why, but not each of a thousand times."""
        delay = self.queue.add_rate_limited(key)
        self._errors.inc()
        failures = self.queue.failures(key)
        if failures & (failures - 1) == 0:
            text = "%s %s: %s; failed %d times so far, tried again in %.1f s"
            logger.log(level, text, self.name, key, message, failures, delay, exc_info=stack)
        return "error"


def _decision(observed: Observed, plan: Plan[Any]) -> _Decision[Observed]:
    return _Decision(observed, plan.writes, plan.status.dump(), plan.urgent, plan.requeue_after, plan.events)

"""Observe, plan, act, report; once a second and whenever something finished.

The loop itself never waits for a fetch or a load: those are tasks, at most one a version for fetching and one a model
for everything that concerns Triton, so a slow or broken model holds up no other. A task reports back by changing what
the next round observes, never by calling the planner.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from aifactory_agent.artifacts.stores import Mounts, open_source
from aifactory_agent.artifacts.transfer import Cancelled
from aifactory_agent.logs import fields
from aifactory_agent.serve import planner, residency
from aifactory_agent.serve.admission import Admission
from aifactory_agent.serve.backoff import may_be_an_accident, next_try, next_upkeep
from aifactory_agent.serve.metrics import Metrics
from aifactory_agent.serve.planner import Action, Actual, Confirm, Failure, Fetch, Load, Remove, Unload
from aifactory_agent.serve.repository import Repository
from aifactory_agent.serve.status import Loads, Status, Told, report
from aifactory_agent.serve.triton import TooLate, Triton
from aifactory_contract.desired import Desired, ModelKey, ModelSpec, parse
from aifactory_contract.errors import FactoryError, Reason

_log = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
STARTING_PERIOD_SECONDS = 0.2
"""While Triton is not up: seconds count in a cold start."""
LOOK_SECONDS = 0.1
"""How often desired.json is looked at: a pod that goes back to a warm version waits for little else."""
CHECK_SECONDS = 5.0
"""How often a version that is READY is asked again. Triton 2.51 says READY also when the model's process has died."""
LATE_INDEXES = 2
"""Late answers of Triton's index in a row after which the pod is not ready. One may be a busy node's."""
LATE_PROBES = 3
"""Late answers of a version in a row after which it hangs, if nobody else has had an answer from it meanwhile: it is
taken out and loaded anew. One that answers others has a long queue, and loading it anew would only hurt."""
_CONCURRENT_FETCHES = 4
"""More than one, so that a store that hangs does not hold up the others."""


@dataclass
class _Fetching:
    """A fetch under way."""

    spec: ModelSpec
    cancel: threading.Event = field(default_factory=threading.Event)
    got: int = 0
    """Bytes so far; a piece may be missing if two threads note one each in the same moment."""

    def note(self, size: int) -> None:
        self.got += size


class Reconciler:
    """Brings one Triton to what one desired.json says.

    Args:
        desired: path of desired.json; its content may be swapped at any time.
        load_timeout_seconds: a load that takes longer has failed.
    """

    def __init__(
        self,
        desired: Path,
        repository: Repository,
        triton: Triton,
        mounts: Mounts,
        metrics: Metrics,
        load_timeout_seconds: float,
    ) -> None:
        self._path = desired
        self._repository = repository
        self._triton = triton
        self._mounts = mounts
        self._metrics = metrics
        self._load_timeout = load_timeout_seconds
        self._desired: Desired | None = None
        self._actual = Actual()
        self._ask_at: dict[ModelKey, float] = {}
        self._doubted: set[ModelKey] = set()
        self._late_probes: dict[ModelKey, tuple[int, int]] = {}
        """Late answers in a row, and how many requests the version had answered at the last of them."""
        self._late_indexes = 0
        self._held: dict[str, tuple[int, float]] = {}
        """Failures in a row of taking something out of a model, and when it may be tried again."""
        self._load_seconds: dict[ModelKey, float] = {}
        self._fetches: dict[ModelKey, _Fetching] = {}
        self._loads: dict[ModelKey, Loads] = {}
        self._missing: dict[str, float] = {}
        """Models that are to be loaded on demand, and since when."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetch_slots = asyncio.Semaphore(_CONCURRENT_FETCHES)
        self._wake = asyncio.Event()
        self._observing = asyncio.Lock()
        self._stopping = False
        self.admission = Admission(self._wake.set)
        self.status = Status()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        await asyncio.to_thread(self._repository.prepare)
        present, bearing = await asyncio.to_thread(lambda: (self._repository.present(), self._repository.bearing()))
        self._actual = replace(self._actual, present=present, bearing=bearing)
        looking = asyncio.create_task(self._look())
        try:
            while True:
                self._wake.clear()
                await self._round()
                period = PERIOD_SECONDS if self._actual.triton_up else STARTING_PERIOD_SECONDS
                # Not wait_for: in Python 3.11 it forgets that it was cancelled if the event comes in the same moment
                # (cpython#86296), and then the agent would never end.
                with suppress(TimeoutError):
                    async with asyncio.timeout(period):
                        await self._wake.wait()
        finally:
            self._stopping = True
            looking.cancel()
            for fetching in self._fetches.values():
                fetching.cancel.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self) -> None:
        """Have a round as soon as desired.json is another one."""
        seen = _identity(self._path)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if (found := _identity(self._path)) != seen:
                seen = found
                self._wake.set()

    async def _round(self) -> None:
        unreadable, silent = self._read_desired(), await self._observe()
        now = time.monotonic()
        held = frozenset(name for name, (_, again) in self._held.items() if again > now)
        self._actual = replace(self._actual, held=held, fetching=self._fetched())
        if self._desired is not None:
            self._cancel_unwanted(self._desired)
            self._make_room(self._desired, now)
            for action in planner.plan(self._desired, self._actual, now):
                self._start(action)
        told = Told(self._load_seconds, self._loads)
        status = report(self._desired, unreadable or silent, self._actual, told, time.monotonic())
        if self._desired is not None:
            if status.ready:
                await self._bear(frozenset(spec.key for spec in self._desired.live))
            status = replace(status, carries=status.ready or planner.carries(self._desired, self._actual))
        if status.summary != self.status.summary:
            about = fields(revision=status.revision, reason=status.reason, detail=status.message)
            _log.info("ready" if status.ready else "not ready", extra=about)
        self.status = status
        self._metrics.observe(status, self.admission.held, self.admission.admitted)

    def _make_room(self, desired: Desired, now: float) -> None:
        """On demand: what is to be loaded and what is to go, and who has to wait for that, told in one go."""
        admission = self.admission
        use = residency.Use(admission.waiting, admission.in_use, admission.used, self._missing)
        missing = residency.asked(desired, self._actual, use, now)
        self._missing = {name: self._missing.get(name, now) for name in missing}
        found = residency.decide(desired, self._actual, replace(use, since=self._missing), now)
        self._actual = replace(self._actual, resting=found.resting, crowded=found.crowded)
        known: dict[str, list[int]] = {spec.key.name: [] for spec in desired.live}
        for spec in desired.live:
            if planner.is_served(spec, desired, self._actual):
                known[spec.key.name].append(spec.key.version)
        answering = frozenset(key.name for key in self._actual.confirmed) & known.keys() - found.resting
        failures = {
            key.name: each.message
            for key, each in self._actual.failures.items()
            # Of one that has never answered here nobody knows yet whether it stays.
            if key in self._actual.bearing and not may_be_an_accident(each.reason, each.attempts)
        }
        admission.settle(desired.on_demand, known, answering, failures)
        self._actual = replace(self._actual, in_use=admission.in_use)

    async def _bear(self, versions: frozenset[ModelKey]) -> None:
        """Clients are served by these from now on. That is noted before it is told, for an agent that is restarted."""
        if versions == self._actual.bearing:
            return
        self._actual = replace(self._actual, bearing=versions)
        try:
            await asyncio.to_thread(self._repository.note_bearing, versions)
        except FactoryError as error:
            _log.warning("could not be noted", extra=fields(detail=error.message))

    def _read_desired(self) -> FactoryError | None:
        """Take up a changed desired.json. An unreadable one is reported, and the last good one stays in force."""
        try:
            desired = parse(self._path.read_bytes())
        except OSError as error:
            return FactoryError(Reason.INVALID_DESIRED, f"cannot read {self._path}: {error.strerror}")
        except FactoryError as error:
            return error
        if desired != self._desired:
            _log.info(
                "desired state changed",
                extra=fields(revision=desired.revision, models=[str(spec.key) for spec in desired.models]),
            )
            self._desired = desired
            # What is wished again later is tried at once, whatever became of it before.
            failures = {key: found for key, found in self._actual.failures.items() if found.spec in desired.models}
            self._actual = replace(self._actual, failures=failures)
            self._load_seconds.clear()  # what is told is what the wish in force has cost
        return None

    async def _observe(self) -> FactoryError | None:
        async with self._observing:  # one at a time, so that an older answer never replaces a newer one
            return await self._ask_index()

    async def _ask_index(self) -> FactoryError | None:
        try:
            serving = await self._triton.serving()
        except FactoryError as error:
            self._late_indexes += isinstance(error, TooLate)
            if self._actual.triton_up and isinstance(error, TooLate) and self._late_indexes < LATE_INDEXES:
                _log.warning("Triton's index is late; asked again", extra=fields(detail=error.message))
                self._wake.set()
                return None
            if self._actual.triton_up:
                _log.warning("Triton is gone", extra=fields(detail=error.message))
            self._actual = replace(self._actual, triton_up=False, serving={}, confirmed=frozenset())
            return error
        self._late_indexes = 0
        if not self._actual.triton_up:
            _log.info("Triton is up")
            await self._identify()
        if serving != self._actual.serving:
            # First of all: the OpenAI port chooses versions itself, and must not be late when this is told.
            await self._tell_serving(serving)
        running = {ModelKey(name, version) for name, versions in serving.items() for version in versions}
        confirmed = self._actual.confirmed & running
        due = frozenset(key for key in confirmed if time.monotonic() >= self._ask_at.get(key, 0.0))
        self._actual = replace(self._actual, triton_up=True, serving=serving, confirmed=confirmed, due=due)
        return None

    async def _tell_serving(self, serving: Mapping[str, frozenset[int]]) -> None:
        try:
            await asyncio.to_thread(self._repository.tell_serving, serving)
        except FactoryError as error:  # the port looks by itself a second later
            _log.warning("could not be noted", extra=fields(detail=error.message))

    async def _identify(self) -> None:
        """Triton has come up, so its container has said what it has: which engine serves a model depends on it."""
        keys = tuple(self._actual.present)
        found = await asyncio.to_thread(lambda: {key: self._repository.identify(key) for key in keys})
        present = self._actual.present
        known = {key: replace(present[key], config=config) for key, config in found.items() if key in present}
        self._actual = replace(self._actual, present={**present, **known})

    def _cancel_unwanted(self, desired: Desired) -> None:
        for fetching in self._fetches.values():
            if fetching.spec not in desired.models:
                fetching.cancel.set()

    def _fetched(self) -> dict[ModelKey, int]:
        return {key: fetching.got for key, fetching in self._fetches.items()}

    def _start(self, action: Action) -> None:
        match action:
            case Fetch(spec):
                fetching = self._fetches[spec.key] = _Fetching(spec)
                self._actual = replace(self._actual, fetching=self._fetched())
                self._spawn(self._fetch(fetching), self._end_fetch(spec.key))
            case Load(name, adding=None):
                self._spawn_for(name, self._upkeep(name, self._load(action)))
            case Load(name):
                self._spawn_for(name, self._load(action))
            case Confirm(spec):
                self._spawn_for(spec.key.name, self._confirm(spec))
            case Unload(name):
                on_demand = self._desired is not None and self._desired.on_demand is not None
                self._spawn_for(name, self._upkeep(name, self._unload(name, to_the_end=on_demand)))
            case Remove(key):
                self._spawn_for(key.name, self._upkeep(key.name, self._remove(key)))

    async def _upkeep(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Take something out of a model; if that fails, nothing is taken out of it for a while."""
        try:
            await work
        except Exception as error:
            attempts = self._held.get(name, (0, 0.0))[0] + 1
            wait = next_upkeep(attempts)
            self._held[name] = (attempts, time.monotonic() + wait)
            known = isinstance(error, FactoryError)
            about = fields(model=name, detail=str(error), retry_seconds=round(wait, 1))
            _log.warning("could not take out what is no longer wanted", extra=about, exc_info=not known)
        else:
            self._held.pop(name, None)

    def _spawn_for(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._actual = replace(self._actual, loading=self._actual.loading | {name})

        def done() -> None:
            self._actual = replace(self._actual, loading=self._actual.loading - {name})

        self._spawn(work, done)

    def _spawn(self, work: Coroutine[None, None, None], done: Callable[[], None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except FactoryError as error:
                _log.warning("Triton did not answer", extra=fields(detail=error.message))
            except Exception:
                _log.exception("unexpected failure; it is tried again")
            finally:
                if not self._stopping:
                    # What was done must be observed before the planner may act on the model again.
                    await self._observe()
                done()
                self._wake.set()

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end_fetch(self, key: ModelKey) -> Callable[[], None]:
        def done() -> None:
            del self._fetches[key]
            self._actual = replace(self._actual, fetching=self._fetched())

        return done

    async def _fetch(self, fetching: _Fetching) -> None:
        spec, started = fetching.spec, time.monotonic()

        async def work() -> None:
            async with self._fetch_slots:
                source = open_source(spec.uri, self._mounts, spec.secret)
                present = await asyncio.to_thread(self._repository.add, spec, source, fetching.cancel, fetching.note)
            self._actual = replace(self._actual, present={**self._actual.present, spec.key: present})
            if self._actual.triton_up:  # it may have come up since the version was identified
                await self._identify()
            seconds = time.monotonic() - started
            self._forget_failure(spec.key)
            self._metrics.fetched(spec.key, seconds)
            about = fields(**_about(spec.key), uri=str(spec.uri), seconds=round(seconds, 3))
            _log.info("fetched and checked", extra=about)

        await self._attempt(spec, work)

    async def _load(self, action: Load) -> None:
        started = time.monotonic()

        async def work() -> None:
            await asyncio.to_thread(self._repository.configure, action.name, action.versions, action.leader)
            await self._triton.load(action.name, self._load_timeout)
            seconds = time.monotonic() - started
            if action.adding is not None:
                await self._check_loaded(action.adding)
                self._load_seconds[action.adding.key] = seconds
                times = self._loads.get(action.adding.key, Loads()).times
                self._loads[action.adding.key] = Loads(times + 1, time.time())
                self._metrics.loaded(action.adding.key, seconds)
            versions = list(action.versions)
            _log.info("loaded", extra=fields(model=action.name, versions=versions, seconds=round(seconds, 3)))

        if action.adding is not None:
            await self._attempt(action.adding, work)
        else:
            await work()

    async def _check_loaded(self, spec: ModelSpec) -> None:
        serving = await self._triton.serving()
        if spec.key.version not in serving.get(spec.key.name, frozenset()):
            message = "Triton said it was loaded but its index does not list it as READY"
            raise FactoryError(Reason.LOAD_FAILED, message)

    async def _confirm(self, spec: ModelSpec) -> None:
        """Ask a version; the first answer confirms it, a second failure in a row ends that."""
        key = spec.key
        known = key in self._actual.confirmed

        async def work() -> None:
            serving = await asyncio.to_thread(self._repository.how_served, key)
            try:
                await self._triton.confirm(key, serving)
            except FactoryError as error:
                # A busy server may be late and a request may fail once: neither may cost a working model its traffic.
                # An engine may compile for its first answer, which must not begin anew.
                if (known or isinstance(error, TooLate)) and await self._is_forgiven(key, error):
                    if known:
                        self._ask_at[key] = time.monotonic() + PERIOD_SECONDS
                    _log.warning("asked again soon", extra=fields(**_about(key), detail=error.message))
                    return
                self._actual = replace(self._actual, confirmed=self._actual.confirmed - {key})
                self._forgive(key)
                if known and isinstance(error, TooLate):
                    message = (
                        f"it hangs: {LATE_PROBES} requests had no answer in time, nor had others; it is loaded anew"
                    )
                    raise FactoryError(Reason.CONFIRM_FAILED, message) from error
                raise
            self._forgive(key)
            self._ask_at[key] = time.monotonic() + CHECK_SECONDS
            self._forget_failure(key)
            if not known:
                confirmed, answered = self._actual.confirmed | {key}, self._actual.answered | {key}
                self._actual = replace(self._actual, confirmed=confirmed, answered=answered)
                self.admission.touch(key.name)
                _log.info("model answers", extra=fields(**_about(key)))

        await self._attempt(spec, work)

    async def _is_forgiven(self, key: ModelKey, error: FactoryError) -> bool:
        if isinstance(error, TooLate):
            answered = await self._triton.answers(key)
            count, before = self._late_probes.get(key, (0, answered))
            count = count + 1 if answered == before else 1
            self._late_probes[key] = (count, answered)
            return count < LATE_PROBES
        if error.transient:
            return True
        again = key in self._doubted
        self._doubted.add(key)
        return not again

    def _forgive(self, key: ModelKey) -> None:
        self._doubted.discard(key)
        self._late_probes.pop(key, None)

    async def _unload(self, name: str, *, to_the_end: bool) -> None:
        """Have nothing of a model run; to the end, where its memory is for another model."""
        if to_the_end:
            self._actual = replace(self._actual, unloading=self._actual.unloading | {name})
        try:
            await self._triton.unload(name)
            while to_the_end and not await self._triton.is_gone(name):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._actual = replace(self._actual, unloading=self._actual.unloading - {name})
        _log.info("unloaded", extra=fields(model=name))

    async def _remove(self, key: ModelKey) -> None:
        await asyncio.to_thread(self._repository.remove, key)
        present = {other: value for other, value in self._actual.present.items() if other != key}
        self._actual = replace(self._actual, present=present)
        self._forget_failure(key)
        self._load_seconds.pop(key, None)
        self._ask_at.pop(key, None)
        self._loads.pop(key, None)
        self._actual = replace(self._actual, answered=self._actual.answered - {key})
        _log.info("files removed", extra=fields(**_about(key)))

    async def _attempt(self, spec: ModelSpec, work: Callable[[], Awaitable[None]]) -> None:
        """Do something for a version; if it fails, note why and when to try again."""
        try:
            await work()
        except Cancelled:
            _log.info("given up, no longer desired", extra=fields(**_about(spec.key)))
        except FactoryError as error:
            self._note_failure(spec, error)
        except Exception as error:
            _log.exception("unexpected failure", extra=fields(**_about(spec.key)))
            self._note_failure(spec, FactoryError(Reason.INTERNAL_ERROR, repr(error)))

    def _forget_failure(self, key: ModelKey) -> None:
        failures = {other: value for other, value in self._actual.failures.items() if other != key}
        self._actual = replace(self._actual, failures=failures)

    def _note_failure(self, spec: ModelSpec, error: FactoryError) -> None:
        before = self._actual.failures.get(spec.key)
        attempts = before.attempts + 1 if before is not None and before.spec == spec else 1
        now = time.monotonic()
        wait = next_try(error.reason, attempts, answered_before=spec.key in self._ask_at)
        fetching = self._fetches.get(spec.key)
        fetched = fetching.got if fetching is not None else 0
        failure = Failure(spec, error.reason, error.message, attempts, now + wait, fetched)
        self._actual = replace(self._actual, failures={**self._actual.failures, spec.key: failure})
        self._metrics.failed(spec.key, error.reason)
        about = fields(**_about(spec.key), reason=str(error.reason), detail=error.message, retry_seconds=round(wait, 1))
        _log.warning("failed", extra=about)


def _identity(path: Path) -> tuple[int, int] | None:
    """Changes when another file is put in the place; the kubelet does that with a link, as for every ConfigMap."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _about(key: ModelKey) -> dict[str, object]:
    return {"model": key.name, "version": key.version}

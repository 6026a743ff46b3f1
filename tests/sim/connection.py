"""One process's connection to the API server: the `Api` protocol with latency, faults and a kill switch.

Each call is sent once: sending again is the process's own business. It travels to the server, is carried out there in
one moment, and its answer travels back; a fault may end it at any of these. What a process can not know in reality it
can not know here: a call whose answer was lost looks the same whether it was carried out or not. What is under way goes
on while the process is stopped; the answer waits for it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from aifactory.kube.api import PatchType, Propagation
from aifactory.kube.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    ServerError,
    TooManyRequests,
    Unreachable,
)
from aifactory.kube.resources import EVENTS, LEASES, PODGROUPS, PODS, Key, Resource
from tests.sim.cluster import Body, Cluster, Commit, encode, labels_of

T = TypeVar("T")
Fault = Literal["none", "429", "503", "500 done", "request lost", "answer lost", "409", "late"]

FAULTS: tuple[Fault, ...] = ("429", "503", "500 done", "request lost", "answer lost", "409", "late")
LATE_SECONDS = 10.0
"""A change that its client has given up may be carried out for so long."""
BOOKMARK_SECONDS = 60.0
TIMEOUT_SECONDS = 5.0
LATENCY = (0.0005, 0.02)


@dataclass
class Faults:
    """What goes wrong on a connection at the moment. Probabilities are per call or per event."""

    calls: float = 0.0
    kinds: tuple[Fault, ...] = FAULTS
    lease_away: bool = False
    """The lease can be neither read nor written."""
    duplicates: float = 0.0
    """Watch events that come twice."""
    lag: dict[Resource, float] = field(default_factory=dict)
    """Seconds that watch events of a resource are late."""
    stalled: set[int] = field(default_factory=set)
    """Watches, by number, that deliver nothing and do not end."""
    blurred_until: float = 0.0
    """Until then old views and late writes still have their effects."""

    def clear(self) -> None:
        """Everything is well from now on; a watch that fell silent stays so until its client gives it up."""
        self.calls = self.duplicates = 0.0
        self.kinds = FAULTS
        self.lease_away = False
        self.lag.clear()


class Connection:
    """An `Api`. `actor` is the name under which its changes are committed."""

    def __init__(self, cluster: Cluster, rng: random.Random, actor: str) -> None:
        self.cluster = cluster
        self.actor = actor
        self.faults = Faults()
        self.dead = False
        self.calls = 0
        self.after_write: Callable[[], None] = lambda: None
        """Called when a write has been carried out and its answer is not back yet."""
        self.after_refusal: Callable[[], None] = lambda: None
        """Called when a write was refused for a moment and the answer is not back yet."""
        self.refused: Callable[[Mapping[str, Any]], None] = lambda _: None
        """Called with what the server refuses to create."""
        self.careless: Callable[[str], None] = lambda _: None
        """Called when a call could do harm, though it may not do so now."""
        self.sending: Callable[[str], None] = lambda _: None
        """Called when a write leaves the process."""
        self._rng = rng
        self._epoch = 0
        self._watches: dict[int, Resource] = {}
        self._wakes: dict[int, Callable[[], None]] = {}
        self._numbers = 0

    # --- Faults from outside ---

    @property
    def silent(self) -> bool:
        """A watch tells nothing, and its client has not given it up yet."""
        return bool(self.faults.stalled & self._watches.keys())

    @property
    def lag(self) -> float:
        """How far behind the watches may be, in seconds."""
        blurred = self.cluster.loop.now < self.faults.blurred_until
        if blurred or self.faults.calls or self.silent:
            return math.inf
        return max(self.faults.lag.values(), default=0.0)

    def cut(self) -> None:
        """Every watch loses its connection."""
        self._epoch += 1
        self.wake()

    def stall(self) -> None:
        """The watches that are open now fall silent."""
        self.faults.stalled |= self._watches.keys()

    def heal(self) -> None:
        self.faults.clear()
        self.wake()

    # --- Verbs ---

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        await self._reach(resource)
        return await self._read("get", resource, lambda: encode(self.cluster.get(resource, namespace, name)))

    async def _reach(self, resource: Resource) -> None:
        if resource == LEASES and self.faults.lease_away:
            await self._over(self._travel())
            raise Unreachable("connection refused", sent=False)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        metadata_only: bool = False,
    ) -> bytes:
        await self._reach(resource)
        return await self._read(
            "list",
            resource,
            lambda: self._page(resource, label_selector, min(limit, 7) if limit > 1 else limit, continue_),
        )

    def _page(self, resource: Resource, label_selector: str, limit: int, continue_: str) -> bytes:
        """Pages are short here, so that lists of a small cluster have several."""
        cluster = self.cluster
        if resource == PODGROUPS and not cluster.gangs:
            raise NotFound(404, "NotFound", "the server could not find the requested resource")
        version, start = cluster.version, 0
        keys = sorted(key for key, body in cluster.objects[resource].items() if _selected(body, label_selector))
        if continue_:
            number, _, last = continue_.partition("@")
            version = int(number)
            if version < cluster.compacted:
                raise Gone(410, "Expired", "the provided continue parameter is too old")
            start = sum(1 for key in keys if str(key) <= last)
        page = keys[start : start + limit] if limit else keys[start:]
        token = f"{version}@{page[-1]}" if page and start + len(page) < len(keys) else ""
        items = [cluster.objects[resource][key] for key in page]
        return encode({"metadata": {"resourceVersion": str(version), "continue": token}, "items": items})

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
    ) -> AsyncIterator[Sequence[bytes]]:
        await self._read("watch", resource, lambda: None)
        cluster, loop, epoch = self.cluster, self.cluster.loop, self._epoch
        seen, ends = int(resource_version), loop.now + timeout_seconds
        if seen < cluster.compacted:
            raise Gone(410, "Expired", "too old resource version")
        bookmark = loop.now + BOOKMARK_SECONDS
        self._numbers += 1
        number = self._numbers
        self._watches[number] = resource
        sleeper = _Sleeper(cluster, resource)
        self._wakes[number] = sleeper.wake
        try:
            while loop.now < ends:
                if epoch != self._epoch:
                    raise Unreachable("connection lost")
                if number in self.faults.stalled:
                    await sleeper.sleep_until(ends)
                    continue
                if seen < cluster.forgotten[resource]:
                    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                    yield [encode({"type": "ERROR", "object": status})]
                    return
                lag = self.faults.lag.get(resource, 0.0)
                arrived, due = self._arrived(resource, seen, lag)
                lines = self._lines(arrived, label_selector)
                if arrived:
                    seen = arrived[-1].version
                if loop.now >= bookmark:
                    bookmark = loop.now + BOOKMARK_SECONDS
                    seen = seen if due is not None else cluster.version
                    lines.append(encode({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(seen)}}}))
                if lines:
                    yield lines
                elif not arrived:
                    await sleeper.sleep_until(min(ends, bookmark, ends if due is None else due))
        finally:
            sleeper.close()
            if number in self.faults.stalled:
                self.blur(TIMEOUT_SECONDS)  # the others may have got further
            del self._watches[number], self._wakes[number]

    def _arrived(self, resource: Resource, seen: int, lag: float) -> tuple[list[Commit], float | None]:
        """Changes that have come through by now, and when the next one does."""
        news = self.cluster.since(resource, seen)
        if not lag:
            return news, None
        arrived = [commit for commit in news if commit.time + lag <= self.cluster.loop.now]
        return arrived, news[len(arrived)].time + lag if len(arrived) < len(news) else None

    def _lines(self, commits: Sequence[Commit], label_selector: str) -> list[bytes]:
        lines = []
        for commit in commits:
            if (line := _event(commit, label_selector)) is not None:
                lines.append(line)
                if self.faults.duplicates and self._rng.random() < self.faults.duplicates:
                    lines.append(line)
        return lines

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        def carry_out() -> bytes:
            try:
                return encode(self.cluster.create(resource, body, self.actor, dry_run=dry_run))
            except ApiError:
                self.refused(body)
                raise

        # A late one is not simulated: nothing could keep a pod of an attempt that is over from being made.
        namespace = body["metadata"].get("namespace")
        return await self._write("create", resource, namespace, carry_out, may_be_late=False)

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, field_manager: str, force: bool = True
    ) -> bytes:
        def carry_out() -> bytes:
            try:
                return encode(self.cluster.apply(resource, body, self.actor, field_manager=field_manager, force=force))
            except ApiError:
                self.refused(body)
                raise

        return await self._write("apply", resource, body["metadata"].get("namespace"), carry_out)

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        type: PatchType = "merge",
        resource_version: str | None = None,
    ) -> bytes:
        key = Key(namespace, name)
        return await self._write(
            "patch",
            resource,
            namespace,
            lambda: encode(self.cluster.patch(resource, key, body, self.actor, resource_version=resource_version)),
            may_conflict=resource_version is not None,
        )

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        *,
        resource_version: str | None = None,
    ) -> bytes:
        key = Key(namespace, name)
        return await self._write(
            "patch_status",
            resource,
            namespace,
            lambda: encode(
                self.cluster.patch_status(resource, key, status, self.actor, resource_version=resource_version)
            ),
            may_conflict=resource_version is not None,
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Propagation = "Background",
    ) -> bytes:
        if uid is None:
            self.careless(f"{resource.kind} {name} is deleted without its UID: it may be a newer one")

        def carry_out() -> bytes:
            body, gone = self.cluster.delete(
                resource, Key(namespace, name), self.actor, uid=uid, foreground=propagation == "Foreground"
            )
            # Pods come back as they were; most others as a Status once they are gone.
            return encode(body if not gone or resource == PODS else {"kind": "Status", "status": "Success"})

        return await self._write("delete", resource, namespace, carry_out, may_conflict=uid is not None)

    # --- One call ---

    async def _over(self, request: Coroutine[Any, Any, T]) -> T:
        """A request is on its way, and carried out, whether its process runs or is stopped; the answer waits for it."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self.cluster.loop.create_task(request)
        # asyncio itself would let one go that nobody waits for any more, as a killed process does not.
        self.cluster.requests.add(task)
        task.add_done_callback(self.cluster.requests.discard)
        task.add_done_callback(partial(_hand_over, answer))
        try:
            return await answer
        finally:
            task.cancel()

    async def _read(self, verb: str, resource: Resource, carry_out: Callable[[], T]) -> T:
        return await self._over(self._one_read(verb, resource, carry_out))

    async def _one_read(self, verb: str, resource: Resource, carry_out: Callable[[], T]) -> T:
        fault = self._fault()
        await self._travel()
        await self._break(verb, resource, None)
        self._refuse(fault)
        result = carry_out()
        if fault in ("answer lost", "500 done"):
            await asyncio.sleep(TIMEOUT_SECONDS)
            raise Unreachable("no answer")
        return result

    async def _write(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None,
        carry_out: Callable[[], bytes],
        *,
        may_conflict: bool = False,
        may_be_late: bool = True,
    ) -> bytes:
        if resource != LEASES:
            self.sending(resource.kind)
        broken = partial(self._break, verb, resource, namespace)
        return await self._over(self._one_write(resource, carry_out, broken, may_conflict, may_be_late))

    async def _one_write(
        self,
        resource: Resource,
        carry_out: Callable[[], bytes],
        broken: Callable[[], Awaitable[None]],
        may_conflict: bool,
        may_be_late: bool,
    ) -> bytes:
        fault = self._fault() if resource not in (LEASES, EVENTS) else "none"
        self.calls += 1
        await self._travel()
        await broken()
        if fault in ("429", "503"):
            self.after_refusal()
        self._refuse("request lost" if resource == LEASES and self.faults.lease_away else fault)
        if fault == "late" and may_be_late:
            self.blur(TIMEOUT_SECONDS + LATE_SECONDS)
            self.cluster.loop.call_later(self._rng.uniform(0.0, LATE_SECONDS), _arrive, carry_out)
            await asyncio.sleep(TIMEOUT_SECONDS)
            raise Unreachable("no answer")
        if fault == "409" and may_conflict:
            raise Conflict(409, "Conflict", "the object has been modified")
        before = self.cluster.version
        result = carry_out()
        if self.cluster.version != before and resource not in (LEASES, EVENTS):
            self.after_write()
        await self._travel()
        if fault == "500 done":
            raise ServerError(500, "InternalError", "the server failed after it had done it")
        if fault == "answer lost":
            await asyncio.sleep(TIMEOUT_SECONDS)
            raise Unreachable("no answer")
        return result

    async def _travel(self) -> None:
        if self.dead:
            await asyncio.Future()  # a killed process waits for nothing: its tasks are cancelled
        await asyncio.sleep(self._rng.uniform(*LATENCY))
        if self.dead:
            await asyncio.Future()

    async def _break(self, verb: str, resource: Resource, namespace: str | None) -> None:
        """Where this call does not work at the moment, raise what the server would answer."""
        if (broken := self.cluster.breakage(verb, resource, namespace)) is None:
            return
        match broken.how:
            case "500":
                raise ServerError(500, "InternalError", "failed calling webhook: context deadline exceeded")
            case "503":
                raise ServerError(503, "ServiceUnavailable", "etcd has no leader")
            case "denied":
                raise Forbidden(403, "Forbidden", broken.words())
            case _:
                await asyncio.sleep(TIMEOUT_SECONDS)
                raise Unreachable("no answer")

    def _fault(self) -> Fault:
        faults = self.faults
        return self._rng.choice(faults.kinds) if faults.calls and self._rng.random() < faults.calls else "none"

    @staticmethod
    def _refuse(fault: Fault) -> None:
        match fault:
            case "429":
                raise TooManyRequests(429, "TooManyRequests", "slow down", retry_after=1.0)
            case "503":
                raise ServerError(503, "ServiceUnavailable", "etcd has no leader")
            case "request lost":
                raise Unreachable("connection refused", sent=False)

    def blur(self, seconds: float) -> None:
        self.faults.blurred_until = max(self.faults.blurred_until, self.cluster.loop.now + seconds)

    def wake(self) -> None:
        for wake in tuple(self._wakes.values()):
            wake()


def _hand_over(answer: asyncio.Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled() or answer.done():
        return
    if (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


def _arrive(carry_out: Callable[[], bytes]) -> None:
    """Nobody waits for the answer any more."""
    try:
        carry_out()
    except ApiError:
        pass


class _Sleeper:
    """Waits for a change of a resource or for a moment, without a task."""

    def __init__(self, cluster: Cluster, resource: Resource) -> None:
        self._list = cluster.watchers[resource]
        self._list.append(self.wake)
        self._future: asyncio.Future[None] | None = None
        self._news = False

    def wake(self) -> None:
        self._news = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def sleep_until(self, moment: float) -> None:
        if not self._news:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = loop.call_at(moment, self.wake)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        self._news = False

    def close(self) -> None:
        self._list.remove(self.wake)


def _event(commit: Commit, selector: str) -> bytes | None:
    """A change as a watch with this selector tells it: what begins or ceases to be selected is added or deleted."""
    old = commit.old is not None and _selected(commit.old, selector)
    new = commit.new is not None and _selected(commit.new, selector)
    if not (old or new):
        return None
    if old and not new and commit.new is not None:
        assert commit.old is not None
        version = {"resourceVersion": str(commit.version)}
        last = {**commit.old, "metadata": {**commit.old["metadata"], **version}}
        return encode({"type": "DELETED", "object": last})
    if new and not old and commit.old is not None:
        return encode({"type": "ADDED", "object": commit.new})
    return commit.line


def _selected(body: Body, selector: str) -> bool:
    if not selector:
        return True
    labels = labels_of(body)
    return all(labels.get(name) == value for name, _, value in (part.partition("=") for part in selector.split(",")))

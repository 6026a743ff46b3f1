"""Leader election on a Lease: of several replicas at most one acts.

The rules are client-go's. A lease is taken if it has no holder or if *we* have seen it unchanged for its whole
duration, by our own monotonic clock; the times written in it are for people and never compared, so skewed clocks do no
harm. The leader renews every `retry` seconds, and sooner after a renewal that failed or got no answer within a third of
`renew_deadline`; when it has not managed to for all of that, which is shorter than the duration, it stops by itself
before anybody else may start. On a clean end it gives the lease up, so that the
successor need not wait. Those who wait look twice as often and try at the very moment the lease runs out: a fail-over
takes the duration and about a second. Every write is tied to the resource version that was read: of two who try, one
gets a conflict.

The Lease also says where its holder can be reached, in an annotation; replicas that do not lead read it there.

Another annotation says to which release the leader belongs, and stays when the lease is given up. Replicas of another
release take the lease only after it has been silent for `PATIENCE` times as long, however it was left: a release that
is upgraded, or moved to another node, is away for a moment and must not come back to pods that another one has made.
Releases also keep out of each other's way where their leases differ and what they watch overlaps (`claims`).
https://kubernetes.io/docs/concepts/architecture/leases/
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aifactory.api import names
from aifactory.kube import metrics
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from aifactory.kube.objects import AnnotatedMetadata, Struct, decoder
from aifactory.kube.resources import LEASES

logger = logging.getLogger(__name__)

TRIES: Final = 3
"""A renewal without an answer is given up when this many of them still fit into the deadline."""
RELEASES: Final = 3
"""Attempts to give the lease up; each but the first follows a renewal that was on its way."""
PATIENCE: Final = 4
"""Times the duration for which a lease must have been silent before another release than its own takes it."""
REMIND_SECONDS: Final = 600.0
"""That this replica waits for another release is said again so often."""
ADDRESS_ANNOTATION: Final = "aifactory.dev/address"
RELEASE_ANNOTATION: Final = "aifactory.dev/release"


class LeaseSpec(Struct, frozen=True, gc=False):
    holder_identity: str | None = ""
    lease_duration_seconds: int | None = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = 0


class LeaseObject(Struct, frozen=True, gc=False):
    metadata: AnnotatedMetadata
    spec: LeaseSpec = LeaseSpec()

    @property
    def release(self) -> str:
        """The release that leads, or was the last to; empty if that is not known."""
        return self.metadata.annotations.get(RELEASE_ANNOTATION, "")


_decode = decoder(LeaseObject)


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """Which lease, who we are, and how patient."""

    namespace: str
    name: str
    identity: str
    """Unique among the replicas."""
    address: str = ""
    """host:port at which this replica can be reached when it leads."""
    release: str = ""
    """To which release it belongs; empty if there is only one."""
    duration: float = 15.0
    """Seconds of silence after which a leader counts as dead: how long a fail-over takes."""
    renew_deadline: float = 10.0
    """Seconds without a successful renewal after which a leader gives up. Must be shorter than `duration`."""
    retry: float = 2.0
    """Seconds between renewals, and between attempts to take the lease. Must be shorter than `renew_deadline`."""

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry > 0:
            raise ValueError(
                f"lease: duration {self.duration} > renew_deadline {self.renew_deadline} > retry {self.retry} > 0 "
                "must hold, or two replicas could lead at once"
            )

    def is_anothers(self, lease: LeaseObject) -> bool:
        """Whether another release leads, or was the last to."""
        return lease.release not in ("", self.release)

    def silence(self, lease: LeaseObject) -> float:
        """Seconds for which a lease must have been silent before this replica may do as if nobody held it."""
        duration = float(lease.spec.lease_duration_seconds or self.duration)
        if self.is_anothers(lease):
            return PATIENCE * max(duration, self.duration)
        return duration if lease.spec.holder_identity not in ("", None, self.identity) else 0.0


class LeaderElection:
    """Takes part in an election.

    Use: `await election.acquire()`, then run `await election.hold()` beside the work, which returns when leadership is
    lost; `await election.release()` at the end.

    Args:
        api: the API server.
        config: which lease, and who we are.
        rival: looks for the lease of anybody else who leads over a part of the same. Raises KubeError.
        waits: told for whom this replica waits, in words, when that is another release.
        clock: the time.
        rng: source of jitter.
    """

    def __init__(
        self,
        api: Api,
        config: LeaseConfig,
        *,
        rival: Callable[[], Awaitable[LeaseObject | None]] | None = None,
        waits: Callable[[str], None] = lambda _: None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self._find_rival = rival
        self._tell = waits
        self._alone = True
        """No rival was there when one was last looked for."""
        self._obstacle = ""
        self._told, self._told_at = "", float("-inf")
        self._api = api
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._seen: LeaseObject | None = None
        self._seen_at = float("-inf")
        self._leading = False
        """The lease is ours."""
        self._entering = False
        """But whether a rival was there when we took it is not known yet."""
        self._renewed_at = float("-inf")
        self._free_version = ""
        """The lease's version when `look` found that nobody could be leading; empty if somebody could."""
        self._undisturbed = False
        self._taking_part: asyncio.Task[Any] | None = None
        """Whose calls may be on their way: `release` ends it first."""
        self._gauge = metrics.LEADER.labels(config.name)
        self._gauge.set(0)
        self._waiting = metrics.WAITS_FOR_RELEASE.labels(config.name)

    @property
    def leading(self) -> bool:
        """Whether this replica leads now. It turns False by itself when the lease could not be renewed in time."""
        return (
            self._leading
            and not self._entering
            and self._clock.monotonic() < self._renewed_at + self.config.renew_deadline
        )

    @property
    def undisturbed(self) -> bool:
        """Nobody has led between the `look` before and our taking the lease: a view that was read since is a leader's.

        Every leader changes the lease when it takes it, gives it up or renews it, so one that was free and still is in
        the same version when we take it (which the server checks) was nobody's in between.
        """
        return self._undisturbed

    @property
    def leader_address(self) -> str:
        """Address of the leader as last seen, ours included; "" when there is none or it is unknown."""
        if self._seen is None or not self._seen.spec.holder_identity:
            return ""
        return self._seen.metadata.annotations.get(ADDRESS_ANNOTATION, "")

    @property
    def waits_for(self) -> str:
        """Why this release does not act, in words: another one does. Empty if it does, or could."""
        if self._obstacle or self._seen is None or not self.config.is_anothers(self._seen):
            return self._obstacle
        return self._words(self._seen)

    async def look(self) -> None:
        """Note whether the lease is free. Call it before the first view is read; see `undisturbed`.

        A lease that its holder has let run out may be ours to take, but who held it may act a little longer: not free.
        """
        await self._look()
        found = self._seen
        if found is not None and found.spec.holder_identity in ("", None, self.config.identity):
            self._free_version = found.metadata.resource_version

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        self._taking_part, self._entering = asyncio.current_task(), True
        # Who only looked first could miss one who looks at the same moment; who only took first would be in the way of
        # a leader that is being replaced, each time it tries.
        while not ((self._alone or await self._look_around()) and await self._try("take") and await self._stays()):
            self._tell_waiting()
            await self._sleep(self._until_expiry())
        self._tell_waiting()
        self._entering = False
        self._gauge.set(1)
        logger.info("leading as %s (lease %s/%s)", self.config.identity, self.config.namespace, self.config.name)

    async def hold(self) -> None:
        """Renew until leadership is lost. Returns in time: no other replica leads yet when it does."""
        self._taking_part = asyncio.current_task()
        patience, pause = self.config.renew_deadline / TRIES, self.config.retry
        while self.leading:
            await self._sleep(pause)
            left = self._renewed_at + self.config.renew_deadline - self._clock.monotonic()
            if left <= 0:
                break
            renewed = False
            try:
                async with asyncio.timeout(min(left, patience)):
                    renewed = await self._try("renew")
            except TimeoutError:
                logger.warning("lease: a renewal was not answered within %.1f s", patience)
            if self._taken_by_other():
                break
            pause = self.config.retry if renewed else self.config.retry / 4
        self._step_down()
        logger.error("lease %s/%s is lost: this replica stops acting", self.config.namespace, self.config.name)

    async def release(self) -> None:
        """Give the lease up, if it is ours; a failure only means that the successor waits.

        What takes or renews it is ended first: the answer to a write that is under way would tell of a version of the
        lease that is given up no more.
        """
        was = self._leading
        self._step_down()
        acting = await self._end_taking_part()
        self._step_down()
        if not (was or acting):
            return
        if acting:
            await self._look()  # a write may have been carried out
        for _ in range(RELEASES):
            if self._seen is None or self._seen.spec.holder_identity != self.config.identity:
                return
            try:
                async with asyncio.timeout(self.config.retry):
                    await self._give_up(self._seen)
                return
            except Conflict:
                await self._look()
            except (KubeError, TimeoutError) as error:
                logger.warning("lease %s/%s could not be given up: %s", self.config.namespace, self.config.name, error)
                return

    # --- Inside ---

    async def _end_taking_part(self) -> bool:
        """End `acquire` or `hold`; whether one of them was going on."""
        task, self._taking_part = self._taking_part, None
        if task is None or task.done() or task is asyncio.current_task():
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    async def _look_around(self) -> bool:
        """Whether nobody else leads over a part of the same."""
        try:
            async with asyncio.timeout(self.config.renew_deadline):
                rival = await self._find_rival() if self._find_rival is not None else None
        except (KubeError, TimeoutError) as error:
            self._alone, self._obstacle = False, f"the leases of other releases can not be read: {error}"
            logger.warning("lease: %s", self._obstacle)
            return False
        self._alone = rival is None
        self._obstacle = self._words(rival) if rival is not None and self.config.is_anothers(rival) else ""
        return self._alone

    async def _stays(self) -> bool:
        """Whether the lease that was just taken can be kept; if not, it is as if it had never been taken."""
        if await self._look_around():
            return True
        self._step_down()
        try:
            async with asyncio.timeout(self.config.retry):
                if self._seen is not None:
                    await self._give_up(self._seen, withdrawn=True)
        except (KubeError, TimeoutError) as error:
            logger.warning("lease %s/%s could not be given up: %s", self.config.namespace, self.config.name, error)
        return False

    def _words(self, lease: LeaseObject) -> str:
        seconds = PATIENCE * self.config.duration
        return (
            f"release {lease.release} acts on {names.led_by(lease.metadata.name)} (lease {self.config.namespace}/"
            f"{lease.metadata.name}), so this one, {self.config.release}, does not act on "
            f"{names.led_by(self.config.name)}: uninstall one of them, or give each watchNamespaces of its own; "
            f"it takes over when the other has been gone for {seconds:.0f} s"
        )

    def _tell_waiting(self) -> None:
        """Say for whom this replica waits, when that changes and now and then."""
        message, now = self.waits_for, self._clock.monotonic()
        self._waiting.set(1 if message else 0)
        if message and (message != self._told or now - self._told_at >= REMIND_SECONDS):
            self._told_at = now
            self._tell(message)
        self._told = message

    async def _give_up(self, seen: LeaseObject, *, withdrawn: bool = False) -> None:
        # A holder of "" and a short duration are what client-go writes; the address goes with the holder.
        body = self._body(holder="", transitions=seen.spec.lease_transitions or 0, address=None)
        if withdrawn:
            body["metadata"]["annotations"][RELEASE_ANNOTATION] = None
        body["spec"]["leaseDurationSeconds"] = 1
        version = seen.metadata.resource_version
        await self._api.patch(LEASES, self.config.namespace, self.config.name, body, resource_version=version)
        logger.info("lease %s/%s given up", self.config.namespace, self.config.name)

    async def _try(self, purpose: str) -> bool:
        """One attempt to take or renew; whether this replica leads after it."""
        started = self._clock.monotonic()
        try:
            if self._leading and self._seen is not None:
                return await self._write(self._seen, started)
            async with asyncio.timeout(self.config.renew_deadline):
                try:
                    found = _decode(await self._api.get(LEASES, self.config.namespace, self.config.name))
                except NotFound:
                    return await self._create(started)
                self._observe(found)
                if not self._may_take(found):
                    return False
                version = found.metadata.resource_version
                taken = await self._write(found, started)
                self._undisturbed = bool(version) and version == self._free_version
                return taken
        except (Conflict, AlreadyExists):
            # Somebody else wrote: look again before the next attempt, else we would retry on an old version for ever.
            await self._look()
        except TimeoutError:
            logger.warning("lease: no answer within %.0f s while trying to %s it", self.config.renew_deadline, purpose)
        except KubeError as error:
            logger.warning("lease: could not %s it: %s", purpose, error)
        return False

    def _may_take(self, found: LeaseObject) -> bool:
        """Whether the lease is free, ours from before a restart, or silent for long enough by our own clock."""
        return self._clock.monotonic() >= self._seen_at + self.config.silence(found)

    def _taken_by_other(self) -> bool:
        return self._seen is not None and self._seen.spec.holder_identity not in ("", None, self.config.identity)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self.config.retry):
                self._observe(_decode(await self._api.get(LEASES, self.config.namespace, self.config.name)))
        except NotFound:
            pass  # nobody has led yet
        except (KubeError, TimeoutError) as error:
            logger.warning("lease: could not be read: %s", error)

    def _observe(self, found: LeaseObject) -> None:
        """Note when, by our clock, the lease last changed."""
        if self._seen is None or self._seen.metadata.resource_version != found.metadata.resource_version:
            self._seen_at = self._clock.monotonic()
        self._seen = found

    async def _create(self, started: float) -> bool:
        body = self._body(holder=self.config.identity, transitions=0, address=self.config.address)
        body["apiVersion"], body["kind"] = LEASES.api_version, LEASES.kind
        self._won(_decode(await self._api.create(LEASES, body)), started)
        return True

    async def _write(self, found: LeaseObject, started: float) -> bool:
        held = found.spec.holder_identity == self.config.identity
        transitions = (found.spec.lease_transitions or 0) + (0 if held else 1)
        body = self._body(holder=self.config.identity, transitions=transitions, address=self.config.address)
        if held and found.spec.acquire_time:
            body["spec"]["acquireTime"] = found.spec.acquire_time
        answer = await self._api.patch(
            LEASES,
            self.config.namespace,
            self.config.name,
            body,
            resource_version=found.metadata.resource_version,
        )
        self._won(_decode(answer), started)
        return True

    def _won(self, lease: LeaseObject, started: float) -> None:
        self._observe(lease)
        # The lease runs from before the request: others can not have seen the write any earlier.
        self._renewed_at = started
        self._leading = True

    def _step_down(self) -> None:
        self._leading = False
        self._gauge.set(0)

    def _body(self, *, holder: str, transitions: int, address: str | None) -> dict[str, Any]:
        now = _micro_time(self._clock.now())
        release = {RELEASE_ANNOTATION: self.config.release} if self.config.release else {}
        return {
            "metadata": {
                "name": self.config.name,
                "namespace": self.config.namespace,
                "annotations": {ADDRESS_ANNOTATION: address, **release},
            },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(self.config.duration)),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    def _until_expiry(self) -> float:
        """Seconds until it is worth another try: half a renewal, or less if the lease runs out before."""
        half = self.config.retry / 2
        silence = self.config.silence(self._seen) if self._seen is not None else 0.0
        return min(half, max(0.05, self._seen_at + silence - self._clock.monotonic())) if silence else half

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * (1.0 + 0.2 * self._rng.random()))


def _micro_time(moment: datetime) -> str:
    """A `metav1.MicroTime`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

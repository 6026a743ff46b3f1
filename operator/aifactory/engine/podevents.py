"""What became of a pod where its status keeps silent and the kubelet tells it in Events only.

Why one does not start: a volume that can not be mounted, a Secret that is missing. And that one was evicted for the
disk it used: if its program ends with 0 when it is told to end, a kubelet calls the pod Succeeded. Events are asked for
by pod, and only of pods that have had a node for a while and have not begun, a few in a round, or about which a planner
has to know before it concludes anything: none while all is well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from aifactory.engine.pods import EVENT_PROBLEMS
from aifactory.kube import podstate
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.errors import Forbidden, KubeError, NotFound
from aifactory.kube.objects import ObjectList, Pod, Struct, decoder
from aifactory.kube.podstate import NO_TROUBLE, Trouble
from aifactory.kube.resources import CORE_EVENTS

logger = logging.getLogger(__name__)

ROUND_SECONDS: Final = 5.0
EVICTION_SECONDS: Final = 2.0
"""How late an Event may be: the kubelet sends it before it ends the pod, and does not wait for it to arrive."""
PATIENCE_SECONDS: Final = 10.0
"""A pod that starts takes this long without anything being wrong."""
AGAIN_SECONDS: Final = 30.0
PER_ROUND: Final = 8
_EVICTED: Final = frozenset({"Evicted"})
_PULLS: Final = frozenset({"Pulling", "Pulled"})
"""Events after which what was in the way of mounting and setting up is past; an image may take long."""


class CoreEvent(Struct, frozen=True, gc=False):
    """An Event as its reader sees it."""

    reason: str = ""
    message: str = ""
    last_timestamp: str | None = ""
    event_time: str | None = ""

    @property
    def time(self) -> str:
        """When it happened last."""
        return self.last_timestamp or self.event_time or ""


_decode = decoder(ObjectList[CoreEvent])


@dataclass(slots=True)
class _Watched:
    """A pod that starts."""

    since: float
    asked: float = float("-inf")


class PodEvents:
    """What the kubelet's Events say about pods that do not start.

    Args:
        api: the API server.
        pods: every pod of ours.
        wake: told of a pod about which something new is known.
        clock: the time.
    """

    def __init__(
        self, api: Api, *, pods: Callable[[], Iterable[Pod]], wake: Callable[[Pod], None], clock: Clock
    ) -> None:
        self._api = api
        self._pods = pods
        self._wake = wake
        self._clock = clock
        self._starting: dict[str, _Watched] = {}
        self._known: dict[str, Trouble] = {}
        self._ended: dict[str, tuple[Pod, float]] = {}
        self._ends: dict[str, Trouble] = {}

    def of(self, pod: Pod) -> Trouble:
        """What is in the way of a pod; it counts only while the pod has not begun."""
        return self._known.get(pod.metadata.uid, NO_TROUBLE) if podstate.is_starting(pod) else NO_TROUBLE

    def eviction(self, pod: Pod) -> Trouble | None:
        """Whether a pod that has ended was evicted, and the kubelet's words; None until it is known, then its owner is
        woken.
        """
        uid = pod.metadata.uid
        if uid not in self._ends:
            self._ended.setdefault(uid, (pod, self._clock.monotonic()))
        return self._ends.get(uid)

    async def run(self) -> None:
        """Look for ever; ends when cancelled."""
        while True:
            for looks in ((self.ends,), (self.ends, self.round)):
                await asyncio.sleep(ROUND_SECONDS / 2)
                try:
                    for look in looks:
                        await look()
                except KubeError as error:
                    logger.warning("Events of pods could not be read: %s", error)

    async def ends(self) -> None:
        """Ask about pods that have ended, as far as a planner waits for it. Raises KubeError, and asks again then."""
        now = self._clock.monotonic()
        for uid, (pod, since) in list(self._ended.items()):
            if now - since < EVICTION_SECONDS:
                continue
            try:
                self._ends[uid] = await self._ask(pod, _EVICTED)
            except (Forbidden, NotFound):  # who may read no Events is no worse off than without them
                self._ends[uid] = NO_TROUBLE
            del self._ended[uid]
            self._wake(pod)

    async def round(self) -> None:
        """Ask about those that have been starting for longest without having been asked about. Raises KubeError."""
        now = self._clock.monotonic()
        pods = {pod.metadata.uid: pod for pod in self._pods()}
        starting = {uid: pod for uid, pod in pods.items() if podstate.is_starting(pod)}
        self._ends = {uid: trouble for uid, trouble in self._ends.items() if uid in pods}
        self._starting = {uid: self._starting.get(uid) or _Watched(now) for uid in starting}
        self._known = {uid: trouble for uid, trouble in self._known.items() if uid in starting}
        due = [
            uid
            for uid, watched in self._starting.items()
            if now - watched.since >= PATIENCE_SECONDS and now - watched.asked >= AGAIN_SECONDS
        ]
        for uid in sorted(due, key=lambda uid: self._starting[uid].asked)[:PER_ROUND]:
            self._starting[uid].asked = now
            trouble = await self._ask(starting[uid], EVENT_PROBLEMS)
            if trouble != self._known.get(uid, NO_TROUBLE):
                self._known[uid] = trouble
                self._wake(starting[uid])

    async def _ask(self, pod: Pod, reasons: Collection[str]) -> Trouble:
        selector = f"involvedObject.uid={pod.metadata.uid}"
        raw = await self._api.list(CORE_EVENTS, namespace=pod.metadata.namespace, field_selector=selector, limit=100)
        events = _decode(raw).items or ()
        past = max((event.time for event in events if event.reason in _PULLS), default="")
        found = (event for event in events if event.reason in reasons and event.time >= past)
        newest = max(found, key=lambda event: event.time, default=None)
        return NO_TROUBLE if newest is None else Trouble(newest.reason, newest.message)

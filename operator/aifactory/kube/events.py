"""Kubernetes Events for people who read `kubectl describe`: sent in the background, never at a reconcile's cost.

Events are a courtesy. They wait in a bounded queue; when it is full, or the API server refuses one, they are counted
and dropped. The same words about the same object are sent once in ten minutes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

from aifactory.kube import metrics
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import KubeError
from aifactory.kube.resources import EVENTS, Key, Resource

logger = logging.getLogger(__name__)

QUEUE_SIZE: Final = 1000
SAME_SECONDS: Final = 600.0
REMEMBERED: Final = 10_000
NOTE_LIMIT: Final = 1024
"""Bytes; the API server refuses longer notes."""


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object an Event is about."""

    resource: Resource
    key: Key
    uid: str


class EventRecorder:
    """Sends Events.

    Args:
        api: the API server.
        controller: `reportingController`, for example `aifactory.dev/operator`.
        instance: `reportingInstance`: this process.
    """

    def __init__(self, api: Api, *, controller: str, instance: str, clock: Clock | None = None) -> None:
        self._api = api
        self._controller = controller
        self._instance = instance
        self._clock = clock or SystemClock()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUE_SIZE)
        self._sent: OrderedDict[tuple[str, str, str, str], float] = OrderedDict()
        self._number = 0

    def record(self, regarding: Regarding, *, type_: str, reason: str, message: str, action: str) -> None:
        """Have an Event sent, unless the same one was lately. Returns at once and never fails."""
        identity = (regarding.uid, type_, reason, message)
        now = self._clock.monotonic()
        last = self._sent.get(identity)
        if last is not None and now - last < SAME_SECONDS:
            metrics.EVENTS_SENT.labels("duplicate").inc()
            return
        try:
            self._queue.put_nowait(self._body(regarding, type_, reason, message, action))
        except asyncio.QueueFull:
            metrics.EVENTS_SENT.labels("dropped").inc()
            return
        self._sent[identity] = now
        self._sent.move_to_end(identity)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    async def run(self) -> None:
        """Send what was recorded until cancelled."""
        while True:
            body = await self._queue.get()
            try:
                await self._api.create(EVENTS, body)
                metrics.EVENTS_SENT.labels("sent").inc()
            except KubeError as error:
                metrics.EVENTS_SENT.labels("failed").inc()
                logger.debug("an Event was not taken: %s", error)
            except Exception:
                metrics.EVENTS_SENT.labels("failed").inc()
                logger.exception("an Event could not be sent")
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Wait until everything recorded was sent or given up; `run` must be running."""
        await self._queue.join()

    def _body(self, regarding: Regarding, type_: str, reason: str, message: str, action: str) -> dict[str, Any]:
        now = self._clock.now().astimezone(UTC)
        self._number += 1
        # Names must differ between processes and restarts; the time in microseconds and a counter see to it.
        suffix = f"{int(now.timestamp() * 1e6):x}{self._number % 4096:03x}"
        namespace = regarding.key.namespace or "default"
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{regarding.key.name[:200]}.{suffix}", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "action": action,
            "type": type_,
            "reason": reason,
            "regarding": {
                "apiVersion": regarding.resource.api_version,
                "kind": regarding.resource.kind,
                "namespace": regarding.key.namespace,
                "name": regarding.key.name,
                "uid": regarding.uid,
            },
            "note": _cut(message),
        }


def _cut(message: str) -> str:
    raw = message.encode()
    return message if len(raw) <= NOTE_LIMIT else raw[: NOTE_LIMIT - 3].decode(errors="ignore") + "…"

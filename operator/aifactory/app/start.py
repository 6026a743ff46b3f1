"""What surrounds the process's life: the wait for an API server before it, and what is left to end after it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from aifactory.engine.cluster import declared_children
from aifactory.engine.domain import Domain
from aifactory.kube.backoff import READ
from aifactory.kube.client import Client
from aifactory.kube.errors import KubeError, NotFound
from aifactory.kube.resources import Resource

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_SECONDS = 50.0
"""An API server that is away gets this long to come back; the chart's startup probe allows a little more."""


async def first_answer(api: Client, domains: Sequence[Domain[Any, Any]], namespace: str | None) -> set[Resource]:
    """Wait until our kinds are served; returns the optional resources that are.

    A start may fall into the very outage that ended the last run, and CRDs may come after the operator. kopf must not
    start before them: a kind that is not there then is never watched.

    Raises:
        KubeError: there is no answer, or one that waiting does not improve.
    """
    ours = {domain.resource for domain in domains}
    # Who watches one namespace has a Role, and with that what lies in no namespace can not be read.
    optional = {
        child.resource
        for child in declared_children(domains)
        if child.optional and (namespace is None or child.resource.namespaced)
    }
    loop = asyncio.get_running_loop()
    deadline, failures = loop.time() + START_SECONDS, 0
    while True:
        try:
            found = await api.served(ours | optional)
            if ours <= found:
                for resource in optional - found:
                    logger.info("%s: not served, done without", resource)
                return found - ours
            message = f"this cluster does not serve {', '.join(sorted(map(str, ours - found)))}: apply the CRDs"
            failure: KubeError = NotFound(404, "NotFound", message)
        except KubeError as error:
            failure, message = error, f"the API server does not answer as it should: {error}"
        if loop.time() > deadline or not (failure.retryable or isinstance(failure, NotFound)):
            raise failure
        logger.warning("%s; looking again", message)
        failures += 1
        await asyncio.sleep(READ.delay(failures))


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None when `stop` is set first: then the work is cancelled."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


def freeze_garbage() -> None:
    """What is here now stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


async def end_tasks() -> None:
    """End what kopf has left behind: its watchers may swallow one cancellation, and then run for ever."""
    for _ in range(20):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)
    logger.warning("left running: %s", ", ".join(sorted(task.get_name() for task in left)))

"""A second look at which objects still exist, for stores whose watch may miss deletions.

kopf lists again after a 410 but does not compare with what it knew, so objects deleted in between stay known for ever.
An audit lists names and UIDs only, now and then, and drops the rest. It bounds the error; it is not a watch.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final

import msgspec

from aifactory.kube.api import Api
from aifactory.kube.errors import KubeError
from aifactory.kube.objects import ObjectList, PartialObject
from aifactory.kube.resources import Resource
from aifactory.kube.store import Store

logger = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 600.0
PAGE_SIZE: Final = 500

_decode = msgspec.json.Decoder(ObjectList[PartialObject]).decode


async def audit_once(api: Api, resource: Resource, store: Store[Any], *, namespace: str | None = None) -> int:
    """Drop from `store` what does not exist any more; returns how many objects that were. Raises KubeError."""
    uids: set[str] = set()
    version = continue_ = ""
    while True:
        page = _decode(
            await api.list(resource, namespace=namespace, limit=PAGE_SIZE, continue_=continue_, metadata_only=True)
        )
        uids.update(item.metadata.uid for item in page.items or ())
        version = version or page.metadata.resource_version
        continue_ = page.metadata.continue_
        if not continue_:
            return store.retain(uids, version)


async def audit(
    api: Api,
    resource: Resource,
    store: Store[Any],
    *,
    namespace: str | None = None,
    interval: float = INTERVAL_SECONDS,
    rng: random.Random | None = None,
) -> None:
    """Audit for ever; ends when cancelled."""
    rng = rng or random.Random()
    while True:
        await asyncio.sleep(interval * (0.9 + 0.2 * rng.random()))
        try:
            missed = await audit_once(api, resource, store, namespace=namespace)
        except (KubeError, msgspec.MsgspecError) as error:
            logger.warning("audit of %s: %s; it is done again later", resource, error)
            continue
        if missed:
            logger.warning("audit of %s: %d objects were deleted without an event", resource, missed)

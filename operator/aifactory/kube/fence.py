"""An API server that only a leader may write to.

Losing a lease is noticed by a timer, and a process that was stopped for a while (a paused machine, a debugger) may get
to its writes before it gets to its timers. So whether this replica still leads is asked again at the moment of each
write, and of each further try of it: the fence stands behind `retry.Retrying`. It is the holder's own clock that
answers, and it gives up before anybody else may start. What was sent before that moment can not be called back;
resource versions, UIDs and fixed names keep it harmless.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from aifactory.kube.api import Api, PatchType, Propagation
from aifactory.kube.errors import NotLeading
from aifactory.kube.resources import Resource


class Fenced:
    """An `Api` that refuses to write while `allowed` says no. Reading is always allowed."""

    def __init__(self, api: Api, allowed: Callable[[], bool]) -> None:
        self._api = api
        self._allowed = allowed

    def _check(self, verb: str, resource: Resource) -> None:
        if not self._allowed():
            raise NotLeading(f"{verb} {resource}: this replica does not lead")

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        return await self._api.get(resource, namespace, name)

    async def list(self, resource: Resource, **options: Any) -> bytes:
        return await self._api.list(resource, **options)

    def watch(self, resource: Resource, *, resource_version: str, **options: Any) -> AsyncIterator[Sequence[bytes]]:
        return self._api.watch(resource, resource_version=resource_version, **options)

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        self._check("create", resource)
        return await self._api.create(resource, body, dry_run=dry_run)

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, field_manager: str, force: bool = True
    ) -> bytes:
        self._check("apply", resource)
        return await self._api.apply(resource, body, field_manager=field_manager, force=force)

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
        self._check("patch", resource)
        return await self._api.patch(resource, namespace, name, body, type=type, resource_version=resource_version)

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        *,
        resource_version: str | None = None,
    ) -> bytes:
        self._check("patch the status of", resource)
        return await self._api.patch_status(resource, namespace, name, status, resource_version=resource_version)

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
        self._check("delete", resource)
        return await self._api.delete(
            resource, namespace, name, uid=uid, grace_seconds=grace_seconds, propagation=propagation
        )

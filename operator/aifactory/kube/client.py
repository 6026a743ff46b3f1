"""The API server's verbs over HTTP: `api.Api` on one shared aiohttp session.

What always holds: every failure is a `KubeError`; a call is sent once and ends after a bounded time. What it does not
do: send again (`retry.Retrying` does), decode objects, cache, limit the rate (the API server's priority and fairness
does that, and its 429 is obeyed).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from prometheus_client import Counter, Histogram
from yarl import URL

from aifactory.kube import metrics
from aifactory.kube.api import PatchType, Propagation
from aifactory.kube.auth import AuthError, SessionProvider
from aifactory.kube.errors import KubeError, NotFound, Unreachable, error_from_response
from aifactory.kube.objects import ResourceList, decoder
from aifactory.kube.resources import Resource

JSON: Final = {"Content-Type": "application/json"}
PATCH_HEADERS: Final = {
    "merge": {"Content-Type": "application/merge-patch+json"},
    "json": {"Content-Type": "application/json-patch+json"},
    "apply": {"Content-Type": "application/apply-patch+yaml"},  # JSON is YAML; the server parses it as such
}
STRICT: Final = "fieldValidation=Strict"
DRY_RUN: Final = f"{STRICT}&dryRun=All"
METADATA_ONLY: Final = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

WATCH_GRACE_SECONDS: Final = 30
"""The server ends a watch after up to its `timeoutSeconds`; a client that waits longer by this finds a dead server."""

_decode_group = decoder(ResourceList)
_NO_ANSWER: Final = (aiohttp.ClientError, TimeoutError, OSError, AuthError)


@cache
def _requests(verb: str, code: str) -> Counter:
    """Finding a labelled metric takes longer than counting with it."""
    return metrics.REQUESTS.labels(verb, code)


@cache
def _seconds(verb: str) -> Histogram:
    return metrics.REQUEST_SECONDS.labels(verb)


class Client:
    """An API server over HTTP.

    Args:
        provider: gives the session; closed by its owner, not here.
        timeout: seconds a call may take, watches aside.
    """

    def __init__(self, provider: SessionProvider, *, timeout: float = 30.0) -> None:
        self._session = provider.session()
        self._server = provider.connection.server
        self._server_name = provider.connection.server_name
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=10.0)

    async def close(self) -> None:
        """Close the session; calls in flight fail."""
        await self._session.close()

    async def served(self, resources: Collection[Resource]) -> set[Resource]:
        """Those of the resources that the server serves, whoever may read them; one request for each group.

        https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
        """
        found: set[Resource] = set()
        for root in sorted({resource.root for resource in resources}):
            try:
                group = _decode_group(await self._call("GET", root))
            except NotFound:
                continue
            plurals = {entry.name for entry in group.resources}
            found |= {resource for resource in resources if resource.root == root and resource.plural in plurals}
        return found

    # --- Verbs, documented in `api.Api` ---

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        return await self._call("GET", resource.path(namespace, name))

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
        query = _query(
            labelSelector=label_selector, fieldSelector=field_selector, limit=limit or "", **{"continue": continue_}
        )
        headers = METADATA_ONLY if metadata_only else None
        return await self._call("GET", resource.collection(namespace), query, headers=headers, verb="LIST")

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
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            timeoutSeconds=timeout_seconds,
        )
        url = self._url(resource.collection(namespace), query)
        timeout = aiohttp.ClientTimeout(total=timeout_seconds + WATCH_GRACE_SECONDS, connect=10.0, sock_connect=10.0)
        try:
            async with self._session.get(url, timeout=timeout, server_hostname=self._server_name) as response:
                _requests("WATCH", str(response.status)).inc()
                if response.status != 200:
                    raise await _failure(response)
                async with aclosing(_lines(response.content)) as batches:
                    async for batch in batches:
                        yield batch
        except _NO_ANSWER as error:
            raise Unreachable(f"watch {resource}: {_words(error)}") from error

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        namespace = body["metadata"].get("namespace")
        # Strict: a typo in a user's pod template is refused with the field's name, not dropped in silence.
        query = DRY_RUN if dry_run else STRICT
        return await self._call("POST", resource.collection(namespace), query, body=body, headers=JSON)

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, field_manager: str, force: bool = True
    ) -> bytes:
        metadata = body["metadata"]
        query = _query(fieldManager=field_manager, force="true" if force else "")
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        return await self._call("PATCH", path, query, body=body, headers=PATCH_HEADERS["apply"], verb="APPLY")

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
        if resource_version is not None:
            body = _conditional(body, resource_version)
        return await self._call("PATCH", resource.path(namespace, name), body=body, headers=PATCH_HEADERS[type])

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        *,
        resource_version: str | None = None,
    ) -> bytes:
        body: dict[str, Any] = {"status": status}
        if resource_version is not None:
            body["metadata"] = {"resourceVersion": resource_version}
        path = resource.path(namespace, name, "status")
        return await self._call("PATCH", path, body=body, headers=PATCH_HEADERS["merge"])

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
        body: dict[str, Any] = {"propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        return await self._call("DELETE", resource.path(namespace, name), body=body, headers=JSON)

    # --- One call ---

    async def _call(
        self,
        method: str,
        path: str,
        query: str = "",
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        verb: str = "",
    ) -> bytes:
        verb = verb or method
        data = None if body is None else msgspec.json.encode(body)
        url = self._url(path, query)
        loop = asyncio.get_running_loop()
        started = loop.time()
        code = "<error>"
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, timeout=self._timeout, server_hostname=self._server_name
            ) as response:
                answer = await response.read()
                code = str(response.status)
                if response.status >= 300:
                    raise error_from_response(response.status, answer, response.headers.get("Retry-After"))
                return answer
        except _NO_ANSWER as error:
            sent = not isinstance(error, (aiohttp.ClientConnectorError, AuthError))
            raise Unreachable(f"{method} {url.path}: {_words(error)}", sent=sent) from error
        finally:
            _requests(verb, code).inc()
            _seconds(verb).observe(loop.time() - started)

    def _url(self, path: str, query: str) -> URL:
        # Encoded here and marked so: aiohttp's own quoting would cost as much as the rest of a request.
        return URL(f"{self._server}{path}?{query}" if query else f"{self._server}{path}", encoded=True)


def _conditional(body: Any, resource_version: str) -> Any:
    if isinstance(body, Mapping):
        metadata = {**body.get("metadata", {}), "resourceVersion": resource_version}
        return {**body, "metadata": metadata}
    # Replacing the resource version makes the server compare it and answer 409, where a `test` would give 422.
    return [{"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version}, *body]


def _query(**parameters: str | int) -> str:
    return "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items() if value != "")


async def _failure(response: aiohttp.ClientResponse) -> KubeError:
    return error_from_response(response.status, await response.read(), response.headers.get("Retry-After"))


async def _lines(stream: aiohttp.StreamReader) -> AsyncGenerator[list[bytes], None]:
    """Complete lines, as many at a time as have arrived."""
    rest = b""
    while chunk := await stream.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [line for line in lines if line]


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__

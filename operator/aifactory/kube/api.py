"""The verbs of an API server, as the rest of the operator sees them.

`client.Client` speaks them over HTTP; the simulator in `tests/sim` implements them over a dictionary. Answers are JSON
as the server sent it: whoever asked knows best which struct to decode it into (`objects.decoder`).

Every method raises `errors.KubeError`: a subclass of `ApiError` for an answer, `Unreachable` for none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from aifactory.kube.resources import Resource

PatchType = Literal["merge", "json"]
Propagation = Literal["Background", "Foreground", "Orphan"]


class Api(Protocol):
    """An API server."""

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        """One object. Raises NotFound."""

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
        """One page of objects, read consistently (not from a cache that lags); all of them when `limit` is 0.

        Raises Gone when `continue_` has expired.
        """

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
    ) -> AsyncIterator[Sequence[bytes]]:
        """Changes after a resource version, bookmarks included: JSON watch events, those that came together together.

        Ends when the server closes the stream, at the latest after about `timeout_seconds`. Raises Gone when the
        version is too old; the same may come as an event of type ERROR.
        """

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        """Create the object in the namespace its metadata names. Raises AlreadyExists, Invalid, Forbidden.

        With `dry_run` all is checked as for a creation, admission too, and nothing is kept.
        """

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, field_manager: str, force: bool = True
    ) -> bytes:
        """Server-side apply: the fields in `body` are ours from now on; those we left out but had are removed."""

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
        """A merge patch (RFC 7396) or a JSON patch (RFC 6902).

        With `resource_version` it is only done if the object has not changed since; else it raises Conflict.
        """

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        *,
        resource_version: str | None = None,
    ) -> bytes:
        """Merge `status` into the object's status; None removes a field. The whole object comes back.

        With `resource_version` it is only done if the object has not changed since; else it raises Conflict. That
        covers an object that was created anew under the same name: versions are never used twice.
        """

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
        """Delete one object. Answers with the object (still there, terminating) or with a `Status`.

        With `uid` only that incarnation is deleted; if the name belongs to another one it raises Conflict.
        """

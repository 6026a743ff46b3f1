"""Which optional APIs there are is a fact that is asked for once, at the start."""

from __future__ import annotations

from typing import Any, cast

import pytest

from aifactory.app import wiring
from aifactory.kube.api import Api
from aifactory.kube.errors import Forbidden, KubeError, NotFound, ServerError
from aifactory.kube.resources import NODES, PODGROUPS, Resource
from aifactory.training.domain import Training


class Answers:
    """An API server that has trouble with one resource."""

    def __init__(self, resource: Resource, error: KubeError) -> None:
        self._resource, self._error = resource, error

    async def list(self, resource: Resource, **_: Any) -> bytes:
        if resource == self._resource:
            raise self._error
        return b"{}"


async def served(resource: Resource, error: KubeError) -> set[Resource]:
    return await wiring.served(cast("Api", Answers(resource, error)), [Training()], "team")


async def test_what_is_not_served_or_not_ours_to_read_is_done_without() -> None:
    """A Role, as `watchNamespace` gives, holds no right to nodes, which lie in no namespace."""
    assert await served(PODGROUPS, NotFound(404)) == {NODES}
    assert await served(NODES, Forbidden(403)) == {PODGROUPS}


async def test_trouble_is_not_taken_for_absence() -> None:
    with pytest.raises(ServerError):
        await served(NODES, ServerError(500))

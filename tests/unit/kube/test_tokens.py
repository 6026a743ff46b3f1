"""Which pod a token is bound to, by the API server's word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from aifactory.kube.errors import Forbidden, KubeError, Unreachable
from aifactory.kube.resources import TOKENREVIEWS, Resource
from aifactory.kube.tokens import Reporter, TokenReviewer

EXTRA = {
    "authentication.kubernetes.io/pod-name": ["job-a-0-0"],
    "authentication.kubernetes.io/pod-uid": ["pod-uid"],
    "authentication.kubernetes.io/node-name": ["n1"],
}
STATUS = {
    "authenticated": True,
    "audiences": ["aifactory"],
    "user": {"username": "system:serviceaccount:team:trainer", "extra": EXTRA},
}


class Server:
    """Gives one answer and notes what it was asked."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.asked: list[tuple[Resource, Mapping[str, Any]]] = []

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        self.asked.append((resource, body))
        if isinstance(self._answer, Exception):
            raise self._answer
        return msgspec.json.encode(self._answer)


async def review(answer: Any) -> Reporter | None:
    return await TokenReviewer(Server(answer), "aifactory")("token")  # type: ignore[arg-type]


def user(**changes: Any) -> dict[str, Any]:
    return {"status": {**STATUS, "user": {**STATUS["user"], **changes}}}  # type: ignore[dict-item]


async def test_the_server_is_asked_about_this_token_for_our_audience() -> None:
    server = Server({"status": STATUS})
    found = await TokenReviewer(server, "aifactory")("secret")  # type: ignore[arg-type]
    assert found == Reporter(namespace="team", pod="job-a-0-0", uid="pod-uid")
    ((resource, body),) = server.asked
    assert resource == TOKENREVIEWS
    assert body == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": "secret", "audiences": ["aifactory"]},
    }


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": {}},
        {"status": {**STATUS, "authenticated": False}},
        {"status": {key: value for key, value in STATUS.items() if key != "authenticated"}},
        {"status": {**STATUS, "audiences": ["another"]}},
        {"status": {**STATUS, "audiences": []}},
        {"status": {key: value for key, value in STATUS.items() if key != "audiences"}},
        {"status": {key: value for key, value in STATUS.items() if key != "user"}},
        user(username="jane"),
        user(username=""),
        user(extra={}),
        user(extra={key: value for key, value in EXTRA.items() if "uid" not in key}),
        user(extra={key: value for key, value in EXTRA.items() if "pod-name" not in key}),
        user(extra={**EXTRA, "authentication.kubernetes.io/pod-uid": []}),
        user(extra={**EXTRA, "authentication.kubernetes.io/pod-name": []}),
    ],
)
async def test_whoever_is_not_a_pod_of_the_cluster_is_nobody(answer: Any) -> None:
    assert await review(answer) is None


async def test_the_first_value_counts_and_so_does_the_namespace_of_the_account() -> None:
    found = await review(user(extra={key: [*value, "more"] for key, value in EXTRA.items()}))
    assert found == Reporter(namespace="team", pod="job-a-0-0", uid="pod-uid")
    assert await review(user(username="system:serviceaccount:other:team:x")) == Reporter(
        "other", "job-a-0-0", "pod-uid"
    )


@pytest.mark.parametrize("error", [Unreachable("away"), Forbidden(403, "Forbidden", "no")])
async def test_without_an_answer_nobody_is_let_in(error: KubeError) -> None:
    with pytest.raises(type(error)):
        await review(error)

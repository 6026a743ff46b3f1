"""Asking the API server which pod a token is bound to (TokenReview)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from aifactory.kube.api import Api
from aifactory.kube.objects import Struct
from aifactory.kube.resources import TOKENREVIEWS

_ACCOUNT_PREFIX = "system:serviceaccount:"
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class Reporter:
    """The pod behind a token."""

    namespace: str
    pod: str
    uid: str


class _User(Struct, frozen=True, gc=False):
    username: str = ""
    extra: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)


class _Status(Struct, frozen=True, gc=False):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] = ()


class _Review(Struct, frozen=True, gc=False):
    status: _Status = _Status()


_decode = msgspec.json.Decoder(_Review).decode


class TokenReviewer:
    """Asks about tokens for one audience; those that are not bound to a pod are refused."""

    def __init__(self, api: Api, audience: str) -> None:
        self._api = api
        self._audience = audience

    async def __call__(self, token: str) -> Reporter | None:
        """The pod the token is bound to, or None. Raises KubeError when there is no answer."""
        body = {
            "apiVersion": TOKENREVIEWS.api_version,
            "kind": TOKENREVIEWS.kind,
            "metadata": {},
            "spec": {"token": token, "audiences": [self._audience]},
        }
        status = _decode(await self._api.create(TOKENREVIEWS, body)).status
        user = status.user
        if not status.authenticated or self._audience not in status.audiences:
            return None
        pod, uid = user.extra.get(_POD_NAME, ()), user.extra.get(_POD_UID, ())
        if not pod or not uid or not user.username.startswith(_ACCOUNT_PREFIX):
            return None
        namespace = user.username.removeprefix(_ACCOUNT_PREFIX).partition(":")[0]
        return Reporter(namespace=namespace, pod=pod[0], uid=uid[0])

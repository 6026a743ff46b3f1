"""Whether an installation works: what `helm test` runs, in a pod of its own, with the operator's account and image.

It asks what the operator's own probes can not tell: whether the API server serves our kinds and lets that account read
them, whether somebody of this release leads, by a lease that is being renewed, and whether the Service leads to an
operator. Each is waited for until the time is up; then the sentence says what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from aifactory import __version__
from aifactory.api import names
from aifactory.app.domains import DOMAINS
from aifactory.engine import custom
from aifactory.kube import auth
from aifactory.kube.client import Client
from aifactory.kube.errors import KubeError
from aifactory.kube.lease import LeaseObject
from aifactory.kube.objects import decoder
from aifactory.kube.resources import LEASES, Resource

_LOOK_SECONDS = 0.5
_decode = decoder(LeaseObject)


class Missing(Exception):
    """Something does not hold yet, in words."""


class Installation:
    """What a release has in a cluster.

    Args:
        api: the API server.
        release: namespace and name of the release.
        lease_namespace: where its lease is.
        namespace: what it watches; None for all namespaces.
        url: its Service.
    """

    def __init__(self, api: Client, *, release: str, lease_namespace: str, namespace: str | None, url: str) -> None:
        self._api = api
        self._release = release
        self._lease_namespace = lease_namespace
        self._namespace = namespace
        self._url = url
        self._seen = ""
        """The lease's version when it was first read."""

    def checks(self) -> Sequence[Callable[[], Awaitable[str]]]:
        """What is asked, one after another: each says what holds, or raises `Missing`."""
        return (self._kinds, self._leader, self._ready)

    async def _kinds(self) -> str:
        kinds: list[Resource] = [custom.resource_of(domain.model) for domain in DOMAINS]
        if lacking := set(kinds) - await self._api.served(kinds):
            raise Missing(f"the API server does not serve {', '.join(sorted(map(str, lacking)))}: install the CRDs")
        for kind in kinds:
            await self._api.list(kind, namespace=self._namespace, limit=1)
        return f"the API server serves {', '.join(kind.plural for kind in kinds)}, and the operator may read them"

    async def _leader(self) -> str:
        name = names.lease(self._namespace)
        where = f"lease {self._lease_namespace}/{name}"
        lease = _decode(await self._api.get(LEASES, self._lease_namespace, name))
        holder = lease.spec.holder_identity
        if not holder:
            raise Missing(f"nobody leads: {where} has no holder")
        if lease.release != self._release:
            raise Missing(
                f"release {lease.release} acts on {names.led_by(name)}, so {self._release} does not ({where})"
            )
        self._seen = self._seen or lease.metadata.resource_version
        if lease.metadata.resource_version == self._seen:
            raise Missing(f"{holder} does not renew {where}: it is gone, or can not reach the API server")
        return f"{holder} leads over {names.led_by(name)}"

    async def _ready(self) -> str:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{self._url}/readyz") as answer:
            words = (await answer.text()).strip()
        if answer.status != 200:
            raise Missing(f"{self._url}/readyz says: {words}")
        return f"{self._url} is ready"


async def examine(installation: Installation, seconds: float, tell: Callable[[str], None]) -> int:
    """Tell what holds; 1 when something does not within the time."""
    deadline = time.monotonic() + seconds
    for check in installation.checks():
        while True:
            try:
                tell(f"ok: {await check()}")
                break
            except (Missing, KubeError, aiohttp.ClientError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    tell(f"failed: {error or type(error).__name__}")
                    return 1
            await asyncio.sleep(_LOOK_SECONDS)
    return 0


async def _run(found: argparse.Namespace) -> int:
    provider = auth.SessionProvider(await auth.connect(), user_agent=f"aifactory-check/{__version__}")
    api = Client(provider, timeout=5)
    try:
        return await examine(
            Installation(
                api,
                release=found.release,
                lease_namespace=found.lease_namespace,
                namespace=found.namespace,
                url=found.url,
            ),
            found.seconds,
            lambda words: print(words, flush=True),
        )
    finally:
        await api.close()
        await provider.close()


def main() -> int:
    """Exits with 0 when the installation works."""
    parser = argparse.ArgumentParser(prog="python -m aifactory.app.check", description=__doc__)
    parser.add_argument("--release", required=True, help="namespace and name of the release")
    parser.add_argument("--lease-namespace", default="kube-system", help="namespace of its Lease")
    parser.add_argument("--namespace", help="what it watches; left out: all namespaces")
    parser.add_argument("--url", required=True, help="the operator's Service, with the port of its metrics")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to wait for what does not hold")
    try:
        return asyncio.run(_run(parser.parse_args()))
    except auth.AuthError as error:
        print(f"failed: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())

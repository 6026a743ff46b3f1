"""Finding the API server and proving who we are: one provider of HTTP sessions for everything in the process.

In a pod that is the service account's files, read here; elsewhere a kubeconfig, read by the `kubernetes` package, which
also runs credential plugins. It is imported only then: a pod does not pay its 25 MB. Tokens are read again once a
minute and after every 401, because projected service account tokens are rotated about hourly.

All sessions share one connection pool. kopf closes the session it was given when the server answers 401 and when it
ends; so it gets one of its own whose closing leaves the pool open.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import hdrs

from aifactory.kube.clock import Clock, SystemClock

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS: Final = 60.0
"""Age at which a token is read again; the `kubernetes` packages of Go and Python use the same."""


class AuthError(Exception):
    """There is no usable way to an API server; the message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API server is and how to be let in."""

    server: str
    """Base URL without a slash at its end."""
    namespace: str
    """The pod's or the context's namespace."""
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """Name expected in the server's certificate, where it differs from the URL's."""
    proxy: str | None = None
    authorization: Callable[[], Awaitable[str | None]] | None = None
    """Gives the current Authorization header."""


async def connect(kubeconfig: str | None = None, context: str | None = None) -> Connection:
    """Find the API server: by the kubeconfig given, `KUBECONFIG`, the pod's service account, or ~/.kube/config.

    Raises:
        AuthError: none of them is usable.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG")
    if path is None and "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists():
        return in_cluster()
    path = path or str(Path.home() / ".kube" / "config")
    if not any(Path(part).expanduser().exists() for part in path.split(os.pathsep) if part):
        raise AuthError(f"no kubeconfig at {path} and not in a pod: set KUBECONFIG to the path of one")
    return await from_kubeconfig(path, context)


def in_cluster(account: Path = SERVICE_ACCOUNT) -> Connection:
    """The API server as a pod finds it. The token file is read anew each time the header is asked for."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace = account / "namespace"

    async def authorization() -> str:
        try:
            return f"Bearer {(account / 'token').read_text().strip()}"
        except OSError as error:
            raise AuthError(f"the service account's token can not be read: {error}") from error

    return Connection(
        server=f"https://{host}:{port}",
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        tls=ssl.create_default_context(cafile=str(account / "ca.crt")),
        authorization=authorization,
    )


async def from_kubeconfig(path: str, context: str | None = None) -> Connection:
    """The API server of a kubeconfig's context (default: its current one), credential plugins included."""
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, kube_config

    configuration: Any = Configuration()
    load: Any = kube_config.load_kube_config
    try:
        loader: Any = await load(
            config_file=path, context=context, client_configuration=configuration, persist_config=False
        )
    except ConfigException as error:
        raise AuthError(f"kubeconfig {path}: {error}") from error

    async def authorization() -> str | None:
        await loader.load_and_set(configuration)  # expired plugin tokens are renewed, token files read again
        return getattr(loader, "token", None)

    server = str(configuration.host).rstrip("/")
    return Connection(
        server=server,
        namespace=loader.current_context["context"].get("namespace") or "default",
        tls=_tls(configuration) if server.startswith("https") else None,
        server_name=configuration.tls_server_name or None,
        proxy=configuration.proxy or None,
        authorization=authorization if getattr(loader, "token", None) else None,
    )


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class SessionProvider:
    """HTTP sessions to one API server that share a connection pool and the current credentials."""

    def __init__(self, connection: Connection, *, user_agent: str, clock: Clock | None = None) -> None:
        self.connection = connection
        self._user_agent = user_agent
        self._clock = clock or SystemClock()
        self._connector: aiohttp.TCPConnector | None = None
        self._header: str | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    def session(self, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """A new session; closing it leaves the pool to the others. Credentials are added to each request.

        `middlewares` surround each of its requests.
        """
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=0, ssl=self.connection.tls or True, keepalive_timeout=60.0)
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            headers={hdrs.USER_AGENT: self._user_agent, hdrs.ACCEPT: "application/json"},
            middlewares=(*middlewares, self._authenticate)
            if self.connection.authorization is not None
            else middlewares,
            proxy=self.connection.proxy,
        )

    async def close(self) -> None:
        """Close the pool and with it every session's connections."""
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    async def _authenticate(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        header = await self._current(self._clock.monotonic() - TOKEN_SECONDS)
        if header is not None:
            request.headers[hdrs.AUTHORIZATION] = header
        response = await handler(request)
        if response.status != 401:
            return response
        # The token may have been rotated since it was read. If a fresh one differs it gets one chance.
        fresh = await self._current(self._clock.monotonic())
        if fresh is None or fresh == header:
            return response
        response.release()
        request.headers[hdrs.AUTHORIZATION] = fresh
        return await handler(request)

    async def _current(self, not_before: float) -> str | None:
        """The Authorization header, read anew if it was read before `not_before`."""
        if self._read_at > not_before:
            return self._header
        async with self._reading:
            if self._read_at <= not_before:
                assert self.connection.authorization is not None
                try:
                    self._header = await self.connection.authorization()
                except AuthError:
                    raise
                except Exception as error:  # whatever a credential plugin does
                    raise AuthError(f"credentials for {self.connection.server}: {error}") from error
                self._read_at = self._clock.monotonic()
        return self._header

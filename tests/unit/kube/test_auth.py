"""Where the API server is looked for, and credentials that change while the process runs."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from aifactory.kube import auth as auth_module
from aifactory.kube.auth import (
    TOKEN_SECONDS,
    AuthError,
    Connection,
    SessionProvider,
    connect,
    from_kubeconfig,
    in_cluster,
)

# --- Where the API server is ---


@dataclass
class Tls:
    """Stands for an SSLContext: what it was told."""

    cafile: str | None
    chain: tuple[str, str | None] | None = None
    check_hostname: bool = True
    verify_mode: ssl.VerifyMode = ssl.CERT_REQUIRED

    def load_cert_chain(self, cert: str, key: str | None) -> None:
        self.chain = (cert, key)


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(auth_module.ssl, "create_default_context", lambda cafile=None: Tls(cafile))


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, no_environment: None, tmp_path: Path) -> Path:
    """A pod's service account."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("secret\n")
    (folder / "namespace").write_text("team\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setattr(auth_module, "SERVICE_ACCOUNT", folder)
    return folder


def kubeconfig(path: Path, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> str:
    """A kubeconfig with the contexts `one` (current) and `two`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "two", "context": {"cluster": "other", "user": "u"}},
        ],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://one.test:6443/", **(cluster or {})}},
            {"name": "other", "cluster": {"server": "http://two.test"}},
        ],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return str(path)


async def test_in_a_pod_the_service_account_says_it(account: Path) -> None:
    assert (await connect()).server == "https://10.0.0.1:6443"
    connection = in_cluster(account)
    assert (connection.server, connection.namespace) == ("https://10.0.0.1:6443", "team")
    assert connection.tls == Tls(str(account / "ca.crt"))
    assert connection.authorization is not None
    assert await connection.authorization() == "Bearer secret"
    (account / "token").write_text("rotated")
    assert await connection.authorization() == "Bearer rotated"
    (account / "token").unlink()
    with pytest.raises(AuthError, match="token can not be read"):
        await connection.authorization()


def test_addresses_of_the_api_server_in_a_pod(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT")
    (account / "namespace").unlink()
    connection = in_cluster(account)
    assert (connection.server, connection.namespace) == ("https://[fd00::1]:443", "default")


async def test_a_kubeconfig_that_is_named_goes_before_the_service_account(
    account: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "config")
    assert (await connect(path)).server == "https://one.test:6443"
    monkeypatch.setenv("KUBECONFIG", path)
    assert (await connect()).server == "https://one.test:6443"
    assert (await connect(context="two")).server == "http://two.test"


@pytest.mark.parametrize("missing", ["token", "environment"])
async def test_outside_a_pod_the_kubeconfig_at_home_is_used(
    account: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    if missing == "token":
        (account / "token").unlink()
    else:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(AuthError, match=r"no kubeconfig at .*/home/.kube/config and not in a pod: set KUBECONFIG"):
        await connect()
    kubeconfig(tmp_path / "home/.kube/config")
    assert (await connect()).server == "https://one.test:6443"


async def test_of_several_kubeconfigs_one_must_be_there(no_environment: None, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config")
    assert (await connect(f"{tmp_path}/none:{path}")).server == "https://one.test:6443"
    with pytest.raises(AuthError, match="no kubeconfig at"):
        await connect(f"{tmp_path}/none:")
    kubeconfig(tmp_path / "home/config")
    assert (await connect("~/config")).server == "https://one.test:6443"


async def test_a_kubeconfig_without_credentials(no_environment: None, tmp_path: Path) -> None:
    connection = await from_kubeconfig(kubeconfig(tmp_path / "config"))
    assert (connection.server, connection.namespace) == ("https://one.test:6443", "team")
    assert (connection.server_name, connection.proxy, connection.authorization) == (None, None, None)
    assert connection.tls == Tls(None)


async def test_a_server_below_a_path(no_environment: None, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", cluster={"server": "https://one.test/clusters/X//"})
    assert (await from_kubeconfig(path)).server == "https://one.test/clusters/X"


def test_kubelets_put_the_service_account_there() -> None:
    assert str(auth_module.SERVICE_ACCOUNT) == "/var/run/secrets/kubernetes.io/serviceaccount"


async def test_a_context_without_tls_and_namespace(no_environment: None, tmp_path: Path) -> None:
    connection = await from_kubeconfig(kubeconfig(tmp_path / "config"), "two")
    assert (connection.server, connection.namespace, connection.tls) == ("http://two.test", "default", None)


async def test_a_kubeconfig_with_everything(no_environment: None, tmp_path: Path) -> None:
    def data(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    cluster = {
        "certificate-authority-data": data("the authority"),
        "tls-server-name": "kube.test",
        "proxy-url": "http://proxy.test:3128",
    }
    user = {"token": "secret", "client-certificate-data": data("the cert"), "client-key-data": data("the key")}
    path = kubeconfig(tmp_path / "config", cluster=cluster, user=user)
    before = Path(path).read_text()
    connection = await from_kubeconfig(path)
    assert (connection.server_name, connection.proxy) == ("kube.test", "http://proxy.test:3128")
    tls: Any = connection.tls
    assert Path(tls.cafile).read_text() == "the authority"
    assert (tls.check_hostname, tls.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert tls.chain is not None
    assert [Path(file).read_text() for file in tls.chain] == ["the cert", "the key"]
    assert connection.authorization is not None
    assert await connection.authorization() == "Bearer secret"
    assert Path(path).read_text() == before, "somebody else's file is not written"


async def test_a_token_in_a_file_is_read_again(no_environment: None, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")
    connection = await from_kubeconfig(kubeconfig(tmp_path / "config", user={"tokenFile": str(tmp_path / "token")}))
    assert connection.authorization is not None
    assert await connection.authorization() == "Bearer first"
    (tmp_path / "token").write_text("second")
    assert await connection.authorization() == "Bearer second"


async def test_a_server_whose_certificate_is_not_checked(no_environment: None, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", cluster={"insecure-skip-tls-verify": True})
    tls: Any = (await from_kubeconfig(path)).tls
    assert (tls.check_hostname, tls.verify_mode) == (False, ssl.CERT_NONE)


async def test_a_kubeconfig_that_makes_no_sense(no_environment: None, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config")
    with pytest.raises(AuthError, match=r"kubeconfig .*/config: .*three"):
        await from_kubeconfig(path, "three")


# --- Sessions ---


@dataclass
class Clock:
    """A clock that a test moves."""

    time: float = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> Any:
        raise NotImplementedError


@dataclass
class Server:
    """A server that accepts some tokens, all where there are none."""

    accepts: set[str] = field(default_factory=set)
    requests: list[web.BaseRequest] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        header = request.headers.get("Authorization", "")
        return web.Response(status=200 if not self.accepts or header in self.accepts else 401)

    @property
    def headers(self) -> list[str | None]:
        """The Authorization header of each request."""
        return [request.headers.get("Authorization") for request in self.requests]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    runner = web.ServerRunner(web.Server(found.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@dataclass
class Credentials:
    """Tokens in the order they are read, the last one for ever."""

    tokens: list[str | None]
    reads: int = 0
    error: Exception | None = None

    async def __call__(self) -> str | None:
        self.reads += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


@pytest.fixture
async def providers(server: Server) -> AsyncIterator[Callable[..., SessionProvider]]:
    made: list[SessionProvider] = []

    def make(credentials: Callable[[], Awaitable[str | None]] | None = None, **options: Any) -> SessionProvider:
        clock = options.pop("clock", None) or Clock()
        connection = Connection(options.pop("url", server.url), "default", authorization=credentials, **options)
        made.append(SessionProvider(connection, user_agent="aifactory/test", clock=clock))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


async def get(provider: SessionProvider, server: Server, times: int = 1) -> list[int]:
    async with provider.session() as session:
        return [(await session.get(f"{server.url}/version")).status for _ in range(times)]


Providers = Callable[..., SessionProvider]


async def test_a_token_is_read_again_after_a_minute(providers: Providers, server: Server) -> None:
    clock, credentials = Clock(), Credentials(["Bearer 1", "Bearer 2"])
    provider = providers(credentials, clock=clock)
    assert await get(provider, server, 3) == [200] * 3
    clock.time += TOKEN_SECONDS - 0.1
    await get(provider, server)
    assert credentials.reads == 1
    clock.time += 0.1
    await get(provider, server, 2)
    assert credentials.reads == 2
    assert server.headers == ["Bearer 1"] * 4 + ["Bearer 2"] * 2
    assert server.requests[0].headers["User-Agent"] == "aifactory/test"
    assert server.requests[0].headers["Accept"] == "application/json"


async def test_a_token_that_was_rotated_is_read_again_at_once(providers: Providers, server: Server) -> None:
    clock, credentials = Clock(), Credentials(["Bearer 1", "Bearer 2"])
    provider = providers(credentials, clock=clock)
    await get(provider, server)
    clock.time += 1.0
    server.accepts = {"Bearer 2"}
    assert await get(provider, server, 2) == [200, 200]
    assert server.headers == ["Bearer 1", "Bearer 1", "Bearer 2", "Bearer 2"]
    assert credentials.reads == 2


async def test_a_refusal_of_the_newest_token_is_final(providers: Providers, server: Server) -> None:
    server.accepts = {"Bearer other"}
    same = Credentials(["Bearer 1"])
    clock = Clock()
    provider = providers(same, clock=clock)
    await provider._current(0.0)
    clock.time += 1.0
    assert await get(provider, server) == [401]
    assert (same.reads, server.headers) == (2, ["Bearer 1"])

    server.requests.clear()
    clock.time += 1.0
    changing = Credentials(["Bearer 1", "Bearer 2", "Bearer 3"])
    provider = providers(changing, clock=clock)
    await provider._current(0.0)
    clock.time += 1.0
    assert await get(provider, server) == [401]
    assert server.headers == ["Bearer 1", "Bearer 2"], "one more chance, not two"


async def test_requests_that_start_together_read_the_token_once(providers: Providers, server: Server) -> None:
    credentials = Credentials(["Bearer 1", "Bearer 2"])
    provider = providers(credentials)
    await asyncio.gather(*(get(provider, server) for _ in range(5)))
    assert credentials.reads == 1
    assert server.headers == ["Bearer 1"] * 5


async def test_a_token_that_is_taken_away_leaves_the_refusal_as_it_is(providers: Providers, server: Server) -> None:
    server.accepts = {"Bearer other"}
    clock = Clock()
    provider = providers(Credentials(["Bearer 1", None]), clock=clock)
    await provider._current(0.0)
    clock.time += 1.0
    assert await get(provider, server) == [401]
    assert server.headers == ["Bearer 1"]


async def test_a_plugin_that_has_no_token_sends_none(providers: Providers, server: Server) -> None:
    server.accepts = {"Bearer other"}
    clock = Clock()
    provider = providers(Credentials([None]), clock=clock)
    await provider._current(0.0)
    clock.time += 1.0
    assert await get(provider, server) == [401]
    assert server.headers == [None]


async def test_without_credentials_requests_are_sent_as_they_are(providers: Providers, server: Server) -> None:
    server.accepts = {"Bearer other"}
    assert await get(providers(), server) == [401]
    assert server.headers == [None]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AuthError("the token can not be read"), "^the token can not be read$"),
        (ValueError("plugin crashed"), "^credentials for http://127.0.0.1:[0-9]+: plugin crashed$"),
    ],
)
async def test_credentials_that_fail_say_so_and_are_tried_again(
    providers: Providers, server: Server, error: Exception, words: str
) -> None:
    credentials = Credentials(["Bearer 1"], error=error)
    provider = providers(credentials)
    with pytest.raises(AuthError, match=words):
        await get(provider, server)
    credentials.error = None
    assert await get(provider, server) == [200]
    assert credentials.reads == 2


async def test_what_surrounds_a_request_sees_both_of_its_tries_as_one(providers: Providers, server: Server) -> None:
    server.accepts = {"Bearer 2"}
    clock = Clock()
    for credentials in (Credentials(["Bearer 1", "Bearer 2"]), None):
        provider = providers(credentials, clock=clock)
        if credentials is not None:
            await provider._current(0.0)
        clock.time += 1.0
        seen: list[int] = []

        async def surround(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, seen: list[int] = seen
        ) -> aiohttp.ClientResponse:
            response = await handler(request)
            seen.append(response.status)
            return response

        async with provider.session(surround) as session:
            await session.get(f"{server.url}/version")
        assert seen == [200 if credentials is not None else 401]


async def test_a_session_that_is_closed_leaves_the_pool_to_the_others(providers: Providers, server: Server) -> None:
    provider = providers()
    first, second = provider.session(), provider.session()
    assert first.connector is second.connector
    await first.get(server.url)
    await first.close()
    assert (await second.get(server.url)).status == 200
    await provider.close()
    await provider.close()
    assert second.closed
    assert await get(provider, server) == [200], "a new pool is made when it is needed"


@pytest.mark.parametrize("tls", [ssl.create_default_context(), None])
async def test_the_pool_trusts_whom_the_connection_trusts_and_has_no_bound(
    providers: Providers, tls: ssl.SSLContext | None
) -> None:
    async with providers(tls=tls).session() as session:
        connector: Any = session.connector
        assert connector._ssl is (tls or True), "True: as the machine trusts"
        assert connector.limit == 0, "a watch holds its connection, and there are many"


async def test_it_needs_no_clock_of_its_own(server: Server) -> None:
    provider = SessionProvider(
        Connection(server.url, "default", authorization=Credentials(["Bearer 1"])), user_agent="t"
    )
    assert await get(provider, server) == [200]
    await provider.close()


async def test_a_proxy_is_asked_for_the_server(providers: Providers, server: Server) -> None:
    provider = providers(url="http://cluster.test", proxy=server.url)
    async with provider.session() as session:
        assert (await session.get("http://cluster.test/version")).status == 200
    assert server.requests[0].host == "cluster.test"

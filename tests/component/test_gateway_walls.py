"""What a real Envoy lets pass by the operator's files: requests with a key, not too many, not too large, over TLS."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from aifactory.api.inferencepool import RateLimit
from aifactory.serving import apikeys, envoy
from tests.component.envoys import Site, routes

KEYS, TLS, BOTH = envoy.Walls(keys=True), envoy.Walls(tls=True), envoy.Walls(keys=True, tls=True)
ANN, BOB = "key-of-ann-0123456789", "key-of-bob-0123456789"
TEXT = f"# whose it is, and the key\nann {ANN}\n\n  bob\t{BOB}\r\n"
NO_KEY = "this address asks for an API key: send the header Authorization: Bearer <key>"
WRONG_KEY = "the API key is not known here: send the header Authorization: Bearer <key> with one that is"
LIMIT = RateLimit.model_validate({"requestsPerMinute": 4, "clients": [{"name": "bob", "requestsPerMinute": 7}]})


@asynccontextmanager
async def gateway(tmp_path: Path, shape: envoy.Routes, walls: envoy.Walls | None = None) -> AsyncIterator[Site]:
    """A gateway before one pod; with `walls` its Envoy was made with those Secrets and not with all of the shape's."""
    site = Site(tmp_path)
    await site.begin()
    try:
        site.start_pod("a", 1)
        site.wait_for_pods()
        site.name("chat-pods", "a")
        made_with = shape.walls if walls is None else walls
        if made_with.keys:
            site.bring(apikeys.DIRECTORY, {apikeys.ENTRY: TEXT})
        if made_with.tls:
            site.bring(envoy.TLS_DIRECTORY, certificate(tmp_path, "one", site.address))
        digest = site.write(shape)
        site.start_envoy(made_with)
        await site.wait_for_digest(digest)
        yield site
    finally:
        site.end()


def certificate(folder: Path, name: str, address: str) -> dict[str, str]:
    """The entries of a Secret of type kubernetes.io/tls."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    named = ["-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(crt)]
    subprocess.run([*new, *named], check=True, capture_output=True, timeout=60)
    return {"tls.crt": crt.read_text(), "tls.key": key.read_text()}


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


Answer = tuple[int, Any]


async def ask(client: aiohttp.ClientSession, url: str, key: str | None = None, **kwargs: Any) -> Answer:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with client.post(url, headers=headers, **kwargs) as answer:
        text = await answer.text()
        assert answer.content_type == "application/json", text
        return answer.status, json.loads(text)


async def until(ask_once: Callable[[], Any], status: int, seconds: float = 20) -> float:
    """Ask until the answer has that status; returns how long that took."""
    began = time.monotonic()
    while (found := await ask_once())[0] != status:
        assert time.monotonic() - began < seconds, found
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_only_requests_with_a_key_pass_and_it_goes_no_further(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    shape = replace(routes(), walls=KEYS, access_log=True)
    async with gateway(tmp_path, shape) as site:
        triton, door = site.url(8000, "/infer"), site.url(9000, "/infer")
        for wrong in ("key-of-eve-0123456789", ANN[:-1], "ann", f"{ANN},x"):
            assert await ask(client, triton, wrong) == (401, {"error": WRONG_KEY})
        for none in (None, "", f"{ANN} {BOB}"):
            assert await ask(client, triton, none) == (401, {"error": NO_KEY})
        async with client.post(triton, headers=[("Authorization", f"Bearer {ANN}"), ("Authorization", "x")]) as answer:
            assert answer.status == 401, "which of the two counts is not for the client to choose"
        assert (await ask(client, door))[1]["error"].keys() == {"message", "type", "param", "code"}
        async with openai.AsyncOpenAI(base_url=site.url(9000, "/v1"), api_key="no-such-key", max_retries=0) as user:
            with pytest.raises(openai.AuthenticationError, match="the API key is not known here") as raised:
                await user.models.list()
            assert raised.value.code == "invalid_api_key"

        for key, word in ((ANN, "Bearer"), (BOB, "bearer")):
            async with client.post(triton, headers={"Authorization": f"{word} {key}", "x-other": "1"}) as answer:
                assert answer.status == 200
                assert (await answer.json())["headers"] == ["x-other"], "the key is for the gateway alone"
        async with client.get(site.url(8003, envoy.READY_PATH)) as answer:
            assert answer.status == 200, "whoever watches it needs no key"

        deadline = time.monotonic() + 20
        while len(lines := site.access_log()) < 12:
            assert time.monotonic() < deadline, lines
            await asyncio.sleep(0.1)
        assert [(line["status"], line["caller"]) for line in lines][-2:] == [(200, "ann"), (200, "bob")]
        assert {line["caller"] for line in lines if line["status"] == 401} == {None}
        written = "".join(path.read_text() for path in site.directory.glob("*.*") if path.is_file())
        assert ANN not in written + site.log(), "neither in files nor in a log"


async def test_keys_come_and_go_without_a_restart(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with gateway(tmp_path, replace(routes(), walls=KEYS)) as site:
        url = site.url(8000, "/infer")
        assert (await ask(client, url, ANN))[0] == 200
        assert site.envoy is not None
        before = site.envoy.pid
        site.bring(apikeys.DIRECTORY, {apikeys.ENTRY: f"ann new-{ANN}\nbob short\nno-key\nbad/name {BOB}\n"})
        took = await until(lambda: ask(client, url, f"new-{ANN}"), 200)
        print(f"another key counted after {took:.1f} s")
        assert took < 5
        await until(lambda: ask(client, url, ANN), 401, 5)
        for lost in ("short", BOB):
            assert (await ask(client, url, lost))[0] == 401
        told = [line for line in site.log().splitlines() if "is left out" in line]
        assert {word for line in told for word in ("line 2", "line 3", "line 4") if word in line} == {
            "line 2",
            "line 3",
            "line 4",
        }
        assert "short" not in site.log().replace("shorter", "")
        assert BOB not in site.log()
        site.bring(apikeys.DIRECTORY, {apikeys.ENTRY: ""})
        await until(lambda: ask(client, url, f"new-{ANN}"), 401, 5)
        assert site.envoy.poll() is None
        assert site.envoy.pid == before


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_grpc_is_refused_as_grpc_does(tmp_path: Path) -> None:
    async with gateway(tmp_path, replace(routes(), walls=KEYS, rate_limit=LIMIT)) as site:

        async def call(*headers: str) -> str:
            given = [part for header in ("content-type: application/grpc", *headers) for part in ("-H", header)]
            command = [
                "curl",
                "-sS",
                "--http2-prior-knowledge",
                "-X",
                "POST",
                "-D",
                "-",
                *given,
                site.url(8001, "/x/Y"),
            ]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
            return done.stdout

        refused = await call()
        assert "HTTP/2 200" in refused
        assert "grpc-status: 16" in refused
        assert "grpc-message: this address asks for an API key" in refused
        key = f"authorization: Bearer {ANN}"
        assert "grpc-status: 14" in await call(key), "no pod speaks gRPC here"
        for _ in range(3):
            await call(key)
        limited = await call(key)
        assert "grpc-status: 8" in limited
        assert "gateway.rateLimit" in limited


async def test_each_name_may_ask_so_often(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    shape = replace(routes(), walls=KEYS, rate_limit=LIMIT)
    async with gateway(tmp_path, shape) as site:
        site.bring(apikeys.DIRECTORY, {apikeys.ENTRY: f"{TEXT}ann 2nd-{ANN}\ncarl key-of-carl-0123456789\n"})
        door = site.url(9000, "/infer")
        await until(lambda: ask(client, door, "key-of-carl-0123456789"), 200)

        async def passed(*keys: str) -> int:
            answers = [(await ask(client, door, keys[n % len(keys)]))[0] for n in range(12)]
            assert set(answers) == {200, 429}
            return answers.count(200)

        # One more where a part of the minute has filled it.
        assert await passed(ANN, f"2nd-{ANN}") in (4, 5), "both keys are of the same name"
        async with openai.AsyncOpenAI(base_url=site.url(9000, "/v1"), api_key=ANN, max_retries=0) as user:
            with pytest.raises(openai.RateLimitError, match="more requests with this key") as raised:
                await user.models.list()
        assert raised.value.response.headers["x-ratelimit-limit"].startswith("4")
        assert (await ask(client, site.url(8000, "/infer"), ANN))[0] == 200, "each port counts by itself"
        assert await passed(BOB) in (7, 8)
        assert await passed("key-of-carl-0123456789") in (3, 4), "what others ask is not counted for him"
        assert (await ask(client, door))[0] == 401


async def test_what_is_too_large_or_takes_too_long_is_refused(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    most = 6 * 1024 * 1024
    async with gateway(tmp_path, replace(routes(), max_request_bytes=most, timeout_seconds=2)) as site:
        status, said = await ask(client, site.url(8000, "/infer"), data=bytes(most))
        assert (status, said["bytes"]) == (200, most)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(most // 2**16 + 1):
                yield bytes(2**16)

        for body in (bytes(most + 1), pieces()):
            status, said = await ask(client, site.url(9000, "/infer"), data=body)
            assert status == 413
            assert said["error"]["message"] == f"the request is larger than the {most} bytes of gateway.maxRequestBytes"
            assert said["error"]["type"] == "invalid_request_error"
        status, said = await ask(client, site.url(9000, "/infer?seconds=30"))
        assert (status, said["error"]["type"]) == (504, "server_error")
        assert said["error"]["message"] == "no complete answer within the 2 s of gateway.timeoutSeconds"
        with pytest.raises(aiohttp.ClientError):
            async with client.post(site.url(9000, "/stream?tokens=100")) as answer:
                await answer.read()
        async with client.post(site.url(9000, "/stream?tokens=10")) as answer:
            assert (await answer.read()).endswith(b"data: 9\n\n"), "one that is in time is whole"


async def test_another_certificate_counts_without_a_restart(tmp_path: Path) -> None:
    async with gateway(tmp_path, replace(routes(), walls=TLS)) as site:
        url = site.url(9000, "/infer").replace("http:", "https:")

        async def trusts(name: str) -> bool:
            trust = ssl.create_default_context(cafile=str(tmp_path / f"{name}.crt"))
            async with aiohttp.ClientSession() as session:
                try:
                    return (await ask(session, url, ssl=trust))[0] == 200
                except aiohttp.ClientConnectorCertificateError:
                    return False

        assert await trusts("one")
        async with aiohttp.ClientSession() as plain:
            with pytest.raises(aiohttp.ClientError):
                await plain.post(url.replace("https:", "http:"))
            ready = site.url(8000, envoy.READY_PATH).replace("http:", "https:")
            async with plain.get(ready, ssl=False) as answer:
                assert answer.status == 200, "the kubelet asks so whether the certificate is good"
        site.bring(envoy.TLS_DIRECTORY, certificate(tmp_path, "two", site.address))
        began = time.monotonic()
        while not await trusts("two"):
            assert time.monotonic() - began < 20, site.log()
        print(f"another certificate counted after {time.monotonic() - began:.2f} s")
        assert not await trusts("one")
        site.bring(envoy.TLS_DIRECTORY, {"tls.crt": "no certificate", "tls.key": "no key"})
        deadline = time.monotonic() + 20
        while "Failed to reload certificates" not in site.log():
            assert time.monotonic() < deadline, site.log()
            await asyncio.sleep(0.05)
        assert await trusts("two"), "one that can not be read changes nothing"


async def test_proxies_that_were_made_without_the_secrets_go_on_as_before(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with gateway(tmp_path, routes()) as site:
        url = site.url(8000, "/infer")
        assert (await ask(client, url))[0] == 200
        await site.wait_for_digest(site.write(replace(routes(), walls=BOTH, rate_limit=LIMIT)))
        assert (await ask(client, url))[0] == 200
        assert site.envoy is not None
        site.envoy.kill()
        site.envoy.wait(10)
        digest = site.write(replace(routes(), walls=BOTH, rate_limit=LIMIT, access_log=True))
        site.start_envoy()
        await site.wait_for_digest(digest)
        assert (await ask(client, url))[0] == 200, "and after a restart"
        site.bring(apikeys.DIRECTORY, {apikeys.ENTRY: TEXT})
        site.envoy.kill()
        site.envoy.wait(10)
        site.start_envoy(KEYS)
        await site.wait_for_digest(digest)
        assert [(await ask(client, url, key))[0] for key in (None, ANN)] == [401, 200], "made with keys and without TLS"

"""Requests that wait for a pod in a real Envoy: none is lost, none waits for ever, and no more wait than may."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from aifactory.serving import envoy, holding
from tests.component.envoys import Site, routes


def held_routes(requests: int = 250, seconds: int = 60) -> envoy.Routes:
    return replace(routes(envoy.Pods("a", "chat-a", (1,))), hold=holding.Hold(requests, seconds))


async def begin(tmp_path: Path, shape: envoy.Routes) -> Site:
    """A gateway whose names lead to nobody."""
    site = Site(tmp_path)
    await site.begin()
    site.name("chat-pods", "")
    site.name("chat-a", "")
    digest = site.write(shape)
    site.start_envoy()
    await site.wait_for_digest(digest)
    return site


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def waiting(client: aiohttp.ClientSession, site: Site) -> int:
    async with client.get(site.url(8003, holding.PAGE)) as answer:
        return holding.read(await answer.read())


async def until_waiting(client: aiohttp.ClientSession, site: Site, count: int) -> None:
    deadline = time.monotonic() + 20
    while (seen := await waiting(client, site)) != count:
        assert time.monotonic() < deadline, f"{seen} wait, not {count}: {site.log()}"
        await asyncio.sleep(0.02)


def wake(site: Site) -> None:
    if "a" not in site.pods:
        site.start_pod("a", 1)
        site.wait_for_pods()
    site.name("chat-a", "a")
    site.name("chat-pods", "a")


async def test_whoever_comes_while_there_is_no_pod_is_answered(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    """By all doors, large or small, whole or in pieces, whatever version they insist on; and after another sleep."""
    site = await begin(tmp_path, held_routes())

    async def ask(number: int) -> tuple[int, str]:
        port = 9000 if number % 2 else 8000
        body = bytes(9 * 1024 * 1024) if number == 3 else b"x"
        headers = {envoy.VERSION_HEADER: "1"} if number % 3 == 0 else {}
        path = "/stream?seconds=0.01" if number % 5 == 0 else "/infer"
        async with client.post(site.url(port, path), data=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, text if answer.status != 200 or path != "/infer" else str(json.loads(text)["bytes"])

    try:
        async with client.get(site.url(8003, envoy.READY_PATH)) as answer:
            assert answer.status == 200, "it is there for those that wait"
        for _ in range(3):
            asked = [asyncio.create_task(ask(number)) for number in range(100)]
            await until_waiting(client, site, 100)
            assert not any(task.done() for task in asked)
            wake(site)
            woken = time.monotonic()
            answers = Counter(await asyncio.gather(*asked))
            print(f"100 answered {time.monotonic() - woken:.2f} s after a pod was there")
            assert {status for status, _ in answers} == {200}, answers
            assert answers[(200, str(9 * 1024 * 1024))] == 1
            await until_waiting(client, site, 0)
            site.name("chat-pods", "")
            site.name("chat-a", "")
            await until_asleep(client, site)
    finally:
        site.end()


async def until_asleep(client: aiohttp.ClientSession, site: Site) -> None:
    """Until all threads of the gateway have heard that there is no pod."""
    deadline = time.monotonic() + 20
    asleep = 0
    while asleep < 20:
        assert time.monotonic() < deadline, site.log()
        async with client.get(site.url(holding.PORT, holding.ready_path("http"))) as look:
            asleep = asleep + 1 if look.status == 503 else 0
        await asyncio.sleep(0.01)


async def test_who_waits_in_vain_and_who_is_too_many_is_told_so(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    site = await begin(tmp_path, held_routes(requests=3, seconds=2))

    async def ask(port: int) -> tuple[int, str | None, object]:
        async with client.post(site.url(port, "/infer"), data=b"x") as answer:
            return answer.status, answer.headers.get("Retry-After"), await answer.json(content_type=None)

    try:
        came = time.monotonic()
        held = [asyncio.create_task(ask(9000)) for _ in range(3)]
        await until_waiting(client, site, 3)
        status, again, body = await ask(9000)
        assert time.monotonic() - came < 1.5, "at once"
        full = "pool chat has no pod that is ready, and as many wait for one as autoscaling.maxHeldRequests allows"
        error = {"message": f"{full}; ask again a bit later", "type": "server_error", "param": None, "code": None}
        assert (status, again, body) == (503, "10", {"error": error})
        for status, again, body in await asyncio.gather(*held):
            vain = "pool chat has no pod that is ready, and got none within the 2 s of autoscaling.holdSeconds"
            error["message"] = f"{vain}; ask again a bit later"
            assert (status, again, body) == (503, "10", {"error": error})
        assert 1.9 < time.monotonic() - came < 4
        status, again, body = await ask(8000)
        assert (status, again, body) == (503, "10", {"error": error["message"]}), "as Triton tells its errors"
    finally:
        site.end()


async def test_who_goes_away_is_not_counted_any_more(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    site = await begin(tmp_path, held_routes())
    try:
        asked = [asyncio.create_task(client.post(site.url(8000, "/infer"))) for _ in range(5)]
        await until_waiting(client, site, 5)
        for task in asked:
            task.cancel()
        await until_waiting(client, site, 0)
    finally:
        site.end()


async def test_one_that_is_started_again_holds_as_before(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    """By the files alone; whoever waited in it before sees its connection end."""
    site = await begin(tmp_path, held_routes())
    try:
        cut = asyncio.create_task(client.post(site.url(8000, "/infer"), data=b"x"))
        await until_waiting(client, site, 1)
        assert site.envoy is not None
        site.envoy.kill()
        site.envoy.wait(10)
        with pytest.raises(aiohttp.ClientConnectionError):
            await cut
        site.start_envoy()
        await site.wait_for_digest(site.write(held_routes()))
        asked = asyncio.create_task(client.post(site.url(8000, "/infer"), data=b"x"))
        await until_waiting(client, site, 1)
        wake(site)
        assert (await asked).status == 200
    finally:
        site.end()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_grpc_that_waits_in_vain_is_unavailable(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    site = await begin(tmp_path, held_routes(seconds=1))
    try:
        words = ("-H", "content-type: application/grpc", site.url(8001, "/x/Y"))
        command = ["curl", "-sS", "--http2-prior-knowledge", "-X", "POST", "-D", "-", *words]
        asked = asyncio.create_task(
            asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
        )
        await until_waiting(client, site, 1)
        said = (await asked).stdout
        assert "grpc-status: 14" in said
        assert "grpc-message: pool chat has no pod that is ready" in said
    finally:
        site.end()

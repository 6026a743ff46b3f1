"""A gateway's files in the hands of a real Envoy: what it does with requests while pods come, go, and are killed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from aifactory.api.inferencepool import RateLimit
from aifactory.serving import envoy, stickiness
from aifactory.serving.holding import Hold
from tests.component.envoys import BINARY, Site, routes

A, B = envoy.Pods("a", "chat-a", (1,), 90), envoy.Pods("b", "chat-b", (2,), 10)
C = envoy.Pods("c", "chat-c")


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A gateway before pods a and b, of version 1."""
    site = Site(tmp_path)
    await site.begin()
    try:
        for name in "ab":
            site.start_pod(name, 1)
        site.wait_for_pods()
        site.name("chat-pods", "ab")
        digest = site.write(routes())
        site.start_envoy()
        await site.wait_for_digest(digest)
        yield site
    finally:
        site.end()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def ask(client: aiohttp.ClientSession, site: Site, body: bytes = b"", **kwargs: object) -> dict[str, object]:
    async with client.post(site.url(8000, "/infer"), data=body, **kwargs) as answer:  # type: ignore[arg-type]
        text = await answer.text()
        assert answer.status == 200, f"{answer.status}: {text}"
        found: dict[str, object] = json.loads(text)
        return found


class Clients:
    """They ask without a pause, over connections that they keep, until they are stopped."""

    def __init__(self, site: Site, count: int = 8, **kwargs: object) -> None:
        self.answers: Counter[object] = Counter()
        self.failures: list[str] = []
        self._stop = False
        self._tasks = [asyncio.create_task(self._ask(site, kwargs)) for _ in range(count)]

    async def _ask(self, site: Site, kwargs: dict[str, object]) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as client:
            while not self._stop:
                try:
                    self.answers[(await ask(client, site, **kwargs))["pod"]] += 1  # type: ignore[arg-type]
                except (AssertionError, aiohttp.ClientError, TimeoutError) as error:
                    self.failures.append(repr(error))

    async def until(self, pod: str, more: int = 200, seconds: float = 60.0) -> None:
        """Wait for answers of a pod."""
        enough, deadline = self.answers[pod] + more, time.monotonic() + seconds
        while self.answers[pod] < enough:
            assert time.monotonic() < deadline, f"no answers of {pod}: {self.answers} {self.failures[:5]}"
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
        assert self.failures == []


@pytest.mark.parametrize(
    "shape",
    [
        routes(),
        routes(openai=False),
        routes(A, B),
        routes(envoy.Pods("a", "chat-a", (1, 2))),
        replace(routes(), access_log=True),
        replace(routes(), walls=envoy.Walls(keys=True, tls=True), rate_limit=RateLimit(requests_per_minute=60)),
        replace(routes(), max_request_bytes=10**9, timeout_seconds=60),
        replace(routes(A, B), mirror=envoy.Mirror(C, 30)),
        replace(routes(A, B), prompt_bytes=64, walls=envoy.Walls(keys=True), mirror=envoy.Mirror(C, 30)),
        replace(routes(A), hold=Hold(), walls=envoy.Walls(keys=True)),
    ],
    ids=[
        "no set",
        "no OpenAI port",
        "weights",
        "sets without weights",
        "a log",
        "keys and TLS",
        "limits",
        "copies",
        "sticky",
        "a hold",
    ],
)
def test_envoy_takes_the_files(tmp_path: Path, shape: envoy.Routes) -> None:
    """All of them in one, as it reads no file of its own when it validates."""
    files = {name: text.replace(envoy.DIRECTORY, str(tmp_path)) for name, text in envoy.files(shape).items()}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    kinds = ("clusters", f"listeners{shape.walls.suffix}")
    clusters, listeners = (json.loads(files[f"{kind}.json"])["resources"] for kind in kinds)
    for listener in listeners:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        name = manager.pop("rds")["route_config_name"]
        manager["route_config"] = json.loads(files[f"routes-{name}.json"])["resources"][0]
        manager["route_config"].pop("@type")
    for resource in (*clusters, *listeners):
        resource.pop("@type")
    bootstrap = json.loads(files[envoy.bootstrap(shape.walls)])
    bootstrap.pop("dynamic_resources")
    bootstrap["static_resources"]["clusters"] += clusters
    bootstrap["static_resources"]["listeners"] = listeners
    (tmp_path / "whole.json").write_text(json.dumps(bootstrap))
    command = [str(BINARY), "--mode", "validate", "--config-path", str(tmp_path / "whole.json"), "--log-level", "warn"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert said.returncode == 0, said.stderr
    assert "deprecated" not in said.stderr.lower(), said.stderr


async def test_it_is_ready_when_it_knows_a_pod_that_is(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    site = Site(tmp_path)
    await site.begin()

    async def ready() -> int:
        async with client.get(site.url(8003, envoy.READY_PATH)) as answer:
            return answer.status

    async def until(status: int) -> None:
        deadline = time.monotonic() + 60
        while await ready() != status:
            assert time.monotonic() < deadline, f"it is not {status}: {site.log()}"
            await asyncio.sleep(0.02)

    try:
        site.start_pod("a", 1)
        site.wait_for_pods()
        digest = site.write(routes())
        site.start_envoy()
        await site.wait_for_digest(digest)
        assert await ready() == 503, "no name leads to a pod"
        site.name("chat-pods", "a")
        await until(200)
        assert (await ask(client, site))["pod"] == "a"
        site.name("chat-pods", "")
        await until(503)
        site.write(replace(routes(), awaited=False))
        await until(200)  # nobody wants a pod
    finally:
        site.end()


async def test_a_killed_pod_is_not_noticed(site: Site) -> None:
    clients = Clients(site)
    await clients.until("a")
    await clients.until("b")
    site.kill_pod("b")
    await clients.until("a", 500)
    await clients.stop()


async def test_a_killed_pod_is_not_noticed_by_large_requests(site: Site) -> None:
    """They are kept until their answer begins."""
    clients = Clients(site, 3, body=bytes(3 * 1024 * 1024))
    await clients.until("a", 5)
    await clients.until("b", 5)
    site.kill_pod("b")
    await clients.until("a", 15)
    await clients.stop()


async def test_pods_come_and_go_by_their_name_alone(site: Site) -> None:
    site.start_pod("c", 1)
    assert site.pods["c"].stdout is not None
    site.pods["c"].stdout.readline()
    clients = Clients(site, 4)
    await clients.until("a")
    site.name("chat-pods", "bc")
    await clients.until("c")
    before = clients.answers["a"]
    await clients.until("b", 400)
    assert clients.answers["a"] - before < 50, "it was not asked any more after a moment, though it answers still"
    site.kill_pod("a")
    site.name("chat-pods", "c")
    await clients.until("c")
    await clients.stop()


async def test_a_pod_that_has_too_much_to_do_is_passed_over(site: Site, client: aiohttp.ClientSession) -> None:
    async with client.post(f"http://{site.pod_address('a')}:8000/turn?busy=1"):
        pass
    answers = Counter([(await ask(client, site))["pod"] for _ in range(50)])
    assert answers == {"b": 50}
    async with client.post(f"http://{site.pod_address('b')}:8000/turn?busy=1"):
        pass
    async with client.post(site.url(8000, "/infer")) as answer:
        assert (answer.status, await answer.json()) == (503, {"error": "busy"}), "in the pod's own words"


async def test_what_is_passed_on_and_told(site: Site, client: aiohttp.ClientSession) -> None:
    for port in (8000, 9000):
        async with client.post(site.url(port, "/stream")) as answer:
            came = [time.monotonic() async for _ in answer.content.iter_any()]
        assert len(came) == 5, "piece by piece, as they come"
        gaps = [later - earlier for earlier, later in pairwise(came)]
        assert sum(gaps) > 0.03, gaps  # one alone says nothing: who reads them may be held up himself

    large = 9 * 1024 * 1024
    assert (await ask(client, site, bytes(large)))["bytes"] == large, "it is too large to be kept, and passes"

    async with client.get(site.url(8003, envoy.METRICS_PATH)) as answer:
        page = await answer.text()
    assert 'envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="pods-http"} 2' in page
    assert 'envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="pods-openai"} 1' in page
    async with client.get(site.url(8003, "/config_dump")) as answer:
        assert answer.status == 404, "and nothing else"


async def until_set_is_known(site: Site, client: aiohttp.ClientSession, name: str) -> None:
    deadline, page = time.monotonic() + 60, ""
    while f'envoy_cluster_membership_healthy{{envoy_cluster_name="{name}-http"}} 1' not in page:
        assert time.monotonic() < deadline, page
        async with client.get(site.url(8003, envoy.METRICS_PATH)) as answer:
            page = await answer.text()
        await asyncio.sleep(0.02)


async def test_a_line_is_written_for_each_request_where_that_is_asked_for(
    site: Site, client: aiohttp.ClientSession
) -> None:
    await ask(client, site)
    await site.wait_for_digest(site.write(replace(routes(), access_log=True)))
    deadline, secret = time.monotonic() + 60, {"Authorization": "Bearer secret"}
    while not (lines := site.access_log()):
        assert time.monotonic() < deadline
        async with aiohttp.ClientSession() as other, other.post(site.url(8000, "/infer?key=secret"), headers=secret):
            pass
        await asyncio.sleep(0.2)
    told = {key: lines[0][key] for key in ("port", "method", "path", "status", "pods", "attempts", "requestBytes")}
    assert told == {
        "port": "http",
        "method": "POST",
        "path": "/infer",
        "status": 200,
        "pods": "pods-http",
        "attempts": 1,
        "requestBytes": 0,
    }
    assert lines[0]["pod"] in {f"{site.pod_address(pod)}:8000" for pod in "ab"}
    assert lines[0]["totalMs"] >= 5
    assert "secret" not in json.dumps(lines)


async def test_weights_are_exact_and_take_effect_at_once(site: Site, client: aiohttp.ClientSession) -> None:
    site.start_pod("c", 2)
    assert site.pods["c"].stdout is not None
    site.pods["c"].stdout.readline()
    site.name("chat-a", "ab")
    site.name("chat-b", "c")
    clients = Clients(site, 1)
    alike = (replace(A, weight=None), replace(B, weight=None))
    await site.wait_for_digest(site.write(routes(*alike)))
    await until_set_is_known(site, client, "b")
    asked = time.monotonic()
    await site.wait_for_digest(site.write(routes(A, B)))
    print(f"by the new files after {time.monotonic() - asked:.3f} s")
    pods = [(await ask(client, site))["version"] for _ in range(600)]
    assert 0.05 < Counter(pods)["2"] / 600 < 0.15, "four standard deviations beside 0.10"

    for how in ({"headers": {envoy.VERSION_HEADER: "2"}}, {"cookies": {"x": "y", envoy.VERSION_HEADER: "2", "z": "1"}}):
        assert {(await ask(client, site, **how))["version"] for _ in range(30)} == {"2"}, how
    async with client.post(site.url(8000, "/infer"), headers={envoy.VERSION_HEADER: "3"}) as answer:
        assert answer.status == 404
        assert await answer.json() == {
            "error": "no pod of pool chat serves the version that header x-aifactory-version names; served: 1, 2"
        }
    gone = {"cookies": {envoy.VERSION_HEADER: "3"}}
    assert (await ask(client, site, **gone))["version"] in ("1", "2"), "a cookie may be older than what is served"

    for weight in (0, 100, 50, 100):
        a, b = (envoy.Pods(one.name, one.host, one.versions, each) for one, each in ((A, 100 - weight), (B, weight)))
        await site.wait_for_digest(site.write(routes(a, b)))
    await clients.until("c", 20)  # what was under way before that has been answered
    seen = {pod: clients.answers[pod] for pod in "ab"}
    await clients.until("c", 100)
    assert {pod: clients.answers[pod] for pod in "ab"} == seen, "all are for the other set"
    await clients.stop()


async def test_it_starts_again_while_nobody_is_there(site: Site, client: aiohttp.ClientSession) -> None:
    assert site.envoy is not None
    site.envoy.kill()
    site.envoy.wait(10)
    site.start_envoy()
    text = (site.directory / "routes-status.json").read_text()
    digest = json.loads(text)["resources"][0]["virtual_hosts"][0]["routes"][0]["direct_response"]["body"]
    await site.wait_for_digest(digest["inline_string"])
    assert (await ask(client, site))["version"] == "1"


async def test_what_is_under_way_is_finished_before_it_ends(site: Site, client: aiohttp.ClientSession) -> None:
    async with client.post(site.url(9000, "/stream?tokens=20&seconds=0.1")) as answer:
        await answer.content.readany()
        drain = await asyncio.create_subprocess_exec("bash", str(site.directory / envoy.DRAIN), "0")
        await asyncio.sleep(0.3)
        async with client.post(site.url(8000, "/infer")) as other:
            assert other.headers["Connection"] == "close", "clients are asked to go"
        assert drain.returncode is None, "it waits for the stream"
        rest = await answer.content.read()
        assert rest.endswith(b"data: 19\n\n")
    assert await asyncio.wait_for(drain.wait(), 5) == 0


async def copy_to(site: Site, percent: int, version: int = 2) -> None:
    """Pod c gets copies of so many requests."""
    site.start_pod("c", version)
    site.wait_for_pods("c")
    site.name("chat-c", "c")
    await site.wait_for_digest(site.write(replace(routes(), mirror=envoy.Mirror(C, percent))))


async def until_copied(client: aiohttp.ClientSession, site: Site, count: int) -> dict[str, Any]:
    """Ask by one client until c has seen copies, and then as often as is told; returns what it has seen of those."""
    url = f"http://{site.pod_address('c')}:8000/seen"

    async def seen() -> dict[str, Any]:
        async with client.get(url) as answer:
            return dict(await answer.json())

    deadline = time.monotonic() + 30
    while not (await seen())["requests"]:
        assert time.monotonic() < deadline, site.log()
        await ask(client, site)
    before, last = -1, (await seen())["requests"]
    while before != last:  # what was copied before has come
        await asyncio.sleep(0.3)
        before, last = last, (await seen())["requests"]
    for _ in range(count):
        assert (await ask(client, site, b"x" * 100))["pod"] in ("a", "b")
    again = -1
    while again != last:
        await asyncio.sleep(0.3)
        again, last = last, (await seen())["requests"]
    return {**await seen(), "requests": last - before}


async def test_a_part_of_the_requests_is_copied_and_nobody_gets_the_answers(
    site: Site, client: aiohttp.ClientSession
) -> None:
    await copy_to(site, 30)
    found = await until_copied(client, site, 600)
    assert 120 <= found["requests"] <= 240, found
    assert found["hosts"] == [f"{site.address}:8000"], "as it was sent"
    async with client.post(site.url(8000, "/infer"), headers={envoy.VERSION_HEADER: "2"}) as answer:
        assert answer.status == 404, "nobody can ask for it either"


async def test_what_is_copied_is_sent_once_whatever_is_answered(site: Site, client: aiohttp.ClientSession) -> None:
    await copy_to(site, 100)
    async with client.post(f"http://{site.pod_address('c')}:8000/turn?busy=1") as answer:
        assert answer.status == 200
    found = await until_copied(client, site, 100)
    assert found["requests"] == 100, found


async def test_what_takes_copies_and_never_answers_harms_nobody(site: Site, client: aiohttp.ClientSession) -> None:
    """It hangs, under many clients and large requests; then it is killed."""
    await copy_to(site, 100)
    await until_copied(client, site, 1)
    site.pods["c"].send_signal(signal.SIGSTOP)
    for body in (b"x" * 100, b"x" * 2**21):
        clients = Clients(site, 16 if len(body) < 1000 else 4, body=body)
        for pod in "ab":
            await clients.until(pod, 500 if len(body) < 1000 else 50, seconds=10)
        async with client.get(site.url(8003, envoy.METRICS_PATH)) as answer:
            page = await answer.text()
        figure = 'envoy_cluster_upstream_cx_active{envoy_cluster_name="c-http"}'
        (active,) = [float(line.split()[-1]) for line in page.splitlines() if line.startswith(figure)]
        assert 0 < active <= 64
        await clients.stop()
    began = time.monotonic()
    async with client.post(site.url(8000, "/stream?tokens=5&seconds=0.05")) as answer:
        assert (await answer.text()).count("data:") == 5
    assert time.monotonic() - began < 5
    site.kill_pod("c")
    clients = Clients(site, 8)
    await clients.until("a", 300)
    await clients.stop()


STICKY = replace(routes(), prompt_bytes=64)


async def complete(client: aiohttp.ClientSession, site: Site, prompt: str, **more: Any) -> str:
    """Which pod answers."""
    body = {"model": "tiny", "max_tokens": 8, "prompt": prompt, "user": "u"}
    async with client.post(site.url(9000, "/v1/completions"), json=body, **more) as answer:
        assert answer.status == 200, await answer.text()
        found = await answer.json()
        return str(found["pod"])


async def test_prompts_that_begin_alike_go_to_the_same_pod(site: Site, client: aiohttp.ClientSession) -> None:
    await site.wait_for_digest(site.write(STICKY))
    beginnings = [f"{number:04} {'x' * 64}" for number in range(40)]
    by_pod: dict[str, set[str]] = {}
    for beginning in beginnings:
        pods = {await complete(client, site, f"{beginning} and {n}") for n in range(4)}
        assert len(pods) == 1, f"{beginning}: {pods}"
        by_pod.setdefault(pods.pop(), set()).add(beginning)
    assert set(by_pod) == {"a", "b"}, "each has some"
    assert min(map(len, by_pod.values())) >= 8
    name = {stickiness.HEADER: "conversation-1"}
    assert len({await complete(client, site, begin, headers=name) for begin in beginnings}) == 1, "by the client's word"

    large = {await complete(client, site, f"{beginnings[0]}{'y' * 600_000}") for _ in range(40)}
    assert large == {"a", "b"}, "too large to be looked at"

    site.name("chat-pods", "b")
    deadline = time.monotonic() + 30
    while "a" in {await complete(client, site, begin) for begin in beginnings}:
        assert time.monotonic() < deadline
    site.name("chat-pods", "ab")
    while {await complete(client, site, begin) for begin in by_pod["a"]} != {"a"}:
        assert time.monotonic() < deadline
    assert {await complete(client, site, begin) for begin in by_pod["b"]} == {"b"}


async def test_one_beginning_for_all_is_too_much_for_one_pod(site: Site) -> None:
    """And when a pod is killed nobody notices."""
    await site.wait_for_digest(site.write(STICKY))
    answers: Counter[str] = Counter()
    stop = False

    async def ask_on() -> None:
        async with aiohttp.ClientSession() as client:
            while not stop:
                answers[await complete(client, site, "the same beginning of all, which is long enough " * 2)] += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask_on()) for _ in range(8)]
        deadline = time.monotonic() + 30
        while min(answers["a"], answers["b"]) < 100:
            assert time.monotonic() < deadline, answers
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0.02)
        first = dict(answers)
        site.kill_pod("a")
        while answers["b"] < first["b"] + 300:
            assert time.monotonic() < deadline, answers
            await asyncio.sleep(0.02)
        stop = True


async def test_a_stream_comes_piece_by_piece_and_what_is_no_prompt_is_passed_on(
    site: Site, client: aiohttp.ClientSession
) -> None:
    await site.wait_for_digest(site.write(STICKY))
    async with client.post(site.url(9000, "/stream?tokens=5&seconds=0.1"), json={"prompt": "x" * 100}) as answer:
        arrived = [time.monotonic() async for piece in answer.content if piece.strip()]
    assert min(after - before for before, after in pairwise(arrived)) > 0.05, arrived
    for body in (b"", b"{", b'{"prompt"', b'{"prompt":', b"\xff\x00", b'{"messages": []}'):
        async with client.post(site.url(9000, "/v1/completions"), data=body) as answer:
            assert (answer.status, (await answer.json())["bytes"]) == (200, len(body))

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        yield b"x" * 100 + b'"}'

    async with client.post(site.url(9000, "/v1/completions"), data=pieces()) as answer:
        assert (await answer.json())["bytes"] == 114

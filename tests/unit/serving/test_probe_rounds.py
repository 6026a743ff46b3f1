"""The probe among serving pods that answer, fail and stay silent: what wakes a pool, and how often it asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from aifactory.api import names
from aifactory.api.inferencepool import Throughput
from aifactory.serving.probe import (
    INTERVAL_SECONDS,
    MAX_SILENCE_SECONDS,
    WINDOW_SECONDS,
    PoolKey,
    ServingBook,
    ServingPod,
    ServingProbe,
)
from tests.support.faketime import run

POOL, OTHER = ("ns", "chat"), ("ns", "other")
AGENT = f":{names.AGENT_PORT}/v1/status"
TRITON = f":{names.TRITON_METRICS_PORT}/metrics"


class Pods:
    """Serving pods and their answers; stands for the session as well."""

    def __init__(self) -> None:
        self.pods: list[ServingPod] = []
        self.answers: dict[str, Any] = {}
        """By URL without the scheme: text, JSON, or an exception."""
        self.asked: list[tuple[float, str]] = []
        self.woken: list[tuple[float, PoolKey]] = []
        self.book = ServingBook()
        self.probe = ServingProbe(book=self.book, pods=lambda: self.pods, wake=self._wake, monotonic=self.now)

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    def _wake(self, pool: PoolKey) -> None:
        self.woken.append((self.now(), pool))

    def add(self, name: str, *, ready: bool, pool: PoolKey = POOL) -> None:
        self.pods = [pod for pod in self.pods if pod.uid != name]
        self.pods.append(ServingPod(uid=name, address=name, pool=pool, ready=ready))

    def fails(self, name: str, *models: dict[str, Any]) -> None:
        """A pod that is not ready, whose agent says this."""
        self.add(name, ready=False)
        self.answers[name + AGENT] = {"models": list(models)}

    def counts(self, name: str, requests: int, tokens: int, pool: PoolKey = POOL) -> None:
        """A ready pod, whose Triton says this."""
        self.add(name, ready=True, pool=pool)
        counter = "# TYPE aifactory_generated_tokens_total counter\naifactory_generated_tokens_total"
        self.answers[name + TRITON] = (
            f'# TYPE nv_inference_request_success counter\nnv_inference_request_success{{m="x"}} {requests}\n'
            f'{counter}{{m="x"}} {tokens}\n'
        )

    @asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[Any]:
        address = url.removeprefix("http://")
        self.asked.append((self.now(), address))
        answer = self.answers.get(address)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise aiohttp.ClientConnectionError("nobody there")
        yield Answer(answer)

    def rounds(self, *steps: Callable[[], object] | None) -> None:
        """One round at each interval, each after what a step changes."""

        async def main() -> None:
            for step in steps:
                if step is not None:
                    step()
                await self.probe.round(self)  # type: ignore[arg-type]
                await asyncio.sleep(INTERVAL_SECONDS)

        run(main)


class Answer:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def raise_for_status(self) -> None:
        if self._answer == 500:
            raise aiohttp.ClientResponseError(None, (), status=500)  # type: ignore[arg-type]

    async def text(self) -> str:
        return str(self._answer)

    async def json(self) -> Any:
        return self._answer


FAILED = {"name": "m", "state": "Failed", "reason": "DigestMismatch", "message": "sha256 differs"}


def test_a_load_error_wakes_the_pool_once_and_its_end_once_more() -> None:
    pods = Pods()
    loading = {"name": "n", "state": "Loading"}
    second = {"state": "Failed", "message": "too big"}
    pods.rounds(
        lambda: pods.fails("a", loading),
        lambda: pods.fails("a", loading, FAILED),
        None,
        lambda: pods.fails("a", FAILED, second),
        lambda: pods.counts("a", 0, 0),
    )
    assert pods.woken == [(5.0, POOL), (15.0, POOL), (20.0, POOL)]
    assert pods.book.load_error("a") == ""


def test_the_agents_words_are_told() -> None:
    pods = Pods()
    pods.rounds(lambda: pods.fails("a", FAILED, {"state": "Failed"}))
    assert pods.book.load_error("a") == "DigestMismatch: sha256 differs; Failed: "
    assert pods.book.load_error("b") == ""


def test_figures_are_measured_over_the_window_and_only_news_wakes_the_pool() -> None:
    pods = Pods()
    per_round = 50  # requests in 5 s: ten a second

    def later(number: int) -> Callable[[], None]:
        def step() -> None:
            pods.counts("a", per_round * number, 100 * per_round * number)
            pods.counts("b", 0, 0)

        return step

    assert pods.book.throughput(POOL) is None
    pods.rounds(*(later(number) for number in range(8)))
    assert pods.woken == [(WINDOW_SECONDS, POOL)]
    assert pods.book.throughput(POOL) == Throughput(requests_per_second="10", tokens_per_second="1000")


def test_pools_have_figures_of_their_own() -> None:
    pods = Pods()

    def later(number: int) -> Callable[[], None]:
        def step() -> None:
            pods.counts("a", 5 * number, 0)
            pods.counts("b", 500 * number, 0, OTHER)

        return step

    pods.rounds(*(later(number) for number in range(4)))
    assert sorted(pods.woken) == [(WINDOW_SECONDS, POOL), (WINDOW_SECONDS, OTHER)]
    assert pods.book.throughput(POOL) == Throughput(requests_per_second="1", tokens_per_second="0")
    assert pods.book.throughput(OTHER) == Throughput(requests_per_second="100", tokens_per_second="0")


def test_a_pod_that_does_not_answer_is_asked_less_and_less_often() -> None:
    pods = Pods()
    pods.add("gone", ready=False)
    pods.counts("fine", 0, 0)
    pods.rounds(*[None] * 100)
    asked = [at for at, address in pods.asked if address == "gone" + AGENT]
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps == [5.0, 10.0, 20.0, 40.0, 80.0, MAX_SILENCE_SECONDS, MAX_SILENCE_SECONDS]
    assert sum(address == "fine" + TRITON for _, address in pods.asked) == 100
    assert pods.woken == [(WINDOW_SECONDS, POOL)], "the other pod's figures go on"


@pytest.mark.parametrize("answer", [500, TimeoutError(), ValueError("no JSON"), aiohttp.ClientError("reset")])
def test_silence_says_nothing_and_ends_with_the_first_answer(answer: Any) -> None:
    pods = Pods()

    def silent() -> None:
        pods.answers["a" + AGENT] = answer

    pods.rounds(lambda: pods.fails("a", FAILED), silent, None, lambda: pods.fails("a"), None, silent, None)
    assert pods.woken == [(0.0, POOL), (20.0, POOL)], "an error is told until the pod says that it is over"
    assert [at for at, _ in pods.asked] == [0.0, 5.0, 10.0, 20.0, 25.0, 30.0]


def test_pods_and_pools_that_are_gone_are_forgotten() -> None:
    pods = Pods()

    def later(number: int) -> Callable[[], None]:
        return lambda: (pods.fails("a", FAILED), pods.counts("b", number, 0), None)[-1]

    def gone() -> None:
        pods.pods = []

    pods.rounds(*(later(50 * number) for number in range(4)), gone)
    assert pods.book.load_error("a") == ""
    assert pods.book.throughput(POOL) is None
    assert (pods.probe._silent, pods.probe._latest, pods.probe._windows) == ({}, {}, {})


def test_a_restarted_pod_is_asked_at_once() -> None:
    pods = Pods()
    pods.add("old", ready=False)
    pods.rounds(None, None, None, lambda: setattr(pods, "pods", []), lambda: pods.add("old", ready=False))
    assert [at for at, _ in pods.asked] == [0.0, 5.0, 20.0]


def test_it_goes_on_after_a_mistake(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods()
    rounds = 0

    async def round_(session: aiohttp.ClientSession) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(pods.probe, "round", round_)

    async def main() -> None:
        task = asyncio.create_task(pods.probe.run())
        await asyncio.sleep(INTERVAL_SECONDS * 3 - 1)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main)
    assert rounds == 3
    assert caplog.text.count("probing serving pods failed") == 1

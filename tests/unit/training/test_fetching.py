"""How far an input is: asked of the pod that fetches it, and told in the status."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest

from aifactory.kube.resources import Key
from aifactory.training import fetching
from aifactory.training.fetching import CONCURRENCY, INTERVAL_SECONDS, FetchBook, FetchingPod, FetchProbe, read
from aifactory.training.state import Fetched
from tests.support import faketime
from tests.support.faketime import FakeClock


def fetcher(number: int) -> FetchingPod:
    return FetchingPod(f"uid-{number}", f"pod-{number}", f"10.0.0.{number}", Key("ns", f"job-{number}"))


class World:
    """Pods that fetch and answer at once, or not at all, and a probe that asks them on made-up time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pods: list[FetchingPod]) -> None:
        self.pods = pods
        self.answers: dict[str, Any] = {}
        self.takes = 0.001
        self.asked: list[str] = []
        self.busy = self.busiest = 0
        self.woken: list[Key] = []
        self.book = FetchBook()
        clock = FakeClock()
        monkeypatch.setattr(fetching, "fetch", self._fetch)
        self.probe = FetchProbe(
            book=self.book, pods=lambda: self.pods, wake=self.woken.append, monotonic=clock.monotonic
        )

    async def _fetch(self, session: Any, url: str) -> bytes:
        host = url.removeprefix("http://").removesuffix(":8081/v1/status")
        self.asked.append(host)
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        await asyncio.sleep(self.takes)
        self.busy -= 1
        answer = self.answers.get(host, b'{"bytes": 1, "totalBytes": 4}')
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)

    async def round(self) -> None:
        self.asked.clear()
        self.woken.clear()
        await self.probe.round(None)  # type: ignore[arg-type] # `fetch` is replaced


def run(monkeypatch: pytest.MonkeyPatch, pods: list[FetchingPod], story: Any) -> None:
    async def main() -> None:
        await story(World(monkeypatch, pods))

    faketime.run(main)


def test_a_job_is_woken_when_its_input_has_got_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(world: World) -> None:
        await world.round()
        assert world.woken == [Key("ns", "job-1")]
        assert world.book.get("uid-1") == Fetched(1, 4)
        await world.round()
        assert world.woken == [], "it stands where it stood"
        world.answers["10.0.0.1"] = b'{"bytes": 3, "totalBytes": 4, "phase": "Fetching"}'
        await world.round()
        assert world.woken == [Key("ns", "job-1")]
        world.pods = []
        await world.round()
        assert world.book.get("uid-1") is None
        assert not world.probe._asked, "of pods that are gone nothing is kept"

    run(monkeypatch, [fetcher(1)], story)


@pytest.mark.parametrize(
    "answer",
    [
        TimeoutError(),
        ValueError("too large"),
        aiohttp.ClientConnectionError("refused"),
        b"<html>",
        b'{"bytes": -1}',
        b'{"bytes": 1e400}',
        b'{"other": ' + b"[" * 9000,
    ],
    ids=lambda answer: str(answer)[:40],
)
def test_what_answers_badly_changes_nothing(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(world: World) -> None:
        await world.round()
        world.answers["10.0.0.1"] = answer
        await world.round()
        assert world.book.get("uid-1") == Fetched(1, 4)
        assert world.woken == [Key("ns", "job-2")] or world.woken == []
        assert len(world.asked) == 2, "the other one is asked all the same"

    run(monkeypatch, [fetcher(1), fetcher(2)], story)


def test_many_are_asked_a_few_at_a_time_and_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MOST", 100)

    async def story(world: World) -> None:
        await world.round()
        first = set(world.asked)
        assert len(first) == 100
        assert world.busiest == CONCURRENCY
        await asyncio.sleep(INTERVAL_SECONDS)
        await world.round()
        assert set(world.asked) >= {pod.address for pod in world.pods} - first

    run(monkeypatch, [fetcher(number) for number in range(150)], story)


def test_a_round_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(world: World) -> None:
        world.takes = 3.0
        await world.round()
        assert CONCURRENCY * 4 == len(world.asked) < len(world.pods)

    run(monkeypatch, [fetcher(number) for number in range(500)], story)


def test_an_answer_is_read_closely() -> None:
    assert read(b"{}") == Fetched(0, 0)
    assert read(b'{"bytes": 0, "totalBytes": 9223372036854775807}') == Fetched(0, 2**63 - 1)
    for size in (b'"many"', b"-1", b"9223372036854775808"):  # the API server has no larger numbers
        with pytest.raises(msgspec.ValidationError):
            read(b'{"totalBytes": ' + size + b"}")


@pytest.mark.parametrize(
    ("size", "total", "percent"), [(0, 0, None), (5, 0, None), (1, 3, 33), (50, 51, 98), (3, 3, 99), (9, 3, 99)]
)
def test_the_whole_is_told_by_the_end_alone(size: int, total: int, percent: int | None) -> None:
    assert Fetched(size, total).percent == percent


def test_it_goes_on_after_a_mistake(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FetchProbe(book=FetchBook(), pods=list, wake=lambda _: None, monotonic=FakeClock().monotonic)
    rounds = 0

    async def round_(session: Any) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(probe, "round", round_)

    async def main() -> None:
        task = asyncio.create_task(probe.run())
        await asyncio.sleep(INTERVAL_SECONDS * 3 - 1)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    faketime.run(main)
    assert rounds == 3
    assert caplog.text.count("asking pods that fetch failed") == 1

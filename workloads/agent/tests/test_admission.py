"""Who waits for a model and who is let in, over the socket that agent and OpenAI port share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aifactory_agent.openai.errors import ApiError
from aifactory_agent.openai.loading import Loading
from aifactory_agent.serve.admission import Admission
from aifactory_contract.desired import OnDemand

Story = Callable[[Admission, Loading], Awaitable[None]]
KNOWN = {"a": [1], "b": [2]}


def given(seconds: float = 30.0, requests: int = 2) -> OnDemand:
    return OnDemand(1, {}, seconds, requests)


def play(tmp_path: Path, story: Story) -> list[int]:
    """Run a story; returns how often the agent was woken."""
    woken: list[int] = []

    async def run() -> None:
        admission = Admission(lambda: woken.append(1))
        server = await admission.serve(tmp_path / "agent.sock")
        await story(admission, Loading(tmp_path / "agent.sock"))
        server.close()

    asyncio.run(run())
    return woken


async def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.005)


async def ask(loading: Loading, model: str, end: asyncio.Event) -> str:
    """A request of a client, under way until `end`."""
    try:
        async with loading.hold(model):
            await end.wait()
    except ApiError as error:
        return error.message if (error.status, error.retry_after) == (503, 1) else f"not 503: {error}"
    return ""


def test_a_request_waits_until_its_model_answers_and_keeps_it_in_use(tmp_path: Path) -> None:
    async def story(admission: Admission, loading: Loading) -> None:
        end = asyncio.Event()
        admission.settle(given(), KNOWN, frozenset({"b"}), {})
        first, other = (asyncio.create_task(ask(loading, model, end)) for model in "ab")
        await until(lambda: admission.waiting == {"a"} and admission.in_use == {"b"})
        admission.settle(given(), KNOWN, frozenset({"a"}), {})
        assert (admission.waiting, admission.held, admission.in_use) == (frozenset(), 0, {"a", "b"})
        before = time.monotonic()
        end.set()
        assert [await first, await other] == ["", ""]
        await until(lambda: not admission.in_use)
        assert all(admission.used[model] >= before for model in "ab")

    assert len(play(tmp_path, story)) >= 3, "for the one that waits, and as both are no longer in use"


def test_whoever_waits_too_long_or_is_one_too_many_is_told_so(tmp_path: Path) -> None:
    async def story(admission: Admission, loading: Loading) -> None:
        end = asyncio.Event()
        admission.settle(given(0.3), KNOWN, frozenset(), {})
        tasks = [asyncio.create_task(ask(loading, "a", end)) for _ in range(2)]
        await until(lambda: admission.held == 2)
        assert "loading.maxHeldRequests" in await ask(loading, "b", end)
        for task in tasks:
            assert "loading.holdSeconds" in await task
        assert (admission.held, admission.in_use) == (0, frozenset())

    play(tmp_path, story)


def test_a_model_that_can_not_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def story(admission: Admission, loading: Loading) -> None:
        end = asyncio.Event()
        admission.settle(given(), KNOWN, frozenset(), {})
        task = asyncio.create_task(ask(loading, "a", end))
        await until(lambda: admission.held == 1)
        admission.settle(given(), KNOWN, frozenset(), {"a": "broken weights"})
        assert await task == "model a can not be loaded: broken weights"
        assert await ask(loading, "a", end) == "model a can not be loaded: broken weights"

    play(tmp_path, story)


def test_clients_that_go_leave_nothing_behind(tmp_path: Path) -> None:
    async def story(admission: Admission, loading: Loading) -> None:
        end = asyncio.Event()
        admission.settle(given(), KNOWN, frozenset({"b"}), {})
        tasks = [asyncio.create_task(ask(loading, model, end)) for model in "ab"]
        await until(lambda: admission.held == 1 and admission.in_use == {"b"})
        for task in tasks:
            task.cancel()
        await until(lambda: admission.held == 0 and not admission.in_use)

    play(tmp_path, story)


@pytest.mark.parametrize("on_demand", [True, False])
def test_other_models_and_other_pods_are_none_of_its_business(tmp_path: Path, on_demand: bool) -> None:
    async def story(admission: Admission, loading: Loading) -> None:
        admission.settle(given() if on_demand else None, KNOWN, frozenset(), {})
        async with loading.hold("c" if on_demand else "a"):
            assert not admission.in_use
        assert await loading.models() == KNOWN

    play(tmp_path, story)


def test_without_an_agent_requests_go_on(tmp_path: Path) -> None:
    async def run() -> None:
        for socket in (tmp_path / "agent.sock", None):
            async with Loading(socket).hold("a"):
                assert await Loading(socket).models() == {}

    asyncio.run(run())


def test_an_agent_that_ends_while_somebody_waits_is_told_of(tmp_path: Path) -> None:
    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.close()

        server = await asyncio.start_unix_server(answer, tmp_path / "agent.sock")
        assert "restarted; ask again" in await ask(Loading(tmp_path / "agent.sock"), "a", asyncio.Event())
        server.close()

    asyncio.run(run())

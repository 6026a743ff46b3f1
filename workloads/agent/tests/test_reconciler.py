"""The reconciler beside a Triton and a volume that do what a test tells them: be late, hang, fail again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aifactory_agent.artifacts.stores import Mounts
from aifactory_agent.serve import reconciler as module
from aifactory_agent.serve.backoff import next_upkeep
from aifactory_agent.serve.metrics import Metrics
from aifactory_agent.serve.planner import Present
from aifactory_agent.serve.reconciler import Reconciler
from aifactory_agent.serve.triton import TooLate
from aifactory_contract.desired import ModelKey
from aifactory_contract.errors import FactoryError, Reason

DIGEST = "sha256:" + "0" * 64


class World:
    """A Triton, a volume and a desired.json in one; `fail` names the calls that fail, and how often still."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "desired.json"
        self.files: set[ModelKey] = set()
        self.running: dict[str, frozenset[int]] = {}
        self.configured: dict[str, frozenset[int]] = {}
        self.fail: dict[str, list[Any]] = {}
        self.calls: Counter[str] = Counter()
        self.noted: dict[str, list[int]] = {}
        self.bore: frozenset[ModelKey] = frozenset()
        self.answered = self.busy = 0
        """Requests of clients: answered so far, and from one look to the next."""
        self.want(1)

    def want(self, *versions: int, warm: int = 0) -> None:
        common = {"name": "m", "uri": "pvc://c/m", "digest": DIGEST, "format": "huggingface"}
        models = [{**common, "version": v} for v in versions]
        models += [{**common, "version": warm, "traffic": "warm"}] if warm else []
        document = {"revision": str(versions), "models": models}
        self.path.write_text(json.dumps(document))

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        count, error = self.fail.get(name, [0, None])
        if count:
            self.fail[name] = [count - 1, error]
            raise error

    # Triton
    async def serving(self) -> dict[str, frozenset[int]]:
        self._call("serving")
        return dict(self.running)

    async def load(self, name: str, _: float) -> None:
        self._call("load")
        self.running[name] = self.configured[name]

    async def unload(self, name: str) -> None:
        self._call("unload")
        self.running.pop(name, None)

    async def confirm(self, key: ModelKey, _: object) -> None:
        self._call("confirm")

    async def answers(self, _: ModelKey) -> int:
        self.answered += self.busy
        return self.answered

    # The volume
    def prepare(self) -> None: ...

    def present(self) -> dict[ModelKey, Present]:
        return {key: Present(DIGEST, "c") for key in self.files}

    def bearing(self) -> frozenset[ModelKey]:
        return self.bore

    def note_bearing(self, versions: frozenset[ModelKey]) -> None:
        self._call("note_bearing")
        self.bore = versions

    def add(self, spec: Any, *_: object) -> Present:
        self._call("fetch")
        self.files.add(spec.key)
        return Present(spec.digest, "c")

    def configure(self, name: str, versions: tuple[int, ...], _: object) -> None:
        self._call("configure")
        self.configured[name] = frozenset(versions)

    def how_served(self, _: object) -> None: ...

    def tell_serving(self, serving: dict[str, frozenset[int]]) -> None:
        self._call("tell_serving")
        self.noted = {name: sorted(versions) for name, versions in serving.items()}

    def identify(self, _: object) -> str:
        return "c"

    def remove(self, key: ModelKey) -> None:
        self._call("remove")
        self.files.discard(key)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("PERIOD_SECONDS", 0.02), ("STARTING_PERIOD_SECONDS", 0.02), ("CHECK_SECONDS", 0.05)):
        monkeypatch.setattr(module, name, seconds)


def play(world: World, story: Callable[[Reconciler], Any]) -> None:
    """Run a reconciler while a story goes on."""

    async def run() -> None:
        mounts = Mounts(world.path.parent)
        agent = Reconciler(world.path, world, world, mounts, Metrics(), 10)  # type: ignore[arg-type]
        work = asyncio.create_task(agent.run())
        try:
            await story(agent)
            assert not work.done(), work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(run())


async def until(what: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.005)


@pytest.mark.usefixtures("quick")
def test_one_late_answer_of_the_index_costs_no_traffic_but_two_do(tmp_path: Path) -> None:
    world = World(tmp_path)

    reasons: list[str] = []
    original = module.report

    def watched(*arguments: Any) -> Any:
        status = original(*arguments)
        reasons.append(status.reason)
        return status

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        for late in (1, 2):
            reasons.clear()
            world.fail["serving"] = [late, TooLate("late")]
            await until(lambda: not world.fail["serving"][0])
            await until(lambda: "Ready" in reasons[-2:])
            assert ("TritonUnavailable" in reasons) == (late == 2), reasons

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "report", watched)
        play(world, story)


@pytest.mark.usefixtures("quick")
def test_a_refused_connection_is_believed_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        world.fail["serving"] = [10**6, FactoryError(Reason.TRITON_UNAVAILABLE, "gone")]
        await until(lambda: not agent.status.ready and not agent.status.carries)

    play(world, story)


@pytest.mark.usefixtures("quick")
def test_a_version_that_hangs_is_loaded_anew_after_three_late_answers(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        world.fail["confirm"] = [2, TooLate("late")]
        await until(lambda: not world.fail["confirm"][0])
        await asyncio.sleep(0.2)
        assert agent.status.ready
        assert world.calls["load"] == 1, "two late answers are no reason"
        world.fail["confirm"] = [3, TooLate("late")]
        await until(lambda: agent.status.models[0].reason == "ConfirmFailed")
        assert "it hangs" in agent.status.models[0].message
        assert not agent.status.carries
        await until(lambda: world.calls["load"] == 2)
        await until(lambda: agent.status.ready)

    play(world, story)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("late", "loads"), [(2, 1), (3, 2)])
def test_a_version_whose_first_answer_takes_long_is_loaded_anew_after_three_late_ones(
    tmp_path: Path, late: int, loads: int
) -> None:
    world = World(tmp_path)
    world.fail["confirm"] = [late, TooLate("late")]

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        assert world.calls["load"] == loads

    play(world, story)


@pytest.mark.usefixtures("quick")
def test_a_version_that_is_late_because_it_answers_others_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.busy = 7

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        world.fail["confirm"] = [8, TooLate("late")]
        while world.fail["confirm"][0]:
            assert agent.status.ready
            await asyncio.sleep(0.005)
        assert world.calls["load"] == 1

    play(world, story)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("call", ["load", "configure", "unload", "remove"])
def test_what_can_not_be_taken_out_is_not_tried_without_a_pause(tmp_path: Path, call: str) -> None:
    world = World(tmp_path)

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        before = world.calls[call]
        if call in ("load", "configure"):
            world.running["m"] = frozenset({1, 9})  # 9 has to go, by a load that only drops
        else:
            world.path.write_text('{"revision": "r", "models": []}')
        world.fail[call] = [10**6, FactoryError(Reason.DISK_FULL, "full") if call != "remove" else OSError("read-only")]
        await until(lambda: world.calls[call] > before)
        confirmed = world.calls["confirm"]
        await asyncio.sleep(0.5)
        assert world.calls[call] - before <= 2, "a hot loop"
        if call in ("load", "configure"):
            assert world.calls["confirm"] > confirmed, "the version that runs is no longer looked after"
        world.fail.clear()
        await until(lambda: world.running.get("m", frozenset()) == ({1} if call in ("load", "configure") else set()))

    play(world, story)


@pytest.mark.usefixtures("quick")
def test_traffic_goes_on_while_the_next_version_loads_and_ready_means_that_the_name_answers_with_it(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        for wanted in (2, 1):  # the way back too: 2 answers by the name as long as it runs
            world.want(wanted)
            while not (agent.status.ready and agent.status.revision == f"({wanted},)"):
                assert agent.status.carries, agent.status
                if agent.status.revision == f"({wanted},)":
                    assert not agent.status.ready
                await asyncio.sleep(0.001)
            assert max(world.running["m"]) == wanted, f"{world.running} answers by the name"
        world.want(1, 3)
        world.fail["load"] = [1, FactoryError(Reason.LOAD_FAILED, "no")]
        await until(lambda: any(model.reason == "LoadFailed" for model in agent.status.models))
        assert agent.status.carries
        assert not agent.status.ready

    play(world, story)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("noted", [True, False])
def test_an_agent_or_a_triton_that_is_restarted_on_the_way_has_the_pod_answer_as_before(
    tmp_path: Path, noted: bool
) -> None:
    world = World(tmp_path)
    world.fail["note_bearing"] = [0 if noted else 1, FactoryError(Reason.DISK_FULL, "full")]

    async def first(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)

    async def second(agent: Reconciler) -> None:
        await until(lambda: agent.status.revision == "(2,)" and bool(agent.status.models[0].reason))
        if not noted:
            await until(lambda: world.calls["confirm"] > 1)
            assert not agent.status.carries
            return
        await until(lambda: agent.status.carries)
        loads = world.calls["load"]
        world.running = {}  # and so says its next index
        await until(lambda: world.calls["load"] > loads and agent.status.carries)
        assert world.running == {"m": {1}}
        assert not agent.status.ready
        world.fail.clear()
        await until(lambda: agent.status.ready)
        assert world.bore == {ModelKey("m", 2)}

    play(world, first)
    world.want(2, warm=1)
    world.fail["fetch"] = [10**6, FactoryError(Reason.STORE_UNAVAILABLE, "away")]
    play(world, second)


@pytest.mark.usefixtures("quick")
def test_a_version_that_does_not_load_does_not_seem_to_start_at_each_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, seen = World(tmp_path), list[str]()
    world.fail["load"] = [10**6, FactoryError(Reason.LOAD_FAILED, "no such layer")]
    load, original = world.load, module.report

    async def slow(*arguments: Any) -> None:
        await asyncio.sleep(0.1)  # some rounds
        await load(*arguments)

    def watched(*arguments: Any) -> Any:
        status = original(*arguments)
        seen.extend(str(model.state) for model in status.models)
        return status

    monkeypatch.setattr(world, "load", slow)
    monkeypatch.setattr(module, "report", watched)
    monkeypatch.setattr(module, "next_try", lambda *_, **__: 0.05)

    async def story(agent: Reconciler) -> None:
        await until(lambda: world.calls["load"] == 1)
        await until(lambda: "Loading" in seen[-1:])
        assert "Failed" not in seen, "the first may be an accident"
        await until(lambda: "Failed" in seen[-1:])
        tries = world.calls["load"]
        seen.clear()
        await until(lambda: world.calls["load"] == tries + 4)
        assert set(seen) == {"Failed"}
        world.fail.clear()
        await until(lambda: agent.status.ready)

    play(world, story)


@pytest.mark.usefixtures("quick")
def test_an_unreadable_wish_costs_no_traffic(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def story(agent: Reconciler) -> None:
        await until(lambda: agent.status.ready)
        for content in (b"{", b"\xff\xfe", b"[" * 100_000, b"[]"):
            world.path.write_bytes(content)
            await until(lambda: agent.status.reason == "InvalidDesired")
            assert agent.status.carries
            world.want(1)
            await until(lambda: agent.status.ready)

    play(world, story)


def test_a_pod_that_has_never_been_ready_carries_nothing(tmp_path: Path) -> None:
    """A new pod must not take traffic for two versions while it has one of them."""
    world = World(tmp_path)
    world.want(1, 2)
    world.fail["confirm"] = [10**6, TooLate("late")]

    async def story(agent: Reconciler) -> None:
        await until(lambda: world.calls["confirm"] > 0)
        assert not agent.status.carries

    play(world, story)


@pytest.mark.parametrize("turns", range(5))
def test_ends_also_when_something_finishes_in_the_same_moment(tmp_path: Path, turns: int) -> None:
    world = World(tmp_path)

    async def run() -> None:
        agent = Reconciler(world.path, world, world, Mounts(tmp_path), Metrics(), 10)  # type: ignore[arg-type]
        work = asyncio.create_task(agent.run())
        await until(lambda: agent.status.ready)
        await asyncio.sleep(0.1)
        agent._wake.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=0.5)
        assert done, "it goes on for ever"

    asyncio.run(run())


def test_taking_out_waits_longer_each_time() -> None:
    assert [next_upkeep(attempt) for attempt in (1, 2, 3, 7, 99)] == [1, 2, 4, 60, 60]


def test_what_runs_is_noted_before_anybody_is_told(quick: None, tmp_path: Path) -> None:
    world = World(tmp_path)
    noted: list[tuple[str, dict[str, list[int]]]] = []

    async def story(agent: Reconciler) -> None:
        for version in (1, 2, 1):
            world.want(version)
            await until(lambda version=version: agent.status.ready and agent.status.revision == f"({version},)")
            noted.append((agent.status.revision, dict(world.noted)))
        world.fail["tell_serving"] = [1, FactoryError(Reason.DISK_FULL, "full")]
        world.want(3)
        await until(lambda: agent.status.ready and agent.status.revision == "(3,)")

    play(world, story)
    assert [found["m"][-1:] for _, found in noted] == [[1], [2], [1]], "the highest that runs is the one that is told"

"""The reconcile loop: what is written, when, how often, and what every kind of failure ends in."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.engine.plan import Delete
from aifactory.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    ServerError,
    TooManyRequests,
    Unreachable,
)
from aifactory.kube.resources import PODS, Key, Resource
from tests.support.faketime import run, until
from tests.unit.engine.herd import HERDS, Farm
from tests.unit.memory_api import MemoryApi


async def settled(farm: Farm, seconds: float = 120.0) -> None:
    await until(lambda: farm.wanted() == farm.actual(), seconds=seconds, saw=lambda: (farm.wanted(), farm.actual()))


def test_children_are_created_and_one_status_is_written() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 3})
            await settled(farm)
            assert [verb for verb, _, _ in api.writes()] == ["create"] * 3 + ["patch_status"]
            assert asyncio.get_running_loop().time() < 2.0

    run(main)


def test_nothing_is_written_when_nothing_changed() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 3})
            await settled(farm)
            writes = len(api.writes())
            farm.controller.queue.add(Key("ns", "a"))
            api.cut_watches()
            await asyncio.sleep(3600)
            assert len(api.writes()) == writes

    run(main)


def test_changes_within_the_delay_cost_one_status_write_and_wait_no_longer_than_it() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            before = len(api.writes())
            for size in range(2, 12):  # ten edits in 0.9 s: each makes a pod, all share a status
                api.put(HERDS, "ns", "a", spec={"size": size})
                await asyncio.sleep(0.09)
            assert [verb for verb, _, _ in api.writes()[before:]] == ["create"] * 10
            await asyncio.sleep(0.15)
            assert farm.status("a")["observedGeneration"] == 11
            assert [verb for verb, _, _ in api.writes()[before:]] == ["create"] * 10 + ["patch_status"]

    run(main)


def test_a_difference_that_disappears_is_not_written() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            before = len(api.writes())
            api.drop(PODS, "ns", "a-0")
            await asyncio.sleep(10)
            assert farm.actual() == farm.wanted()
            assert [verb for verb, _, _ in api.writes()[before:]] == ["create"]

    run(main)


def test_what_is_always_due_at_once_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that found a key each time it asked never gave the event loop away: the process stood still."""

    async def main() -> None:
        farm, plans = Farm(MemoryApi()), 0

        def get(namespace: str, name: str) -> None:
            nonlocal plans
            plans += 1
            if plans < 1000:
                farm.controller.queue.add(Key(namespace, name))

        monkeypatch.setattr(farm.herds, "get", get)
        async with farm.running():
            farm.controller.queue.add(Key("ns", "a"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert 0 < plans < 100

    run(main)


@pytest.mark.parametrize(
    ("seconds", "at_most"),
    [
        pytest.param(0.001, 1 / 51, id="twenty times a second"),
        pytest.param(0.02, 1 / 11, id="a tenth of a core"),
        pytest.param(0.5, 2 / 3, id="a rest of a quarter of a second"),
    ],
)
def test_an_object_whose_decisions_take_long_rests_between_them(
    seconds: float, at_most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        api, loop, spent = MemoryApi(), asyncio.get_running_loop(), 0.0
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 3})
            await settled(farm)
            plan = farm.kind.plan

            def slow(*args: Any) -> Any:
                nonlocal spent
                spent += seconds
                loop.now += seconds  # type: ignore[attr-defined]
                return plan(*args)

            monkeypatch.setattr(farm.kind, "plan", slow)
            began = loop.time()
            while loop.time() < began + 30:
                farm.controller.queue.add(Key("ns", "a"))
                await asyncio.sleep(0.01)
            assert 0.8 * at_most < spent / (loop.time() - began) <= 1.05 * at_most
            api.put(HERDS, "ns", "a", spec={"size": 4})
            await settled(farm, seconds=5)

    run(main)


def test_the_time_that_writing_takes_counts_as_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api, loop, decided = MemoryApi(), asyncio.get_running_loop(), list[float]()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 3})
            await settled(farm)
            await asyncio.sleep(1)
            plan = farm.kind.plan

            async def before(verb: str, resource: Resource, name: str) -> None:
                await asyncio.sleep(0.2)

            api.before = before
            monkeypatch.setattr(farm.kind, "plan", lambda *view: decided.append(loop.time()) or plan(*view))
            api.put(HERDS, "ns", "a", spec={"size": 4})
            await asyncio.sleep(0.1)
            api.put(HERDS, "ns", "a", spec={"size": 5})
            await until(lambda: len(decided) == 2, seconds=5)
            assert decided[1] - decided[0] == pytest.approx(0.2)

    run(main)


def test_an_object_that_is_due_again_at_once_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api, loop, decided = MemoryApi(), asyncio.get_running_loop(), []
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 3})
            await settled(farm)
            plan = farm.kind.plan

            def slow(*args: Any) -> Any:
                decided.append(loop.time())
                loop.now += 0.02  # type: ignore[attr-defined]
                return dataclasses.replace(plan(*args), requeue_after=0 if len(decided) == 1 else None)

            monkeypatch.setattr(farm.kind, "plan", slow)
            farm.controller.queue.add(Key("ns", "a"))
            await until(lambda: len(decided) == 2, seconds=5)
            assert decided[1] - decided[0] < 0.03

    run(main)


def test_an_urgent_status_is_written_at_once_and_its_event_after_it() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.urgent = farm.kind.tells = True
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: any(kind == "Event" for _, kind, _ in api.calls), seconds=0.5, saw=lambda: api.calls)
            assert [(verb, kind) for verb, kind, _ in api.writes()][-2:] == [
                ("patch_status", "Herd"),
                ("create", "Event"),
            ]
            await asyncio.sleep(5)
            assert sum(kind == "Event" for _, kind, _ in api.writes()) == 1

    run(main)


def test_a_status_that_an_event_speaks_of_is_not_held_back() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.tells = True
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: any(kind == "Event" for _, kind, _ in api.calls), seconds=0.5, saw=lambda: api.calls)
            assert farm.status("a")["full"] is True

    run(main)


def test_a_status_write_wakes_everybody_but_its_writer() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.urgent = True
        told: list[str] = []
        farm.herds.subscribe(lambda change: told.append(change.origin))
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await settled(farm)
            await asyncio.sleep(10)
            assert told == ["", "herd"]
            assert len(farm.kind.plans) == 1

    run(main)


def test_a_stale_view_deletes_nothing_newer() -> None:
    """The pod that was seen is gone and its name taken by another: that one must live."""

    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            (old,) = farm.pods.all()
            api.stalled = True
            api.drop(PODS, "ns", "a-0")
            newer = api.put(PODS, "ns", "a-0")
            outcome = await farm.executor.run("ns", [Delete("Pod", "a-0", old.metadata.uid)])
            assert isinstance(outcome.passing, Conflict)
            assert api.objects[PODS][Key("ns", "a-0")]["metadata"]["uid"] == newer["metadata"]["uid"]

    run(main)


@pytest.mark.parametrize("urgent", [True, False])
def test_a_status_that_is_outdated_when_its_turn_comes_is_written_once_as_it_is_then(urgent: bool) -> None:
    async def main() -> None:
        api = MemoryApi()
        busy = asyncio.Event()

        async def before(verb: str, resource: Resource, name: str) -> None:
            if verb == "create" and name.startswith("big"):
                await busy.wait()

        api.before = before
        async with Farm(api, status_delay=0.0, workers=8).running() as farm:
            farm.kind.urgent = urgent
            for number in range(4):
                api.put(HERDS, "ns", f"big{number}", spec={"size": 24})  # together they take every place
            await asyncio.sleep(1.0)
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await asyncio.sleep(1.0)
            assert not farm.status("a"), "it waits for a place"
            api.put(HERDS, "ns", "a", spec={"size": 0, "colour": "black"})
            await asyncio.sleep(1.0)
            busy.set()
            await settled(farm)
            assert farm.status("a")["observedGeneration"] == 2
            assert api.writes().count(("patch_status", "Herd", "a")) == 1

    run(main)


@pytest.mark.parametrize(("write_seconds", "low", "high"), [(0.01, 0.9, 2.0), (0.2, 4.0, 15.0)])
def test_a_status_that_can_wait_waits_longer_when_the_api_server_has_too_much_to_do(
    write_seconds: float, low: float, high: float
) -> None:
    async def main() -> None:
        api = MemoryApi()
        loop, told = asyncio.get_running_loop(), []

        async def before(verb: str, resource: Resource, name: str) -> None:
            if verb == "patch_status":
                told.append(loop.time())
            elif verb == "create":
                await asyncio.sleep(write_seconds)

        api.before = before
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 60})
            await settled(farm)
            assert low < told[0] < high, told

    run(main)


@pytest.mark.parametrize("write_seconds", [0.0, 0.05, 2.0])
def test_what_can_wait_is_looked_at_late_when_the_api_server_has_too_much_to_do(
    write_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        api = MemoryApi()
        loop, looked = asyncio.get_running_loop(), asyncio.Event()

        async def before(verb: str, resource: Resource, name: str) -> None:
            await asyncio.sleep(write_seconds)

        api.before = before
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 20})
            await settled(farm)
            plan, asked = farm.kind.plan, loop.time()
            monkeypatch.setattr(farm.kind, "plan", lambda *view: looked.set() or plan(*view))
            wait = min(60 * farm.executor.write_seconds, 30)
            assert (wait > 0) == (write_seconds > 0)
            farm.controller.wake_later(Key("ns", "a"))
            await looked.wait()
            assert wait <= loop.time() - asked <= wait + 0.1

    run(main)


def test_a_stale_view_overwrites_no_status() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api, status_delay=0.0).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            api.lagging = {HERDS}
            api.put(HERDS, "ns", "a", status={"attempt": 7})  # somebody knows more than we do
            before = len(api.calls)
            api.drop(PODS, "ns", "a-0")  # and something happens from which our old view draws conclusions
            await asyncio.sleep(30)
            assert ("patch_status", "Herd", "a") in api.calls[before:]
            assert farm.status("a") == {"attempt": 7}
            api.lagging = set()
            await settled(farm)

    run(main)


def test_a_status_patch_holds_only_what_changed_and_removes_what_went() -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [Invalid(422, "Invalid", "spec.x: unknown")]
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: "error" in farm.status("a"), saw=lambda: farm.status("a"))
            await settled(farm)
            assert "error" not in farm.status("a")

    run(main)


@pytest.mark.parametrize("error", [Invalid(422, "Invalid", "pods are bad"), Forbidden(403, "Forbidden", "quota")])
def test_a_refused_child_ends_in_the_status_in_the_servers_words_and_not_in_a_hot_loop(error: KubeError) -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [error] * 10_000
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 2})
            await until(lambda: farm.status("a"), seconds=1.0)
            assert farm.status("a")["error"] == f"Pod a-0: {error.message}"  # type: ignore[attr-defined]
            await asyncio.sleep(600)
            assert len(api.writes()) < 70
            assert sum(verb == "patch_status" for verb, _, _ in api.writes()) == 1
            api.failures["create"].clear()
            await settled(farm)

    run(main)


def test_a_child_of_the_same_name_that_is_ours_is_taken_and_a_strangers_is_reported() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(PODS, "ns", "a-1", spec={"of": "somebody else"})
            api.put(HERDS, "ns", "a", spec={"size": 2})
            await until(lambda: farm.status("a"), seconds=1.0)
            assert farm.status("a")["error"].startswith("Pod a-1: ")
            api.drop(PODS, "ns", "a-1")
            await settled(farm)

            # Our own create that seemed to fail: the object is there, the answer was lost.
            real = api.create

            async def lossy(resource: Resource, body: object) -> bytes:
                await real(resource, body)  # type: ignore[arg-type]
                raise Unreachable("the answer was lost")

            api.stalled = True
            api.create = lossy  # type: ignore[method-assign, assignment]
            farm.herds.put(farm.herds.all()[0])
            api.stalled = False
            api.put(HERDS, "ns", "a", spec={"size": 3})
            await settled(farm)
            assert [key.name for key in api.objects[PODS]] == ["a-0", "a-1", "a-2"]

    run(main)


def test_passing_failures_are_tried_again_until_they_pass() -> None:
    async def main() -> None:
        api = MemoryApi()
        errors = [ServerError(500, "", "etcd"), TooManyRequests(429, "", "slow"), Unreachable("lost")] * 3
        api.failures["create"] = list(errors)
        api.failures["patch_status"] = [*errors, Conflict(409, "Conflict", "modified")]
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 2})
            await settled(farm)

    run(main)


def test_a_poisoned_object_is_logged_with_restraint_and_does_not_slow_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.poisoned.add("bad")
        async with farm.running():
            api.put(HERDS, "ns", "bad", spec={"size": 1})
            for number in range(1000):
                api.put(HERDS, "ns", "bad", spec={"size": 1, "touched": number})
                await asyncio.sleep(0.06)
                if number == 500:
                    api.put(HERDS, "ns", "good", spec={"size": 1})
                    await until(lambda: farm.status("good"), seconds=1.2)
            failed = farm.kind.plans.count(Key("ns", "bad"))
            assert failed >= 1000
            assert len([record for record in caplog.records if record.exc_info]) <= 12
            farm.kind.poisoned.clear()
            await settled(farm)

    with caplog.at_level(logging.ERROR):
        run(main)


def test_a_worker_survives_a_cancellation_that_was_not_meant_for_it() -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [asyncio.CancelledError()] * 8  # type: ignore[list-item]
        async with Farm(api, workers=1).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)

    run(main)


def test_requeue_after_comes_back_and_zero_comes_back_at_once() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.requeue_after = 30.0
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            before = len(farm.kind.plans)
            await asyncio.sleep(300)
            assert 9 <= len(farm.kind.plans) - before <= 11

    run(main)


def test_a_deleted_and_recreated_object_gets_its_own_children() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 2})
            await settled(farm)
            api.drop(HERDS, "ns", "a")
            for name in ("a-0", "a-1"):  # what garbage collection does
                api.drop(PODS, "ns", name)
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            owners = {body["metadata"]["ownerReferences"][0]["uid"] for body in api.objects[PODS].values()}
            assert owners == {api.objects[HERDS][Key("ns", "a")]["metadata"]["uid"]}

    run(main)


def test_stop_lets_reconciles_finish_and_starts_none() -> None:
    async def main() -> None:
        api = MemoryApi()
        gate = asyncio.Event()

        async def hold(verb: str, resource: Resource, name: str) -> None:
            if verb == "create":
                await gate.wait()

        farm = Farm(api)
        api.put(HERDS, "ns", "a", spec={"size": 1})
        api.before = hold
        tasks = [asyncio.create_task(informer.run()) for informer in farm.informers]
        working = asyncio.create_task(farm.controller.run())
        await until(lambda: ("create", "Pod", "a-0") in api.calls)
        stopping = asyncio.create_task(farm.controller.stop(10.0))
        await asyncio.sleep(1.0)
        assert not stopping.done()
        gate.set()
        await stopping
        await asyncio.wait_for(working, 1.0)
        assert Key("ns", "a-0") in api.objects[PODS]
        for task in tasks:
            task.cancel()

    run(main)


def test_many_children_leave_room_for_others() -> None:
    async def main() -> None:
        api = MemoryApi()
        running: list[str] = []
        most = 0

        async def slow(verb: str, resource: Resource, name: str) -> None:
            nonlocal most
            if verb == "create":
                running.append(name)
                most = max(most, len(running))
                await asyncio.sleep(0.1)
                running.remove(name)

        api.before = slow
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "big", spec={"size": 500})
            await until(lambda: running)
            api.put(HERDS, "ns", "small", spec={"size": 1})
            await until(lambda: Key("ns", "small-0") in api.objects[PODS], seconds=0.5, saw=lambda: running)
            await settled(farm)
            assert 16 <= most <= 32

    run(main)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_any_course_of_edits_and_faults_ends_in_what_was_declared(seed: int) -> None:
    """Also with a crash in between: a new process starts from nothing and ends the same."""

    async def story(api: MemoryApi, rng: random.Random, farm: Farm) -> None:
        for _ in range(rng.randrange(5, 40)):
            name = f"h{rng.randrange(4)}"
            key = Key("ns", name)
            match rng.randrange(10):
                case 0 | 1 | 2:
                    api.put(HERDS, "ns", name, spec={"size": rng.randrange(4)})
                case 3 if key in api.objects[HERDS]:
                    uid = api.objects[HERDS][key]["metadata"]["uid"]
                    api.drop(HERDS, "ns", name)
                    for pod, body in list(api.objects[PODS].items()):
                        if body["metadata"]["ownerReferences"][0]["uid"] == uid:
                            api.drop(PODS, *pod)
                case 4 | 5 if api.objects[PODS]:
                    api.drop(PODS, *rng.choice(list(api.objects[PODS])))
                case 6:
                    api.cut_watches()
                    if rng.random() < 0.5:
                        api.compact()
                case 7:
                    api.stalled = rng.random() < 0.5
                case _:
                    verb = rng.choice(["create", "delete", "patch_status", "list", "watch", "get"])
                    error = rng.choice([ServerError(500, "", "x"), Unreachable("x"), Conflict(409, "Conflict", "x")])
                    api.failures[verb].append(error)
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.5, 2.0, 100.0]))

    async def main() -> None:
        rng = random.Random(seed)
        api = MemoryApi(seed)
        for _ in range(rng.randrange(1, 4)):
            async with Farm(api, seed=seed).running() as farm:
                await story(api, rng, farm)
        async with Farm(api, seed=seed).running() as farm:
            api.stalled = False
            # Pods whose herd went away while nobody watched: the garbage collector's work, not the controller's.
            uids = {herd["metadata"]["uid"] for herd in api.objects[HERDS].values()}
            for pod, body in list(api.objects[PODS].items()):
                if body["metadata"]["ownerReferences"][0]["uid"] not in uids:
                    api.drop(PODS, *pod)
            await settled(farm, seconds=1000)
            writes = len(api.writes())
            await asyncio.sleep(1000)
            assert len(api.writes()) == writes, api.writes()[writes:]
            # Nobody is left who waits: all keys are well.
            assert len(farm.controller.queue) == 0

    run(main)


def test_a_child_that_the_watch_does_not_show_is_looked_at_again() -> None:
    """Its label was changed, so it left our view; without another look the herd would wait for ever."""

    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            api.put(HERDS, "ns", "b", spec={"size": 0})
            (child,) = farm.pods.all()
            farm.pods.remove(child)
            farm.pods.advance(str(api.version))
            await asyncio.sleep(300)
            looks = [call for call in api.calls if call == ("get", "Pod", "a-0")]
            assert 3 <= len(looks) <= 40
            api.drop(PODS, "ns", "a-0")
            await settled(farm)

    run(main)


def test_conflicts_on_create_that_vanish_are_looked_at_again() -> None:
    """AlreadyExists, and gone by the time we look: neither a success nor the user's problem."""

    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [AlreadyExists(409, "AlreadyExists", "a-0 already exists")]
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await settled(farm)
            assert "error" not in farm.status("a")

    run(main)

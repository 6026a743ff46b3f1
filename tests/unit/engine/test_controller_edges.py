"""The reconcile loop at its edges: what it forgets, what it tries again and when, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import logging
from datetime import timedelta
from typing import Any

import pytest

from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.engine.controller import Controller
from aifactory.engine.executor import Executor
from aifactory.engine.plan import Plan
from aifactory.kube.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    NotLeading,
    ServerError,
    Unreachable,
)
from aifactory.kube.resources import EVENTS, PODS, Key, Resource
from tests.support.faketime import EPOCH, run, until
from tests.support.herd import HERDS, Herd, HerdStatus, RestlessHerds
from tests.unit.engine.herd import Farm
from tests.unit.memory_api import MemoryApi

A = Key("ns", "a")


def now() -> float:
    return asyncio.get_running_loop().time()


async def written(farm: Farm, seconds: float = 60.0) -> float:
    """Wait for the first status; returns when it came."""
    await until(lambda: farm.status("a"), seconds=seconds)
    return now()


def test_a_conflict_is_tried_again_though_no_newer_view_comes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.urgent = True
        async with farm.running():
            api.failures["patch_status"] = [Conflict(409, "Conflict", "modified")] * 3
            api.put(HERDS, "ns", "a", spec={"size": 0})
            assert await written(farm) < 1.0
            assert api.calls.count(("patch_status", "Herd", "a")) == 4

    run(main)
    assert not caplog.records, "that somebody else was quicker is no failure"


def test_an_object_that_goes_away_under_a_write_is_forgotten() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.urgent = True
        async with farm.running():
            api.failures["patch_status"] = [ServerError(500, "", "x"), NotFound(404, "NotFound", "gone")]
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await until(lambda: api.calls.count(("patch_status", "Herd", "a")) >= 2)
            api.drop(HERDS, "ns", "a")
            await asyncio.sleep(1)
            asked = api.calls.count(("patch_status", "Herd", "a"))
            await asyncio.sleep(300)
            assert api.calls.count(("patch_status", "Herd", "a")) == asked, "nobody asks for what is gone"
            assert farm.controller.queue.failures(A) == 0

    run(main)


def test_of_a_deleted_object_neither_failures_nor_delays_are_remembered() -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [ServerError(500, "", "x")] * 5
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: farm.controller.queue.failures(A) >= 3)
            api.drop(HERDS, "ns", "a")
            await asyncio.sleep(1)
            assert farm.controller.queue.failures(A) == 0
            api.failures["create"].clear()

            api.put(HERDS, "ns", "a", spec={"size": 0})
            await asyncio.sleep(0.5)
            api.drop(HERDS, "ns", "a")
            await asyncio.sleep(5)
            made = now()
            api.put(HERDS, "ns", "a", spec={"size": 0})
            assert await written(farm) - made == pytest.approx(1.0, abs=0.05)

    run(main)


def test_a_delay_starts_anew_after_each_write() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            for size in range(3):
                changed = now()
                api.put(HERDS, "ns", "a", spec={"size": size})
                await until(lambda size=size: farm.status("a").get("pods") == size)  # type: ignore[misc]
                assert now() - changed == pytest.approx(1.0, abs=0.05)
                await asyncio.sleep(10)

    run(main)


def test_a_first_list_is_worked_on_in_the_background_and_its_own_writes_not_at_all() -> None:
    async def main() -> list[Key]:
        farm = Farm(MemoryApi())

        def put(name: str, **how: Any) -> None:
            metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"}
            farm.herds.put(custom.parser(Herd)({"metadata": metadata, "spec": {}}), **how)

        put("listed", background=True)
        put("ours", origin="herd")
        put("theirs", origin="other")
        queue = farm.controller.queue
        return [await queue.get() for _ in range(len(queue))]

    assert run(main) == [Key("ns", "theirs"), Key("ns", "listed")]


def test_a_refusal_is_tried_again_after_a_second_and_then_ever_later() -> None:
    async def main() -> list[float]:
        api, tries = MemoryApi(), []

        async def before(verb: str, resource: Resource, name: str) -> None:
            if verb == "create":
                tries.append(now())
                raise Invalid(422, "Invalid", "no")

        api.before = before
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await asyncio.sleep(40)
            assert farm.controller.queue.failures(A) == len(tries)
        return [after - earlier for earlier, after in itertools.pairwise(tries)]

    gaps = run(main)
    assert len(gaps) >= 4
    for number, gap in enumerate(gaps[:4]):
        assert 2.0**number <= gap <= 1.25 * 2.0**number


def test_a_refusal_is_tried_again_when_its_plan_is_due_if_that_is_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> int:
        api = MemoryApi()
        api.failures["create"] = [Forbidden(403, "Forbidden", "no")] * 1000
        farm = Farm(api)
        monkeypatch.setattr(farm.kind, "refused", lambda *_: Plan(HerdStatus(error="no"), requeue_after=10.0))
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await asyncio.sleep(300)
            before = len(farm.kind.plans)
            await asyncio.sleep(100)
            return len(farm.kind.plans) - before

    assert 9 <= run(main) <= 12


def test_what_a_refusals_plan_would_write_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [Forbidden(403, "Forbidden", "no")]
        farm = Farm(api)
        plan = farm.kind.plan

        def refused(observed: Any, errors: Any, moment: Any) -> Plan[HerdStatus]:
            wanted = plan(observed, moment)
            assert wanted is not None
            return Plan(HerdStatus(error=errors[0].message), wanted.writes, urgent=True)

        monkeypatch.setattr(farm.kind, "refused", refused)
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await written(farm)
            assert farm.status("a")["error"] == "Pod a-0: no"
            assert not api.objects[PODS]

    run(main)


def test_an_object_without_a_plan_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        monkeypatch.setattr(farm.kind, "plan", lambda *_: None)
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await asyncio.sleep(30)
            assert api.writes() == []
            assert farm.controller.queue.failures(A) == 0

    run(main)


def test_an_object_that_can_not_be_read_says_so_and_is_not_planned_for() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": "many"})
            assert await written(farm) == pytest.approx(1.0, abs=0.1), "it is no more urgent than other half-way states"
            (stalled,) = farm.status("a")["conditions"]
            assert (stalled["type"], stalled["reason"]) == ("Stalled", "InvalidSpec")
            assert farm.kind.plans == []

    run(main)


def test_an_event_is_about_the_object_and_is_told_also_when_its_status_was_written_before() -> None:
    async def main() -> dict[str, Any]:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.tells = True
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await until(lambda: api.objects[EVENTS])
        herd = api.objects[HERDS][A]
        (event,) = api.objects[EVENTS].values()
        assert event["regarding"]["uid"] == herd["metadata"]["uid"]
        return event

    event = run(main)
    assert event["regarding"] | {"uid": ""} == {
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": "Herd",
        "namespace": "ns",
        "name": "a",
        "uid": "",
    }
    assert (event["type"], event["reason"], event["note"], event["action"]) == (
        "Normal",
        "Full",
        "all 0 pods are there",
        "Reconcile",
    )


def test_an_event_about_a_status_that_is_there_already_is_told_at_once() -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await written(farm)
            writes = api.calls.count(("patch_status", "Herd", "a"))
            farm.kind.tells = True
            farm.controller.queue.add(A)
            await until(lambda: api.objects[EVENTS], seconds=1.0)
            assert api.calls.count(("patch_status", "Herd", "a")) == writes

    run(main)


def test_an_event_waits_for_the_status_it_speaks_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        farm.kind.tells = True
        outdated = True
        write = farm.executor.write_status

        async def write_status(*args: Any, **options: Any) -> bool:
            return False if outdated else await write(*args, **options)

        monkeypatch.setattr(farm.executor, "write_status", write_status)
        async with farm.running():
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await asyncio.sleep(5)
            assert not api.objects[EVENTS]
            outdated = False
            farm.controller.queue.add(A)
            await until(lambda: api.objects[EVENTS], seconds=1.0)

    run(main)


def test_a_difference_that_went_away_makes_the_next_one_no_more_urgent() -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: farm.status("a").get("full"))
            api.drop(PODS, "ns", "a-0")  # it is made again at once
            await asyncio.sleep(10)
            changed = now()
            api.put(HERDS, "ns", "a", spec={"size": 2})
            await until(lambda: farm.status("a").get("pods") == 2)
            assert now() - changed == pytest.approx(1.0, abs=0.05)

    run(main)


def test_plans_are_made_for_the_clocks_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        api = MemoryApi()
        farm = Farm(api)
        plan, moments = farm.kind.plan, []

        def noted(observed: Any, moment: Any) -> Any:
            moments.append(moment)
            return plan(observed, moment)

        monkeypatch.setattr(farm.kind, "plan", noted)
        async with farm.running():
            await asyncio.sleep(100)
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await written(farm)
        assert moments[0] == EPOCH + timedelta(seconds=100)

    run(main)


def test_it_needs_no_queue_clock_or_recorder_of_its_own() -> None:
    async def main() -> None:
        api, kind = MemoryApi(), RestlessHerds()
        kind.tells = True
        cluster = Cluster([kind])
        controller = Controller(kind, cluster, Executor(api, cluster.stores), workers=1)
        task = asyncio.create_task(controller.run())
        cluster.stored(HERDS).put(custom.parser(Herd)(api.put(HERDS, "ns", "a", spec={"size": 0})))
        await until(lambda: api.objects[HERDS][A].get("status"))
        assert not task.done()
        assert controller.queue.failures(A) == 0
        await controller.stop(1.0)
        await task

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "words"),
    [(asyncio.CancelledError(), "cancelled from inside"), (ValueError("a mistake"), "ValueError: a mistake")],
)
def test_a_mistake_of_ours_is_logged_with_where_it_happened(
    caplog: pytest.LogCaptureFixture, error: BaseException, words: str
) -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [error]  # type: ignore[list-item]
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: farm.status("a").get("full"))

    run(main)
    (record,) = caplog.records
    assert f"herd ns/a: {words}; failed 1 times so far" in record.getMessage()
    assert record.levelname == "ERROR"
    assert record.exc_info


def test_a_status_that_waited_for_its_turn_is_written_though_nothing_happened_since() -> None:
    async def main() -> None:
        api = MemoryApi()
        busy = asyncio.Event()

        async def before(verb: str, resource: Resource, name: str) -> None:
            if verb == "create" and name.startswith("big"):
                await busy.wait()

        api.before = before
        farm = Farm(api, status_delay=0.0, workers=8)
        async with farm.running():
            for number in range(4):
                api.put(HERDS, "ns", f"big{number}", spec={"size": 24})  # together they take every place
            await asyncio.sleep(1)
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await asyncio.sleep(1)
            assert not farm.status("a"), "it waits for a place"
            busy.set()
            await written(farm, seconds=5)

    run(main)


def test_stop_waits_no_longer_than_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> float:
        api = MemoryApi()

        async def hold(verb: str, resource: Resource, name: str) -> None:
            if verb == "create":
                await asyncio.sleep(3600)

        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            api.before = hold
            await until(lambda: ("create", "Pod", "a-0") in api.calls)
            started = now()
            await farm.controller.stop(5.0)
            return now() - started

    # The workers that wait end with the queue, the one that writes is cancelled by the test.
    assert run(main) == pytest.approx(5.0)
    assert "some reconciles did not end within 5 s" in caplog.text


def test_a_failure_that_lasts_is_told_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [ServerError(500, "", "etcd is away")] * 1000
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: farm.controller.queue.failures(A) >= 10, seconds=600)

    run(main)
    told = [record for record in caplog.records if "etcd is away" in record.getMessage()]
    assert [record.getMessage().partition("failed ")[2].partition(" times")[0] for record in told] == [
        "1",
        "2",
        "4",
        "8",
    ]
    assert {record.levelname for record in told} == {"WARNING"}
    assert not any(record.exc_info for record in told)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServerError(500, "", "failed calling webhook"), "failed calling webhook"),
        (Conflict(409, "Conflict", "exists, but is not shown"), "exists, but is not shown"),
        (None, "a mistake in the operator, RuntimeError: a is poisoned"),
    ],
)
def test_a_failure_that_lasts_is_told_in_the_status_until_it_passes(error: KubeError | None, words: str) -> None:
    """Nothing was said for as long as a webhook, or the operator itself, failed."""

    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            await asyncio.sleep(100)
            if error is None:
                farm.kind.poisoned.add("a")
            else:
                api.failures["create"] = [error] * 1000
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await asyncio.sleep(25)
            assert not farm.status("a"), "it may pass"
            await until(lambda: farm.status("a"), seconds=5.3)
            (told,) = farm.status("a")["conditions"]
            assert (told["type"], told["status"], told["reason"]) == ("Reconciling", "True", "FailureLasts")
            assert told["message"].endswith(words)
            await asyncio.sleep(600)
            assert [call[0] for call in api.writes()].count("patch_status") == 1, "once is enough"
            api.failures["create"].clear()
            farm.kind.poisoned.clear()
            await until(lambda: farm.status("a").get("full"), seconds=120)
            assert not farm.status("a")["conditions"], "what has passed is told no more"
            assert farm.controller.queue.failures(A) == 0, "the next failure is the first one"

    run(main)


def test_a_replica_that_does_not_lead_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [NotLeading("another one leads")] * 1000
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await asyncio.sleep(300)
            assert not any(verb == "patch_status" for verb, _, _ in api.calls)
            assert farm.controller.queue.failures(A) >= 10

    run(main)
    assert {(record.levelname, bool(record.exc_info)) for record in caplog.records} == {("WARNING", False)}


def test_that_something_fails_is_told_as_soon_as_it_can_be() -> None:
    async def main() -> None:
        api = MemoryApi()
        api.failures["create"] = [ServerError(500, "", "failed calling webhook")] * 1000
        api.failures["patch_status"] = [ServerError(500, "", "etcd is away")] * 6
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: farm.status("a"), seconds=300)
            assert farm.status("a")["conditions"][0]["message"].endswith("failed calling webhook")

    run(main)


def test_an_object_that_goes_away_while_it_fails_holds_nobody_up() -> None:
    async def main() -> None:
        api = MemoryApi()

        async def before(verb: str, resource: Resource, name: str) -> None:
            if name == "a-0":
                if now() > 60 and A in api.objects[HERDS]:
                    api.drop(HERDS, "ns", "a")
                    await asyncio.sleep(1)
                raise ServerError(500, "", "failed calling webhook")

        api.before = before
        async with Farm(api, workers=1).running():
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: A not in api.objects[HERDS], seconds=300)
            api.put(HERDS, "ns", "b", spec={"size": 1})
            await until(lambda: Key("ns", "b-0") in api.objects[PODS], seconds=5)

    run(main)


@pytest.mark.parametrize("between", ["a success", "another object of that name", "another leader"])
def test_only_what_fails_without_a_break_lasts(between: str) -> None:
    async def main() -> None:
        api = MemoryApi()
        async with Farm(api).running() as farm:

            async def fails_for_a_while() -> None:
                api.failures["create"] = [ServerError(500, "", "failed calling webhook")] * 1000
                await asyncio.sleep(25)
                assert not farm.status("a").get("conditions"), "it may pass"

            api.put(HERDS, "ns", "a", spec={"size": 1})
            await fails_for_a_while()
            match between:
                case "a success":
                    api.failures["create"].clear()
                    await until(lambda: farm.status("a").get("full"), seconds=60)
                    api.put(HERDS, "ns", "a", spec={"size": 2})
                case "another object of that name":
                    api.drop(HERDS, "ns", "a")
                    await asyncio.sleep(1)
                    api.put(HERDS, "ns", "a", spec={"size": 1})
                case "another leader":
                    farm.controller.start_over()
            await fails_for_a_while()

    run(main)


def test_who_leads_again_looks_at_everything_anew_behind_what_happens_meanwhile() -> None:
    async def main() -> None:
        farm = Farm(MemoryApi())
        queue, gone = farm.controller.queue, list[str]()
        farm.kind.gone = gone.append  # type: ignore[method-assign]
        metadata = {"name": "a", "namespace": "ns", "uid": "a-uid", "resourceVersion": "1"}
        farm.herds.put(custom.parser(Herd)({"metadata": metadata, "spec": {}}))
        queue.done(await queue.get())
        for _ in range(20):
            queue.add_rate_limited(A)
        farm.controller.start_over()
        assert queue.failures(A) == 0
        assert gone == ["a-uid"], "what a domain keeps of it may be wrong by now"
        queue.add(Key("ns", "b"))
        assert [await queue.get() for _ in range(2)] == [Key("ns", "b"), A]

    run(main)


def test_who_leads_again_gives_a_status_its_whole_delay() -> None:
    async def main() -> float:
        api = MemoryApi()
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 0})
            await asyncio.sleep(0.8)
            farm.controller.start_over()
            return await written(farm)

    assert run(main) == pytest.approx(1.8, abs=0.05)


def test_a_stray_not_found_does_not_forget_an_object(caplog: pytest.LogCaptureFixture) -> None:
    """Its key was dropped, and nothing woke it again."""

    async def main() -> None:
        api = MemoryApi()
        api.failures["patch_status"] = [NotFound(404, "NotFound", "stray")]
        async with Farm(api).running() as farm:
            api.put(HERDS, "ns", "a", spec={"size": 1})
            await until(lambda: farm.status("a").get("full"), seconds=60)

    run(main)
    assert not caplog.records, "an object that goes away under our hands is no failure"


def test_a_namespace_whose_webhook_hangs_does_not_hold_up_another_one() -> None:
    """All 32 places for writes were held: a job of four pods in another namespace waited for a minute."""

    async def main() -> None:
        api = MemoryApi()

        async def before(verb: str, resource: Resource, name: str) -> None:
            if verb == "create" and name.startswith("bad"):
                await asyncio.sleep(10)
                raise Unreachable("no answer")

        api.before = before
        async with Farm(api, workers=128).running():
            for number in range(10):
                api.put(HERDS, "bad", f"bad{number}", spec={"size": 32})
            await asyncio.sleep(30)
            api.put(HERDS, "ns", "a", spec={"size": 4})
            await until(lambda: sum(key.namespace == "ns" for key in api.objects[PODS]) == 4, seconds=1.0)

    run(main)

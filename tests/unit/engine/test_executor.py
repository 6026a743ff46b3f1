"""Writes: what each kind sends, which failures are none, which pass, and which a user must get to read."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from aifactory.engine.executor import MAX_PER_PLAN, STATUS_PATIENCE, Executor, Outcome
from aifactory.engine.plan import Apply, Create, Delete, DryRun, Patch, PatchStatus, Subject
from aifactory.kube.backoff import REQUEST
from aifactory.kube.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    NotLeading,
    ServerError,
    TooManyRequests,
    Unreachable,
)
from aifactory.kube.objects import Pod, decoder
from aifactory.kube.resources import PODS, Key, Resource
from aifactory.kube.retry import MAX_ATTEMPTS
from aifactory.kube.store import Change, Store
from tests.support.faketime import FakeClock, run
from tests.unit.memory_api import MemoryApi, encode

OWNER = {"apiVersion": "test.dev/v1", "kind": "Herd", "name": "h", "uid": "h-uid", "controller": True}


def body(name: str, *owners: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "ownerReferences": list(owners)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


class Yard:
    """An executor, its server and its store of pods."""

    def __init__(self, **options: Any) -> None:
        self.api = MemoryApi()
        self.store: Store[Pod] = Store(decoder(Pod))
        self.changes: list[Change[Pod]] = []
        self.store.subscribe(self.changes.append)
        self.executor = Executor(self.api, {PODS: self.store}, clock=FakeClock(), **options)

    def put(self, name: str, **metadata: Any) -> str:
        """Somebody makes a pod, and the watch shows it; returns its UID."""
        self.api.put(PODS, "ns", name, metadata={"name": name, "namespace": "ns", **metadata})
        self.show(name)
        return str(self.raw(name)["metadata"]["uid"])

    def raw(self, name: str) -> dict[str, Any]:
        return self.api.objects[PODS][Key("ns", name)]

    def show(self, name: str) -> None:
        metadata = self.raw(name)["metadata"]
        fields = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
        self.store.put(decoder(Pod)(encode({"metadata": fields})))

    @property
    def names(self) -> list[str]:
        return sorted(found.metadata.name for found in self.store.all())


# --- Several writes ---


def test_nothing_to_write_is_no_call() -> None:
    async def main() -> None:
        yard = Yard()
        assert await yard.executor.run("ns", []) == Outcome((), None)
        assert yard.api.calls == []

    run(main)


@pytest.mark.parametrize("count", [1, 2, MAX_PER_PLAN + 5])
def test_every_write_is_carried_out_and_its_answer_is_known_at_once(count: int) -> None:
    async def main() -> None:
        yard = Yard()
        writes = [Create(body(f"p{number}", OWNER)) for number in range(count)]
        assert await yard.executor.run("ns", writes) == Outcome((), None)
        assert len(yard.api.writes()) == len(yard.names) == count
        assert all(change.origin == "" for change in yard.changes)

    run(main)


def test_refusals_are_told_in_the_order_of_the_plan_and_the_other_writes_are_done() -> None:
    async def main() -> None:
        yard = Yard()

        async def before(verb: str, resource: Resource, name: str) -> None:
            if name == "bad-1":
                await asyncio.sleep(2)  # its answer comes last
                raise Invalid(422, "Invalid", "first")
            if name == "bad-2":
                raise Forbidden(403, "Forbidden", "second")
            if name == "busy":
                raise ServerError(500, "", "passing")

        yard.api.before = before
        writes = [Create(body(name, OWNER)) for name in ("bad-1", "fine", "busy", "bad-2")]
        outcome = await yard.executor.run("ns", writes)
        assert [error.message for error in outcome.refused] == ["Pod bad-1: first", "Pod bad-2: second"]
        assert [error.write for error in outcome.refused] == [writes[0], writes[3]]
        assert isinstance(outcome.passing, ServerError)
        assert yard.names == ["fine"]

    run(main)


def test_one_plan_leaves_room_for_others_and_all_together_have_a_bound() -> None:
    async def main() -> None:
        yard = Yard(max_in_flight=32)
        inside = most = 0

        async def before(verb: str, resource: Resource, name: str) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(1)
            inside -= 1

        yard.api.before = before
        plans = [[Create(body(f"p{plan}-{number}", OWNER)) for number in range(40)] for plan in range(2)]
        await yard.executor.run("ns", plans[0])
        assert most == MAX_PER_PLAN
        assert asyncio.get_running_loop().time() == 2.0
        await asyncio.gather(
            yard.executor.run("ns", plans[1]), yard.executor.run("other", [Create(body("one", OWNER))] * 12)
        )
        assert most == 30

    run(main)


# --- Failures ---


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (Unreachable("away"), True),
        (NotLeading("second"), True),
        (ServerError(500, "", "x"), True),
        (TooManyRequests(429, "", "x"), True),
        (Conflict(409, "Conflict", "x"), True),
        (Invalid(422, "Invalid", "x"), False),
        (Forbidden(403, "Forbidden", "x"), False),
        (NotFound(404, "NotFound", "no such namespace"), False),
    ],
)
def test_what_passes_and_what_is_a_refusal(error: KubeError, passes: bool) -> None:
    async def main() -> None:
        yard = Yard()
        yard.api.failures["create"] += [error] * MAX_ATTEMPTS
        write = Create(body("a", OWNER))
        outcome = await yard.executor.run("ns", [write])
        assert (outcome.passing is error) is passes
        assert [(found.write, found.error) for found in outcome.refused] == ([] if passes else [(write, error)])

    run(main)


# --- Creates ---


def test_what_exists_already_and_is_ours_is_taken() -> None:
    async def main() -> None:
        yard = Yard()
        other = {**OWNER, "uid": "other", "controller": False}
        yard.put("a", ownerReferences=[other, OWNER])
        assert await yard.executor.run("ns", [Create(body("a", OWNER))]) == Outcome((), None)

    run(main)


@pytest.mark.parametrize(
    "owners",
    [[], [{**OWNER, "uid": "other"}], [{**OWNER, "controller": False}]],
    ids=["nobody's", "another's", "not controlled"],
)
@pytest.mark.parametrize("shared", [False, True])
def test_what_belongs_to_somebody_else_is_a_refusal_unless_it_is_shared(
    owners: list[dict[str, Any]], shared: bool
) -> None:
    async def main() -> None:
        yard = Yard()
        yard.put("a", ownerReferences=owners)
        before = yard.raw("a")
        outcome = await yard.executor.run("ns", [Create(body("a", OWNER), shared=shared)])
        assert [type(found.error) for found in outcome.refused] == ([] if shared else [AlreadyExists])
        assert outcome.passing is None
        assert yard.raw("a") == before

    run(main)


def test_an_object_of_nobody_is_not_ours_because_we_name_no_owner_either() -> None:
    async def main() -> None:
        yard = Yard()
        yard.put("a")
        outcome = await yard.executor.run("ns", [Create(body("a"))])
        assert [type(found.error) for found in outcome.refused] == [AlreadyExists]

    run(main)


def test_what_exists_and_was_not_known_yet_is_known_then() -> None:
    async def main() -> None:
        yard = Yard()
        yard.api.put(PODS, "ns", "a", metadata={"name": "a", "namespace": "ns", "ownerReferences": [OWNER]})
        assert await yard.executor.run("ns", [Create(body("a", OWNER))]) == Outcome((), None)
        assert yard.names == ["a"]

    run(main)


def test_what_exists_and_the_watch_does_not_show_is_looked_at_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        yard = Yard()
        yard.api.put(PODS, "ns", "a", metadata={"name": "a", "namespace": "ns", "ownerReferences": [OWNER]})
        yard.store.advance("1000")
        outcome = await yard.executor.run("ns", [Create(body("a", OWNER))])
        assert isinstance(outcome.passing, Conflict)
        assert outcome.passing.status == 409
        assert outcome.passing.message == "Pod ns/a exists, but the watch does not show it"

    run(main)
    assert "were its labels changed" in caplog.text


def test_what_several_share_is_taken_as_it_is_though_no_watch_shows_it() -> None:
    """A claim that a person made, without our labels and long ago, was looked at again for ever."""

    async def main() -> None:
        yard = Yard()
        yard.api.put(PODS, "ns", "a", metadata={"name": "a", "namespace": "ns"})
        yard.store.advance("1000")
        assert await yard.executor.run("ns", [Create(body("a"), shared=True)]) == Outcome((), None)
        assert yard.names == ["a"]

    run(main)


def test_what_exists_without_our_labels_is_not_taken_for_what_a_watch_would_show() -> None:
    async def main() -> None:
        yard = Yard()
        wanted = body("a", OWNER)
        wanted["metadata"]["labels"] = {"app": "ours"}
        yard.api.put(PODS, "ns", "a", metadata={"name": "a", "namespace": "ns", "ownerReferences": [OWNER]})
        outcome = await yard.executor.run("ns", [Create(wanted)])
        assert isinstance(outcome.passing, Conflict)
        assert yard.names == []

    run(main)


def test_what_was_there_and_is_gone_is_looked_at_again() -> None:
    async def main() -> None:
        yard = Yard()
        yard.api.failures["create"].append(AlreadyExists(409, "AlreadyExists", "taken"))
        outcome = await yard.executor.run("ns", [Create(body("a", OWNER))])
        assert isinstance(outcome.passing, Conflict)
        assert outcome.passing.message == "a was there and is gone: look again"

    run(main)


def test_an_answer_that_can_not_be_read_does_not_undo_the_write(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        yard = Yard()
        write = Create({**body("a", OWNER), "status": {"phase": 7}})
        assert await yard.executor.run("ns", [write]) == Outcome((), None)
        assert yard.names == []

    run(main)
    assert "the answer to a write of pods could not be read" in caplog.text


# --- Deletes ---


def test_a_deletion_is_known_at_once_and_nothing_late_brings_the_object_back() -> None:
    async def main() -> None:
        yard = Yard()
        uid = yard.put("a")
        (seen,) = yard.store.all()
        assert await yard.executor.run("ns", [Delete("Pod", "a", uid)]) == Outcome((), None)
        assert yard.names == []
        assert yard.changes[-1].new is None
        assert not yard.store.put(seen)

    run(main)


def test_what_is_gone_already_is_deleted_and_known_to_be() -> None:
    """The watch is late: without the store's learning of it the next plan would delete it again."""

    async def main() -> None:
        yard = Yard()
        uid = yard.put("a")
        yard.api.drop(PODS, "ns", "a")
        assert await yard.executor.run("ns", [Delete("Pod", "a", uid)]) == Outcome((), None)
        assert yard.names == []
        assert await yard.executor.run("ns", [Delete("Pod", "a", uid)]) == Outcome((), None)

    run(main)


def test_an_object_that_ends_slowly_is_kept_as_ending() -> None:
    async def main() -> None:
        yard = Yard()
        uid = yard.put("a", finalizers=["test.dev/wait"])
        assert await yard.executor.run("ns", [Delete("Pod", "a", uid)]) == Outcome((), None)
        (found,) = yard.store.all()
        assert found.metadata.deletion_timestamp is not None

    run(main)


def test_only_the_incarnation_that_was_seen_is_deleted() -> None:
    async def main() -> None:
        yard = Yard()
        yard.put("a")
        outcome = await yard.executor.run("ns", [Delete("Pod", "a", "another-uid")])
        assert isinstance(outcome.passing, Conflict)
        assert yard.names == ["a"]
        assert Key("ns", "a") in yard.api.objects[PODS]

    run(main)


# --- Patches and statuses ---


def test_a_patch_is_merged_and_what_is_gone_needs_none() -> None:
    async def main() -> None:
        yard = Yard()
        yard.put("a")
        write = Patch("Pod", "a", {"metadata": {"labels": {"l": "1"}}})
        assert await yard.executor.run("ns", [write]) == Outcome((), None)
        (found,) = yard.store.all()
        assert found.metadata.labels == {"l": "1"}
        yard.api.drop(PODS, "ns", "a")
        assert await yard.executor.run("ns", [write]) == Outcome((), None)

    run(main)


def test_a_status_of_ours_and_anothers_is_merged_only_as_it_was_seen() -> None:
    async def main() -> None:
        yard = Yard()
        yard.put("a")
        version = yard.store.all()[0].metadata.resource_version
        write = PatchStatus("Pod", "a", {"phase": "Running", "reason": None}, version)
        assert await yard.executor.run("ns", [write]) == Outcome((), None)
        assert yard.store.all()[0].status.phase == "Running"
        assert yard.api.writes()[-1][0] == "patch_status"
        assert isinstance((await yard.executor.run("ns", [write])).passing, Conflict)
        yard.api.drop(PODS, "ns", "a")
        assert await yard.executor.run("ns", [write]) == Outcome((), None)

    run(main)


def test_exactly_the_incarnation_that_was_seen_is_applied() -> None:
    async def main() -> None:
        yard = Yard()
        uid = yard.put("a")
        wanted = {**body("a", OWNER), "spec": {"nodeName": "n"}}
        assert await yard.executor.run("ns", [Apply(wanted, uid)]) == Outcome((), None)
        assert yard.store.all()[0].spec.node_name == "n"
        assert isinstance((await yard.executor.run("ns", [Apply(wanted, "another")])).passing, Conflict)
        yard.api.drop(PODS, "ns", "a")
        assert isinstance((await yard.executor.run("ns", [Apply(wanted, uid)])).passing, Conflict)
        assert not yard.api.objects[PODS], "what is gone is not made again"

    run(main)


def subject(yard: Yard, status: dict[str, Any]) -> Subject:
    metadata = yard.raw("a")["metadata"]
    return Subject(Key("ns", "a"), metadata["uid"], metadata["resourceVersion"], status)


def test_a_status_is_written_as_a_difference_and_says_whose_it_was() -> None:
    async def main() -> None:
        yard = Yard()
        yard.put("a")
        old = {"phase": "Pending", "message": "old"}
        before = subject(yard, old)
        assert await yard.executor.write_status(PODS, before, {"phase": "Running"}, origin="herd") is True
        assert yard.raw("a")["status"] == {"phase": "Running"}
        assert (yard.changes[-1].origin, yard.changes[-1].object.status.phase) == ("herd", "Running")
        with pytest.raises(Conflict):
            await yard.executor.write_status(PODS, before, {"phase": "Failed"}, origin="herd")
        yard.api.drop(PODS, "ns", "a")
        with pytest.raises(NotFound):
            await yard.executor.write_status(PODS, before, {"phase": "Failed"}, origin="herd")

    run(main)


def test_a_status_gives_way_to_writes_for_two_seconds_and_may_be_outdated_by_then() -> None:
    async def main() -> None:
        yard = Yard(max_in_flight=1)
        yard.put("a")
        order: list[str] = []

        async def before(verb: str, resource: Resource, name: str) -> None:
            order.append(verb if verb == "patch_status" else name)
            await asyncio.sleep(1)

        yard.api.before = before

        async def create(name: str, after: float) -> None:
            await asyncio.sleep(after)
            await yard.executor.run("ns", [Create(body(name, OWNER))])

        async def status(outdated: bool) -> bool:
            await asyncio.sleep(0.1)
            found = subject(yard, {})
            return await yard.executor.write_status(
                PODS, found, {"phase": "Running"}, origin="herd", outdated=lambda: outdated
            )

        written, outdated, *_ = await asyncio.gather(
            status(False),
            status(True),
            create("first", 0.0),
            create("second", 0.5),
            create("third", 1.5),
            create("late", 0.2 + STATUS_PATIENCE),
        )
        assert (written, outdated) == (True, False)
        assert order == ["first", "second", "third", "patch_status", "late"]

    run(main)


def test_a_status_that_had_to_wait_is_written_unless_somebody_says_that_it_is_outdated() -> None:
    async def main() -> None:
        yard = Yard(max_in_flight=1)
        yard.put("a")

        async def before(verb: str, resource: Resource, name: str) -> None:
            await asyncio.sleep(1)

        yard.api.before = before
        wanted = {"phase": "Running"}
        _, written = await asyncio.gather(
            yard.executor.run("ns", [Create(body("first", OWNER))]),
            yard.executor.write_status(PODS, subject(yard, {}), wanted, origin="herd"),
        )
        assert written is True
        assert yard.raw("a")["status"] == wanted

    run(main)


def test_it_measures_with_the_clock_it_is_given() -> None:
    class Stopped(FakeClock):
        def monotonic(self) -> float:
            return 0.0

    async def main() -> None:
        yard = Yard()
        executor = Executor(yard.api, {PODS: yard.store}, clock=Stopped())

        async def before(verb: str, resource: Resource, name: str) -> None:
            await asyncio.sleep(1)

        yard.api.before = before
        await executor.run("ns", [Create(body("a", OWNER))])
        assert executor.write_seconds == 0.0

    run(main)


def test_it_knows_what_a_write_takes() -> None:
    async def main() -> None:
        yard = Yard()
        assert yard.executor.write_seconds == 0.0

        async def before(verb: str, resource: Resource, name: str) -> None:
            await asyncio.sleep(1)

        yard.api.before = before
        await yard.executor.run("ns", [Create(body("a", OWNER))])
        assert yard.executor.write_seconds > 0.05

    run(main)


def test_a_cancelled_run_is_cancelled() -> None:
    async def main() -> None:
        yard = Yard()

        async def before(verb: str, resource: Resource, name: str) -> None:
            await asyncio.sleep(60)

        yard.api.before = before
        running = asyncio.create_task(yard.executor.run("ns", [Create(body(name, OWNER)) for name in ("a", "b", "c")]))
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not yard.api.objects[PODS]

    run(main)


def test_a_write_that_waits_to_be_sent_again_holds_no_place() -> None:
    """Four tries with their pauses held a place of 32 throughout."""

    async def main() -> None:
        yard = Yard(max_in_flight=1)
        yard.api.failures["create"] = [TooManyRequests(429, "", "slow down", retry_after=5.0)]
        waits = asyncio.create_task(yard.executor.run("ns", [Create(body("waits"))]))
        await asyncio.sleep(1.0)
        started = asyncio.get_running_loop().time()
        assert await yard.executor.run("ns", [Create(body("quick"))]) == Outcome((), None)
        assert asyncio.get_running_loop().time() - started < 0.5
        assert await waits == Outcome((), None)
        assert yard.names == ["quick", "waits"]

    run(main)


def test_when_a_call_is_sent_again_is_spread_by_chance() -> None:
    class Late(random.Random):
        def random(self) -> float:
            return 1.0

    async def main() -> None:
        async def wait(**options: Any) -> float:
            yard, started = Yard(**options), asyncio.get_running_loop().time()
            yard.api.failures["create"] = [TooManyRequests(429, "", "slow down")]
            assert await yard.executor.run("ns", [Create(body("a", OWNER))]) == Outcome((), None)
            return round(asyncio.get_running_loop().time() - started, 6)

        assert await wait(rng=Late()) == pytest.approx(REQUEST.base * (1 + REQUEST.jitter))
        assert len({await wait() for _ in range(5)}) > 1

    run(main)


def test_what_was_cancelled_from_inside_was_not_done() -> None:
    """A task group took it for done: three creates were lost, and with them a job's pods."""

    async def main() -> None:
        yard = Yard()
        yard.api.failures["create"] = [asyncio.CancelledError()] * 2  # type: ignore[list-item]
        outcome = await yard.executor.run("ns", [Create(body(name, OWNER)) for name in ("a", "b", "c")])
        assert isinstance(outcome.passing, Unreachable)
        assert str(outcome.passing) == "it was cancelled from inside"
        assert await yard.executor.run("ns", [Create(body(name, OWNER)) for name in ("a", "b", "c")]) == Outcome(
            (), None
        )
        assert yard.names == ["a", "b", "c"]

    run(main)


# --- Dry runs ---


def test_a_dry_run_makes_nothing_and_tells_what_a_creation_would() -> None:
    async def main() -> None:
        yard = Yard()
        dry = DryRun(body("p", OWNER))
        assert await yard.executor.run("ns", [dry]) == Outcome((), None)
        assert (yard.names, yard.api.objects[PODS], yard.changes) == ([], {}, [])
        yard.api.failures["dry run"] = [Forbidden(403, "Forbidden", "no such service account")]
        (refused,) = (await yard.executor.run("ns", [dry])).refused
        assert (refused.write, refused.message) == (dry, "Pod p: no such service account")

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        AlreadyExists(409, "AlreadyExists", "p exists"),
        BadRequest(400, "BadRequest", 'admission webhook "mesh" does not support dry run'),
        ServerError(503, "ServiceUnavailable", "etcd has no leader"),
    ],
)
def test_what_a_dry_run_can_not_find_out_holds_nothing_up(answer: KubeError) -> None:
    async def main() -> None:
        yard = Yard()
        yard.api.failures["dry run"] = [answer]
        assert await yard.executor.run("ns", [DryRun(body("p", OWNER))]) == Outcome((), None)

    run(main)


def test_a_dry_run_of_what_makes_no_sense_is_refused() -> None:
    async def main() -> None:
        yard = Yard()
        yard.api.failures["dry run"] = [BadRequest(400, "BadRequest", 'unknown field "imagePullPolcy"')]
        outcome = await yard.executor.run("ns", [DryRun(body("p", OWNER))])
        assert [error.message for error in outcome.refused] == ['Pod p: unknown field "imagePullPolcy"']

    run(main)

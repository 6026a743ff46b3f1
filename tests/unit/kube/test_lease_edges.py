"""One replica of an election, step by step: what it writes, when it tries, and what it believes after a failure."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

from aifactory.kube.errors import AlreadyExists, Conflict, Forbidden, Unreachable
from aifactory.kube.lease import LeaderElection, LeaseConfig, LeaseObject
from aifactory.kube.resources import LEASES, Key, Resource
from tests.support.faketime import FakeClock, run, until
from tests.unit.memory_api import Body, MemoryApi

KEY = Key("ns", "operator")


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


def replica(api: MemoryApi, name: str = "me", **config: Any) -> LeaderElection:
    settings = {"namespace": "ns", "name": "operator", "identity": name, "address": f"{name}:1", **config}
    return LeaderElection(api, LeaseConfig(**settings), clock=FakeClock(), rng=NoJitter())


def lease(api: MemoryApi) -> Body:
    return api.objects[LEASES][KEY]


def put(api: MemoryApi, holder: str | None, **spec: Any) -> None:
    """A lease as another replica, or client-go, left it."""
    fields = {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3, **spec}
    api.put(LEASES, "ns", "operator", spec=fields)


def delayed(verb: str, seconds: float, times: int = 1) -> Callable[[str, Resource, str], Any]:
    """Calls of a verb take so long."""
    left = times

    async def before(called: str, resource: Resource, name: str) -> None:
        nonlocal left
        if called == verb and left:
            left -= 1
            await asyncio.sleep(seconds)

    return before


def now() -> float:
    return asyncio.get_running_loop().time()


# --- What is written ---


def test_a_new_lease_says_what_it_is() -> None:
    async def main() -> None:
        api, sent = MemoryApi(), []
        create = api.create

        async def spy(resource: Resource, body: Any) -> bytes:
            sent.append(body)
            return await create(resource, body)

        api.create = spy  # type: ignore[method-assign]
        await replica(api).acquire()
        (body,) = sent
        assert (body["apiVersion"], body["kind"]) == ("coordination.k8s.io/v1", "Lease")
        assert body["metadata"] == {
            "name": "operator",
            "namespace": "ns",
            "annotations": {"aifactory.dev/address": "me:1"},
        }

    run(main)


def test_it_needs_no_clock_and_no_dice_of_its_own() -> None:
    async def main() -> None:
        api = MemoryApi()
        put(api, "")
        api.failures["patch"].append(Conflict(409, "Conflict", "changed"))
        await LeaderElection(api, LeaseConfig("ns", "operator", identity="me", retry=0.02)).acquire()
        assert lease(api)["spec"]["renewTime"] > "2026"

    asyncio.run(main())


def test_a_new_lease_is_complete() -> None:
    async def main() -> Body:
        api = MemoryApi()
        await asyncio.sleep(2.5)
        election = replica(api)
        assert not election.leading
        assert election.leader_address == ""
        await election.acquire()
        assert election.leading
        assert election.leader_address == "me:1"
        assert now() == 2.5, "a lease that is not there is taken at once"
        return lease(api)

    found = run(main)
    assert (found["apiVersion"], found["kind"]) == ("coordination.k8s.io/v1", "Lease")
    assert found["metadata"]["annotations"] == {"aifactory.dev/address": "me:1"}
    assert found["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:02.500000Z",
        "renewTime": "2026-01-01T00:00:02.500000Z",
        "leaseTransitions": 0,
    }


@pytest.mark.parametrize(("duration", "written"), [(15.4, 15), (0.4, 1)])
def test_the_duration_is_written_in_whole_seconds_of_at_least_one(duration: float, written: int) -> None:
    async def main() -> None:
        api = MemoryApi()
        await replica(api, duration=duration, renew_deadline=duration * 0.9, retry=0.2).acquire()
        assert lease(api)["spec"]["leaseDurationSeconds"] == written

    run(main)


def test_a_renewal_says_when_and_keeps_the_rest() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        await election.acquire()
        first = lease(api)["spec"]
        holding = asyncio.create_task(election.hold())
        await asyncio.sleep(5)
        second = lease(api)["spec"]
        assert second == {**first, "renewTime": "2026-01-01T00:00:04.000000Z"}
        holding.cancel()

    run(main)


@pytest.mark.parametrize("transitions", [3, None])
def test_taking_over_counts_a_transition_and_starts_anew(transitions: int | None) -> None:
    async def main() -> None:
        api = MemoryApi()
        put(api, "", acquireTime="2025-01-01T00:00:00.000000Z", leaseTransitions=transitions)
        await asyncio.sleep(1)
        await replica(api).acquire()
        spec = lease(api)["spec"]
        assert spec["leaseTransitions"] == (transitions or 0) + 1
        assert spec["acquireTime"] == spec["renewTime"] == "2026-01-01T00:00:01.000000Z"

    run(main)


def test_after_a_restart_under_its_name_a_replica_goes_on_where_it_was() -> None:
    async def main() -> None:
        api = MemoryApi()
        put(api, "me", acquireTime="2025-01-01T00:00:00.000000Z")
        await replica(api).acquire()
        assert now() == 0.0
        assert lease(api)["spec"]["acquireTime"] == "2025-01-01T00:00:00.000000Z"
        assert lease(api)["spec"]["leaseTransitions"] == 3

        put(api, "me", acquireTime=None)
        await replica(api).acquire()
        assert lease(api)["spec"]["acquireTime"] == "2026-01-01T00:00:00.000000Z"

    run(main)


def test_a_lease_given_up_can_be_taken_at_once_and_keeps_its_count() -> None:
    async def main() -> None:
        api = MemoryApi()
        put(api, "", leaseTransitions=3)
        first, second = replica(api, "first"), replica(api, "second")
        await first.acquire()
        assert await second._try("take") is False
        assert second.leader_address == "first:1"
        await first.release()
        assert not first.leading
        assert lease(api)["spec"] | {"acquireTime": "", "renewTime": ""} == {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": "",
            "renewTime": "",
            "leaseTransitions": 4,
        }
        await second.acquire()
        assert now() == 0.0
        assert lease(api)["spec"]["leaseTransitions"] == 5

    run(main)


def test_only_a_leader_gives_the_lease_up() -> None:
    async def main() -> None:
        api = MemoryApi()
        await replica(api, "fresh").release()
        assert api.calls == []

        first, second = replica(api, "first"), replica(api, "second")
        await first.acquire()
        await second._try("take")
        await second.release()
        assert lease(api)["spec"]["holderIdentity"] == "first"
        await first.release()
        writes = len(api.writes())
        await first.release()
        assert len(api.writes()) == writes

    run(main)


def test_a_successor_is_not_disturbed_by_a_late_release() -> None:
    async def main() -> None:
        api = MemoryApi()
        first = replica(api, "first")
        await first.acquire()
        put(api, "second")
        await first.release()
        assert lease(api)["spec"]["holderIdentity"] == "second"
        assert not first.leading

    run(main)


@pytest.mark.parametrize("error", [Unreachable("away"), Forbidden(403, "Forbidden", "no")])
def test_a_release_that_fails_ends_leadership_all_the_same(error: Exception) -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        await election.acquire()
        api.failures["patch"].append(error)
        written = len(api.writes())
        await election.release()
        assert not election.leading
        assert len(api.writes()) == written + 1, "nobody is kept waiting"

    run(main)


def test_a_release_costs_one_write() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        await asyncio.create_task(election.acquire())
        before = len(api.calls)
        await election.release()
        assert [verb for verb, _, _ in api.calls[before:]] == ["patch"]

    run(main)


def test_a_lease_that_somebody_annotated_is_given_up_all_the_same() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        await election.acquire()
        api.put(LEASES, "ns", "operator", metadata={**lease(api)["metadata"], "labels": {"a": "b"}})
        await election.release()
        assert lease(api)["spec"]["holderIdentity"] == ""

    run(main)


def test_a_release_waits_no_longer_than_a_renewal_would() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        await election.acquire()
        api.before = delayed("patch", 60.0)
        await election.release()
        assert now() == pytest.approx(election.config.retry)

    run(main)


# --- When it is taken ---


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        ({}, 15.0),
        ({"leaseDurationSeconds": 40}, 40.0),
        ({"leaseDurationSeconds": 3}, 3.0),
        ({"leaseDurationSeconds": None}, 15.0),
        ({"leaseDurationSeconds": 0}, 15.0),
    ],
)
@pytest.mark.parametrize("retry", [2.0, 0.8])
def test_a_silent_lease_is_taken_at_the_moment_it_runs_out(spec: dict[str, Any], taken: float, retry: float) -> None:
    async def main() -> float:
        api = MemoryApi()
        put(api, "dead", **spec)
        await replica(api, retry=retry).acquire()
        assert lease(api)["spec"]["leaseTransitions"] == 4
        return now()

    assert run(main) == pytest.approx(taken, abs=0.001 if retry == 2.0 else 0.051)


@pytest.mark.parametrize("holder", ["", None])
def test_a_lease_without_a_holder_is_taken_at_once(holder: str | None) -> None:
    async def main() -> float:
        api = MemoryApi()
        put(api, holder)
        election = replica(api)
        await election.acquire()
        return now()

    assert run(main) == 0.0


def test_who_waits_looks_twice_as_often_as_a_leader_renews() -> None:
    async def main() -> list[float]:
        api = MemoryApi()
        put(api, "other")
        looks: list[float] = []

        async def before(verb: str, resource: Resource, name: str) -> None:
            if verb == "get":
                looks.append(now())

        api.before = before
        waiting = asyncio.create_task(replica(api).acquire())
        await asyncio.sleep(4.5)
        waiting.cancel()
        return looks

    assert run(main) == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0])


def test_waiting_is_spread_by_a_fifth() -> None:
    async def main() -> float:
        api = MemoryApi()
        put(api, "other")
        election = LeaderElection(
            api, LeaseConfig("ns", "operator", identity="me"), clock=FakeClock(), rng=random.Random(1)
        )
        waits: list[float] = []

        async def before(verb: str, resource: Resource, name: str) -> None:
            waits.append(now())

        api.before = before
        waiting = asyncio.create_task(election.acquire())
        await asyncio.sleep(14)
        waiting.cancel()
        gaps = [after - earlier for earlier, after in itertools.pairwise(waits)]
        assert all(1.0 <= gap <= 1.2 for gap in gaps)
        return max(gaps) - min(gaps)

    assert run(main) > 0.02


def test_each_change_of_the_lease_starts_the_wait_anew() -> None:
    async def main() -> float:
        api = MemoryApi()
        put(api, "other")
        waiting = asyncio.create_task(replica(api).acquire())
        await asyncio.sleep(10)
        put(api, "other", renewTime="later")
        await waiting
        return now()

    assert 25.0 <= run(main) <= 26.1


def test_the_address_of_a_leader_is_known_to_those_who_wait_and_nobody_is_none() -> None:
    async def main() -> None:
        api = MemoryApi()
        first, second = replica(api, "first"), replica(api, "second")
        await first.acquire()
        await second._try("take")
        assert second.leader_address == "first:1"
        await first.release()
        found = lease(api)
        metadata = {**found["metadata"], "annotations": {"aifactory.dev/address": "first:1"}}
        api.put(LEASES, "ns", "operator", metadata=metadata)
        waiting = asyncio.create_task(second._look())
        await waiting
        assert second.leader_address == "", "nobody holds it, whatever address was left in it"
        api.drop(LEASES, "ns", "operator")
        put(api, "stranger")  # its lease has no annotation
        await second._try("take")
        assert second.leader_address == ""

    run(main)


def test_of_two_who_take_a_free_lease_one_wins_and_the_other_sees_whom() -> None:
    async def main() -> None:
        api = MemoryApi()
        put(api, "")
        elections = [replica(api, "a"), replica(api, "b")]
        won = await asyncio.gather(*(election._try("take") for election in elections))
        assert sorted(won) == [False, True]
        winner = elections[won.index(True)]
        loser = elections[won.index(False)]
        assert [winner.leading, loser.leading] == [True, False]
        assert loser.leader_address == winner.leader_address == f"{winner.config.identity}:1"

    run(main)


def test_of_two_who_create_the_lease_one_wins() -> None:
    async def main() -> None:
        api = MemoryApi()
        elections = [replica(api, "a"), replica(api, "b")]
        won = await asyncio.gather(*(election._try("take") for election in elections))
        assert sorted(won) == [False, True]
        assert {election.leader_address for election in elections} == {
            f"{elections[won.index(True)].config.identity}:1"
        }

    run(main)


def test_an_api_server_that_does_not_answer_is_asked_again() -> None:
    async def main() -> float:
        api = MemoryApi()
        api.before = delayed("get", 3600.0)
        await replica(api).acquire()
        return now()

    assert run(main) == pytest.approx(10.0 + 1.0)  # the deadline of one try, then the usual wait


@pytest.mark.parametrize("error", [Unreachable("away"), Forbidden(403, "Forbidden", "not yet")])
def test_a_lease_that_can_not_be_read_is_tried_again(error: Exception) -> None:
    async def main() -> float:
        api = MemoryApi()
        api.failures["get"] += [error, error]
        await replica(api).acquire()
        return now()

    assert run(main) == pytest.approx(2.0)


def test_a_look_at_a_lease_that_is_not_there_finds_nothing() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        assert not election.undisturbed
        await election.look()
        await election.acquire()
        assert election.leading
        assert not election.undisturbed, "somebody may have led and removed it"

    run(main)


# --- How it is held and lost ---


async def leading(api: MemoryApi) -> tuple[LeaderElection, asyncio.Task[None]]:
    election = replica(api)
    await election.acquire()
    return election, asyncio.create_task(election.hold())


def test_a_leader_renews_on_top_of_what_it_reads_after_a_conflict() -> None:
    """Somebody annotates the lease: the next renewal fails, and the one after it must know the new version."""

    async def main() -> None:
        api = MemoryApi()
        election, holding = await leading(api)
        for _ in range(10):
            found = lease(api)
            metadata = {**found["metadata"], "annotations": {**found["metadata"]["annotations"], "t": str(now())}}
            api.put(LEASES, "ns", "operator", metadata=metadata)
            await asyncio.sleep(6)
            assert election.leading
        assert not holding.done()
        holding.cancel()

    run(main)


@pytest.mark.parametrize("error", [Conflict(409, "Conflict", "changed"), AlreadyExists(409, "AlreadyExists", "there")])
def test_a_look_after_a_conflict_that_fails_or_hangs_does_no_harm(error: Exception) -> None:
    async def main() -> None:
        api = MemoryApi()
        election, holding = await leading(api)
        api.failures["patch"].append(error)
        api.failures["get"].append(Unreachable("away"))
        await asyncio.sleep(5)
        assert election.leading
        api.failures["patch"].append(error)
        api.before = delayed("get", 3600.0)
        await asyncio.sleep(9)
        assert election.leading
        assert not holding.done()
        holding.cancel()

    run(main)


def test_a_leader_that_can_not_renew_stops_before_anybody_else_may_start() -> None:
    async def main() -> float:
        api = MemoryApi()
        election, holding = await leading(api)
        api.failures["patch"] += [Unreachable("away")] * 100
        await asyncio.sleep(9.9)
        assert election.leading
        loop: Any = asyncio.get_running_loop()
        loop.now = 10.0
        assert not election.leading, "it knows without having to be told"
        await holding
        assert api.writes().count(("patch", "Lease", "operator")) >= 4
        return now()

    assert run(main) == pytest.approx(10.0)


def test_the_last_second_is_used_for_a_renewal_too() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api, duration=8.0, renew_deadline=5.0)
        await election.acquire()
        holding = asyncio.create_task(election.hold())
        api.failures["patch"].append(Unreachable("away"))
        await asyncio.sleep(8)
        assert election.leading
        assert not holding.done()
        holding.cancel()

    run(main)


def test_a_renewal_that_hangs_is_given_up_in_time() -> None:
    async def main() -> float:
        api = MemoryApi()
        _, holding = await leading(api)
        api.before = delayed("patch", 3600.0, times=100)
        await holding
        return now()

    assert run(main) == pytest.approx(10.0, abs=0.1)


def test_a_leader_whose_machine_was_paused_knows_it_at_once() -> None:
    async def main() -> None:
        api = MemoryApi()
        election, holding = await leading(api)
        loop: Any = asyncio.get_running_loop()
        await asyncio.sleep(1)
        loop.now += 60.0  # nothing ran meanwhile
        assert not election.leading
        before = len(api.writes())
        await holding
        assert len(api.writes()) == before, "and does not renew what others may hold"

    run(main)


def test_a_lease_taken_by_another_ends_leadership_at_the_next_renewal() -> None:
    async def main() -> float:
        api = MemoryApi()
        election, holding = await leading(api)
        put(api, "other")
        await holding
        assert not election.leading
        assert lease(api)["spec"]["holderIdentity"] == "other"
        return now()

    assert run(main) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("holder", ["", None, "me"])
def test_a_lease_that_somebody_emptied_is_taken_back(holder: str | None) -> None:
    async def main() -> None:
        api = MemoryApi()
        election, holding = await leading(api)
        put(api, holder)
        await until(lambda: lease(api)["spec"].get("renewTime"), seconds=6)
        assert lease(api)["spec"]["holderIdentity"] == "me"
        assert election.leading
        assert not holding.done()
        holding.cancel()

    run(main)


def test_leadership_that_was_lost_can_be_won_again() -> None:
    async def main() -> None:
        api = MemoryApi()
        election, holding = await leading(api)
        put(api, "other")
        await holding
        await election.acquire()
        assert election.leading
        assert lease(api)["spec"]["holderIdentity"] == "me"
        assert 15 <= now() <= 19

    run(main)


@pytest.mark.parametrize(
    "times",
    [
        {"duration": 10.0, "renew_deadline": 10.0},
        {"renew_deadline": 2.0, "retry": 2.0},
        {"retry": 0.0},
        {"retry": -1.0},
    ],
)
def test_times_that_could_make_two_leaders_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="two replicas could lead"):
        LeaseConfig("ns", "operator", identity="a", **times)  # type: ignore[arg-type]


def test_times_are_written_in_utc() -> None:
    class Elsewhere(FakeClock):
        def now(self) -> datetime:
            return datetime.fromisoformat("2026-01-01T02:00:00+02:00")

    async def main() -> None:
        api = MemoryApi()
        config = LeaseConfig("ns", "operator", identity="me")
        await LeaderElection(api, config, clock=Elsewhere()).acquire()
        assert lease(api)["spec"]["renewTime"] == "2026-01-01T00:00:00.000000Z"

    run(main)


@pytest.mark.parametrize(
    ("seconds", "tries"), [(0.0, [2.0, 2.5, 3.0]), (3600.0, [2.0, 2.0 + 10 / 3 + 0.5])], ids=["refused", "hangs"]
)
def test_a_renewal_that_failed_is_tried_again_sooner(seconds: float, tries: list[float]) -> None:
    async def main() -> list[float]:
        api, found = MemoryApi(), list[float]()
        _, holding = await leading(api)

        async def before(verb: str, resource: Resource, name: str) -> None:
            found.append(now())
            await asyncio.sleep(seconds)
            raise Unreachable("away")

        api.before = before
        await holding
        return found[: len(tries)]

    assert run(main) == pytest.approx(tries)


@pytest.mark.parametrize("carried_out", [False, True])
def test_one_renewal_that_hangs_costs_no_leadership(carried_out: bool) -> None:
    """The only try lasted until the deadline."""

    async def main() -> None:
        api = MemoryApi()
        election, holding = await leading(api)
        real, hung = api.patch, []

        async def patch(*args: Any, **options: Any) -> bytes:
            if hung:
                return await real(*args, **options)
            hung.append(now())
            if carried_out:
                await real(*args, **options)
            await asyncio.sleep(3600)
            return b""

        api.patch = patch  # type: ignore[method-assign]
        await asyncio.sleep(60)
        assert hung
        assert election.leading
        assert not holding.done()
        holding.cancel()

    run(main)


@pytest.mark.parametrize("answered", [False, True], ids=["on its way", "carried out, not answered"])
@pytest.mark.parametrize("taking", [False, True], ids=["renewing", "taking"])
def test_a_stop_gives_the_lease_up_whatever_is_on_its_way(taking: bool, answered: bool) -> None:
    """A renewal changed the lease while it was given up: up to 12 of 300 stops left it held."""

    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        await election.acquire()
        if taking:
            await election.release()
        real, under_way = api.patch, asyncio.Event()

        async def slow(*args: Any, **options: Any) -> bytes:
            if under_way.is_set():
                return await real(*args, **options)
            if answered:
                await real(*args, **options)
            under_way.set()
            await asyncio.sleep(1.0)
            return await real(*args, **options) if not answered else b"{}"

        api.patch = slow  # type: ignore[method-assign]
        part = asyncio.create_task(election.acquire() if taking else election.hold())
        await under_way.wait()
        await election.release()
        assert part.done()
        assert not election.leading
        lease = api.objects[LEASES][Key("ns", "operator")]
        assert lease["spec"]["holderIdentity"] == ""

    run(main)


def test_a_write_that_can_not_be_called_off_is_waited_for_and_undone() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api)
        create, under_way = api.create, asyncio.Event()

        async def stubborn(*args: Any, **options: Any) -> bytes:
            under_way.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(5)
            return await create(*args, **options)

        api.create = stubborn  # type: ignore[method-assign]
        part = asyncio.create_task(election.acquire())
        await under_way.wait()
        await election.release()
        assert part.done()
        assert not election.leading
        assert lease(api)["spec"]["holderIdentity"] == ""

    run(main)


def test_who_gives_the_lease_up_does_not_lead_while_its_renewal_is_called_off() -> None:
    async def main() -> list[bool]:
        api, led = MemoryApi(), list[bool]()
        election, _ = await leading(api)

        async def before(verb: str, resource: Resource, name: str) -> None:
            api.before = None
            try:
                await asyncio.sleep(3600)
            finally:
                led.append(election.leading)

        api.before = before
        await asyncio.sleep(2.5)
        await election.release()
        return led

    assert run(main) == [False]


# --- Who it waits for ---


def test_that_it_waits_is_told_when_the_reason_changes_and_every_ten_minutes() -> None:
    async def main() -> None:
        api, told = MemoryApi(), list[tuple[float, str]]()
        metadata = {"name": "aifactory.dev", "annotations": {"aifactory.dev/release": "other"}}
        rival = msgspec.json.decode(msgspec.json.encode({"metadata": metadata}), type=LeaseObject)

        async def find() -> LeaseObject:
            if now() < 3.0:
                raise Unreachable("away")
            return rival

        election = LeaderElection(
            api,
            LeaseConfig("ns", "operator", identity="me", release="mine"),
            rival=find,
            waits=lambda words: told.append((now(), words.partition(" acts")[0])),
            clock=FakeClock(),
            rng=NoJitter(),
        )
        waiting = asyncio.create_task(election.acquire())
        await asyncio.sleep(1000)
        waiting.cancel()
        unread = "the leases of other releases can not be read: away"
        assert told == [(0.0, unread), (3.0, "release other"), (603.0, "release other")]

    run(main)

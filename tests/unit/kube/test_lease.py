"""Leader election on fake time: whatever the network does, never two leaders, and one soon after all is well."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.kube.api import PatchType
from aifactory.kube.errors import ServerError, Unreachable
from aifactory.kube.lease import LeaderElection, LeaseConfig
from aifactory.kube.resources import LEASES, Key, Resource
from tests.support.faketime import FakeClock, run
from tests.unit.memory_api import MemoryApi


class Link:
    """One replica's way to the API server: slow, lossy in both directions, or cut."""

    def __init__(self, api: MemoryApi, rng: random.Random) -> None:
        self._api = api
        self._rng = rng
        self.cut = False
        self.trouble = 0.0

    async def _travel(self, direction: str) -> None:
        if self.cut:
            await asyncio.sleep(self._rng.random() * 20)
            raise Unreachable(f"{direction}: cut off")
        if self._rng.random() < self.trouble:
            await asyncio.sleep(self._rng.random() * 8)
            if self._rng.random() < 0.5:
                raise self._rng.choice([Unreachable(f"{direction} lost"), ServerError(503, "", "busy")])

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        await self._travel("request")
        answer = await self._api.get(resource, namespace, name)
        await self._travel("answer")
        return answer

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        await self._travel("request")
        answer = await self._api.create(resource, body, dry_run=dry_run)
        await self._travel("answer")
        return answer

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        type: PatchType = "merge",
        resource_version: str | None = None,
    ) -> bytes:
        await self._travel("request")
        answer = await self._api.patch(resource, namespace, name, body, resource_version=resource_version)
        await self._travel("answer")
        return answer


def replica(api: Any, name: str, seed: int = 0) -> LeaderElection:
    config = LeaseConfig("ns", "operator", identity=name, address=f"{name}:1")
    return LeaderElection(api, config, clock=FakeClock(), rng=random.Random(seed))


async def take_part(election: LeaderElection) -> None:
    """As a process that is started again each time it loses."""
    while True:
        await election.acquire()
        await election.hold()


@given(seed=st.integers(0, 2**32), replicas=st.integers(2, 4))
@settings(max_examples=100, deadline=None)
def test_never_two_leaders_and_one_soon_after_all_is_well(seed: int, replicas: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        api = MemoryApi(seed)
        links = [Link(api, random.Random(seed + number)) for number in range(replicas)]
        elections = [replica(link, f"r{number}", seed + number) for number, link in enumerate(links)]
        tasks = [asyncio.create_task(take_part(election)) for election in elections]

        def leaders() -> list[str]:
            return [election.config.identity for election in elections if election.leading]

        for _ in range(400):
            await asyncio.sleep(rng.choice([0.05, 0.1, 0.5]))
            assert len(leaders()) <= 1, leaders()
            link = rng.choice(links)
            if rng.random() < 0.05:
                link.cut = not link.cut
            if rng.random() < 0.05:
                link.trouble = rng.choice([0.0, 0.0, 0.3, 0.8])
        for link in links:
            link.cut, link.trouble = False, 0.0
        await asyncio.sleep(60)  # calls that were under way in the bad times have ended by then
        (leader,) = leaders()
        assert {election.leader_address for election in elections} == {f"{leader}:1"}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main)


def test_a_killed_leader_is_succeeded_within_the_duration_and_two_seconds() -> None:
    async def main(seed: int) -> float:
        api = MemoryApi(seed)
        first, second = replica(api, "first", seed), replica(api, "second", seed + 1)
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(30 + random.Random(seed).random() * 5)
        holding.cancel()  # no release: this is a SIGKILL
        killed = asyncio.get_running_loop().time()
        await waiting
        assert not first.leading
        return asyncio.get_running_loop().time() - killed

    for seed in range(50):
        taken = run(lambda seed=seed: main(seed))  # type: ignore[misc]
        assert taken <= 15.0 + 2.0, f"{taken:.1f} s with seed {seed}"


def test_a_renewal_counts_from_when_it_was_sent_not_from_its_late_answer() -> None:
    """The others saw it when it was written: a leader that counts from the answer would stay too long."""

    async def main() -> None:
        api = MemoryApi()

        class Late(Link):
            async def _travel(self, direction: str) -> None:
                if direction == "answer" and first.leading:
                    await asyncio.sleep(7)
                    self.cut = True  # this one arrives, no other does
                    return
                await super()._travel(direction)

        first = replica(Late(api, random.Random(0)), "first")
        second = replica(api, "second")
        await first.acquire()
        holding = asyncio.create_task(first.hold())
        waiting = asyncio.create_task(second.acquire())
        while not second.leading:
            await asyncio.sleep(0.05)
            assert not (first.leading and second.leading)
        await waiting
        await holding

    run(main)


def test_a_lease_given_up_says_so_and_forgets_the_address() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api, "first")
        await election.acquire()
        lease = api.objects[LEASES][Key("ns", "operator")]
        assert lease["spec"]["holderIdentity"] == "first"
        assert lease["metadata"]["annotations"] == {"aifactory.dev/address": "first:1"}
        await election.release()
        lease = api.objects[LEASES][Key("ns", "operator")]
        assert lease["spec"]["holderIdentity"] == ""
        assert lease["metadata"]["annotations"] == {}

    run(main)


def test_an_idle_leader_only_renews() -> None:
    async def main() -> None:
        api = MemoryApi()
        election = replica(api, "first")
        await election.acquire()
        holding = asyncio.create_task(election.hold())
        before = len(api.calls)
        await asyncio.sleep(60)
        assert {verb for verb, _, _ in api.calls[before:]} == {"patch"}
        assert 20 <= len(api.calls) - before <= 31
        holding.cancel()

    run(main)


def test_impatience_that_could_make_two_leaders_is_refused() -> None:
    with pytest.raises(ValueError, match="two replicas could lead"):
        LeaseConfig("ns", "operator", identity="a", duration=10.0, renew_deadline=10.0)


def test_a_lease_that_nobody_took_since_the_look_makes_an_undisturbed_leader() -> None:
    """Given up by the leader before, then taken in the very version that was seen: nobody has led in between."""

    async def main() -> None:
        api = MemoryApi()
        before = replica(api, "before")
        await before.acquire()
        await before.release()
        successor = replica(api, "successor")
        await successor.look()
        await successor.acquire()
        assert successor.undisturbed
        again = replica(api, "successor")  # the same pod, its container was started again
        await again.look()
        await again.acquire()
        assert again.undisturbed

    run(main)


def test_whoever_may_have_missed_a_leader_is_disturbed() -> None:
    """Free when looked at and free when taken is not enough: somebody led between the two."""

    async def led_between(api: MemoryApi) -> None:
        other = replica(api, "other")
        await other.acquire()
        await other.release()

    async def main(held: bool, between: bool, looked: bool) -> bool:
        api = MemoryApi()
        first = replica(api, "first")
        await first.acquire()
        if not held:
            await first.release()
        successor = replica(api, "successor")
        if looked:
            await successor.look()
        if held:
            await first.release()
        if between:
            await led_between(api)
        await successor.acquire()
        return successor.undisturbed

    found: dict[tuple[bool, bool, bool], bool] = {}
    for case in [
        (False, False, True),
        (True, False, True),
        (False, True, True),
        (True, True, True),
        (False, False, False),
    ]:

        async def one(case: tuple[bool, bool, bool] = case) -> None:
            found[case] = await main(*case)

        run(one)
    assert [case for case, undisturbed in found.items() if undisturbed] == [(False, False, True)]


def test_a_leader_that_fell_silent_may_have_acted_until_its_lease_ran_out() -> None:
    async def main() -> None:
        api = MemoryApi()
        await replica(api, "silent").acquire()
        successor = replica(api, "successor")
        await successor.look()
        await successor.acquire()
        assert successor.leading
        assert not successor.undisturbed

    run(main)

"""Leader election among replicas of one process, on a real API server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from aifactory.kube.api import Api
from aifactory.kube.clock import SystemClock
from aifactory.kube.lease import LeaderElection, LeaseConfig
from aifactory.kube.resources import LEASES


class SkewedClock(SystemClock):
    """A machine whose clock is wrong by days."""

    def __init__(self, days: float) -> None:
        self._skew = timedelta(days=days)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._skew


def config(namespace: str, identity: str) -> LeaseConfig:
    return LeaseConfig(
        namespace=namespace,
        name="operator",
        identity=identity,
        address=f"{identity}:8082",
        duration=3.0,
        renew_deadline=2.0,
        retry=0.5,
    )


async def test_a_lease_that_was_given_up_is_taken_at_once(client: Api, namespace: str) -> None:
    one = LeaderElection(client, config(namespace, "one"))
    two = LeaderElection(client, config(namespace, "two"))
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    await asyncio.sleep(1.0)
    assert one.leading
    assert not two.leading
    assert two.leader_address == "one:8082"
    await one.release()
    started = time.monotonic()
    await asyncio.wait_for(waiting, 5)
    assert time.monotonic() - started < 1.0
    assert two.leading
    assert not one.leading


async def test_a_silent_leader_is_replaced_after_the_duration_whatever_the_clocks_say(
    client: Api, namespace: str
) -> None:
    one = LeaderElection(client, config(namespace, "one"), clock=SkewedClock(days=-3))
    two = LeaderElection(client, config(namespace, "two"), clock=SkewedClock(days=+5))
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    for _ in range(5):  # renewed: it stays
        await asyncio.sleep(0.5)
        assert await one._try("renew")
        assert not two.leading
    died = time.monotonic()
    await asyncio.wait_for(waiting, 10)
    assert 2.5 <= time.monotonic() - died <= 3.0 + 2.0
    assert not one.leading, "two leaders"


async def test_a_leader_that_can_not_renew_stops_before_another_starts(client: Api, namespace: str) -> None:
    one = LeaderElection(client, config(namespace, "one"))
    two = LeaderElection(client, config(namespace, "two"))
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    waiting = asyncio.create_task(two.acquire())
    await asyncio.sleep(0.7)
    # Its writes get lost from now on, but it runs.
    one.config = replace(one.config, name="not-there")
    both = False
    while not two.leading:
        await asyncio.sleep(0.01)
        both = both or (one.leading and two.leading)
    assert holding.done(), "the old leader goes on"
    assert not both
    await waiting


async def test_a_restarted_replica_of_the_same_name_goes_on_at_once(client: Api, namespace: str) -> None:
    await LeaderElection(client, config(namespace, "one")).acquire()
    started = time.monotonic()
    await asyncio.wait_for(LeaderElection(client, config(namespace, "one")).acquire(), 2)
    assert time.monotonic() - started < 1.0


async def test_a_stolen_lease_ends_leadership(client: Api, namespace: str) -> None:
    one = LeaderElection(client, config(namespace, "one"))
    await one.acquire()
    await client.patch(LEASES, namespace, "operator", {"spec": {"holderIdentity": "thief"}})
    await asyncio.wait_for(one.hold(), 3)
    assert not one.leading


async def test_of_many_who_try_one_leads(client: Api, namespace: str) -> None:
    replicas = [LeaderElection(client, config(namespace, f"r{number}")) for number in range(8)]
    tasks = [asyncio.create_task(replica.acquire()) for replica in replicas]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.3)
    assert sum(replica.leading for replica in replicas) == 1
    for task in tasks:
        task.cancel()

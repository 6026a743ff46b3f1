"""The informer against a real API server that is restarted, frozen and forgets its history."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aifactory.kube.api import Api
from aifactory.kube.informer import Informer
from aifactory.kube.objects import Pod, decoder
from aifactory.kube.resources import PODS
from aifactory.kube.store import Change, Store
from localcluster.controlplane import ControlPlane
from tests.component.kube.test_client import pod


async def eventually(condition: Callable[[], object], saw: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s; saw {saw()}"
        await asyncio.sleep(0.02)


class Watched:
    """An informer of one namespace's pods that can be run, interrupted and run again."""

    def __init__(self, client: Api, namespace: str, silence_seconds: float = 90.0) -> None:
        self.store: Store[Pod] = Store(decoder(Pod))
        self.changes: list[tuple[str, str]] = []
        self.store.subscribe(self._hear)
        self.informer = Informer(client, PODS, Pod, self.store, namespace=namespace, silence_seconds=silence_seconds)

    def _hear(self, change: Change[Pod]) -> None:
        what = "deleted" if change.new is None else "added" if change.old is None else "changed"
        self.changes.append((what, change.object.metadata.name))

    def names(self) -> list[str]:
        return sorted(found.metadata.name for found in self.store.all())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.informer.run())
        try:
            yield
            assert not task.done(), "the informer died"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_follows_a_pods_life(client: Api, namespace: str) -> None:
    await client.create(PODS, pod(namespace, "before"))
    seen = Watched(client, namespace)
    async with seen.running():
        await asyncio.wait_for(seen.informer.synced.wait(), 10)
        assert seen.names() == ["before"]
        await client.create(PODS, pod(namespace, "a"))
        state = {"terminated": {"exitCode": 3, "reason": "Error", "message": "the last words"}}
        status = {
            "phase": "Failed",
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
            "containerStatuses": [
                {"name": "main", "ready": False, "restartCount": 0, "image": "i", "imageID": "i@1", "state": state}
            ],
        }
        await client.patch_status(PODS, namespace, "a", status)
        await client.delete(PODS, namespace, "before", grace_seconds=0)
        await eventually(lambda: ("deleted", "before") in seen.changes, lambda: seen.changes)
        # A pod's deletion is two steps even without a grace period.
        expected = [("added", "before"), ("added", "a"), ("changed", "a"), ("changed", "before"), ("deleted", "before")]
        assert seen.changes == expected
        found = seen.store.get(namespace, "a")
        assert found is not None
        assert (found.status.phase, found.status.pod_ip) == ("Failed", "10.0.0.1")
        ended = found.status.container_statuses[0].state.terminated
        assert ended is not None
        assert (ended.exit_code, ended.message) == (3, "the last words")


async def test_the_answer_to_a_write_is_news_and_its_echo_is_not(client: Api, namespace: str) -> None:
    seen = Watched(client, namespace)
    async with seen.running():
        await asyncio.wait_for(seen.informer.synced.wait(), 10)
        for number in range(20):
            seen.store.put_response(await client.create(PODS, pod(namespace, f"p{number:02}")))
            assert seen.store.get(namespace, f"p{number:02}") is not None
        await client.create(PODS, pod(namespace, "zz-last"))
        await eventually(lambda: "zz-last" in seen.names(), seen.names)
        assert len(seen.changes) == 21


async def test_a_deletion_missed_while_history_was_lost_is_told(
    client: Api, namespace: str, control_plane: ControlPlane
) -> None:
    """A restarted API server has no history from before: it answers the resumed watch with 410."""
    for name in ("a", "b"):
        await client.create(PODS, pod(namespace, name))
    seen = Watched(client, namespace)
    async with seen.running():
        await asyncio.wait_for(seen.informer.synced.wait(), 10)
    await client.delete(PODS, namespace, "a", grace_seconds=0)
    await client.create(PODS, pod(namespace, "c"))
    control_plane.restart_apiserver(kill=True)  # in this thread: a process ends with the thread that started it
    async with seen.running():
        await eventually(lambda: seen.names() == ["b", "c"], seen.names)
        assert ("deleted", "a") in seen.changes


async def test_an_api_server_that_goes_away_and_comes_back_is_followed_again(
    client: Api, namespace: str, control_plane: ControlPlane
) -> None:
    seen = Watched(client, namespace)
    async with seen.running():
        await asyncio.wait_for(seen.informer.synced.wait(), 10)
        control_plane.restart_apiserver()
        await client.create(PODS, pod(namespace, "after"))
        await eventually(lambda: seen.names() == ["after"], seen.names, seconds=40)


async def test_an_api_server_that_hangs_is_noticed_by_its_silence(
    client: Api, namespace: str, control_plane: ControlPlane
) -> None:
    seen = Watched(client, namespace, silence_seconds=1.0)
    async with seen.running():
        await asyncio.wait_for(seen.informer.synced.wait(), 10)
        control_plane.signal("kube-apiserver", signal.SIGSTOP)
        try:
            await eventually(lambda: seen.informer.silent_seconds() > 3.0, seen.informer.silent_seconds)
        finally:
            control_plane.signal("kube-apiserver", signal.SIGCONT)
        await client.create(PODS, pod(namespace, "after"))
        await eventually(lambda: seen.names() == ["after"], seen.names)

"""The limit: a program that writes for each job what the operator writes, and decides nothing.

It knows in advance what to write, keeps 32 requests in flight, and takes from watches only what it must know: that a
job is there and which UID it has, when its pods run, when they have succeeded, when one failed, when they are gone. No
controller can do the same writes sooner on the same machine by more than noise.

    python -m tests.bench.limit KUBECONFIG --count 1000 --nodes 1

prints `ready` when it watches, and works until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from tests.bench.client import IN_FLIGHT, Client
from tests.bench.objects import JOBS, PODS, Recipe, attempt_of, job, job_names, job_of, recipe

AGENT = "aifactory-bench-limit"


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    resource_version: str = ""


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta
    status: _Status = _Status()


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: _Pod


class _Job(msgspec.Struct, frozen=True):
    metadata: _Meta


class _JobEvent(msgspec.Struct, frozen=True):
    type: str
    object: _Job


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    metadata: _Meta


@dataclass
class State:
    """What is known about one job."""

    recipe: Recipe
    uid: str = ""
    pods: dict[str, str] = field(default_factory=dict)
    """UIDs of the pods of the first attempt."""
    running: set[str] = field(default_factory=set)
    succeeded: set[str] = field(default_factory=set)
    told_running: bool = False
    told_complete: bool = False
    failed: str = ""
    """The first pod that failed: it is kept for its log."""


class Limit:
    """The jobs and a queue of requests."""

    def __init__(self, client: Client, jobs: dict[str, State], nodes: int) -> None:
        self._client = client
        self._jobs = jobs
        self._nodes = nodes
        self._queue: asyncio.Queue[Callable[[], Awaitable[object]]] = asyncio.Queue()

    async def run(self) -> None:
        """Until cancelled."""
        selector = quote("app.kubernetes.io/managed-by=aifactory", safe="")
        pods, jobs = msgspec.json.Decoder(_Event).decode, msgspec.json.Decoder(_JobEvent).decode
        async with asyncio.TaskGroup() as group:
            for path, query, decode, see in (
                (PODS, f"&labelSelector={selector}", pods, self._see),
                (JOBS, "", jobs, self._see_job),
            ):
                head = msgspec.json.decode(await self._client.request("GET", f"{path}?limit=1"), type=_Head)
                group.create_task(
                    self._follow(path + "?watch=true" + query, head.metadata.resource_version, decode, see)
                )
            for _ in range(IN_FLIGHT):
                group.create_task(self._work())
            print("ready", flush=True)

    async def _work(self) -> None:
        while True:
            await (await self._queue.get())()

    async def _follow(
        self, path: str, version: str, decode: Callable[[bytes], Any], see: Callable[[str, Any], None]
    ) -> None:
        while True:  # an API server under load ends a watch that does not keep up
            async for lines in self._client.watch(f"{path}&resourceVersion={version}"):
                for line in lines:
                    event = decode(line)
                    version = event.object.metadata.resource_version
                    see(event.type, event.object)

    def _see_job(self, type_: str, seen: _Job) -> None:
        if type_ == "ADDED":
            state = self._jobs[seen.metadata.name]
            state.uid = seen.metadata.uid
            for path, body in state.recipe.children:
                self._post(path, Recipe.with_uid(body, state.uid))

    def _see(self, type_: str, pod: _Pod) -> None:
        name = pod.metadata.name
        if attempt_of(name):
            return
        job_name = job_of(name)
        state = self._jobs[job_name]
        if type_ == "DELETED":
            state.pods.pop(name, None)
            if state.failed and not state.pods:
                for body in state.recipe.second_attempt:
                    self._post(PODS, Recipe.with_uid(body, state.uid))
            return
        if name == state.failed:
            return
        state.pods[name] = pod.metadata.uid
        phase = pod.status.phase
        if phase == "Running":
            state.running.add(name)
            if len(state.running) == self._nodes and not state.told_running:
                state.told_running = True
                self._tell(job_name, Recipe.with_uid(state.recipe.running, state.uid))
        elif phase == "Succeeded":
            state.succeeded.add(name)
            if len(state.succeeded) == self._nodes and not state.told_complete:
                state.told_complete = True
                self._tell(job_name, Recipe.with_uid(state.recipe.complete, state.uid))
        elif phase == "Failed" and not state.failed:
            state.failed = name
            del state.pods[name]
            for other, uid in state.pods.items():
                self._delete(f"{PODS}/{other}", {"preconditions": {"uid": uid}})

    def _post(self, path: str, body: bytes) -> None:
        self._queue.put_nowait(lambda: self._client.request("POST", path, body))

    def _delete(self, path: str, body: object) -> None:
        self._queue.put_nowait(lambda: self._client.request("DELETE", path, body))

    def _tell(self, name: str, body: bytes) -> None:
        self._queue.put_nowait(lambda: self._client.merge(f"{JOBS}/{name}/status", body))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gang", action="store_true")
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    jobs = {
        name: State(recipe(job(name, options.nodes, short=not options.long, gang=options.gang)))
        for name in job_names(options.count)
    }
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the operator has it
    async with Client(options.kubeconfig, AGENT) as client:
        await Limit(client, jobs, options.nodes).run()


if __name__ == "__main__":
    asyncio.run(main())

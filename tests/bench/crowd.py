"""A hundred thousand pods in one process: the operator's own process on an API server that only exists in memory.

Everything is the real thing but the API server and kopf: informers, decoders, stores, `shell.refresh`, queues and
planners. The server makes each page when it is asked for it, as JSON of the size real objects have, and keeps nothing;
so memory and time are the operator's, and a little for making the pages (told beside them). Every job runs, and its
status says so: there is nothing to write, and a write ends the run.

    python -m tests.bench.crowd --jobs 10000 --nodes 10

prints one JSON object. It is a process of its own because resident memory is one's own only there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from aifactory.api import names
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.app import domains
from aifactory.app.main import Process
from aifactory.app.options import Options
from aifactory.app.start import freeze_garbage
from aifactory.app.watching import Watched
from aifactory.engine.apply import content_hash
from aifactory.engine.domain import Outside
from aifactory.engine.plan import Plan
from aifactory.kube.api import Api
from aifactory.kube.errors import NotFound
from aifactory.kube.resources import LEASES, PODGROUPS, PODS, SERVICES, Resource
from aifactory.models.domain import Models
from aifactory.serving.domain import Serving
from aifactory.training import children
from aifactory.training.domain import Training
from aifactory.training.state import Observed
from tests.bench.objects import SETTINGS, Recipe, job, recipe
from tests.support.kinds import TRAININGJOBS

Json = dict[str, Any]

NAMESPACES = 50
"""Teams the jobs are spread over."""
LIMIT_SECONDS = 120.0
_NOW = "2026-01-01T00:00:00Z"
_JOB, _TEAM, _NUMBER = b"@job@", b"@team@", b"@number"
"""What is filled in; seven characters for a number of seven digits."""
_STAMP = b"@stamp@"
_UID = "@number0-0000-4000-8000-0000000000"
"""Of a job with `00` behind it, of its pods with their place."""


class CrowdApi:
    """An `Api` that holds `jobs` running jobs of `nodes` pods each. Versions never change; watches say nothing."""

    def __init__(self, jobs: int, nodes: int) -> None:
        self.jobs = jobs
        self.making_seconds = 0.0
        """Time spent on pages that a real server would have made."""
        self.lists = 0
        self.wrote = ""
        """What was written although there was nothing to write."""
        body = job("@job@", nodes)
        body["metadata"]["namespace"] = "@team@"
        pods = [_pod(body, index) for index in range(nodes)]
        services = [_service(body)] if nodes > 1 else []
        self._sent = _encode(children.service(_parsed(body)))
        """A job's Service as the operator sends it: it notes on it what it sent."""
        self._templates = {TRAININGJOBS: [_job(body)], PODS: pods, SERVICES: services}
        self._per_job = {resource: len(found) for resource, found in self._templates.items()}
        # Given up by the leader before, as an operator that was stopped leaves it.
        self._lease: Json = {"metadata": {"name": "l", "resourceVersion": "1"}, "spec": {"holderIdentity": ""}}

    async def list(self, resource: Resource, *, limit: int = 0, continue_: str = "", **_: Any) -> bytes:
        await asyncio.sleep(0.001)
        self.lists += 1
        started = time.perf_counter()
        each = self._per_job.get(resource, 0)
        first = int(continue_ or 0)
        until = min(first + max(1, limit // each), self.jobs) if each and limit > 1 else self.jobs * bool(each)
        items = b",".join(self._objects(resource, range(first, until)))
        token = b"%d" % until if until < self.jobs and each else b""
        page = b'{"metadata":{"resourceVersion":"9000000","continue":"%b"},"items":[%b]}' % (token, items)
        self.making_seconds += time.perf_counter() - started
        return page

    def _objects(self, resource: Resource, numbers: range) -> Iterator[bytes]:
        for number in numbers:
            name, team, digits = b"job-%05d" % number, b"team-%02d" % (number % NAMESPACES), b"%07d" % number
            for place, template in enumerate(self._templates[resource]):
                version = b'"resourceVersion":"%d"' % (number * 16 + place + 1)
                text = template.replace(_NUMBER, digits).replace(_JOB, name).replace(_TEAM, team)
                if resource == SERVICES:
                    sent = self._sent.replace(_NUMBER, digits).replace(_JOB, name).replace(_TEAM, team)
                    text = text.replace(_STAMP, content_hash(msgspec.json.decode(sent)).encode())
                yield text.replace(b'"resourceVersion":"1"', version, 1)

    async def watch(self, resource: Resource, **_: Any) -> AsyncIterator[Sequence[bytes]]:
        await asyncio.Future()
        yield ()

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        if resource != LEASES:
            raise NotFound(404, "NotFound", f"{resource} {name}")
        return msgspec.json.encode(self._lease)

    async def create(self, resource: Resource, body: Mapping[str, Any], **_: Any) -> bytes:
        return self._write(resource, body)

    async def patch(self, resource: Resource, namespace: str, name: str, body: Any, **_: Any) -> bytes:
        return self._write(resource, body)

    def _write(self, resource: Resource, body: Any) -> bytes:
        """Only the lease may be written."""
        if resource != LEASES:
            self.wrote = f"{resource} {json.dumps(body)[:2000]}"
            raise NotFound(404, "NotFound", "nothing may be written")
        version = str(int(self._lease["metadata"]["resourceVersion"]) + 1)
        self._lease = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        return msgspec.json.encode(self._lease)

    async def apply(self, resource: Resource, body: Mapping[str, Any], **_: Any) -> bytes:
        return self._write(resource, body)

    async def patch_status(self, resource: Resource, namespace: str, name: str, status: Any, **_: Any) -> bytes:
        return self._write(resource, status)

    async def delete(self, resource: Resource, namespace: str, name: str, **_: Any) -> bytes:
        return self._write(resource, {"delete": name})


# --- Objects as a real server sends them ------------------------------------------------------------------------------


def _job(body: Json) -> bytes:
    """A running job with everything a user's tools leave in its metadata."""
    status = json.loads(Recipe.with_uid(recipe(body).running, f"{_UID}00"))["status"]
    applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(body)}
    return _encode({**body, "metadata": _metadata(body["metadata"], applied), "status": status})


def _metadata(metadata: Json, annotations: Json) -> Json:
    fields: Json = {f"f:field-{number}": {"f:value": {}} for number in range(40)}
    manager = {"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": _NOW, "fieldsV1": fields}
    more = {"uid": f"{_UID}00", "resourceVersion": "1", "generation": 1, "creationTimestamp": _NOW}
    return {**metadata, **more, "annotations": annotations, "managedFields": [manager]}


def _parsed(body: Json) -> TrainingJob:
    return TrainingJob.model_validate({**body, "metadata": {**body["metadata"], "uid": f"{_UID}00"}})


def _pod(body: Json, index: int) -> bytes:
    """A running pod, with the status a kubelet writes."""
    pod = children.pod(_parsed(body), index, 0, SETTINGS, gang=False)
    pod["metadata"] = _metadata(pod["metadata"], {})
    pod["metadata"]["uid"] = f"{_UID}{index + 1:02d}"
    pod["spec"] |= {"nodeName": f"node-{index:04d}", "schedulerName": "default-scheduler", "priority": 0}
    types = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": type_, "status": "True", "lastTransitionTime": _NOW} for type_ in types]
    container = {"name": "trainer", "image": "registry.example.com/team/trainer:1.2.3", "ready": True, "started": True}
    container |= {"imageID": f"registry.example.com/team/trainer@sha256:{'a' * 64}", "restartCount": 0}
    container |= {"containerID": f"containerd://{'b' * 64}", "state": {"running": {"startedAt": _NOW}}}
    status: Json = {"phase": "Running", "hostIP": "10.0.0.1", "podIP": f"10.1.{index}.7", "startTime": _NOW}
    pod["status"] = status | {"conditions": conditions, "containerStatuses": [container], "qosClass": "BestEffort"}
    return _encode(pod)


def _service(body: Json) -> bytes:
    service = children.service(_parsed(body))
    annotations = {names.ANNOTATION_APPLIED: f"{_STAMP.decode()}."}
    return _encode({**service, "metadata": _metadata(service["metadata"], annotations), "status": {"loadBalancer": {}}})


def _encode(body: Json) -> bytes:
    return msgspec.json.encode(body)


# --- The process ------------------------------------------------------------------------------------------------------


class QuietServing(Serving):
    """InferencePool without the probe: no pod of a pool is there to be asked."""

    def probes(self, outside: Outside) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        return ()


class CrowdShell:
    """Nobody tells of changes."""

    async def run(self, kinds: Collection[Watched], stop: asyncio.Event, on_signal: Callable[[], None]) -> None:
        for kind in kinds:
            kind.listed.set()
        await stop.wait()


class Crowd:
    """The operator's process over a crowd; `decided` is called for each decision about a job."""

    def __init__(self, api: CrowdApi, decided: Callable[[], None]) -> None:
        options = Options(
            identity="crowd",
            address="127.0.0.1",
            log_level="WARNING",
            domains={"agent_image": "agent", "server_image": "server", "progress_url": SETTINGS.progress_url},
        )

        class CountedTraining(Training):
            def plan(self, observed: Observed, now: datetime) -> Plan[TrainingJobStatus] | None:
                decided()
                return super().plan(observed, now)

        self.process = Process(
            options,
            cast("Api", api),
            domains.make(options, (CountedTraining, Models, QuietServing)),
            {PODGROUPS},
            CrowdShell(),
            on_complete=freeze_garbage,
            rng=random.Random(0),
        )

    async def list_again(self) -> None:
        """What a take-over does before the first decision."""
        await self.process.read_again()

    def known(self) -> tuple[int, int]:
        stores = self.process.cluster.stores
        return len(stores[TRAININGJOBS]), len(stores[PODS])

    async def end(self, running: asyncio.Task[int]) -> None:
        self.process.stop()
        await running


class Lag:
    """How late the event loop runs a timer, at most, since `reset`."""

    STEP = 0.01

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(self.STEP)
            self.worst = max(self.worst, time.monotonic() - before - self.STEP)

    def reset(self) -> float:
        worst, self.worst = self.worst, 0.0
        return round(worst, 3)


def _memory() -> Json:
    """Resident memory now, and the most since the last call, in MiB."""
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
    return {"rssMiB": round(int(found["VmRSS"]) / 1024, 1), "peakRssMiB": round(int(found["VmHWM"]) / 1024, 1)}


async def measure(jobs: int, nodes: int) -> Json:
    """Start onto them, look at each once, then list everything once more."""
    api = CrowdApi(jobs, nodes)
    found: Json = {"jobs": jobs, "pods": jobs * nodes, "before": _memory()}
    decisions, first = 0, asyncio.Event()

    def decided() -> None:
        nonlocal decisions
        decisions += 1
        first.set()

    lag = Lag()
    ticking = asyncio.create_task(lag.run())
    await asyncio.sleep(0.1)
    started, cpu = time.monotonic(), time.process_time()
    lag.reset()
    process = Crowd(api, decided)
    running = asyncio.create_task(process.process.run())
    await _until(first.is_set, api, running)
    found["start"] = {
        "firstDecisionSeconds": round(time.monotonic() - started, 2),
        "cpuSeconds": round(time.process_time() - cpu, 2),
        "makingSeconds": round(api.making_seconds, 2),
        "lists": api.lists,
        "loopLateSeconds": lag.reset(),
        **_memory(),
    }
    assert process.known() == (jobs, jobs * nodes), process.known()
    started = time.monotonic()
    await _until(lambda: decisions >= jobs, api, running)
    found["decisions"] = {"seconds": round(time.monotonic() - started, 2), "loopLateSeconds": lag.reset()}
    await asyncio.sleep(1.0)
    found["steady"] = _memory()
    started, cpu, api.making_seconds = time.monotonic(), time.process_time(), 0.0
    lag.reset()
    await process.list_again()
    found["takeOver"] = {
        "seconds": round(time.monotonic() - started, 2),
        "cpuSeconds": round(time.process_time() - cpu, 2),
        "makingSeconds": round(api.making_seconds, 2),
        "loopLateSeconds": lag.reset(),
        **_memory(),
    }
    ticking.cancel()
    await process.end(running)
    found["loopLateSeconds"] = max(found[phase]["loopLateSeconds"] for phase in ("start", "decisions", "takeOver"))
    return found


async def _until(done: Callable[[], bool], api: CrowdApi, running: asyncio.Task[int]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not done():
        if api.wrote:
            raise AssertionError(f"a write at rest: {api.wrote}")
        if running.done() or time.monotonic() > deadline:
            raise TimeoutError("the operator ended" if running.done() else f"not within {LIMIT_SECONDS:.0f} s")
        await asyncio.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    gc.set_threshold(50_000, 20, 100)  # as the operator has it
    print(json.dumps(asyncio.run(measure(options.jobs, options.nodes))), flush=True)


if __name__ == "__main__":
    main()

"""Objects as kubectl prints them, with statuses of the operator's own making."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from aifactory.api.base import CustomResource
from aifactory.api.inferencepool import Throughput
from aifactory.training.state import Observed
from tests.unit.models import builders as models
from tests.unit.serving import builders as serving
from tests.unit.serving import test_route as routes
from tests.unit.serving import test_several as sharing
from tests.unit.serving.test_status import SITUATIONS
from tests.unit.training import test_checks as checks
from tests.unit.training import test_kueue as kueue
from tests.unit.training.builders import NOW, OUTPUT, UID, decide, job, observe, pod, report
from tests.unit.training.test_plan import CASES, PULL
from tests.unit.training.test_words import CORPUS, MORE

Json = dict[str, Any]
LATER = NOW + timedelta(minutes=5)
"""When a person looks."""


def stored(found: CustomResource, status: Any = None, **metadata: Any) -> Json:
    """An object of ours as the API server gives it."""
    meta = found.metadata
    known = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid, "generation": meta.generation}
    known["creationTimestamp"] = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"kind": type(found).__name__, "metadata": {**known, **metadata}}
    spec, told = (part.dump() for part in (found.spec, status or found.status))  # type: ignore[attr-defined]
    text = json.dumps({"apiVersion": "aifactory.dev/v1alpha1", **body, "spec": spec, "status": told})
    return dict(json.loads(text))


def of_job(observed: Observed, **metadata: Any) -> Json:
    """A job after one look of the operator."""
    return stored(observed.job, decide(observed).status, **metadata)


def version(answer: Any = models.GOOD, code: int = 0, **changes: Any) -> Json:
    """A ModelVersion whose verifier has ended with that answer; None: it reads."""
    world = models.World(models.version(**changes))
    world.settle()
    if answer is not None:
        world.answer(answer, code)
        world.settle()
    return stored(world.version)


def pool(world: serving.World, **metadata: Any) -> Json:
    """An InferencePool in its world."""
    return stored(world.pool, **metadata)


@cache
def situations() -> dict[str, Json]:
    """Every object in every situation that the tests of the three domains know; they are not to be changed."""
    found = {f"job: {name}": of_job(case.observed) for name, case in CASES.items() if _planned(case.observed)}
    found |= {f"job: {name}": of_job(observed) for name, observed in MORE.items()}
    found |= {f"job: {name}": make() for name, make in OF_JOBS.items()}
    found |= {f"pool: {name}": pool(make()) for name, make in (SITUATIONS | OF_POOLS).items()}
    found["version: is read"] = version(None)
    found["version: is good"] = version()
    for reason in (
        "DigestMismatch",
        "InvalidArtifact",
        "Unservable",
        "SourceNotFound",
        "AccessDenied",
        "StoreUnavailable",
    ):
        found[f"version: {reason}"] = version({"reason": reason, "message": "its words"}, 1, source=SECRET)
    found["version: its verifier says nothing"] = version("killed", 137)
    return found


SECRET = {"secretRef": {"name": "keys"}}


def checked(answer: Any = None, code: int = 0) -> Json:
    """A job whose program is asked about its options, and what it has answered."""
    world = checks.checking()
    if answer is not None:
        world.end_checker(answer, code)
        world.settle()
    return stored(world.job, world.status)


def in_queue(*facts: kueue.Fact, **changes: Any) -> Json:
    """A job whose Workload Kueue has left like this."""
    owner = kueue.queued_job()
    return of_job(observe(owner, workloads=(kueue.workload(owner, *facts, **changes),), **kueue.SERVED))


def preempted() -> Json:
    """It has lost its quota to another, and its pods are gone."""
    world = kueue.running()
    kueue.evict(world)
    world.settle()
    world.bury()
    world.settle()
    return stored(world.job, world.status)


OF_JOBS: dict[str, Callable[[], Json]] = {
    "its program is checked": checked,
    "its check says no": lambda: checked(checks.NO, 1),
    "its check comes to no answer": lambda: checked("killed", 137),
    "waits in a queue": lambda: in_queue(),
    "has a queue, and there is no Kueue": lambda: of_job(observe(kueue.queued_job())),
    "can not be admitted": lambda: in_queue(kueue.Fact("QuotaReserved", False, "Inadmissible", "no such queue")),
    "its Workload was deactivated": lambda: in_queue(active=False),
    "was preempted": preempted,
}


def sharing_pods(broken: str = "", numbers: tuple[int, ...] = (1, 2), **spec: Any) -> serving.World:
    """A pool of two models, of which one has a second version."""
    world = sharing.both(**spec)
    world.broken = (broken,)
    for number in numbers[1:]:
        world.give("gpt", number)
    world.go()
    return world


def one_missing() -> serving.World:
    """Of two models one has no version."""
    world = sharing.several()
    world.give("gpt", 1)
    world.go()
    return world


def no_room() -> serving.World:
    """Two models do not fit into a pod together."""
    world = sharing.several(template=sharing.limited("1Gi"))
    world.give("gpt", 1, memory_bytes=600 * 1024**2)
    world.give("bert", 1, memory_bytes=500 * 1024**2)
    world.go()
    return world


def behind_a_gateway(**trouble: Any) -> serving.World:
    """A pool whose requests come through a Gateway of the user's."""
    view = routes.RoutesView(**{"gateways": (routes.OPEN,), **trouble})
    world = serving.World(serving.pool(gateway=routes.BEHIND), routes=view)
    world.publish(1)
    world.roll_out()
    return world


OF_POOLS: dict[str, Callable[[], serving.World]] = {
    "serves two models": sharing_pods,
    "of two models one does not load": lambda: sharing_pods("gpt-v2"),
    "of two models one has no version": one_missing,
    "of two models one has no room": no_room,
    "its Gateway takes its route": routes.reached,
    "its Gateway has yet to take its route": behind_a_gateway,
    "there is no Gateway of that name": lambda: behind_a_gateway(**routes.TROUBLES["no Gateway"][0]),
    "there is no Gateway API": lambda: behind_a_gateway(**routes.TROUBLES["no API"][0]),
}


def _planned(observed: Observed) -> bool:
    return observed.job.spec.managed_by in (None, "aifactory.dev/operator")


# A factory as the pages show it: the objects agree with each other.


def running_job() -> Json:
    """It trains, and says how far it is."""
    owner = job(nodes=2, output=OUTPUT, status={"resolved": {"nodes": 2, "createdAttempt": 0}})
    pods = [pod(index, of=owner, running=True) for index in range(2)]
    figures = report(620, total_steps=1000, tokens_per_second=27337.0, metrics=(("loss", 1.536),), first_step=20)
    return of_job(observe(owner, *pods, progress=figures))


def failing_job() -> Json:
    """Its image can not be pulled."""
    owner = job(nodes=2, output=OUTPUT, status={"resolved": {"nodes": 2, "createdAttempt": 0}})
    return of_job(observe(owner, pod(0, of=owner, running=True), pod(1, of=owner, **PULL)))


def fetching_job() -> Json:
    """Its corpus is refused."""
    found = of_job(MORE["its input is refused"])
    found["spec"]["output"] = OUTPUT
    return found


def served_pool() -> Json:
    """It answers."""
    world = serving.serving()
    world.throughput = Throughput(requests_per_second="3.1", tokens_per_second="96")
    world.settle()
    world.pool = world.pool.model_copy(
        update={"status": world.pool.status.model_copy(update={"url": "http://chat.ns.svc:9000/v1"})}
    )
    return pool(world)


def waiting_pool() -> Json:
    """There is no version yet."""
    world = serving.World(serving.pool())
    world.settle()
    return pool(world)


def published_version() -> Json:
    """A job made it."""
    lineage = {
        "trainingJob": {"name": "train", "uid": UID},
        "image": f"registry.example.com/trainer@sha256:{'c' * 64}",
        "attempt": 1,
        "steps": 1000,
        "metrics": [{"name": "heldOutBitsPerByte", "value": "2.3881"}],
        "inputs": [{"name": "corpus", "uri": CORPUS["uri"], "digest": f"sha256:{'b' * 64}"}],
    }
    return version(lineage=lineage)

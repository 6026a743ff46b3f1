"""What an object comes to depends on what it says, not on what it said before.

A edited to B equals a B that was made fresh, however early the edit came; A edited to something that cannot be carried
out and back to A equals A, and nothing of A's was touched meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import permutations
from typing import Any

import pytest

from aifactory.kube.resources import Resource
from tests.sim import goals, manifests
from tests.sim.machine import REACHED_SECONDS
from tests.sim.operator import PROBE_SECONDS
from tests.sim.views import difference, identities, view
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

Spec = dict[str, Any]

MOMENTS = (0.0, 0.3, 3.0, 60.0)
"""Seconds from A to the edit: before anybody has looked, in the middle of things, at rest."""

JOBS: dict[str, Spec] = {
    "one": manifests.job_spec(count=1),
    "two": manifests.job_spec(count=2),
    "three": manifests.job_spec(count=3),
    "another image": manifests.job_spec(count=2, image="train:2"),
    "one by one": manifests.job_spec(count=2, gang="none"),
    "suspended": manifests.job_spec(count=2, suspend=True),
    "refused": manifests.job_spec(count=2, invalid=True),
    "two processes": {**manifests.job_spec(count=2), "procPerNode": 2},
    "no launcher": {**manifests.job_spec(count=2), "launcher": "none"},
    "no retries": {**manifests.job_spec(count=2), "failurePolicy": {"maxRestarts": 0}},
}
NEW_PODS: Spec = {"rollout": {"strategy": "Surge"}}
"""Pods that change over keep their names and what they served before, so they do not equal fresh ones."""
POOLS: dict[str, Spec] = {
    "version 1": manifests.pool_spec("gpt", version=1, replicas=2),
    "version 2": manifests.pool_spec("gpt", version=2, replicas=2),
    "latest": manifests.pool_spec("gpt", replicas=2),
    "three pods": manifests.pool_spec("gpt", version=1, replicas=3),
    "no pods": manifests.pool_spec("gpt", version=1, replicas=0),
    "another image": manifests.pool_spec("gpt", version=1, replicas=2, image="triton:2"),
    "another drain": {**manifests.pool_spec("gpt", version=1, replicas=2), "drain": {"preStopSeconds": 1}},
    "another model": manifests.pool_spec("bert", version=1, replicas=2),
}
POOLS = {name: {**spec, **NEW_PODS} for name, spec in POOLS.items()}
VERSIONS = (
    ("gpt", 1, "good"),
    ("gpt", 2, "good"),
    ("bert", 1, "good"),
    ("gpt", 4, "bad"),
    ("t5", 1, "unloadable"),
)
PAUSED = ("suspended", "refused")
"""Jobs without pods keep what earlier ones had: the workspace, and what the status says of the last attempt."""

RUNNING, SERVING = JOBS["two"], POOLS["version 1"]
MISTAKES = [
    pytest.param(TRAININGJOBS, RUNNING, {**RUNNING, "launcher": "mpi"}, "InvalidSpec", id="a job of a newer CRD"),
    pytest.param(INFERENCEPOOLS, SERVING, {**SERVING, "replicas": "two"}, "InvalidSpec", id="a pool of a newer CRD"),
    pytest.param(
        INFERENCEPOOLS, SERVING, manifests.pool_spec("gpt", version=4, replicas=2), "ModelNotReady", id="a bad version"
    ),
    pytest.param(
        INFERENCEPOOLS,
        SERVING,
        manifests.pool_spec("t5", version=1, replicas=2),
        "ModelLoadFailed",
        id="a version that does not load",
    ),
    pytest.param(
        INFERENCEPOOLS,
        SERVING,
        {**SERVING, "template": manifests.BROKEN_TEMPLATE},
        "PodRejected",
        id="a typo in a pool's pods",
    ),
]
"""Edits that the schema, or a newer one, lets through, and that can not be carried out."""


@contextmanager
def world(seed: int = 1) -> Iterator[World]:
    """A world with versions; gpt's version 4 is not what it should be, and t5 does not load."""
    found = World(seed)
    try:
        found.programs.unloadable.add("pvc://models/t5/1/unloadable")
        found.programs.bad_artifacts["pvc://models/gpt/4/bad"] = "DigestMismatch"
        for model, number, quality in VERSIONS:
            spec = manifests.version_spec(model, number, f"pvc://models/{model}/{number}/{quality}")
            found.cluster.create(MODELVERSIONS, manifests.body(f"{model}-v{number}", spec), "user")
        found.advance(30)
        yield found
    finally:
        found.close()


def rest(world: World) -> None:
    """Let time pass until the declared state is reached and told."""
    world.until(lambda: goals.missing(world), REACHED_SECONDS, step=1.0)
    world.advance(PROBE_SECONDS + 5.0)
    assert not goals.missing(world), world.tell(goals.missing(world))


def create(world: World, resource: Resource, spec: Spec) -> None:
    world.cluster.create(resource, manifests.body("a", spec), "user")


def replace(world: World, resource: Resource, spec: Spec) -> None:
    """As `kubectl replace`: what the new spec leaves out is gone."""
    operations = [{"op": "replace", "path": "/spec", "value": spec}]
    world.cluster.patch(resource, manifests.key("a"), operations, "user", resource_version=None)


@cache
def fresh(resource: Resource, name: str) -> Any:
    """What a fresh object comes to."""
    with world() as found:
        create(found, resource, (JOBS if resource == TRAININGJOBS else POOLS)[name])
        rest(found)
        return view(found)


@pytest.mark.parametrize(("before", "after"), [(a, b) for a, b in permutations(JOBS, 2) if b not in PAUSED])
def test_an_edited_job_equals_a_fresh_one(before: str, after: str) -> None:
    edited_equals_fresh(TRAININGJOBS, JOBS, before, after)


@pytest.mark.parametrize(("before", "after"), list(permutations(POOLS, 2)))
def test_an_edited_pool_equals_a_fresh_one(before: str, after: str) -> None:
    edited_equals_fresh(INFERENCEPOOLS, POOLS, before, after)


def edited_equals_fresh(resource: Resource, specs: dict[str, Spec], before: str, after: str) -> None:
    wanted = fresh(resource, after)
    for seed, moment in enumerate(MOMENTS):
        with world(seed) as found:
            create(found, resource, specs[before])
            found.advance(moment)
            replace(found, resource, specs[after])
            rest(found)
            differs = difference(view(found), wanted)
            assert not differs, f"edited after {moment} s; - edited, + fresh:\n{differs}"


@pytest.mark.parametrize(("resource", "valid", "invalid", "reason"), MISTAKES)
def test_a_mistake_that_is_taken_back_leaves_no_trace(
    resource: Resource, valid: Spec, invalid: Spec, reason: str
) -> None:
    with world() as found:
        create(found, resource, valid)
        rest(found)
        before, children = view(found), identities(found)
        replace(found, resource, invalid)
        found.advance(90)
        status = found.cluster.get(resource, *manifests.key("a"))["status"]
        stalled = next(entry for entry in status["conditions"] if entry["type"] == "Stalled")
        assert (stalled["status"], stalled["reason"]) == ("True", reason)
        assert children.items() <= identities(found).items(), "what works was touched"
        replace(found, resource, valid)
        rest(found)
        assert not difference(view(found), before)
        assert identities(found) == children

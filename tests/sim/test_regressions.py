"""Defects that the state machine found, each as the shortest story that showed it. Every test ends settled."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from aifactory.api import names
from aifactory.app.domains import DOMAINS
from aifactory.engine import custom
from aifactory.kube.errors import TooManyRequests
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, PODGROUPS, PODS, PVCS, Resource
from aifactory.kube.retry import MAX_ATTEMPTS
from tests.sim import connection, manifests
from tests.sim.cluster import Body, Breakage, is_live, is_ready, key_of, labels_of
from tests.sim.machine import settle
from tests.sim.operator import moment
from tests.sim.programs import SUCCESS, Exit
from tests.sim.world import MODEL_STORE, World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

MODELS = {custom.resource_of(kind.model): kind.model for kind in DOMAINS}


@pytest.fixture
def world() -> Iterator[World]:
    world = World(seed=1)
    yield world
    try:
        settle(world)
    finally:
        world.close()


def status(world: World, resource: object, name: str) -> Body:
    found: Body = world.cluster.get(resource, manifests.NAMESPACE, name).get("status", {})  # type: ignore[arg-type]
    return found


def live(world: World) -> list[Body]:
    """Pods that have not ended: beside them there may be some that are kept for their logs."""
    return [pod for pod in world.cluster.all(PODS) if is_live(pod)]


def ready(world: World, pool: str = "pool-a") -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **{names.LABEL_POOL: pool}) if is_ready(pod)]


def version(world: World, model: str, number: int, quality: str = "good") -> None:
    uri = f"pvc://models/{model}/{number}/{quality}"
    if quality == "unloadable":
        world.programs.unloadable.add(uri)
    spec = manifests.version_spec(model, number, uri)
    world.cluster.create(MODELVERSIONS, manifests.body(f"{model}-v{number}", spec), "user")


def edit(world: World, resource: object, name: str, spec: Body) -> None:
    world.cluster.patch(resource, manifests.key(name), {"spec": spec}, "user", resource_version=None)  # type: ignore[arg-type]


def serving(world: World, replicas: int = 3) -> None:
    """A pool that serves version 1 of gpt."""
    version(world, "gpt", 1)
    spec = manifests.pool_spec("gpt", version=1, replicas=replicas)
    world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
    world.advance(60)
    assert len(ready(world)) == replicas


def test_a_rollout_that_is_called_off_costs_no_ready_pod(world: World) -> None:
    """The candidate was deleted at once, though it carried most of the traffic by then."""
    serving(world)
    edit(world, INFERENCEPOOLS, "pool-a", manifests.pool_spec("gpt", version=1, replicas=3, image="triton:2"))
    stable = status(world, INFERENCEPOOLS, "pool-a")["stable"]["revision"]
    world.until(
        lambda: "" if len([p for p in ready(world) if _revision(p) != stable]) >= 2 else "rolling", 120, step=0.1
    )
    edit(world, INFERENCEPOOLS, "pool-a", {"template": None})
    for _ in range(600):
        world.advance(0.1)
        assert len(ready(world)) >= 3, world.tell("fewer ready pods than wanted")


def test_a_start_that_is_called_off_keeps_what_is_ready(world: World) -> None:
    """Pods of a revision that was not complete yet were deleted before the next one had any."""
    version(world, "gpt", 1)
    spec = manifests.pool_spec("gpt", version=1, replicas=3)
    world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
    world.until(lambda: "" if len(ready(world)) >= 2 else "starting", 60, step=0.1)
    world.advance(1.0)
    edit(world, INFERENCEPOOLS, "pool-a", manifests.pool_spec("gpt", version=1, replicas=3, image="triton:2"))
    for _ in range(300):
        world.advance(0.1)
        assert len(ready(world)) >= 2, world.tell("ready pods were taken away")


def test_what_became_ready_while_the_operator_was_away_serves_on_without_a_wanted_version(world: World) -> None:
    """A revision that no operator had seen ready was deleted when the wish pointed to a version that is not there."""
    version(world, "gpt", 1)
    spec = manifests.pool_spec("gpt", version=1, replicas=2)
    world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
    kinds, mine = (DEPLOYMENTS, CONFIGMAPS), {names.LABEL_POOL: "pool-a"}  # pods start when both are there
    world.until(lambda: "" if all(world.cluster.all(kind, **mine) for kind in kinds) else "missing", 60, step=0.1)
    world.kill(0, away=60.0)
    edit(world, INFERENCEPOOLS, "pool-a", {"models": [{"name": "gpt", "version": 2}]})
    world.advance(120)
    assert len(ready(world)) == 2


def test_a_version_stays_in_use_while_a_pool_of_another_model_serves_it(world: World) -> None:
    """Users were looked up by the model that the pool's spec names, which is not the one it still serves."""
    serving(world, replicas=1)
    edit(world, INFERENCEPOOLS, "pool-a", {"models": [{"name": "bert", "track": "Latest"}]})
    world.advance(30)
    assert ready(world), "what is served goes on while there is no version of bert"
    assert status(world, MODELVERSIONS, "gpt-v1")["usedBy"] == [{"kind": "InferencePool", "name": "pool-a"}]


def test_a_refusal_is_told_in_the_same_words_each_time(world: World) -> None:
    """The words of whichever pod was refused first went into the status, so it changed for ever."""
    spec = manifests.job_spec(count=3, invalid=True)
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")
    world.advance(10)
    conditions = {entry["type"]: entry for entry in status(world, TRAININGJOBS, "job-a")["conditions"]}
    assert "Pod job-a-0-0" in conditions["Stalled"]["message"]


def test_a_job_resized_before_it_has_pods_does_not_wait_for_a_gang_of_the_old_size(world: World) -> None:
    """The PodGroup of three was made, the job was edited to two, and two pods waited for a third for ever."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=3)), "user")
    world.until(lambda: "" if world.cluster.all(PODGROUPS) else "no gang", 10, step=0.001)
    edit(world, TRAININGJOBS, "job-a", {"nodes": {"count": 2}})
    world.advance(60)
    assert status(world, TRAININGJOBS, "job-a")["phase"] == "Running", world.tell("not running")
    assert [gang["spec"]["schedulingPolicy"]["gang"]["minCount"] for gang in world.cluster.all(PODGROUPS)] == [2]


def test_a_job_made_smaller_is_not_done_because_the_node_it_lost_was(world: World) -> None:
    """One node of two had ended well, the job was edited to one: 1 of 1 done, said the status, and it was published."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2, model="gpt")), "user")
    world.advance(20)
    world.nodes.fail(world.cluster.get(PODS, manifests.NAMESPACE, "job-a-1-0"), SUCCESS)
    world.advance(5)
    edit(world, TRAININGJOBS, "job-a", {"nodes": {"count": 1}})
    world.advance(60)
    found = status(world, TRAININGJOBS, "job-a")
    assert (found["phase"], found["attempt"]) == ("Running", 1)
    assert not world.cluster.all(MODELVERSIONS)


def test_gangs_of_earlier_attempts_go_also_when_their_pods_went_first(world: World) -> None:
    """They were removed together with pods only: each drain or lost node left one for the rest of the job's life."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2)), "user")
    world.advance(20)
    for pod in world.cluster.all(PODS):
        world.cluster.purge(PODS, key_of(pod), "pod-gc")
    world.advance(60)
    assert [gang["metadata"]["name"] for gang in world.cluster.all(PODGROUPS)] == ["job-a-1"]


def test_a_gang_that_waited_for_refused_pods_is_not_left_over_when_the_status_is_lost(world: World) -> None:
    """The job began anew at attempt 0, for which nothing looked for gangs of later attempts."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2)), "user")
    world.advance(20)
    world.cluster.pod_quota_exhausted = True
    world.cluster.purge(PODS, manifests.key("job-a-0-0"), "user")
    world.advance(20)
    assert [gang["metadata"]["name"] for gang in world.cluster.all(PODGROUPS)] == ["job-a-1"]
    lost = dict.fromkeys(status(world, TRAININGJOBS, "job-a"))
    world.cluster.patch_status(TRAININGJOBS, manifests.key("job-a"), lost, "user")
    world.cluster.pod_quota_exhausted = False
    world.advance(60)
    assert [gang["metadata"]["name"] for gang in world.cluster.all(PODGROUPS)] == ["job-a-1"]


def test_side_containers_do_not_outlive_a_job_that_is_done(world: World) -> None:
    """It said Complete and looked again only if its own write came back by the watch before the answer to it."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
    world.advance(20)
    world.processes[0].connection.faults.lag[TRAININGJOBS] = 3.0
    world.nodes.fail(world.cluster.get(PODS, manifests.NAMESPACE, "job-a-0-0"), Exit(0, side_container_runs=True))
    world.until(lambda: "" if not world.cluster.all(PODS) else "pods", 60)
    assert status(world, TRAININGJOBS, "job-a")["phase"] == "Succeeded"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_pod_that_has_lost_our_label_is_not_believed_to_live_on(world: World, restarted: bool) -> None:
    """A create found the name taken and the pod was noted; no watch told that it was gone, so it was waited for."""
    world.nodes.full = True
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
    world.until(lambda: "" if world.cluster.all(PODS) else "no pod", 10, step=0.01)
    world.take_label(PODS, world.cluster.all(PODS)[0])
    if restarted:
        world.kill(0)
    world.advance(4)
    world.nodes.make_room()
    world.advance(20)
    world.cluster.purge(PODS, manifests.key("job-a-0-0"), "user")
    world.until(lambda: "" if world.cluster.all(PODS) else "no pod", 100)


def test_the_last_report_of_a_job_whose_pods_are_refused_is_told_soon(world: World) -> None:
    """Reports in quick succession are written together a little later, for which nobody came back after a refusal."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2, invalid=True)), "user")
    world.advance(200)  # by now the next try is more than a minute away
    uid = world.cluster.get(TRAININGJOBS, manifests.NAMESPACE, "job-a")["metadata"]["uid"]
    for step in (10, 20):
        world.do(lambda step=step: world.processes[0].report(uid, manifests.NAMESPACE, "job-a", 0, step))
        world.advance(3)
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["progress"]["step"] == 20 else "old", 15)


def test_a_job_made_anew_does_not_train_in_the_workspace_of_the_deleted_one(world: World) -> None:
    """Its pods mounted the old claim before that was gone, which kept it from going: a conflict for ever."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
    world.advance(10)
    world.cluster.delete(TRAININGJOBS, manifests.key("job-a"), "user")
    made = world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
    # The old pod is gone before the collector has come to the claim.
    for pod in world.cluster.all(PODS):
        world.cluster.purge(PODS, key_of(pod), "user")
    world.until(
        lambda: "" if status(world, TRAININGJOBS, "job-a").get("phase") == "Running" else "not running", 600, step=1.0
    )
    claim = world.cluster.get(PVCS, manifests.NAMESPACE, "job-a-workspace")
    assert claim["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert "deletionTimestamp" not in claim["metadata"]


def test_the_model_claim_is_made_though_the_publisher_already_waits_for_it(world: World) -> None:
    """Both were created at once, the claim failed for a moment and was not tried again: published never."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(model="gpt")), "user")
    world.advance(10)
    world.cluster.purge(PVCS, manifests.key(names.MODEL_CLAIM), "user")  # it was made before the first pod
    connection, create = world.processes[0].connection, world.processes[0].connection.create
    refusals = iter([TooManyRequests(429, "TooManyRequests", "slow down")] * MAX_ATTEMPTS)

    async def fail_once(resource: Resource, body: Mapping[str, Any], **options: Any) -> bytes:
        if resource == PVCS and (error := next(refusals, None)) is not None:
            raise error
        return await create(resource, body, **options)

    connection.create = fail_once  # type: ignore[method-assign]
    for pod in world.cluster.all(PODS):
        world.nodes.fail(pod, SUCCESS)
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["phase"] == "Succeeded" else "publishing", 60)


def test_a_stable_deployment_that_somebody_deletes_comes_back_while_a_bad_version_is_held_back(world: World) -> None:
    """It was resized if it was there, and not made if it was not: the pool served nothing."""
    serving(world, replicas=2)
    version(world, "gpt", 2, "unloadable")
    edit(world, INFERENCEPOOLS, "pool-a", {"models": [{"name": "gpt", "version": 2}]})
    world.until(lambda: "" if status(world, INFERENCEPOOLS, "pool-a").get("phase") == "Degraded" else "rolling", 120)
    for deployment in world.cluster.all(DEPLOYMENTS):
        world.cluster.delete(DEPLOYMENTS, key_of(deployment), "user")
    world.advance(10)  # the pods of the deleted one are gone
    world.until(lambda: "" if len(ready(world)) == 2 else "no pods", 120)


def test_a_deletion_that_kopf_misses_is_noticed_after_its_next_list(world: World) -> None:
    """The children of the pool were made again as often as the garbage collector removed them, for five minutes."""
    serving(world, replicas=1)
    spec = manifests.pool_spec("gpt", version=1, replicas=0)
    world.cluster.create(INFERENCEPOOLS, manifests.body("pool-b", spec), "user")
    world.advance(10)
    world.cluster.delete(INFERENCEPOOLS, manifests.key("pool-a"), "user")
    world.cluster.compact()
    world.do(world.processes[0].connection.cut)
    world.advance(20)
    before = world.invariants.writes["ADDED Service"]
    world.advance(60)
    assert world.invariants.writes["ADDED Service"] == before


def test_the_deletion_of_the_last_object_of_a_kind_is_noticed_too(world: World) -> None:
    """kopf's next list was empty, so no handler heard of it, and its version was believed to be used for minutes."""
    serving(world, replicas=1)
    world.cluster.delete(INFERENCEPOOLS, manifests.key("pool-a"), "user")
    world.cluster.compact()
    world.do(world.processes[0].connection.cut)
    world.until(lambda: "" if not status(world, MODELVERSIONS, "gpt-v1")["usedBy"] else "still used", 10)


def test_a_standby_whose_watches_had_fallen_silent_does_not_act_on_its_old_view() -> None:
    """It saw attempt 1 without pods, took over when attempt 2 ran, and created the pods of attempt 1 beside it."""
    world = World(seed=1, replicas=2, lease_seconds=15.0)
    try:
        world.advance(5)
        leader = next(number for number, process in enumerate(world.processes) if process.leading)
        spec = {**manifests.job_spec(count=2), "workspace": {"claimName": MODEL_STORE}}
        world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")
        world.advance(20)
        for attempt in (1, 2):
            world.nodes.fail(live(world)[0], Exit(1, "Error", "ValueError: loss is nan"))
            world.until(lambda: "pods are ending" if live(world) else "", 9, step=0.2)
            if attempt == 1:
                world.advance(1)
                world.processes[1 - leader].connection.stall()
            world.until(lambda: "" if len(live(world)) == 2 else "backing off", 60, step=0.2)
            world.advance(5)
        assert status(world, TRAININGJOBS, "job-a")["attempt"] == 2
        world.kill(leader, away=300.0)
        world.until(lambda: "" if world.processes[1 - leader].leading else "no leader", 40)
        world.advance(30)
        assert sorted(pod["metadata"]["name"] for pod in live(world)) == ["job-a-0-2", "job-a-1-2"]
        settle(world)
    finally:
        world.close()


@pytest.mark.parametrize("moment", ["between two tries", "after a write"])
def test_a_leader_that_was_stopped_writes_nothing_once_another_one_leads(moment: str) -> None:
    """Answers and the timers of retries came before the timer of the lease: the write was sent (again)."""
    world = World(seed=1, replicas=2, lease_seconds=15.0)
    try:
        world.advance(5)
        leader = next(number for number, process in enumerate(world.processes) if process.leading)
        world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
        world.advance(20)
        if moment == "between two tries":
            world.stop_between_tries(leader, 40.0)
        else:  # the pod is deleted, and that is told at once
            world.stop_after_writes(leader, 1, 40.0)
        edit(world, TRAININGJOBS, "job-a", {"suspend": True})
        world.until(lambda: "" if world.processes[leader].loop.stopped else "nothing to write", 5, step=0.01)
        world.until(lambda: "" if world.processes[1 - leader].leading else "no leader", 30)
        world.advance(30)
        assert not world.processes[leader].leading
        settle(world)
    finally:
        world.close()


def _revision(pod: Body) -> str:
    return labels_of(pod)[names.LABEL_REVISION]


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "NodeShutdown"])
def test_half_a_model_is_not_published_because_its_program_ended_as_it_was_told(world: World, reason: str) -> None:
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(model="gpt")), "user")
    world.advance(20)
    world.nodes.stop(live(world)[0], reason, 0)
    world.advance(60)
    assert status(world, TRAININGJOBS, "job-a")["phase"] == "Running", "it was restarted"
    assert status(world, TRAININGJOBS, "job-a")["lastFailure"]["reason"] == reason
    assert world.cluster.find(MODELVERSIONS, manifests.NAMESPACE, "gpt-v1") is None


def test_a_node_that_refuses_a_pod_costs_no_restart_that_counts(world: World) -> None:
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
    world.until(lambda: "" if live(world) and live(world)[0]["spec"].get("nodeName") else "not placed", 20, step=0.05)
    world.nodes.refuse(live(world)[0])
    world.advance(60)
    found = status(world, TRAININGJOBS, "job-a")
    assert (found["phase"], found["restarts"]["counted"], found["restarts"]["byCause"]) == (
        "Running",
        0,
        {"NodeRefused": 1},
    )


def test_a_number_whose_version_was_deleted_is_not_given_again(world: World) -> None:
    for name in ("job-a", "job-b"):
        world.cluster.create(TRAININGJOBS, manifests.body(name, manifests.job_spec(model="gpt")), "user")
        world.advance(20)
        world.nodes.fail(live(world)[0], SUCCESS)
        world.until(lambda n=name: "" if status(world, TRAININGJOBS, n)["phase"] == "Succeeded" else "going on", 60)
        made = status(world, TRAININGJOBS, name)["output"]["modelVersion"]
        world.until(lambda m=made: "" if status(world, MODELVERSIONS, m).get("reason") == "Verified" else "not yet", 60)
        world.cluster.delete(MODELVERSIONS, manifests.key(made), "user")
    assert made == "gpt-v2"


def test_a_job_and_a_pool_may_have_the_same_name(world: World) -> None:
    world.cluster.create(TRAININGJOBS, manifests.body("gpt", manifests.job_spec(count=2, model="gpt")), "user")
    world.cluster.create(INFERENCEPOOLS, manifests.body("gpt", manifests.pool_spec("gpt")), "user")
    world.advance(20)
    for pod in live(world):
        world.nodes.fail(pod, SUCCESS)
    world.until(lambda: "" if status(world, INFERENCEPOOLS, "gpt").get("phase") == "Serving" else "not yet", 120)
    assert status(world, TRAININGJOBS, "gpt")["phase"] == "Succeeded"


def test_ranks_that_fail_because_a_node_was_lost_are_not_charged_to_the_program(world: World) -> None:
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=3)), "user")
    world.advance(20)
    node = world.cluster.get(PODS, manifests.NAMESPACE, "job-a-0-0")["spec"]["nodeName"]
    world.nodes.lose(node, given_up_after=300.0)
    world.nodes.survivors_fail(node)
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["attempt"] == 1 else "not noticed", 400)
    # Those that gave up before the cluster had missed the machine are forgiven when it has.
    world.until(lambda: "" if not status(world, TRAININGJOBS, "job-a")["restarts"]["counted"] else "counted", 30)
    assert status(world, TRAININGJOBS, "job-a")["restarts"]["byCause"] == {"Disruption": 1}


def test_a_job_that_waits_for_a_lost_node_names_it(world: World) -> None:
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec()), "user")
    world.advance(20)
    node = world.cluster.all(PODS)[0]["spec"]["nodeName"]
    world.nodes.lose(node)
    world.advance(600)
    assert any(node in entry["message"] for entry in status(world, TRAININGJOBS, "job-a")["conditions"])


def test_a_namespace_whose_webhook_hangs_does_not_hold_up_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten jobs whose writes hung held all workers, so nobody else's jobs were looked at (`-s` prints the figure)."""
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 10.0)
    alone, beside = (_seconds_to_four_pods(hanging_jobs) for hanging_jobs in (0, 10))
    print(f"4 pods after {alone:.2f} s, beside ten jobs of 32 pods whose webhook hangs after {beside:.2f} s")
    assert beside <= alone + 1.0


def _seconds_to_four_pods(hanging_jobs: int) -> float:
    world = World(seed=1)
    try:
        world.cluster.broken = Breakage("create", PODS, "hang", manifests.OTHER)
        for number in range(hanging_jobs):
            body = manifests.body(f"job-{number}", manifests.job_spec(count=32), manifests.OTHER)
            world.cluster.create(TRAININGJOBS, body, "user")
        world.advance(30)
        started = world.loop.now
        world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=4)), "user")
        world.until(lambda: "" if len(world.cluster.all(PODS, manifests.NAMESPACE)) == 4 else "no pods", 60, step=0.05)
        return world.loop.now - started
    finally:
        world.close()


@pytest.mark.parametrize("how", ["it can not be read", "its pods can not be made"])
@pytest.mark.parametrize("kind", ["job", "failed job", "version", "refused version", "pool"])
def test_what_is_told_in_between_is_taken_back(world: World, kind: str, how: str) -> None:
    """A verified version and a finished job stayed Stalled for ever, because nothing looks at them a second time."""
    resource, name = {"pool": (INFERENCEPOOLS, "pool-a"), "job": (TRAININGJOBS, "job-a")}.get(
        kind.split()[-1], (MODELVERSIONS, "gpt-v1")
    )
    if resource == TRAININGJOBS:
        spec = manifests.job_spec() | {"failurePolicy": {"maxRestarts": 0}}
        world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")
        world.advance(20)
        world.nodes.fail(live(world)[0], Exit(1, "Error", "no") if kind == "failed job" else SUCCESS)
        world.advance(60)
    elif resource == MODELVERSIONS:
        if kind == "refused version":
            world.programs.bad_artifacts["pvc://models/gpt/1/good"] = "InvalidArtifact"
        version(world, "gpt", 1)
        world.advance(60)
    else:
        serving(world, replicas=1)
    before = _told(world, resource, name)
    if how == "it can not be read":
        stood = world.cluster.get(resource, manifests.NAMESPACE, name)["spec"]
        edit(world, resource, name, {"unheard": {"of": 1}} | dict.fromkeys(stood, 1))
        world.advance(10)
        between = _told(world, resource, name)
        if resource == TRAININGJOBS:  # which has ended, and stays as it ended
            assert between == before
        else:
            assert (between["Ready"][0], between["Stalled"][:2]) == ("False", ("True", "InvalidSpec"))
        edit(world, resource, name, stood)
    else:
        stored = custom.parser(MODELS[resource])(world.cluster.get(resource, manifests.NAMESPACE, name))
        lasting = custom.failing_status(stored, "500: no webhook", moment(world.loop.now))
        world.cluster.patch_status(resource, manifests.key(name), lasting, "user", resource_version=None)
        assert _told(world, resource, name)["Reconciling"][:2] == ("True", "FailureLasts")
    world.until(lambda: "" if _told(world, resource, name) == before else "not as before", 60)


def _told(world: World, resource: object, name: str) -> dict[str, tuple[str, str, str]]:
    found = status(world, resource, name)
    told = {entry["type"]: (entry["status"], entry["reason"], entry["message"]) for entry in found["conditions"]}
    return told | {"phase": (found.get("phase", ""), found["reason"], "")}


def test_no_gpu_is_held_for_a_store_that_refuses_and_training_begins_soon_after_it_is_mended(world: World) -> None:
    """That the keys were wrong was found out when training had ended."""
    world.programs.keys_refused = True
    spec = manifests.job_spec(count=2, model="gpt", store="s3://bucket")
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")
    world.advance(600)
    found = status(world, TRAININGJOBS, "job-a")
    assert (found["phase"], found["reason"], found["attempt"]) == ("Pending", "AccessDenied", 0)
    assert not world.cluster.all(PODS, **{names.LABEL_ROLE: names.ROLE_NODE})
    words = next(entry["message"] for entry in found["conditions"] if entry["type"] == "Stalled")
    assert words.startswith("s3://bucket with Secret keys: pod job-a-probe-")
    world.programs.keys_refused = False
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["phase"] == "Running" else "waiting", 60)


def test_a_store_that_was_probed_once_is_not_probed_again_by_a_new_operator(world: World) -> None:
    made: list[str] = []
    world.cluster.hooks.append(
        lambda commit: (
            made.append(commit.body["metadata"]["name"]) if commit.resource == PODS and commit.type == "ADDED" else None
        )
    )
    spec = manifests.job_spec(model="gpt", store="s3://bucket")
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")
    world.until(
        lambda: "" if status(world, TRAININGJOBS, "job-a").get("output", {}).get("probed") else "not yet", 30, step=0.01
    )
    world.kill(0)
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["phase"] == "Running" else "not running", 60)
    world.nodes.fail(live(world)[0], Exit(1, "Error", "ValueError: loss is nan"))
    world.until(lambda: "" if "job-a-0-1" in made else "no restart", 60)
    assert [name for name in made if "probe" in name] == ["job-a-probe-0"]


@pytest.mark.parametrize("finished", [False, True])
def test_keys_that_were_put_right_are_noticed_within_a_minute(world: World, finished: bool) -> None:
    """Tries came ever later, up to five minutes apart; the first ones within seconds."""
    made: list[float] = []
    world.cluster.hooks.append(
        lambda commit: (
            made.append(commit.time)
            if commit.type == "ADDED" and labels_of(commit.body).get(names.LABEL_ROLE) in ("probe", "publish")
            else None
        )
    )
    world.programs.keys_refused = not finished
    spec = manifests.job_spec(model="gpt", store="s3://bucket")
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")
    world.advance(20)
    if finished:
        made.clear()
        world.programs.keys_refused = True
        world.nodes.fail(live(world)[0], SUCCESS)
    world.advance(3600)
    assert status(world, TRAININGJOBS, "job-a")["reason"] == "AccessDenied"
    assert min(later - earlier for earlier, later in itertools.pairwise(made)) >= 30.0
    world.programs.keys_refused = False
    phase = "Succeeded" if finished else "Running"
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["phase"] == phase else "waiting", 60, step=0.5)


def _break(world: World, name: str, *, broken: bool = True) -> None:
    edit(world, TRAININGJOBS, name, {"template": manifests.job_spec(invalid=broken, image="train:2")["template"]})


def test_a_mistake_in_the_template_does_not_stop_what_runs(world: World) -> None:
    """Its pods were ended before the API server had refused the new ones."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2, model="gpt")), "user")
    world.advance(20)
    before = sorted(pod["metadata"]["uid"] for pod in live(world))
    _break(world, "job-a")
    world.advance(10)
    told = world.invariants.writes["MODIFIED TrainingJob"]
    world.advance(600)
    assert world.invariants.writes["MODIFIED TrainingJob"] == told, "it is told once"
    assert sorted(pod["metadata"]["uid"] for pod in live(world)) == before
    found = status(world, TRAININGJOBS, "job-a")
    assert (found["phase"], found["reason"], found["attempt"]) == ("Running", "PodRejected", 0)
    stalled = next(entry for entry in found["conditions"] if entry["type"] == "Stalled")
    assert 'unknown field "imagePullPolcy"; those of attempt 0 run on as they are' in stalled["message"]
    _break(world, "job-a", broken=False)
    world.until(lambda: "" if len(live(world)) == 2 and _attempts(world) == {"1"} else "not restarted", 90)


def test_what_fails_beside_a_mistake_in_the_template_holds_no_node(world: World) -> None:
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2)), "user")
    world.advance(20)
    _break(world, "job-a")
    world.advance(20)
    world.nodes.fail(live(world)[0], Exit(1, "Error", "ValueError: loss is nan"))
    world.until(lambda: "pods hold nodes" if live(world) else "", 90)
    _break(world, "job-a", broken=False)
    world.until(lambda: "" if len(live(world)) == 2 else "no pods", 400)


def test_what_is_left_of_an_attempt_whose_status_is_lost_keeps_no_edit_back(world: World) -> None:
    """One pod that had ended counted as one that runs on, so the job waited for ever beside its mistake."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2)), "user")
    world.advance(20)
    world.kill(0, away=30.0)
    first, second = live(world)
    world.nodes.fail(first, SUCCESS)
    world.cluster.delete(PODS, key_of(second), "user")
    world.advance(10)
    found = world.cluster.get(TRAININGJOBS, manifests.NAMESPACE, "job-a")
    world.cluster.patch_status(TRAININGJOBS, key_of(found), dict.fromkeys(found["status"]), "user")
    _break(world, "job-a")
    settle(world)
    _break(world, "job-a", broken=False)
    world.until(lambda: "" if len(live(world)) == 2 else "no pods", 400)


def test_an_edit_in_a_namespace_whose_quota_the_job_fills_itself_is_made(world: World) -> None:
    """The dry run is refused for the pods that go first."""
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", manifests.job_spec(count=2)), "user")
    world.advance(20)
    world.cluster.pod_quota_exhausted = True
    edit(world, TRAININGJOBS, "job-a", {"template": manifests.job_spec(image="train:2")["template"]})
    world.until(lambda: "" if not live(world) else "old pods", 60)
    world.cluster.pod_quota_exhausted = False
    world.until(lambda: "" if len(live(world)) == 2 and _attempts(world) == {"1"} else "not restarted", 400)


def test_what_is_held_while_it_is_being_deleted_holds_no_node(world: World) -> None:
    """Pods ran on until somebody's finalizer was removed, and were started anew when they failed."""
    hold = "team/hold"
    for resource, name, spec in (
        (TRAININGJOBS, "job-a", manifests.job_spec(count=2, model="gpt")),
        (MODELVERSIONS, "bert-v1", manifests.version_spec("bert", 1, "pvc://models/bert/1/good")),
    ):
        body = manifests.body(name, spec)
        body["metadata"]["finalizers"] = [hold]
        world.cluster.create(resource, body, "user")
    world.until(lambda: "" if len(live(world)) == 3 else "pods are missing", 60, step=0.01)
    for resource, name in ((TRAININGJOBS, "job-a"), (MODELVERSIONS, "bert-v1")):
        world.cluster.delete(resource, manifests.key(name), "user")
    world.until(lambda: "pods hold nodes" if live(world) else "", 60)
    world.advance(600)
    assert not world.cluster.all(PODS)
    told = [(status(world, TRAININGJOBS, "job-a")[name]) for name in ("phase", "reason", "attempt")]
    assert told == ["Terminating", "StoppingPods", 0]
    for resource, name in ((TRAININGJOBS, "job-a"), (MODELVERSIONS, "bert-v1")):
        world.cluster.drop_finalizer(resource, manifests.key(name), hold, "user")


def _attempts(world: World) -> set[str]:
    return {labels_of(pod)[names.LABEL_ATTEMPT] for pod in live(world)}

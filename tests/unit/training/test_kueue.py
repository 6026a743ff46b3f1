"""Jobs in a queue of Kueue's: no pod without quota, none that outlives it, and Kueue is told what it goes by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aifactory.api import names
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.plan import Create, Delete, PatchStatus
from aifactory.training import children, kueue
from aifactory.training.state import Fact, Observed, Placement, WorkloadView
from tests.unit.plans import bodies, created, removed
from tests.unit.training.builders import NOW, OUTPUT, World, conditions, decide, job, message, observe, pod, report

QUEUED = {names.KUEUE_QUEUE: "team-a"}
WHERE = Placement({"gpu": "a100"}, ({"key": "gpu", "operator": "Exists"},))
SERVED = {"kueue_served": True}


def queued_job(**spec: Any) -> TrainingJob:
    return job(nodes=2, labels=QUEUED, **spec)


def workload(owner: TrainingJob, *facts: Fact, **changes: Any) -> WorkloadView:
    """A Workload of the job as Kueue has left it."""
    hash_ = children.template_hash(owner.spec)
    return replace(WorkloadView("train-w", "w", "7", NOW, hash_, "team-a", facts=facts), **changes)


def has_quota(owner: TrainingJob, *facts: Fact, **changes: Any) -> WorkloadView:
    given = {"cluster_queue": "gpus", "flavors": {"nvidia.com/gpu": "a100"}, "placement": WHERE}
    return workload(owner, Fact("QuotaReserved", True), Fact("Admitted", True), *facts, **{**given, **changes})


def queued(**spec: Any) -> World:
    """A job in a queue, as soon as it has asked for quota."""
    world = World(queued_job(**spec), kueue_served=True)
    world.settle()
    assert len(world.workloads) == 1
    return world


def the(world: World) -> WorkloadView:
    (found,) = world.workloads.values()
    return found


def admit(world: World) -> None:
    """Kueue gives quota, as its scheduler does: earlier conditions of an eviction end."""
    view = the(world)
    facts = [fact for fact in view.facts if fact.type not in ("QuotaReserved", "Admitted", "Evicted", "Preempted")]
    facts += [Fact("QuotaReserved", True), Fact("Admitted", True), Fact("Evicted", False, "QuotaReserved")]
    given = {"cluster_queue": "gpus", "flavors": {"nvidia.com/gpu": "a100"}, "placement": WHERE}
    world.workloads[view.name] = replace(view, facts=tuple(facts), **given)
    world.settle()


def evict(world: World, reason: str = "Preempted") -> None:
    view = the(world)
    facts = [fact for fact in view.facts if fact.type != "Evicted"]
    evicted = Fact("Evicted", True, reason, f"because of {reason}")
    world.workloads[view.name] = replace(view, facts=(*facts, evicted))


def running(**spec: Any) -> World:
    world = queued(**spec)
    admit(world)
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    return world


def facts(world: World) -> dict[str, tuple[bool, str]]:
    return {fact.type: (fact.true, fact.reason) for fact in the(world).facts}


def test_a_job_asks_for_quota_and_for_no_pod() -> None:
    world = queued()
    assert not world.pods
    assert world.status.phase == "Queued"
    assert conditions(world.status)["Admitted"] == ("False", "Queued")
    assert conditions(world.status)["Reconciling"] == ("True", "Queued")
    assert "LocalQueue team-a" in message(world.status)
    assert world.status.attempt == 0


def test_without_a_queue_nobody_is_asked() -> None:
    world = World(job(nodes=2), kueue_served=True)
    world.settle()
    assert not world.workloads
    assert len(world.pods) == 2
    assert "Admitted" not in conditions(world.status)


def test_what_is_asked_for_is_what_the_pods_ask_for() -> None:
    template = {
        "spec": {
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "spot"}],
            "priorityClassName": "high",
            "containers": [
                {
                    "name": "trainer",
                    "image": "trainer:1",
                    "env": [{"name": "PASSWORD", "value": "secret"}],
                    "resources": {"limits": {"nvidia.com/gpu": 4}},
                },
                {"name": "side", "image": "side:1"},
            ],
        }
    }
    owner = job(nodes=2, labels={**QUEUED, names.KUEUE_PRIORITY: "urgent"}, template=template)
    found = kueue.workload(observe(owner, priority=1000, **SERVED))
    assert found["metadata"]["name"].startswith("trainingjob-train-")
    assert found["metadata"]["labels"][names.KUEUE_JOB_UID] == owner.metadata.uid
    assert found["metadata"]["ownerReferences"][0]["kind"] == "TrainingJob"
    spec = found["spec"]
    assert spec["queueName"] == "team-a"
    assert (spec["priorityClassRef"]["name"], spec["priority"]) == ("urgent", 1000)
    (pods,) = spec["podSets"]
    assert pods["count"] == 2
    asked = pods["template"]["spec"]
    assert asked["nodeSelector"] == {"zone": "a"}
    assert asked["tolerations"] == [{"key": "spot"}]
    assert asked["containers"] == [
        {"name": "trainer", "image": "trainer:1", "resources": {"limits": {"nvidia.com/gpu": 4}}},
        {"name": "side", "image": "side:1"},
    ]
    assert "secret" not in str(found)


def test_the_directory_on_a_claim_of_the_user_is_asked_for_too() -> None:
    found = kueue.workload(observe(queued_job(workspace={"claimName": "mine"}), **SERVED))
    (first,) = found["spec"]["podSets"][0]["template"]["spec"]["initContainers"]
    assert first["resources"]["requests"] == {"cpu": "100m", "memory": "128Mi"}


def test_pods_run_where_the_quota_is() -> None:
    world = queued(template={"spec": {"nodeSelector": {"zone": "a"}, "containers": [{"name": "trainer"}]}})
    admit(world)
    made = [body for plan in world.log for body in bodies(plan) if body["kind"] == "Pod"]
    assert len(made) == 2
    for body in made:
        assert body["spec"]["nodeSelector"] == {"zone": "a", "gpu": "a100"}
        assert body["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert world.status.attempt == 0
    assert "ClusterQueue gpus: nvidia.com/gpu of flavor a100" in message(world.status, ConditionType.ADMITTED)


def test_what_the_template_tolerates_is_not_said_twice() -> None:
    body = {"metadata": {"labels": {"a": "ours"}, "annotations": {}}, "spec": {"tolerations": [{"key": "gpu"}]}}
    where = Placement(
        tolerations=({"key": "gpu"}, {"key": "spot"}), labels={"a": "x", "b": "y"}, annotations={"c": "z"}
    )
    found = kueue.placed(body, where)
    assert found["spec"] == {"tolerations": [{"key": "gpu"}, {"key": "spot"}]}
    assert found["metadata"] == {"labels": {"a": "ours", "b": "y"}, "annotations": {"c": "z"}}


def test_what_flavors_and_checks_ask_for_comes_together() -> None:
    found = kueue.merged([WHERE, Placement({"rack": "7"}, WHERE.tolerations, annotations={"c": "z"})])
    assert found == Placement({"gpu": "a100", "rack": "7"}, WHERE.tolerations, {}, {"c": "z"})


def test_inputs_and_store_come_before_the_queue() -> None:
    """No quota is held while a terabyte is fetched."""
    world = World(queued_job(inputs=[{"name": "corpus", "uri": "s3://b/c"}], output=OUTPUT), kueue_served=True)
    world.settle()
    assert world.fetchers
    assert not world.workloads
    assert world.status.phase == "Pending"


def test_kueue_is_told_when_all_run_and_when_not() -> None:
    world = running()
    assert facts(world)["PodsReady"] == (True, "Started")
    before = len(world.log)
    world.settle()
    assert not any(plan.writes for plan in world.log[before:])
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.wait(60)
    world.settle()
    assert facts(world)["PodsReady"] == (False, "WaitForRecovery")
    assert conditions(world.status)["Admitted"][0] == "True", "a restart keeps its quota"
    world.run_pods()
    world.settle()
    assert facts(world)["PodsReady"] == (True, "Recovered")
    assert world.status.attempt == 1


def test_a_preempted_job_ends_with_grace_gives_back_and_goes_on() -> None:
    world = running()
    world.progress = report(40, checkpoint_step=30, checkpoint_path="c", checkpoint_time=NOW)
    evict(world)
    world.settle()
    assert world.status.phase == "Suspending"
    assert conditions(world.status)["Admitted"] == ("False", "Preempted")
    assert "grace period to write a checkpoint" in message(world.status)
    assert "because of Preempted" in message(world.status)
    assert all(view.terminating for view in world.pods.values())
    assert facts(world)["QuotaReserved"][0], "pods still hold what the quota is of"
    world.bury()
    world.settle()
    found = facts(world)
    assert found["QuotaReserved"] == (False, "Pending")
    assert found["Admitted"] == (False, "NoReservation")
    assert found["Requeued"] == (True, "Preempted")
    assert found["PodsReady"] == (False, "WaitForStart")
    assert the(world).placement is None
    assert (world.status.phase, world.status.reason) == ("Queued", "Preempted")
    assert world.status.restarts is None or world.status.restarts.total == 0
    admit(world)
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    assert world.status.attempt == 1
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    assert world.status.restarts is None or world.status.restarts.total == 0
    assert [event.reason for plan in world.log for event in plan.events] == ["Preempted", "Admitted"]


@pytest.mark.parametrize(
    ("reason", "again"), [("Preempted", True), ("NodeFailures", True), ("PodsReadyTimeout", False)]
)
def test_kueue_says_itself_when_it_takes_a_job_again(reason: str, again: bool) -> None:
    world = running()
    evict(world, reason)
    world.settle()
    world.bury()
    world.settle()
    assert facts(world)["Requeued"] == (again, reason)
    assert world.status.reason == ("Preempted" if reason == "Preempted" else "Evicted")


def test_quota_that_is_lost_before_a_pod_is_made_is_given_back() -> None:
    owner = queued_job()
    evicted = Fact("Evicted", True, "ClusterQueueStopped", "the queue was stopped")
    plan = decide(observe(owner, workloads=(has_quota(owner, evicted),), **SERVED))
    (told,) = (write for write in plan.writes if isinstance(write, PatchStatus))
    assert told.status["admission"] is None
    assert told.resource_version == "7"
    assert not created(plan)


def test_another_job_is_not_held_up_by_one_that_has_trained() -> None:
    world = running(output=OUTPUT)
    for name in ("train-0-0", "train-1-0"):
        world.end(name, 0)
    world.step()
    assert facts(world)["Finished"] == (True, "Succeeded")
    assert world.status.phase == "Publishing"
    assert "Admitted" not in conditions(world.status)


def test_a_job_that_fails_gives_back_when_its_pods_are_gone() -> None:
    world = running(failurePolicy={"maxRestarts": 0})
    world.end("train-0-0", 1)
    world.settle()
    assert "Finished" not in facts(world)
    world.bury()
    world.settle()
    assert world.status.phase == "Failed"
    assert facts(world)["Finished"] == (True, "Failed")


def test_a_suspended_job_leaves_the_queue_when_its_pods_are_gone() -> None:
    world = running()
    world.edit(suspend=True)
    world.settle()
    assert world.workloads
    world.bury()
    world.settle()
    assert not world.workloads
    assert world.status.phase == "Suspended"
    assert "Admitted" not in conditions(world.status)
    world.edit(suspend=False)
    world.settle()
    assert world.status.phase == "Queued"
    assert conditions(world.status)["Suspended"][0] == "False"
    admit(world)
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"


def test_an_edited_job_waits_anew_when_its_pods_are_gone() -> None:
    world = running()
    before = the(world).name
    world.edit(nodes={"count": 3})
    world.settle()
    assert the(world).name == before
    world.bury()
    world.settle()
    assert the(world).name != before
    assert world.status.phase == "Queued"
    assert not world.pods
    admit(world)
    assert len(world.pods) == 3


def test_another_queue_counts_when_the_job_waits_next() -> None:
    world = running()
    meta = world.job.metadata.model_copy(update={"labels": {names.KUEUE_QUEUE: "team-b"}})
    world.job = world.job.model_copy(update={"metadata": meta})
    world.settle()
    assert world.status.phase == "Running"
    evict(world)
    world.settle()
    world.bury()
    world.settle()
    assert the(world).queue == "team-b"


def test_a_running_job_that_gets_a_queue_stops_and_waits() -> None:
    world = World(job(nodes=2), kueue_served=True)
    world.settle()
    world.run_pods()
    world.settle()
    world.job = world.job.model_copy(update={"metadata": world.job.metadata.model_copy(update={"labels": QUEUED})})
    world.settle()
    assert world.status.phase == "Suspending"
    assert not world.workloads, "it has to let go of what it has first"
    world.bury()
    world.settle()
    assert world.status.phase == "Queued"
    assert the(world).queue == "team-a"


def test_a_job_that_leaves_its_queue_runs_on() -> None:
    world = running()
    world.job = world.job.model_copy(update={"metadata": world.job.metadata.model_copy(update={"labels": {}})})
    world.settle()
    assert world.status.phase == "Running"
    assert not world.workloads
    assert "Admitted" not in conditions(world.status)


def test_a_workload_that_somebody_deletes_takes_the_pods_with_it() -> None:
    world = running()
    world.workloads.clear()
    world.settle()
    assert world.status.phase == "Suspending"
    world.bury()
    world.settle()
    assert the(world).facts == ()
    assert world.status.phase == "Queued"


def test_a_workload_that_is_finished_is_good_for_no_pod() -> None:
    """A job that was restored from a backup without its status begins anew."""
    owner = queued_job()
    over = has_quota(owner, Fact("Finished", True, "Succeeded"))
    plan = decide(observe(owner, workloads=(over,), **SERVED))
    assert removed(plan) == ["Workload train-w"]
    assert [body["kind"] for body in bodies(plan)] == ["Workload"]


def test_a_deleted_job_holds_no_quota_once_its_pods_are_gone() -> None:
    owner = queued_job(deleting=True, status={"phase": "Running"})
    view = has_quota(owner)
    waits = decide(observe(owner, pod(0, of=owner, running=True), workloads=(view,), **SERVED))
    assert removed(waits) == ["Pod train-0-0"]
    assert removed(decide(observe(owner, workloads=(view,), **SERVED))) == ["Workload train-w"]


def test_a_leftover_workload_of_an_older_spec_goes_beside_one_that_has_quota() -> None:
    owner = queued_job()
    old = has_quota(queued_job(launcher="none"), name="old", uid="o")
    plan = decide(observe(owner, workloads=(old, has_quota(owner)), **SERVED))
    assert removed(plan) == ["Workload old"]
    assert [write.name for write in plan.writes if isinstance(write, Create) and write.kind == "Pod"]


RESERVED = Fact("QuotaReserved", True)


@pytest.mark.parametrize(
    ("observed", "reason", "stalled", "words"),
    [
        (observe(queued_job()), "KueueMissing", True, "sees no Kueue, so nothing admits the job"),
        (
            observe(job(nodes=2, labels={**QUEUED, names.KUEUE_PRIORITY: "urgent"}), **SERVED),
            "DependencyMissing",
            True,
            "WorkloadPriorityClass urgent does not exist",
        ),
        (observe(queued_job(), **SERVED), "Queued", False, "being entered into LocalQueue team-a"),
        (
            observe(queued_job(), workloads=(workload(queued_job()),), **SERVED),
            "Queued",
            False,
            "Workload train-w waits for quota in LocalQueue team-a",
        ),
        (
            observe(
                queued_job(),
                workloads=(workload(queued_job(), Fact("QuotaReserved", False, "Pending", "2 more")),),
                **SERVED,
            ),
            "Queued",
            False,
            "in LocalQueue team-a: 2 more",
        ),
        (
            observe(
                queued_job(),
                workloads=(workload(queued_job(), Fact("QuotaReserved", False, "Inadmissible", "no queue")),),
                **SERVED,
            ),
            "NotAdmissible",
            True,
            "no queue; correct the queue, the quota or the job",
        ),
        (
            observe(queued_job(), workloads=(workload(queued_job(), RESERVED),), **SERVED),
            "Queued",
            False,
            "admission checks are not through yet",
        ),
        (
            observe(queued_job(), workloads=(workload(queued_job(), active=False),), **SERVED),
            "Deactivated",
            True,
            'kubectl patch workload.kueue.x-k8s.io train-w --type=merge -p \'{"spec":{"active":true}}\'',
        ),
        (
            observe(queued_job(), workloads=(has_quota(queued_job(), placement=None),), **SERVED),
            "Queued",
            False,
            "flavors of which one does not exist: a100",
        ),
        (
            observe(queued_job(), workloads=(has_quota(queued_job(), by_topology=True),), **SERVED),
            "NotAdmissible",
            True,
            "take topologyName out of the ResourceFlavor",
        ),
    ],
)
def test_it_is_told_what_the_job_waits_for(observed: Observed, reason: str, stalled: bool, words: str) -> None:
    plan = decide(observed)
    found = conditions(plan.status)
    assert plan.status.phase == "Queued"
    assert plan.status.reason == reason
    assert found["Admitted"] == ("False", reason)
    assert found["Stalled" if stalled else "Reconciling"] == ("True", reason)
    assert words in message(plan.status)
    assert not [write for write in plan.writes if isinstance(write, Create) and write.kind == "Pod"]


def test_a_workload_that_kueue_does_not_look_at_is_told() -> None:
    owner = queued_job()
    observed = observe(owner, workloads=(workload(owner),), **SERVED)
    assert decide(observed).requeue_after == kueue.OVERLOOKED_SECONDS
    later = decide(observed, NOW.replace(minute=1))
    assert "Kueue has not looked at it" in message(later.status)


def test_a_cluster_that_has_lost_its_kueue_stops_nobody() -> None:
    world = running()
    world.kueue_served = False
    world.workloads.clear()
    world.settle()
    assert world.status.phase == "Running"
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.wait(60)
    world.settle()
    assert world.status.reason == Reason.KUEUE_MISSING
    assert not [view for view in world.pods.values() if view.live]


def test_other_conditions_stay_as_they_were() -> None:
    owner = queued_job()
    before = Fact("Preempted", True, "InCohortReclamation", "others", "2026-01-01T00:00:00Z", 3)
    view = has_quota(owner, before, Fact("Evicted", True, "Preempted", "m", "2026-01-01T00:00:00Z", 3), generation=4)
    plan = decide(observe(owner, workloads=(view,), **SERVED))
    (told,) = (write for write in plan.writes if isinstance(write, PatchStatus))
    found = {one["type"]: one for one in told.status["conditions"]}
    assert found["Preempted"] == {
        "type": "Preempted",
        "status": "True",
        "reason": "InCohortReclamation",
        "message": "others",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 3,
    }
    assert found["QuotaReserved"]["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert found["QuotaReserved"]["observedGeneration"] == 4
    assert not [write for write in plan.writes if isinstance(write, Delete)]

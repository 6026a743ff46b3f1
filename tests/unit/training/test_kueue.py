"""Jobs in a queue of Kueue's: no pod without quota, none that outlives it, and Kueue is told what it goes by."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aifactory.api import names
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.engine.plan import Create, Delete, Event, PatchStatus, Plan
from aifactory.training import children, kueue
from aifactory.training.state import NOWHERE, Fact, Observed, Placement, WorkloadView
from tests.unit.golden import assert_golden
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


def told(status: TrainingJobStatus) -> dict[str, tuple[str, str, str]]:
    """All conditions, with their messages."""
    return {found.type: (found.status, found.reason, found.message) for found in status.conditions}


def on_the_way(reason: str, message_: str, *, stalled: bool = False) -> dict[str, tuple[str, str, str]]:
    """What is told of a job that does not run, for a reason."""
    yes, no = ("True", reason, message_), ("False", reason, "")
    return {
        "Ready": ("False", reason, message_),
        "Running": ("False", reason, message_),
        "Reconciling": no if stalled else yes,
        "Stalled": yes if stalled else no,
    }


def patched(plan: Plan[TrainingJobStatus]) -> list[PatchStatus]:
    """What is written to Workloads."""
    return [write for write in plan.writes if isinstance(write, PatchStatus)]


def stands(
    type_: str, true: bool, reason: str = "", words: str = "", since: str = "", generation: int = 0
) -> dict[str, Any]:
    """A condition of a Workload as it is written."""
    return {
        "type": type_,
        "status": "True" if true else "False",
        "reason": reason,
        "message": words,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


AT = "2026-01-01T12:00:00Z"
"""NOW."""


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
        "metadata": {"labels": {"team": "nlp"}},
        "spec": {
            "nodeSelector": {"zone": "a"},
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "tolerations": [{"key": "spot"}],
            "runtimeClassName": "nvidia",
            "overhead": {"cpu": "250m"},
            "resources": {"limits": {"memory": "64Gi"}},
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
            "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
        },
    }
    owner = job(nodes=2, labels={**QUEUED, names.KUEUE_PRIORITY: "urgent"}, template=template)
    found = [kueue.workload(observe(owner, priority=1000, **SERVED)), kueue.workload(observe(queued_job(), **SERVED))]
    assert_golden(Path(__file__).parent / "golden/workload.yaml", found)
    assert "secret" not in str(found)


def test_each_spec_and_each_queue_has_a_workload_of_its_own() -> None:
    owners = (queued_job(), queued_job(launcher="none"), job(nodes=2, labels={names.KUEUE_QUEUE: "team-b"}))
    assert len({kueue.workload(observe(owner, **SERVED))["metadata"]["name"] for owner in owners}) == 3


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
    theirs = [{"key": "own"}, {"key": "gpu"}]
    body = {"metadata": {"labels": {"a": "ours"}, "annotations": {}}, "spec": {"tolerations": theirs}}
    where = Placement(
        tolerations=({"key": "gpu"}, {"key": "spot"}), labels={"a": "x", "b": "y"}, annotations={"c": "z"}
    )
    found = kueue.placed(body, where)
    assert found["spec"] == {"tolerations": [{"key": "own"}, {"key": "gpu"}, {"key": "spot"}]}
    assert found["metadata"] == {"labels": {"a": "ours", "b": "y"}, "annotations": {"c": "z"}}


def test_what_flavors_and_checks_ask_for_comes_together() -> None:
    first = replace(WHERE, labels={"a": "x"}, annotations={"b": "y"})
    found = kueue.merged([first, Placement({"rack": "7"}, WHERE.tolerations, {"d": "v"}, {"c": "z"})])
    both = {"gpu": "a100", "rack": "7"}
    assert found == Placement(both, WHERE.tolerations, {"a": "x", "d": "v"}, {"b": "y", "c": "z"})


def test_while_the_flavors_are_not_known_pods_are_placed_nowhere() -> None:
    owner = queued_job()
    for views in ((has_quota(owner, placement=None),), (workload(owner),), ()):
        assert kueue.placement(observe(owner, workloads=views, **SERVED)) == NOWHERE
    assert kueue.placement(observe(job(nodes=2), workloads=(has_quota(owner),), **SERVED)) == NOWHERE


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
    assert "Scheduled" in conditions(world.status)
    evict(world)
    world.settle()
    assert world.status.phase == "Suspending"
    assert conditions(world.status)["Admitted"] == ("False", "Preempted")
    name = the(world).name
    why = f"Kueue has taken the quota of Workload {name} back: because of Preempted"
    ending = f"2 pods are ending; they have their grace period to write a checkpoint; {why}"
    assert message(world.status) == ending
    assert message(world.status, ConditionType.ADMITTED) == why
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
    assert "Scheduled" not in conditions(world.status)
    assert world.status.restarts is None or world.status.restarts.total == 0
    admit(world)
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    assert world.status.attempt == 1
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    assert world.status.restarts is None or world.status.restarts.total == 0
    again = Event("Normal", "Admitted", "attempt 1 starts: the job has quota again")
    assert [event for plan in world.log for event in plan.events] == [Event("Warning", "Preempted", why), again]


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
    words = "the queue was stopped"
    assert patched(plan) == [
        PatchStatus(
            "Workload",
            "train-w",
            {
                "conditions": [
                    stands("QuotaReserved", False, "Pending", words, AT),
                    stands("Admitted", False, "NoReservation", "The workload has no reservation", AT),
                    stands("Evicted", True, "ClusterQueueStopped", words),
                    stands("Requeued", False, "ClusterQueueStopped", words, AT),
                ],
                "admission": None,
            },
            "7",
        )
    ]
    assert not created(plan)


def test_that_its_pods_were_up_is_taken_back_with_the_quota() -> None:
    owner = queued_job()
    up = Fact("PodsReady", True, "Started", "all pods run", "2026-01-01T11:00:00Z")
    view = has_quota(owner, up, Fact("Evicted", True, "Preempted", "others"))
    (told_,) = patched(decide(observe(owner, workloads=(view,), **SERVED)))
    assert stands("PodsReady", False, "WaitForStart", "its quota was taken back", AT) in told_.status["conditions"]
    unready = replace(view, facts=(*view.facts[:2], replace(up, true=False, reason="x"), *view.facts[3:]))
    (told_,) = patched(decide(observe(owner, workloads=(unready,), **SERVED)))
    found = [one for one in told_.status["conditions"] if one["type"] == "PodsReady"]
    assert found == [stands("PodsReady", False, "x", "all pods run", "2026-01-01T11:00:00Z")]


def up(owner: TrainingJob, *already: Fact, running: bool = True) -> list[PatchStatus]:
    """What Kueue is told when all pods of a job that has quota run, or none."""
    pods = [pod(index, of=owner, running=running) for index in range(2)]
    return patched(decide(observe(owner, *pods, workloads=(has_quota(owner, *already),), **SERVED)))


@pytest.mark.parametrize(
    ("before", "running", "after"),
    [
        ((), True, stands("PodsReady", True, "Started", "all pods run", AT)),
        ((False, "WaitForStart"), True, stands("PodsReady", True, "Started", "all pods run", AT)),
        ((False, "WaitForRecovery"), True, stands("PodsReady", True, "Recovered", "all pods run", AT)),
        (
            (True, "Started"),
            False,
            stands("PodsReady", False, "WaitForRecovery", "a pod has failed, and all are started again", AT),
        ),
        ((True, "Started"), True, None),
        ((False, "WaitForStart"), False, None),
        ((), False, None),
    ],
)
def test_kueue_is_told_once_that_pods_are_up_or_no_longer(before: Any, running: bool, after: Any) -> None:
    written = up(queued_job(), *([Fact("PodsReady", *before)] if before else []), running=running)
    reserved = [stands("QuotaReserved", True), stands("Admitted", True)]
    wanted = {"conditions": [*reserved, after]}
    assert written == ([PatchStatus("Workload", "train-w", wanted, "7")] if after else [])


def test_another_job_is_not_held_up_by_one_that_has_trained() -> None:
    world = running(output=OUTPUT)
    for name in ("train-0-0", "train-1-0"):
        world.end(name, 0)
    (written,) = patched(world.step())
    done = stands("Finished", True, "Succeeded", "all pods that train have succeeded", AT)
    assert written.status["conditions"][-1] == done
    assert world.status.phase == "Publishing"
    assert "Admitted" not in conditions(world.status)


def test_a_job_that_fails_gives_back_when_its_pods_are_gone() -> None:
    world = running(failurePolicy={"maxRestarts": 0})
    world.end("train-0-0", 1)
    world.settle()
    assert "Finished" not in facts(world)
    assert "Admitted" not in conditions(world.status)
    world.bury()
    (written,) = patched(world.step())
    assert written.status["conditions"][-1] == stands("Finished", True, "Failed", "the job has ended", AT)
    assert world.status.phase == "Failed"
    assert not patched(world.step()), "once"


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
    assert world.status.reason == "StoppingPods", "no quota was taken back"
    assert conditions(world.status)["Admitted"][0] == "True"
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


def test_a_pod_that_is_missing_runs_where_the_others_have_quota_whatever_queue_is_named_now() -> None:
    owner = job(nodes=2, labels={names.KUEUE_QUEUE: "team-b"})
    plan = decide(observe(owner, pod(0, of=owner, running=True), workloads=(has_quota(owner),), **SERVED))
    (body,) = bodies(plan)
    assert (body["kind"], body["spec"]["nodeSelector"]) == ("Pod", {"gpu": "a100"})


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
    world.step()
    assert "Admitted" not in conditions(world.status), "told with the step that takes the Workload away"
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


NO_QUOTA = (Fact("QuotaReserved", False, "Pending"), Fact("Admitted", False, "NoReservation"))


@pytest.mark.parametrize("changes", [{"active": False}, {"terminating": True}, {"facts": NO_QUOTA}])
def test_a_workload_that_somebody_has_put_aside_takes_the_pods_with_it(changes: dict[str, Any]) -> None:
    owner = queued_job()
    pods = [pod(index, of=owner, running=True) for index in range(2)]
    plan = decide(observe(owner, *pods, workloads=(has_quota(owner, **changes),), **SERVED))
    assert removed(plan) == ["Pod train-0-0", "Pod train-1-0"]
    assert plan.status.phase == "Suspending"


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


def test_one_that_is_going_already_is_not_asked_to_go_again() -> None:
    owner = queued_job()
    old = has_quota(queued_job(launcher="none"), name="old", uid="o", terminating=True)
    assert removed(decide(observe(owner, workloads=(old, has_quota(owner)), **SERVED))) == []


@pytest.mark.parametrize("waits", [True, False])
def test_while_pods_run_the_quota_that_they_have_is_not_exchanged(waits: bool) -> None:
    """A leftover has quota, and the Workload of today's spec waits, or somebody has deleted it."""
    owner = queued_job()
    old = has_quota(queued_job(launcher="none"), name="old", uid="o")
    pods = [pod(index, of=owner, running=True) for index in range(2)]
    views = (old, workload(owner)) if waits else (old,)
    plan = decide(observe(owner, *pods, workloads=views, **SERVED))
    assert plan.status.phase == "Running"
    assert (created(plan), removed(plan)) == ([], [])


def urgent_job() -> TrainingJob:
    return job(nodes=2, labels={**QUEUED, names.KUEUE_PRIORITY: "urgent"})


def waits(*facts: Fact, **changes: Any) -> Observed:
    """A job in a queue whose Workload Kueue has left so."""
    return observe(queued_job(), workloads=(workload(queued_job(), *facts, **changes),), **SERVED)


def lost(*facts: Fact) -> Observed:
    return waits(Fact("Evicted", True, "PodsReadyTimeout", "they took too long"), *facts)


RESERVED = Fact("QuotaReserved", True)
WAITS = "Workload train-w waits for quota in LocalQueue team-a"
TAKEN = "Kueue has taken the quota of Workload train-w back"
ACTIVATE = """kubectl patch workload.kueue.x-k8s.io train-w --type=merge -p '{"spec":{"active":true}}'"""
HOPELESS = ("Inadmissible", "Misconfigured", "NoMatchingFlavor", "ExceedsMaxQuota", "OnHold")
CASES: dict[str, tuple[Observed, str, bool, str, float | None]] = {
    "no Kueue": (
        observe(queued_job()),
        "KueueMissing",
        True,
        "label kueue.x-k8s.io/queue-name names LocalQueue team-a, and the operator sees no Kueue, so nothing admits "
        "the job: install Kueue and restart the operator, which must watch all namespaces; or remove the label",
        None,
    ),
    "no class": (
        observe(urgent_job(), **SERVED),
        "DependencyMissing",
        True,
        "WorkloadPriorityClass urgent does not exist: create it, or correct label kueue.x-k8s.io/priority-class; it "
        "then goes on by itself",
        10,
    ),
    "new": (observe(queued_job(), **SERVED), "Queued", False, "the job is being entered into LocalQueue team-a", None),
    "new, with a class": (
        observe(urgent_job(), priority=1000, **SERVED),
        "Queued",
        False,
        "the job is being entered into LocalQueue team-a",
        None,
    ),
    "not seen": (waits(), "Queued", False, WAITS, 60),
    "not seen for 59 s": (waits(created=NOW - timedelta(seconds=59)), "Queued", False, WAITS, 1),
    "not seen for a minute": (
        waits(created=NOW - timedelta(seconds=60)),
        "Queued",
        False,
        f"{WAITS}, and Kueue has not looked at it: check that its controller runs",
        None,
    ),
    "pending": (waits(Fact("QuotaReserved", False, "Pending", "2 more")), "Queued", False, f"{WAITS}: 2 more", None),
    "pending, as was told": (
        waits(*NO_QUOTA),
        "Queued",
        False,
        WAITS,
        None,
    ),
    "pending, at length": (
        waits(Fact("QuotaReserved", False, "Pending", "x" * 501)),
        "Queued",
        False,
        f"{WAITS}: {'x' * 499}…",
        None,
    ),
    **{
        reason: (
            waits(Fact("QuotaReserved", False, reason, "no such queue")),
            "NotAdmissible",
            True,
            f"{WAITS}: no such queue; correct the queue, the quota or the job, it then goes on by itself",
            None,
        )
        for reason in HOPELESS
    },
    "admission checks": (
        waits(RESERVED, Fact("Evicted", False, "QuotaReserved")),
        "Queued",
        False,
        "Workload train-w has quota, and admission checks are not through yet",
        None,
    ),
    "put aside": (
        waits(active=False),
        "Deactivated",
        True,
        f"Workload train-w is not active; to have it admitted again: {ACTIVATE}",
        None,
    ),
    "put aside, and why": (
        waits(Fact("Evicted", True, "Deactivated", "by alice"), active=False),
        "Deactivated",
        True,
        f"Workload train-w is not active: by alice; to have it admitted again: {ACTIVATE}",
        None,
    ),
    "evicted": (lost(), "Evicted", False, f"{TAKEN}: they took too long", None),
    "evicted, and not given back yet": (lost(RESERVED), "Evicted", False, f"{TAKEN}: they took too long", None),
    "evicted, and it waits": (
        lost(Fact("QuotaReserved", False, "Pending", "they took too long")),
        "Evicted",
        False,
        f"{TAKEN}: they took too long; it waits for quota in LocalQueue team-a",
        None,
    ),
    "evicted, and it waits for another reason": (
        lost(Fact("QuotaReserved", False, "Pending", "2 more")),
        "Evicted",
        False,
        f"{TAKEN}: they took too long; it waits for quota in LocalQueue team-a: 2 more",
        None,
    ),
    "no flavor": (
        observe(
            queued_job(),
            workloads=(has_quota(queued_job(), placement=None, flavors=dict(zip("gfedcba", "ABCDEFG", strict=True))),),
            **SERVED,
        ),
        "Queued",
        False,
        "Workload train-w was admitted to flavors of which one does not exist: A, B, C, D, E, F, G",
        10,
    ),
    "by topology": (
        observe(queued_job(), workloads=(has_quota(queued_job(), by_topology=True),), **SERVED),
        "NotAdmissible",
        True,
        "a flavor that Workload train-w was admitted to places pods by topology, which the operator does not follow: "
        "take topologyName out of the ResourceFlavor, or use another queue",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_what_the_job_waits_for(case: str) -> None:
    observed, reason, stalled, words, again = CASES[case]
    plan = decide(observed)
    assert (plan.status.phase, plan.status.reason) == ("Queued", reason)
    admitted = {"Admitted": ("False", reason, words)}
    assert told(plan.status) == {**on_the_way(reason, words, stalled=stalled), **admitted}
    assert plan.requeue_after == again
    new = observed.kueue_served and not observed.workloads and not case.startswith("no ")
    assert [body["kind"] for body in bodies(plan)] == (["Workload"] if new else [])
    assert len(patched(plan)) == (case == "evicted, and not given back yet")


def test_a_class_that_is_deleted_later_holds_up_nobody() -> None:
    owner = urgent_job()
    plan = decide(observe(owner, workloads=(has_quota(owner),), **SERVED))
    assert created(plan) == ["Pod train-0-0", "Pod train-1-0"]


def test_pods_that_do_not_end_are_told_while_quota_is_waited_for() -> None:
    owner = queued_job()
    due = NOW + timedelta(seconds=30)
    last = pod(0, of=owner, running=True, terminating=True, due_to_end=due)
    evicted = workload(owner, Fact("Evicted", True, "Preempted", "others"))
    observed = observe(owner, last, workloads=(evicted,), **SERVED)
    plan = decide(observed)
    why = f"{TAKEN}: others"
    ending = f"1 pods are ending; they have their grace period to write a checkpoint; {why}"
    admitted = {"Admitted": ("False", "Preempted", why)}
    assert told(plan.status) == {**on_the_way("Preempted", ending), **admitted}
    assert (plan.status.phase, plan.status.reason) == ("Suspending", "Preempted")
    assert plan.status.start_time == NOW, "it has had pods"
    assert (plan.urgent, plan.requeue_after, plan.writes) == (True, 90, ())

    earlier = owner.model_copy(update={"status": plan.status})
    late = decide(replace(observed, job=earlier), NOW + timedelta(seconds=90))
    assert late.status.start_time == NOW
    assert (late.status.phase, late.status.reason) == ("Suspending", "NodeLost")
    stuck = message(late.status)
    assert stuck.startswith(f"{ending}; pod train-0-0 should have ended at 2026-01-01T12:00:30Z and its node node-a ")
    assert told(late.status) == {**on_the_way("NodeLost", stuck, stalled=True), **admitted}
    assert (late.urgent, late.requeue_after, late.events) == (False, None, ())


def test_a_job_that_was_made_suspended_is_not_while_it_waits() -> None:
    world = World(queued_job(suspend=True), kueue_served=True)
    world.settle()
    assert conditions(world.status)["Suspended"] == ("True", "Suspended")
    world.edit(suspend=False)
    world.settle()
    assert world.status.phase == "Queued"
    assert conditions(world.status)["Suspended"] == ("False", "NotSuspended")


def test_that_a_job_has_quota_is_written_before_its_pods_are_made() -> None:
    world = queued()
    view = the(world)
    flavors = {"nvidia.com/gpu": "a100", "cpu": "cheap", "memory": "cheap"}
    given = {"cluster_queue": "gpus", "flavors": flavors, "placement": WHERE}
    world.workloads[view.name] = replace(view, facts=(RESERVED, Fact("Admitted", True)), **given)
    plan = world.step()
    assert (plan.writes, plan.urgent, plan.requeue_after, plan.events) == ((), True, 0, ())
    assert (plan.status.phase, plan.status.attempt, plan.status.start_time) == ("Pending", 0, None)
    quota = (
        f"Workload {view.name} has quota in ClusterQueue gpus: cpu of flavor cheap, memory of flavor cheap, "
        "nvidia.com/gpu of flavor a100"
    )
    admitted = {"Admitted": ("True", "Admitted", quota)}
    assert told(plan.status) == {**on_the_way("CreatingPods", "0 of 2 pods exist"), **admitted}


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

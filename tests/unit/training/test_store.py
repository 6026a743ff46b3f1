"""The store is found good before the first pod asks for a GPU."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.training import children
from tests.unit.plans import created, tried
from tests.unit.training.builders import OUTPUT, SETTINGS, World, conditions, job, message

STORE = "s3://team/models"
BUCKET = {**OUTPUT, "store": STORE, "secretRef": {"name": "s3"}}
GOOD = {"uri": f"{STORE}/tiny"}
DENIED = {"reason": "AccessDenied", "message": "s3://team/models/tiny: access denied (403)"}


def waiting(**spec: Any) -> World:
    """A job whose store is being tried out."""
    world = World(job(nodes=2, output=BUCKET, **spec), gangs_served=True)
    world.settle()
    assert set(world.probes) == {"train-probe-0"}
    assert not {**world.pods, **world.gangs, **world.publishers}
    return world


def test_the_first_pods_come_after_the_store_has_taken_something() -> None:
    world = waiting()
    assert (world.status.phase, world.status.reason) == ("Pending", "ProbingStore")
    assert "writes something small to s3://team/models" in message(world.status)
    world.end_probe(GOOD)
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert not world.probes, "what an injected container does there is nothing to wait for"
    assert world.status.output is not None
    assert (world.status.output.probed, world.status.output.publish_attempt) == (STORE, 0)
    assert sum(decision.urgent for decision in world.log) == 1, "one status more is written"


@pytest.mark.parametrize("reason", ["AccessDenied", "StoreUnavailable", "StoreFull"])
def test_a_store_that_refuses_is_told_by_name_and_no_gpu_waits_for_it(reason: str) -> None:
    world = waiting()
    for number in range(6):
        assert set(world.probes) == {f"train-probe-{number}"}
        world.end_probe({"reason": reason, "message": f"{STORE}/tiny: no"}, 1)
        world.settle()
        assert conditions(world.status)["Stalled"] == ("True", reason)
        assert message(world.status).startswith(f"{STORE} with Secret s3: pod train-probe-{number}: {STORE}/tiny: no")
        assert not world.pods
        world.wait(world.log[-1].requeue_after or 0)
        world.settle()
    world.end_probe(GOOD)
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert conditions(world.status)["Stalled"][0] == "False"
    world.run_pods()
    world.settle()
    for name in list(world.pods):
        world.end(name, 0)
    world.settle()
    assert set(world.publishers) == {"train-publish-0"}, "tries of the probe are none of the publisher's"


def test_a_person_who_has_mended_it_need_not_wait() -> None:
    world = waiting()
    world.end_probe(DENIED, 1)
    world.settle()
    world.annotate("aifactory.dev/retry", "the Secret is right now")
    world.settle()
    assert set(world.probes) == {"train-probe-1"}


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        (
            {"unschedulable": '0/3 nodes: persistentvolumeclaim "mine" not found'},
            ("Reconciling", "ClaimNotBound"),
            'pod train-probe-0 has no node: 0/3 nodes: persistentvolumeclaim "mine" not found',
        ),
        ({"waiting_reason": "ErrImagePull", "waiting_message": "no agent"}, ("Stalled", "ImagePullFailed"), "no agent"),
        ({"ended": True, "exit_code": 1}, ("Stalled", "ProbeFailed"), "see: kubectl logs train-probe-0"),
        (
            {"ended": True, "exit_code": 1, "message": '{"reason": "InvalidArtifact", "message": "no such place"}'},
            ("Stalled", "InvalidArtifact"),
            "no such place; output.store can not be changed: create another TrainingJob",
        ),
    ],
)
def test_a_probe_that_does_not_get_on_says_why(changes: dict[str, Any], expected: tuple[str, str], words: str) -> None:
    world = waiting()
    world.probes["train-probe-0"] = replace(world.probes["train-probe-0"], **changes)
    world.settle()
    assert conditions(world.status)[expected[0]] == ("True", expected[1])
    assert words in message(world.status)
    assert not world.pods


def test_a_store_is_probed_once() -> None:
    world = waiting(failurePolicy={"backoff": {"baseSeconds": 0}})
    world.end_probe(GOOD)
    world.settle()
    world.run_pods()
    world.settle()
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert set(world.pods) >= {"train-0-1", "train-1-1"}
    assert not any("probe" in name for decision in world.log[3:] for name in created(decision))


def test_a_job_that_trains_already_is_not_held_up() -> None:
    """It was begun by an operator that did not probe."""
    world = waiting()
    world.end_probe(GOOD)
    world.settle()
    world.run_pods()
    world.settle()
    output = world.job.status.output
    assert output is not None
    unknown = world.job.status.model_copy(update={"output": output.model_copy(update={"probed": ""})})
    world.job = world.job.model_copy(update={"status": unknown})
    world.settle()
    assert not world.probes
    assert world.status.phase == "Running"


def test_a_suspended_job_probes_nothing_before_it_is_to_run() -> None:
    world = World(job(output=BUCKET, suspend=True))
    world.settle()
    assert not world.probes
    world.edit(suspend=False)
    world.settle()
    assert set(world.probes) == {"train-probe-0"}
    assert conditions(world.status)["Suspended"][0] == "False"
    world.edit(suspend=True)
    world.settle()
    assert not world.probes
    assert world.status.phase == "Suspended"
    world.edit(suspend=False)
    world.settle()
    world.end_probe(GOOD)
    world.settle()
    assert set(world.pods) == {"train-0-0"}, "it has never run, so this is its first attempt"


@pytest.mark.parametrize("output", [OUTPUT, {**OUTPUT, "store": "pvc://mine/models"}])
def test_where_no_pod_is_worth_it_the_publisher_is_dry_run(output: dict[str, Any]) -> None:
    """The namespace's own claim, or the one the job works on: mounting it early may bind it where nothing fits."""
    world = World(job(output=output, workspace={"claimName": "mine"}))
    first = world.step()
    assert tried(first) == ["Pod train-publish-0"]
    assert created(first) == (["PersistentVolumeClaim aifactory-models"] if output is OUTPUT else [])
    assert first.requeue_after == 0
    world.settle()
    assert set(world.pods) == {"train-0-0"}
    assert not world.probes
    assert not any(tried(decision) for decision in world.log[1:])


def test_a_job_without_output_asks_nothing() -> None:
    world = World(job())
    world.settle()
    assert set(world.pods) == {"train-0-0"}
    assert not any(tried(decision) for decision in world.log)
    assert world.status.output is None


def test_the_probe_writes_where_the_publisher_will_and_mounts_no_workspace() -> None:
    spec = children.probe(job(output=BUCKET), 0, SETTINGS)["spec"]
    assert spec["containers"][0]["args"] == ["probe", "--store", f"{STORE}/tiny", "--secret", "s3"]
    assert {volume["name"] for volume in spec["volumes"]} == {"secret", "tmp"}
    spec = children.probe(job(output={**OUTPUT, "store": "pvc://models/"}), 0, SETTINGS)["spec"]
    assert spec["containers"][0]["args"] == ["probe", "--store", "pvc://models/tiny"]
    assert {volume["name"] for volume in spec["volumes"]} == {"store", "tmp"}


def test_what_a_probe_has_found_is_written_at_once_and_leaves_nothing_behind() -> None:
    world = waiting()
    world.end_probe(DENIED, 1)
    failed = world.step()
    assert (failed.urgent, failed.requeue_after) == (True, 30)
    output = world.status.output
    assert output is not None
    assert (output.request, output.next_publish_time) == ("1/", world.now + timedelta(seconds=30))
    world.end_probe(GOOD)
    good = world.step()
    assert (good.urgent, good.requeue_after, created(good)) == (True, 0, [])
    output = world.status.output
    assert output is not None
    assert (output.probed, output.request, output.next_publish_time) == (STORE, "1/", None)


def test_who_asks_for_another_try_while_one_succeeds_has_had_it() -> None:
    world = waiting()
    world.annotate("aifactory.dev/retry", "again")
    world.end_probe(GOOD)
    world.step()
    assert world.status.output is not None
    assert (world.status.output.probed, world.status.output.request) == (STORE, "1/again")


def test_a_publisher_that_can_be_made_is_told_at_once() -> None:
    plan = World(job(output=OUTPUT)).step()
    assert (plan.urgent, plan.requeue_after) == (True, 0)
    assert plan.status.output is not None
    assert plan.status.output.publish_attempt == 0

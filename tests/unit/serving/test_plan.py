"""One revision: waiting, starting, serving, scaling, and what is said about pods in trouble."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory.api.inferencepool import Throughput
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.apply import Applied
from aifactory.serving import traffic
from aifactory.serving.plan import plan_pool
from aifactory.serving.state import Observed, RevisionView
from aifactory.serving.status import StatusDraft
from tests.unit.plans import created
from tests.unit.serving.builders import NOW, SETTINGS, World, conditions, message, pool, serving, version


def kstatus(world: World) -> tuple[str, str, str]:
    found = conditions(world.status)
    return found["Ready"][0], found["Reconciling"][0], found["Stalled"][0]


def test_a_pool_without_a_model_waits_with_an_address() -> None:
    world = World(pool())
    world.settle()
    assert world.service, "clients can resolve its name"
    assert not world.deployments
    assert (world.status.phase, world.status.reason, world.status.summary) == ("Waiting", "WaitingForModel", "0/2")
    assert kstatus(world) == ("False", "True", "False")
    assert conditions(world.status)["Available"][0] == "False"
    assert conditions(world.status)["Degraded"][0] == "False", "nothing has got worse"
    assert world.status.url == "http://chat.ns.svc:8000"


def test_a_language_model_is_asked_by_openais_api() -> None:
    world = World(pool())
    world.settle()
    before = world.service
    world.publish(1, format="huggingface")
    world.settle()
    assert world.status.url == "http://chat.ns.svc:9000/v1"
    assert before is not None
    assert world.service is not None
    assert world.service.uid == before.uid, "the address stays"
    assert world.service.stamp != before.stamp, "and has got a port"


def test_from_waiting_to_serving() -> None:
    world = World(pool())
    world.settle()
    world.publish(1)
    world.settle()
    assert len(world.live(1)) == 2, "the first version starts with all pods"
    assert (world.status.phase, world.status.reason) == ("Starting", "Starting")
    assert message(world.status) == "tiny-v1: 0 of 2 pods have it loaded"
    assert world.status.stable is None

    world.load()
    assert world.status.phase == "Starting"
    assert conditions(world.status)["Available"] == ("True", "Serving")
    assert world.status.stable is not None, "its first ready pod has the traffic"
    assert kstatus(world) == ("False", "True", "False")

    world.load()
    assert kstatus(world) == ("True", "False", "False")
    assert (world.status.phase, world.status.reason, world.status.version) == ("Serving", "Serving", "1")
    assert message(world.status) == "tiny-v1 is loaded on 2 of 2 pods"
    assert world.status.stable.model_version == "tiny-v1"
    assert world.status.rollout is not None
    assert world.status.rollout.phase == "Complete"
    assert [model.model_version for model in world.status.resolved] == ["tiny-v1"]
    assert world.events == [], "that it serves is in its conditions"


@pytest.mark.parametrize(
    ("changes", "stalled", "words"),
    [
        ({"ready": False, "reason": "Verifying"}, "False", "tiny-v3 is not Ready: Verifying"),
        ({"ready": False, "reason": "DigestMismatch", "message": "a is not b"}, "True", "DigestMismatch: a is not b"),
    ],
)
def test_a_pinned_version_that_is_not_ready(changes: dict[str, Any], stalled: str, words: str) -> None:
    """Being checked is on the way; being bad needs a person. Tools that wait for a pool give up on Stalled."""
    world = World(pool(wish={"name": "tiny", "version": 3}))
    world.publish(3, **changes)
    world.settle()
    assert conditions(world.status)["Stalled"][0] == stalled
    assert words in message(world.status)
    world.publish(3)
    world.roll_out()
    assert world.status.version == "3"


def test_a_pinned_version_does_not_follow() -> None:
    world = serving(1, wish={"name": "tiny", "version": 1})
    world.publish(2)
    decision = world.settle()
    assert world.status.version == "1"
    assert not created(decision)


def test_replicas_default_to_one() -> None:
    world = serving(replicas=None)
    assert world.status.summary == "1/1"


def test_scaling_up_and_down() -> None:
    world = serving(replicas=2)
    world.edit(replicas=4)
    world.settle()
    assert len(world.live(1)) == 4
    assert (world.status.phase, world.status.reason, world.status.summary) == ("Scaling", "PodsNotReady", "2/4")
    assert conditions(world.status)["Degraded"][0] == "False", "nothing that was there is missing"
    world.load(1)
    world.live(1)[0].ready = False
    world.settle()
    assert conditions(world.status)["Degraded"] == ("True", "PodsNotReady"), "one that was there is lost"
    assert world.status.phase == "Degraded"
    world.load(2)
    assert world.status.phase == "Serving"
    world.edit(replicas=1)
    world.settle()
    assert len(world.live(1)) == 1
    assert (world.status.phase, world.status.summary) == ("Serving", "1/1")
    assert world.events == [], "scaling is no news"


def test_to_zero_and_back() -> None:
    world = serving(replicas=2)
    world.throughput = Throughput(requests_per_second="3", tokens_per_second="90")
    world.settle()
    world.edit(replicas=0)
    world.throughput = None
    world.settle()
    assert not world.live()
    assert kstatus(world) == ("True", "False", "False")
    assert (world.status.phase, world.status.reason, world.status.summary) == ("ScaledToZero", "ScaledToZero", "0/0")
    assert conditions(world.status)["Available"] == ("False", "ScaledToZero")
    assert world.status.throughput == Throughput(), "nobody serves"
    assert world.status.stable is not None, "the version stays in use"
    world.edit(replicas=2)
    world.settle()
    assert kstatus(world) == ("False", "True", "False")
    world.load(2)
    assert world.status.phase == "Serving"


def test_created_with_no_replicas() -> None:
    world = serving(replicas=0)
    assert len(world.deployments) == 1
    assert world.status.stable is not None


def test_a_version_change_at_zero_needs_no_pod() -> None:
    world = serving(replicas=0)
    world.publish(2)
    world.settle()
    assert not world.live()
    assert world.status.version == "2"
    assert len(world.deployments) == 1


def test_throughput_is_kept_while_nothing_newer_is_known() -> None:
    world = serving()
    world.throughput = Throughput(requests_per_second="3", tokens_per_second="90")
    world.settle()
    world.throughput = None
    world.settle()
    assert world.status.throughput == Throughput(requests_per_second="3", tokens_per_second="90")


def test_a_pod_that_is_lost_and_has_no_node_degrades_the_pool() -> None:
    world = serving()
    world.live()[0].ready, world.live()[0].trouble = False, {"unschedulable": "2 Insufficient cpu"}
    world.settle()
    assert conditions(world.status)["Degraded"] == ("True", "Unschedulable")
    assert world.status.phase == "Degraded"


def test_status_of_an_earlier_release_does_not_know_how_many_pods_there_were() -> None:
    world = serving()
    assert world.status.rollout is not None
    world.status.rollout = world.status.rollout.model_copy(update={"most_ready": 0})
    world.live()[0].ready = False
    world.settle()
    assert conditions(world.status)["Degraded"] == ("True", "PodsNotReady")


@pytest.mark.parametrize(
    ("revisions", "words"),
    [
        ([], "no pod answers"),
        ([("tiny-v1", "a", 0)], "no pod answers"),
        ([("tiny-v1", "a", 1)], "1 pod of tiny-v1 answers"),
        ([("tiny-v1", "a", 2)], "2 pods of tiny-v1 answer"),
        ([("tiny-v2", "b", 1), ("tiny-v1", "a", 1)], "1 pod of tiny-v1 and 1 of tiny-v2 answer"),
        (
            [("tiny-v1", "a", 2), ("tiny-v1", "b", 1)],
            "2 pods of tiny-v1 in revision a and 1 of tiny-v1 in revision b answer",
        ),
        ([("m-v1", "a", 3), ("m-v2", "b", 2), ("m-v3", "c", 1)], "3 pods of m-v1, 2 of m-v2 and 1 of m-v3 answer"),
        ([("tiny-v1", "b", 1), ("tiny-v1", "a", 0), ("tiny-v2", "c", 0)], "1 pod of tiny-v1 answers"),
        (
            [("tiny-v1", "b", 1), ("tiny-v1", "a", 1)],
            "1 pod of tiny-v1 in revision a and 1 of tiny-v1 in revision b answer",
        ),
        ([("", "a", 2)], "2 pods of in revision a answer"),
    ],
)
def test_who_answers_in_words(revisions: Any, words: str) -> None:
    views = [
        RevisionView(Applied(name, name), name, ready, ready=ready, model_version=version)
        for version, name, ready in revisions
    ]
    assert traffic.summary(views) == words


def test_a_pod_that_dies_is_told() -> None:
    world = serving()
    world.live()[0].ready = False
    world.settle()
    assert kstatus(world) == ("False", "True", "False")
    assert conditions(world.status)["Available"][0] == "True"
    assert conditions(world.status)["Degraded"] == ("True", "PodsNotReady")
    assert message(world.status) == "tiny-v1: 1 of 2 pods have it loaded"


PROBLEMS = [
    pytest.param(
        {"waiting_reason": "ImagePullBackOff", "waiting_message": "no such image"},
        "ImagePullFailed",
        "no such image; check the image name",
        id="image",
    ),
    pytest.param({"waiting_reason": "ErrImageNeverPull"}, "ImagePullFailed", "ErrImageNeverPull", id="never"),
    pytest.param(
        {"waiting_reason": "CreateContainerConfigError", "waiting_message": "no secret"},
        "ContainerConfigError",
        "no secret",
        id="config",
    ),
    pytest.param(
        {"unschedulable": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu"},
        "Unschedulable",
        "nvidia.com/gpu; free nodes or GPUs",
        id="node",
    ),
    pytest.param(
        {"load_error": "StoreUnavailable: timeout"}, "ModelLoadFailed", "StoreUnavailable: timeout", id="store"
    ),
]


@pytest.mark.parametrize(("trouble", "reason", "words"), PROBLEMS)
def test_a_start_that_waits_for_a_person_says_so_and_recovers(trouble: Any, reason: str, words: str) -> None:
    world = World(pool())
    world.publish(1)
    world.settle()
    world.pods[1].trouble = trouble
    world.settle()
    kind = "Reconciling" if reason == "Unschedulable" else "Stalled"  # nodes come and go by themselves
    assert conditions(world.status)[kind] == ("True", reason)
    assert world.status.phase == "Starting"
    assert conditions(world.status)["Degraded"][0] == "False", "it never was any better"
    assert words in message(world.status)
    assert world.pods[1].name in message(world.status)
    world.pods[1].trouble = {}
    world.load(2)
    assert conditions(world.status)["Stalled"][0] == "False"
    assert world.status.phase == "Serving"


@pytest.mark.parametrize(("trouble", "reason", "words"), PROBLEMS)
def test_a_pod_in_trouble_among_others_degrades_the_pool(trouble: Any, reason: str, words: str) -> None:
    world = serving()
    world.edit(replicas=3)
    world.settle()
    next(pod for pod in world.live() if not pod.ready).trouble = trouble
    world.settle()
    waits = reason == "Unschedulable"  # for a pod that is wanted in addition
    assert conditions(world.status)["Degraded"] == ("False" if waits else "True", reason)
    assert conditions(world.status)["Available"][0] == "True"
    assert world.status.phase == ("Scaling" if waits else "Degraded")
    assert message(world.status).startswith("tiny-v1: 2 of 3 pods have it loaded; ")
    assert words in message(world.status)


def test_a_first_version_that_does_not_load_is_told_in_tritons_words() -> None:
    world = World(pool())
    world.publish(1)
    world.settle()
    for pod in world.pods:
        pod.trouble = {"load_error": "LoadFailed: config.json has no heads"}
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Failed", "ModelLoadFailed")
    assert kstatus(world) == ("False", "False", "True")
    assert "tiny-v1 does not load: LoadFailed: config.json has no heads" in message(world.status)
    world.publish(2)
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert not world.live(1)


def test_words_of_pods_that_are_going_are_not_heard() -> None:
    world = serving()
    dying = world.live()[0]
    dying.ready, dying.terminating, dying.trouble = False, True, {"load_error": "LoadFailed: killed"}
    world.settle()
    assert "killed" not in message(world.status)


def test_what_somebody_removed_is_made_again() -> None:
    world = serving()
    world.service = None
    world.configs.clear()
    world.deployments.clear()
    world.roll_out()
    assert world.service
    assert len(world.configs) == len(world.deployments) == 1
    assert world.status.phase == "Serving"


def test_the_stable_revision_is_made_again_while_nothing_newer_can_be_served() -> None:
    world = serving(1)
    world.publish(1, ready=False, reason="Deleted")
    world.settle()
    assert (world.status.phase, world.status.version) == ("Waiting", "1")
    assert len(world.live(1)) == 2, "what is served goes on"
    assert conditions(world.status)["Degraded"] == ("True", "WaitingForModel")
    world.deployments.clear()
    world.configs.clear()
    world.settle()
    assert len(world.live(1)) == 2


def test_a_served_version_that_is_gone_goes_on() -> None:
    world = serving(1)
    del world.versions[1]
    world.settle()
    assert len(world.live()) == 2
    assert conditions(world.status)["Available"][0] == "True"
    assert kstatus(world) == ("False", "True", "False")
    world.edit(replicas=3)
    world.settle()
    assert len(world.live()) == 3, "it can still be scaled"


def test_what_became_ready_as_its_version_went_goes_on() -> None:
    world = World(pool())
    world.publish(1)
    world.settle()
    world.pods[0].ready = True
    revision = world.revision(1)
    del world.versions[1]
    world.settle()
    assert [(pod.revision, pod.ready) for pod in world.live()] == [(revision, True)], "and nothing is started"
    assert world.status.phase == "Waiting"
    assert conditions(world.status)["Available"][0] == "True"


def test_a_lower_version_takes_over_when_the_highest_is_being_deleted() -> None:
    world = serving(2)
    world.publish(1)
    world.publish(2, deleting=True)
    world.roll_out()
    assert world.status.version == "1"


def test_a_pool_that_is_being_deleted_is_left_alone() -> None:
    assert plan_pool(Observed(pool(deleting=True), SETTINGS, (version(1),)), NOW) is None


def test_a_refused_object_is_told_in_the_api_servers_words() -> None:
    world = serving()
    draft = StatusDraft(world.observed(), 2, NOW)
    draft.refused(Reason.POD_REJECTED, "Deployment chat-x: exceeded quota")
    status = draft.result()
    assert conditions(status)["Stalled"] == ("True", "PodRejected")
    assert conditions(status)["Available"][0] == "True"
    assert (status.phase, message(status, ConditionType.STALLED)) == ("Rejected", "Deployment chat-x: exceeded quota")


def test_selector_and_counts_are_those_of_the_scale_subresource() -> None:
    status = serving(replicas=3).status
    assert status.selector == "aifactory.dev/pool-name=chat,aifactory.dev/role=serve"
    assert (status.replicas, status.ready_replicas, status.observed_generation) == (3, 3, 1)

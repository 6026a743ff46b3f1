"""From one version to another in the pods that run: who is told what, and what becomes of one that does not load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aifactory.api.reasons import ConditionType
from aifactory.engine.plan import Patch
from aifactory.kube.podstate import Crash
from aifactory.serving import shape
from aifactory.serving.state import Report
from aifactory.serving.swap import choose
from tests.unit.plans import created, patches, repairs
from tests.unit.serving.builders import Pod, World, conditions, guard, message, pool

SIZE = 1024 * 1024
NO_LAYER = "LoadFailed: no such layer"
NO_ROOM = "NoRoom: no room in memory: the model needs 3 GiB for its weights alone, and 1 GiB are left"
TEMPLATE = {"spec": {"nodeSelector": {"gpu": "h100"}}}


def serving(*, replicas: int = 2, **spec: Any) -> World:
    """A pool that serves version 1, whose size is known."""
    world = World(pool(replicas=replicas, **spec))
    world.publish(1, size_bytes=SIZE)
    world.roll_out()
    assert world.status.phase == ("Serving" if replicas else "ScaledToZero")
    guard(world)
    return world


def changing(*, replicas: int = 2, done: int = 0, **spec: Any) -> World:
    """Its pods are told to serve version 2, and so many of them do."""
    world = serving(replicas=replicas, **spec)
    world.publish(2, size_bytes=SIZE)
    world.settle()
    world.change_over(done)
    return world


def traffic_of(world: World) -> dict[int, str]:
    """What the pods are told to serve, by version."""
    (desired,) = world.desired.values()
    return {model["version"]: model.get("traffic", "live") for model in desired["models"]}


def stable_of(world: World) -> str:
    """The revision that takes the traffic."""
    assert world.status.stable is not None
    return world.status.stable.revision


def rollout(world: World) -> Any:
    assert world.status.rollout is not None
    return world.status.rollout


def test_a_change_step_by_step() -> None:
    world = serving(replicas=3)
    pods = [pod.name for pod in world.live()]
    world.publish(2, size_bytes=SIZE)
    first = world.step()
    assert not first.writes, "in status first: from then on pods are asked what they serve"
    assert (first.urgent, first.requeue_after) == (True, 0), "and the rest at once"
    second = world.step()
    assert [write.kind for write in repairs(second)] == ["ConfigMap"]
    assert not patches(second), "the kubelet would bring them the old one"
    assert traffic_of(world) == {2: "live", 1: "warm"}
    third = world.step()
    assert [(patch.kind, patch.name) for patch in patches(third)] == [("Pod", name) for name in sorted(pods)]
    world.settle()
    assert (world.status.phase, world.status.version) == ("RollingOut", "1")
    assert (rollout(world).strategy, rollout(world).strategy_reason) == (
        "HotSwap",
        "only the version differs, and the pods have room for both",
    )
    assert message(world.status) == "tiny-v2: 0 of 3 pods have changed over to it; 3 pods of tiny-v1 answer"
    assert conditions(world.status)["Available"][0] == "True"
    assert conditions(world.status)["Degraded"][0] == "False"

    assert world.status.stable is not None
    assert (world.status.stable.replicas, world.status.stable.ready_replicas) == (3, 3)
    world.change_over(1, seconds=2.345)
    assert world.status.traffic == "2 pods of tiny-v1 and 1 of tiny-v2 answer"
    assert world.status.candidate is not None
    assert (world.status.candidate.model_version, world.status.candidate.ready_replicas) == ("tiny-v2", 1)
    assert [pod.dump() for pod in rollout(world).pods] == [
        {"name": pods[0], "version": 2, "loadSeconds": "2.3"},
        {"name": pods[1]},
        {"name": pods[2]},
    ]
    world.change_over(2, seconds=12.3)
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert message(world.status) == "tiny-v2 is loaded on 3 of 3 pods"
    assert (rollout(world).phase, rollout(world).load_seconds, rollout(world).pods) == ("Complete", "12", None)
    assert world.status.traffic == "3 pods of tiny-v2 answer"
    assert world.status.stable is not None
    assert world.status.stable.revision == world.revision(2)
    assert world.status.stable.deployment == f"chat-{world.revision(1)}", "its pods were made for version 1"
    assert world.status.previous is not None
    assert world.status.previous.model_version == "tiny-v1"
    assert [pod.name for pod in world.live()] == pods, "no pod has come or gone"
    assert world.events == ["RolledOut: tiny-v2 takes all traffic"]


def test_the_way_back_is_the_same_way() -> None:
    world = changing(done=2)
    world.pin(1)
    world.settle()
    assert traffic_of(world) == {1: "live", 2: "warm"}
    world.change_over(2, seconds=None)
    assert (world.status.version, world.status.phase, rollout(world).load_seconds) == ("1", "Serving", None)
    assert world.status.stable is not None
    assert world.status.stable.deployment is None, "its pods were made for it"
    world.pin(2)
    world.settle()
    world.change_over(2)
    assert world.status.version == "2"
    assert len(world.deployments) == len(world.configs) == 1


@pytest.mark.parametrize("done", [0, 1])
def test_a_wish_that_returns_in_the_middle_is_followed_until_every_pod_has_said_so(done: int) -> None:
    world = changing(done=done)
    world.pin(1)
    world.settle()
    assert traffic_of(world) == {1: "live"}
    assert (world.status.phase, rollout(world).revision) == ("RollingOut", world.revision(1))
    assert rollout(world).strategy_reason == "the pods serve again what they served before"
    assert world.status.candidate is None
    world.change_over(1)
    assert world.status.phase == "RollingOut"
    world.change_over(1)
    assert (world.status.phase, world.status.version, rollout(world).phase) == ("Serving", "1", "Complete")
    assert {pod.told for pod in world.live()} == {world.revision(1)}


def test_pods_that_have_been_told_are_not_taken_for_untouched_by_what_they_said_before() -> None:
    world = changing()
    for pod in world.live():
        pod.report = Report(world.revision(1), ready=True, version=1)
    world.pin(1)
    world.step()
    assert world.status.phase == "RollingOut", "they are told to serve version 2"
    world.settle()
    assert (world.status.phase, traffic_of(world)) == ("Serving", {1: "live"})
    assert {pod.told for pod in world.live()} == {world.revision(1)}


def test_what_stands_in_the_file_counts_though_no_pod_was_told() -> None:
    """The kubelet may have brought it."""
    world = serving()
    world.publish(2, size_bytes=SIZE)
    world.step()
    world.step()
    assert traffic_of(world)[2] == "live"
    for pod in world.live():
        pod.report = Report(world.revision(1), ready=True, version=1)
    world.pin(1)
    world.step()
    assert world.status.phase == "RollingOut"
    world.settle()
    assert (world.status.phase, traffic_of(world)) == ("Serving", {1: "live"})


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_pods_go_back_where_a_canary_begins_in_the_middle(template: Any) -> None:
    world = changing(done=1)
    old = stable_of(world)
    steps = {"rollout": {"strategy": "Canary", "steps": [{"weight": 50}, {"pause": {}}]}}
    world.edit(**steps, **({} if template is None else {"template": template}))
    world.settle()
    assert world.desired[f"chat-{old}"]["models"][0]["version"] == 1
    assert {pod.told for pod in world.live() if pod.ready} == {old}
    assert rollout(world).strategy == "Canary"


@pytest.mark.parametrize("trouble", ["NoRoom", "silence"])
def test_pods_on_their_way_back_are_waited_for_whatever_they_say(trouble: str) -> None:
    """New pods would have to load the same."""
    world = changing()
    world.pin(1)
    world.settle()
    for pod in world.live():
        pod.silent = trouble == "silence"
        pod.report = Report(world.revision(1), error=NO_ROOM) if trouble == "NoRoom" else None
    world.wait(120)
    world.settle()
    assert (rollout(world).strategy, rollout(world).phase, len(world.deployments)) == ("HotSwap", "Progressing", 1)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_pods_go_back_while_the_version_that_is_wished_does_not_exist(template: Any) -> None:
    world = changing(done=1)
    world.edit(models=[{"name": "tiny", "version": 9}], **({} if template is None else {"template": template}))
    world.settle()
    assert world.status.phase == "Waiting"
    assert traffic_of(world)[1] == "live"
    assert {pod.told for pod in world.live()} == {world.revision(1) if template is None else stable_of(world)}


def test_pods_are_not_told_to_go_back_to_another_artifact_than_the_one_they_served() -> None:
    world = changing(done=1)
    world.publish(1, size_bytes=SIZE, digest="sha256:" + "f" * 64)
    world.edit(template=TEMPLATE)
    world.settle()
    assert rollout(world).strategy == "Surge"
    told = [model["digest"] for desired in world.desired.values() for model in desired["models"]]
    assert "sha256:" + "f" * 64 not in told


def test_what_surrounds_the_pods_is_made_again_in_the_middle() -> None:
    world = changing(done=1)
    world.service = None
    world.settle()
    assert world.service is not None


def test_a_pod_that_is_lost_in_the_middle_is_told_of_what_takes_the_traffic() -> None:
    world = changing(replicas=3)
    world.check = lambda: None
    world.live()[0].ready = False
    world.settle()
    assert world.status.stable is not None
    assert (world.status.stable.replicas, world.status.stable.ready_replicas) == (3, 2)


def test_a_newer_version_in_the_middle() -> None:
    world = changing(done=1)
    world.publish(3, size_bytes=SIZE)
    world.settle()
    assert traffic_of(world) == {3: "live", 1: "warm"}, "what was given up is kept by nobody"
    assert world.status.traffic == "1 pod of tiny-v1 and 1 of tiny-v2 answer"
    world.change_over(2)
    assert world.status.version == "3"
    assert world.status.previous is not None
    assert world.status.previous.model_version == "tiny-v1"


def test_a_version_that_does_not_load_is_taken_back_and_the_pods_serve_on() -> None:
    world = changing()
    world.change_over(1, error=NO_LAYER)
    assert (world.status.phase, world.status.reason, world.status.version) == ("Degraded", "ModelLoadFailed", "1")
    told = message(world.status)
    assert told.startswith(
        f"tiny-v2 was taken back, it does not load: {NO_LAYER} (1 pod on 1 node failed, and none has it loaded). "
    )
    assert conditions(world.status)["Available"][0] == "True"
    assert conditions(world.status)["Degraded"] == ("True", "ModelLoadFailed")
    assert traffic_of(world) == {1: "live"}
    assert {pod.told for pod in world.live()} == {world.revision(1)}
    assert rollout(world).strategy == "HotSwap"
    assert world.ready() == 2


@pytest.mark.parametrize(
    ("error", "again"),
    [(NO_LAYER, False), ("AccessDenied: s3: not with this secret", True), ("StoreFull: 0 bytes", True)],
)
def test_what_somebody_may_mend_elsewhere_is_tried_again_by_itself(error: str, again: bool) -> None:
    world = changing()
    world.change_over(1, error=error)
    assert (world.status.reason, rollout(world).retry_time is not None) == ("ModelLoadFailed", again)


def test_it_is_tried_again_when_no_pod_is_left_over_from_the_first_try() -> None:
    world = changing()
    world.change_over(1, error=NO_LAYER)
    world.pool.metadata.annotations["aifactory.dev/retry"] = "now"
    world.settle()
    assert world.status.phase == "Degraded", "the pod that failed has not said that it is back"
    world.change_over(2, seconds=None)
    assert traffic_of(world) == {2: "live", 1: "warm"}
    world.change_over(2)
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_a_store_that_does_not_answer_is_waited_for() -> None:
    world = changing()
    world.change_over(1, error="StoreUnavailable: no answer")
    assert world.status.phase == "RollingOut"
    assert message(world.status).endswith(f"; pod {world.live()[0].name}: StoreUnavailable: no answer")
    world.wait(1800)
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Degraded", "RolloutDeadlineExceeded")
    name = world.live()[0].name
    assert f"0 of 2 pods have changed over to it; pod {name}: StoreUnavailable: no answer" in message(world.status)
    assert rollout(world).retry_time is not None
    assert traffic_of(world) == {1: "live"}


def test_what_one_pod_can_not_load_and_others_can_is_told_and_waited_for() -> None:
    world = changing(done=1)
    world.change_over(1, error=NO_LAYER)
    assert world.status.phase == "RollingOut"
    assert NO_LAYER in message(world.status)
    assert [pod.message for pod in rollout(world).pods] == [None, NO_LAYER]


@pytest.mark.parametrize("said", [{}, {"rollout": {"strategy": "Auto"}}, {"rollout": {"progressDeadlineSeconds": 600}}])
def test_pods_without_room_for_both_go_back_and_new_ones_come(said: Any) -> None:
    world = changing(**said)
    full = world.live()[0].name
    world.change_over(1, error=NO_ROOM)
    assert (rollout(world).strategy, rollout(world).phase) == ("Surge", "Progressing")
    assert rollout(world).strategy_reason == (
        f"pod {full} can not hold both versions: no room in memory: "
        "the model needs 3 GiB for its weights alone, and 1 GiB are left"
    )
    old = world.revision(1)
    assert world.desired[f"chat-{old}"]["models"][0]["version"] == 1
    assert {pod.told for pod in world.live(1)} == {old}
    assert [len(world.live(number)) for number in (1, 2)] == [2, 1]
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert (len(world.deployments), rollout(world).strategy) == (1, "Surge")
    assert world.status.previous is None


def test_that_pods_have_no_room_is_written_down_before_others_come() -> None:
    world = changing()
    world.wait(100)
    world.live()[0].report = Report(world.revision(2), version=1, error=NO_ROOM)
    plan = world.step()
    assert (plan.urgent, plan.requeue_after, plan.writes) == (True, 0, ())
    assert (rollout(world).most_ready or 0, rollout(world).progress_time) == (0, world.now), "time begins anew"
    assert world.status.candidate is not None
    assert (world.status.candidate.deployment, world.status.candidate.replicas) == (None, 0), "they are not there yet"


def test_a_pod_that_somebody_took_away_while_the_operator_was_away_is_not_late_when_it_is_asked_for_again() -> None:
    world = changing(replicas=3, done=2)
    guard(world, ready=2)
    (deployment,) = world.deployments.values()
    deployment.wanted = 2
    world.pods = [pod for pod in world.pods if pod.report is not None]
    world.wait(1800)
    plan = world.step()
    assert (plan.urgent, plan.requeue_after, plan.writes) == (True, 0, ())
    assert rollout(world).progress_time == world.now
    world.settle()
    assert (world.status.phase, len(world.live())) == ("RollingOut", 3)


def test_one_pod_without_room_is_enough() -> None:
    world = changing(done=1)
    world.change_over(1, error=NO_ROOM)
    assert (rollout(world).strategy, rollout(world).phase) == ("Surge", "Progressing")
    assert {pod.told for pod in world.live(1)} == {world.revision(1)}


def test_pods_of_which_none_can_be_asked_are_left_alone_after_a_minute() -> None:
    world = changing()
    world.wait(60)
    assert world.settle().requeue_after == 60
    assert rollout(world).strategy == "HotSwap", "they have not been asked: the operator was away"
    first, second = world.live()
    first.silent = True
    world.settle()
    assert rollout(world).strategy == "HotSwap", "the other one may answer"
    second.silent = True
    world.settle()
    assert rollout(world).strategy == "Surge"
    assert rollout(world).strategy_reason == "no agent of the pods can be asked what it serves, at port 8081"
    world.roll_out()
    assert world.status.version == "2"


def test_pods_that_do_not_answer_are_given_a_minute() -> None:
    world = changing()
    for pod in world.live():
        pod.silent = True
    world.wait(59)
    world.settle()
    assert rollout(world).strategy == "HotSwap"
    world.wait(1)
    world.settle()
    assert rollout(world).strategy == "Surge"


def test_where_no_pod_is_ready_nobody_can_be_asked_and_no_other_pods_come_for_that() -> None:
    world = changing()
    world.check = lambda: None
    for pod in world.live():
        pod.ready = False
    world.wait(120)
    world.settle()
    assert rollout(world).strategy == "HotSwap"


def test_pods_without_room_where_no_others_may_come() -> None:
    world = changing(rollout={"strategy": "HotSwap"})
    world.change_over(1, error=NO_ROOM)
    assert (world.status.phase, world.status.reason) == ("Degraded", "ModelLoadFailed")
    assert "1 GiB are left" in message(world.status)
    assert len(world.live()) == 2


def test_a_template_that_changes_in_the_middle_brings_new_pods_and_the_old_ones_serve_what_they_served() -> None:
    world = changing(done=1)
    old = world.revision(1)
    world.edit(template=TEMPLATE)
    world.settle()
    assert world.desired[f"chat-{old}"]["models"][0]["version"] == 1
    assert {pod.told for pod in world.live() if pod.ready} == {old}
    assert rollout(world).strategy == "Surge"
    assert rollout(world).strategy_reason == (
        "more than the version differs: image, template, drain or engine of the pods, "
        "or format, claim or secret of the version"
    )
    world.roll_out()
    assert (world.status.phase, world.status.version, len(world.deployments)) == ("Serving", "2", 1)


@pytest.mark.parametrize("engines", [("auto", "transformers"), ("transformers", "auto")])
def test_an_engine_that_changes_in_the_middle_has_the_old_pods_serve_what_they_served(
    engines: tuple[str, str],
) -> None:
    before, after = engines
    world = changing(done=1, runtime={"engine": before})
    old = world.revision(1)
    world.edit(runtime={"engine": after}, models=[{"name": "tiny", "version": 1}])
    world.settle()
    assert rollout(world).strategy == "Surge"
    (told,) = world.desired[f"chat-{old}"]["models"]
    assert (told["version"], told.get("engine", "auto")) == (1, before)
    assert {pod.told for pod in world.live() if pod.ready} == {old}


def test_a_pod_that_crashes_in_the_middle_ends_it() -> None:
    """The kernel may end a Triton that has two versions to load; the next one loads what it served."""
    world = changing()
    pod = world.live()[0]
    pod.ready, pod.trouble = False, {"crash": Crash("triton", 137, "OOMKilled", "", 3), "node": "n-1"}
    guard(world, ready=1)
    world.settle()
    assert rollout(world).strategy == "Surge"
    assert rollout(world).strategy_reason == f"a container of pod {pod.name} ends again and again"
    assert traffic_of_old(world) == {1: "live"}


def traffic_of_old(world: World) -> dict[int, str]:
    desired = world.desired[f"chat-{world.revision(1)}"]
    return {model["version"]: model.get("traffic", "live") for model in desired["models"]}


def test_a_surge_back_to_the_version_that_the_pods_were_made_for() -> None:
    world = changing(done=2)
    world.edit(rollout={"strategy": "Surge"})
    world.pin(1)
    world.settle()
    old = world.revision(1)
    assert sorted(world.deployments) == [f"chat-{old}", f"chat-{old}-b"]
    for _ in range(4):
        waiting = [pod for pod in world.live() if not pod.ready]
        if waiting:
            waiting[0].ready = True
            world.settle()
    assert (world.status.phase, world.status.version) == ("Serving", "1")
    assert sorted(world.deployments) == [f"chat-{old}-b"]
    assert world.status.stable is not None
    assert world.status.stable.deployment == f"chat-{old}-b"
    world.publish(3, size_bytes=SIZE)
    world.edit(models=[{"name": "tiny", "track": "Latest"}], rollout={"strategy": "Auto"})
    world.settle()
    world.change_over(2)
    assert (world.status.version, sorted(world.deployments)) == ("3", [f"chat-{old}-b"])


def test_a_pool_without_pods_is_told_what_to_serve_when_it_has_some() -> None:
    world = serving(replicas=0)
    world.publish(2, size_bytes=SIZE)
    world.settle()
    assert (world.status.version, world.status.phase) == ("2", "ScaledToZero")
    assert traffic_of(world) == {2: "live", 1: "warm"}
    guard(world, ready=0)
    world.edit(replicas=1)
    world.settle()
    world.live()[0].ready = True
    world.settle()
    assert world.status.phase == "Serving"
    assert world.status.traffic == "1 pod of tiny-v2 answers"


def test_pods_that_come_in_the_middle_are_made_with_the_new_wish() -> None:
    world = changing(done=1)
    world.edit(replicas=3)
    guard(world, ready=2)
    world.settle()
    (new,) = [pod for pod in world.live() if not pod.ready]
    world.change_over(1)
    assert world.status.phase == "RollingOut", "one is missing"
    new.ready = True
    world.settle()
    assert world.status.phase == "RollingOut", "it has not said what it serves"
    world.change_over(1)
    assert world.status.phase == "Serving"


@pytest.mark.parametrize("now", ["gone", "being deleted", "another artifact"])
def test_the_version_before_is_kept_until_it_is_deleted(now: str) -> None:
    world = changing(done=2)
    del world.versions[1]
    if now == "being deleted":
        world.publish(1, size_bytes=SIZE, deleting=True)
    if now == "another artifact":
        world.publish(1, size_bytes=SIZE, digest="sha256:" + "f" * 64)
    world.settle()
    assert traffic_of(world) == {2: "live"}
    assert world.status.previous is None
    assert world.status.phase == "Serving"


def test_a_status_that_is_lost_in_the_middle() -> None:
    world = changing(done=1)
    world.pin(1)
    world.pool = world.pool.model_copy(update={"status": world.status.model_validate({})})
    world.settle()
    world.wait(3600)
    world.settle()
    assert rollout(world).phase == "Progressing", "there is nothing to go back to"
    assert world.step().requeue_after == 60
    world.change_over(2)
    assert (world.status.phase, world.status.version) == ("Serving", "1")
    assert traffic_of(world) == {1: "live"}


def test_a_version_of_another_digest_under_the_same_name_is_another_revision() -> None:
    world = serving()
    old = world.revision(1)
    world.publish(1, size_bytes=SIZE, digest="sha256:" + "f" * 64)
    world.settle()
    assert (rollout(world).phase, rollout(world).strategy) == ("Progressing", "Surge")
    assert rollout(world).strategy_reason == (
        "version 1 is another artifact than the one that is served under this number"
    )
    told = [model for name, desired in world.desired.items() if name.endswith(old) for model in desired["models"]]
    assert [model["digest"] for model in told] != ["sha256:" + "f" * 64], "they would let go of what they serve first"
    assert {pod.told for pod in world.live() if pod.ready} == {""}
    world.roll_out()
    assert (world.status.phase, len(world.deployments)) == ("Serving", 1)


def test_a_version_that_was_made_again_while_pods_change_over_to_it_goes_on() -> None:
    """The pods let go of the first one and answer from the version before until they have the other one."""
    world = changing(done=1)
    world.publish(2, size_bytes=SIZE, digest="sha256:" + "f" * 64)
    world.settle()
    assert (rollout(world).strategy, rollout(world).revision) == ("HotSwap", world.revision(2))
    world.change_over(2)
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_a_pool_of_an_earlier_release_stays_as_it_is_and_gets_new_pods_with_the_next_version() -> None:
    world = serving()
    old = shape.revision_of(world.pool, world.versions[1], "aifactory/server:1", "v1")
    for name in [*world.deployments]:
        deployment = world.deployments.pop(name)
        deployment.child, deployment.revision = replace(deployment.child, name=f"chat-{old}"), old
        world.deployments[f"chat-{old}"] = deployment
        config = world.configs.pop(name)
        child = replace(config.child, name=f"chat-{old}")
        world.configs[f"chat-{old}"] = replace(config, child=child, revision=old, assigned="")
    for pod in world.pods:
        pod.revision = old
    assert world.status.stable is not None
    world.status.stable = world.status.stable.model_copy(update={"revision": old})
    assert world.status.rollout is not None
    world.status.rollout = world.status.rollout.model_copy(update={"revision": old})
    decision = world.settle()
    assert not decision.writes
    assert not created(decision)
    assert list(world.deployments) == [f"chat-{old}"]
    world.publish(2, size_bytes=SIZE)
    world.settle()
    assert rollout(world).strategy_reason == "the pods were made by an earlier release of the operator"
    world.load(4)
    assert (world.status.version, list(world.deployments)) == ("2", [f"chat-{world.revision(2)}"])


def limited(**limits: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "triton", "resources": {"limits": limits}}]}}


LIMIT = limited(memory="1Gi")
LIMIT_AND_GPU = limited(memory="1Gi", **{"nvidia.com/gpu": 1})
BOTH_FIT = "only the version differs, and the pods have room for both"
TWICE = (
    "tiny-v1 and tiny-v2 are 600MiB together, a CPU may need twice that, and resources.limits.memory of container "
    "triton is 1Gi"
)


@pytest.mark.parametrize(
    ("spec", "sizes", "strategy", "why"),
    [
        pytest.param({}, (1, 1), "HotSwap", BOTH_FIT, id="both fit"),
        pytest.param(
            {"rollout": {"strategy": "Surge"}}, (1, 1), "Surge", "spec.rollout.strategy is Surge", id="as the user says"
        ),
        pytest.param({}, (1, None), "Surge", "the size of tiny-v2 or tiny-v1 is not known", id="a size is not known"),
        pytest.param(
            {},
            (100, 400),
            "Surge",
            "the pods' volume was made for 456MiB, and tiny-v1 and tiny-v2 are 500MiB together",
            id="too large for the disk",
        ),
        pytest.param(
            {}, (None, 1), "Surge", "the size of tiny-v2 or tiny-v1 is not known", id="nor that of the old one"
        ),
        pytest.param({}, (100, 228), "HotSwap", BOTH_FIT, id="just fits on the disk"),
        pytest.param(
            {},
            (100, 229),
            "Surge",
            "the pods' volume was made for 456MiB, and tiny-v1 and tiny-v2 are 329MiB together",
            id="a little too large for the disk",
        ),
        pytest.param({"rollout": {"progressDeadlineSeconds": 60}}, (1, 1), "HotSwap", BOTH_FIT, id="no strategy"),
        pytest.param({"template": LIMIT}, (100, 100), "HotSwap", BOTH_FIT, id="memory is left"),
        pytest.param({"template": LIMIT}, (256, 256), "HotSwap", BOTH_FIT, id="just fits in memory"),
        pytest.param({"template": LIMIT_AND_GPU}, (300, 300), "HotSwap", BOTH_FIT, id="it goes to a GPU"),
        pytest.param(
            {"template": LIMIT},
            (300, 300),
            "Surge",
            TWICE,
            id="too large for the memory",
        ),
    ],
)
def test_how_a_change_is_made_and_why(spec: Any, sizes: tuple[Any, Any], strategy: str, why: str) -> None:
    world = World(pool(replicas=1, **spec))
    first, second = (None if size is None else size * SIZE for size in sizes)
    world.publish(1, size_bytes=first)
    world.roll_out()
    world.publish(2, size_bytes=second)
    choice = choose(world.observed(), world.versions[2], world.revision(2))
    assert (choice.strategy, choice.refused) == (strategy, False)
    assert choice.reason == why
    world.settle()
    assert (rollout(world).strategy, rollout(world).strategy_reason) == (strategy, why)


@pytest.mark.parametrize(
    ("took", "strategy", "why"),
    [
        ((200, 300), "HotSwap", BOTH_FIT),
        ((480, 480), "HotSwap", BOTH_FIT),
        (
            (490, 490),
            "Surge",
            "tiny-v1 and tiny-v2 took 980MiB when they were tried, Triton 64MiB, and resources.limits.memory of "
            "container triton is 1Gi",
        ),
        ((None, 200), "Surge", TWICE),
        ((200, None), "Surge", TWICE),
    ],
)
def test_what_versions_took_when_they_were_tried_counts_before_their_size(
    took: tuple[int | None, int | None], strategy: str, why: str
) -> None:
    world = World(pool(replicas=1, template=LIMIT))
    first, second = (None if size is None else size * SIZE for size in took)
    world.publish(1, size_bytes=300 * SIZE, memory_bytes=first)
    world.roll_out()
    world.publish(2, size_bytes=300 * SIZE, memory_bytes=second)
    choice = choose(world.observed(), world.versions[2], world.revision(2))
    assert (choice.strategy, choice.reason) == (strategy, why)


@pytest.mark.parametrize(
    ("begun", "sizes_are_known", "goes_on"),
    [
        pytest.param(("Surge", "Progressing"), True, True, id="new pods are on their way"),
        pytest.param(("Surge", "Failed"), True, True, id="it is tried again: the pods may have had no room"),
        pytest.param(("HotSwap", "Progressing"), False, True, id="pods change over"),
        pytest.param(("HotSwap", "Failed"), False, False, id="they went back, and it is chosen anew"),
        pytest.param(("Surge", "Complete"), True, False, id="it is over"),
        pytest.param((None, "Progressing"), True, False, id="it has not begun"),
        pytest.param(("Surge", "Progressing", "another"), True, False, id="it was for another version"),
        pytest.param(("Surge", "Failed", "another"), True, False, id="it was for another one, and failed"),
    ],
)
def test_what_has_begun_goes_on_as_it_began(begun: tuple[Any, ...], sizes_are_known: bool, goes_on: bool) -> None:
    world = serving()
    world.publish(2, size_bytes=SIZE if sizes_are_known else None)
    strategy, phase, *other = begun
    revision = world.revision(2)
    change = {"phase": phase, "strategy": strategy, "strategyReason": "as it began", "revision": (*other, revision)[0]}
    status = world.status.model_validate({**world.status.dump(), "rollout": change})
    world.pool = world.pool.model_copy(update={"status": status})
    choice = choose(world.observed(), world.versions[2], revision)
    anew = ("HotSwap", BOTH_FIT) if sizes_are_known else ("Surge", "the size of tiny-v2 or tiny-v1 is not known")
    assert (choice.strategy, choice.reason) == ((strategy, "as it began") if goes_on else anew)


@pytest.mark.parametrize("not_known", ["the version before", "how much the pods hold"])
def test_new_pods_come_where_nobody_knows_whether_both_fit(not_known: str) -> None:
    world = serving()
    if not_known == "the version before":
        del world.versions[1]
    else:
        next(iter(world.deployments.values())).room = 0
    world.publish(2, size_bytes=SIZE)
    world.settle()
    assert (rollout(world).strategy, rollout(world).strategy_reason) == (
        "Surge",
        "the size of tiny-v2 or tiny-v1 is not known",
    )


CRASHING = {"crash": Crash("triton", 1, "Error", "", 3)}


@pytest.mark.parametrize(
    ("made", "crashes"),
    [
        pytest.param({}, True, id="it is not ready"),
        pytest.param({"ready": True}, False, id="it has come back"),
        pytest.param({"terminating": True}, False, id="it ends"),
        pytest.param({"revision": "v2-00000000-11111111"}, False, id="it is of another set"),
    ],
)
def test_new_pods_come_where_one_of_these_crashes(made: Any, crashes: bool) -> None:
    world = serving()
    stable = world.live()[0].revision
    world.pods.append(Pod(**{"name": "it", "revision": stable, "trouble": CRASHING, **made}))
    world.publish(2, size_bytes=SIZE)
    choice = choose(world.observed(), world.versions[2], world.revision(2))
    assert choice.reason == ("a container of pod it ends again and again" if crashes else BOTH_FIT)


def test_the_users_word_is_the_reason_for_a_canary() -> None:
    world = serving(rollout={"strategy": "Canary", "steps": [{"weight": 50}]})
    world.publish(2, size_bytes=SIZE)
    choice = choose(world.observed(), world.versions[2], world.revision(2))
    assert (choice.strategy, choice.reason) == ("Canary", "spec.rollout.strategy is Canary")


def test_pods_whose_deployment_is_being_deleted_do_not_change_over() -> None:
    world = serving()
    world.publish(2, size_bytes=SIZE)
    observed = world.observed()
    going = replace(observed, revisions=tuple(replace(view, terminating=True) for view in observed.revisions))
    choice = choose(going, world.versions[2], world.revision(2))
    assert (choice.strategy, choice.reason) == ("Surge", "there are no pods that could change over")


def test_pods_of_their_own_keep_no_other_version_at_hand() -> None:
    world = serving(rollout={"strategy": "Surge"})
    world.publish(2, size_bytes=SIZE)
    world.settle()
    told = {name: [model["version"] for model in desired["models"]] for name, desired in world.desired.items()}
    assert told == {f"chat-{world.revision(1)}": [1], f"chat-{world.revision(2)}": [2]}


def test_the_moment_in_which_the_last_pod_has_changed_over_is_told_as_it_is() -> None:
    world = changing(done=1)
    last = world.live()[1]
    last.report = Report(world.revision(2), ready=True, version=2)
    world.step()
    assert (world.status.version, world.status.traffic) == ("2", "2 pods of tiny-v2 answer")


def test_a_version_without_room_is_refused_where_no_new_pods_may_come() -> None:
    world = serving(rollout={"strategy": "HotSwap"})
    world.publish(2, size_bytes=1000 * SIZE)
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Waiting", "HotSwapImpossible")
    assert conditions(world.status)["Stalled"] == ("True", "HotSwapImpossible")
    assert conditions(world.status)["Available"][0] == "True"
    words = message(world.status, ConditionType.STALLED)
    assert "spec.rollout.strategy is HotSwap, and the pods' volume was made for" in words
    assert words.endswith("write Auto or Surge, which makes new pods, or give the pods more room")
    assert len(world.live()) == 2
    world.edit(rollout={"strategy": "Auto"})
    world.roll_out()
    assert world.status.version == "2"


def test_what_serves_goes_on_though_there_would_be_no_room_for_it_twice() -> None:
    world = World(pool(replicas=1, template=LIMIT, rollout={"strategy": "HotSwap"}))
    world.publish(1, size_bytes=300 * SIZE)
    world.roll_out()
    assert (world.status.phase, conditions(world.status)["Stalled"][0]) == ("Serving", "False")


def test_only_a_change_of_the_version_is_made_in_place() -> None:
    world = serving(rollout={"strategy": "HotSwap"})
    world.edit(template=TEMPLATE)
    world.roll_out()
    assert (world.status.phase, len(world.deployments)) == ("Serving", 1)
    assert rollout(world).strategy == "Surge"


def test_nothing_is_written_for_pods_that_were_made_with_what_they_serve() -> None:
    world = serving()
    assert not world.settle().writes
    assert {pod.told for pod in world.live()} == {""}
    plan = world.step()
    assert not [write for write in plan.writes if isinstance(write, Patch)]

"""How a Canary goes through its steps: by pods, by time, by what people ask."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.inferencepool import AnalysisWindow, Finding, RolloutStep
from aifactory.serving import requests
from aifactory.serving.analysis import Look, Outcome
from aifactory.serving.steps import Walk, begin, follow, hash_of, look_at, resume, steps_of, takes_back, words
from tests.unit.plans import removed
from tests.unit.serving.builders import NOW, World, conditions, guard, message, pool, serving

STEPS: list[dict[str, Any]] = [{"weight": 25}, {"pauseSeconds": 60}, {"weight": 50}, {"pause": {}}, {"weight": 100}]
PARSED = tuple(RolloutStep.model_validate(step) for step in STEPS)
SOON, LATER = NOW + timedelta(seconds=59), NOW + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("at", "asked", "there", "now", "then"),
    [
        pytest.param(0, set(), False, LATER, (0, NOW, False), id="pods are missing"),
        pytest.param(0, set(), True, LATER, (1, LATER, False), id="the pods are there"),
        pytest.param(1, set(), True, SOON, (1, NOW, False), id="it waits"),
        pytest.param(1, set(), False, LATER, (2, LATER, False), id="it has waited"),
        pytest.param(3, set(), True, LATER, (3, NOW, False), id="it waits for somebody"),
        pytest.param(3, {"promote"}, True, SOON, (4, SOON, False), id="promoted"),
        pytest.param(1, {"promote"}, True, SOON, (2, SOON, False), id="promoted before its time"),
        pytest.param(0, {"promote"}, False, SOON, (0, NOW, False), id="there is nothing to promote before the pods"),
        pytest.param(1, {"pause"}, True, LATER, (1, NOW, True), id="paused at the last moment"),
        pytest.param(1, {"pause", "resume"}, True, LATER, (1, NOW, True), id="in doubt it pauses"),
        pytest.param(1, {"resume"}, True, SOON, (1, NOW, False), id="it is not paused"),
        pytest.param(5, set(), True, LATER, (5, NOW, False), id="after the last one"),
    ],
)
def test_from_step_to_step(at: int, asked: set[str], there: bool, now: Any, then: tuple[Any, ...]) -> None:
    walk = follow(Walk(PARSED, at, NOW), asked, there=there, now=now)
    assert (walk.at, walk.since, walk.paused) == then


@pytest.mark.parametrize(
    ("at", "asked", "then"),
    [
        pytest.param(1, set(), (1, NOW, True), id="it stays, whatever time it is"),
        pytest.param(1, {"resume"}, (1, LATER, False), id="its time begins again"),
        pytest.param(1, {"promote"}, (2, LATER, False), id="promoted"),
        pytest.param(0, {"promote"}, (0, LATER, False), id="promoted, which has it go on"),
        pytest.param(0, set(), (0, NOW, True), id="it stays though the pods are there"),
    ],
)
def test_what_is_paused(at: int, asked: set[str], then: tuple[Any, ...]) -> None:
    walk = follow(Walk(PARSED, at, NOW, paused=True), asked, there=True, now=LATER)
    assert (walk.at, walk.since, walk.paused) == then


def test_weights_last_until_the_next_one() -> None:
    assert [Walk(PARSED, at, NOW).weight for at in range(6)] == [25, 25, 50, 50, 100, 100]
    assert Walk(PARSED[:2], 2, NOW).weight == 100, "after the last step it gets everything"


def test_before_the_first_weight_it_gets_nothing() -> None:
    assert Walk(PARSED[1:], 0, NOW).weight == 0


def test_what_is_paused_ends_at_no_time() -> None:
    assert Walk(PARSED, 1, NOW).due == LATER
    assert Walk(PARSED, 1, NOW, paused=True).due is None
    assert Walk(PARSED, 0, NOW).due is None


def test_without_steps_there_are_none() -> None:
    assert steps_of(pool()) == steps_of(pool(rollout={"strategy": "Surge"})) == ()


def test_what_is_asked_for_is_kept_in_order_and_to_the_second() -> None:
    world = World(pool())
    for name in ("resume", "abort"):
        ask(world, name, "1")
    found = requests.seen(world.pool, NOW) or ()
    assert [(each.name, each.value) for each in found] == [("abort", "1"), ("resume", "1")]
    ask(world, "pause", "2")
    meta = world.pool.metadata.model_copy(update={"annotations": {"aifactory.dev/pause": "3"}})
    asked = world.pool.model_copy(update={"metadata": meta})
    (again,) = (each for each in requests.seen(asked, NOW + timedelta(microseconds=5)) or () if each.name == "pause")
    assert (again.value, again.time) == ("3", NOW)
    assert requests.command(world.pool, "abort") == (
        'kubectl -n ns annotate --overwrite ipool chat aifactory.dev/abort="$(date)"'
    )


COMPARING = (RolloutStep(analyze_seconds=60),)


def paused_after(broken: int) -> Walk:
    return Walk(COMPARING, 0, NOW, paused=True, window=AnalysisWindow(since=NOW, broken=broken))


def test_a_comparison_that_is_paused_has_failed_when_its_limit_is_passed() -> None:
    """Else somebody has paused it."""
    analysis = {"metrics": [{"name": "errorRate", "max": "0.1"}], "failureLimit": 1}
    made = pool(rollout={"steps": [{"analyzeSeconds": 60}], "analysis": analysis})
    assert look_at(made, paused_after(1), LATER) is None
    assert look_at(made, paused_after(2), LATER) == Look(Outcome.FAILED, ())
    assert look_at(pool(rollout={"steps": [{"analyzeSeconds": 60}]}), paused_after(2), LATER) is None


def test_where_nothing_was_looked_at_a_comparison_stays() -> None:
    walk = begin(COMPARING, NOW)
    assert follow(walk, set(), None, there=True, now=LATER) == walk


def test_a_version_is_taken_back_unless_the_user_says_otherwise() -> None:
    specs: list[dict[str, Any]] = [{}, {"rollout": {}}, {"rollout": {"autoRollback": True}}]
    assert [takes_back(pool(**each)) for each in specs] == [True] * 3
    assert not takes_back(pool(rollout={"autoRollback": False}))


def test_moments_are_those_that_are_written() -> None:
    moment = NOW + timedelta(microseconds=7)
    assert begin(PARSED, moment).since == NOW
    assert follow(Walk(PARSED, 0, NOW), set(), there=True, now=LATER + timedelta(microseconds=7)).since == LATER


def test_an_upgrade_of_the_operator_does_not_begin_a_canary_anew() -> None:
    assert hash_of(PARSED) == "43a64d93"


def annotate(name: str) -> str:
    return f'kubectl -n ns annotate --overwrite ipool chat aifactory.dev/{name}="$(date)"'


@pytest.mark.parametrize(
    ("walk", "look", "told"),
    [
        pytest.param(Walk(PARSED, 0, NOW), None, ("RollingOut", ""), id="a weight"),
        pytest.param(Walk(PARSED, 1, NOW), None, ("RollingOut", "it goes on at 2026-01-01T12:01:00Z"), id="some time"),
        pytest.param(
            Walk(PARSED, 3, NOW),
            None,
            ("WaitingForPromotion", f"it goes on with: {annotate('promote')}"),
            id="as long as it takes",
        ),
        pytest.param(
            Walk(PARSED, 1, NOW, paused=True),
            None,
            ("RolloutPaused", f"paused; it goes on with: {annotate('resume')}"),
            id="paused",
        ),
        pytest.param(
            begin(COMPARING, NOW), None, ("Analyzing", "it is compared until 2026-01-01T12:01:00Z"), id="a comparison"
        ),
        pytest.param(
            begin(COMPARING, NOW),
            Look(Outcome.INCONCLUSIVE, (Finding(metric="m", outcome="Inconclusive", message="m: too few"),)),
            ("AnalysisInconclusive", f"m: too few; it waits for more, or goes on with: {annotate('promote')}"),
            id="not enough to tell",
        ),
        pytest.param(
            paused_after(1),
            Look(Outcome.FAILED, (Finding(metric="m", outcome="Failed", message="m: too slow"),)),
            (
                "AnalysisFailed",
                f"m: too slow; it stays here (autoRollback is false); it goes on with: {annotate('promote')}; "
                f"it is taken back with: {annotate('abort')}",
            ),
            id="worse",
        ),
    ],
)
def test_what_it_waits_for_and_the_way_on(walk: Walk, look: Look | None, told: tuple[str, str]) -> None:
    reason, said = words(pool(), walk, look)
    assert (str(reason), said) == told


def canary(replicas: int = 4, **spec: Any) -> World:
    """Version 2 is there; a Canary has begun."""
    world = serving(1, replicas=replicas, rollout={"strategy": "Canary", "steps": STEPS, **spec})
    guard(world)
    world.publish(2)
    world.settle()
    return world


def pods(world: World) -> tuple[int, int]:
    """Ready pods of the versions."""
    return (sum(pod.ready for pod in world.live(1)), sum(pod.ready for pod in world.live(2)))


def change(world: World) -> tuple[int | None, int | None, int | None]:
    found = world.status.rollout
    assert found is not None
    return found.step, found.weight, found.actual_weight


def ask(world: World, name: str, value: str = "now") -> None:
    annotations = {**world.pool.metadata.annotations, f"aifactory.dev/{name}": value}
    meta = world.pool.metadata.model_copy(update={"annotations": annotations})
    world.pool = world.pool.model_copy(update={"metadata": meta})
    world.settle()


def test_step_by_step() -> None:
    world = canary()
    assert (pods(world), len(world.live(2)), change(world)) == ((4, 0), 1, (0, 25, 0))
    assert message(world.status) == "tiny-v2: step 1 of 5, weight 25: 0 of 1 pods are ready; 4 pods of tiny-v1 answer"
    world.load(1, 2)
    assert (pods(world), change(world)) == ((3, 1), (1, 25, 25))
    assert message(world.status) == (
        "tiny-v2: step 2 of 5, weight 25: 1 of 1 pods are ready; 3 pods of tiny-v1 and 1 of tiny-v2 answer; "
        "it goes on at 2026-01-01T12:01:00Z"
    )
    assert world.settle().requeue_after == 60
    world.wait(60)
    world.settle()
    assert change(world) == (2, 50, 25)
    world.load(1, 2)
    assert (pods(world), change(world)) == ((2, 2), (3, 50, 50))
    assert conditions(world.status)["Reconciling"] == ("True", "WaitingForPromotion")
    assert "annotate --overwrite ipool chat aifactory.dev/promote=" in message(world.status)
    assert world.settle().requeue_after is None, "for as long as it takes"
    world.wait(1e6)
    assert not world.settle().writes
    ask(world, "promote")
    assert change(world) == (4, 100, 50)
    world.roll_out()
    assert (pods(world), world.status.phase, world.status.version) == ((0, 4), "Serving", "2")
    assert world.status.rollout is not None
    assert (world.status.rollout.phase, world.status.rollout.strategy) == ("Complete", "Canary")
    assert [(request.name, request.value) for request in world.status.requests or ()] == [("promote", "now")]
    assert len(world.deployments) == 1


@pytest.mark.parametrize(("replicas", "ready", "actual"), [(1, (1, 1), 50), (2, (2, 1), 33), (3, (3, 1), 25)])
def test_a_part_smaller_than_a_pod_is_one_more_pod(replicas: int, ready: tuple[int, int], actual: int) -> None:
    world = canary(replicas, steps=[{"weight": 5}, {"pause": {}}])
    world.load(1, 2)
    assert (pods(world), change(world)) == (ready, (1, 5, actual))
    ask(world, "promote")
    world.roll_out()
    assert (pods(world), world.status.version) == ((0, replicas), "2")


def test_an_abort_takes_it_back_and_a_retry_begins_anew() -> None:
    world = canary()
    world.load(1, 2)
    ask(world, "abort")
    assert world.status.reason == "RolloutAborted"
    world.roll_out()
    assert (pods(world), world.status.phase) == ((4, 0), "Degraded")
    assert world.events == ["RolloutAborted: tiny-v2 is taken back: it was aborted on request (aifactory.dev/abort)"]
    world.bury()
    ask(world, "retry")
    assert change(world) == (0, 25, 0), "the old request does not count again"
    ask(world, "abort", "once more")
    assert world.status.reason == "RolloutAborted"


@pytest.mark.parametrize("strategy", ["HotSwap", "Surge"])
def test_every_change_can_be_aborted(strategy: str) -> None:
    world = World(pool(rollout={"strategy": strategy}))
    world.publish(1, size_bytes=1 << 20)
    world.roll_out()
    world.publish(2, size_bytes=1 << 20)
    world.settle()
    assert world.status.phase == "RollingOut"
    ask(world, "abort")
    world.roll_out()
    assert (world.status.phase, world.status.reason, world.status.version) == ("Degraded", "RolloutAborted", "1")


def test_what_was_asked_before_is_not_asked_of_the_next_change() -> None:
    world = serving(1, replicas=2, rollout={"strategy": "Canary", "steps": STEPS})
    for name in ("abort", "pause", "promote"):
        ask(world, name)
    assert world.status.phase == "Serving"
    world.publish(2)
    world.settle()
    world.load(1, 2)
    assert change(world)[0] == 1


def test_paused_for_as_long_as_it_takes() -> None:
    world = canary()
    world.load(1, 2)
    ask(world, "pause")
    assert conditions(world.status)["Reconciling"] == ("True", "RolloutPaused")
    world.wait(1e5)
    world.settle()
    assert change(world)[:2] == (1, 25)
    ask(world, "resume")
    world.wait(59)
    world.settle()
    assert change(world)[:2] == (1, 25)
    world.wait(1)
    world.settle()
    assert change(world)[:2] == (2, 50)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_another_version_in_the_middle_waits_until_stable_has_everything(done: int) -> None:
    world = canary()
    world.load(done, 2)
    world.wait(60)
    world.load(done, 2)
    world.publish(3)
    for _ in range(40):
        world.step()
        assert not world.live(3) or len(world.live(1)) == 4, "first the one, then the other"
        for pod in world.live(1):
            pod.ready = True
    assert not world.live(2)
    assert change(world)[:2] == (0, 25)
    assert len(world.live(3)) == 1


def test_another_version_in_the_middle_that_does_not_load_is_taken_back() -> None:
    world = canary()
    world.publish(3)
    world.settle()
    world.bury()
    world.settle()
    world.live(3)[0].trouble = {"load_error": "LoadFailed: no such layer"}
    world.settle()
    assert (world.live(3), world.status.phase, world.status.reason) == ([], "Degraded", "ModelLoadFailed")


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_wish_returns_in_the_middle(done: int) -> None:
    world = canary()
    world.load(done, 2)
    world.wait(60)
    world.load(done, 2)
    world.pin(1)
    world.roll_out()
    assert (pods(world), world.status.phase, world.status.version) == ((4, 0), "Serving", "1")


def test_what_the_status_says_of_a_canary() -> None:
    world = serving(1, replicas=4, rollout={"strategy": "Canary", "steps": STEPS})
    world.publish(2)
    world.step()
    assert message(world.status).startswith("tiny-v2: step 1 of 5, weight 25: 0 of 1 pods are ready")
    world.settle()
    world.load(1, 2)
    found, stable = world.status.rollout, world.status.stable
    assert found is not None
    assert stable is not None
    assert (found.summary, found.paused, found.analysis) == ("2: 25%", None, None)
    assert (stable.replicas, stable.ready_replicas) == (3, 3), "of four before"
    world.check = lambda: None
    pod = world.live(2)[0]
    pod.ready, pod.trouble = False, {"waiting_reason": "ImagePullBackOff", "waiting_message": "no such image"}
    world.settle()
    assert "no such image" in message(world.status)
    assert conditions(world.status)["Reconciling"][1] == "ImagePullFailed"


def test_what_was_before_is_given_up_first_and_that_is_told() -> None:
    world = canary()
    world.load(1, 2)
    world.edit(rollout={"strategy": "Canary", "steps": [{"weight": 30}, {"pause": {}}]})
    world.step()
    assert message(world.status) == (
        "tiny-v2: what the pool was changing over to before is given up first; "
        "3 pods of tiny-v1 and 1 of tiny-v2 answer"
    )


def test_at_the_last_weight_it_can_be_paused_before_it_gets_everything() -> None:
    world = serving(1, replicas=2, rollout={"strategy": "Canary", "steps": [{"weight": 100}]})
    world.publish(2)
    world.settle()
    ask(world, "pause")
    world.load(4, 2)
    assert (pods(world), world.status.version) == ((0, 2), "1")
    assert conditions(world.status)["Reconciling"] == ("True", "RolloutPaused")
    ask(world, "resume")
    world.settle()
    assert world.status.version == "2"


def test_a_step_is_written_down_and_followed_at_once() -> None:
    world = canary()
    world.live(2)[0].ready = True
    decision = world.step()
    assert (decision.urgent, decision.requeue_after, decision.writes, decision.events) == (True, 0, (), ())


def test_it_is_looked_at_when_the_first_of_step_and_deadline_is_over() -> None:
    world = canary(progressDeadlineSeconds=60)
    world.load(1, 2)
    assert world.settle().requeue_after == 60, "no pod is missing"
    world.check = lambda: None
    world.wait(30)
    world.live(2)[0].ready = False
    assert world.settle().requeue_after == 30, "the deadline is 30 s later"
    world.live(2)[0].ready = True
    world.wait(29.5)
    assert world.settle().requeue_after == 1


def test_other_steps_begin_anew() -> None:
    world = canary()
    world.load(1, 2)
    world.wait(60)
    world.settle()
    world.load(1, 2)
    world.edit(rollout={"strategy": "Canary", "steps": [{"weight": 30}, {"pause": {}}]})
    world.step()
    world.step()
    assert change(world)[0] is None
    world.roll_out()
    world.bury()
    world.roll_out()
    assert change(world)[:2] == (1, 30)
    assert pods(world) == (3, 2)


@pytest.mark.parametrize("left", [{"strategy": "Surge"}, {"strategy": "HotSwap"}, {"strategy": "Auto"}, {}, None])
def test_without_steps_the_rest_is_a_surge(left: Any) -> None:
    world = canary()
    world.load(1, 2)
    world.edit(rollout=left)
    world.settle()
    assert world.status.rollout is not None
    assert (world.status.rollout.strategy, pods(world)) == ("Surge", (3, 1))
    words = "its pods were made for a Canary, and there are no spec.rollout.steps any more"
    if left != {"strategy": "Surge"}:
        assert world.status.rollout.strategy_reason == words
    world.roll_out()
    assert (pods(world), world.status.version) == ((0, 4), "2")


def test_auto_follows_steps() -> None:
    world = serving(1, replicas=2, rollout={"steps": STEPS})
    world.publish(2)
    world.settle()
    assert world.status.rollout is not None
    assert (world.status.rollout.strategy, world.status.rollout.strategy_reason) == (
        "Canary",
        "there are spec.rollout.steps",
    )


def test_one_that_does_not_load_is_taken_back() -> None:
    world = canary()
    world.live(2)[0].trouble = {"load_error": "LoadFailed: no such layer"}
    world.settle()
    assert (pods(world), world.status.reason) == ((4, 0), "ModelLoadFailed")


def test_a_pod_that_is_lost_in_a_long_pause_is_not_late_at_once() -> None:
    world = canary(progressDeadlineSeconds=600)
    world.load(1, 2)
    ask(world, "pause")
    world.wait(599)
    world.settle()
    world.check = lambda: None
    world.live(2)[0].ready = False
    world.settle()
    world.wait(599)
    world.settle()
    assert world.status.phase == "RollingOut"
    world.wait(1)
    world.settle()
    assert world.status.reason == "RolloutDeadlineExceeded"


def test_scaled_to_zero_in_the_middle_it_stands_still() -> None:
    world = canary()
    world.load(1, 2)
    world.check = lambda: None
    world.edit(replicas=0)
    assert world.settle().requeue_after is None, "no time runs"
    world.wait(1e5)
    world.settle()
    assert (world.live(), change(world)[0], world.status.version) == ([], 1, "1")
    world.edit(replicas=4)
    world.settle()
    assert len(world.live(1)) == 4
    assert len(world.live(2)) == 1


def test_without_pods_there_is_nothing_to_go_through() -> None:
    world = serving(1, replicas=0, rollout={"steps": STEPS})
    world.publish(2)
    world.settle()
    assert (world.status.phase, world.status.version) == ("ScaledToZero", "2")


def test_where_nothing_is_left_of_the_stable_one_the_candidate_takes_over() -> None:
    world = canary()
    world.load(1, 2)
    world.check = lambda: None
    gone = next(name for name, found in world.deployments.items() if found.revision == world.revision(1))
    world.pods = [pod for pod in world.pods if pod.revision != world.deployments.pop(gone, None)] and world.live(2)
    del world.versions[1]
    world.roll_out()
    assert (len(world.live(2)), world.status.version) == (4, "2")


def test_pods_of_another_template_are_compared_with_those_that_are_there_and_not_with_new_ones_of_it() -> None:
    world = serving(1, replicas=2, rollout={"strategy": "Canary", "steps": STEPS})
    world.edit(template={"spec": {"nodeSelector": {"gpu": "h100"}}})
    world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.strategy == "Canary"
    (old,) = (name for name, found in world.deployments.items() if found.model_version and found.wanted == 2)
    del world.deployments[old]
    world.settle()
    assert world.status.rollout is not None
    assert (world.status.rollout.strategy, world.status.rollout.strategy_reason) == (
        "Surge",
        "nothing is left of what was served, so no part of the requests can stay with it",
    )
    assert old not in world.deployments


def test_scaled_to_zero_at_the_last_weight_it_stands_still() -> None:
    world = canary()
    world.check = lambda: None
    world.edit(rollout={"strategy": "Canary", "steps": [{"weight": 100}]})
    world.settle()
    world.bury()
    world.load(1, 2)
    world.edit(replicas=0)
    world.settle()
    assert (world.status.version, world.settle().requeue_after) == ("1", None)


def test_a_pod_that_somebody_took_away_while_the_operator_was_away_is_not_late() -> None:
    world = canary()
    world.check = lambda: None
    name = next(name for name, found in world.deployments.items() if found.revision == world.revision(2))
    world.deployments[name].wanted = 0
    world.pods = world.live(1)
    world.wait(1800)
    decision = world.step()
    assert (decision.urgent, decision.requeue_after, decision.writes) == (True, 0, ())
    world.settle()
    assert (world.status.phase, len(world.live(2))) == ("RollingOut", 1)


def test_the_stable_one_is_made_again_in_the_middle() -> None:
    world = canary()
    world.load(1, 2)
    world.check = lambda: None
    world.deployments = {name: each for name, each in world.deployments.items() if each.revision == world.revision(2)}
    world.pods = world.live(2)
    world.settle()
    world.load(4, 1)
    assert pods(world) == (3, 1)


def test_another_operator_goes_on_where_the_one_before_was() -> None:
    world = canary()
    world.load(1, 2)
    found = resume(PARSED, world.status.rollout, world.revision(2))
    assert found == Walk(PARSED, 1, NOW)
    assert resume(PARSED[:4], world.status.rollout, world.revision(2)) is None
    assert resume(PARSED, world.status.rollout, world.revision(1)) is None
    assert resume(PARSED, None, world.revision(2)) is None
    assert world.status.rollout is not None
    others: list[dict[str, Any]] = [{"phase": "Failed"}, {"step": None}, {"step_time": None}, {"steps_hash": None}]
    for other in others:
        assert resume(PARSED, world.status.rollout.model_copy(update=other), world.revision(2)) is None
    assert begin(PARSED, NOW) == Walk(PARSED, 0, NOW)


def test_nothing_is_removed_before_it_is_known() -> None:
    """A step is left by a status alone; what it means for pods comes after."""
    world = canary()
    for pod in world.live(2):
        pod.ready = True
    decision = world.step()
    assert decision.urgent
    assert not decision.writes
    assert not removed(decision)


def test_the_status_of_a_pool_without_requests_is_as_it_was() -> None:
    assert World(pool()).step().status.requests is None


def test_a_version_that_gets_copies_answers_no_request() -> None:
    copying = (RolloutStep(mirror=40), RolloutStep(pause_seconds=60))
    assert [Walk(copying, at, NOW).weight for at in range(3)] == [0, 0, 100]
    assert [Walk(copying, at, NOW).part for at in range(3)] == [40, 40, 100]

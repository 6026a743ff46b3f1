"""A Shadow: pods that get copies of requests, are compared, and answer nobody; then the pool goes over by others."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api import names
from aifactory.api.inferencepool import Measured
from aifactory.serving import gateway, network, traffic
from aifactory.serving.measure import Measurement
from tests.unit.plans import removed
from tests.unit.serving.builders import NOW, World, conditions, guard, message, pool, serving
from tests.unit.serving.test_decisions import decide
from tests.unit.serving.test_steps import ask

STEPS: list[dict[str, Any]] = [{"mirror": 40}, {"analyzeSeconds": 60}, {"pause": {}}]
ANALYSIS = {"metrics": [{"name": "errorRate", "max": "0.05"}], "minSamples": 100}
ROLLOUT = {"strategy": "Shadow", "steps": STEPS, "analysis": ANALYSIS}
SMALL = {"size_bytes": 1 << 20}
"""So that pods have room for two."""


def shadow(replicas: int = 4, *, size: dict[str, int] = SMALL, **spec: Any) -> World:
    """Version 2 is there; a Shadow has begun, behind a gateway."""
    world = World(pool(replicas=replicas, gateway={"mode": "Envoy"}, rollout={**ROLLOUT, **spec}))
    world.publish(1, **size)
    world.roll_out()
    world.proxies(2)
    assert world.status.phase == ("Serving" if replicas else "ScaledToZero")
    guard(world)
    world.publish(2, **size)
    world.settle()
    return world


def load_copies(world: World) -> None:
    for pod in world.shadows():
        pod.ready = True
    world.settle()


def routes(world: World) -> list[dict[str, Any]]:
    (table,) = json.loads(world.files["routes-openai.json"])["resources"]
    found: list[dict[str, Any]] = [each["route"] for each in table["virtual_hosts"][0]["routes"] if "route" in each]
    return found


def mirrored(world: World) -> list[tuple[str, int]]:
    policies = [policy for route in routes(world) for policy in route.get("request_mirror_policies", ())]
    return [(each["cluster"], each["runtime_fraction"]["default_value"]["numerator"]) for each in policies]


def measured(world: World, failures: int, requests: int = 200) -> None:
    change = world.status.rollout
    assert change is not None
    assert change.window is not None
    candidate, stable = Measured(requests=requests - failures, failures=failures), Measured(requests=requests)
    world.measured = Measurement(change.revision, change.window.since, candidate, stable)


def change(world: World) -> tuple[Any, ...]:
    found = world.status.rollout
    assert found is not None
    return found.strategy, found.step, found.mirror, found.weight


def test_pods_for_the_copies_come_beside_those_that_answer() -> None:
    world = shadow()
    assert (change(world), len(world.shadows()), len(world.live())) == (("Shadow", 0, 40, None), 2, 6)
    assert message(world.status) == "tiny-v2: step 1 of 3, mirror 40: 0 of 2 pods are ready; 4 pods of tiny-v1 answer"
    load_copies(world)
    assert message(world.status) == (
        "tiny-v2: step 2 of 3, mirror 40: 2 of 2 pods are ready; 4 pods of tiny-v1 answer; "
        "it is compared until 2026-01-01T12:01:00Z"
    )
    found = world.status
    assert (found.replicas, found.ready_replicas, found.summary) == (4, 4, "4/4"), "who counts pods counts those"
    assert (found.rollout and found.rollout.summary) == "2: copies of 40%"
    assert (found.candidate and (found.candidate.version, found.candidate.ready_replicas)) == (2, 2)


def test_nobody_is_led_to_pods_that_get_copies() -> None:
    """Neither by the pool's Service, nor by a header, nor where nothing else is ready."""
    world = shadow()
    load_copies(world)
    name = traffic.shadow_pods(world.revision(2))
    assert mirrored(world) == [(f"{name}-openai", 40)]
    assert all(name not in json.dumps({**each, "request_mirror_policies": ()}) for each in routes(world))
    assert routes(world)[-1]["cluster"] == "pods-openai"
    clusters = {each["name"]: each for each in json.loads(world.files["clusters.json"])["resources"]}
    (limits,) = clusters[f"{name}-http"]["circuit_breakers"]["thresholds"]
    assert limits == {"max_connections": 64, "max_pending_requests": 64, "max_requests": 64, "max_retries": 0}
    services = [each.name for each in world.gateway.services]
    assert len(services) == 3, "all that answer, the set of version 1, and what gets copies"
    world.check = lambda: None
    for pod in world.live(1):
        pod.ready = False
    world.settle()
    assert conditions(world.status)["Available"][0] == "False"
    assert traffic.weights(world.pool, world.observed().revisions) == ()


def test_pods_of_both_are_told_apart_by_their_labels() -> None:
    world = shadow()
    roles = {each.revision: each.role for each in world.deployments.values()}
    assert roles == {world.revision(1): "serve", traffic.shadow_pods(world.revision(2)): "shadow"}


def test_one_that_is_as_good_waits_for_its_promotion_and_is_swapped_in() -> None:
    world = shadow()
    load_copies(world)
    measured(world, failures=0)
    world.wait(60)
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "WaitingForPromotion")
    world.wait(1e6)
    assert not world.settle().writes
    ask(world, "promote")
    found = world.status.rollout
    assert found is not None
    assert (found.strategy, found.mirror, world.shadows()) == ("HotSwap", None, [])
    assert found.strategy_reason == "its Shadow is over; only the version differs, and the pods have room for both"
    assert [each.outcome for each in found.analysis or ()] == ["Passed"]
    assert mirrored(world) == []
    world.change_over(4)
    assert (world.status.phase, world.status.version, len(world.deployments)) == ("Serving", "2", 1)
    assert world.status.rollout is not None
    assert [each.outcome for each in world.status.rollout.analysis or ()] == ["Passed"]
    assert len(world.gateway.services) == 2


def test_what_the_last_comparison_has_found_is_kept() -> None:
    world = shadow(steps=[{"mirror": 40}, {"analyzeSeconds": 60}])
    load_copies(world)
    measured(world, failures=1)
    world.wait(60)
    world.settle()
    world.change_over(4)
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert world.status.rollout is not None
    assert [each.candidate for each in world.status.rollout.analysis or ()] == ["0.005"]


@pytest.mark.parametrize("replicas", [1, 3])
def test_by_new_pods_where_those_that_run_have_no_room(replicas: int) -> None:
    world = shadow(replicas, size={}, steps=[{"mirror": 1}])
    assert len(world.shadows()) == 1
    load_copies(world)
    assert change(world) == ("Surge", None, None, None)
    assert [pod.revision for pod in world.live() if not pod.ready] == [world.revision(2)], "one more at a time"
    world.roll_out()
    assert (world.status.phase, world.status.version, len(world.deployments)) == ("Serving", "2", 1)
    assert len(world.live(2)) == replicas


def test_one_that_fails_is_taken_back_with_what_was_found() -> None:
    world = shadow()
    load_copies(world)
    measured(world, failures=50)
    world.settle()
    found = world.status.rollout
    assert found is not None
    assert (world.status.phase, world.status.reason, found.phase) == ("Degraded", "AnalysisFailed", "Failed")
    (finding,) = found.analysis or ()
    assert (finding.candidate, finding.bound, finding.samples, finding.stable_samples) == ("0.25", "0.05", 200, 200)
    assert (world.shadows(), mirrored(world), len(world.deployments), len(world.configs)) == ([], [], 1, 1)
    world.bury()
    ask(world, "retry")
    assert change(world)[:3] == ("Shadow", 0, 40)


def test_with_too_few_requests_nothing_is_decided() -> None:
    world = shadow()
    load_copies(world)
    measured(world, failures=9, requests=10)
    world.wait(1e5)
    world.settle()
    assert conditions(world.status)["AnalysisInconclusive"][0] == "True"
    assert change(world) == ("Shadow", 1, 40, None)


def test_one_that_does_not_load_is_taken_back() -> None:
    world = shadow()
    world.shadows()[0].trouble = {"load_error": "LoadFailed: no such layer"}
    world.settle()
    assert (world.shadows(), world.status.phase, world.status.reason) == ([], "Degraded", "ModelLoadFailed")


def test_an_abort_a_pause_and_a_resume() -> None:
    world = shadow(steps=[{"mirror": 40}, {"pauseSeconds": 60}])
    load_copies(world)
    ask(world, "pause")
    world.wait(1e5)
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "RolloutPaused")
    assert len(mirrored(world)) == 1
    ask(world, "resume")
    assert change(world)[:2] == ("Shadow", 1)
    ask(world, "abort")
    assert (world.status.reason, world.shadows(), mirrored(world)) == ("RolloutAborted", [], [])


def test_the_wish_returns_in_the_middle() -> None:
    world = shadow()
    load_copies(world)
    world.pin(1)
    world.settle()
    assert (world.status.phase, world.status.version, len(world.live())) == ("Serving", "1", 4)
    assert (mirrored(world), len(world.configs)) == ([], 1)


def test_another_version_in_the_middle_begins_anew() -> None:
    world = shadow()
    load_copies(world)
    world.publish(3, **SMALL)
    world.settle()
    assert {pod.revision for pod in world.shadows()} == {traffic.shadow_pods(world.revision(3))}
    assert change(world)[:2] == ("Shadow", 0)


@pytest.mark.parametrize("rollout", [{}, {"strategy": "Surge"}, {"strategy": "Canary", "steps": [{"weight": 30}]}])
def test_another_strategy_in_the_middle(rollout: dict[str, Any]) -> None:
    world = shadow(size={})
    load_copies(world)
    world.edit(rollout=rollout)
    world.settle()
    assert (world.shadows(), change(world)[0]) == ([], rollout.get("strategy", "Surge"))
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_nothing_is_copied_before_there_is_a_gateway() -> None:
    world = serving(1, replicas=2)
    world.edit(gateway={"mode": "Envoy"}, rollout={"strategy": "Shadow", "steps": [{"mirror": 100}, {"pause": {}}]})
    world.publish(2)
    world.settle()
    load_copies(world)
    assert change(world)[:2] == ("Shadow", 0)
    assert "nothing is copied before the Service leads to the gateway" in message(world.status)
    world.proxies(2)
    assert change(world)[:2] == ("Shadow", 1)


def test_a_pool_without_pods_just_has_the_version() -> None:
    world = shadow(0)
    assert (world.status.phase, world.status.version, world.shadows()) == ("ScaledToZero", "2", [])


def test_scaled_in_the_middle() -> None:
    world = shadow()
    load_copies(world)
    world.check = lambda: None
    world.edit(replicas=10)
    world.settle()
    assert (len(world.shadows()), len(world.live(1))) == (4, 10)
    world.edit(replicas=0)
    world.settle()
    assert (world.live(), change(world)[:2]) == ([], ("Shadow", 1)), "it stands still"


def test_pods_that_get_copies_are_for_the_gateway_and_who_watches() -> None:
    own = network.Network(enabled=True, operator=({"podSelector": {}},))
    kept = {"openai": False, "proxies": True, "direct": True}
    made = {each["metadata"]["name"]: each["spec"] for each in network.policies(pool(), own, shadow=True, **kept)}
    assert list(made) == ["chat-serving", "chat-shadow", "chat-gateway"]
    assert made["chat-shadow"]["podSelector"]["matchLabels"][names.LABEL_ROLE] == "shadow"
    first, *_ = made["chat-shadow"]["ingress"]
    assert first["from"][0]["podSelector"]["matchLabels"][names.LABEL_ROLE] == "gateway"
    assert len(made["chat-shadow"]["ingress"]) == 2
    assert made["chat-shadow"]["ingress"] == made["chat-serving"]["ingress"][1:]


def test_the_policy_is_there_before_the_pods() -> None:
    rollout = {"strategy": "Shadow", "steps": [{"mirror": 10}]}
    made = pool(gateway={"mode": "Envoy"}, rollout=rollout, security={"networkPolicy": True})
    world = World(made)
    world.publish(1)
    world.roll_out()
    assert "chat-shadow" in world.policies
    world.edit(rollout={"strategy": "Surge"})
    world.settle()
    assert "chat-shadow" not in world.policies


def test_what_began_to_go_over_goes_on() -> None:
    world = shadow(size={}, steps=[{"mirror": 10}])
    load_copies(world)
    world.edit(rollout={"strategy": "Shadow", "steps": [{"mirror": 20}, {"pause": {}}]})
    world.settle()
    assert change(world)[0] == "Surge"
    assert world.status.rollout is not None
    assert world.status.rollout.progress_time is not None
    assert world.status.rollout.progress_time - NOW < timedelta(seconds=1)


def asked(world: World, name: str) -> World:
    """Somebody asks for something, and nothing is decided yet."""
    meta = world.pool.metadata.model_copy(update={"annotations": {f"aifactory.dev/{name}": "now"}})
    world.pool = world.pool.model_copy(update={"metadata": meta})
    return world


def test_it_is_not_tried_again_while_pods_of_the_first_try_are_left() -> None:
    world = shadow()
    load_copies(world)
    measured(world, failures=50)
    (copies,) = world.observed().shadows
    world.settle()
    plan = decide(asked(world, "retry"), shadows=(replace(copies, terminating=True),))
    assert plan.status.rollout is not None
    assert plan.status.rollout.phase == "Failed"
    world.settle()
    assert change(world)[:2] == ("Shadow", 0)


def test_that_it_is_over_is_written_before_any_pod_goes_over() -> None:
    world = shadow()
    load_copies(world)
    measured(world, failures=0)
    world.wait(60)
    world.settle()
    world.now += timedelta(microseconds=7)
    decision = asked(world, "promote").step()
    assert (decision.writes, decision.urgent, decision.requeue_after) == ((), True, 0)
    found, candidate = world.status.rollout, world.status.candidate
    assert found is not None
    assert (found.strategy, found.most_ready, found.progress_time) == ("HotSwap", 0, NOW + timedelta(seconds=60))
    assert candidate is not None
    assert candidate.deployment == f"chat-{world.revision(1)}", "in the pods that run"


def test_copies_on_their_way_out_are_left_alone() -> None:
    world = shadow()
    load_copies(world)
    (copies,) = world.observed().shadows
    assert [write.name for write in decide(world, shadows=(replace(copies, wanted=7),)).writes] == [copies.child.name]
    going = replace(copies, terminating=True, wanted=7)
    assert copies.child.name not in [write.name for write in decide(world, shadows=(going,)).writes]
    assert removed(decide(serving(1), shadows=(going,))) == []


def test_the_policy_stays_as_long_as_there_are_copies() -> None:
    world = shadow(size={})
    world.edit(security={"networkPolicy": True})
    world.settle()
    world.edit(rollout={"strategy": "Surge"})
    assert "NetworkPolicy chat-shadow" not in removed(world.step())
    assert world.shadows() == []
    world.settle()
    assert "chat-shadow" not in world.policies


@pytest.mark.parametrize("other", [{}, {"phase": "Failed"}, {"strategy": "Surge"}, {"mirror": None}])
@pytest.mark.parametrize("going", [False, True])
def test_requests_are_copied_while_a_shadow_is_under_way(other: dict[str, Any], going: bool) -> None:
    world = shadow()
    load_copies(world)
    assert world.status.rollout is not None
    status = world.status.model_copy(update={"rollout": world.status.rollout.model_copy(update=other)})
    changed = world.pool.model_copy(update={"status": status})
    shadows = tuple(replace(view, terminating=going) for view in world.observed().shadows)
    found = gateway.routes(replace(world.observed(), pool=changed, shadows=shadows)).mirror
    assert (found is not None) == (not other and not going)


def test_what_keeps_the_pods_away_is_told_before_what_keeps_requests_from_them() -> None:
    world = serving(1, replicas=2)
    world.edit(gateway={"mode": "Envoy"}, rollout={"strategy": "Shadow", "steps": [{"mirror": 100}, {"pause": {}}]})
    world.publish(2)
    world.settle()
    told = "tiny-v2: step 1 of 2, mirror 100: 0 of 2 pods are ready; 2 pods of tiny-v1 answer; "
    assert message(world.status) == f"{told}nothing is copied before the Service leads to the gateway"
    world.shadows()[0].trouble = {"unschedulable": "no node has a GPU left"}
    world.settle()
    assert message(world.status).startswith(told)
    assert "no node has a GPU left" in message(world.status)
    assert "nothing is copied" not in message(world.status)

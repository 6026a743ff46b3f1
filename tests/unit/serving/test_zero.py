"""A pool that goes to zero when nobody asks, and comes back for the first request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aifactory.api.base import format_time
from aifactory.api.inferencepool import ScalingStatus
from aifactory.engine.apply import Applied
from aifactory.serving import envoy, gateway, holding, scaling
from aifactory.serving.autoscale import look
from aifactory.serving.demand import Demand
from aifactory.serving.holding import Held
from aifactory.serving.state import Observed, RevisionView
from tests.unit.serving.builders import NOW, SETTINGS, World, conditions, message, pool
from tests.unit.serving.test_gateway import ENVOY, ready
from tests.unit.serving.test_steps import ask

IN_FLIGHT = [{"name": "inFlightRequests", "target": "4"}]


def spec(**changes: Any) -> dict[str, Any]:
    return {"minReplicas": 0, "maxReplicas": 3, "metrics": IN_FLIGHT, "idleSeconds": 60, **changes}


def demand(in_flight: float = 0.0, *, idle: bool = True, complete: bool = True) -> Demand:
    return Demand(in_flight, 0.0, in_flight, 0.0, complete, idle=idle)


def awake(**changes: Any) -> World:
    """A pool that serves with one pod, which was asked a moment ago."""
    world = ready(replicas=1, autoscaling=spec(**changes))
    world.demand = demand(1.0, idle=False)
    world.settle()
    assert len(world.live()) == 1
    return world


def asleep(**changes: Any) -> World:
    """The same after nobody has asked for long."""
    world = awake(**changes)
    world.demand = demand()
    for _ in range(5):
        world.settle()
        world.wait(15)
    assert scaling.wanted(world.pool) == 0
    world.bury()
    world.demand = None
    world.settle()
    return world


def changes(world: World) -> list[tuple[int, int, str]]:
    assert world.status.scaling is not None
    return [(each.before, each.to, each.metric) for each in world.status.scaling.decisions or ()]


def test_the_last_pod_goes_when_nobody_has_asked_for_a_while() -> None:
    world = awake()
    world.demand = demand()
    world.settle()
    assert world.status.scaling is not None
    assert world.status.scaling.summary == "1 of 0-3, soon 0"
    for _ in range(3):
        world.wait(15)
        world.settle()
    world.wait(14)
    world.settle()
    assert len(world.live()) == 1
    world.wait(1)
    world.settle()
    assert world.live() == []
    assert world.events[-1] == "Scaled: from 1 to 0 pods, by autoscaling.idleSeconds"
    assert conditions(world.status)["Ready"] == ("True", "ScaledToZero")
    assert message(world.status).startswith("nobody asks, so there is no pod; requests wait in the gateway")
    assert world.status.summary == "0/0"
    assert world.gateway.ready == 2, "the proxies stay"


def test_whoever_asks_meanwhile_has_it_begin_anew() -> None:
    world = awake()
    world.demand = demand()
    world.settle()
    world.wait(50)
    world.demand = demand(1.0, idle=False)
    world.settle()
    assert world.status.scaling is not None
    assert world.status.scaling.pending is None
    world.demand = demand()
    world.settle()
    world.wait(59)
    world.settle()
    assert len(world.live()) == 1


def test_what_has_come_in_the_last_moment_is_waited_for() -> None:
    world = awake()
    world.demand = demand()
    world.settle()
    world.wait(60)
    world.demand = demand(1.0)
    assert world.settle().requeue_after == 5.0
    assert len(world.live()) == 1
    world.demand = demand(0.2)
    world.settle()
    assert world.live() == []


@pytest.mark.parametrize(
    "found", [None, demand(complete=False), demand(idle=False)], ids=["nothing", "a part", "asked"]
)
def test_what_is_not_known_or_is_asked_keeps_the_pod(found: Demand | None) -> None:
    world = awake()
    world.demand = found
    for _ in range(9):
        world.settle()
        world.wait(60)
    assert len(world.live()) == 1


def test_what_was_known_of_the_pod_that_went_takes_no_other_away() -> None:
    world = asleep()
    world.held, world.demand = Held(1), demand()
    for _ in range(9):
        world.settle()
        world.wait(60)
    assert scaling.wanted(world.pool) == 1, "it starts yet"


def test_several_pods_go_as_always_and_the_last_one_by_its_own_field() -> None:
    world = awake(stabilizationSeconds=0)
    world.demand = demand(12.0, idle=False)
    world.settle()
    world.load(2)
    world.demand = demand()
    world.settle()
    assert len(world.live()) == 1
    world.wait(60)
    world.settle()
    assert world.live() == []
    assert changes(world) == [(1, 0, "idleSeconds"), (3, 1, "inFlightRequests"), (1, 3, "inFlightRequests")]


def test_no_pod_is_taken_from_a_change_of_version() -> None:
    """It would be complete without anybody having seen the new version serve."""
    world = awake()
    world.edit(rollout={"strategy": "Surge"})
    world.publish(2)
    world.demand = demand()
    for _ in range(9):
        world.settle()
        world.wait(60)
    assert scaling.wanted(world.pool) == 1
    world.roll_out()
    assert world.status.version == "2"
    world.wait(60)
    world.settle()
    assert scaling.wanted(world.pool) == 0


def test_a_version_that_was_taken_back_keeps_a_pod() -> None:
    world = awake()
    world.edit(rollout={"strategy": "Surge"})
    world.publish(2)
    world.settle()
    ask(world, "abort")
    world.demand = demand()
    for _ in range(5):
        world.settle()
        world.wait(60)
    assert world.status.rollout is not None
    assert world.status.rollout.phase == "Failed"
    assert scaling.wanted(world.pool) == 1


@pytest.mark.parametrize(
    ("waiting", "more", "pods"),
    [
        pytest.param(1, {}, 1, id="one"),
        pytest.param(9, {}, 3, id="as many as they ask for"),
        pytest.param(100, {}, 3, id="not more than may be"),
        pytest.param(100, {"scaleUpStabilizationSeconds": 30}, 1, id="one, as more are waited for"),
        pytest.param(
            100, {"metrics": [{"name": "tokensPerSecond", "target": "9"}]}, 1, id="one, of which nothing is known"
        ),
    ],
)
def test_requests_that_wait_start_pods(waiting: int, more: dict[str, Any], pods: int) -> None:
    world = asleep(**more)
    world.held = Held(0)
    assert world.settle().requeue_after is None
    assert scaling.wanted(world.pool) == 0
    world.held = Held(waiting)
    decision = world.step()
    assert (decision.writes, decision.urgent, decision.requeue_after) == ((), True, 0), "it is written first"
    told = "a request waits" if waiting == 1 else f"{waiting} requests wait"
    assert world.events[-1] == f"Scaled: from 0 to {pods} pods: {told} for a pod"
    world.held = None
    world.settle()
    assert len(world.live()) == pods
    assert conditions(world.status)["Ready"][0] == "False"
    assert conditions(world.status)["Degraded"][0] == "False"
    assert world.gateway.ready == 2
    world.load(pods)
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_how_the_first_pod_came_is_told_in_parts() -> None:
    world = asleep()
    began = format_time(world.now)
    world.held = Held(1)
    world.step()
    world.held = None
    world.step()
    (pod,) = world.live()

    def told(after: float) -> dict[str, int]:
        world.wait(after)
        world.settle()
        assert world.status.scaling is not None
        assert world.status.scaling.cold_start is not None
        found = world.status.scaling.cold_start.dump()
        assert found.pop("time") == began
        return found

    pod.trouble = {"node": ""}
    assert told(1) == {}
    pod.trouble = {"node": "node-a"}
    assert told(1) == {"scheduledSeconds": 2}
    pod.trouble = {"node": "node-a", "running": True}
    assert told(3) == {"scheduledSeconds": 2, "startedSeconds": 5}
    pod.ready = True
    whole = {"scheduledSeconds": 2, "startedSeconds": 5, "readySeconds": 7}
    assert told(2) == whole
    pod.ready = False
    assert told(60) == whole, "what comes later is none of it"


def test_a_pod_that_is_there_at_once_has_all_parts_in_one() -> None:
    world = asleep()
    world.held = Held(1)
    world.settle()
    world.wait(4)
    world.load(1)
    assert world.status.scaling is not None
    assert world.status.scaling.cold_start is not None
    assert world.status.scaling.cold_start.ready_seconds == 4


def test_proxies_that_do_not_answer_are_told() -> None:
    world = asleep()
    for held, words in (
        (Held(0, silent=1), "1 proxy does not answer when asked whether a request waits for a pod"),
        (None, "1 proxy does not answer when asked whether a request waits for a pod"),
        (Held(0, silent=2), "2 proxies do not answer when asked whether a request waits for a pod"),
        (Held(0), None),
    ):
        world.held = held
        world.settle()
        assert world.status.scaling is not None
        assert world.status.scaling.message == words


def test_a_schedule_starts_pods_and_ends() -> None:
    at_noon = {"cron": "0 13 * * *", "durationSeconds": 600, "minReplicas": 2}
    world = asleep(schedules=[at_noon])
    world.wait(3600)
    world.settle()
    world.load(2)
    assert len(world.live()) == 2
    world.demand = demand()
    world.wait(600)
    for _ in range(30):
        world.settle()
        world.wait(30)
    assert world.live() == []
    assert [each[:2] for each in changes(world)[:3]] == [(1, 0), (2, 1), (0, 2)]


def test_a_limit_of_one_starts_it() -> None:
    world = asleep()
    world.edit(autoscaling=spec(minReplicas=1, idleSeconds=None))
    world.settle()
    assert scaling.wanted(world.pool) == 1


def test_it_begins_with_a_pod() -> None:
    assert scaling.wanted(pool(replicas=1, autoscaling=spec(), gateway=ENVOY)) == 1
    assert scaling.wanted(pool(replicas=0, autoscaling=spec(), gateway=ENVOY)) == 0


def test_without_proxies_nobody_would_start_it() -> None:
    """The API server refuses it; so does what reads an object that it has let pass."""
    status = {"scaling": ScalingStatus(replicas=0).dump()}
    assert scaling.wanted(pool(replicas=0, autoscaling=spec(), status=status)) == 1


def test_the_proxies_hold_and_are_ready_without_a_pod() -> None:
    world = awake(holdSeconds=7, maxHeldRequests=9)
    before = world.files
    assert gateway.routes(world.observed()).hold == holding.Hold(9, 7)
    listeners = {each["name"]: each for each in json.loads(before["listeners.json"])["resources"]}
    assert listeners["hold"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": holding.PORT}
    clusters = {each["name"]: each for each in json.loads(before["clusters.json"])["resources"]}
    assert clusters["hold"]["circuit_breakers"]["thresholds"][0]["max_requests"] == 9
    world.demand = demand()
    world.settle()
    world.wait(60)
    world.settle()
    assert scaling.wanted(world.pool) == 0
    assert world.files == before, "nobody has to tell the proxies"
    status = listeners["status"]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0]["typed_config"]
    assert status["cluster_min_healthy_percentages"] == {}


@pytest.mark.parametrize(("sets", "looks"), [(1, ["a-grpc", "pods-grpc"]), (2, ["pods-grpc"])])
def test_a_set_by_itself_is_waited_for_too(sets: int, looks: list[str]) -> None:
    found = tuple(envoy.Pods(name, f"chat-{name}", (1,)) for name in "ab"[:sets])
    routes = envoy.Routes("chat", "tiny", False, envoy.Pods("pods", "chat-pods"), found, hold=holding.Hold())
    (listener,) = (
        each for each in json.loads(envoy.files(routes)["listeners.json"])["resources"] if each["name"] == "hold"
    )
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    assert list(filters[1]["typed_config"]["cluster_min_healthy_percentages"]) == looks
    other = envoy.files(replace(routes, hold=None))
    assert not any('"hold"' in text for text in other.values())


@pytest.mark.parametrize(
    "page", [b"", b"x", b"cluster.hold.upstream_rq_active: ", b"cluster.hold.upstream_rq_active: -1"]
)
def test_a_page_that_does_not_tell(page: bytes) -> None:
    assert holding.read(b"cluster.hold.upstream_rq_active: 12\n") == 12
    with pytest.raises(ValueError, match="does not tell"):
        holding.read(page)


def test_what_stands_in_the_status_while_nobody_asks() -> None:
    world = asleep(schedules=[{"cron": "0 13 * * *", "durationSeconds": 600, "minReplicas": 2}])
    assert world.settle().requeue_after == 3600 - (world.now - NOW).total_seconds(), "until the schedule begins"
    assert world.status.scaling is not None
    assert world.status.scaling.summary == "0 of 0-3"
    assert message(world.status) == (
        "nobody asks, so there is no pod; requests wait in the gateway, and the first one starts a pod"
    )
    world.held = Held(2)
    world.step()
    assert world.events[-1] == "Scaled: from 0 to 1 pods: 2 requests wait for a pod"
    assert changes(world)[0] == (0, 1, "heldRequests")


def test_a_little_more_than_a_pods_target_starts_one_pod() -> None:
    world = asleep(metrics=[{"name": "inFlightRequests", "target": "20"}])
    world.held = Held(21)
    world.step()
    assert scaling.wanted(world.pool) == 1


def test_a_pod_that_is_ready_was_scheduled_and_started() -> None:
    world = asleep()
    world.held = Held(1)
    world.step()
    world.step()
    (pod,) = world.live()
    pod.trouble, pod.ready = {"node": ""}, True
    world.wait(4)
    world.settle()
    assert world.status.scaling is not None
    assert world.status.scaling.cold_start is not None
    assert world.status.scaling.cold_start.dump() | {"time": ""} == {
        "time": "",
        "scheduledSeconds": 4,
        "startedSeconds": 4,
        "readySeconds": 4,
    }


@pytest.mark.parametrize(("ready", "more", "waits"), [(1, (), True), (1, (0,), True), (0, (), False), (0, (0,), False)])
def test_one_pod_that_answers_is_enough_to_know_that_nobody_asks(
    ready: int, more: tuple[int, ...], waits: bool
) -> None:
    world = awake()
    world.demand = demand()
    (view,) = world.observed().revisions
    others = (RevisionView(Applied("old", "uid"), "old", 0, ready=each) for each in more)
    found = look(replace(world.observed(), revisions=(replace(view, ready=ready), *others)), world.now)
    assert found.status is not None
    assert (found.status.pending is not None) == waits


def test_before_the_first_version_nothing_is_waited_for() -> None:
    world = World(pool(replicas=1, autoscaling=spec(), gateway=ENVOY))
    world.demand = demand()
    world.settle()
    assert world.status.rollout is None
    assert world.status.scaling is not None
    assert world.status.scaling.pending is None


def test_half_a_request_is_one() -> None:
    world = awake()
    world.demand = demand()
    world.settle()
    world.wait(60)
    world.demand = demand(0.5)
    world.settle()
    assert len(world.live()) == 1


def test_who_holds_requests_and_how_many() -> None:
    def hold(**changes: Any) -> holding.Hold | None:
        return gateway.routes(Observed(pool(autoscaling=spec(**changes), gateway=ENVOY), SETTINGS)).hold

    assert hold() == holding.Hold(holding.DEFAULT_REQUESTS, holding.DEFAULT_SECONDS)
    assert hold(minReplicas=1, idleSeconds=None) is None

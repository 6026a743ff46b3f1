"""A candidate beside the stable version: what is computed, what decides, and what a Canary makes of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.inferencepool import Analysis, AnalysisWindow, Measured
from aifactory.serving.analysis import Outcome, look
from aifactory.serving.measure import Measurement
from tests.unit.serving.builders import NOW, World, conditions, guard, message, serving
from tests.unit.serving.test_steps import ask, pods

OVER = NOW + timedelta(seconds=60)


def spec(*metrics: dict[str, Any], **more: Any) -> Analysis:
    return Analysis.model_validate({"metrics": metrics, "minSamples": 100, **more})


def measured(
    requests: int = 0, failures: int = 0, *, seconds: float = 0.0, first: float = 0.0, speed: int = 0
) -> Measured:
    """`seconds` a request takes, `first` until its first token, and tokens a second after it, of which ten come."""
    return Measured(
        requests=requests,
        failures=failures,
        timed=requests if seconds else 0,
        milliseconds=round(1000 * seconds * requests),
        first_tokens=requests if first else 0,
        first_token_milliseconds=round(1000 * first * requests),
        next_tokens=10 * requests if speed else 0,
        next_token_milliseconds=round(10_000 * requests / speed) if speed else 0,
    )


def window(candidate: Measured, stable: Measured, broken: int = 0) -> AnalysisWindow:
    return AnalysisWindow(since=NOW, broken=broken, candidate=candidate, stable=stable)


GOOD, SLOW = measured(1000, seconds=0.1, first=0.02, speed=50), measured(200, seconds=0.3, first=0.06, speed=20)
ERRORS = {"name": "errorRate", "max": "0.01"}
LATENCY = {"name": "latencyMean", "maxRatio": "1.2"}


@pytest.mark.parametrize(
    ("metric", "candidate", "stable", "outcome", "told"),
    [
        pytest.param(
            ERRORS,
            measured(95, 5),
            measured(1000),
            "Failed",
            "errorRate: 0.05 in 100 requests, 0 in 1000 of the stable version; at most 0.01 is allowed",
            id="errors",
        ),
        pytest.param(
            ERRORS, measured(99, 1), measured(), "Passed", "errorRate: 0.01 in 100 requests", id="at the bound"
        ),
        pytest.param(
            ERRORS,
            measured(9, 90),
            measured(1000),
            "Inconclusive",
            "errorRate: the candidate has 99 of 100 requests (minSamples)",
            id="too few, whatever they say",
        ),
        pytest.param(
            LATENCY,
            SLOW,
            GOOD,
            "Failed",
            "latencyMean: 0.3 s in 200 requests with a time, 0.1 s in 1000 of the stable version; at most 0.12 s is "
            "allowed",
            id="slower",
        ),
        pytest.param(
            LATENCY,
            GOOD,
            GOOD,
            "Passed",
            "latencyMean: 0.1 s in 1000 requests with a time, 0.1 s in 1000 of the stable version",
            id="as slow",
        ),
        pytest.param(
            LATENCY,
            SLOW,
            measured(99, seconds=0.1),
            "Inconclusive",
            "latencyMean: the stable version has 99 of 100 requests with a time (minSamples)",
            id="nothing to compare with",
        ),
        pytest.param(
            {"name": "latencyMean", "maxRatio": "1.2", "max": "0.2"},
            SLOW,
            measured(),
            "Failed",
            "latencyMean: 0.3 s in 200 requests with a time; at most 0.2 s is allowed",
            id="too slow for anybody",
        ),
        pytest.param(
            LATENCY,
            measured(1000),
            GOOD,
            "Inconclusive",
            "latencyMean: the candidate has 0 of 100 requests with a time (minSamples)",
            id="an engine that does not tell",
        ),
        pytest.param(
            {"name": "ttftMean", "maxRatio": "2"},
            SLOW,
            GOOD,
            "Failed",
            "ttftMean: 0.06 s in 200 first tokens, 0.02 s in 1000 of the stable version; at most 0.04 s is allowed",
            id="late first tokens",
        ),
        pytest.param(
            {"name": "tokensPerSecond", "minRatio": "0.9"},
            SLOW,
            GOOD,
            "Failed",
            "tokensPerSecond: 20 in 2000 tokens after a first one, 50 in 10000 of the stable version; at least 45 is "
            "allowed",
            id="slow tokens",
        ),
        pytest.param(
            {"name": "tokensPerSecond", "min": "15"},
            SLOW,
            GOOD,
            "Passed",
            "tokensPerSecond: 20 in 2000 tokens after a first one, 50 in 10000 of the stable version",
            id="tokens fast enough",
        ),
        pytest.param(
            {"name": "tokensPerSecond", "min": "15"},
            Measured(next_tokens=998, next_token_milliseconds=10_000),
            Measured(next_tokens=1),
            "Passed",
            "tokensPerSecond: 99.8 in 998 tokens after a first one",
            id="to three digits, beside one whose tokens took no time",
        ),
        pytest.param(
            {"name": "errorRate", "maxRatio": "2"},
            measured(999, 1),
            measured(1000),
            "Passed",
            "errorRate: 0.001 in 1000 requests, 0 in 1000 of the stable version",
            id="one failure is no infinite ratio",
        ),
        pytest.param(
            {"name": "errorRate", "maxRatio": "2"},
            measured(997, 3),
            measured(1000),
            "Failed",
            "errorRate: 0.003 in 1000 requests, 0 in 1000 of the stable version; at most 0.002 is allowed",
            id="three are",
        ),
    ],
)
def test_a_metric(metric: dict[str, Any], candidate: Measured, stable: Measured, outcome: str, told: str) -> None:
    (found,) = look(spec(metric), window(candidate, stable), 60, OVER).findings
    assert (found.outcome, found.message) == (outcome, told)


@pytest.mark.parametrize(
    ("metric", "candidate", "stable", "outcome", "bound"),
    [
        pytest.param({**LATENCY, "max": "0.2"}, SLOW, GOOD, "Failed", "0.12", id="of two upper bounds the lower one"),
        pytest.param({**LATENCY, "max": "0.05"}, GOOD, GOOD, "Failed", "0.05", id="whichever it is"),
        pytest.param(
            {"name": "tokensPerSecond", "minRatio": "0.9", "min": "10"}, SLOW, GOOD, "Failed", "45", id="the higher one"
        ),
        pytest.param(
            {"name": "tokensPerSecond", "min": "20"}, SLOW, GOOD, "Passed", "20", id="as fast as it has to be"
        ),
        pytest.param(LATENCY, SLOW, measured(100, seconds=0.1), "Failed", "0.12", id="just enough to compare with"),
        pytest.param(LATENCY, GOOD, measured(100, seconds=0.1), "Passed", "0.12", id="just enough, and good"),
    ],
)
def test_a_bound(metric: dict[str, Any], candidate: Measured, stable: Measured, outcome: str, bound: str) -> None:
    (found,) = look(spec(metric), window(candidate, stable), 60, OVER).findings
    assert (found.outcome, found.bound) == (outcome, bound)


def test_what_was_found_is_told_in_figures() -> None:
    (found,) = look(spec(LATENCY), window(SLOW, GOOD), 60, OVER).findings
    assert {**found.dump(), "message": ""} == {
        "metric": "latencyMean",
        "outcome": "Failed",
        "candidate": "0.3",
        "stable": "0.1",
        "bound": "0.12",
        "samples": 200,
        "stableSamples": 1000,
        "message": "",
    }


@pytest.mark.parametrize(("requests", "outcome"), [(199, "Inconclusive"), (200, "Passed")])
def test_two_hundred_are_enough_where_nobody_says_how_many(requests: int, outcome: str) -> None:
    analysis = Analysis.model_validate({"metrics": [ERRORS]})
    (found,) = look(analysis, window(measured(requests), measured()), 60, OVER).findings
    assert found.outcome == outcome


@pytest.mark.parametrize(
    ("candidate", "broken", "limit", "seconds", "outcome"),
    [
        pytest.param(measured(1000), 0, 0, 60, Outcome.PASSED, id="over, and good"),
        pytest.param(measured(1000), 0, 0, 61, Outcome.OPEN, id="good so far"),
        pytest.param(measured(90, 10), 0, 0, 600, Outcome.FAILED, id="bad, and nobody waits for the end"),
        pytest.param(measured(90, 10), 0, 1, 600, Outcome.BROKEN, id="once is allowed"),
        pytest.param(measured(90, 10), 1, 1, 600, Outcome.FAILED, id="once more"),
        pytest.param(measured(), 0, 0, 61, Outcome.OPEN, id="nothing yet"),
        pytest.param(measured(), 0, 0, 60, Outcome.INCONCLUSIVE, id="nothing"),
    ],
)
def test_a_window(candidate: Measured, broken: int, limit: int, seconds: int, outcome: Outcome) -> None:
    analysis = spec(ERRORS, failureLimit=limit)
    assert look(analysis, window(candidate, measured(1000), broken), seconds, OVER).outcome is outcome


STEPS: list[dict[str, Any]] = [{"weight": 25}, {"analyzeSeconds": 60}, {"weight": 100}]


def comparing(**rollout: Any) -> World:
    """A Canary that compares, at its first step with a quarter of the pods."""
    analysis = {"metrics": [ERRORS, LATENCY], "minSamples": 100, **rollout.pop("analysis", {})}
    world = serving(1, replicas=4, rollout={"steps": STEPS, "analysis": analysis, **rollout})
    guard(world)
    world.publish(2)
    world.settle()
    world.load(1, 2)
    assert conditions(world.status)["Reconciling"] == ("True", "Analyzing")
    return world


def count(world: World, candidate: Measured, stable: Measured = GOOD) -> None:
    """The probe has news."""
    change = world.status.rollout
    assert change is not None
    assert change.window is not None
    world.measured = Measurement(change.revision, change.window.since, candidate, stable)
    world.settle()


def test_one_that_does_well_goes_on() -> None:
    world = comparing()
    assert world.settle().requeue_after == 60
    world.wait(15)
    count(world, GOOD)
    assert conditions(world.status)["AnalysisInconclusive"] == ("False", "Analyzing")
    world.wait(45)
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert world.status.rollout is not None
    assert [found.outcome for found in world.status.rollout.analysis or ()] == ["Passed", "Passed"]
    assert "AnalysisInconclusive" not in conditions(world.status)


def test_one_that_is_worse_is_taken_back_with_what_was_found() -> None:
    world = comparing()
    world.wait(15)
    count(world, measured(150, 50, seconds=0.1))
    world.roll_out()
    assert (pods(world), world.status.phase, world.status.reason) == ((4, 0), "Degraded", "AnalysisFailed")
    told = "errorRate: 0.25 in 200 requests, 0 in 1000 of the stable version; at most 0.01 is allowed"
    assert world.events == [f"AnalysisFailed: tiny-v2 is taken back: its analysis failed: {told}"]
    assert told in message(world.status)
    assert world.status.rollout is not None
    found = [(each.metric, each.outcome, each.samples) for each in world.status.rollout.analysis or ()]
    assert found == [("errorRate", "Failed", 200), ("latencyMean", "Passed", 150)]
    world.wait(1e6)
    world.settle()
    assert not world.live(2), "it is not tried again by itself"


def test_where_nothing_is_known_nothing_is_decided() -> None:
    world = comparing()
    world.wait(1e5)
    world.settle()
    assert conditions(world.status)["AnalysisInconclusive"] == ("True", "AnalysisInconclusive")
    assert "the candidate has 0 of 100 requests (minSamples)" in message(world.status)
    assert (pods(world), world.settle().requeue_after) == ((3, 1), None)
    count(world, GOOD)
    world.roll_out()
    assert world.status.version == "2", "as soon as it is"


def test_somebody_may_decide_instead() -> None:
    world = comparing()
    world.wait(60)
    world.settle()
    ask(world, "promote")
    world.roll_out()
    assert world.status.version == "2"


def test_it_may_fail_as_often_as_the_limit_says() -> None:
    world = comparing(analysis={"failureLimit": 1})
    world.wait(15)
    count(world, measured(0, 200))
    assert world.status.rollout is not None
    assert world.status.rollout.window is not None
    assert (world.status.rollout.window.broken, world.status.rollout.window.since) == (1, world.now)
    assert world.status.rollout.window.candidate == Measured(), "another window begins"
    assert world.status.phase == "RollingOut"
    world.wait(15)
    count(world, measured(0, 200))
    assert world.status.reason == "AnalysisFailed"


def test_scaled_to_zero_nothing_is_decided() -> None:
    world = comparing()
    world.check = lambda: None
    world.edit(replicas=0)
    world.settle()
    count(world, measured(0, 200))
    assert world.status.rollout is not None
    assert world.status.rollout.phase == "Progressing"


def test_a_promotion_comes_before_what_the_comparison_says() -> None:
    world = comparing()
    change = world.status.rollout
    assert change is not None
    assert change.window is not None
    world.measured = Measurement(change.revision, change.window.since, measured(0, 200), GOOD)
    ask(world, "promote")
    assert world.status.rollout is not None
    assert (world.status.rollout.phase, world.status.rollout.step) == ("Progressing", 2)


@pytest.mark.parametrize("asked", ["pause", None])
def test_what_has_not_failed_is_no_event(asked: str | None) -> None:
    world = comparing()
    if asked is not None:
        ask(world, asked)
    count(world, GOOD)
    world.wait(60)
    world.settle()
    assert world.events == []


def test_a_failure_that_nothing_follows_is_an_event() -> None:
    world = comparing(autoRollback=False)
    change = world.status.rollout
    assert change is not None
    assert change.window is not None
    world.measured = Measurement(change.revision, change.window.since, measured(0, 200), GOOD)
    (event,) = world.step().events
    assert (event.type, event.reason) == ("Warning", "AnalysisFailed")
    assert event.message.startswith("tiny-v2 stays at its step: errorRate: 1 in 200 requests")
    world.settle()
    assert len(world.events) == 1


def test_without_a_rollback_it_stays_and_says_so() -> None:
    world = comparing(autoRollback=False)
    world.wait(15)
    count(world, measured(0, 200))
    assert conditions(world.status)["Reconciling"] == ("True", "AnalysisFailed")
    assert "errorRate: 1 in 200 requests" in message(world.status)
    assert "aifactory.dev/promote" in message(world.status)
    assert [event.partition(":")[0] for event in world.events] == ["AnalysisFailed"]
    before = world.status
    world.wait(1e5)
    assert not world.settle().writes
    assert world.status == before
    assert pods(world) == (3, 1)
    ask(world, "abort")
    world.roll_out()
    assert (pods(world), world.status.reason) == ((4, 0), "RolloutAborted")


@pytest.mark.parametrize("request_", ["resume", "promote"])
def test_what_stays_can_go_on(request_: str) -> None:
    world = comparing(autoRollback=False)
    world.wait(15)
    count(world, measured(0, 200))
    world.wait(60)
    ask(world, request_)
    if request_ == "resume":
        assert conditions(world.status)["Reconciling"] == ("True", "Analyzing")
        assert world.status.rollout is not None
        assert world.status.rollout.window == AnalysisWindow(since=world.now)
        count(world, GOOD)
        world.wait(60)
    world.roll_out()
    assert world.status.version == "2"


def test_what_was_counted_goes_on_with_the_next_operator() -> None:
    world = comparing()
    world.wait(15)
    count(world, measured(60, seconds=0.1))
    world.measured = None
    world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.window is not None
    assert world.status.rollout.window.candidate == measured(60, seconds=0.1)


def test_what_was_counted_of_another_window_does_not_count() -> None:
    world = comparing()
    change = world.status.rollout
    assert change is not None
    world.measured = Measurement(change.revision, NOW - timedelta(seconds=1), measured(0, 500), GOOD)
    world.settle()
    assert world.status.phase == "RollingOut"

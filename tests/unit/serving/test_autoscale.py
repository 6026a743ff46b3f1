"""How many pods, by what they have to do: up at once, down after a while, and never by what is not known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aifactory.api.inferencepool import InferencePoolStatus, ScalingStatus
from aifactory.engine.apply import Applied
from aifactory.serving import scaling
from aifactory.serving.autoscale import look
from aifactory.serving.demand import Demand
from aifactory.serving.state import Observed, RevisionView
from tests.unit.plans import patches
from tests.unit.serving.builders import NOW, SETTINGS, pool, serving

SILENT = "when asked what there is to do: no pod is taken away until then"
GAUDI = {"name": "triton", "resources": {"limits": {"habana.ai/gaudi": 8}}}
IN_FLIGHT = [{"name": "inFlightRequests", "target": "4"}]


def spec(**changes: Any) -> dict[str, Any]:
    return {"maxReplicas": 10, "metrics": IN_FLIGHT, **changes}


def demand(
    in_flight: float | None, most: float | None = None, *, tokens: float = 0.0, complete: bool = True, silent: int = 0
) -> Demand:
    highest = in_flight if most is None else most
    return Demand(in_flight, tokens, highest, tokens, complete, silent)


class Pool:
    """A pool of pods that are all ready, and time. Each `look` is written down, as the API server would."""

    def __init__(self, replicas: int = 3, **changes: Any) -> None:
        self.pool = pool(replicas=replicas, autoscaling=spec(**changes))
        self.now = NOW
        self.unready = 0
        self.writes = 0
        self.due: float | None = None

    @property
    def pods(self) -> int:
        return scaling.wanted(self.pool)

    @property
    def scaling(self) -> ScalingStatus:
        assert self.pool.status.scaling is not None
        return self.pool.status.scaling

    def look(self, found: Demand | None, after: float = 0.0) -> int:
        self.now += timedelta(seconds=after)
        view = RevisionView(Applied("chat", "uid", ""), "v2-a-b", self.pods, ready=self.pods - self.unready)
        outlook = look(Observed(self.pool, SETTINGS, revisions=(view,), demand=found), self.now)
        status = InferencePoolStatus.model_validate(
            self.pool.status.model_copy(update={"scaling": outlook.status}).dump()
        )
        self.writes += status != self.pool.status
        self.pool = self.pool.model_copy(update={"status": status})
        self.due = outlook.due
        return self.pods

    def edit(self, **changes: Any) -> None:
        made = pool(replicas=3, autoscaling=spec(**changes))
        self.pool = self.pool.model_copy(update={"spec": made.spec})


def test_it_begins_with_what_there_is() -> None:
    assert Pool(3).look(None) == 3
    assert Pool(0).look(None) == 1
    assert Pool(20).look(None) == 10
    assert Pool(1, minReplicas=2).look(None) == 2


def test_a_status_that_was_lost_takes_no_pod_away() -> None:
    found = Pool(2)
    view = RevisionView(Applied("chat", "uid", ""), "v2-a-b", 7, ready=7)
    outlook = look(Observed(found.pool, SETTINGS, revisions=(view,)), NOW)
    assert outlook.first, "before a Deployment is resized"
    assert outlook.status == ScalingStatus(replicas=7)
    assert not outlook.event


@pytest.mark.parametrize(
    ("in_flight", "pods"),
    [
        pytest.param(12, 3, id="as much as they are to have"),
        pytest.param(13.2, 3, id="a tenth more"),
        pytest.param(13.3, 4, id="more than that"),
        pytest.param(16, 4, id="of four"),
        pytest.param(17, 5, id="rounded up"),
        pytest.param(400, 10, id="not more than may be"),
    ],
)
def test_more_come_at_once(in_flight: float, pods: int) -> None:
    found = Pool(3)
    assert found.look(demand(in_flight, complete=False)) == pods, "nobody needs to know everything for that"


def test_fewer_go_when_they_have_been_enough_for_a_while() -> None:
    found = Pool(5)
    found.look(demand(20))
    assert found.look(demand(8)) == 5
    assert found.scaling.summary == "5 of 1-10, soon 2"
    assert found.look(demand(10), 75) == 5
    assert found.look(demand(4), 75) == 5
    assert found.look(demand(4), 75) == 5
    assert found.look(demand(4), 74) == 5
    assert found.look(demand(4), 1) == 3, "the most that was needed in the meantime"
    (decision,) = found.scaling.decisions or ()
    assert (decision.before, decision.to, decision.metric, decision.value) == (5, 3, "inFlightRequests", "4")
    assert decision.time == NOW + timedelta(seconds=300)
    found.look(demand(4))
    for _ in range(3):
        assert found.look(demand(4), 75) == 3
    assert found.look(demand(4), 75) == 1


def test_a_moment_with_much_to_do_begins_the_wait_anew() -> None:
    found = Pool(5)
    found.look(demand(8))
    found.look(demand(8), 75)
    assert found.look(demand(20, complete=False), 60) == 5
    assert found.scaling.pending is None
    found.look(demand(8), 10)
    for _ in range(3):
        assert found.look(demand(8), 75) == 5
    assert found.look(demand(8), 75) == 2


def test_what_was_needed_a_moment_ago_counts_as_needed() -> None:
    found = Pool(5, stabilizationSeconds=0)
    assert found.look(demand(4, most=20)) == 5
    assert found.look(demand(4, most=14)) == 4
    assert found.look(demand(4, most=4)) == 1


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(None, id="nobody was asked"),
        pytest.param(demand(0, complete=False), id="one has not told"),
        pytest.param(demand(None), id="an engine that can not tell"),
    ],
)
def test_what_is_not_known_takes_no_pod_away(found: Demand | None) -> None:
    other = Pool(5, stabilizationSeconds=0)
    other.look(found)
    assert [other.look(found, 60) for _ in range(10)] == [5] * 10
    assert other.look(demand(0), 60) == 1


def test_pods_that_are_not_ready_count_as_if_they_had_their_target() -> None:
    found = Pool(5, stabilizationSeconds=0)
    found.unready = 3
    assert found.look(demand(8)) == 5
    assert found.look(demand(0)) == 3
    found.unready = 1
    assert found.look(demand(0)) == 1


def test_a_wait_goes_on_with_the_next_operator_and_not_after_a_long_gap() -> None:
    found = Pool(5)
    found.look(demand(8))
    found.look(demand(8), 75)
    found.look(None, 60)
    assert found.scaling.pending is not None, "who has not asked yet leaves what stands there"
    found.look(demand(8), 80)
    assert found.look(demand(8), 85) == 2

    gap = Pool(5)
    gap.look(demand(8))
    gap.look(demand(8), 75)
    assert gap.look(demand(8), 400) == 5, "nobody knows what was needed in between"
    assert gap.scaling.pending is not None
    assert gap.scaling.pending.since == gap.now


def test_more_can_be_waited_for_too() -> None:
    found = Pool(2, scaleUpStabilizationSeconds=30)
    found.look(demand(40))
    assert found.pods == 2
    found.look(demand(20), 15)
    assert found.look(demand(40), 14) == 2
    assert found.look(demand(40), 1) == 5, "the fewest that were needed in the meantime"
    found.look(demand(40))
    assert found.scaling.pending is not None
    found.look(demand(20), 5)
    assert found.scaling.pending is None
    assert found.look(demand(40), 29) == 5


def test_of_two_metrics_the_one_that_asks_for_most_decides() -> None:
    both = [*IN_FLIGHT, {"name": "tokensPerSecond", "target": "100"}]
    found = Pool(3, metrics=both, stabilizationSeconds=0)
    assert found.look(demand(16, tokens=700)) == 7
    assert found.look(demand(16, tokens=100)) == 4
    assert [each.metric for each in found.scaling.decisions or ()] == ["inFlightRequests", "tokensPerSecond"]
    assert found.look(demand(None, tokens=900)) == 9, "one of them is enough to ask for more"
    assert found.look(demand(None, tokens=100)) == 9, "and not for fewer"
    assert found.scaling.message is not None
    assert found.scaling.message.startswith("the pods' engine does not tell inFlightRequests")


def test_limits_that_change_count_at_once() -> None:
    found = Pool(5)
    found.look(demand(20))
    found.edit(maxReplicas=3)
    assert found.pods == 3, "before anything is written"
    found.look(demand(20))
    found.look(demand(20))
    assert found.scaling.summary == "3 of 1-3"
    assert found.scaling.message == "inFlightRequests asks for more pods than maxReplicas allows"
    found.edit(maxReplicas=8, minReplicas=6)
    assert found.look(demand(20)) == 6
    told = [(each.before, each.to, each.metric, each.value) for each in found.scaling.decisions or ()]
    assert told == [(3, 6, "minReplicas", None), (5, 3, "maxReplicas", None)]


def test_only_the_last_decisions_are_kept() -> None:
    found = Pool(1, stabilizationSeconds=0)
    for count in range(2, 10):
        found.look(demand(4.0 * count))
    assert [each.to for each in found.scaling.decisions or ()] == [9, 8, 7, 6, 5]


def gpus(count: int, **limits: int) -> dict[str, Any]:
    resources = {"limits": {"nvidia.com/gpu": count, "memory": "8Gi", **limits}}
    return {"spec": {"containers": [{"name": "triton", "resources": resources}]}}


@pytest.mark.parametrize(
    ("each", "most", "pods", "bound"),
    [(1, 4, 4, "maxGPUs"), (2, 5, 2, "maxGPUs"), (8, 4, 1, "maxGPUs"), (0, 4, 10, "maxReplicas")],
)
def test_gpus_are_counted(each: int, most: int, pods: int, bound: str) -> None:
    found = Pool(1, maxGPUs=most, minReplicas=1)
    template = pool(template=gpus(each), autoscaling=spec(maxGPUs=most)).spec
    found.pool = found.pool.model_copy(update={"spec": template})
    assert found.look(demand(400)) == pods
    found.look(demand(400))
    assert found.scaling.message == f"inFlightRequests asks for more pods than {bound} allows"


def test_devices_of_other_kinds_are_none() -> None:
    template = gpus(2, **{"rdma/hca": 8, "nvidia.com/mig-1g.5gb": 1})
    assert scaling.gpus(pool(template=template)) == 3
    assert scaling.gpus(pool(template=gpus(2, **{"nvidia.com/gpumem": 3000}))) == 2, "an amount of a device is none"
    assert scaling.gpus(pool(template={"spec": {"containers": [GAUDI]}})) == 8


def test_a_wait_that_is_not_yet_over_ends_when_its_direction_does() -> None:
    found = Pool(3, scaleUpStabilizationSeconds=30)
    found.look(demand(40))
    assert found.scaling.pending is not None
    found.look(demand(4))
    assert found.scaling.pending is not None
    assert (found.scaling.pending.replicas, found.scaling.summary) == (1, "3 of 1-10, soon 1"), "the other way"
    found.look(demand(4, complete=False), 5)
    assert found.scaling.pending is not None, "nobody knows better"
    found.look(demand(16, complete=False), 5)
    assert found.scaling.pending is not None
    assert found.scaling.pending.replicas == 4
    found.look(demand(4, complete=False), 5)
    assert found.scaling.pending is None, "one that needs no certainty to begin needs none to end"
    found.look(demand(4), 5)
    found.edit(minReplicas=3)
    found.look(demand(4), 5)
    assert found.scaling.pending is None, "there is nothing to go down to"


def test_what_was_decided_is_waited_for_no_more() -> None:
    found = Pool(5)
    found.look(demand(8))
    found.look(demand(8), 100)
    found.look(demand(8), 100)
    assert found.look(demand(8), 100) == 2
    assert found.scaling.pending is None


@pytest.mark.parametrize(
    ("metric", "found", "message"),
    [
        pytest.param("inFlightRequests", demand(16), None, id="just enough"),
        pytest.param(
            "inFlightRequests", demand(24), "inFlightRequests asks for more pods than maxReplicas allows", id="too few"
        ),
        pytest.param("inFlightRequests", demand(24, complete=False), None, id="not for certain"),
        pytest.param(
            "inFlightRequests",
            demand(None),
            "the pods' engine does not tell inFlightRequests: no pod is taken away, and none is added because of it",
            id="unknown",
        ),
        pytest.param("tokensPerSecond", demand(None, tokens=16), None, id="not asked for"),
        pytest.param("inFlightRequests", demand(4, silent=1), f"1 pod does not answer {SILENT}", id="silent"),
        pytest.param("inFlightRequests", demand(4, silent=2), f"2 pods do not answer {SILENT}", id="several"),
    ],
)
def test_it_says_what_keeps_it_from_another_number(metric: str, found: Demand, message: str | None) -> None:
    other = Pool(4, maxReplicas=4, metrics=[{"name": metric, "target": "4"}])
    other.look(found)
    assert other.scaling.message == message


def test_it_is_due_when_the_first_of_what_is_waited_for_comes() -> None:
    found = Pool(5, schedules=[OFFICE])
    found.now = at(5, 6, 59)
    found.look(demand(8))
    assert found.due == 60, "the schedule, before a quarter of the wait"
    found.now = at(5, 6)
    found.look(demand(8))
    assert found.due == 75
    quick = Pool(5, stabilizationSeconds=2)
    quick.look(demand(8))
    assert quick.due == 1, "not all the time"


# --- Schedules ---

OFFICE = {"cron": "0 8 * * 1-5", "timeZone": "Europe/Berlin", "durationSeconds": 36_000, "minReplicas": 4}


def at(day: int, hour: int, minute: int = 0, month: int = 1) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "pods", "due"),
    [
        pytest.param(at(5, 6, 59), 0, 60, id="a Monday in winter, a minute before"),
        pytest.param(at(5, 7), 4, 36_000, id="it begins"),
        pytest.param(at(5, 16, 59), 4, 60, id="a minute before its end"),
        pytest.param(at(5, 17), 0, 14 * 3600, id="it is over"),
        pytest.param(at(3, 12), 0, 43 * 3600, id="a Saturday"),
        pytest.param(at(6, 6, 30, month=7), 4, 9.5 * 3600, id="in summer it is an hour earlier"),
    ],
)
def test_a_schedule_asks_for_more(now: datetime, pods: int, due: float) -> None:
    found = Pool(2, schedules=[OFFICE])
    found.now = now
    found.look(demand(0))
    assert found.pods == max(2, pods)
    found.look(demand(8, complete=False))
    assert found.due == due


def test_when_it_is_over_what_is_measured_decides_again() -> None:
    found = Pool(2, schedules=[OFFICE], stabilizationSeconds=60)
    found.now = at(5, 16, 59)
    found.look(demand(0))
    found.look(demand(0))
    assert (found.pods, found.scaling.pending, found.scaling.summary) == (4, None, "4 of 4-10")
    found.look(demand(0), 60)
    assert found.scaling.summary == "4 of 1-10, soon 1"
    assert found.look(demand(0), 60) == 1
    assert [(each.metric, each.value) for each in found.scaling.decisions or ()] == [
        ("inFlightRequests", "0"),
        ("schedules", None),
    ]


def test_of_schedules_that_overlap_the_one_with_most_counts_and_none_goes_beyond_the_limit() -> None:
    night = {"cron": "*/30 7 * * *", "durationSeconds": 3600, "minReplicas": 8}
    found = Pool(1, schedules=[OFFICE, night], maxGPUs=6)
    found.pool = found.pool.model_copy(
        update={"spec": pool(template=gpus(1), autoscaling=spec(schedules=[OFFICE, night], maxGPUs=6)).spec}
    )
    found.now = at(5, 7, 10)
    assert found.look(None) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cron": "0 8 31 4 *"}, "autoscaling.schedules.0.cron\n.*'0 8 31 4 \\*' never comes"),
        ({"cron": "0 8 * * 5-1"}, "autoscaling.schedules.0.cron\n.*never comes \\(Bad day-of-week\\)"),
        ({"timeZone": "Europe/Belrin"}, "autoscaling.schedules.0.timeZone\n.*there is no time zone 'Europe/Belrin'"),
        ({"timeZone": "Europe"}, "there is no time zone 'Europe'"),
    ],
)
def test_a_time_that_does_not_exist_is_refused_with_the_field(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        pool(autoscaling=spec(schedules=[{**OFFICE, **changes}]))


# --- Whatever happens ---


@st.composite
def courses(draw: st.DrawFn) -> list[tuple[float, Demand | None]]:
    """What is found at each look, and how long after the one before."""
    steps = []
    for _ in range(draw(st.integers(1, 60))):
        in_flight = draw(st.floats(0, 60))
        known = draw(st.sampled_from([True, True, True, False, None]))
        most = max(in_flight, draw(st.floats(0, 60)))
        found = None if known is None else demand(in_flight, most, complete=known)
        steps.append((draw(st.sampled_from([1.0, 5.0, 5.0, 20.0, 90.0])), found))
    return steps


@given(courses(), st.integers(0, 12), st.integers(1, 4), st.integers(4, 9), st.sampled_from([0, 20, 60]))
def test_it_never_leaves_its_limits_and_never_goes_down_too_soon(
    course: list[tuple[float, Demand | None]], replicas: int, least: int, most: int, seconds: int
) -> None:
    found = Pool(replicas, minReplicas=least, maxReplicas=most, stabilizationSeconds=seconds)
    assert least <= found.pods <= most
    enough = NOW
    """Since when fewer would have been enough."""
    for after, seen in course:
        before = found.pods
        found.look(seen, after)
        assert least <= found.pods <= most
        if seen is not None and (seen.in_flight or 0) / 4 > before - 1:
            enough = found.now
        if found.pods < before:
            assert seen is not None
            assert seen.complete
            assert (found.now - enough).total_seconds() >= seconds - 1
            assert found.pods >= min(before, (seen.most_in_flight or 0) / 4)
        if found.pods != before:
            enough = found.now


def test_what_an_average_still_has_of_before_costs_no_second_wait() -> None:
    found = Pool(4, minReplicas=1, maxReplicas=4, stabilizationSeconds=60)
    found.look(demand(16.0), 5.0)
    for average in (10.0, 7.0, 4.0):
        assert found.look(demand(4.0, average), 5.0) == 4
    assert found.scaling.pending is not None
    assert found.scaling.pending.replicas == 1
    assert found.look(demand(4.0, 8.0), 10.0) == 4, "and this counts: it is needed later"
    assert found.scaling.pending.replicas == 2
    assert found.look(demand(4.0), 40.0) == 2


def test_a_pool_that_has_what_it_needs_writes_nothing() -> None:
    found = Pool(3)
    found.look(demand(12))
    before = found.writes
    for count in (12, 11, 13, 10, 12.5):
        found.look(demand(count), 5)
    assert found.writes == before
    found.look(demand(4), 5)
    waiting = found.writes
    for _ in range(58):
        found.look(demand(4), 5)
    assert found.writes - waiting <= 4, "a wait of 300 seconds"


# --- In the plan ---


def test_a_decision_is_written_first_and_told() -> None:
    world = serving(replicas=2, autoscaling=spec(stabilizationSeconds=0))
    world.demand = demand(13)
    decision = world.step()
    assert (decision.writes, decision.urgent, decision.requeue_after) == ((), True, 0)
    assert world.events[-1] == "Scaled: from 2 to 4 pods: inFlightRequests is 13, and a pod is to have 4"
    world.settle()
    assert len(world.live()) == 4
    world.load(2)
    assert world.status.summary == "4/4"
    assert world.status.scaling is not None
    assert world.status.scaling.summary == "4 of 1-10"


def test_the_pods_that_have_least_to_do_go() -> None:
    world = serving(replicas=4, autoscaling=spec(stabilizationSeconds=0))
    for pod, count in zip(world.live(), (3.0, 0.2, 2.0, 1.0), strict=True):
        pod.in_flight = count
    world.demand = demand(6.2)
    world.settle()
    assert [pod.in_flight for pod in world.live()] == [3.0, 2.0]
    assert world.events[-1] == "Scaled: from 4 to 2 pods: inFlightRequests is 6.2, and a pod is to have 4"


def test_what_a_pod_has_to_do_that_is_not_ready_or_not_known_is_not_told() -> None:
    world = serving(replicas=4, autoscaling=spec(stabilizationSeconds=0))
    for pod, count in zip(world.live(), (3.0, None, 1.0, 9.0), strict=True):
        pod.in_flight = count
    world.live()[3].ready = False
    world.demand = demand(4)
    decision = world.step()
    costs = {write.name: write.body["metadata"]["annotations"] for write in patches(decision)}
    key = "controller.kubernetes.io/pod-deletion-cost"
    assert list(costs.values()) == [{key: "3"}, {key: "1"}]


def test_pods_that_have_the_same_to_do_are_not_told_apart() -> None:
    world = serving(replicas=4, autoscaling=spec(stabilizationSeconds=0))
    for pod in world.live():
        pod.in_flight = 0.0
    world.demand = demand(0)
    assert world.step().writes == ()
    world.settle()
    assert len(world.live()) == 1


def test_what_a_plan_is_due_for_stays_due() -> None:
    world = serving(replicas=4, autoscaling=spec())
    world.demand = demand(8)
    assert world.settle().requeue_after == 75
    world.wait(75)
    assert world.settle().requeue_after == 75


def test_in_a_change_of_version_the_number_that_was_decided_counts() -> None:
    world = serving(replicas=2, autoscaling=spec(), rollout={"strategy": "Surge"})
    world.demand = demand(16)
    world.settle()
    world.load(2)
    world.publish(2)
    world.roll_out()
    assert (world.status.version, len(world.live())) == ("2", 4)


def test_without_the_field_nothing_of_it_is_left() -> None:
    world = serving(replicas=2, autoscaling=spec())
    world.demand = demand(16)
    world.settle()
    assert world.status.scaling is not None
    world.demand = None
    changed = world.pool.spec.model_copy(update={"autoscaling": None})
    world.pool = world.pool.model_copy(update={"spec": changed})
    world.settle()
    assert world.status.scaling is None
    assert len(world.live()) == 2


def test_words_of_a_decision_by_a_field() -> None:
    world = serving(replicas=2, autoscaling=spec())
    world.edit(autoscaling=spec(minReplicas=3))
    world.settle()
    assert world.events[-1] == "Scaled: from 2 to 3 pods, by autoscaling.minReplicas"


def test_times_are_written_in_whole_seconds() -> None:
    found = Pool(3)
    found.now += timedelta(microseconds=700)
    assert found.look(demand(40)) == 10
    (decision,) = found.scaling.decisions or ()
    assert decision.time.microsecond == 0
    found.look(demand(4), after=60)
    assert found.scaling.pending is not None
    assert found.scaling.pending.since.microsecond == found.scaling.pending.seen.microsecond == 0


def test_the_last_second_of_a_wait_is_waited_for() -> None:
    found = Pool(5)
    found.look(demand(8))
    for after in (75, 75, 75, 74):
        found.look(demand(8), after)
    assert (found.pods, found.due) == (5, 1)

"""What pods have to do: how it is read from their metrics, and when enough of it is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aifactory.serving.demand import BACK_SECONDS, Demand, Gauge, Load, Look, load, read_look

ENGINE = b"""\
aifactory_requests_running{model="m",version="1"} 3
aifactory_requests_running{model="m",version="2"} 1
aifactory_requests_waiting{model="m",version="1"} 2
aifactory_generated_tokens_total{model="m",version="1"} 500
nv_inference_request_duration_us{model="m",version="1"} 7000
"""
PROGRAM = b"""\
nv_inference_request_duration_us{model="m",version="1"} 4500000
nv_inference_pending_request_count{model="m",version="1"} 2
"""


@pytest.mark.parametrize(
    ("page", "look"),
    [
        pytest.param(ENGINE, Look(9.0, 500.0, present=6.0), id="an engine tells its requests"),
        pytest.param(PROGRAM, Look(9.0, 500.0, waiting=2.0, seconds=4.5), id="Triton tells how long they take"),
        pytest.param(
            b'aifactory_generated_tokens_total{model="m"} 1\nnv_inference_request_duration_us{model="m"} 7000\n',
            Look(9.0, 500.0),
            id="an engine that answers in pieces, and tells nothing",
        ),
        pytest.param(
            b'aifactory_requests_running{model="m"} 3\nnv_inference_request_duration_us{model="m"} 7000\n',
            Look(9.0, 500.0, present=3.0),
            id="an engine that has generated nothing yet",
        ),
        pytest.param(b"", Look(9.0, 500.0, seconds=0.0), id="nobody has asked yet"),
    ],
)
def test_what_a_page_says(page: bytes, look: Look) -> None:
    assert read_look(page, 7.0, 500.0, 9.0) == replace(look, requests=7.0)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="aifactory_requests_running is nan"):
        read_look(b"aifactory_requests_running NaN\n", 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        pytest.param(
            Look(0.0, 100.0, present=9.0),
            Look(5.0, 600.0, present=2.0),
            Load(100.0, 2.0, asked=True),
            id="as many as there are",
        ),
        pytest.param(
            Look(0.0, 0.0, seconds=10.0),
            Look(5.0, 0.0, seconds=25.0),
            Load(0.0, 3.0, asked=True),
            id="three at a time",
        ),
        pytest.param(
            Look(0.0, 0.0, seconds=10.0),
            Look(5.0, 0.0, seconds=10.0, waiting=7.0),
            Load(0.0, 7.0, asked=True),
            id="none was answered, and seven wait",
        ),
        pytest.param(
            Look(0.0, 900.0, seconds=50.0),
            Look(5.0, 10.0, seconds=5.0),
            Load(2.0, 1.0, asked=True),
            id="Triton was started again",
        ),
        pytest.param(
            Look(0.0, 900.0, present=1.0),
            Look(5.0, 898.0, present=1.0),
            Load(0.0, 1.0, asked=True),
            id="the agent asks just now",
        ),
        pytest.param(Look(0.0, 0.0), Look(5.0, 50.0), Load(10.0, None, asked=True), id="nobody tells it"),
        pytest.param(
            Look(0.0, 9.0, present=0.0),
            Look(5.0, 9.0, present=1.0),
            Load(0.0, 1.0),
            id="one for a moment, which the agent may have asked",
        ),
        pytest.param(
            Look(0.0, 9.0, present=0.0, requests=4.0),
            Look(5.0, 9.0, present=0.0, requests=5.0),
            Load(0.0, 0.0, asked=True),
            id="one was answered",
        ),
        pytest.param(
            Look(0.0, 0.0, seconds=10.0, requests=4.0),
            Look(5.0, 0.0, seconds=10.2, requests=4.0),
            Load(0.0, pytest.approx(0.04)),
            id="the agent was answered",
        ),
    ],
)
def test_what_a_pod_does_between_two_looks(before: Look, now: Look, found: Load) -> None:
    assert load(before, now) == found


def look_at(gauge: Gauge, at: float, ready: tuple[str, ...] = ("a", "b"), **present: float) -> Demand:
    for uid, count in present.items():
        gauge.see(uid, Look(at, 10.0 * at, present=count))
    return gauge.demand(at, ready, 0, 10.0)


def took(gauge: Gauge, at: float, **seconds: float) -> Demand:
    """Triton has told how long all requests so far have taken."""
    for uid, sum_ in seconds.items():
        gauge.see(uid, Look(at, 0.0, seconds=sum_))
    return gauge.demand(at, ("a", "b"), 0, 10.0)


def test_what_pods_do_is_added_up_and_the_most_of_a_while_is_kept() -> None:
    gauge = Gauge()
    took(gauge, 0.0, a=9.0, b=9.0)
    took(gauge, 5.0, a=24.0, b=29.0)
    took(gauge, 10.0, a=29.0, b=34.0)
    found = took(gauge, 20.0, a=49.0, b=44.0)
    assert found == Demand(3.0, 0.0, 7.0, 0.0, complete=True)
    assert found.by_pod == {"a": 2.0, "b": 1.0}
    assert took(gauge, 21.0, a=51.0, b=45.0).most_in_flight == 3.0, "what is longer ago is forgotten"


def test_of_an_engine_that_tells_of_moments_the_average_of_a_while_is_kept() -> None:
    """Two clients whose requests are short, and two pods that are not asked at the same moment."""
    gauge = Gauge()
    look_at(gauge, 0.0, a=9.0, b=9.0)
    look_at(gauge, 5.0, a=2.0, b=2.0)
    look_at(gauge, 10.0, a=0.0, b=1.0)
    found = look_at(gauge, 20.0, a=1.0, b=0.0)
    assert found == Demand(1.0, 20.0, 2.0, 20.0, complete=True)
    assert found.by_pod == {"a": 1.0, "b": 0.0}
    assert look_at(gauge, 21.0, a=1.0, b=0.0).most_in_flight == 1.0, "what is longer ago is forgotten"


def test_one_look_says_nothing() -> None:
    found = look_at(Gauge(), 0.0, a=9.0, b=9.0)
    assert (found.in_flight, found.complete) == (0.0, False)


def complete_from(gauge: Gauge, begin: float, end: float, **present: float) -> list[float]:
    ready = tuple(present)
    looks = range(int(begin), int(end) + 1, 5)
    return [at for at in looks if look_at(gauge, float(at), ready, **present).complete]


def test_it_is_known_when_every_pod_has_told_for_a_while() -> None:
    gauge = Gauge()
    first = 5.0 + BACK_SECONDS
    assert complete_from(gauge, 0, 40, a=1.0, b=1.0) == [*map(float, range(int(first), 41, 5))]
    assert not look_at(gauge, 45.0, ("a", "b", "c"), a=1.0, b=1.0, c=1.0).complete, "a new one has not told yet"
    assert complete_from(gauge, 50, 80, a=1.0, b=1.0, c=1.0) == [65.0, 70.0, 75.0, 80.0]


def test_a_pod_that_does_not_answer_counts_until_what_it_has_told_is_old() -> None:
    gauge = Gauge()
    complete_from(gauge, 0, 30, a=4.0, b=1.0)
    assert look_at(gauge, 35.0, b=1.0) == Demand(5.0, 20.0, 5.0, 20.0, complete=True)
    assert look_at(gauge, 45.0, b=1.0) == Demand(1.0, 10.0, 3.67, 20.0, complete=False)
    gone = look_at(gauge, 50.0, ("b",), b=1.0)
    assert gone.by_pod == {"b": 1.0}
    assert not gone.complete, "it is asked for a while, as the first time"


def test_a_pool_without_pods_is_not_known() -> None:
    gauge = Gauge()
    assert not any(gauge.demand(at, (), 0, 10.0).complete for at in range(0, 60, 5))


def test_figures_do_not_change_for_noise() -> None:
    gauge = Gauge()
    for at, count in ((0.0, 1.0), (5.0, 123.44)):
        gauge.see("a", Look(at, 0.0, present=count))
    first = gauge.demand(5.0, ("a",), 0, 10.0)
    gauge.see("a", Look(10.0, 0.0, present=123.06))
    assert gauge.demand(10.0, ("a",), 0, 10.0) == first


def test_two_looks_at_one_moment_are_one() -> None:
    gauge = Gauge()
    for present in (4.0, 9.0):
        gauge.see("a", Look(5.0, 0.0, present=present))
    found = gauge.demand(5.0, ("a",), 0, 10.0)
    assert (found.in_flight, found.tokens, found.most_tokens, dict(found.by_pod)) == (0.0, 0.0, 0.0, {})


def test_what_a_pod_has_told_counts_for_just_so_long() -> None:
    gauge = Gauge()
    look_at(gauge, 0.0, ("a",), a=1.0)
    look_at(gauge, 5.0, ("a",), a=1.0)
    assert gauge.demand(15.0, ("a",), 0, 10.0).in_flight == 1.0
    assert gauge.demand(15.1, ("a",), 0, 10.0).in_flight == 0.0


def test_a_pod_that_was_away_tells_anew() -> None:
    gauge = Gauge()
    look_at(gauge, 0.0, ("a",), a=4.0)
    look_at(gauge, 5.0, ("a",), a=4.0)
    gauge.demand(6.0, (), 0, 10.0)
    assert gauge.demand(7.0, ("a",), 0, 10.0).by_pod == {}


def test_it_is_known_a_second_before_the_while_is_over() -> None:
    gauge = Gauge()
    look_at(gauge, 0.0, ("a",), a=1.0)
    look_at(gauge, 5.0, ("a",), a=1.0)
    look_at(gauge, 10.0, ("a",), a=1.0)
    assert not gauge.demand(5.0 + BACK_SECONDS - 1.1, ("a",), 0, 10.0).complete
    assert gauge.demand(5.0 + BACK_SECONDS - 1.0, ("a",), 0, 10.0).complete


def test_it_is_idle_when_nobody_has_asked_for_a_while() -> None:
    gauge = Gauge()

    def look(at: float, **more: float) -> Demand:
        for uid in "ab":
            gauge.see(uid, Look(at, 0.0, present=0.0, requests=more.get(uid, 0.0)))
        return gauge.demand(at, ("a", "b"), 0, 10.0)

    assert [at for at in range(0, 40, 5) if look(at).idle] == [20, 25, 30, 35], "as soon as it is known"
    assert [at for at in range(40, 70, 5) if look(at, b=1.0).idle] == [60, 65], "one was answered"


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        pytest.param(
            Look(0.0, 0.0, present=9.0, seconds=10.0),
            Look(5.0, 0.0, present=2.0, seconds=25.0),
            Load(0.0, 2.0, asked=True),
            id="what the engine tells counts before what Triton adds up",
        ),
        pytest.param(
            Look(0.0, 0.0, present=0.5), Look(5.0, 0.0, present=0.5), Load(0.0, 0.5, asked=True), id="a half is one"
        ),
        pytest.param(
            Look(0.0, 0.0, present=0.0), Look(5.0, 2.0, present=0.0), Load(0.4, 0.0, asked=True), id="a few tokens"
        ),
    ],
)
def test_whether_somebody_asks_a_pod(before: Look, now: Look, found: Load) -> None:
    assert load(before, now) == found

"""What is counted of requests: read from Triton's page, added up over pods and restarts, kept by the status."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifactory.api.inferencepool import Measured
from aifactory.serving.measure import Analysed, Measurement, Sums, Tally, for_status, from_status, grown, read_sums
from tests.unit.serving.builders import NOW

PAGE = b"""\
nv_inference_request_success{model="m",version="2"} 112
nv_inference_request_failure{model="m",reason="CANCELED",version="2"} 5
nv_inference_request_failure{model="m",reason="BACKEND",version="2"} 3
nv_inference_request_failure{model="m",reason="REJECTED",version="2"} 1
nv_inference_request_duration_us{model="m",version="2"} 5500000
aifactory_probe_requests_total{model="m",version="2"} 10
aifactory_failed_requests_total{model="m",version="2"} 2
aifactory_time_to_first_token_seconds_count{model="m",version="2"} 100
aifactory_time_to_first_token_seconds_sum{model="m",version="2"} 4.5
aifactory_time_to_first_token_seconds_bucket{model="m",version="2",le="0.1"} 100
aifactory_inter_token_latency_seconds_count{model="m",version="2"} 700
aifactory_inter_token_latency_seconds_sum{model="m",version="2"} 14.0
"""


def test_a_page_is_read() -> None:
    assert read_sums(PAGE) == Sums(100.0, 6.0, 112.0, 5.5, 100.0, 4.5, 700.0, 14.0)
    assert read_sums(b"") == Sums()


def test_language_models_have_no_durations() -> None:
    found = read_sums(PAGE + b'aifactory_generated_tokens_total{model="m",version="2"} 800\n')
    assert (found.timed, found.seconds, found.first_tokens, found.requests) == (0.0, 0.0, 100.0, 100.0)


def test_nonsense_is_no_page() -> None:
    with pytest.raises(ValueError, match="nv_inference_request_failure is inf"):
        read_sums(b'nv_inference_request_failure{reason="BACKEND"} +Inf\n')


def test_counters_grow_and_begin_again() -> None:
    assert grown(Sums(100, 4, 110, 5.5), Sums(150, 4, 161, 8.0)) == Sums(50, 0, 51, 2.5)
    assert grown(Sums(100, 4, 110, 5.5), Sums(30, 1, 31, 1.5)) == Sums(30, 1, 31, 1.5), "Triton was started again"
    assert grown(Sums(100, 4, 110, 5.5), Sums(99, 4, 110, 5.5)) == Sums(), "a question of the agent is under way"
    assert grown(Sums(100, 4, 110, 5.5), Sums(98, 4, 110, 5.5)) == Sums(), "or two"
    assert grown(Sums(100, 4, 110, 5.5), Sums(97, 4, 110, 5.5)) == Sums(97, 4, 110, 5.5)
    assert Sums(1, 2, 3, 4, 5, 6, 7, 8) + Sums(10, 20, 30, 40, 50, 60, 70, 80) == Sums(11, 22, 33, 44, 55, 66, 77, 88)


def pools(candidate: str = "c", stable: str = "s", **sums: Measured) -> Analysed:
    window = Measurement("new", NOW, sums.get("new", Measured()), sums.get("old", Measured()))
    return Analysed(("ns", "chat"), window, frozenset(candidate), frozenset(stable))


def test_pods_are_added_up_from_when_they_are_seen() -> None:
    tally = Tally.begin(pools("cd", "s"), 0.0)
    tally.count({"c": Sums(100), "s": Sums(1000)})
    assert tally.result() == tally.told, "what was before the window does not count"
    tally.count({"c": Sums(110, 1), "s": Sums(1100), "d": Sums(500)})
    tally.count({"c": Sums(120, 1), "s": Sums(1200), "d": Sums(505), "x": Sums(9)})
    assert tally.result().candidate == Measured(requests=25, failures=1)
    assert tally.result().stable == Measured(requests=200)
    tally.count({"c": Sums(120, 1), "s": Sums(1200)})
    tally.count({"c": Sums(120, 1), "s": Sums(1200), "d": Sums(700)})
    assert tally.result().candidate.requests == 25, "a pod that was not heard of is looked at anew"


def test_it_goes_on_from_what_the_status_says() -> None:
    counted = pools(new=Measured(requests=40, milliseconds=1500), old=Measured(failures=2))
    tally = Tally.begin(counted, 0.0)
    tally.count({"c": Sums(7)})
    tally.count({"c": Sums(8)})
    assert tally.result().candidate == Measured(requests=41, milliseconds=1500)
    assert tally.result().stable == Measured(failures=2)


def test_another_window_is_another_tally() -> None:
    tally = Tally.begin(pools(), 0.0)
    assert tally.is_of(pools().window)
    assert not tally.is_of(pools(new=Measured(requests=1)).window), "another operator has counted further"
    assert not tally.is_of(Measurement("newer", NOW, Measured(), Measured()))


def test_the_status_has_whole_numbers_and_milliseconds() -> None:
    sums, told = (
        Sums(1, 2, 3, 0.004, 5, 0.006, 7, 0.008),
        Measured.model_validate(
            {
                "requests": 1,
                "failures": 2,
                "timed": 3,
                "milliseconds": 4,
                "firstTokens": 5,
                "firstTokenMilliseconds": 6,
                "nextTokens": 7,
                "nextTokenMilliseconds": 8,
            }
        ),
    )
    assert for_status(sums) == told
    assert from_status(told) == sums
    assert for_status(Sums(seconds=1000, first_token_seconds=1000, next_token_seconds=1000)) == Measured(
        milliseconds=10**6, first_token_milliseconds=10**6, next_token_milliseconds=10**6
    )


@given(st.builds(Measured, **dict.fromkeys(Measured.model_fields, st.integers(0, 10**12))))
def test_there_and_back(measured: Measured) -> None:
    assert for_status(from_status(measured)) == measured

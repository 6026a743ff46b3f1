"""Reading Triton's counters and turning them into a pool's figures."""

from __future__ import annotations

from aifactory.api.inferencepool import Throughput
from aifactory.serving.probe import Counters, ServingBook, rates, read_counters

PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tiny",version="1"} 120
nv_inference_request_success{model="tiny",version="2"} 30
# HELP aifactory_probe_requests_total Requests of the agent
# TYPE aifactory_probe_requests_total counter
aifactory_probe_requests_total{model="tiny",version="1"} 20
# HELP aifactory_generated_tokens_total Tokens
# TYPE aifactory_generated_tokens_total counter
aifactory_generated_tokens_total{model="tiny",version="1"} 4000
"""


def test_the_agents_own_requests_are_not_traffic() -> None:
    assert read_counters(PAGE) == (130.0, 4000.0)


def test_rates_are_summed_over_pods() -> None:
    start = {"a": Counters(0.0, 100, 1000), "b": Counters(0.0, 0, 0)}
    end = {"a": Counters(10.0, 150, 3000), "b": Counters(10.0, 50, 1000)}
    assert rates(start, end) == Throughput(requests_per_second="10", tokens_per_second="300")


def test_a_triton_that_was_restarted_counts_from_zero() -> None:
    assert rates({"a": Counters(0.0, 1000, 9000)}, {"a": Counters(10.0, 20, 100)}) == Throughput(
        requests_per_second="2", tokens_per_second="10"
    )


def test_one_look_is_no_rate() -> None:
    assert rates({}, {"a": Counters(10.0, 20, 100)}) is None


def test_only_news_wakes_anybody() -> None:
    book = ServingBook()
    assert book.set_error("uid", "LoadFailed: bad weights")
    assert not book.set_error("uid", "LoadFailed: bad weights")
    assert book.load_error("uid") == "LoadFailed: bad weights"
    book.retain([], [])
    assert book.load_error("uid") == ""

"""What vLLM tells its loggers becomes the figures of every engine, without the agent's questions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aifactory_server import metrics
from aifactory_server.vllm.statistics import Statistics


class Meter:
    """In place of the one that tells Triton."""

    def __init__(self, *_: object) -> None:
        self.told: dict[str, Any] = {"prompt": 0, "generated": 0, "cached": 0, "probes": 0, "first": [], "next": []}
        self.loads: list[tuple[int, int]] = []

    def prompt(self, tokens: int) -> None:
        self.told["prompt"] += tokens

    def generated(self, tokens: int) -> None:
        self.told["generated"] += tokens

    def cached(self, tokens: int) -> None:
        self.told["cached"] += tokens

    def probed(self) -> None:
        self.told["probes"] += 1

    def took(self, first: list[float], following: list[float]) -> None:
        self.told["first"] += first
        self.told["next"] += following

    def load(self, running: int, waiting: int) -> None:
        self.loads.append((running, waiting))


@pytest.fixture
def statistics(monkeypatch: pytest.MonkeyPatch) -> Statistics:
    monkeypatch.setattr("aifactory_server.vllm.statistics.GenerationMeter", Meter)
    made = Statistics(None, {})
    made.finalize()
    assert made(SimpleNamespace(), 0) is made
    return made


def step(prompt: int, over: tuple[tuple[int, int], ...], first: int, following: int) -> SimpleNamespace:
    """Tokens of prompts, and of each request that is over those of its prompt and of its answer."""
    return SimpleNamespace(
        num_prompt_tokens=prompt,
        num_generation_tokens=first + following,
        finished_requests=[SimpleNamespace(num_prompt_tokens=a, num_generation_tokens=b) for a, b in over],
        time_to_first_tokens_iter=[0.5] * first,
        inter_token_latencies_iter=[0.25] * following,
    )


def load(running: int, waiting: int, hits: int) -> SimpleNamespace:
    cache = SimpleNamespace(hits=hits)
    return SimpleNamespace(num_running_reqs=running, num_waiting_reqs=waiting, prefix_cache_stats=cache)


def told(statistics: Statistics) -> dict[str, Any]:
    found: dict[str, Any] = statistics._meter.told  # type: ignore[attr-defined]
    return found


def test_a_question_of_the_agent_beside_others_is_not_counted(statistics: Statistics) -> None:
    statistics.probed(1)
    statistics.record(load(3, 2, 32), step(prompt=107, over=((7, 1), (50, 9)), first=2, following=4), engine_idx=0)
    assert told(statistics) == {
        "prompt": 100,
        "generated": 5,
        "cached": 32,
        "probes": 1,
        "first": [0.5],
        "next": [0.25] * 4,
    }
    assert statistics._load == (3, 2)


def test_a_client_s_answer_of_one_token_counts(statistics: Statistics) -> None:
    statistics.record(load(0, 0, 0), step(prompt=7, over=((7, 1),), first=1, following=0), mm_cache_stats=None)
    assert (told(statistics)["prompt"], told(statistics)["generated"], told(statistics)["first"]) == (7, 1, [0.5])


def test_questions_that_were_given_up_are_not_waited_for(statistics: Statistics) -> None:
    for _ in range(3):
        statistics.probed(1)
    one = step(prompt=21, over=((7, 1),) * 3, first=3, following=0)
    statistics.record(None, one)
    assert (told(statistics)["prompt"], told(statistics)["generated"], told(statistics)["probes"]) == (14, 2, 3)


def test_steps_without_figures_are_none(statistics: Statistics) -> None:
    statistics.record(None, None)
    statistics.record(load(1, 0, 5), None)
    assert (told(statistics)["prompt"], told(statistics)["cached"]) == (0, 5)


def test_what_is_used_of_the_meter_is_there() -> None:
    used = {name for name in vars(Meter) if not name.startswith("_")}
    assert used <= set(dir(metrics.GenerationMeter))

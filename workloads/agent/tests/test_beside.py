"""The page of `make bench-engines`, made of what a run has found."""

from __future__ import annotations

from beside import page

ABOUT = {
    "model": "smollm2-135m-instruct",
    "day": "2026-11-28",
    "cpu": "AMD EPYC",
    "cores": 2,
    "load": 3.0,
    "rounds": 3,
    "tokens": 32,
    "concurrency": 4,
    "threads": "all CPUs",
    "eager": False,
    "vllm": "0.32.0",
    "aiperf": "0.13.0",
}


def side(rate: float) -> dict[str, float]:
    return {"tokensPerSecond": rate, "firstTextMs": 10 * rate, "tokensPerCpuSecond": rate / 2}


def load(failed: int) -> dict[str, float]:
    figures = {"output_token_throughput": 9.5, "request_latency": 800.0, "time_to_first_token": 90.0}
    return {"requests": 24, "failed": failed, **figures, "inter_token_latency": 20.0}


def test_the_page_has_both_of_each_figure() -> None:
    turns = [{"clients": 8, "ours": side(80.0), "vllm": side(160.0), "ratio": 0.5}]
    text = page({"about": ABOUT, "turns": turns, "loads": {"ours": load(0), "vllm": load(2)}})
    assert "| 8 | 80.0 | 160.0 | 0.5 | 800.0 and 1600.0 | 40.0 and 80.0 |" in text
    assert "| ours | 24 | 0 | 9.5 | 800.0 | 90.0 | 20.0 |" in text
    assert "| vllm | 24 | 2 | 9.5 | 800.0 | 90.0 | 20.0 |" in text
    assert "vLLM 0.32.0 for CPUs (compiled; threads on: all CPUs)" in text

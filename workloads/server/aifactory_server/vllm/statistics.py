"""What vLLM does, among Triton's metrics by the names that every engine has, without the agent's requests.

Triton's vLLM back end has names of its own (`vllm:`), which stay. It counts the agent's requests like all others, its
histograms end where long answers begin, and it tells nothing of requests that wait. So vLLM is given a second logger of
its statistics. By duck typing, because nothing of vLLM's is imported: the fields read here are those of 0.24 to 0.32.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from aifactory_server.counters import GATHER_SECONDS
from aifactory_server.metrics import GenerationMeter


class Statistics:
    """vLLM's `StatLogger`, and what makes it: there is one engine."""

    def __init__(self, pb: Any, args: Mapping[str, str]) -> None:
        self._meter = GenerationMeter(pb, args)
        self._lock = threading.Lock()
        self._probes = 0
        """Of the agent, under way."""
        self._load = (0, 0)
        self._ended = threading.Event()
        threading.Thread(target=self._tell, name="statistics", daemon=True).start()

    def probed(self, many: int) -> None:
        """So many requests of the agent are handed on, each for one token."""
        if many:
            with self._lock:
                # It asks one at a time: an earlier one that was given up is not waited for.
                self._probes = many
        for _ in range(many):
            self._meter.probed()

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> Statistics:
        """As vLLM makes its loggers."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Note what a step has done. In the thread that all answers go through, so that it must not take long."""
        if scheduler_stats is not None:
            self._load = (scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs)
            self._meter.cached(scheduler_stats.prefix_cache_stats.hits)
        if iteration_stats is None:
            return
        # A question of the agent is one token long, so it begins and ends in one step.
        asked = [one.num_prompt_tokens for one in iteration_stats.finished_requests if one.num_generation_tokens == 1]
        with self._lock:
            asked = asked[: self._probes]
            self._probes -= len(asked)
        self._meter.prompt(iteration_stats.num_prompt_tokens - sum(asked))
        self._meter.generated(iteration_stats.num_generation_tokens - len(asked))
        self._meter.took(
            iteration_stats.time_to_first_tokens_iter[len(asked) :], iteration_stats.inter_token_latencies_iter
        )

    def log_engine_initialized(self) -> None:
        """Nothing of interest."""

    log = log_engine_initialized

    def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
        """It is never put to sleep."""

    def finalize(self) -> None:
        """The version is being unloaded."""
        self._ended.set()

    def _tell(self) -> None:
        # Each number is a message to the server process.
        while not self._ended.wait(GATHER_SECONDS):
            self._meter.load(*self._load)

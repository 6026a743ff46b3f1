"""Counters of our back ends among Triton's own metrics, on its port 8002 beside `nv_inference_*`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aifactory_contract.names import FAILED_REQUESTS, GENERATED_TOKENS, PROBE_REQUESTS

PROMPT_TOKENS = "aifactory_prompt_tokens_total"
CACHED_TOKENS = "aifactory_cached_prompt_tokens_total"
GATHER_SECONDS = 0.25
_TEXTS = {
    CACHED_TOKENS: "Tokens of prompts that were in the cache and were not read again",
    PROMPT_TOKENS: "Tokens of prompts that were read",
    GENERATED_TOKENS: "Tokens that were generated",
    FAILED_REQUESTS: "Requests of clients that were answered by an error which is no fault of theirs",
    PROBE_REQUESTS: "Requests of the agent, by which it sees whether the version answers",
}
NAMES = tuple(_TEXTS)
RUNNING = "aifactory_requests_running"
WAITING = "aifactory_requests_waiting"
FIRST_TOKEN = "aifactory_time_to_first_token_seconds"
NEXT_TOKEN = "aifactory_inter_token_latency_seconds"
FIGURES = {
    RUNNING: ("gauge", "Requests that are computed"),
    WAITING: ("gauge", "Requests that wait for their turn"),
    FIRST_TOKEN: ("histogram", "From the request to its first token"),
    NEXT_TOKEN: ("histogram", "Between two tokens"),
}
"""What is measured beside what is counted: type and text."""
KINDS = {name: ("counter", text) for name, text in _TEXTS.items()} | FIGURES


class Counters:
    """Counters of one model version.

    Each increment is a message to the server process, so they are gathered for a moment. Used from one thread only.

    Args:
        pb: Triton's module triton_python_backend_utils.
        names: which of the known counters this back end has.
    """

    def __init__(self, pb: Any, args: Mapping[str, str], *names: str) -> None:
        labels = {"model": args["model_name"], "version": args["model_version"]}
        kind = pb.MetricFamily.COUNTER
        # A metric dies with its family object, so both are kept.
        self._families = {name: pb.MetricFamily(name=name, description=_TEXTS[name], kind=kind) for name in names}
        self._metrics = {name: family.Metric(labels=labels) for name, family in self._families.items()}
        self._gathered = dict.fromkeys(names, 0)
        self._flush_at = 0.0

    def add(self, name: str, amount: int = 1) -> None:
        """Count."""
        self._gathered[name] += amount
        if time.monotonic() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        self._flush_at = time.monotonic() + GATHER_SECONDS
        for name, amount in self._gathered.items():
            if amount:
                self._metrics[name].increment(amount)
                self._gathered[name] = 0

"""Token counters in Triton's own metrics, on its port 8002 beside `nv_inference_*`."""

from __future__ import annotations

import time
from typing import Any

_FLUSH_SECONDS = 0.25


class TokenMetrics:
    """Counts prompt and generated tokens of one version, probes left out.

    Each increment is a message to the server process, so they are gathered for a moment.
    """

    def __init__(self, pb: Any, model: str, version: str) -> None:
        labels = {"model": model, "version": version}

        def counter(name: str, text: str) -> Any:
            family = pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.COUNTER)
            # The metric dies with its family object, so both are kept.
            return family, family.Metric(labels=labels)

        self._prompt = counter("aifactory_prompt_tokens_total", "Tokens of prompts that were read")
        self._generated = counter("aifactory_generated_tokens_total", "Tokens that were generated")
        self._pending = [0, 0]
        self._flush_at = 0.0

    def count(self, prompt: int, generated: int) -> None:
        """Add tokens. Called from one thread only."""
        self._pending[0] += prompt
        self._pending[1] += generated
        if time.monotonic() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        self._flush_at = time.monotonic() + _FLUSH_SECONDS
        pending, self._pending = self._pending, [0, 0]
        for (_, metric), amount in zip((self._prompt, self._generated), pending, strict=True):
            if amount:
                metric.increment(amount)

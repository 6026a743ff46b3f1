"""What the engines count and measure, among Triton's own metrics."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from aifactory_contract.names import FAILED_REQUESTS, GENERATED_TOKENS, PROBE_REQUESTS
from aifactory_server.counters import (
    CACHED_TOKENS,
    FIGURES,
    FIRST_TOKEN,
    GATHER_SECONDS,
    NAMES,
    NEXT_TOKEN,
    PROMPT_TOKENS,
    RUNNING,
    WAITING,
    Counters,
)
from aifactory_server.engines.meter import Meter


class Gauges:
    """Requests that an engine has now: the operator scales pools by them."""

    def __init__(self, pb: Any, args: Mapping[str, str]) -> None:
        labels = {"model": args["model_name"], "version": args["model_version"]}
        texts = [(name, FIGURES[name][1]) for name in (RUNNING, WAITING)]
        # A metric dies with its family object, so both are kept.
        self._families = [
            pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.GAUGE) for name, text in texts
        ]
        self._running, self._waiting = (family.Metric(labels=labels) for family in self._families)

    def set(self, running: int, waiting: int) -> None:
        """Tell."""
        self._running.set(running)
        self._waiting.set(waiting)


class TokenMeter:
    """What the engine `bytes` counts."""

    def __init__(self, pb: Any, args: Mapping[str, str]) -> None:
        self._counters = Counters(pb, args, PROMPT_TOKENS, GENERATED_TOKENS, PROBE_REQUESTS, FAILED_REQUESTS)
        self._failed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._gauges = Gauges(pb, args)
        self._tell_at = 0.0

    def count(self, prompt: int, generated: int) -> None:
        """Tokens of a client's request."""
        self._take_failed()
        self._counters.add(PROMPT_TOKENS, prompt)
        self._counters.add(GENERATED_TOKENS, generated)

    def probed(self) -> None:
        """The agent's request was answered."""
        self._counters.add(PROBE_REQUESTS)

    def failed(self) -> None:
        """A client's request failed, and not by its own fault. From any thread."""
        self._failed.put(None)

    def load(self, running: int, waiting: int) -> None:
        """So many requests of clients there are; told a few times a second."""
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + GATHER_SECONDS
            self._gauges.set(running, waiting)

    def flush(self) -> None:
        """There is nothing to do for a while."""
        self._take_failed()
        self._counters.flush()
        self._gauges.set(0, 0)

    def _take_failed(self) -> None:
        while not self._failed.empty():
            self._failed.get()
            self._counters.add(FAILED_REQUESTS)


class GenerationMeter(Meter):
    """What the engines `transformers` and `vllm` count.

    It is told from several threads and only notes; Triton gets the numbers a few times a second, from the thread that
    calls `load`, because each number is a message to the server process.
    """

    def __init__(self, pb: Any, args: Mapping[str, str]) -> None:
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._counters = Counters(pb, args, *NAMES)
        # A metric dies with its family object, so both are kept.
        self._families: list[Any] = []

        def metric(name: str, **more: Any) -> Any:
            kind, text = FIGURES[name]
            triton_kind = getattr(pb.MetricFamily, kind.upper())
            self._families.append(pb.MetricFamily(name=name, description=text, kind=triton_kind))
            return self._families[-1].Metric(labels=labels, **more)

        self._gauges = Gauges(pb, args)
        self._first = metric(FIRST_TOKEN, buckets=_FIRST_TOKEN_SECONDS)
        self._next = metric(NEXT_TOKEN, buckets=_NEXT_TOKEN_SECONDS)
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._seconds: list[tuple[Any, float]] = []
        self._flush_at = 0.0

    def prompt(self, tokens: int) -> None:
        """A prompt was read."""
        self._count(PROMPT_TOKENS, tokens)

    def cached(self, tokens: int) -> None:
        """So much of a prompt did not have to be read."""
        self._count(CACHED_TOKENS, tokens)

    def first_token(self, seconds: float) -> None:
        """Since the request came."""
        self.generated(1)
        self.took([seconds], ())

    def next_token(self, seconds: float) -> None:
        """Since the one before."""
        self.generated(1)
        self.took((), [seconds])

    def generated(self, tokens: int) -> None:
        """So many tokens."""
        self._count(GENERATED_TOKENS, tokens)

    def took(self, first: Iterable[float], following: Iterable[float]) -> None:
        """How long first tokens took, and others since the one before."""
        with self._lock:
            self._seconds += [(self._first, seconds) for seconds in first]
            self._seconds += [(self._next, seconds) for seconds in following]

    def probed(self) -> None:
        """A request of the agent was answered."""
        self._count(PROBE_REQUESTS, 1)

    def failed(self) -> None:
        """A client's request failed, and not by its own fault."""
        self._count(FAILED_REQUESTS, 1)

    def load(self, running: int, waiting: int) -> None:
        """Hand over what was noted."""
        if time.monotonic() < self._flush_at:
            return
        self._flush_at = time.monotonic() + GATHER_SECONDS
        with self._lock:
            counts, self._counts = self._counts, {}
            seconds, self._seconds = self._seconds, []
        for name, amount in counts.items():
            self._counters.add(name, amount)
        self._counters.flush()
        for metric, value in seconds:
            metric.observe(value)
        # Last: whoever sees that nobody runs any more sees all that was counted of them.
        self._gauges.set(running, waiting)

    def _count(self, name: str, amount: int) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + amount


# The buckets that OpenTelemetry's semantic conventions for generative AI give, and longer ones for long prompts.
_FIRST_TOKEN_SECONDS = [
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0),
]
_NEXT_TOKEN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]

"""Whether a candidate does as well as the stable version, by what was counted of both in the same time.

Too little data decides nothing. A bound that is broken ends the window at once; more windows than `failureLimit` allows
that end so, and the candidate is taken back. What was compared with what is told in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from aifactory.api.inferencepool import Analysis, AnalysisMetric, AnalysisWindow, Finding, Measured

MIN_SAMPLES: Final = 200
PASSED: Final = "Passed"
FAILED: Final = "Failed"
INCONCLUSIVE: Final = "Inconclusive"


class Outcome(Enum):
    """What a look at a window comes to."""

    OPEN = "it is not over"
    PASSED = "every bound is kept"
    BROKEN = "a bound was broken, and another window may begin"
    FAILED = "a bound was broken once too often"
    INCONCLUSIVE = "it is over, and something can not be told yet"


@dataclass(frozen=True, slots=True)
class Look:
    """A window as it is judged now."""

    outcome: Outcome
    findings: tuple[Finding, ...]

    def words(self, outcome: str) -> str:
        """What was found, of the metrics with that outcome."""
        return "; ".join(found.message for found in self.findings if found.outcome == outcome)


@dataclass(frozen=True, slots=True)
class _Metric:
    """How a metric is computed."""

    samples: Callable[[Measured], int]
    value: Callable[[Measured], float]
    what: str
    """What is counted, in the plural."""
    unit: str = ""


_METRICS: Final = {
    "errorRate": _Metric(
        lambda m: m.requests + m.failures, lambda m: m.failures / (m.requests + m.failures), "requests"
    ),
    "latencyMean": _Metric(
        lambda m: m.requests if m.timed else 0, lambda m: m.milliseconds / m.timed / 1000, "requests with a time", " s"
    ),
    "ttftMean": _Metric(
        lambda m: m.first_tokens, lambda m: m.first_token_milliseconds / m.first_tokens / 1000, "first tokens", " s"
    ),
    "tokensPerSecond": _Metric(
        lambda m: m.next_tokens if m.next_token_milliseconds else 0,
        lambda m: 1000 * m.next_tokens / m.next_token_milliseconds,
        "tokens after a first one",
    ),
}


def look(analysis: Analysis, window: AnalysisWindow, seconds: int, now: datetime) -> Look:
    """Judge a window, with what was counted in it so far."""
    findings = tuple(_judge(analysis, metric, window) for metric in analysis.metrics)
    outcomes = {found.outcome for found in findings}
    if FAILED in outcomes:
        outcome = Outcome.FAILED if window.broken >= (analysis.failure_limit or 0) else Outcome.BROKEN
    elif now < window.since + timedelta(seconds=seconds):
        outcome = Outcome.OPEN
    else:
        outcome = Outcome.INCONCLUSIVE if INCONCLUSIVE in outcomes else Outcome.PASSED
    return Look(outcome, findings)


def _judge(analysis: Analysis, wanted: AnalysisMetric, window: AnalysisWindow) -> Finding:
    metric, least = _METRICS[wanted.name], analysis.min_samples or MIN_SAMPLES
    sides = (window.candidate, window.stable)
    samples, stable_samples = map(metric.samples, sides)
    candidate, stable = (metric.value(side) if metric.samples(side) else None for side in sides)
    ratio = wanted.max_ratio or wanted.min_ratio
    bounds = [float(bound) for bound in (wanted.max, wanted.min) if bound is not None]
    if ratio is not None and stable is not None and stable_samples >= least:
        # None in so many is at most one in so many: else a single failure were too much for ever.
        known = max(stable, 1 / stable_samples) if wanted.name == "errorRate" else stable
        bounds.append(float(ratio) * known)
    at_least = wanted.name == "tokensPerSecond"
    bound = (max if at_least else min)(bounds, default=None)

    def finding(outcome: str, message: str) -> Finding:
        return Finding(
            metric=wanted.name,
            outcome=outcome,
            candidate=_figure(candidate),
            stable=_figure(stable),
            bound=_figure(bound),
            samples=samples,
            stable_samples=stable_samples,
            message=f"{wanted.name}: {message}",
        )

    if candidate is None or samples < least:
        return finding(INCONCLUSIVE, f"the candidate has {samples} of {least} {metric.what} (minSamples)")
    compared = f"{_figure(candidate)}{metric.unit} in {samples} {metric.what}"
    compared += f", {_figure(stable)}{metric.unit} in {stable_samples} of the stable version" if stable_samples else ""
    if bound is not None and (candidate < bound if at_least else candidate > bound):
        kept = "least" if at_least else "most"
        return finding(FAILED, f"{compared}; at {kept} {_figure(bound)}{metric.unit} is allowed")
    if ratio is not None and stable_samples < least:
        return finding(INCONCLUSIVE, f"the stable version has {stable_samples} of {least} {metric.what} (minSamples)")
    return finding(PASSED, compared)


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{float(f'{value:.3g}'):g}"

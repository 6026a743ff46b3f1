"""What requests to a set of pods came to, between two moments: sums of counters that Triton and the engines keep.

Counters only grow, but for those of a Triton that was started again. So each pod's growth is added up from one answer
of its metrics page to the next; what happened before the first answer, and between the last one and a pod's end, is in
no sum. What answers is not trusted: a page is read without parsing all of it, and a value that is not finite is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Final

from aifactory.api.inferencepool import Measured

PoolKey = tuple[str, str]

REQUESTS: Final = b"nv_inference_request_success"
FAILURES: Final = b"nv_inference_request_failure"
MICROSECONDS: Final = b"nv_inference_request_duration_us"
PROBES: Final = b"aifactory_probe_requests_total"
"""The agent's own questions, by which it finds out that a model answers; they are not traffic."""
FAILED: Final = b"aifactory_failed_requests_total"
"""Of clients, answered by an error of the model's: Triton 2.51 counts these among the successes."""
CANCELED: Final = b'reason="CANCELED"'
"""The client went away: nobody's failure."""
_FIRST: Final = b"aifactory_time_to_first_token_seconds"
_NEXT: Final = b"aifactory_inter_token_latency_seconds"
IN_PIECES: Final = b"aifactory_generated_tokens_total"
"""Of what has it Triton times the call that takes a request, which is over before the answer is."""
UNDER_WAY = 2
"""Questions of the agent that a pod may be answering at a time: of the version that goes and of the one that comes."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Counters of one pod, or how far they have grown."""

    requests: float = 0.0
    """Of clients, answered well."""
    failures: float = 0.0
    timed: float = 0.0
    """Answered well, the agent's own among them."""
    seconds: float = 0.0
    """That these took together."""
    first_tokens: float = 0.0
    first_token_seconds: float = 0.0
    next_tokens: float = 0.0
    next_token_seconds: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was counted in a window of an analysis."""

    revision: str
    """The candidate's."""
    since: datetime
    """The window's begin."""
    candidate: Measured
    stable: Measured


@dataclass(frozen=True, slots=True)
class Analysed:
    """A pool under analysis as the probe needs it."""

    pool: PoolKey
    window: Measurement
    """As it stands in the status."""
    candidate: frozenset[str]
    """UIDs of its pods."""
    stable: frozenset[str]


@dataclass(slots=True)
class Tally:
    """The growing sums of one window."""

    pods: Analysed
    told: Measurement
    """What was made known last."""
    told_at: float
    candidate: Sums
    stable: Sums
    before: dict[str, Sums] = field(default_factory=dict)
    """Of each pod, its counters when they were counted last."""

    @classmethod
    def begin(cls, pods: Analysed, now: float) -> Tally:
        """Go on from what stands in the status."""
        window = pods.window
        return cls(pods, window, now, from_status(window.candidate), from_status(window.stable))

    def is_of(self, window: Measurement) -> bool:
        """Whether it is of that window, and nobody has counted further in the meantime."""
        same = (self.told.revision, self.told.since) == (window.revision, window.since)
        return same and window.candidate.requests <= self.told.candidate.requests

    def count(self, counters: Mapping[str, Sums]) -> None:
        """Add what its pods have done since they were looked at last."""
        self.candidate += self._growth(self.pods.candidate, counters)
        self.stable += self._growth(self.pods.stable, counters)
        both = self.pods.candidate | self.pods.stable
        self.before = {uid: sums for uid, sums in counters.items() if uid in both}

    def _growth(self, uids: frozenset[str], counters: Mapping[str, Sums]) -> Sums:
        known = uids & counters.keys() & self.before.keys()
        return sum((grown(self.before[uid], counters[uid]) for uid in known), Sums())

    def result(self) -> Measurement:
        """As it may stand in the status."""
        return Measurement(self.told.revision, self.told.since, for_status(self.candidate), for_status(self.stable))


def grown(first: Sums, last: Sums) -> Sums:
    """From one look to the next; a Triton that was started again counts from zero."""
    if any(before - now > UNDER_WAY for before, now in zip(astuple(first), astuple(last), strict=True)):
        return last
    # A question of the agent that is under way is subtracted already and not yet among those that were answered.
    return Sums(*(max(0.0, now - before) for before, now in zip(astuple(first), astuple(last), strict=True)))


def figure(value: float) -> str:
    """Two significant digits below ten, whole numbers above: status should not change for noise."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def for_status(sums: Sums) -> Measured:
    """In whole numbers, times in milliseconds."""
    return Measured(
        requests=round(sums.requests),
        failures=round(sums.failures),
        timed=round(sums.timed),
        milliseconds=round(1000 * sums.seconds),
        first_tokens=round(sums.first_tokens),
        first_token_milliseconds=round(1000 * sums.first_token_seconds),
        next_tokens=round(sums.next_tokens),
        next_token_milliseconds=round(1000 * sums.next_token_seconds),
    )


def from_status(measured: Measured) -> Sums:
    """The way back."""
    return Sums(
        measured.requests,
        measured.failures,
        measured.timed,
        measured.milliseconds / 1000,
        measured.first_tokens,
        measured.first_token_milliseconds / 1000,
        measured.next_tokens,
        measured.next_token_milliseconds / 1000,
    )


def read_sums(page: bytes) -> Sums:
    """A pod's counters from Triton's metrics page, summed over models. Raises ValueError: a value is not finite."""
    answered, probes, failed = (sum(values(page, name).values()) for name in (REQUESTS, PROBES, FAILED))
    refused = sum(value for labels, value in values(page, FAILURES).items() if CANCELED not in labels)
    timed, microseconds = (0.0, 0.0) if IN_PIECES in page else (answered, sum(values(page, MICROSECONDS).values()))
    first, next_ = _histogram(page, _FIRST), _histogram(page, _NEXT)
    return Sums(max(0.0, answered - probes - failed), failed + refused, timed, microseconds / 1e6, *first, *next_)


def _histogram(page: bytes, name: bytes) -> tuple[float, float]:
    """How many were observed, and their sum."""
    return sum(values(page, name + b"_count").values()), sum(values(page, name + b"_sum").values())


def values(page: bytes, name: bytes) -> dict[bytes, float]:
    """A metric's values by its labels. Lines: https://prometheus.io/docs/instrumenting/exposition_formats/"""
    found: dict[bytes, float] = {}
    at = 0
    while (at := page.find(name, at)) >= 0:
        end = page.find(b"\n", at)
        line = page[at + len(name) : end if end >= 0 else len(page)]
        if (at == 0 or page[at - 1 : at] == b"\n") and line[:1] in (b"{", b" "):
            labels, _, value_and_time = line.rpartition(b"}")
            value, *_ = value_and_time.split(None, 1) or (b"",)
            found[labels] = found.get(labels, 0.0) + float(value)
        at += len(name)
    if not math.isfinite(total := sum(found.values())):
        raise ValueError(f"{name.decode()} is {total}")
    return found

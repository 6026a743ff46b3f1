"""How much a pool has to do: requests that its pods work on or keep waiting, and tokens a second.

The engines of language models tell their requests themselves. Of other models Triton adds up how long requests took: by
what that sum grows in a second, so many there were at a time, those that waited among them (Little's law). A request is
in it when it has been answered, so that those that wait now are counted too, and the larger one is taken.

What one pod has not told is not known of the pool either: `Demand.complete`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from aifactory.serving.measure import IN_PIECES, MICROSECONDS, UNDER_WAY, values

BACK_SECONDS: Final = 15.0
"""What is taken for less has been less for so long: three looks."""
BUSY: Final = 0.5
"""Fewer requests at a time are none: the agent asks a question every few seconds."""
_PRESENT: Final = (b"aifactory_requests_running", b"aifactory_requests_waiting")
_PENDING: Final = b"nv_inference_pending_request_count"


@dataclass(frozen=True, slots=True)
class Look:
    """What a pod's metrics page said at a moment, in seconds of the monotonic clock."""

    at: float
    tokens: float
    """Generated so far."""
    present: float | None = None
    """Requests in the pod, as its engine tells; None where it does not."""
    waiting: float = 0.0
    """Requests that wait in Triton itself."""
    seconds: float | None = None
    """That all requests so far have taken, added up; None where that is not known."""
    requests: float = 0.0
    """Answered so far."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a pod does."""

    tokens: float
    """In a second."""
    in_flight: float | None
    """None where nothing of the pod's tells it."""
    asked: bool = False
    """Something of clients was answered meanwhile, or was and is under way, or the pod can not tell."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pool's pods do, all together, as far as they tell. In figures that do not change for noise."""

    in_flight: float | None
    """None where a pod's engine can not tell."""
    tokens: float
    most_in_flight: float | None
    """At any look of the last `BACK_SECONDS`; of engines that tell how many there are at a moment, on the average of
    these looks: no two pods are asked at once, so two clients that ask now this one, now that, are four at times."""
    most_tokens: float
    complete: bool
    """Every pod that answers requests has told what it does, for that long."""
    silent: int = 0
    """Ready pods that do not answer when they are asked."""
    idle: bool = False
    """Every pod that answers requests has told that nobody asked it, for that long."""
    by_pod: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Requests in each pod, by its UID."""


def read_look(page: bytes, requests: float, tokens: float, at: float) -> Look:
    """From Triton's metrics page. Raises ValueError: a value is not finite."""
    told = [found for name in _PRESENT if (found := values(page, name))]
    present = sum(sum(found.values()) for found in told) if told else None
    seconds = None
    if present is None and IN_PIECES not in page:
        seconds = sum(values(page, MICROSECONDS).values()) / 1e6
    return Look(at, tokens, present, sum(values(page, _PENDING).values()), seconds, requests)


def load(before: Look, now: Look) -> Load:
    """What a pod did between two looks; a Triton that was started again counts from zero."""
    passed = now.at - before.at
    tokens = _grown(before.tokens, now.tokens) / passed
    in_flight = now.present
    if in_flight is None and now.seconds is not None:
        in_flight = max(now.waiting, _grown(before.seconds or 0.0, now.seconds) / passed)
    # One that is there for a moment may be a question of the agent's; of those that were answered these are subtracted.
    stays = in_flight is None or min(in_flight, in_flight if before.present is None else before.present) >= BUSY
    return Load(tokens, in_flight, stays or tokens > 0 or _grown(before.requests, now.requests) > 0)


def _grown(before: float, now: float) -> float:
    return now if before - now > UNDER_WAY else max(0.0, now - before)


class Gauge:
    """What the pods of one pool have told, look by look."""

    def __init__(self) -> None:
        self._looks: dict[str, Look] = {}
        self._loads: dict[str, Load] = {}
        self._totals: deque[tuple[float, float | None, float, bool]] = deque()
        self._complete_since: float | None = None

    def see(self, uid: str, look: Look) -> None:
        """A pod's page was read."""
        before = self._looks.get(uid)
        if before is not None and look.at > before.at:
            self._loads[uid] = load(before, look)
        self._looks[uid] = look

    def demand(self, now: float, ready: Collection[str], silent: int, fresh_seconds: float) -> Demand:
        """What is known now.

        Args:
            now: in seconds of the monotonic clock.
            ready: UIDs of the pods that answer requests; others are forgotten.
            silent: how many of them do not answer when they are asked.
            fresh_seconds: what a pod has told counts for so long.
        """
        for known in (self._looks, self._loads):
            for uid in known.keys() - set(ready):
                del known[uid]
        fresh = {uid: told for uid, told in self._loads.items() if now - self._looks[uid].at <= fresh_seconds}
        counts = [told.in_flight for told in fresh.values()]
        in_flight = sum(each for each in counts if each is not None) if None not in counts else None
        tokens = sum(told.tokens for told in fresh.values())
        if len(fresh) < len(ready) or not ready:
            self._complete_since = None
        elif self._complete_since is None:
            self._complete_since = now
        self._totals.append((now, in_flight, tokens, any(told.asked for told in fresh.values())))
        while now - self._totals[0][0] > BACK_SECONDS:
            self._totals.popleft()
        known_counts = [count for _, count, _, _ in self._totals if count is not None]
        at_moments = any(look.present is not None for look in self._looks.values())
        most = fmean if at_moments else max
        complete = self._complete_since is not None and now - self._complete_since >= BACK_SECONDS - 1.0
        return Demand(
            in_flight=_figure(in_flight),
            tokens=_figure(tokens) or 0.0,
            most_in_flight=_figure(most(known_counts)) if in_flight is not None else None,
            most_tokens=_figure(max(tokens for _, _, tokens, _ in self._totals)) or 0.0,
            complete=complete,
            idle=complete and not any(asked for _, _, _, asked in self._totals),
            silent=silent,
            by_pod={uid: told.in_flight for uid, told in fresh.items() if told.in_flight is not None},
        )


def _figure(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")

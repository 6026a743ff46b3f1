"""What serving pods say about themselves: load errors from the agent, counters from Triton.

One loop asks serving pods: the agent of a pod that is not ready why it is not, every few seconds; Triton of a ready one
for its counters, less and less often the more of them there are, so that asking costs the same with a hundred pods as
with ten thousand. A pod that does not answer is asked less and less often too. With the operator away nothing here is
needed for serving.

For a pool that is scaled by what its pods have to do, what they tell of that is kept look by look (`demand`).

For a pool that compares two versions it adds up what the pods of both have counted (`measure`), and makes that known as
often as the figures.

A second loop asks the agents of pods that change over from one version to another what they serve, twice a second, and
asks nobody else.

A pool is woken when a load error comes or goes, and when its figures have changed by so much that it is worth a write:
at most a few pools a second, those first that have waited longest. So what all pools together write does not grow with
their number, and one alone is as fresh as its window.

What answers is not trusted: bodies are bounded and read without parsing all of them, redirects are not followed.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard

import aiohttp
import msgspec

from aifactory.api import names
from aifactory.api.inferencepool import MOST_MODELS, ModelThroughput, Throughput
from aifactory.engine.asking import ask_for_ever, base_url, fetch, reader
from aifactory.kube.backoff import PROBE
from aifactory.serving import measure
from aifactory.serving.demand import Demand, Gauge, read_look
from aifactory.serving.measure import (
    PROBES,
    REQUESTS,
    Analysed,
    Measurement,
    PoolKey,
    Sums,
    Tally,
    read_sums,
    values,
)
from aifactory.serving.state import Report

INTERVAL_SECONDS = 5.0
FOLLOW_SECONDS = 0.5
"""How often pods that change over from one version to another are asked how far they are."""
PER_SECOND = 200.0
"""Ready pods asked a second, at most: ten thousand are asked every 50 s each. Of those that are not ready as many."""
WINDOW_SECONDS = 15.0
"""Rates are measured over this long, or longer if the pods are asked less often."""
FIGURES_PER_SECOND = 4.0
"""Pools told a second that their figures have changed: each is a write of a status."""
WORTH_TELLING = 0.1
"""Share by which a figure must differ from the one that was told. From and to zero is always told."""
CONCURRENCY = 64
MAX_WORDS = 1024
"""Characters of a load error."""
MAX_NAME = 253
MAX_SECONDS = 1e6
SILENT_AFTER = 5
"""Questions in vain."""
SILENT_LOOKS = 3
"""In vain, at a ready pod: it is said that nobody knows what it has to do."""
_WARM: Final = "warm"

_MODEL: Final = re.compile(rb'[{,]model="([-a-z0-9.]{1,40})"')
TOKENS: Final = b"aifactory_generated_tokens_total"
"""Without those of the agent's questions."""
JOULES: Final = b"nv_energy_consumption"
"""A line for each GPU of the pod, where the driver meters it: Triton's metrics documentation."""


@dataclass(frozen=True, slots=True)
class ServingPod:
    """A serving pod as the probe needs it."""

    uid: str
    address: str
    pool: PoolKey
    ready: bool
    live: bool = True
    """Clients get its answers. What others do is compared, and is in no figure of the pool."""
    several: bool = False
    """It serves several models, and the figures of each are told."""
    on_demand: bool = False
    """It loads them when they are asked for, and which ones are is told."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Triton's counters at a moment, in seconds of the monotonic clock."""

    at: float
    requests: float
    tokens: float
    joules: float | None = None
    """Of the GPUs that the pod sees; None where Triton can not tell."""
    models: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Both, of each of several models."""


@dataclass(slots=True)
class _Silence:
    """A pod that does not answer."""

    failures: int = 0
    until: float = 0.0


@dataclass(slots=True)
class _PoolWindow:
    """Counters of a pool's pods at the start of the window."""

    since: float
    start: dict[str, Counters]


class ServingBook:
    """What is known about serving pods and pools beyond the API server."""

    def __init__(self) -> None:
        self._errors: dict[str, str] = {}
        self._reports: dict[str, Report] = {}
        self._unanswered: Counter[str] = Counter()
        self._throughput: dict[PoolKey, Throughput] = {}
        self._measured: dict[PoolKey, Measurement] = {}
        self._demand: dict[PoolKey, Demand] = {}
        self._in_flight: dict[str, float] = {}

    def load_error(self, pod_uid: str) -> str:
        """Why the model can not be loaded in this pod; empty when nothing is known to be wrong."""
        return self._errors.get(pod_uid, "")

    def report(self, pod_uid: str) -> Report | None:
        """What the pod's agent said last, if it was asked."""
        return self._reports.get(pod_uid)

    def set_report(self, pod_uid: str, report: Report) -> bool:
        """Remember what an agent says; returns whether that is news."""
        del self._unanswered[pod_uid]
        if self._reports.get(pod_uid) == report:
            return False
        self._reports[pod_uid] = report
        return True

    def set_unanswered(self, pod_uid: str) -> bool:
        """Remember that an agent was asked in vain; returns whether it counts as silent from now on."""
        self._unanswered[pod_uid] += 1
        return self._unanswered[pod_uid] == SILENT_AFTER

    def is_silent(self, pod_uid: str) -> bool:
        """The pod's agent was asked what it serves, again and again, and has never said."""
        return pod_uid not in self._reports and self._unanswered[pod_uid] >= SILENT_AFTER

    def throughput(self, pool: PoolKey) -> Throughput | None:
        """The pool's figures, once they have been measured."""
        return self._throughput.get(pool)

    def measured(self, pool: PoolKey) -> Measurement | None:
        """What was counted in the window of its analysis, as far as it was made known."""
        return self._measured.get(pool)

    def set_measured(self, pool: PoolKey, measurement: Measurement) -> None:
        """Make it known."""
        self._measured[pool] = measurement

    def demand(self, pool: PoolKey) -> Demand | None:
        """What the pool's pods have to do, if they are asked."""
        return self._demand.get(pool)

    def in_flight(self, pod_uid: str) -> float | None:
        """Requests in a pod, where that is asked."""
        return self._in_flight.get(pod_uid)

    def retain_demand(self, pools: Collection[PoolKey]) -> None:
        """Forget what pods of other pools have to do."""
        self._demand = {key: value for key, value in self._demand.items() if key in pools}

    def set_demand(self, pool: PoolKey, demand: Demand) -> bool:
        """Remember what a pool's pods have to do; returns whether that is news."""
        self._in_flight.update(demand.by_pod)
        before, self._demand[pool] = self._demand.get(pool), demand
        return before != demand

    def set_error(self, pod_uid: str, message: str) -> bool:
        """Remember a load error or its absence; returns whether that is news."""
        if self._errors.get(pod_uid, "") == message:
            return False
        if message:
            self._errors[pod_uid] = message
        else:
            self._errors.pop(pod_uid, None)
        return True

    def set_throughput(self, pool: PoolKey, throughput: Throughput) -> bool:
        """Remember a pool's figures; returns whether they are news."""
        if self._throughput.get(pool) == throughput:
            return False
        self._throughput[pool] = throughput
        return True

    def retain(self, pods: Iterable[str], pools: Iterable[PoolKey]) -> None:
        """Forget everything about others."""
        kept_pods, kept_pools = set(pods), set(pools)
        self._errors = {uid: message for uid, message in self._errors.items() if uid in kept_pods}
        self._reports = {uid: report for uid, report in self._reports.items() if uid in kept_pods}
        self._unanswered = Counter({uid: times for uid, times in self._unanswered.items() if uid in kept_pods})
        self._throughput = {key: value for key, value in self._throughput.items() if key in kept_pools}
        self._measured = {key: value for key, value in self._measured.items() if key in kept_pools}
        self._in_flight = {uid: value for uid, value in self._in_flight.items() if uid in kept_pods}


class ServingProbe:
    """Asks serving pods at an interval and wakes the pools for which something changed."""

    def __init__(
        self,
        *,
        book: ServingBook,
        pods: Callable[[], list[ServingPod]],
        wake: Callable[[PoolKey], None],
        monotonic: Callable[[], float],
        swapping: Callable[[], list[ServingPod]] = list,
        analysed: Callable[[], list[Analysed]] = list,
        scaled: Callable[[], set[PoolKey]] = set,
    ) -> None:
        self._book = book
        self._pods = pods
        self._swapping = swapping
        self._analysed = analysed
        self._scaled = scaled
        self._wake = wake
        self._monotonic = monotonic
        self._followed: dict[str, float] = {}
        """When each pod that changes over was asked last."""
        self._asked: dict[str, float] = {}
        """Begin of the round in which each pod was asked last."""
        self._silent: dict[str, _Silence] = {}
        self._windows: dict[PoolKey, _PoolWindow] = {}
        self._latest: dict[str, Counters] = {}
        self._sums: dict[str, Sums] = {}
        """Counters of pods whose versions are compared."""
        self._compared: frozenset[str] = frozenset()
        self._tallies: dict[PoolKey, Tally] = {}
        self._gauges: dict[PoolKey, Gauge] = {}
        self._news: dict[PoolKey, Throughput] = {}
        """Figures worth telling that wait for their turn."""
        self._stirred: set[PoolKey] = set()
        """Pools of which other models are loaded than was told; they wait for their turn too."""
        self._told: dict[PoolKey, float] = {}
        self._may_tell = 0.0
        """Pools that may be told now; it grows with time, up to what an interval allows."""
        self._told_at = float("-inf")

    async def run(self) -> None:
        """Ask for ever; ends when cancelled."""
        await ask_for_ever(
            "probing serving pods",
            self.round,
            seconds=INTERVAL_SECONDS,
            limit=CONCURRENCY,
            monotonic=self._monotonic,
        )

    async def follow(self) -> None:
        """Ask those that change over, for ever; ends when cancelled."""
        await ask_for_ever(
            "asking pods that change over to another version",
            self.follow_round,
            seconds=FOLLOW_SECONDS,
            limit=CONCURRENCY,
            monotonic=self._monotonic,
        )

    async def follow_round(self, session: aiohttp.ClientSession) -> None:
        """Ask every pod that changes over once, a bounded number of them: those first that others are not before."""
        pods = sorted(self._swapping(), key=lambda pod: self._followed.get(pod.uid, float("-inf")))
        remaining = iter(pods[: int(PER_SECOND)])
        self._followed = {pod.uid: self._followed.get(pod.uid, float("-inf")) for pod in pods}

        async def work() -> None:
            for pod in remaining:
                self._followed[pod.uid] = self._monotonic()
                try:
                    news = self._book.set_report(pod.uid, read_report(await fetch(session, _status_page(pod))))
                except (aiohttp.ClientError, TimeoutError, ValueError):
                    news = self._book.set_unanswered(pod.uid)
                if news:
                    self._wake(pod.pool)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(pods))):
                group.create_task(work())

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Ask every pod that is due once, then tell what has changed."""
        pods = self._pods()
        pools: dict[PoolKey, list[str]] = defaultdict(list)
        for pod in pods:
            pools[pod.pool] += [pod.uid] if pod.live else []
        self._compare(self._analysed())
        self._gauges = {pool: self._gauges.get(pool) or Gauge() for pool in self._scaled()}
        self._forget_others({pod.uid for pod in pods}, pools)
        interval = max(INTERVAL_SECONDS, sum(pod.ready for pod in pods) / PER_SECOND)
        await self._ask_all(session, self._due(pods, interval))
        window = max(WINDOW_SECONDS, interval + INTERVAL_SECONDS)
        for pool, uids in pools.items():
            self._measure(pool, uids, window)
        self._count()
        self._weigh(pods, pools, interval)
        self._tell()

    # --- Asking ---

    def _due(self, pods: Iterable[ServingPod], interval: float) -> list[ServingPod]:
        """Whose turn it is, those first that were asked longest ago; a bounded number."""
        now, most = self._monotonic(), int(PER_SECOND * INTERVAL_SECONDS)
        found: tuple[list[ServingPod], list[ServingPod]] = ([], [])
        for pod in pods:
            silence = self._silent.get(pod.uid)
            since = now - self._asked.get(pod.uid, float("-inf"))
            # A round takes place every five seconds or so: half of that decides to which one a pod belongs.
            if (silence is None or silence.until <= now) and (
                not pod.ready or since >= interval - INTERVAL_SECONDS / 2
            ):
                found[pod.ready].append(pod)
        for each in found:
            each.sort(key=lambda pod: self._asked.get(pod.uid, float("-inf")))
        return [*found[0][:most], *found[1][:most]]

    async def _ask_all(self, session: aiohttp.ClientSession, pods: list[ServingPod]) -> None:
        """Ask them one after the other, spread over the interval; who is not asked by its end is due next time."""
        started = self._monotonic()
        step = INTERVAL_SECONDS * 0.8 / max(len(pods), 1)
        remaining = iter(enumerate(pods))

        async def work() -> None:
            for number, pod in remaining:
                now = self._monotonic()
                if now > started + INTERVAL_SECONDS:
                    return
                await asyncio.sleep(max(0.0, started + number * step - now))
                self._asked[pod.uid] = started
                await self._ask(session, pod)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(pods))):
                group.create_task(work())

    async def _ask(self, session: aiohttp.ClientSession, pod: ServingPod) -> None:
        try:
            if pod.ready:
                page = await fetch(session, f"{base_url(pod.address, names.TRITON_METRICS_PORT)}/metrics")
                requests, tokens = read_counters(page)
                models = read_models(page) if pod.several else {}
                self._latest[pod.uid] = Counters(self._monotonic(), requests, tokens, read_joules(page), models)
                if pod.live and (gauge := self._gauges.get(pod.pool)) is not None:
                    gauge.see(pod.uid, read_look(page, requests, tokens, self._monotonic()))
                if pod.uid in self._compared:
                    self._sums[pod.uid] = read_sums(page)
                if pod.on_demand and self._book.set_report(
                    pod.uid, read_report(await fetch(session, _status_page(pod)))
                ):
                    self._stirred.add(pod.pool)
                message = ""
            else:
                message = read_load_error(await fetch(session, _status_page(pod)))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            silence = self._silent.setdefault(pod.uid, _Silence())
            silence.failures += 1
            wait = PROBE.delay(silence.failures)
            silence.until = self._monotonic() + wait
            return
        self._silent.pop(pod.uid, None)
        if self._book.set_error(pod.uid, message):
            self._wake(pod.pool)

    # --- Telling ---

    def _measure(self, pool: PoolKey, uids: list[str], seconds: float) -> None:
        """Close the pool's window if it is over, and note its figures if they are worth telling."""
        now = self._monotonic()
        window = self._windows.get(pool)
        if window is not None and now - window.since < seconds - INTERVAL_SECONDS / 2:
            return  # the round that is nearest to its end closes it
        latest = {uid: self._latest[uid] for uid in uids if uid in self._latest}
        self._windows[pool] = _PoolWindow(now, latest)
        throughput = None if window is None else rates(window.start, latest)
        if throughput is None:
            return
        if worth_telling(self._book.throughput(pool), throughput):
            self._news[pool] = throughput
        else:
            self._news.pop(pool, None)

    def _tell(self) -> None:
        """Tell as many pools as may be told, those first that have waited longest."""
        now = self._monotonic()
        most = FIGURES_PER_SECOND * INTERVAL_SECONDS
        self._may_tell = min(self._may_tell + FIGURES_PER_SECOND * (now - self._told_at), most)
        self._told_at = now
        for pool, tally in sorted(self._tallies.items(), key=lambda item: item[1].told_at):
            result = tally.result()
            late = now - tally.told_at >= WINDOW_SECONDS - INTERVAL_SECONDS / 2
            if self._may_tell >= 1 and late and result != tally.told:
                self._may_tell -= 1
                tally.told, tally.told_at = result, now
                self._book.set_measured(pool, result)
                self._wake(pool)
        waiting = sorted({*self._news, *self._stirred}, key=lambda pool: self._told.get(pool, float("-inf")))
        for pool in waiting[: int(self._may_tell)]:
            self._may_tell -= 1
            self._told[pool] = now
            stirred, figures = pool in self._stirred, self._news.pop(pool, None)
            self._stirred.discard(pool)
            if (figures is not None and self._book.set_throughput(pool, figures)) or stirred:
                self._wake(pool)

    # --- Comparing ---

    def _compare(self, analysed: list[Analysed]) -> None:
        """Which pools' versions are compared from now on; a window goes on from what stands in the status."""
        now, before = self._monotonic(), self._tallies
        self._tallies = {}
        for each in analysed:
            tally = before.get(each.pool)
            known = tally is not None and tally.is_of(each.window)
            self._tallies[each.pool] = tally if tally is not None and known else Tally.begin(each, now)
            self._tallies[each.pool].pods = each
        self._compared = frozenset(uid for each in analysed for uid in each.candidate | each.stable)

    def _count(self) -> None:
        for tally in self._tallies.values():
            tally.count(self._sums)

    # --- What there is to do ---

    def _weigh(self, pods: Iterable[ServingPod], pools: Iterable[PoolKey], interval: float) -> None:
        """Make known what the pods of scaled pools have to do, where that is news."""
        ready: dict[PoolKey, list[str]] = {pool: [] for pool in pools if pool in self._gauges}
        for pod in pods:
            if pod.ready and pod.live and pod.pool in ready:
                ready[pod.pool].append(pod.uid)
        self._book.retain_demand(ready)
        for pool, uids in ready.items():
            silent = sum(uid in self._silent and self._silent[uid].failures >= SILENT_LOOKS for uid in uids)
            demand = self._gauges[pool].demand(self._monotonic(), uids, silent, interval + INTERVAL_SECONDS)
            if self._book.set_demand(pool, demand):
                self._wake(pool)

    def _forget_others(self, uids: set[str], pools: Mapping[PoolKey, list[str]]) -> None:
        self._book.retain(uids, pools)
        for by_uid in (self._asked, self._silent, self._latest):
            for uid in by_uid.keys() - uids:
                del by_uid[uid]
        for uid in self._sums.keys() - (self._compared & uids):
            del self._sums[uid]
        self._stirred &= pools.keys()
        for by_pool in (self._windows, self._news, self._told):
            for pool in by_pool.keys() - pools.keys():
                del by_pool[pool]


def rates(start: Mapping[str, Counters], end: Mapping[str, Counters]) -> Throughput | None:
    """Requests and tokens per second summed over the pods, and joules for a token; None with nothing to compare.

    A counter that went back belongs to a Triton that was restarted: it is counted from zero.
    """
    requests = tokens = joules = seen_tokens = 0.0
    models: dict[str, tuple[float, float]] = {}
    seen, metered = False, True
    for uid, last in end.items():
        first = start.get(uid)
        if first is None or last.at <= first.at:
            continue
        seen = True
        seconds = last.at - first.at
        requests += _grown(first.requests, last.requests) / seconds
        tokens += (more := _grown(first.tokens, last.tokens)) / seconds
        seen_tokens += more
        if first.joules is None or last.joules is None:
            metered = False
        else:
            joules += _grown(first.joules, last.joules)
        for name, counted in last.models.items():
            before, sums = first.models.get(name, (0.0, 0.0)), models.get(name, (0.0, 0.0))
            grown = (_grown(old, new) / seconds for old, new in zip(before, counted, strict=True))
            models[name] = tuple(total + rate for total, rate in zip(sums, grown, strict=True))  # type: ignore[assignment]
    if not seen:
        return None
    each = tuple(
        ModelThroughput(name=name, requests_per_second=measure.figure(asked), tokens_per_second=measure.figure(made))
        for name, (asked, made) in sorted(models.items())
    )
    return Throughput(
        requests_per_second=measure.figure(requests),
        tokens_per_second=measure.figure(tokens),
        joules_per_token=measure.figure(joules / seen_tokens) if metered and joules and seen_tokens else None,
        models=each or None,
    )


def _grown(first: float, last: float) -> float:
    if first - last > measure.UNDER_WAY:
        return last
    # A question of the agent that is under way is subtracted already and not yet among those that were answered.
    return max(0.0, last - first)


def worth_telling(told: Throughput | None, new: Throughput) -> bool:
    """Whether figures differ from those that were told by so much that a status should be written."""
    if told is None:
        return True
    before, now = ({each.name: each for each in found.models or ()} for found in (told, new))
    if before.keys() != now.keys():
        return True
    pairs: list[tuple[_Figures, _Figures]] = [(told, new), *((before[name], now[name]) for name in now)]
    return any(
        _differs(old.requests_per_second, one.requests_per_second)
        or _differs(old.tokens_per_second, one.tokens_per_second)
        for old, one in pairs
    )


_Figures = Throughput | ModelThroughput


def _differs(told: str, new: str) -> bool:
    old, now = float(told), float(new)
    return abs(now - old) > WORTH_TELLING * max(old, now)


def read_counters(page: bytes) -> tuple[float, float]:
    """Successful requests of clients and generated tokens, summed over models, from Triton's metrics page.

    Raises:
        ValueError: a value is not a finite number.
    """
    requests, probes, tokens = (sum(values(page, name).values()) for name in (REQUESTS, PROBES, TOKENS))
    return max(0.0, requests - probes), tokens


def read_joules(page: bytes) -> float | None:
    """What the GPUs have used, from Triton's metrics page; None where it does not read that. Raises ValueError."""
    found = values(page, JOULES)
    return sum(found.values()) if found else None


def read_models(page: bytes) -> dict[str, tuple[float, float]]:
    """The same of each model by itself, the most of them that a pool can have. Raises ValueError."""
    requests, probes, tokens = (_by_model(page, name) for name in (REQUESTS, PROBES, TOKENS))
    return {
        name: (max(0.0, requests[name] - probes.get(name, 0.0)), tokens.get(name, 0.0))
        for name in sorted(requests)[:MOST_MODELS]
    }


def _by_model(page: bytes, name: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in values(page, name).items():
        if (match := _MODEL.search(labels)) is not None:
            model = match.group(1).decode()
            found[model] = found.get(model, 0.0) + value
    return found


def _status_page(pod: ServingPod) -> str:
    return f"{base_url(pod.address, names.AGENT_PORT)}/v1/status"


class _Model(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    state: str = ""
    reason: str = ""
    message: str = ""
    traffic: str = ""
    load_seconds: float | None = None
    loaded_at: int = 0


class _Status(msgspec.Struct, frozen=True, gc=False):
    revision: str = ""
    ready: bool = False
    models: tuple[_Model, ...] = ()
    answers: dict[str, int] = {}


_decode_status: Final = reader(_Status)


def read_load_error(body: bytes) -> str:
    """Why models can not be loaded, from the agent's status; empty when they can. Raises ValueError."""
    return _failures(_decode_status(body))


def read_report(body: bytes) -> Report:
    """What the agent says about what it was told to serve. Raises ValueError."""
    status = _decode_status(body)
    live = [model for model in status.models if model.traffic != _WARM][:MOST_MODELS]
    version = status.answers.get(live[0].name) if live else None
    seconds = max((model.load_seconds for model in live if model.load_seconds is not None), default=None)
    several = live if len({model.name for model in live}) > 1 else []
    answers = {model.name[:MAX_NAME]: status.answers.get(model.name) for model in several}
    return Report(
        revision=status.revision[:MAX_NAME],
        ready=status.ready,
        version=version if _is_number(version) else None,
        load_seconds=seconds if seconds is not None and 0 <= seconds < MAX_SECONDS else None,
        error=_failures(status),
        answers=tuple((name, number) for name, number in sorted(answers.items()) if _is_number(number)),
        resident=tuple(model.name[:MAX_NAME] for model in several if model.state == "Ready"),
        loaded=tuple((model.name[:MAX_NAME], model.loaded_at) for model in several if 0 < model.loaded_at < 2**32),
        failed=tuple((model.name[:MAX_NAME], _words(model)[:MAX_WORDS]) for model in several if _has_failed(model)),
    )


def _is_number(version: int | None) -> TypeGuard[int]:
    return version is not None and 0 < version < 2**31


def _has_failed(model: _Model) -> bool:
    return model.state == "Failed" and model.traffic != _WARM


def _words(model: _Model) -> str:
    return f"{model.reason or 'Failed'}: {model.message}"


def _failures(status: _Status) -> str:
    return "; ".join(_words(model) for model in status.models if _has_failed(model))[:MAX_WORDS]

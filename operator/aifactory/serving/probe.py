"""What serving pods say about themselves: load errors from the agent, counters from Triton.

One loop asks every serving pod at an interval: the agent of a pod that is not ready why it is not, Triton of a ready
one for its counters. Only changes wake a pool's reconcile. A pod that does not answer is asked less and less often, so
an unreachable network costs next to nothing. With the operator away nothing here is needed for serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from aifactory.api import names
from aifactory.api.inferencepool import Throughput

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
WINDOW_SECONDS = 15.0
"""Rates are measured over this long, and a pool's figures change at most this often."""
TIMEOUT_SECONDS = 3.0
CONCURRENCY = 32
MAX_SILENCE_SECONDS = 120.0

REQUESTS = "nv_inference_request_success"
PROBES = "aifactory_probe_requests"
"""The agent's own questions, by which it finds out that a model answers; they are not traffic."""
TOKENS = "aifactory_generated_tokens"

PoolKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ServingPod:
    """A serving pod as the probe needs it."""

    uid: str
    address: str
    pool: PoolKey
    ready: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """Triton's counters at a moment, in seconds of the monotonic clock."""

    at: float
    requests: float
    tokens: float


@dataclass(slots=True)
class _Silence:
    """A pod that does not answer."""

    failures: int = 0
    until: float = 0.0


@dataclass(slots=True)
class _PoolWindow:
    """Counters of a pool's pods at the start of the window."""

    since: float
    start: dict[str, Counters] = field(default_factory=dict)


class ServingBook:
    """What is known about serving pods and pools beyond the API server."""

    def __init__(self) -> None:
        self._errors: dict[str, str] = {}
        self._throughput: dict[PoolKey, Throughput] = {}

    def load_error(self, pod_uid: str) -> str:
        """Why the model can not be loaded in this pod; empty when nothing is known to be wrong."""
        return self._errors.get(pod_uid, "")

    def throughput(self, pool: PoolKey) -> Throughput | None:
        """The pool's figures, once they have been measured."""
        return self._throughput.get(pool)

    def set_error(self, pod_uid: str, words: str) -> bool:
        """Remember a load error or its absence; returns whether that is news."""
        if self._errors.get(pod_uid, "") == words:
            return False
        if words:
            self._errors[pod_uid] = words
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
        self._errors = {uid: words for uid, words in self._errors.items() if uid in kept_pods}
        self._throughput = {key: value for key, value in self._throughput.items() if key in kept_pools}


class ServingProbe:
    """Asks serving pods at an interval and wakes the pools for which something changed."""

    def __init__(
        self,
        *,
        book: ServingBook,
        pods: Callable[[], list[ServingPod]],
        wake: Callable[[PoolKey], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._book = book
        self._pods = pods
        self._wake = wake
        self._monotonic = monotonic
        self._silent: dict[str, _Silence] = {}
        self._windows: dict[PoolKey, _PoolWindow] = {}
        self._latest: dict[str, Counters] = {}

    async def run(self) -> None:
        """Ask for ever; ends when cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    await self.round(session)
                except Exception:
                    logger.exception("probing serving pods failed; it is tried again in %.0f s", INTERVAL_SECONDS)
                await asyncio.sleep(INTERVAL_SECONDS)

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Ask every pod that is due once."""
        pods = self._pods()
        self._forget_others(pods)
        gate = asyncio.Semaphore(CONCURRENCY)

        async def ask(pod: ServingPod) -> None:
            async with gate:
                await self._ask(session, pod)

        now = self._monotonic()
        await asyncio.gather(*(ask(pod) for pod in pods if self._due(pod.uid, now)))
        for pool in {pod.pool for pod in pods}:
            self._measure(pool, [pod.uid for pod in pods if pod.pool == pool])

    async def _ask(self, session: aiohttp.ClientSession, pod: ServingPod) -> None:
        try:
            if pod.ready:
                text = await _text(session, f"http://{pod.address}:{names.TRITON_METRICS_PORT}/metrics")
                requests, tokens = read_counters(text)
                self._latest[pod.uid] = Counters(self._monotonic(), requests, tokens)
                words = ""
            else:
                words = await _load_error(session, f"http://{pod.address}:{names.AGENT_PORT}/v1/status")
        except (aiohttp.ClientError, TimeoutError, ValueError):
            silence = self._silent.setdefault(pod.uid, _Silence())
            silence.failures += 1
            wait = min(INTERVAL_SECONDS * 2 ** min(silence.failures - 1, 8), MAX_SILENCE_SECONDS)
            silence.until = self._monotonic() + wait
            return
        self._silent.pop(pod.uid, None)
        if self._book.set_error(pod.uid, words):
            self._wake(pod.pool)

    def _due(self, uid: str, now: float) -> bool:
        silence = self._silent.get(uid)
        return silence is None or silence.until <= now

    def _measure(self, pool: PoolKey, uids: list[str]) -> None:
        now = self._monotonic()
        latest = {uid: self._latest[uid] for uid in uids if uid in self._latest}
        window = self._windows.get(pool)
        if window is None:
            self._windows[pool] = _PoolWindow(now, latest)
            return
        if now - window.since < WINDOW_SECONDS:
            return
        throughput = rates(window.start, latest)
        self._windows[pool] = _PoolWindow(now, latest)
        if throughput is not None and self._book.set_throughput(pool, throughput):
            self._wake(pool)

    def _forget_others(self, pods: list[ServingPod]) -> None:
        uids = {pod.uid for pod in pods}
        pools = {pod.pool for pod in pods}
        self._book.retain(uids, pools)
        self._silent = {uid: silence for uid, silence in self._silent.items() if uid in uids}
        self._latest = {uid: counters for uid, counters in self._latest.items() if uid in uids}
        self._windows = {pool: window for pool, window in self._windows.items() if pool in pools}


def rates(start: Mapping[str, Counters], end: Mapping[str, Counters]) -> Throughput | None:
    """Requests and tokens per second summed over the pods; None while there is nothing to compare.

    A counter that went back belongs to a Triton that was restarted: it is counted from zero.
    """
    requests = tokens = 0.0
    seen = False
    for uid, last in end.items():
        first = start.get(uid)
        if first is None or last.at <= first.at:
            continue
        seen = True
        seconds = last.at - first.at
        requests += (last.requests - first.requests if last.requests >= first.requests else last.requests) / seconds
        tokens += (last.tokens - first.tokens if last.tokens >= first.tokens else last.tokens) / seconds
    if not seen:
        return None
    return Throughput(requests_per_second=_figure(requests), tokens_per_second=_figure(tokens))


def _figure(value: float) -> str:
    """Two significant digits below ten, whole numbers above: status should not change for noise."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def read_counters(text: str) -> tuple[float, float]:
    """Successful requests of clients and generated tokens, summed over models, from Triton's metrics page."""
    requests = tokens = 0.0
    for family in text_string_to_metric_families(text):
        if family.name == REQUESTS:
            requests += sum(sample.value for sample in family.samples)
        elif family.name == PROBES:
            requests -= sum(sample.value for sample in family.samples if not sample.name.endswith("_created"))
        elif family.name == TOKENS:
            tokens += sum(sample.value for sample in family.samples if not sample.name.endswith("_created"))
    return max(0.0, requests), tokens


async def _text(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as response:
        response.raise_for_status()
        return await response.text()


async def _load_error(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as response:
        response.raise_for_status()
        status = await response.json()
    failed = [model for model in status.get("models", ()) if model.get("state") == "Failed"]
    return "; ".join(f"{model.get('reason', 'Failed')}: {model.get('message', '')}" for model in failed)

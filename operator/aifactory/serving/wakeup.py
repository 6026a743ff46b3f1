"""Whether requests wait for a pod of a pool that has none: asked of its proxies, for these hold no token to tell it.

Each proxy of each pool at zero is asked twice a second, or less often where there are many: `PER_SECOND` at most are
asked a second, whatever their number. Nobody else is asked, and a pool is woken when what it is told changes. All of it
can be lost without harm: requests that wait go on waiting, and the next look finds them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

import aiohttp

from aifactory.api import names
from aifactory.engine.asking import ask_for_ever, base_url, fetch
from aifactory.serving import holding
from aifactory.serving.holding import Held
from aifactory.serving.measure import PoolKey

INTERVAL_SECONDS = 0.5
PER_SECOND = 200.0
CONCURRENCY = 32
SILENT_LOOKS = 5
"""In vain: it is said that a proxy does not answer."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of a pool at zero."""

    uid: str
    address: str
    pool: PoolKey


class Wakeups:
    """Asks, and remembers what was told last."""

    def __init__(self) -> None:
        self._held: dict[PoolKey, Held] = {}
        self._told: dict[str, int] = {}
        self._failures: Counter[str] = Counter()
        self._asked: dict[str, float] = {}

    def held(self, pool: PoolKey) -> Held | None:
        """What its proxies have told; None where nobody was asked."""
        return self._held.get(pool)

    def set_held(self, pool: PoolKey, held: Held) -> bool:
        """Remember what a pool's proxies have told; returns whether that is news."""
        before, self._held[pool] = self._held.get(pool), held
        return before != held

    def retain(self, pools: Collection[PoolKey]) -> None:
        """Forget what proxies of other pools have told."""
        self._held = {pool: held for pool, held in self._held.items() if pool in pools}

    async def run(
        self, proxies: Callable[[], list[Proxy]], wake: Callable[[PoolKey], None], monotonic: Callable[[], float]
    ) -> None:
        """Ask for ever; ends when cancelled."""

        async def ask(session: aiohttp.ClientSession) -> None:
            await self.round(session, proxies(), wake, monotonic())

        await ask_for_ever(
            "asking gateways whether a request waits",
            ask,
            seconds=INTERVAL_SECONDS,
            limit=CONCURRENCY,
            monotonic=monotonic,
        )

    async def round(
        self, session: aiohttp.ClientSession, proxies: list[Proxy], wake: Callable[[PoolKey], None], now: float
    ) -> None:
        """Ask those once that were asked longest ago, a bounded number of them, and wake pools that have news."""
        for kept in (self._told, self._failures, self._asked):
            for uid in kept.keys() - {proxy.uid for proxy in proxies}:
                del kept[uid]
        due = sorted(proxies, key=lambda proxy: self._asked.get(proxy.uid, float("-inf")))
        remaining = iter(due[: int(PER_SECOND * INTERVAL_SECONDS)])

        async def work() -> None:
            for proxy in remaining:
                self._asked[proxy.uid] = now
                await self._ask(session, proxy)
                self._tell(proxy.pool, proxies, wake)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(due))):
                group.create_task(work())
        self.retain({proxy.pool for proxy in proxies})

    async def _ask(self, session: aiohttp.ClientSession, proxy: Proxy) -> None:
        url = f"{base_url(proxy.address, names.GATEWAY_STATUS_PORT)}{holding.PAGE}"
        try:
            self._told[proxy.uid] = holding.read(await fetch(session, url))
            del self._failures[proxy.uid]
        except (aiohttp.ClientError, TimeoutError, ValueError):
            self._told.pop(proxy.uid, None)
            self._failures[proxy.uid] += 1

    def _tell(self, pool: PoolKey, proxies: list[Proxy], wake: Callable[[PoolKey], None]) -> None:
        mine = [proxy.uid for proxy in proxies if proxy.pool == pool]
        requests = sum(self._told.get(uid, 0) for uid in mine)
        if self.set_held(pool, Held(requests, sum(self._failures[uid] >= SILENT_LOOKS for uid in mine))):
            wake(pool)
